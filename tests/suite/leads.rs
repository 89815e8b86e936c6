//! cmonhachk-leads, which keepalived asks whether this node leads: what it says, and how soon, whatever the check and
//! the UI do. `leads/address.rs` has keepalived itself.

pub mod address;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::built;
use crate::cluster::{Cluster, Daemon, enter_network, once_in_a_while, wait_until};
use crate::pauses::unless_paused;

const NODE: &str = "10.0.0.101";
const CHECK_PORT: u16 = 9201;
const UI_PORT: u16 = 443;

/// keepalived ends the program after this time: `timeout` of deploy/keepalived/leader.conf.
const TIMEOUT: Duration = Duration::from_secs(8);

const LEADS: &str = "This node leads, and its UI accepts connections.\n";
const FOLLOWS: &str = "This node is a follower.\n";

fn unclear(why: &str) -> String {
    format!("This node does not count as the leader: {why}.\n")
}

/// The node's real check, at its port.
fn check(cluster: &Cluster, variables: &[(&str, &str)]) -> Daemon {
    let mut check = cluster.leader().command();
    check.envs(variables.iter().copied());
    check.args(["--listen", &format!("[::]:{CHECK_PORT}")]);
    let check = Daemon(check.spawn().unwrap());
    wait_until("the check listens", || {
        let sockets = Command::new("ss")
            .args(["-Hltn", &format!("sport = {CHECK_PORT}")])
            .output();
        !sockets.unwrap().stdout.is_empty()
    });
    check
}

fn listens_on(address: &str, port: u16) -> TcpListener {
    enter_network();
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let mut listener = None;
    // The kernel makes an address of IPv6 usable a moment after it was added.
    wait_until("the address can be used", || {
        listener = TcpListener::bind(address).ok();
        listener.is_some()
    });
    listener.unwrap()
}

/// The node's UI. The kernel accepts its connections.
fn ui() -> TcpListener {
    listens_on(NODE, UI_PORT)
}

fn program(address: &str) -> Command {
    enter_network();
    let mut program = Command::new(built::leads());
    program
        .args([address, &UI_PORT.to_string()])
        .env_clear()
        .stdin(Stdio::null());
    program
}

/// Its exit status, and what it prints for a person.
fn result(output: &Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap())
}

fn ask(address: &str) -> (Option<i32>, String) {
    result(&program(address).output().unwrap())
}

/// Starts it, does something meanwhile, and returns what it says.
fn ask_while(act: impl FnOnce()) -> (Option<i32>, String) {
    let program = program(NODE)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    act();
    result(&program.wait_with_output().unwrap())
}

/// Its answer comes in this time, unless the machine pauses.
fn answers_within(limit: Duration, expected: &(Option<i32>, String)) {
    unless_paused(|| {
        let start = Instant::now();
        assert_eq!(ask(NODE), *expected);
        let took = start.elapsed();
        if took < limit { Ok(()) } else { Err(took) }
    });
}

/// Something else than a check at the check's port. It does this with each connection.
fn stand_in(act: impl Fn(TcpStream) + Send + 'static) {
    let listener = listens_on(NODE, CHECK_PORT);
    thread::spawn(move || {
        for stream in listener.incoming() {
            act(stream.unwrap());
        }
    });
}

#[test]
fn the_leader_has_its_ui() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[]), ui());
    assert_eq!(ask(NODE), (Some(0), LEADS.to_string()));
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn a_node_may_have_an_address_of_ipv6() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[]), listens_on("fd00::7", UI_PORT));
    assert_eq!(ask("fd00::7"), (Some(0), LEADS.to_string()));
}

#[test]
fn a_follower_says_so_at_once() {
    let cluster = Cluster::new();
    cluster.leads("10.0.0.102");
    let (_check, _ui) = (check(&cluster, &[]), ui());
    answers_within(Duration::from_secs(1), &(Some(1), FOLLOWS.to_string()));
}

/// The second question does not get the first one's verdict again.
#[test]
fn a_role_that_is_unknown_once_does_not_count() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[]), ui());
    // The next run is the second one.
    cluster.folder.write("runs", "0\n");
    cluster.behaves("flaky 2");
    assert_eq!(ask(NODE), (Some(0), LEADS.to_string()));
    assert_eq!(cluster.runs(), 3);
}

#[test]
fn a_role_that_is_unknown_twice_counts() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[]), ui());
    cluster.behaves("connection-refused");
    let why = unclear("its role is unknown, s9s-no-connection");
    assert_eq!(ask(NODE), (Some(1), why));
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_leader_whose_ui_is_closed_is_asked_again() {
    let cluster = Cluster::new();
    let _check = check(&cluster, &[]);
    let why = unclear("it leads, but its UI at port 443 accepts no connection (nothing listens there)");
    assert_eq!(ask(NODE), (Some(1), why));
    assert_eq!(cluster.runs(), 2);

    // On a busy machine, the UI may be too late for the second question.
    assert!(once_in_a_while(|| {
        let mut opened = None;
        let runs = cluster.runs();
        let said = ask_while(|| {
            wait_until("it has begun", || cluster.runs() > runs);
            opened = Some(ui());
        });
        said == (Some(0), LEADS.to_string())
    }));
}

/// A check may take as long as an operator allows, and the second question waits for it, too.
#[test]
fn a_slow_check_counts() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[]), ui());
    for seconds in ["1.5", "4"] {
        cluster.behaves(&format!("slow {seconds}"));
        let runs = cluster.runs();
        assert_eq!(ask(NODE), (Some(0), LEADS.to_string()), "{seconds}");
        assert_eq!(cluster.runs(), runs + 1, "{seconds}");
    }
}

#[test]
fn a_check_that_finds_out_nothing_in_time_is_asked_again() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[("CMONHACHK_TIMEOUT", "1.5")]), ui());
    cluster.behaves("slow 20");
    let why = unclear("its role is unknown, s9s-timeout");
    answers_within(Duration::from_millis(3300), &(Some(1), why));
}

#[test]
fn where_nothing_listens_it_asks_again_and_the_check_may_come() {
    let cluster = Cluster::new();
    let _ui = ui();
    let why = unclear("no answer: nothing listens on port 9201");
    answers_within(Duration::from_millis(1500), &(Some(1), why));

    assert!(once_in_a_while(|| {
        let mut listens = None;
        ask_while(|| listens = Some(check(&cluster, &[]))) == (Some(0), LEADS.to_string())
    }));
}

#[test]
fn a_port_that_says_nothing_keeps_it_for_less_than_keepalived_waits() {
    let _silent = listens_on(NODE, CHECK_PORT);
    let why = unclear("no answer: port 9201 accepts the connection and is silent; the host may be frozen");
    answers_within(TIMEOUT - Duration::from_millis(500), &(Some(1), why));
}

#[test]
fn a_port_that_says_little_by_little_keeps_it_no_longer() {
    stand_in(|mut stream| {
        thread::spawn(move || {
            while stream.write_all(b"a").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
    });
    let why = unclear("no answer: another program has port 9201");
    answers_within(TIMEOUT - Duration::from_millis(500), &(Some(1), why));
}

#[test]
fn of_a_port_that_says_much_it_reads_4_kib() {
    stand_in(|mut stream| {
        let much = "a: b\r\n".repeat(700) + "Cmonhachk-State: leader\r\n\r\n";
        // A reset would take what was sent with it.
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{much}").as_bytes());
    });
    let _ui = ui();
    let why = unclear("no answer: another program has port 9201");
    assert_eq!(ask(NODE), (Some(1), why));
}

#[test]
fn another_program_at_the_port_is_no_leader() {
    stand_in(|mut stream| {
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
    });
    let _ui = ui();
    assert_eq!(
        ask(NODE),
        (Some(1), unclear("no answer: another program has port 9201"))
    );
}

#[test]
fn wrong_arguments_get_a_line_that_says_so() {
    for arguments in [&[][..], &["node1", "443"], &["--help"]] {
        let output = Command::new(built::leads()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, "usage: cmonhachk-leads ADDRESS UI-PORT\n");
    }
}

#[test]
fn it_needs_nobody_who_listens() {
    let cluster = Cluster::new();
    let (_check, _ui) = (check(&cluster, &[]), ui());
    for redirection in [">/dev/full 2>&1", ">&- 2>&-", "| true"] {
        let line = format!("set -o pipefail; \"$@\" {redirection}; echo ${{PIPESTATUS[0]}} >&3");
        let script = format!("exec 3>&1; {line}");
        let program = program(NODE);
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &script, "bash"])
            .arg(program.get_program())
            .args(program.get_args());
        let status = shell.output().unwrap().stdout;
        assert_eq!(String::from_utf8(status).unwrap(), "0\n", "{redirection}");
    }
}
