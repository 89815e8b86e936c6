//! The deployed check has its own user and no other rights, under xinetd, from the packages.

use cmonhachk::verdict::reason::Reason;

use crate::cluster::{LEADER, unknown, wait_until};
use crate::node::{DEB, Node, XINETD_DEB};
use crate::packages::commands;

const LOCK: &str = "/run/cmonhachk/lock";

#[test]
fn the_check_has_a_user_of_its_own_and_no_other_rights() {
    let node = node();
    the_check_and_s9s_run_as_a_user_of_their_own_and_share_their_verdicts(&node);
    what_the_user_has_no_right_to_is_the_reason_and_explained(&node);
    a_check_on_the_command_line_is_the_services_as_its_user_and_in_nobodys_way_as_root(&node);
}

fn node() -> Node {
    let node = Node::boot("bookworm");
    node.run("echo login >/opt/cluster/behaviour; touch /opt/cluster/runs; chmod 666 /opt/cluster/runs");
    node.install(&format!("{DEB} {XINETD_DEB}"));
    node.run(
        "cd /var/lib/cmonhachk/.s9s; printf 'cmon_user=check\\ncmon_password=x\\n' >s9s.conf; chown cmonhachk s9s.conf",
    );
    node.leads();
    node
}

fn the_check_and_s9s_run_as_a_user_of_their_own_and_share_their_verdicts(node: &Node) {
    assert_eq!(node.run("cat /opt/cluster/who"), "cmonhachk /var/lib/cmonhachk check\n");
    let rights = format!("stat --format '%a %U %G' {LOCK} /run/cmonhachk");
    assert_eq!(node.run(&rights), "600 cmonhachk cmonhachk\n700 cmonhachk cmonhachk\n");
    // The service has its user's additional groups, under xinetd as under systemd.
    node.run("usermod --append --groups adm cmonhachk; chgrp adm /etc/default/cmon; chmod 640 /etc/default/cmon");
    node.leads();

    let runs = || node.run("cat /opt/cluster/runs").lines().count();
    let before = runs();
    node.run("curl --silent --parallel --parallel-max 100 --output /dev/null 'http://127.0.0.1:9201/[1-100]'");
    assert!(runs() - before < 20, "100 checks at once took {} runs", runs() - before);

    // The service may not make the folder; the advice says what to type.
    node.run("rm -r /run/cmonhachk");
    let before = runs();
    assert_eq!(node.systemd.curl(), unknown("lock-unusable"));
    assert_eq!(runs(), before);
    let text = String::from_utf8(node.systemd.output(&commands("runuser -u cmonhachk")).stdout).unwrap();
    assert!(
        text.contains("  not there; the service's first check makes it, if it may\n"),
        "{text}"
    );
    let advice = Reason::LockUnusable.advice().lines().nth(1).unwrap();
    node.run(advice);
    assert_eq!(node.systemd.curl(), LEADER);
}

fn what_the_user_has_no_right_to_is_the_reason_and_explained(node: &Node) {
    for (file, mode, reason) in [
        ("/etc/default/cmon", "600", "defaults-unreadable"),
        ("/usr/local/bin/s9s", "744", "s9s-not-executable"),
    ] {
        let before = node.run(&format!("stat --format %a {file}; chmod {mode} {file}"));
        wait_until(reason, || node.systemd.curl() == unknown(reason));
        let output = node.systemd.output(&commands("runuser -u cmonhachk"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains(&format!("verdict: unknown {reason}\n")) && text.contains("What to do\n"),
            "{text}"
        );
        node.run(&format!("chmod {} {file}", before.trim_end()));
        node.leads();
    }
}

fn a_check_on_the_command_line_is_the_services_as_its_user_and_in_nobodys_way_as_root(node: &Node) {
    // What the service says counts for some seconds only.
    wait_until("explain tells what the service says", || {
        node.leads();
        let text = node.run(&commands("runuser -u cmonhachk"));
        text.contains("verdict: leader\n") && text.contains("HAProxy is told 200: ")
    });
    node.run("cp -r /var/lib/cmonhachk/.s9s /root");
    let text = node.run("cmonhachk --explain");
    assert!(
        text.contains("  cached: leader, ") && text.contains("reported to its clients last: leader\n"),
        "{text}"
    );
    // A check by root makes no lock file, even if it is the first check.
    node.run(&format!("rm {LOCK}*; cmonhachk --explain"));
    assert!(!node.has(LOCK));
    node.leads();
    assert_eq!(node.run(&format!("stat --format '%a %U' {LOCK}")), "600 cmonhachk\n");
}
