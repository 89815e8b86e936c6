//! Do users reach the leader's UI? It is tried as a user would, and only what was seen is said.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use cmonhachk::client::http::{self, Silence};
use cmonhachk::client::state::State;

use crate::haproxy::{self, View};
use crate::network::{self, Holder};
use crate::options::Way;
use crate::site::Site;

/// HAProxy holds a user for 2 s, and a UI may be slow.
const PATIENCE: Duration = Duration::from_secs(5);

/// A UI accepts a connection within this time.
const ACCEPT: Duration = Duration::from_secs(1);

/// The shortest greeting of TLS 1.2: a server that speaks only TLS answers it, if only with an alert (RFC 5246, 7.4.1.2).
const HELLO: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    cmonhachk-front asks for the UI.\x00\x00\x02\x00\x2f\x01\x00";

/// Where a user was seen to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// A UI answers, and it is on these nodes: one, unless other users came at the same time.
    Nodes(Vec<IpAddr>),
    /// A UI answers. On which node, this host cannot see.
    Somewhere,
    /// No UI answers.
    Nowhere,
}

/// Goes where users go.
pub fn go(site: &Site) -> Reached {
    let door = SocketAddr::new(site.users_address(), site.users_port());
    match site.way {
        Way::Keepalived => match answers(door) {
            true => holder_of_vip(site),
            false => Reached::Nowhere,
        },
        Way::Haproxy | Way::HaproxyOnly => {
            let before = users_of_each(site);
            match answers(door) {
                true => more(site, &before, &users_of_each(site)),
                false => Reached::Nowhere,
            }
        }
    }
}

fn holder_of_vip(site: &Site) -> Reached {
    match (network::holder(site.users_address(), &site.nodes), site.own) {
        (Holder::ThisHost, Some(own)) => Reached::Nodes(vec![own]),
        (Holder::Node(node), _) => Reached::Nodes(vec![node]),
        _ => Reached::Somewhere,
    }
}

/// How many users our HAProxys have sent to each node, those of all nodes together: any of them may have the address.
fn users_of_each(site: &Site) -> Vec<u64> {
    let hosts = match site.way {
        Way::HaproxyOnly => vec![site.users_address()],
        Way::Haproxy | Way::Keepalived => site.nodes.clone(),
    };
    let views: Vec<Vec<View>> = thread::scope(|scope| {
        let questions: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(move || haproxy::views_of(*host, site)))
            .collect();
        questions
            .into_iter()
            .filter_map(|question| question.join().ok()?)
            .collect()
    });
    let users = |place: usize| views.iter().map(|views| views[place].users).sum();
    (0..site.nodes.len()).map(users).collect()
}

fn more(site: &Site, before: &[u64], after: &[u64]) -> Reached {
    let counts = before.iter().zip(after);
    let nodes = site
        .nodes
        .iter()
        .zip(counts)
        .filter(|(_, (before, after))| after > before);
    let nodes: Vec<IpAddr> = nodes.map(|(node, _)| *node).collect();
    if nodes.is_empty() {
        Reached::Somewhere
    } else {
        Reached::Nodes(nodes)
    }
}

/// Whether a UI answers, by HTTP or by TLS.
fn answers(door: SocketAddr) -> bool {
    match http::says_anything(door, PATIENCE) {
        Ok(()) => true,
        // It may speak only TLS, and end a connection that does not.
        Err(Silence::Closed) => answers_tls(door),
        Err(_) => false,
    }
}

fn answers_tls(door: SocketAddr) -> bool {
    let Ok(mut stream) = http::connect(door, PATIENCE) else {
        return false;
    };
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(HELLO));
    asked.and_then(|()| stream.read(&mut [0])).is_ok_and(|count| count > 0)
}

/// The nodes that say that they lead.
pub fn leaders(site: &Site, states: &[State]) -> Vec<IpAddr> {
    let pairs = site.nodes.iter().zip(states);
    pairs
        .filter(|(_, state)| **state == State::Leader)
        .map(|(node, _)| *node)
        .collect()
}

/// Why users do not get to the leader; None if they were seen to.
pub fn complaint(site: &Site, leaders: &[IpAddr]) -> Option<String> {
    let door = site.door();
    if let Some(closed) = closed_ui(site, leaders) {
        return Some(closed);
    }
    match go(site) {
        // Another user may have come, too.
        Reached::Nodes(nodes) if nodes.iter().any(|node| leaders.contains(node)) => None,
        Reached::Nodes(nodes) => {
            let nodes: Vec<String> = nodes.iter().map(IpAddr::to_string).collect();
            let nodes = nodes.join(" and ");
            let advice = match site.way {
                Way::Keepalived if !leaders.is_empty() => ": run it on the other nodes, too",
                _ => "",
            };
            Some(format!("users at {door} get to {nodes}, which does not lead{advice}"))
        }
        Reached::Somewhere => Some(format!(
            "users at {door} get an answer, but from which node cannot be seen from here: no HAProxy tells it at port {}",
            site.stats_port
        )),
        Reached::Nowhere => Some(nowhere(site, leaders)),
    }
}

/// With HAProxy, its statistics tell this.
fn closed_ui(site: &Site, leaders: &[IpAddr]) -> Option<String> {
    if site.has_haproxy() {
        return None;
    }
    let is_closed = |leader: &&IpAddr| http::connect(SocketAddr::new(**leader, site.ui_port), ACCEPT).is_err();
    let leader = leaders.iter().find(is_closed)?;
    Some(format!(
        "{leader} leads, and its UI at port {} accepts no connection from this host",
        site.ui_port
    ))
}

fn nowhere(site: &Site, leaders: &[IpAddr]) -> String {
    let door = site.door();
    let Some(vip) = site.vip else {
        return format!("users get no answer at {door}");
    };
    match network::holder(vip, &site.nodes) {
        Holder::Nobody => {
            format!("no node has {vip}: see journalctl --unit keepalived on each, or run it on the other nodes, too")
        }
        Holder::ThisHost => format!("users get no answer at {door}, and this host has {vip}"),
        holder => {
            let advice = if leaders.is_empty() {
                ""
            } else {
                ": run it on the other nodes, too"
            };
            format!(
                "users get no answer at {door}, and {} has {vip}{advice}",
                holder.words(site.own)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_has_the_lengths_that_it_says() {
        let length = |at: usize| usize::from(HELLO[at]) << 8 | usize::from(HELLO[at + 1]);
        assert_eq!(HELLO.len(), 5 + length(3));
        assert_eq!(HELLO.len(), 9 + length(7));
    }
}
