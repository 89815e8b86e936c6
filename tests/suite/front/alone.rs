//! keepalived alone: the address is on the node that leads.

use std::time::{Duration, Instant};

use super::operator::KEEPALIVED_CONF;
use super::site::*;
use crate::cluster::wait_until;

/// The arguments on each node.
const ALONE: &str = "--without-haproxy 10.0.0.130 10.0.0.101 10.0.0.102 10.0.0.103";
/// Longer than one check that is lost or slow.
const WHILE: Duration = Duration::from_secs(5);

/// Each list says from now on that this node leads, or none.
fn leads(site: &Site, leader: &str) {
    for node in &site.nodes {
        node.hears(leader);
    }
}

fn user_is_on(site: &Site, address: &str, name: &str) -> bool {
    site.visit(address, 443).is_some_and(|(_, node)| node == name)
}

/// The address gets to this node, and users with it. Two nodes never both have it for longer than a takeover.
fn gets_to(site: &Site, name: &str) {
    wait_until("the address and users are on the node", || {
        site.holders(VIRTUAL) == [name] && user_is_on(site, VIRTUAL, name)
    });
}

fn stays_on(site: &Site, name: &str, act: impl FnOnce()) {
    act();
    let start = Instant::now();
    while start.elapsed() < WHILE {
        assert_eq!(site.holders(VIRTUAL), [name]);
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn three_runs_put_the_address_on_the_leader_and_users_on_its_own_port(site: &Site) {
    let [first, others @ ..] = &site.nodes[..] else {
        unreachable!()
    };
    let said = first.front(ALONE);
    let advice = "get to 10.0.0.101, which does not lead: run it on the other nodes, too\n1\n";
    assert!(said.ends_with(advice), "{said}");
    for node in others {
        let said = node.succeeds(ALONE);
        assert!(
            said.contains("Users get to the leader at 10.0.0.130, port 443.\n"),
            "{said}"
        );
    }
    gets_to(site, "node2");
}

/// It has a script, which goes on.
pub fn an_operators_own_instance_goes_on(site: &Site) {
    let node = &site.nodes[2];
    node.succeeds("--remove");
    node.run(&format!(
        "touch /etc/keepalived/own.conf; printf '%s' '{KEEPALIVED_CONF}' >/etc/keepalived/keepalived.conf
         systemctl start keepalived"
    ));
    wait_until("the operator's address is there", || node.has("10.0.0.77"));
    let said = node.front(ALONE);
    assert!(
        said.contains("say whose your scripts are: script_user in global_defs") && said.ends_with("\n1\n"),
        "{said}"
    );

    node.run("sed -i 's/global_defs {/&\\n    script_user root/' /etc/keepalived/keepalived.conf");
    let before = node.run("cat /etc/keepalived/keepalived.conf");
    let process = node.run("systemctl show --property MainPID keepalived");
    node.succeeds(ALONE);
    assert!(node.has("10.0.0.77"));
    assert_eq!(node.run("systemctl show --property MainPID keepalived"), process);

    node.succeeds("--remove");
    assert!(node.has("10.0.0.77"));
    assert_eq!(node.run("cat /etc/keepalived/keepalived.conf"), before);
    node.run("systemctl stop keepalived; rm /etc/keepalived/keepalived.conf /etc/keepalived/own.conf");
    node.succeeds(ALONE);
}

pub fn a_second_run_changes_nothing_and_status_is_well(site: &Site) {
    for node in &site.nodes {
        let before = node.state();
        assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
        assert_eq!(node.state(), before);
        let status = node.succeeds("--status");
        assert!(status.contains("10.0.0.130 is on 10.0.0.102.\n"), "{status}");
        let end = "Users get to 10.0.0.102 at 10.0.0.130, port 443.\n0\n";
        assert!(status.ends_with(end), "{status}");
        let own = format!("10.0.0.10{}       runs   ", &node.name[4..]);
        assert!(status.contains(&own), "{status}");
        assert!(!status.contains("HAPROXY"), "{status}");
        assert_eq!(node.run("systemctl is-active cmonhachk-front"), "inactive\n");
    }
}

pub fn the_address_follows_the_leadership_and_the_old_session_ends(site: &Site) {
    for leader in ["node3", "node1", "node2"] {
        let (session, _) = site.visit(VIRTUAL, 443).unwrap();
        leads(site, leader);
        gets_to(site, leader);
        drop(session);
    }
}

pub fn no_script_runs_as_root(site: &Site) {
    let log = site.nodes[1].run("journalctl --unit keepalived --no-pager --output cat");
    assert!(!log.contains("SECURITY VIOLATION"), "{log}");
    wait_until("the script is seen to run as cmonhachk", || {
        let users = site.nodes[1].run("ps -C cmonhachk-leads -o user=; true");
        assert!(!users.contains("root"), "{users}");
        users.contains("cmonhac")
    });
}

pub fn one_lost_check_moves_nobody(site: &Site) {
    let node = &site.nodes[1];
    stays_on(site, "node2", || {
        node.run("systemctl stop cmonhachk.socket cmonhachk.service; systemctl start cmonhachk.socket");
    });
    stays_on(site, "node2", || {
        node.behaves("hang");
        std::thread::sleep(Duration::from_millis(1000));
        node.behaves("list");
    });
    // That run of s9s may hang for as long as it may.
    let asks = "curl --silent --max-time 2 --head http://127.0.0.1:9201/";
    wait_until("the check answers again", || node.run(asks).contains("State: leader"));
}

pub fn a_node_whose_ui_is_closed_does_not_have_the_address(site: &Site) {
    site.nodes[1].stops_ui();
    wait_until("the address is elsewhere", || site.holders(VIRTUAL) == ["node1"]);
    let status = site.nodes[0].front("--status");
    let complaint = "10.0.0.102 leads, and its UI at port 443 accepts no connection from this host";
    assert!(status.contains(complaint) && status.ends_with("\n1\n"), "{status}");
    site.nodes[1].starts_ui();
    gets_to(site, "node2");
}

pub fn if_nobody_leads_the_first_node_has_the_address_and_its_ui_can_be_reached(site: &Site) {
    leads(site, "nobody");
    gets_to(site, "node1");
    leads(site, "node2");
    gets_to(site, "node2");
}

pub fn a_restart_or_a_reload_of_keepalived_brings_the_address_back_to_the_leader(site: &Site) {
    for verb in ["restart", "reload"] {
        site.nodes[1].run(&format!("systemctl {verb} keepalived"));
        gets_to(site, "node2");
        site.nodes[0].run(&format!("systemctl {verb} keepalived"));
        gets_to(site, "node2");
    }
}

pub fn the_way_with_haproxy_is_refused_until_this_one_is_removed_everywhere(site: &Site) {
    let [first, second, third] = &site.nodes[..] else {
        unreachable!()
    };
    let said = first.front(SITE);
    assert!(
        said.contains("the last run had --without-haproxy") && said.ends_with("\n2\n"),
        "{said}"
    );

    first.succeeds("--remove");
    let said = first.front(SITE);
    assert!(
        said.contains("10.0.0.130 is in use: 10.0.0.102 has it") && said.ends_with("\n1\n"),
        "{said}"
    );
    let said = second.succeeds("--remove");
    assert!(said.contains("10.0.0.130 is on 10.0.0.103 now.\n"), "{said}");
    third.succeeds("--remove");
    assert_eq!(site.holders(VIRTUAL), [""; 0]);

    first.succeeds(SITE);
    let said = second.front(ALONE);
    assert!(
        said.contains("10.0.0.101 has the way with HAProxy") && said.ends_with("\n1\n"),
        "{said}"
    );
    first.succeeds("--remove");
}

/// keepalived would take a program that is gone for a "yes".
pub fn a_downgrade_to_a_version_without_the_program_takes_the_address_away(site: &Site) {
    let node = &site.nodes[2];
    node.front(ALONE);
    wait_until("it has the address", || site.holders(VIRTUAL) == ["node3"]);
    let said = node.run(
        "cd /usr/libexec/keepalived; mv cmonhachk-leads /opt; sh /var/lib/dpkg/info/cmonhachk.postrm upgrade 0.1.0; \
         mv /opt/cmonhachk-leads .; rm -f /run/cmonhachk-front.weight",
    );
    assert!(said.contains("it is gone from this host"), "{said}");
    assert_eq!(site.holders(VIRTUAL), [""; 0]);
}

/// That other way is on the first node, and its statistics are at a port that nobody would guess.
pub fn where_the_other_way_is_not_seen_the_address_is_not_left_on_two_nodes(site: &Site) {
    let [first, second, third] = &site.nodes[..] else {
        unreachable!()
    };
    for node in &site.nodes {
        node.front("--remove");
    }
    first.succeeds(&format!("--stats-port 9601 {SITE}"));
    for node in [third, second] {
        let said = node.front(ALONE);
        assert!(
            said.contains("the front of this host was removed again") && said.ends_with("\n1\n"),
            "{said}"
        );
        assert_eq!(site.holders(VIRTUAL), ["node1"]);
    }
    first.succeeds("--remove");
}

pub fn the_address_may_be_of_ipv6(site: &Site) {
    for node in &site.nodes {
        node.run("systemd-run --quiet socat TCP6-LISTEN:443,ipv6-v6only,fork,reuseaddr TCP4:127.0.0.1:443");
    }
    site.succeeds("--without-haproxy fd00::130 fd00::103 fd00::101 fd00::102");
    wait_until("users are on the leader", || user_is_on(site, "fd00::130", "node2"));
    for node in &site.nodes {
        node.succeeds("--remove");
    }
    assert_eq!(site.holders("fd00::130"), [""; 0]);
}
