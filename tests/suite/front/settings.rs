//! Runs of cmonhachk-front with all kinds of settings, one after the other on each node.

use super::site::*;
use crate::cluster::wait_until;

pub fn a_dry_run_changes_nothing(site: &Site) {
    let node = &site.nodes[0];
    let before = node.state();
    let shown = node.succeeds(&format!("--dry-run {SITE}"));
    assert!(shown.contains("Starts keepalived.service\n"), "{shown}");
    assert_eq!(node.state(), before);
}

pub fn at_its_end_it_asks_for_the_leader(site: &Site) {
    let node = &site.nodes[0];
    for node in &site.nodes {
        node.hears("nobody");
    }
    let said = node.front(SITE);
    let complaint = "cmonhachk-front: HAProxy finds no leader: cmonhachk-front --status shows";
    assert!(said.contains(complaint) && said.ends_with("\n1\n"), "{said}");

    for node in &site.nodes {
        node.hears("node2");
    }
    assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
    node.succeeds("--remove");
}

pub fn a_host_that_is_no_node_gets_haproxy_without_an_address(site: &Site) {
    let node = &site.nodes[0];
    let said = node.succeeds("--haproxy-only 10.0.0.102 10.0.0.103");
    let end = "Users get to the leader at any address of this host, port 81.\n";
    assert!(said.contains(end), "{said}");
    assert_eq!(site.user_gets("10.0.0.101").as_deref(), Some("node2"));

    let said = node.front(SITE);
    assert!(
        said.contains("the last run had --haproxy-only") && said.ends_with("\n2\n"),
        "{said}"
    );
    let keepalived = node.run("ls /etc/keepalived/*.conf 2>/dev/null; systemctl is-active keepalived");
    assert_eq!(keepalived, "inactive\n");
    node.succeeds("--remove");
}

pub fn three_runs_with_the_nodes_in_any_order_lead_users_to_the_leader(site: &Site) {
    for (node, order) in site.nodes.iter().zip(["101 102 103", "103 101 102", "102 103 101"]) {
        let nodes = order.replace(' ', " 10.0.0.");
        let said = node.succeeds(&format!("{VIRTUAL} 10.0.0.{nodes}"));
        let end = "Users get to the leader at 10.0.0.130, port 81.\n";
        assert!(said.contains(end), "{said}");
    }
    assert!(site.users_are_on_the_leader());
    assert_eq!(site.holders(VIRTUAL), ["node1"]);
}

pub fn a_second_run_changes_nothing_and_the_services_come_with_a_boot(site: &Site) {
    for node in &site.nodes {
        let before = node.state();
        assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
        assert_eq!(node.state(), before);
        let enabled = node.run("systemctl is-enabled cmonhachk-front keepalived");
        assert_eq!(enabled, "enabled\nenabled\n");
    }
}

/// See the unit.
pub fn selinux_can_give_haproxy_a_domain_of_its_own(site: &Site) {
    let process = "/proc/$(systemctl show --property MainPID --value cmonhachk-front)";
    for node in &site.nodes {
        let right = node.run(&format!("grep NoNewPrivs {process}/status"));
        assert_eq!(right, "NoNewPrivs:\t0\n");
    }
}

pub fn the_nodes_and_the_address_may_be_of_ipv6(site: &Site) {
    for node in &site.nodes {
        node.run("systemd-run --quiet socat TCP6-LISTEN:443,ipv6-v6only,fork TCP4:127.0.0.1:443");
    }
    site.succeeds("fd00::130 fd00::103 fd00::101 fd00::102");
    assert_eq!(site.user_gets("fd00::130").as_deref(), Some("node2"));
    wait_until("the former address is gone", || site.holders(VIRTUAL).is_empty());
}

/// In that network, nobody may see the statistics.
pub fn the_address_may_be_in_a_network_without_the_nodes_addresses(site: &Site) {
    site.network.ip("link add second up type bridge");
    for node in &site.nodes {
        let (name, pid) = (node.name, node.systemd.first_process().unwrap());
        site.network.ip(&format!(
            "link add {name}-2 up master second type veth peer name eth2 netns {pid}"
        ));
        let number = &name[4..];
        node.run(&format!("ip addr add 10.2.0.{number}/24 dev eth2; ip link set eth2 up"));
    }
    site.succeeds("--interface eth2 10.2.0.130 10.0.0.101 10.0.0.102 10.0.0.103");
    wait_until("one node has the address", || site.holders("10.2.0.130").len() == 1);
}

/// The first two nodes are set up without the third one.
pub fn a_new_node_that_the_others_do_not_know_is_told_so_and_serves_when_they_do(site: &Site) {
    let [first, second, new] = &site.nodes[..] else {
        unreachable!()
    };
    for node in [first, second] {
        node.succeeds("10.0.0.130 10.0.0.101 10.0.0.102");
    }
    let said = new.front(SITE);
    let complaint = "10.0.0.101 had 10.0.0.130, and now this host has it";
    assert!(said.contains(complaint) && said.ends_with("\n1\n"), "{said}");

    for node in [first, second] {
        node.succeeds(SITE);
    }
    site.holder();
    new.succeeds("");
}

pub fn a_node_is_taken_out_first_there_and_then_elsewhere(site: &Site) {
    let said = site.nodes[2].succeeds("--remove");
    let holder = &site.holder()[4..];
    let end = format!("10.0.0.130 is on 10.0.0.10{holder} now.\n");
    assert!(said.contains(&end), "{said}");

    for node in &site.nodes[..2] {
        node.succeeds("10.0.0.130 10.0.0.101 10.0.0.102");
    }
    wait_until("one of the others has the address", || {
        matches!(site.holders(VIRTUAL)[..], ["node1" | "node2"])
    });
}

/// Users go to the node that has the address, and that one still has the former port.
pub fn it_says_where_users_get_to_only_after_it_has_been_there(site: &Site) {
    let holder = site.holder();
    let other = site.nodes.iter().find(|node| node.name != holder).unwrap();
    let said = other.front("--front-port 8443");
    assert!(!said.contains("Users get to the leader"), "{said}");
    let complaint = format!(
        "cmonhachk-front: users get no answer at 10.0.0.130, port 8443, and {} has 10.0.0.130: run it on the other nodes, too\n",
        holder.replace("node", "10.0.0.10")
    );
    assert!(said.contains(&complaint) && said.ends_with("\n1\n"), "{said}");

    other.succeeds("--front-port 81");
}

/// Each of the others has had the address within the last minute.
pub fn the_last_removal_says_that_nobody_has_the_address(site: &Site) {
    for node in &site.nodes[..2] {
        node.succeeds("--remove");
    }
    wait_until("the last node has the address", || site.holders(VIRTUAL) == ["node3"]);
    let said = site.nodes[2].succeeds("--remove");
    assert!(said.contains("10.0.0.130 is on no host now.\n"), "{said}");
}
