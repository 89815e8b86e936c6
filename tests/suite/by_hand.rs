//! Started from a terminal or a script.

use std::fs;
use std::process::Stdio;

use crate::cluster::{Cluster, FOLLOWER, LEADER, Node, in_namespaces, starting, unknown, with_fault};

#[test]
fn the_answer_is_printed_and_the_status_is_the_state() {
    let cluster = Cluster::new();
    for (address, answer, status) in [
        ("10.0.0.101", LEADER.to_string(), 0),
        ("10.0.0.102", FOLLOWER.to_string(), 1),
        ("10.0.0.10", unknown("not-listed"), 2),
    ] {
        let output = cluster.node(address).by_hand(&[]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), answer);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(status));
    }
}

#[test]
fn standard_input_is_neither_waited_for_nor_read() {
    let cluster = Cluster::new();
    // A pipe that nobody ever writes to or closes.
    let mut child = cluster
        .leader()
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let silent = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(silent);
}

#[test]
fn usage_errors_go_to_standard_error_with_claps_status() {
    let cluster = Cluster::new();
    for (arguments, word) in [
        (&["--timout", "3"][..], "--timout"),
        (&["--timeout", "0"], "more than 0"),
        (&["--timeout", "5s"], "5s"),
        (&["--max-age", "-1"], "-1"),
        (&["--max-age", "1e9"], "between 0 and 3600"),
        (&["surplus"], "surplus"),
    ] {
        let output = cluster.leader().by_hand(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(cluster.runs(), 0);
}

#[test]
fn every_option_is_also_a_variable() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    // Variables already name the node's own files.
    assert_eq!(node.answer(&[]), LEADER);
    let with =
        |name: &str, value: &str| String::from_utf8(node.command().env(name, value).output().unwrap().stdout).unwrap();
    assert_eq!(
        with("CMONHACHK_CMON_DEFAULTS", "/nonexistent"),
        unknown("defaults-missing")
    );
    assert_eq!(with("CMONHACHK_S9S", "/nonexistent"), unknown("s9s-not-found"));
    assert!(with("CMONHACHK_EXPLAIN", "true").contains("verdict: leader"));
    assert_eq!(with("CMONHACHK_EXPLAIN", "0"), LEADER);
    assert_eq!(
        node.command()
            .env("CMONHACHK_TIMEOUT", "x")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        node.command()
            .env("CMONHACHK_MAX_AGE", "x")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    // An option outranks its variable.
    assert_eq!(node.answer(&["--s9s", "/nonexistent"]), unknown("s9s-not-found"));
}

#[test]
fn explain_tells_the_way_to_a_leader() {
    let cluster = Cluster::new();
    let output = cluster.leader().by_hand(&["--explain"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "127.0.0.1 (loopback: ignored)",
        "10.0.0.101",
        "tests/sim/s9s controller --list --long",
        "exited with status 0 after ",
        "Total: 3 controller(s)",
        "l 1.7.4.3565 system admins 10.0.0.101 10.0.0.101 9501 Acting as leader.",
        "verdict: leader",
        "200",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn explain_tells_which_addresses_a_wildcard_stands_for() {
    let cluster = Cluster::new();
    let explained = |script: &str| {
        let mut command = cluster.node("0.0.0.0").command();
        command.arg("--explain");
        let output = in_namespaces(&["--net"], &format!("{script}; exec \"$@\""), &command)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (script, words) in [
        (":", "the wildcard address (no interface's address is known)"),
        (
            "ip address add 10.0.0.7/32 dev lo; ip address add 10.0.0.8/32 dev lo; ip link set lo up",
            "the wildcard address: 10.0.0.7, 10.0.0.8",
        ),
    ] {
        let text = explained(script);
        assert!(text.contains(&format!("    {words}\n")), "{script}: {text}");
    }
}

#[test]
fn explain_tells_why_a_node_is_unknown_and_what_to_do() {
    let cluster = Cluster::new();
    cluster.behaves("fail 3 Invalid username or password.");
    let output = cluster.leader().by_hand(&["--explain"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "exited with status 3",
        "Invalid username or password.",
        "verdict: unknown s9s-refused",
        "503",
        "The controller refused the user",
        "What to do",
        "s9s.conf",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn explain_runs_s9s_itself_however_fresh_the_last_verdict_is() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert_eq!(node.answer(&["--max-age", "60"]), LEADER);
    assert!(
        node.answer(&["--max-age", "60", "--explain"])
            .contains("verdict: leader")
    );
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn explain_shows_what_s9s_printed_without_its_escape_sequences() {
    let cluster = Cluster::new();
    let page = cluster
        .folder
        .write("page", "\u{1b}]0;title\u{7}\u{1b}[2Jnot a list\r\n");
    cluster.behaves(&format!("print {}", page.display()));
    let text = cluster.leader().answer(&["--explain"]);
    assert!(text.contains("not a list"), "{text}");
    assert!(text.contains("verdict: unknown list-unreadable"), "{text}");
    assert!(
        !text
            .chars()
            .any(|character| character.is_control() && character != '\n'),
        "{text:?}"
    );
}

#[test]
fn explain_names_a_pause_only_while_it_counts() {
    let cluster = Cluster::for_any_user();
    cluster.behaves("wrong-password");
    let conf = cluster.folder.write("s9s.conf", "[global]\n");
    let maintenance = cluster.folder.join("maintenance");
    let node = Node {
        s9s: cluster.folder.join("sim"),
        ..cluster.leader()
    };
    // Root does not know whether the service's credentials have changed.
    let mut check = starting("setpriv", &node.command());
    check.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    check.arg(cluster.folder.join("cmonhachk"));
    check
        .env("S9S_USER_CONFIG", &conf)
        .env("CMONHACHK_MAINTENANCE", &maintenance);
    let mut told = |explain: &str| {
        let output = check.env("CMONHACHK_EXPLAIN", explain).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let pause = "s9s is not run for another ";
    assert_eq!(told(""), unknown("s9s-refused"));
    cluster.behaves("list");
    assert!(told("1").contains(pause));
    fs::write(&maintenance, "").unwrap();
    assert_eq!(told(""), unknown("maintenance"));
    fs::remove_file(&maintenance).unwrap();
    assert!(!told("1").contains(pause), "after a maintenance, s9s is run at once");
    cluster.behaves("wrong-password");
    assert_eq!(told(""), unknown("s9s-refused"));
    assert!(told("1").contains(pause));
    cluster.behaves("list");
    cluster.folder.write("s9s.conf", "[global] # corrected\n");
    let text = told("1");
    assert!(
        !text.contains(pause) && text.contains("HAProxy is told 200: "),
        "{text}"
    );
}

#[test]
fn a_reader_that_closes_early_does_not_change_the_status() {
    let cluster = Cluster::new();
    let mut child = cluster
        .node("10.0.0.102")
        .command()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_copied_defaults_file_makes_no_second_leader() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for (own, arguments, answer) in [
        ("10.0.0.102", &[][..], unknown("another-node")),
        ("10.0.0.102", &["--node", "10.0.0.101"], unknown("another-node")),
        ("10.0.0.102", &["--node", "10.0.0.9"], unknown("not-listed")),
        ("10.0.0.101", &[], LEADER.to_string()),
        ("10.0.0.9", &[], LEADER.to_string()),
    ] {
        let asked = |more: &[&str]| {
            let mut check = node.command();
            check.args(["--max-age", "0"]).args(arguments).args(more);
            let script = format!("ip link set lo up; ip address add {own}/32 dev lo; exec \"$@\"");
            let output = in_namespaces(&["--net"], &script, &check).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(asked(&[]), answer, "{own} {arguments:?}");
        let node = arguments.last().unwrap_or(&"10.0.0.101");
        let remark = &format!("    {node} (no interface of this machine has it");
        assert_eq!(asked(&["--explain"]).contains(remark), own != *node, "{own}");
    }
}

#[test]
fn interfaces_that_cannot_be_read_matter_to_a_wildcard_alone() {
    let cluster = Cluster::new();
    for (addresses, answer) in [
        ("0.0.0.0", unknown("interfaces-unreadable")),
        ("10.0.0.101", LEADER.to_string()),
    ] {
        let check = cluster.node(addresses).command();
        // The first socket is the one that asks for them.
        let output = with_fault("socket:error=EACCES:when=1", &check).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), answer, "{addresses}");
    }
}
