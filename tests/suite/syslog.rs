//! What the operator finds in syslog.
//!
//! The path /dev/log cannot be changed, so the checks run in a mount namespace whose /dev/log is the
//! test's own socket.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::cluster::{Cluster, FOLLOWER, GET, LEADER, Node, connect, in_namespaces, requesting, unknown};

const ENTER: &str = "\
mount --bind /dev/null \"$LOG_FOLDER/null\"
mount -t tmpfs tmpfs /dev
touch /dev/null
mount --bind \"$LOG_FOLDER/null\" /dev/null
ln -s \"$LOG_FOLDER/log\" /dev/log
unset LOG_FOLDER
exec \"$@\"";

/// The log daemon's end of the socket.
pub struct Log(UnixDatagram);

impl Log {
    pub fn open(cluster: &Cluster) -> Log {
        cluster.folder.write("null", "");
        let socket = UnixDatagram::bind(cluster.folder.join("log")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Log(socket)
    }

    /// The lines that came since the last look, without the process id.
    pub fn lines(&self) -> Vec<String> {
        let mut buffer = [0; 65536];
        let lines = std::iter::from_fn(|| {
            self.0
                .recv(&mut buffer)
                .ok()
                .map(|length| String::from_utf8(buffer[..length].to_vec()).unwrap())
        });
        let without_pid = |line: String| {
            let (priority, rest) = line.split_once("cmonhachk[").expect("the ident is cmonhachk");
            let (pid, text) = rest.split_once("]: ").unwrap();
            assert!(pid.parse::<u32>().is_ok());
            format!("{priority}{text}")
        };
        lines.map(without_pid).collect()
    }
}

/// The node's check, in a namespace with this log.
pub fn logging(node: &Node<'_>, arguments: &[&str]) -> Command {
    let mut check = node.command();
    check.args(arguments);
    with_log(node.cluster, check)
}

/// The same for any command.
pub fn with_log(cluster: &Cluster, mut check: Command) -> Command {
    check.env("LOG_FOLDER", cluster.folder.path());
    in_namespaces(&["--mount"], ENTER, &check)
}

fn get(node: &Node<'_>, arguments: &[&str]) -> String {
    let mut client = connect(&mut logging(node, arguments));
    client.send(GET);
    client.answer()
}

const ROW: &str = "1.7.4.3565 system admins 10.0.0.101 10.0.0.101 9501";

#[test]
fn a_verdict_is_logged_when_it_differs_from_the_one_before_and_only_then() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let check = || get(&node, &["--max-age", "0"]);
    assert_eq!(check(), LEADER);
    assert_eq!(log.lines(), [format!("<29>none -> leader: l {ROW} Acting as leader.")]);
    for _ in 0..3 {
        assert_eq!(check(), LEADER);
    }
    assert_eq!(log.lines(), [""; 0]);
    cluster.leads("10.0.0.102");
    assert_eq!(check(), FOLLOWER);
    assert_eq!(
        log.lines(),
        [format!("<29>leader -> follower: f {ROW} Accepting heartbeats.")]
    );
    cluster.behaves("fail 5 Connection refused.");
    assert_eq!(check(), unknown("s9s-no-connection"));
    let lines = log.lines();
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("<28>follower -> unknown s9s-no-connection: "),
        "{lines:?}"
    );
    assert!(lines[0].ends_with(": Connection refused."), "{lines:?}");
    cluster.behaves("fail 6 No user name set.");
    assert_eq!(check(), unknown("s9s-no-user"));
    assert!(log.lines()[0].starts_with("<28>unknown s9s-no-connection -> unknown s9s-no-user: "));
}

#[test]
fn a_shared_verdict_is_not_logged_again() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    for _ in 0..5 {
        assert_eq!(get(&node, &["--max-age", "60"]), LEADER);
    }
    assert_eq!(log.lines().len(), 1);
}

#[test]
fn wrong_arguments_are_named() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    assert_eq!(get(&cluster.leader(), &["--timout", "3"]), unknown("bad-arguments"));
    let lines = log.lines();
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("<27>bad-arguments: ") && lines[0].contains("--timout"),
        "{lines:?}"
    );
}

#[test]
fn the_previous_verdict_is_named_also_after_an_edit_of_a_file() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    assert_eq!(get(&node, &[]), LEADER);
    let text = fs::read_to_string(&node.defaults).unwrap();
    fs::remove_file(&node.defaults).unwrap();
    assert_eq!(get(&node, &[]), unknown("defaults-missing"));
    fs::write(&node.defaults, text).unwrap();
    assert_eq!(get(&node, &[]), LEADER);
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[1].starts_with("<28>leader -> unknown defaults-missing: "),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("<29>unknown defaults-missing -> leader: "),
        "{lines:?}"
    );
}

#[test]
fn of_many_checks_that_notice_a_change_one_logs_it() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let file = cluster.folder.join("maintenance");
    let arguments = ["--maintenance", file.to_str().unwrap()];
    for round in 0..5 {
        for (is_there, answer) in [(false, LEADER.to_string()), (true, unknown("maintenance"))] {
            if is_there {
                fs::write(&file, "").unwrap();
            }
            let clients: Vec<_> = (0..20)
                .map(|_| requesting(&mut logging(&node, &arguments), GET))
                .collect();
            for client in clients {
                assert_eq!(client.answer(), answer);
            }
            // If they all left it to each other, the next one logs it.
            assert_eq!(get(&node, &arguments), answer);
            assert_eq!(log.lines().len(), 1, "{round} {answer}");
        }
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_client_that_stays_after_its_answer_is_told_nothing_else() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    // The guard's time is up while the check waits for the client to close.
    let mut client = requesting(&mut logging(&node, &["--timeout", "0.5"]), GET);
    assert_eq!(client.receive(), LEADER);
    client.is_left();
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_lock_that_is_not_free_in_time_is_named() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    assert_eq!(get(&node, &[]), LEADER);
    log.lines();
    let held = node.hold_the_lock();
    for _ in 0..2 {
        assert_eq!(
            get(&node, &["--timeout", "1.5", "--max-age", "0"]),
            unknown("lock-timeout")
        );
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let doing = "<28>leader -> unknown lock-timeout: no verdict came in time beside the lock file ";
    assert!(
        lines[0].starts_with(doing) && lines[0].contains(node.lock.to_str().unwrap()),
        "{lines:?}"
    );
    drop(held);
    assert_eq!(get(&node, &["--max-age", "0"]), LEADER);
    let lines = log.lines();
    assert!(
        lines[0].starts_with("<29>unknown lock-timeout -> leader: "),
        "{lines:?}"
    );
}

#[test]
fn what_s9s_prints_cannot_forge_or_flood_the_log() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let page = cluster.folder.write(
        "page",
        format!("first\n<0>kernel: forged\r\u{1b}[2J\u{7}{}", "x".repeat(100_000)),
    );
    cluster.behaves(&format!("print {}", page.display()));
    assert_eq!(get(&cluster.leader(), &[]), unknown("list-unreadable"));
    let lines = log.lines();
    assert_eq!(lines.len(), 1);
    assert!(!lines[0].chars().any(char::is_control), "{lines:?}");
    assert!(lines[0].len() <= 1024);
}

#[test]
fn a_log_daemon_that_does_not_read_holds_nobody_up() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let flood = UnixDatagram::unbound().unwrap();
    flood.set_nonblocking(true).unwrap();
    while flood.send_to(b"full", cluster.folder.join("log")).is_ok() {}
    assert_eq!(get(&cluster.leader(), &[]), LEADER);
    drop(log);
}

#[test]
fn without_a_log_daemon_nothing_happens() {
    let cluster = Cluster::new();
    drop(Log::open(&cluster));
    assert_eq!(get(&cluster.leader(), &[]), LEADER);
    cluster.folder.write("log", "no socket");
    assert_eq!(get(&cluster.leader(), &["--max-age", "0"]), LEADER);
}
