//! Many clients at a time, many checks one after the other, and how long an answer takes.
//!
//! These tests measure, so they run alone; see tests/run.sh. The amounts (see `scale`):
//! `CMONHACHK_BURST` connections at the same moment, `CMONHACHK_CHECKS` checks one after the other, and
//! `CMONHACHK_HANGS` answers while s9s hangs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{AtEnd, Cluster, GET, LEADER, PATIENCE, ask, receive, unknown, wait_until};
use crate::scale::{amount, percentiles};
use crate::xinetd::Xinetd;

/// Sends a correct request and measures the time to the end of the answer, which must be one of these.
fn timed(address: SocketAddrV4, expected: &[String]) -> Duration {
    let start = Instant::now();
    let mut stream = ask(address, GET);
    // xinetd's queue takes 64 connections at a time. The others of a burst wait for TCP's
    // retransmissions, which come at growing intervals.
    stream.set_read_timeout(Some(3 * PATIENCE)).unwrap();
    let answer = receive(&mut stream);
    let took = start.elapsed();
    assert!(expected.contains(&answer), "{answer:?}");
    took
}

/// The same for a leader.
fn timed_leader(address: SocketAddrV4) -> Duration {
    timed(address, &[LEADER.to_string()])
}

#[test]
fn connections_at_the_same_moment_are_all_answered_rightly() {
    let count = amount("CMONHACHK_BURST", 300, 1000);
    let cluster = Cluster::new();
    let xinetd = Xinetd::start(cluster.leader(), "--timeout 15 --max-age 1");
    let together = Barrier::new(count);
    let start = Instant::now();
    let took: Vec<Duration> = thread::scope(|scope| {
        let client = || {
            together.wait();
            timed_leader(xinetd.address)
        };
        let clients: Vec<_> = (0..count)
            .map(|_| {
                thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn_scoped(scope, client)
                    .unwrap()
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (runs, seconds) = (cluster.runs(), start.elapsed().as_secs() as usize);
    println!("{}; {runs} runs of s9s in {seconds} s", percentiles(took));
    assert!(runs <= seconds + 1, "{runs} runs of s9s in {seconds} seconds");
}

/// Holds a connection, silent or sending a byte every 100 ms, until a second after the answer.
fn hold(address: SocketAddrV4, sends: bool) {
    // The silent one sends a first byte, too: if xinetd's queue is full, the kernel does not know a
    // connection on which nothing ever comes.
    let mut stream = ask(address, b"G");
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (start, mut answer, mut chunk) = (Instant::now(), Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if sends {
                    let _ = stream.write_all(b"x");
                }
            }
            // It was so late with a byte that the responder was gone.
            Err(_) if !answer.is_empty() => break,
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(String::from_utf8(answer).unwrap(), LEADER);
    thread::sleep(Duration::from_secs(1));
}

#[test]
fn two_hundred_slow_or_silent_clients_do_not_delay_a_good_one() {
    let cluster = Cluster::new();
    let xinetd = Xinetd::start(cluster.leader(), "--timeout 15 --max-age 1");
    let median = || {
        let mut took: Vec<_> = (0..51).map(|_| timed_leader(xinetd.address)).collect();
        took.sort();
        (took[25], took[50])
    };
    let (alone, _) = median();
    let (held, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (burdened, worst) = thread::scope(|scope| {
        let _over = AtEnd(&over);
        for number in 0..200 {
            let (held, over, address) = (&held, &over, xinetd.address);
            scope.spawn(move || {
                // Not all at once, because that is another test.
                thread::sleep(Duration::from_millis(5) * number);
                while !over.load(Ordering::Relaxed) {
                    held.fetch_add(1, Ordering::Relaxed);
                    hold(address, number % 2 == 0);
                }
            });
        }
        wait_until("all of them hold a connection", || held.load(Ordering::Relaxed) >= 200);
        median()
    });
    let held = held.into_inner();
    println!("median alone {alone:.1?}, beside {held} held connections {burdened:.1?}, slowest {worst:.1?}");
    // A silent client is answered after a second. A good client that waited for one would take as long.
    assert!(
        burdened < alone + Duration::from_millis(500),
        "{burdened:?} instead of {alone:?}"
    );
}

/// What a process must not accumulate when it runs for months.
#[derive(Debug)]
struct Held {
    /// Resident memory and data segment in KiB.
    memory: [usize; 2],
    descriptors: usize,
    children: usize,
    files: BTreeSet<String>,
}

fn held(cluster: &Cluster, xinetd: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{xinetd}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_end_matches(" kB").trim().parse().unwrap()
    };
    let entries = fs::read_dir(cluster.folder.path()).unwrap();
    Held {
        memory: [field("VmRSS:"), field("VmData:")],
        descriptors: fs::read_dir(format!("/proc/{xinetd}/fd")).unwrap().count(),
        children: fs::read_to_string(format!("/proc/{xinetd}/task/{xinetd}/children"))
            .unwrap()
            .split_whitespace()
            .count(),
        files: entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect(),
    }
}

#[test]
fn a_days_checks_leave_nothing_behind() {
    let checks = amount("CMONHACHK_CHECKS", 1000, 50_000);
    let cluster = Cluster::new();
    let xinetd = Xinetd::start(cluster.leader(), "");
    let check = |times| {
        let took = (0..times).map(|_| timed_leader(xinetd.address)).collect();
        wait_until("no check is left", || held(&cluster, xinetd.pid()).children == 0);
        took
    };
    check(200);
    let before = held(&cluster, xinetd.pid());
    let took: Vec<Duration> = check(checks);
    let after = held(&cluster, xinetd.pid());
    println!(
        "before: {before:?}\nafter {checks} more: {after:?}\n{}",
        percentiles(took)
    );
    assert_eq!(
        (after.descriptors, after.children, &after.files),
        (before.descriptors, before.children, &before.files)
    );
    for (before, after) in before.memory.into_iter().zip(after.memory) {
        // Less than six bytes a check in the long form.
        assert!(after <= before + 256, "xinetd grew from {before} to {after} KiB");
    }
    assert_eq!(fs::metadata(cluster.leader().lock).unwrap().len(), 0);
}

#[test]
fn while_s9s_hangs_answers_come_within_the_timeout_and_200_ms() {
    const NODES: usize = 4;
    const CLIENTS: usize = 4;
    const TIMEOUT: Duration = Duration::from_millis(300);
    let answers = amount("CMONHACHK_HANGS", 480, 5000);
    let clusters: Vec<Cluster> = (0..NODES).map(|_| Cluster::new()).collect();
    let xinetds: Vec<Xinetd<'_>> = clusters
        .iter()
        .map(|cluster| {
            cluster.behaves("hang");
            Xinetd::start(cluster.leader(), "--timeout 0.3 --max-age 0")
        })
        .collect();
    // A check that came to the lock just after a verdict waits for a run that ends after its own timeout.
    // The guard answers `stuck` if the check itself gets no processor time for 200 ms.
    let expected = ["s9s-timeout", "lock-timeout", "stuck"].map(unknown);
    let took: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = xinetds
            .iter()
            .flat_map(|xinetd| (0..CLIENTS).map(|_| xinetd.address))
            .map(|address| {
                let expected = &expected;
                scope.spawn(move || {
                    let asked = answers.div_ceil(NODES * CLIENTS);
                    let answers = (0..asked).map(|_| timed(address, expected));
                    answers.collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let late = took
        .iter()
        .filter(|took| **took > TIMEOUT + Duration::from_millis(200))
        .count();
    let runs: usize = clusters.iter().map(Cluster::runs).sum();
    let answers = took.len();
    println!(
        "{late} of {answers} came later than {TIMEOUT:?} and 200 ms, {runs} runs of s9s; {}",
        percentiles(took)
    );
    // The figure is for the README. A busy machine may pause for seconds; then all clients are late once.
    assert!(late <= answers / 4, "{late} of {answers} were late");
}
