//! Runs of cmonhachk-front that fail or are interrupted.

use super::followed::FOLLOWED;
use super::site::*;
use crate::cluster::wait_until;

const DENIED: &str = "[Service]\nCapabilityBoundingSet=~CAP_NET_BIND_SERVICE\n";
const CONFIGURATION: &str = "sha256sum /etc/haproxy/cmonhachk.cfg";
const IN_PLACE_AGAIN: &str = "cmonhachk-front: The former configuration is in place again.\n";

/// Sets up the first node's front at port 8081. From now on HAProxy is denied lower ports there, as by SELinux:
/// "Permission denied".
pub fn only_the_first_node_has_a_front_that_is_denied_low_ports(site: &Site) {
    let node = &site.nodes[0];
    node.run("mkdir /etc/systemd/system/cmonhachk-front.service.d");
    node.put("etc/systemd/system/cmonhachk-front.service.d/denied.conf", DENIED);
    node.run("systemctl daemon-reload");
    node.succeeds(&format!("--front-port 8081 {SITE}"));
}

pub fn a_reload_that_cannot_take_its_port_is_no_success_and_leaves_what_was_there(site: &Site) {
    let node = &site.nodes[0];
    let before = node.run(CONFIGURATION);
    let said = node.front("--front-port 82");
    let complaint = "cmonhachk-front: HAProxy does not serve the new configuration: see journalctl";
    for part in [complaint, IN_PLACE_AGAIN, "\n1\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("Users get to the leader"), "{said}");

    assert_eq!(node.run(CONFIGURATION), before);
    serves_as_before(site);
    let said = node.succeeds("");
    assert!(said.ends_with("Nothing had to be changed.\n0\n"), "{said}");
}

/// It leaves the new configuration. What comes back is the one that was served.
pub fn a_run_that_is_killed_does_not_become_the_former_configuration(site: &Site) {
    let node = &site.nodes[0];
    let before = node.run(CONFIGURATION);
    let run = node.run("cmonhachk-front --front-port 82 >/dev/null 2>&1 & echo $!");
    wait_until("it has written the new configuration", || {
        node.run(CONFIGURATION) != before
    });
    node.run(&format!("kill -KILL {run}"));
    let said = node.front("--status");
    let complaint = "HAProxy does not serve /etc/haproxy/cmonhachk.cfg as it is: run cmonhachk-front\n";
    assert!(said.contains(complaint), "{said}");

    let said = node.front("--front-port 82");
    assert!(said.contains(IN_PLACE_AGAIN), "{said}");
    assert_eq!(node.run(CONFIGURATION), before);
    serves_as_before(site);
}

fn serves_as_before(site: &Site) {
    let (_, name) = site.visit(VIRTUAL, 8081).expect("a user is served");
    assert_eq!(name, "node2");
}

pub fn status_names_a_file_that_keeps_the_address_away(site: &Site) {
    let node = &site.nodes[0];
    node.run(&format!("echo 0 >{FOLLOWED}"));
    let said = node.front("--status");
    assert!(said.contains("this host cannot get 10.0.0.130, because"), "{said}");
    node.succeeds("");
}

pub fn a_start_that_cannot_take_its_port_is_no_success_and_in_nobodys_way(site: &Site) {
    let node = &site.nodes[0];
    node.succeeds("--remove");
    let said = node.front(&format!("--front-port 82 {SITE}"));
    let complaint = "HAProxy does not serve the new configuration";
    assert!(said.contains(complaint) && said.ends_with("\n1\n"), "{said}");
    let state = node.run("systemctl show --property ActiveState cmonhachk-front");
    assert_ne!(state, "ActiveState=activating\n");

    // A service that tries again and again must not be in the way of a run with better arguments.
    node.run("systemctl start --no-block cmonhachk-front");
    node.succeeds(&format!("--front-port 8081 {SITE}"));
}

/// Makes the second node's systemctl do something before its work, if its arguments begin with `arguments`.
fn before_systemctl(site: &Site, arguments: &str, what: &str) {
    site.nodes[1].run(&format!(
        "cd /usr/bin; [ -e systemctl.real ] || mv systemctl systemctl.real
         cat >new <<'END'\n#!/bin/sh\ncase \"$*\" in \"{arguments}\"*) {what} ;; esac\nexec systemctl.real \"$@\"\nEND
         chmod 755 new; mv new systemctl"
    ));
}

/// Kills a run on the second node when it is about to run systemctl with arguments that begin with `verb`.
fn interrupted_at(site: &Site, verb: &str, arguments: &str) {
    let kill_once = "cp /usr/bin/systemctl.real $0.new; mv $0.new $0; kill -KILL $PPID";
    before_systemctl(site, verb, kill_once);
    let said = site.nodes[1].front(arguments);
    assert!(said.ends_with("\n137\n"), "{verb}: {said}");
}

pub fn the_next_run_finishes_one_that_was_interrupted(site: &Site) {
    let node = &site.nodes[1];
    for (verb, arguments) in [
        ("--quiet enable c", ""),
        ("start c", ""),
        ("start k", ""),
        ("reload c", "--front-port 82"),
        ("reload k", "--router-id 52"),
    ] {
        if !verb.starts_with("reload") {
            node.succeeds("--remove");
        }
        interrupted_at(site, verb, &format!("{arguments} {SITE}"));
        node.succeeds(SITE);
        let said = node.succeeds(SITE);
        assert!(said.ends_with("Nothing had to be changed.\n0\n"), "{verb}: {said}");
        wait_until("it has the address", || node.has(VIRTUAL));
    }

    // The options were saved, and the running services have them.
    assert!(listens(node, 82) && !listens(node, 81));
    node.run("systemctl kill --signal USR1 --kill-whom main keepalived");
    wait_until("keepalived has told its data", || {
        node.run("cat /tmp/keepalived.data")
            .contains("Virtual Router ID = 52\n")
    });
}

pub fn the_next_removal_finishes_one_that_was_interrupted(site: &Site) {
    let node = &site.nodes[1];
    node.succeeds(SITE);
    interrupted_at(site, "try-reload", "--remove");
    node.succeeds("--remove");
    assert!(!node.has(VIRTUAL) && !listens(node, 81) && !listens(node, 82));
}

pub fn of_two_runs_at_once_one_waits_for_the_other(site: &Site) {
    before_systemctl(site, "start c", "sleep 1");
    let both = site.nodes[1].run(&format!(
        "cmonhachk-front {SITE} >/tmp/one 2>&1 & cmonhachk-front {SITE} >/tmp/two 2>&1; echo $?
         wait $!; echo $?; cat /tmp/one /tmp/two"
    ));
    assert!(both.starts_with("0\n0\n"), "{both}");
    assert_eq!(both.matches("Starts cmonhachk-front.service\n").count(), 1, "{both}");
    assert_eq!(both.matches("Nothing had to be changed.\n").count(), 1, "{both}");
}

fn listens(node: &Node, port: u16) -> bool {
    !node.run(&format!("ss -Hltn sport = :{port}")).is_empty()
}

/// One that left a service running would say that it is gone.
pub fn a_removal_that_cannot_stop_a_service_is_no_success(site: &Site) {
    let node = &site.nodes[1];
    node.succeeds(SITE);
    for verb in ["stop keepalived", "--quiet disable"] {
        before_systemctl(site, verb, "exit 1");
        let said = node.front("--remove");
        assert!(
            said.contains("fails: see journalctl --unit") && said.ends_with("\n1\n"),
            "{verb}: {said}"
        );
    }
    node.run("cd /usr/bin; cp systemctl.real new; mv new systemctl");
    node.succeeds("--remove");
    assert!(!node.has(VIRTUAL) && !listens(node, 81));
}
