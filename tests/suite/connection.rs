//! Started by a super-server with a client's connection.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, FOLLOWER, GET, LEADER, unknown, wait_until};

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
    let mut client = cluster.leader().connect(&[]);
    client.send(b"HEAD / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer(), LEADER.split_inclusive("\r\n\r\n").next().unwrap());
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
    let start = Instant::now();
    assert_eq!(cluster.leader().connect(&[]).answer(), LEADER);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_slow_client_is_not_waited_for_longer_than_a_silent_one() {
    let cluster = Cluster::new();
    let mut client = cluster.leader().connect(&[]);
    let mut slow = client.stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        // One byte every 50 ms: the request would take 1.5 s, and its blank line never comes.
        while slow.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let start = Instant::now();
    assert_eq!(client.receive(), LEADER);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(client.responder.wait().unwrap().code(), Some(0));
    sender.join().unwrap();
}

#[test]
fn the_wait_for_a_request_leaves_time_for_the_check() {
    let cluster = Cluster::new();
    assert_eq!(cluster.leader().connect(&["--timeout", "1"]).answer(), LEADER);
}

#[test]
fn what_is_sent_late_does_not_reset_the_connection() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for _ in 0..50 {
        let mut client = node.connect(&["--max-age", "60"]);
        client.send(GET);
        // The answer is on its way now; the client writes on without reading it.
        client.send(&[b'x'; 100_000]);
        assert_eq!(client.receive(), LEADER);
        // And after it: to a socket that is closed, the second write would be an error.
        for _ in 0..10 {
            client.send(&[b'x'; 1000]);
        }
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.responder.wait().unwrap().code(), Some(0));
    }
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
    assert_eq!(cluster.processes(), []);
    assert_eq!(node.get(&[]), LEADER);
}

#[test]
fn a_client_that_never_closes_does_not_keep_the_responder() {
    let cluster = Cluster::new();
    let mut client = cluster.leader().connect(&[]);
    client.send(GET);
    assert_eq!(client.receive(), LEADER);
    assert_eq!(client.responder.wait().unwrap().code(), Some(0));
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
    let mut client = cluster.leader().connect(&[]);
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
fn explain_is_for_people_and_changes_nothing_for_a_client() {
    let cluster = Cluster::new();
    assert_eq!(cluster.leader().get(&["--explain"]), LEADER);
    assert_eq!(cluster.leader().get(&["--explain"]), LEADER);
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn nothing_that_s9s_prints_reaches_the_client() {
    let cluster = Cluster::new();
    cluster.behaves("fail 3 secret-of-s9s");
    assert_eq!(cluster.leader().get(&[]), unknown("s9s-refused"));
}
