//! Started by a super-server with a client's connection.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::cluster::{
    Client, Cluster, FOLLOWER, GET, LEADER, connect, exits, once_in_a_while, requesting, starting, unknown, wait_until,
    with_fault,
};
use crate::syslog::{Log, logging};

#[test]
fn each_state_has_its_answer_byte_for_byte() {
    let cluster = Cluster::new();
    assert_eq!(cluster.node("10.0.0.101").get(&[]), LEADER);
    assert_eq!(cluster.node("10.0.0.102").get(&[]), FOLLOWER);
    assert_eq!(cluster.node("10.0.0.9").get(&[]), unknown("not-listed"));
}

#[test]
fn head_gets_the_head_alone() {
    let cluster = Cluster::new();
    let answer = cluster.leader().ask(&[], b"HEAD / HTTP/1.0\r\n\r\n");
    assert_eq!(answer, LEADER.split_inclusive("\r\n\r\n").next().unwrap());
}

#[test]
fn every_client_gets_its_answer_whatever_it_sent() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let tls_hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[0x5a; 500]].concat();
    let long_head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 64 * 1024], b"\r\n\r\n"].concat();
    let post = [
        b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".as_slice(),
        &[b'p'; 100_000],
    ]
    .concat();
    let requests: [(&str, &[u8]); 11] = [
        ("what HAProxy sends", b"OPTIONS / HTTP/1.0\r\n\r\n"),
        (
            "what keepalived sends",
            b"GET / HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nHost: 10.0.0.101\r\n\r\n",
        ),
        ("nothing at all", b""),
        ("a lone blank line", b"\r\n\r\n"),
        ("half a request", b"GET / HT"),
        ("a request without its blank line", b"GET / HTTP/1.1\r\nHost: a\r\n"),
        ("garbage", b"\x00\xff\n\x80garbage\r\x1b[2J"),
        ("a TLS hello", &tls_hello),
        ("64 KiB of header", &long_head),
        ("a POST with a body", &post),
        ("bare newlines", b"GET / HTTP/1.1\nHost: a\n\n"),
    ];
    for (what, request) in requests {
        for closes in [false, true] {
            let mut client = node.connect(&[]);
            client.send(request);
            if closes {
                client.stream.shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(client.answer(), LEADER, "to {what}, write side closed: {closes}");
        }
    }
}

#[test]
fn a_silent_client_is_answered_within_two_seconds() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert!(once_in_a_while(|| {
        let start = Instant::now();
        assert_eq!(node.connect(&[]).answer(), LEADER);
        start.elapsed() < Duration::from_secs(2)
    }));
}

#[test]
fn a_slow_client_is_not_waited_for_longer_than_a_silent_one() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert!(once_in_a_while(|| {
        let mut client = node.connect(&[]);
        let mut slow = client.stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            // One byte every 50 ms, and the blank line never comes.
            while slow.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let start = Instant::now();
        assert_eq!(client.receive(), LEADER);
        let took = start.elapsed();
        client.is_left();
        sender.join().unwrap();
        took < Duration::from_secs(2)
    }));
}

#[test]
fn the_wait_for_a_request_leaves_time_for_the_check() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert!(once_in_a_while(|| {
        node.connect(&["--timeout", "1", "--max-age", "0"]).answer() == LEADER
    }));
}

#[test]
fn what_is_sent_late_does_not_reset_the_connection() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let is_served = |_: &i32| {
        let mut client = requesting(node.command().args(["--max-age", "60"]), GET);
        // The answer is on its way now; the client writes on without reading it.
        let mut stream = &client.stream;
        let mut sent = stream.write_all(&[b'x'; 100_000]).is_ok();
        let mut answer = String::new();
        sent &= stream.read_to_string(&mut answer).is_ok();
        // It also writes on a moment after the answer: if the socket were closed, the second write would fail.
        thread::sleep(Duration::from_millis(30));
        sent &= (0..10).all(|_| stream.write_all(&[b'x'; 1000]).is_ok());
        let _ = client.stream.shutdown(Shutdown::Write);
        client.is_left();
        sent && answer == LEADER
    };
    // The check reads on for a second after its answer. A client may be later than that now and then.
    let served = (0..30).filter(is_served).count();
    assert!(served >= 25, "{served} of 30 clients were served");
}

#[test]
fn a_client_that_is_gone_leaves_nothing_behind() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for sends in [&b""[..], b"GET", GET] {
        let mut client = node.connect(&["--max-age", "0"]);
        client.send(sends);
        drop(client.stream);
        assert_eq!(client.responder.wait().unwrap().code(), Some(0));
    }
    wait_until("nothing is left", || cluster.processes().is_empty());
    assert_eq!(node.get(&[]), LEADER);
}

#[test]
fn a_client_that_never_closes_does_not_keep_the_responder() {
    let cluster = Cluster::new();
    let mut client = cluster.leader().connect(&[]);
    client.send(GET);
    assert_eq!(client.receive(), LEADER);
    client.is_left();
}

/// Bytes of a head that never ends.
fn endless_head(length: usize) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; length]].concat()[..length].to_vec()
}

#[test]
fn a_head_is_waited_for_up_to_8_kib_and_no_further() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert_eq!(node.get(&["--max-age", "60"]), LEADER);
    // The verdict is cached, so the check waits only for the head, for at most a second.
    let after = |request: &[u8]| {
        let mut client = node.connect(&["--max-age", "60"]);
        let start = Instant::now();
        client.send(request);
        assert_eq!(client.receive(), LEADER);
        start.elapsed()
    };
    let half_a_second = Duration::from_millis(500);
    assert!(once_in_a_while(|| after(&endless_head(8 * 1024)) < half_a_second));
    assert!(once_in_a_while(|| after(&endless_head(8 * 1024 - 1)) > half_a_second));
}

#[test]
fn a_late_head_request_gets_no_body_even_where_there_can_be_no_check() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let wrong = || node.connect(&["--timout", "3"]);
    let alone = || connect(&mut with_fault("clone,clone3:error=EAGAIN", &node.command()));
    let gets_no_body = |mut client: Client, code| {
        // The check waits for the first byte for 0.4 s.
        thread::sleep(Duration::from_millis(200));
        client.send(b"HEAD / HTTP/1.0\r\n\r\n");
        let whole = unknown(code);
        let (head, _) = whole.split_once("<html>").unwrap();
        client.receive() == head
    };
    assert!(once_in_a_while(|| gets_no_body(wrong(), "bad-arguments")));
    assert!(once_in_a_while(|| gets_no_body(alone(), "s9s-not-started")));
}

#[test]
fn a_client_that_never_stops_sending_does_not_keep_the_responder() {
    let cluster = Cluster::new();
    let mut client = cluster.leader().connect(&[]);
    let mut flood = client.stream.try_clone().unwrap();
    let sender = thread::spawn(move || while flood.write_all(&[b'x'; 4096]).is_ok() {});
    client.is_left();
    sender.join().unwrap();
}

/// Starts a check on a connection that has no room left. The connection is local: each byte is either
/// with the other side or not sent.
fn connect_without_room(command: &mut Command) -> (UnixStream, Child) {
    let (mut ours, mut socket) = UnixStream::pair().unwrap();
    ours.write_all(GET).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(b" ").is_ok() {}
    socket.set_nonblocking(false).unwrap();
    let socket = OwnedFd::from(socket);
    let responder = command
        .stdin(socket.try_clone().unwrap())
        .stdout(socket)
        .spawn()
        .unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    (ours, responder)
}

#[test]
fn an_answer_that_finds_no_room_is_given_up() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let (stream, mut responder) = connect_without_room(&mut logging(&cluster.leader(), &[]));
    exits(&mut responder);
    let lines = log.lines();
    let expected = "<27>the response could not be sent: EAGAIN";
    assert!(lines.iter().any(|line| line.starts_with(expected)), "{lines:?}");
    drop(stream);
}

#[test]
fn a_client_that_resets_the_connection_ends_no_check() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    cluster.behaves("gate");
    let mut client = connect(&mut logging(&cluster.leader(), &[]));
    client.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&client.stream, sockopt::Linger, &at_once).unwrap();
    let Client { stream, mut responder } = client;
    drop(stream);
    cluster.open_gate();
    exits(&mut responder);
    assert_eq!(
        log.lines().len(),
        1,
        "the verdict; a client that is gone is its own business"
    );
}

/// Looks at a check while it waits for an s9s that behaves as `gate`.
fn output_and_error_lead_nowhere(cluster: &Cluster, check: &mut Command) {
    let mut client = connect(check);
    client.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    for descriptor in [1, 2] {
        let link = format!("/proc/{}/fd/{descriptor}", client.responder.id());
        assert_eq!(fs::read_link(link).unwrap().to_str(), Some("/dev/null"));
    }
    cluster.open_gate();
    assert_eq!(client.answer(), LEADER);
}

#[test]
fn standard_descriptors_that_are_closed_are_not_taken_by_files_of_the_check() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let check = cluster.leader().command();
    let mut shell = starting("sh", &check);
    shell.args(["-c", "exec \"$0\" >&- 2>&-"]).arg(check.get_program());
    output_and_error_lead_nowhere(&cluster, &mut shell);
}

#[test]
fn a_wait_is_one_call_and_not_many() {
    let cluster = Cluster::new();
    let check = cluster.leader().command();
    let log = cluster.folder.join("strace");
    let mut traced = starting("strace", &check);
    traced.args(["-qq", "-e", "trace=recvfrom", "-o"]).arg(&log);
    traced.arg(check.get_program());
    // A silent client is waited for before the answer, and after it.
    let mut client = connect(&mut traced);
    assert_eq!(client.receive(), LEADER);
    client.is_left();
    let calls = fs::read_to_string(log).unwrap();
    assert!((2..20).contains(&calls.lines().count()), "{calls}");
}

#[test]
fn wrong_options_give_an_answer_and_nothing_else() {
    let cluster = Cluster::new();
    for arguments in [
        &["--timout", "3"][..],
        &["--timeout", "never"],
        &["--help"],
        &["--version"],
        &["surplus"],
    ] {
        assert_eq!(
            cluster.leader().get(arguments),
            unknown("bad-arguments"),
            "{arguments:?}"
        );
    }
    let mut command = cluster.leader().command();
    let mut client = crate::cluster::connect(command.env("CMONHACHK_MAX_AGE", "x"));
    client.send(GET);
    assert_eq!(client.answer(), unknown("bad-arguments"));
    assert_eq!(cluster.runs(), 0);
}

#[test]
fn standard_output_and_error_lead_nowhere_so_that_no_text_of_a_library_reaches_the_client() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    output_and_error_lead_nowhere(&cluster, &mut cluster.leader().command());
}

#[test]
fn explain_is_for_people_and_changes_nothing_for_a_client() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for _ in 0..2 {
        assert_eq!(node.get(&["--explain", "--max-age", "60"]), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn nothing_that_s9s_prints_reaches_the_client() {
    let cluster = Cluster::new();
    cluster.behaves("fail 3 secret-of-s9s");
    assert_eq!(cluster.leader().get(&[]), unknown("s9s-login-failed"));
}

#[test]
fn a_socket_between_programs_is_no_client() {
    let cluster = Cluster::new();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut command = cluster.node("10.0.0.102").command();
    let output = command
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), FOLLOWER);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn half_a_request_is_not_waited_for_until_the_deadline() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    // After the deadline, no role is told.
    assert!(once_in_a_while(|| node.ask(&["--timeout", "1"], b"GET / HT") == LEADER));
}
