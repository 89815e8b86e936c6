//! The situations of a controller's life: what it says, which logins it refuses, when it is not asked.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::cluster::{Cluster, FOLLOWER, GET, LEADER, Node, in_namespaces, requesting, unknown, wait_until};
use crate::syslog::{Log, logging};

/// The answer of this check to a client with this request.
fn ask(check: &mut Command, request: &str) -> String {
    requesting(check, request.as_bytes()).answer()
}

#[test]
fn each_recorded_end_of_s9s_has_its_reason() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for (behaviour, reason) in [
        ("access-denied", "s9s-refused"),
        ("wrong-password", "s9s-refused"),
        ("user-suspended", "s9s-user-suspended"),
        ("login-try-again", "s9s-try-again"),
        ("controller-initializing", "s9s-try-again"),
        ("login-redirect-no-leader", "s9s-redirect-failed"),
        ("list-redirect-leader-down", "s9s-redirect-failed"),
        ("connection-refused", "s9s-no-connection"),
        ("leader-refuses-connections", "s9s-no-connection"),
        ("no-such-host", "s9s-no-such-host"),
        ("not-tls", "s9s-no-tls"),
        ("closed-in-handshake", "s9s-no-tls"),
        ("config-syntax-error", "s9s-conf-unreadable"),
        ("no-credentials", "s9s-no-credentials"),
        (
            "fail 6 Could not load user private key: ~/.s9s/alice.key",
            "s9s-no-credentials",
        ),
        ("fail 3 Could not connect to the database.", "s9s-login-failed"),
        ("fail 3 No valid license.", "s9s-failed"),
        (
            "fail 3 Access denied: the licence of this user has expired.",
            "s9s-failed",
        ),
        ("fail 2 Access denied: no license.", "s9s-failed"),
        ("no-home", "s9s-no-user"),
        ("count 5", "list-unreadable"),
        ("fail 1 Something else.", "s9s-failed"),
        ("crash", "s9s-killed"),
        ("print /dev/null", "list-unreadable"),
    ] {
        node.forget();
        cluster.behaves(behaviour);
        assert_eq!(node.get(&[]), unknown(reason), "{behaviour}");
        assert!(!reason.contains("leader") && !reason.contains("follower"), "{reason}");
    }
}

#[test]
fn a_line_feed_in_a_comment_costs_nobody_the_role() {
    let cluster = Cluster::new();
    let controllers = fs::read_to_string(cluster.folder.join("controllers")).unwrap();
    let sick = r"Heartbeat failed:\nconnection refused\n\n";
    cluster
        .folder
        .write("controllers", controllers.replacen("Accepting heartbeats.", sick, 1));
    assert_eq!(cluster.leader().get(&[]), LEADER);
    assert_eq!(cluster.node("10.0.0.102").get(&[]), FOLLOWER);
    let forged = r"x\nl 1.7.4.3565 system admins 10.0.0.102 10.0.0.102 9501 Acting as leader.";
    cluster
        .folder
        .write("controllers", controllers.replacen("Accepting heartbeats.", forged, 1));
    for address in ["10.0.0.101", "10.0.0.102", "10.0.0.103"] {
        let node = cluster.node(address);
        assert_eq!(node.get(&["--max-age", "0"]), unknown("list-unreadable"));
    }
}

#[test]
fn a_refused_login_is_not_tried_again_until_its_configuration_changes() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let home = cluster.folder.join("home");
    fs::create_dir_all(home.join(".s9s")).unwrap();
    let conf = home.join(".s9s/s9s.conf");
    fs::write(&conf, "cmon_user = system\n").unwrap();
    let get = |arguments: &[&str]| {
        ask(
            node.command().env("HOME", &home).args(arguments),
            "GET / HTTP/1.0\r\n\r\n",
        )
    };
    for (behaviour, reason) in [
        ("wrong-password", "s9s-refused"),
        ("user-suspended", "s9s-user-suspended"),
    ] {
        node.forget();
        cluster.behaves(behaviour);
        let runs = cluster.runs();
        for _ in 0..3 {
            assert_eq!(get(&["--max-age", "0"]), unknown(reason));
        }
        assert_eq!(cluster.runs(), runs + 1, "{behaviour}");
        fs::write(&conf, format!("cmon_user = system # {behaviour}\n")).unwrap();
        assert_eq!(get(&["--max-age", "0"]), unknown(reason));
        assert_eq!(cluster.runs(), runs + 2, "s9s.conf changed");
        fs::write(home.join(".s9s/system.key"), behaviour).unwrap();
        assert_eq!(get(&["--max-age", "0"]), unknown(reason));
        assert_eq!(cluster.runs(), runs + 2, "a new file of a key ends no back-off");
        File::open(&conf).unwrap().set_modified(SystemTime::now()).unwrap();
        assert_eq!(get(&["--max-age", "0"]), unknown(reason));
        assert_eq!(cluster.runs(), runs + 3, "s9s.conf was touched");
        assert_eq!(get(&["--max-age", "0", "--backoff", "0"]), unknown(reason));
        assert_eq!(cluster.runs(), runs + 4, "without the back-off");
        cluster.behaves("list");
        assert_eq!(get(&["--backoff", "0", "--max-age", "0"]), LEADER);
        assert_eq!(get(&["--max-age", "0"]), LEADER, "and there is no back-off any more");
    }
}

#[test]
fn a_refusal_says_nothing_of_another_controller_or_another_client() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("wrong-password");
    assert_eq!(node.get(&[]), unknown("s9s-refused"));
    cluster.behaves("list");
    let mut check = node.command();
    check.env("CMON_CONTROLLER", "https://10.0.0.9:9501");
    assert_eq!(requesting(&mut check, GET).answer(), LEADER, "another controller");

    cluster.behaves("wrong-password");
    assert_eq!(node.get(&[]), unknown("s9s-refused"));
    cluster.behaves("list");
    let other = cluster.folder.join("other-s9s");
    fs::copy(&node.s9s, &other).unwrap();
    assert_eq!(node.get(&["--s9s", other.to_str().unwrap()]), LEADER, "another client");
}

#[test]
fn an_election_and_a_starting_controller_are_asked_every_time() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for behaviour in [
        "login-redirect-no-leader",
        "list-redirect-leader-down",
        "login-try-again",
        "controller-initializing",
        "connection-refused",
        "no-credentials",
    ] {
        cluster.behaves(behaviour);
        let runs = cluster.runs();
        for _ in 0..3 {
            assert!(node.get(&["--max-age", "0"]).contains("unknown"));
        }
        assert_eq!(cluster.runs(), runs + 3, "{behaviour}");
    }
}

/// The node's check as it would be after this many seconds.
pub fn later(node: &Node<'_>, seconds: u32) -> Command {
    let check = node.command();
    in_namespaces(&["--time", &format!("--boottime={seconds}")], r#"exec "$@""#, &check)
}

#[test]
fn a_wrong_password_costs_a_few_logins_in_ten_minutes() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("wrong-password");
    let mut logins = Vec::new();
    let start = Instant::now();
    // More checks would give the same result and take longer.
    for second in (0..600).step_by(4) {
        let runs = cluster.runs();
        // The time that the test itself takes counts, too.
        let ahead = u64::saturating_sub(second, start.elapsed().as_secs()) as u32;
        assert_eq!(
            ask(&mut later(&node, ahead), "GET / HTTP/1.0\r\n\r\n"),
            unknown("s9s-refused")
        );
        logins.extend((cluster.runs() > runs).then_some(second));
    }
    println!("logins in ten minutes of a wrong password, after seconds: {logins:?}");
    assert_eq!(logins.len(), 5, "{logins:?}");
    assert!(logins[1] >= 20 && logins[2] >= logins[1] + 45, "{logins:?}");
    cluster.behaves("list");
    assert_eq!(
        ask(&mut later(&node, 10_000), "GET / HTTP/1.0\r\n\r\n"),
        LEADER,
        "a password that is right again is found out"
    );
}

#[test]
fn a_refusal_that_was_not_given_by_the_credentials_of_now_or_is_over_does_not_count() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("wrong-password");
    let arguments = ["--backoff", "4", "--max-age", "0"];
    let start = Instant::now();
    assert_eq!(node.get(&arguments), unknown("s9s-refused"));
    cluster.behaves("list");
    assert_eq!(node.get(&arguments), unknown("s9s-refused"));
    wait_until("the span is over", || node.get(&arguments) == LEADER);
    assert!(start.elapsed() >= Duration::from_secs(4));
}

#[test]
fn a_login_that_fails_for_a_moment_costs_the_leader_little_more() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for words in ["Internal error: database connection lost.", "Something new."] {
        node.forget();
        cluster.behaves(&format!("fail 3 {words}"));
        let (start, runs) = (Instant::now(), cluster.runs());
        while start.elapsed() < Duration::from_secs(2) {
            assert_eq!(node.get(&["--max-age", "0"]), unknown("s9s-login-failed"));
        }
        cluster.behaves("list");
        wait_until("it leads again", || node.get(&["--max-age", "0"]) == LEADER);
        println!("{words}: leader after {:?}", start.elapsed());
        // Back-offs of 2 s and 4 s, from the start of each run.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(cluster.runs() - runs <= 3, "{}", cluster.runs());
    }
}

#[test]
fn neither_maintenance_nor_another_failure_ends_the_count_of_refusals() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let file = cluster.folder.join("maintenance");
    let arguments = ["--max-age", "0", "--maintenance", file.to_str().unwrap()];
    let get = || node.get(&arguments);
    let after = |seconds| ask(later(&node, seconds).args(arguments), "GET / HTTP/1.0\r\n\r\n");
    cluster.behaves("wrong-password");
    assert_eq!(get(), unknown("s9s-refused"));
    for _ in 0..4 {
        fs::write(&file, "").unwrap();
        assert_eq!(get(), unknown("maintenance"));
        fs::remove_file(&file).unwrap();
        assert_eq!(get(), unknown("s9s-refused"));
    }
    assert_eq!(cluster.runs(), 1, "a toggle is no login");
    cluster.behaves("connection-refused");
    assert_eq!(after(40), unknown("s9s-no-connection"));
    cluster.behaves("wrong-password");
    assert_eq!(after(50), unknown("s9s-refused"));
    assert_eq!(cluster.runs(), 3);
    assert_eq!(after(100), unknown("s9s-refused"));
    assert_eq!(cluster.runs(), 3, "the second back-off lasts a minute");
    cluster.behaves("list");
    assert_eq!(after(120), LEADER);
    cluster.behaves("wrong-password");
    assert_eq!(after(130), unknown("s9s-refused"));
    cluster.behaves("list");
    assert_eq!(after(170), LEADER, "after a success, the first back-off is short again");
}

#[test]
fn maintenance_is_a_file_that_is_touched_and_removed() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let file = cluster.folder.join("maintenance");
    let arguments = ["--max-age", "60", "--maintenance", file.to_str().unwrap()];
    let get = || ask(&mut logging(&node, &arguments), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(get(), LEADER);
    assert_eq!(log.lines().len(), 1);
    fs::write(&file, "Kernel update,\nback at four.\n").unwrap();
    for _ in 0..3 {
        assert_eq!(get(), unknown("maintenance"), "whatever is cached");
    }
    assert_eq!(
        log.lines(),
        [format!(
            "<28>leader -> unknown maintenance: {} says: Kernel update, back at four.",
            file.display()
        )]
    );
    assert_eq!(cluster.runs(), 1);
    let explained = String::from_utf8(node.command_line(&[&arguments[2..], &["--explain"]].concat()).stdout).unwrap();
    assert!(explained.contains("Kernel update, back at four."), "{explained}");
    assert_eq!(node.answer(&arguments), unknown("maintenance"), "by hand as well");
    fs::remove_file(&file).unwrap();
    assert_eq!(get(), LEADER);
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("<29>unknown maintenance -> leader: "), "{lines:?}");
}

#[test]
fn what_is_asked_for_decides_what_a_follower_is_worth() {
    let cluster = Cluster::new();
    let healthy = FOLLOWER.replace("503 Service Unavailable", "200 OK");
    let nobody = unknown("not-listed");
    for (address, role, health, agent) in [
        ("10.0.0.101", LEADER, LEADER, "up\n"),
        ("10.0.0.102", FOLLOWER, healthy.as_str(), "down #follower\n"),
        ("10.0.0.9", &nobody, &nobody, "#unknown not-listed\n"),
    ] {
        let node = cluster.node(address);
        let ask = |request: &str| ask(node.command().args(["--max-age", "60"]), request);
        assert_eq!(ask("GET / HTTP/1.0\r\n\r\n"), role);
        assert_eq!(ask("OPTIONS /other HTTP/1.0\r\n\r\n"), role);
        assert_eq!(ask("GET /health HTTP/1.1\r\nHost: a\r\n\r\n"), health);
        assert_eq!(ask("GET /health?from=zabbix HTTP/1.1\r\n\r\n"), health);
        let (head, _) = health.split_once("\r\n\r\n").unwrap();
        assert_eq!(ask("HEAD /health HTTP/1.1\r\n\r\n"), format!("{head}\r\n\r\n"));
        assert_eq!(ask("agent\n"), agent);
        assert_eq!(ask("agent\r\n"), agent);
        assert_eq!(cluster.runs(), 1, "all of one verdict");
        fs::remove_file(cluster.folder.join("runs")).unwrap();
    }
    let node = cluster.leader();
    let file = cluster.folder.write("maintenance", "");
    let mut check = node.command();
    check.env("CMONHACHK_MAINTENANCE", file);
    assert_eq!(ask(&mut check, "agent\n"), "stopped #maintenance\n");
}

#[test]
fn the_agents_line_is_answered_before_the_client_closes_and_in_time() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("hang");
    assert_eq!(node.ask(&["--timeout", "2"], b"agent\n"), "#unknown s9s-timeout\n");
    let lock = node.hold_the_lock();
    let answer = node.ask(&["--timeout", "1.5", "--max-age", "0"], b"agent\n");
    assert_eq!(answer, "#unknown lock-timeout\n");
    drop(lock);
}

#[test]
fn a_node_that_is_named_needs_no_defaults_file() {
    let cluster = Cluster::new();
    let controllers = fs::read_to_string(cluster.folder.join("controllers")).unwrap();
    let named = controllers.replacen("10.0.0.102\t", "cc2.example.com\t", 1);
    cluster.folder.write("controllers", named);
    let node = Node {
        defaults: "/nonexistent".into(),
        ..cluster.leader()
    };
    assert_eq!(node.get(&[]), unknown("defaults-missing"));
    assert_eq!(node.get(&["--node", "10.0.0.101"]), LEADER);
    assert_eq!(
        node.get(&["--node", "CC2.example.com"]),
        FOLLOWER,
        "shares nothing with another node"
    );
    assert_eq!(node.get(&["--node", "cc2"]), unknown("not-listed"));
    assert_eq!(node.get(&["--node", "localhost"]), unknown("only-loopback"));
    assert_eq!(node.get(&["--node", ""]), unknown("bad-arguments"));
    assert_eq!(
        cluster.leader().get(&["--node", "10.0.0.102"]),
        FOLLOWER,
        "outranks the file"
    );
}

#[test]
fn a_pool_and_an_unclear_file_have_their_reasons() {
    let cluster = Cluster::new();
    for (text, reason) in [
        (
            "EXTRA_OPTS=\"--pool\"\nRPC_BIND_ADDRESSES=10.0.0.101\n",
            "controller-pool",
        ),
        ("EXTRA_OPTS='--cloud x --pool'\n", "controller-pool"),
        ("RPC_BIND_ADDRESSES=\"10.0.0.101,\n10.0.0.102\"\n", "defaults-unclear"),
        ("if true; then\nRPC_BIND_ADDRESSES=10.0.0.101\nfi\n", "defaults-unclear"),
    ] {
        let defaults = cluster.folder.write("defaults", text);
        let node = Node {
            defaults,
            ..cluster.leader()
        };
        assert_eq!(node.get(&["--max-age", "0"]), unknown(reason), "{text}");
    }
    assert_eq!(cluster.runs(), 0);
}

#[test]
fn explain_names_the_files_the_user_and_the_controller() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let home = cluster.folder.join("home");
    fs::create_dir_all(home.join(".s9s")).unwrap();
    let conf = home.join(".s9s/s9s.conf");
    fs::write(
        &conf,
        "[global]\ncmon_user = \"checker\"\ncontroller = https://10.0.0.9:9501\n",
    )
    .unwrap();
    cluster.behaves("wrong-password");
    let check = || {
        let mut check = node.command();
        check
            .env("HOME", &home)
            .env("S9S_SYSTEM_CONFIG", "/nonexistent/s9s.conf");
        check
    };
    assert_eq!(ask(&mut check(), "GET / HTTP/1.0\r\n\r\n"), unknown("s9s-refused"));
    let explain = |check: &mut Command| String::from_utf8(check.arg("--explain").output().unwrap().stdout).unwrap();
    let told = explain(&mut check());
    for line in [
        &format!("  home {} (from HOME)", home.display()),
        &format!("  {}: sets the user checker", conf.display()),
        "  /nonexistent/s9s.conf: not there",
        &format!(
            "  logs in as checker, with the key {}/.s9s/checker.key, which is not there",
            home.display()
        ),
        &format!("  controller asked: https://10.0.0.9:9501 ({})", conf.display()),
        "    Invalid username or password.",
    ] {
        assert!(told.lines().any(|other| other == line), "{line}\n{told}");
    }
    assert_eq!(cluster.runs(), 2, "it asks all the same");
    cluster.behaves("list");
    let told = explain(check().env("CMON_CONTROLLER", "https://cc9:9501"));
    assert!(
        told.contains("  controller asked: https://cc9:9501 (CMON_CONTROLLER)\n"),
        "{told}"
    );
    fs::write(&conf, "controller_host_name = cc8\ncontroller_port = 9501\n").unwrap();
    let told = explain(&mut check());
    assert!(told.contains("  controller asked: cc8 ("), "{told}");
    let told = explain(check().env("S9S_USER_CONFIG", "/"));
    assert!(told.contains("  /: cannot be read: "), "{told}");
    let told = explain(check().env("S9S_USER_CONFIG", "/nonexistent/user.conf"));
    assert!(told.contains("  /nonexistent/user.conf: not there\n"), "{told}");
    assert!(
        told.contains("  controller asked: https://localhost:9501 (default)"),
        "{told}"
    );
}
