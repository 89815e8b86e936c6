//! The address is on a node whose HAProxy runs, and it moves only if it must.

use std::time::{Duration, Instant};

use super::site::*;
use crate::cluster::{Folder, wait_until};
use crate::node::DEB;

/// An update of haproxy causes a reload, also if dpkg drops the trigger because it installs both packages in one go.
pub fn sessions_and_the_address_outlive_a_reload_of_keepalived_and_an_update_of_haproxy(site: &Site) {
    let holder = site.holder();
    let node = site.node(holder);
    let (session, _) = site.visit(VIRTUAL, 81).unwrap();
    let begun = Instant::now();
    node.run("systemctl reload keepalived");

    let trigger = "dpkg-trigger --by-package=haproxy /usr/sbin/haproxy; dpkg --triggers-only --pending";
    for update in [trigger, &format!("dpkg --install {DEB}")] {
        node.run(&format!("cd /usr/sbin; cp haproxy new; mv new haproxy; {update}"));
        wait_until("HAProxy is the new program", || {
            node.run("readlink /proc/$(systemctl show --property MainPID --value cmonhachk-front)/exe")
                == "/usr/sbin/haproxy\n"
        });
        // After 10 s, the old process ends, and the session with it.
        assert!(is_open(&session) || begun.elapsed() > Duration::from_secs(9));
    }
    site.stays_on(holder);
}

pub fn users_who_wait_while_haproxy_starts_are_sent_to_the_leader_only(site: &Site) {
    let holder = site.holder();
    let node = site.nodes.iter().find(|node| node.name != holder).unwrap();
    let address = node.name.replace("node", "10.0.0.10");

    let replies = site.replies_during((&address, 81), || {
        for _ in 0..3 {
            node.run("systemctl restart cmonhachk-front");
            wait_until("HAProxy has checked each node", || node.counts_as_up() == ["node2"]);
        }
    });
    assert!(replies.contains_key(&Some("node2".to_string())), "{replies:?}");
    assert!(!replies.keys().flatten().any(|name| name != "node2"), "{replies:?}");
}

pub fn a_node_whose_haproxy_loses_its_worker_gives_up_the_address_and_does_not_take_it_back(site: &Site) {
    let first = site.holder();
    site.node(first)
        .run("kill -KILL $(pgrep --parent $(systemctl show --property MainPID --value cmonhachk-front))");
    let second = site.moves_from(first);
    site.stays_on(second);
}

pub fn a_node_whose_haproxy_loses_its_master_gives_up_the_address(site: &Site) {
    let first = site.holder();
    site.node(first)
        .run("systemctl kill --kill-whom main --signal KILL cmonhachk-front");
    site.moves_from(first);
    wait_until("HAProxy runs again", || {
        site.node(first).run("systemctl is-active cmonhachk-front") == "active\n"
    });
}

/// With systemd 257, the kernel also kills what the unit runs when HAProxy has ended.
pub fn a_node_whose_haproxy_is_killed_with_all_that_its_unit_runs_gives_up_the_address(site: &Site) {
    let first = site.holder();
    site.node(first).run("systemctl kill --signal KILL cmonhachk-front");
    let second = site.moves_from(first);
    site.stays_on(second);
}

pub fn a_node_that_is_cut_off_gives_up_the_address_and_does_not_take_it_back(site: &Site) {
    let first = "node1";
    // Not the leader.
    site.puts_address_on(first);
    site.network.ip(&format!("link set {first} down"));
    let second = site.moves_from(first);
    site.network.ip(&format!("link set {first} up"));
    site.stays_on(second);
}

/// Sends what keepalived of a former node would: adverts of VRRP version 2 with the same router id and address and
/// the priority 200. They come more often than the nodes' own.
const STRANGER: &str = r"
    while sleep 0.3; do
        for node in 101 102 103; do
            printf '\041\063\310\001\000\001\014\110\012\000\000\202\000\000\000\000\000\000\000\000' |
                socat -u - IP4-SENDTO:10.0.0.$node:112,bind=10.0.0.200
        done
    done";

pub fn no_node_gives_up_the_address_for_a_stranger_with_the_same_router_id(site: &Site) {
    let holder = site.holder();
    let folder = Folder::new();
    let script = folder.write("stranger", STRANGER);
    let _stranger = site.network.daemon(&format!("sh {}", script.display()));
    for node in &site.nodes {
        wait_until("keepalived has heard the stranger", || {
            node.run("journalctl --unit keepalived").contains("10.0.0.200")
        });
    }
    site.stays_on(holder);
}
