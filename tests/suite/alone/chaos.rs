//! Everything goes wrong at once on a node under xinetd, and the responses are still right.
//!
//! `CMONHACHK_CHAOS_SECONDS` (see `scale`) sets how long this goes on. `CMONHACHK_CHAOS_SEED` repeats the same
//! faults and clients in the same order; the seed is printed.
//!
//! Every connection comes from its own address. xinetd logs this address with what it did, and a check has it in its
//! environment, so each connection without a response is traced to the one kill or limit that caused this, or to
//! none. The history of the run is judged like every other one: history/judge.rs.

mod faults;
mod xinetd;

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use self::faults::{Machine, comes_true, deck};
use self::xinetd::{Connections, MAX_AGE};
use crate::front::site::inside;
use crate::history::clients::{Manner, Outcome, converse};
use crate::history::plan::plan;
use crate::history::record::{Recorder, every, keep_and_judge, record};
use crate::rng::Rng;
use crate::scale::amount;

const PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
/// How many clients of every kind there are at a time.
const CLIENTS: usize = 16;
/// How often the good clients come, whatever became of the one before: as three HAProxies do.
const PERIOD: Duration = Duration::from_millis(42);
/// How long after the end of all faults every response is right again.
const RECOVERY: Duration = Duration::from_secs(4);
/// What a machine that is so busy may add to the time of a response.
const BUSY: Duration = Duration::from_secs(3);

#[test]
fn whatever_goes_wrong_every_connection_gets_one_right_answer() {
    let seconds = amount("CMONHACHK_CHAOS_SECONDS", 20, 600) as u64;
    let seed = match env::var("CMONHACHK_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("CMONHACHK_CHAOS_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    println!("CMONHACHK_CHAOS_SEED={seed}");
    let machine = Machine::boot();
    let faults = plan(&deck(), seed, seconds * 1000);
    let outcomes = Mutex::new(Vec::new());
    let clients = |recorder: &Recorder, over: &AtomicBool| come(&machine, seed, recorder, over, &outcomes);
    let rest = || {
        // With a quicker one, a queue at the lock would not last.
        machine.node().behaves("slow 0.4");
        thread::sleep(RECOVERY * 2);
    };
    let history = record(&machine, &faults, rest, clients, |recorder| {
        works_as_before(&machine, recorder);
        note(&machine, recorder, &outcomes.lock().unwrap());
    });
    assert_eq!(keep_and_judge(&format!("chaos-{seed}"), &history), 0, "violations");
}

/// Clients of every kind come, and good ones on time, until it is over.
fn come(machine: &Machine, seed: u64, recorder: &Recorder, over: &AtomicBool, outcomes: &Mutex<Vec<Outcome>>) {
    let number = AtomicU32::new(0);
    let client = |manner: fn(&mut Rng) -> Manner| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 192, 0, 1)) + number);
        let manner = manner(&mut Rng(seed ^ (u64::from(number) << 32)));
        let outcome = converse(recorder, from, PORT, manner);
        let is_refused = ["none", "failed"].iter().any(|word| outcome.words().starts_with(word));
        outcomes.lock().unwrap().push(outcome);
        is_refused
    };
    thread::scope(|scope| {
        let client = &client;
        let network = machine.node().systemd.network();
        // A thread has the network of the one that has started it.
        scope.spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        // Otherwise it would be refused thousands of times a second.
                        if client(Manner::random) {
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                });
            }
            every(PERIOD, over, || {
                scope.spawn(|| client(|_| Manner::good()));
            });
        });
    });
}

/// When no client comes any more, the check still follows the list. Notes what does not.
fn works_as_before(machine: &Machine, recorder: &Recorder) {
    let node = machine.node();
    let network = format!("/proc/{}/ns/net", node.systemd.first_process().unwrap());
    let says = || {
        inside(&network, || {
            converse(recorder, Ipv4Addr::LOCALHOST, PORT, Manner::good()).words()
        })
    };
    node.behaves("list");
    for (leader, role) in [("node1", "leader"), ("node2", "follower")] {
        node.hears(leader);
        if !comes_true(|| says() == role) {
            recorder.add_now("left", Some(0), &format!("a check that does not see {leader} lead"));
        }
    }
    if !comes_true(|| !machine.has_checks()) {
        recorder.add_now("left", Some(0), "checks");
    }
}

/// Notes what became of each connection.
fn note(machine: &Machine, recorder: &Recorder, outcomes: &[Outcome]) {
    let millis = |name: &str, bound: Duration| format!("{name} {}", bound.as_millis());
    for bound in [
        millis("max-age", MAX_AGE),
        millis("busy", BUSY),
        millis("recovery", RECOVERY),
    ] {
        recorder.add((0, 0), "bound", None, &bound);
    }
    let connections = Connections::read(machine);
    for outcome in outcomes {
        let words = connections.explain(outcome.from, outcome.words());
        // A check can also be stopped between its response and the end of the connection.
        let end = match connections.is_stopped(outcome.from) {
            true => outcome.last_byte,
            false => outcome.span.1,
        };
        recorder.add((outcome.span.0, end), "check", Some(0), &words);
    }
    for failed in connections.failed() {
        recorder.add_now("failed", Some(0), failed);
    }
}
