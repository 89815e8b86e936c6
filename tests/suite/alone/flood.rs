//! More connections than anybody asks for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, GET, LEADER};
use crate::xinetd::Xinetd;

#[test]
fn after_a_flood_of_5000_connections_in_five_seconds_the_port_answers() {
    let cluster = Cluster::new();
    let xinetd = Xinetd::start(cluster.leader(), "--timeout 1.5");
    let start = Instant::now();
    // Some clients ask and some only connect. None waits for its answer or, when too many come at once,
    // for its connection.
    let connect = || TcpStream::connect_timeout(&xinetd.address.into(), Duration::from_millis(20));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for sent in 1..=625 {
                    if let (Ok(mut stream), true) = (connect(), sent % 2 == 0) {
                        let _ = stream.write_all(GET);
                    }
                    let due = Duration::from_millis(8) * sent;
                    thread::sleep(due.saturating_sub(start.elapsed()));
                }
            });
        }
    });
    let (over, took) = (Instant::now(), start.elapsed());
    let ask = || {
        let mut stream = connect().ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(GET).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    // By its default, xinetd would close the port for ten seconds.
    while ask().as_deref() != Some(LEADER) {
        assert!(over.elapsed() < Duration::from_secs(8), "the port does not answer");
    }
    let runs = cluster.runs();
    println!(
        "5000 connections in {took:.1?}; the port answered {:.1?} later; {runs} runs of s9s",
        over.elapsed()
    );
    assert!(runs <= 50, "{runs} runs of s9s");
}
