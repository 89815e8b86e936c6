//! What keeps a front from being set up? This is looked at before anything is changed.

use std::net::IpAddr;
use std::time::Duration;

use cmonhachk::client::state::State;

use crate::failure::{Failure, Outcome, fail};
use crate::haproxy;
use crate::host::{self, Run, within};
use crate::keepalived;
use crate::network::{self, Holder};
use crate::nodes;
use crate::options::{Way, memory};
use crate::site::Site;

/// What this host needs.
pub fn check_host(site: &Site) -> Outcome<()> {
    let programs = ["ip", "ss"].into_iter();
    let programs = programs
        .chain(site.has_haproxy().then_some("haproxy"))
        .chain(site.vip.map(|_| "keepalived"));
    for program in programs {
        if !host::has(program) {
            return fail(format!("please install {program} first"));
        }
    }
    if site.has_haproxy() {
        haproxy::check_version()?;
    }
    if let Some(vip) = site.vip {
        check_own(site, vip)?;
    }
    let services = site.has_haproxy().then_some(haproxy::SERVICE).into_iter();
    for service in services.chain(site.vip.map(|_| keepalived::SERVICE)) {
        if host::is_masked(service) {
            return fail(format!("{service} is masked: systemctl unmask {service}"));
        }
    }
    if site.has_haproxy() {
        check_ui_port(site)?;
        check_port(site.front_port, "--front-port")?;
        check_port(site.stats_port, "--stats-port")?;
    }
    Ok(())
}

/// On a node, the UI has its port itself.
fn check_ui_port(site: &Site) -> Outcome<()> {
    let ports = [(site.front_port, "--front-port"), (site.stats_port, "--stats-port")];
    match ports
        .into_iter()
        .find(|(port, _)| site.own.is_some() && *port == site.ui_port)
    {
        Some((_, option)) => fail(format!(
            "{option} and --ui-port are the same, and this host is a node, which has a UI"
        )),
        None => Ok(()),
    }
}

fn check_own(site: &Site, vip: IpAddr) -> Outcome<()> {
    if site.own.is_some() {
        return Ok(());
    }
    let own = network::own_addresses();
    if own.iter().any(|own| own.address == vip) && !vip.is_loopback() && !has_snippet_with(vip) {
        return fail(format!(
            "{vip}, the VIP, is this host's own address: did you leave out the VIP, or swap it with a node?"
        ));
    }
    let own = own
        .iter()
        .filter(|own| !own.address.is_loopback())
        .map(|own| own.address.to_string());
    let own: Vec<String> = own.collect();
    fail(format!(
        "this host has the address of no NODE: it has {}",
        own.join(", ")
    ))
}

fn has_snippet_with(vip: IpAddr) -> bool {
    let snippet = host::text_of(keepalived::SNIPPET).unwrap_or_default();
    keepalived::addresses_in(&snippet, "virtual_ipaddress").contains(&vip)
}

/// # Errors
/// Another program has the port.
fn check_port(port: u16, option: &str) -> Outcome<()> {
    let said = host::run("ss", &["-Hltnp", &format!("sport = :{port}")]).output;
    for line in said.lines() {
        let user = port_user(line);
        let is_ours = user.is_some_and(|(_, pid)| {
            host::text_of(&format!("/proc/{pid}/cgroup")).is_some_and(|group| group.contains(haproxy::SERVICE))
        });
        if is_ours {
            continue;
        }
        let who = user.map_or("a program of another namespace".to_string(), |(name, pid)| {
            format!("{name}, process {pid}")
        });
        let advice = match host::text_of("/etc/haproxy/haproxy.cfg") {
            // As a reader of the article has it.
            Some(text) if user.is_some_and(|(name, _)| name == "haproxy") && text.contains("port 9201") => {
                format!(" It checks port 9201, as the article's does: see \"Moving from the article\" in {DOCUMENT}")
            }
            _ => String::new(),
        };
        return fail(format!(
            "port {port} is in use by {who}: choose another with {option}.{advice}"
        ));
    }
    Ok(())
}

const DOCUMENT: &str = "/usr/share/doc/cmonhachk/operations.md.gz";

/// In a line of ss that ends with `users:(("haproxy",pid=123,fd=7))`.
fn port_user(line: &str) -> Option<(&str, &str)> {
    let (_, user) = line.split_once("((\"")?;
    let (name, rest) = user.split_once('"')?;
    let (_, rest) = rest.split_once("pid=")?;
    Some((name, rest.split([',', ')']).next()?))
}

/// # Errors
/// A node does not answer, and the settings are new: without new ones, this run only repairs this host.
pub fn check_nodes(site: &Site, states: &[State], run: &Run) -> Outcome<()> {
    let silent = states.iter().filter_map(|state| match state {
        State::None(why) => Some(*why),
        _ => None,
    });
    let silent: Vec<_> = silent.collect();
    if silent.is_empty() || run.dry_run || is_remembered(site) {
        return Ok(());
    }
    let mut lines = run.complaints.clone();
    if silent.iter().any(|why| why.is_missing()) {
        lines
            .push("Install cmonhachk there. The article's /etc/xinetd.d/cmonhachk keeps the port from it.".to_string());
    }
    Err(Failure::of_lines(lines))
}

/// Whether the last run had the same arguments.
fn is_remembered(site: &Site) -> bool {
    let file = match site.has_haproxy() {
        true => haproxy::CONFIGURATION,
        false => keepalived::SNIPPET,
    };
    host::text_of(file).is_some_and(|text| text.starts_with(&memory(&site.arguments)))
}

/// Who has the address now, if somebody may have it.
///
/// # Errors
/// It cannot be the virtual address.
pub fn check_vip(site: &Site, vip: IpAddr) -> Outcome<Holder> {
    let interface = site.interface.as_deref().unwrap_or_default();
    let others = keepalived::others().unwrap_or_default();
    if keepalived::has_others_with(&String::from_utf8_lossy(&others), vip) {
        return fail(format!("{vip} is in use: {} has it already", keepalived::CONFIGURATION));
    }
    if let Some(what) = network::reserved(vip, &network::own_addresses()) {
        return fail(format!(
            "{vip} is the {what} address of a network of this host, and no host's"
        ));
    }
    if !network::has_interface(interface) {
        return fail(format!("this host has no interface {interface}"));
    }
    let route = match network::route(vip) {
        Ok(route) => route,
        Err(why) => return fail(format!("{vip} cannot be reached from here: {why}")),
    };
    if route.starts_with("local") {
        return match host::exists(keepalived::SNIPPET) {
            true => Ok(Holder::Nobody),
            false => fail(format!("{vip} is in use: this host has it")),
        };
    }
    if !route.contains(&format!(" dev {interface} ")) || route.contains(" via ") {
        return fail(format!("{vip} is not in a network of {interface}"));
    }
    check_other_way(site)?;
    let holder = network::holder(vip, &site.nodes);
    if may_have_it(site, vip, &holder) {
        return Ok(holder);
    }
    fail(format!(
        "{vip} is in use: {} has it{}",
        holder.words(site.own),
        advice(site, vip, &holder)
    ))
}

/// What an operator may have done, if somebody has the address who should not.
fn advice(site: &Site, vip: IpAddr, holder: &Holder) -> &'static str {
    let answers_as_a_node = || {
        matches!(
            nodes::ask(&[vip])[0],
            State::Leader | State::Follower | State::Unknown(_)
        )
    };
    match holder {
        Holder::Stranger(_) if answers_as_a_node() => {
            ". It answers as a node: did you leave out the VIP, or swap it with a node?"
        }
        Holder::Node(_) if site.has_haproxy() => {
            ". If that node has the way without HAProxy, run cmonhachk-front --remove there first"
        }
        _ => "",
    }
}

/// The two ways do not understand each other's adverts, so two nodes would have the address.
fn check_other_way(site: &Site) -> Outcome<()> {
    if site.way != Way::Keepalived {
        return Ok(());
    }
    match site.nodes.iter().find(|node| haproxy::is_ours(**node, site)) {
        Some(node) => fail(format!(
            "{node} has the way with HAProxy: run cmonhachk-front --remove there first"
        )),
        None => Ok(()),
    }
}

fn may_have_it(site: &Site, vip: IpAddr, holder: &Holder) -> bool {
    match holder {
        Holder::Nobody | Holder::ThisHost => true,
        // If this host was set up for the address before, the node that has it may still use the ports of then.
        Holder::Node(_) | Holder::Stranger(_) if has_snippet_with(vip) => true,
        // Without HAProxy, a node with the address shows nothing else.
        Holder::Node(_) if site.way == Way::Keepalived => true,
        Holder::Stranger(_) if !site.is_interface_named => false,
        Holder::Node(_) | Holder::Stranger(_) => {
            let shows = || haproxy::is_ours(vip, site).then_some(());
            within(Duration::from_secs(3), shows).is_some()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ss_tells_who_has_a_port() {
        let line = "LISTEN 0 5 0.0.0.0:81 0.0.0.0:* users:((\"socat\",pid=71,fd=5))";
        assert_eq!(port_user(line), Some(("socat", "71")));
        assert_eq!(port_user("LISTEN 0 5 0.0.0.0:81 0.0.0.0:*"), None);
    }
}
