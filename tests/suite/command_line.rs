//! Started from a terminal or a script.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use nix::unistd::{Uid, chown};

use crate::cluster::{Cluster, FOLLOWER, GET, LEADER, Node, in_namespaces, requesting, unknown, with_fault};
use crate::controller::later;

#[test]
fn the_answer_is_printed_and_the_status_is_the_state() {
    let cluster = Cluster::new();
    for (address, answer, status) in [
        ("10.0.0.101", LEADER.to_string(), 0),
        ("10.0.0.102", FOLLOWER.to_string(), 1),
        ("10.0.0.10", unknown("not-listed"), 2),
    ] {
        let output = cluster.node(address).command_line(&[]);
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
        let output = cluster.leader().command_line(arguments);
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
    let node = cluster.leader();
    assert_eq!(node.get(&[]), LEADER);
    let output = node.command_line(&["--explain"]);
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
        (":", "the wildcard address (no interface has an address)"),
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
    let node = cluster.leader();
    assert_eq!(node.get(&[]), unknown("s9s-refused"));
    let output = node.command_line(&["--explain"]);
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
    assert_eq!(node.get(&["--max-age", "60"]), LEADER);
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
fn explain_says_what_the_service_answers_and_for_how_long() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let explain = || node.answer(&["--explain", "--max-age", "60"]);
    let has = |text: &str, line: &str| assert!(text.contains(line), "no {line:?} in\n{text}");
    let text = explain();
    has(&text, "  reported to its clients last: nothing\n");
    has(&text, "  The service was not asked just now: ");
    assert_eq!(node.get(&["--max-age", "60"]), LEADER);
    let text = explain();
    has(&text, "  cached: leader, ");
    has(
        &text,
        "  verdict: leader\n  HAProxy is told 200: users are sent to this node.\n",
    );
    // It is told what the service says, and not what a person's check finds out.
    cluster.leads("10.0.0.102");
    has(&explain(), "  verdict: follower\n  HAProxy is told 200: ");
    cluster.behaves("wrong-password");
    assert_eq!(node.get(&["--max-age", "0"]), unknown("s9s-refused"));
    cluster.leads("10.0.0.101");
    cluster.behaves("list");
    let text = explain();
    has(&text, "  back-off: s9s is not run for another 2");
    has(&text, "  verdict: leader\n  HAProxy is told 503: ");
    // A process that is gone holds s9s up no more.
    let path = format!("{}.verdict", node.lock.display());
    let entry = fs::read_link(&path)
        .unwrap()
        .to_str()
        .unwrap()
        .replacen(" 0/0 ", " 999999999/7 ", 1);
    fs::remove_file(&path).unwrap();
    symlink(entry, &path).unwrap();
    let text = explain();
    assert!(
        text.contains("  cached: unknown s9s-refused, ") && !text.contains("back-off:"),
        "{text}"
    );
    // What is not published has no age, but this check finds the same.
    node.forget();
    let file = cluster.folder.write("maintenance", "new disks");
    let maintenance = ["--maintenance", file.to_str().unwrap()];
    assert_eq!(node.get(&maintenance), unknown("maintenance"));
    let text = node.answer(&[&maintenance[..], &["--explain"]].concat());
    has(&text, "  verdict: unknown maintenance\n  HAProxy is told 503: ");
    // The defaults file is not read, so nothing is promised of it.
    assert!(!text.contains("RPC_BIND_ADDRESSES"), "{text}");
    has(
        &text,
        "reported to its clients last: unknown maintenance\nWhat that means\n",
    );
    // A verdict that is old says nothing of now.
    node.forget();
    assert_eq!(node.get(&[]), LEADER);
    let output = later(&node, 100).arg("--explain").output().unwrap();
    has(
        &String::from_utf8(output.stdout).unwrap(),
        "  The service was not asked just now: ",
    );
}

#[test]
fn explain_tells_root_what_the_service_keeps_in_a_folder_of_its_own() {
    let cluster = Cluster::for_any_user();
    let folder = cluster.folder.join("service");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    chown(&folder, Some(Uid::from_raw(65534)), None).unwrap();
    let node = Node {
        lock: folder.join("lock"),
        s9s: cluster.folder.join("sim"),
        ..cluster.leader()
    };
    cluster.behaves("wrong-password");
    let refused = requesting(&mut node.command_of_nobody(), GET).answer();
    assert_eq!(refused, unknown("s9s-refused"));
    let text = node.answer(&["--explain"]);
    for part in [
        "  its folder belongs to user 65534: the service must run as that user\n",
        "  back-off: s9s is not run for another 2",
        "  reported to its clients last: unknown s9s-refused\n",
        "  HAProxy is told 503: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn explain_claims_nothing_of_a_service_whose_folder_it_may_not_enter() {
    let cluster = Cluster::for_any_user();
    let folder = cluster.folder.join("service");
    let node = Node {
        lock: folder.join("lock"),
        s9s: cluster.folder.join("sim"),
        ..cluster.leader()
    };
    assert_eq!(node.get(&[]), LEADER);
    let mut check = node.command_of_nobody();
    check.arg("--explain");
    let told = String::from_utf8(check.output().unwrap().stdout).unwrap();
    assert!(
        told.contains("  its folder belongs to user 0, and user 65534 may not look into it\n")
            && told.contains("The service was not asked just now"),
        "{told}"
    );
    assert!(!told.contains("root's files"), "{told}");
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

/// The verdict of the node's check on a machine with these addresses, as ip(8) sets them.
fn on_a_machine(node: &Node<'_>, addresses: &str, arguments: &[&str]) -> String {
    let mut check = node.command();
    check.args(arguments);
    let script = format!("ip link set lo up; {addresses} exec \"$@\"");
    let output = in_namespaces(&["--net"], &script, &check).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_copied_defaults_file_makes_no_second_leader() {
    let cluster = Cluster::new();
    let copied = cluster.leader();
    // Whatever the list says of this machine: nothing, another address, a name, or only the leader.
    let own_row = "l\t1.9\ta\tb\tcc1\t10.0.0.101\t9501\tx\nf\t1.9\ta\tb\tcc2\t-\t9501\tx\n";
    let leader_alone = "l\t1.9\ta\tb\t10.0.0.101\t10.0.0.101\t9501\tx\n";
    for controllers in [own_row, leader_alone] {
        cluster.folder.write("controllers", controllers);
        let own = "ip address add 10.0.0.102/32 dev lo;";
        assert_eq!(on_a_machine(&copied, own, &[]), unknown("another-node"));
        let explained = on_a_machine(&copied, own, &["--explain"]);
        assert!(
            explained.contains("    10.0.0.101 (no interface of this machine has it)\n"),
            "{explained}"
        );
        assert_eq!(
            on_a_machine(&copied, own, &["--node", "10.0.0.101"]),
            LEADER,
            "--node is not questioned"
        );
        assert_eq!(on_a_machine(&copied, "", &[]), unknown("another-node"));
    }
    let down = "ip link add eth9 type veth; ip address add 10.0.0.101/24 dev eth9;";
    assert_eq!(
        on_a_machine(&copied, down, &[]),
        LEADER,
        "an interface that is down has its address"
    );
    let named = Node {
        defaults: cluster
            .folder
            .write("named", "RPC_BIND_ADDRESSES=10.0.0.102,10.0.0.101\n"),
        ..cluster.leader()
    };
    cluster.leads("10.0.0.101");
    let own = "ip address add 10.0.0.102/32 dev lo;";
    assert_eq!(
        on_a_machine(&named, own, &[]),
        FOLLOWER,
        "only this machine's address counts"
    );
}

#[test]
fn interfaces_that_cannot_be_read_leave_every_address_in_doubt() {
    let cluster = Cluster::new();
    for (addresses, arguments, answer) in [
        ("0.0.0.0", &[][..], unknown("interfaces-unreadable")),
        ("10.0.0.101", &[], unknown("interfaces-unreadable")),
        ("10.0.0.101", &["--node", "10.0.0.101"], LEADER.to_string()),
    ] {
        let mut check = cluster.node(addresses).command();
        check.args(arguments);
        // The first socket is the one that asks for them.
        let output = with_fault("socket:error=EACCES:when=1", &check).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), answer, "{addresses}");
    }
}
