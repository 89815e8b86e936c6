//! Shows each node, who has the address, and where users get to.
//!
//! It says only what it has seen from this host, and ends well only if all of it is well.

use std::net::IpAddr;

use cmonhachk::client::state::{NoAnswer, State};

use crate::failure::Outcome;
use crate::haproxy::{self, View};
use crate::host::{self, Run};
use crate::keepalived;
use crate::network::{self, Holder, NotAsked};
use crate::nodes;
use crate::options::Way;
use crate::site::Site;
use crate::users;

/// Whether a node's front runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    Runs,
    Missing,
    /// It can be seen only on the node itself.
    Unseen,
}

/// Shows it.
pub fn status(site: &Site, run: &mut Run) -> Outcome<()> {
    let states = nodes::ask(&site.nodes);
    run.complaints = nodes::complaints(&site.nodes, &states, site.own);
    look_at_this_host(site, run);
    if site.is_unknown() {
        run.complain(
            "cmonhachk-front has not run here: to look at others than this host's check, name a VIP and the NODEs",
        );
        summarize(site, &[], run);
        show(site, &states, &[], &[Front::Unseen]);
        return Ok(());
    }
    let views = match site.has_haproxy() {
        true => views(site, run),
        false => Vec::new(),
    };
    let fronts: Vec<Front> = site.nodes.iter().map(|node| front(site, *node)).collect();
    compare(site, &states, &views, &fronts, run);

    let leaders = users::leaders(site, &states);
    if leaders.len() != 1 {
        let list: Vec<String> = leaders.iter().map(|leader| format!(" {leader}")).collect();
        let list = if list.is_empty() {
            " none".to_string()
        } else {
            list.concat()
        };
        run.complain(format!("one node should lead, and these say that they do:{list}"));
    }
    let holder = site.vip.map(|vip| network::holder(vip, &site.nodes));
    let not_asked = holder
        .as_ref()
        .and_then(|holder| judge_holders(site, holder, run).err());
    let complaint = users::complaint(site, &leaders);
    let is_reached = complaint.is_none();
    run.complaints.extend(complaint);

    summarize(site, &leaders, run);
    show(site, &states, &views, &fronts);
    if let (Some(vip), Some(holder)) = (site.vip, holder) {
        println!("{vip} is on {}.", holder.words(site.own));
        if let Some(why) = not_asked {
            println!("Whether a second host has {vip} was not looked at: {why}.");
        }
    }
    if is_reached {
        let leaders: Vec<String> = leaders.iter().map(IpAddr::to_string).collect();
        println!("Users get to {} at {}.", leaders.join(" or "), site.door());
    }
    Ok(())
}

/// Monitoring shows the first line.
fn summarize(site: &Site, leaders: &[IpAddr], run: &Run) {
    match (&run.complaints[..], leaders) {
        ([], [leader]) => println!("OK: {leader} leads, and users get there at {}.", site.door()),
        ([first, others @ ..], _) => {
            let more = if others.is_empty() {
                String::new()
            } else {
                format!(" (and {} more)", others.len())
            };
            println!("PROBLEM: {first}{more}");
        }
        _ => println!("PROBLEM: no node leads"),
    }
}

fn look_at_this_host(site: &Site, run: &mut Run) {
    let services = match site.way {
        Way::Haproxy if host::exists(haproxy::CONFIGURATION) => vec![haproxy::SERVICE, keepalived::SERVICE],
        Way::HaproxyOnly if host::exists(haproxy::CONFIGURATION) => vec![haproxy::SERVICE],
        Way::Keepalived if host::exists(keepalived::SNIPPET) => vec![keepalived::SERVICE],
        _ => return,
    };
    for service in &services {
        match host::property(service, "ActiveState").as_str() {
            "active" | "reloading" => {}
            "" => run.complain(format!(
                "whether {service} runs here cannot be seen: systemctl does not answer this user"
            )),
            _ => run.complain(format!("{service} does not run here")),
        }
    }
    if site.has_haproxy() && !haproxy::serves_its_file(site.stats_port) {
        let file = haproxy::CONFIGURATION;
        run.complain(format!("HAProxy does not serve {file} as it is: run cmonhachk-front"));
    }
    if let (Way::Haproxy, Some(vip), false) = (site.way, site.vip, haproxy::is_told()) {
        let followed = haproxy::FOLLOWED;
        run.complain(format!(
            "this host cannot get {vip}, because {followed} does not say 1: run cmonhachk-front"
        ));
    }
}

/// How HAProxy sees the nodes: this host's, or the one with the address.
fn views(site: &Site, run: &mut Run) -> Vec<View> {
    let at = match host::exists(haproxy::CONFIGURATION) {
        true => haproxy::LOCAL,
        false => site.users_address(),
    };
    let views = haproxy::views_of(at, site);
    if views.is_none() {
        let port = site.stats_port;
        run.complain(format!(
            "no HAProxy shows this host its statistics of these nodes at {at}, port {port}"
        ));
    }
    let views = views.unwrap_or_default();
    run.complaints.extend(haproxy::allow(
        views.iter().filter_map(|view| view.denied_port(site.ui_port)).collect(),
    ));
    views
}

fn front(site: &Site, node: IpAddr) -> Front {
    match site.way {
        Way::HaproxyOnly => Front::Unseen,
        Way::Haproxy if haproxy::is_ours(node, site) => Front::Runs,
        Way::Haproxy => Front::Missing,
        Way::Keepalived if Some(node) != site.own => Front::Unseen,
        Way::Keepalived => match host::property(keepalived::SERVICE, "ActiveState").as_str() {
            "" => Front::Unseen,
            "active" | "reloading" if keepalived::is_included() => Front::Runs,
            _ => Front::Missing,
        },
    }
}

/// Whether the checks, HAProxy's view and the fronts agree.
fn compare(site: &Site, states: &[State], views: &[View], fronts: &[Front], run: &mut Run) {
    for (place, node) in site.nodes.iter().enumerate() {
        if fronts[place] == Front::Missing {
            run.complaints.extend(missing_front(site, *node));
        }
        if let Some(view) = views.get(place) {
            run.complaints.extend(disagreement(site, *node, &states[place], view));
        }
    }
}

fn missing_front(site: &Site, node: IpAddr) -> Option<String> {
    if Some(node) != site.own {
        return Some(format!(
            "{node} shows no front at port {}: run cmonhachk-front there, too",
            site.stats_port
        ));
    }
    let file = if site.has_haproxy() {
        haproxy::CONFIGURATION
    } else {
        keepalived::SNIPPET
    };
    // If there is one, its services are looked at.
    (!host::exists(file)).then(|| format!("{node}, this host, has no front: run cmonhachk-front"))
}

fn disagreement(site: &Site, node: IpAddr, state: &State, view: &View) -> Option<String> {
    match state {
        State::Leader if view.status.starts_with("MAINT") => Some(format!(
            "HAProxy sends nobody to {node}, because somebody has put it into maintenance there: its state must be ready"
        )),
        State::Leader if !view.is_up() => {
            let why = match view.last_words.as_str() {
                "" => format!(
                    "its port {} does not answer ({}): a firewall?",
                    view.port(site.ui_port),
                    view.check
                ),
                words => format!("{words} ({}, port {})", view.check, view.port(site.ui_port)),
            };
            Some(format!("HAProxy sends nobody to {node}: {why}"))
        }
        State::None(NoAnswer::Another) if view.status == "DOWN (agent)" => Some(format!(
            "HAProxy keeps the last word of the cmonhachk that was on {node}, \"down\": run systemctl reload \
             cmonhachk-front on each node"
        )),
        State::Follower | State::Unknown(_) if view.is_up() => Some(format!(
            "HAProxy does not know yet that {node} does not lead: look again in a second"
        )),
        _ => None,
    }
}

/// One host must have the address, and it must be a node.
///
/// # Errors
/// Why this host could not look for a second one.
fn judge_holders(site: &Site, holder: &Holder, run: &mut Run) -> Result<(), NotAsked> {
    let vip = site.users_address();
    if matches!(holder, Holder::Stranger(_)) && !site.is_interface_named {
        let words = holder.words(site.own);
        run.complain(format!(
            "{vip} is on {words}, which is no NODE: take the address away from it"
        ));
    }
    let holders = network::all_holders(vip, &site.nodes)?;
    if holders.len() > 1 {
        let words: Vec<String> = holders.iter().map(|holder| holder.words(site.own)).collect();
        run.complain(format!(
            "{} have {vip} at the same time: let VRRP (IP protocol 112) pass between the nodes, and run \
             cmonhachk-front --remove on a host that is no NODE any more",
            words.join(" and ")
        ));
    }
    Ok(())
}

fn show(site: &Site, states: &[State], views: &[View], fronts: &[Front]) {
    let line = |node: &str, front: &str, view: &str, state: &str| {
        let mut line = format!("{node:<16} ");
        if site.vip.is_some() {
            line += &format!("{front:<6} ");
        }
        if site.has_haproxy() {
            line += &format!("{view:<13} ");
        }
        println!("{line}{state}");
    };
    line("NODE", "FRONT", "HAPROXY", "ITS CHECK SAYS");
    for (place, node) in site.nodes.iter().enumerate() {
        let front = match fronts[place] {
            Front::Runs => "runs",
            Front::Missing => "none",
            Front::Unseen => "?",
        };
        let view = views.get(place).map_or("", |view| &view.status);
        line(&node.to_string(), front, view, &states[place].words());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::example;

    fn said(state: State, status: &str, check: &str, last_words: &str, agent: &str) -> Option<String> {
        let site = example(Way::HaproxyOnly, None, &["10.0.0.101", "10.0.0.102"]);
        let view = View {
            status: status.to_string(),
            check: check.to_string(),
            last_words: last_words.to_string(),
            agent: agent.to_string(),
            users: 0,
        };
        disagreement(&site, site.nodes[0], &state, &view)
    }

    #[test]
    fn a_leader_that_haproxy_does_not_use_is_named_with_the_port() {
        let said = |check, words, agent| said(State::Leader, "DOWN", check, words, agent).unwrap();
        let closed = "HAProxy sends nobody to 10.0.0.101: its port 9443 does not answer (L4TOUT): a firewall?";
        assert_eq!(said("L4TOUT", "", "L7OK"), closed);
        assert!(said("* L4TOUT", "", "").contains("its port 9201 does not answer"));
        let refused = "HAProxy sends nobody to 10.0.0.101: Connection refused (L4CON, port 9443)";
        assert_eq!(said("L4CON", "Connection refused", "L7OK"), refused);
    }

    #[test]
    fn other_disagreements_say_what_to_do() {
        let another = said(State::None(NoAnswer::Another), "DOWN (agent)", "", "", "").unwrap();
        assert!(
            another.ends_with("run systemctl reload cmonhachk-front on each node"),
            "{another}"
        );
        assert!(
            said(State::Follower, "UP 1/2", "", "", "")
                .unwrap()
                .ends_with("look again in a second")
        );
        assert_eq!(said(State::Leader, "UP", "L4OK", "", "L7OK"), None);
        assert_eq!(said(State::Follower, "DOWN (agent)", "L7STS", "", "L7STS"), None);
    }
}
