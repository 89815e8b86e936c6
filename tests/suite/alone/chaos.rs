//! Everything goes wrong at once, and the answers are still right.
//!
//! `CMONHACHK_CHAOS_SECONDS` (see `scale`) sets how long this goes on. `CMONHACHK_CHAOS_SEED` repeats
//! the same events and clients in the same order; the seed is printed.
//!
//! Every connection comes from its own address. xinetd logs this address with what it did, and a check
//! has it in its environment, so each connection without an answer is traced to the one event that
//! caused this, or to none.

mod accounting;
mod clients;
mod faults;
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use accounting::{History, fates, judge};
use clients::{Manner, converse};
use faults::Chaos;
use machine::{Machine, Xinetd};

use crate::cluster::{AtEnd, Cluster, FOLLOWER, GET, LEADER, ask, once_in_a_while, receive, wait_until};
use crate::pauses::Pauses;
use crate::scale::amount;

const CLIENTS: usize = 16;
/// How often the punctual clients come, whatever became of the one before: as three HAProxies do.
const PERIOD: Duration = Duration::from_millis(42);
/// How long after the end of all faults every answer is right again.
const RECOVERY: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_millis(1500);
const MAX_AGE: Duration = Duration::from_millis(300);
/// What a busy machine may add to the time of an answer.
const GRACE: Duration = Duration::from_secs(3);
/// How long a client waits for a connection, and then for the answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a check waits for its client after the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Numbers that are the same for the same seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn millis(&mut self, limit: usize) -> Duration {
        Duration::from_millis(self.below(limit) as u64)
    }
}

#[test]
fn whatever_goes_wrong_every_connection_gets_one_right_answer() {
    let seconds = amount("CMONHACHK_CHAOS_SECONDS", 20, 600);
    let seed = match env::var("CMONHACHK_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("CMONHACHK_CHAOS_SEED is a number"),
        Err(_) => std::process::id() as u64,
    };
    println!("CMONHACHK_CHAOS_SEED={seed}");
    let cluster = Cluster::for_any_user();
    let mut dice = Dice(seed);
    let mut garbage = vec![0; 5000];
    garbage.fill_with(|| dice.next() as u8);
    cluster.folder.write("garbage", garbage);
    let machine = Machine::new(&cluster);
    let mut chaos = Chaos {
        machine: &machine,
        xinetd: Xinetd::start(&machine, 1500),
        history: History {
            leads: Vec::new(),
            without_xinetd: Vec::new(),
            killed: BTreeSet::new(),
            pauses: Pauses::watch(),
            count: BTreeMap::new(),
        },
        dice,
        covered: false,
    };
    chaos.end();

    let (over, number, outcomes) = (AtomicBool::new(false), AtomicU32::new(0), Mutex::new(Vec::new()));
    let client = |manner: fn(&mut Dice) -> Manner| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 192, 0, 1)) + number);
        let manner = manner(&mut Dice(seed ^ (u64::from(number) << 32)));
        converse(from, machine.address, manner)
    };
    let well = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                scope.spawn(|| {
                    let outcome = client(Manner::punctual);
                    outcomes.lock().unwrap().push(outcome);
                });
                thread::sleep(PERIOD);
            }
        });
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let outcome = client(Manner::random);
                    if !outcome.got.as_ref().is_ok_and(|got| !got.is_empty()) {
                        // Otherwise it would be refused thousands of times a second.
                        thread::sleep(Duration::from_millis(20));
                    }
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
        let _over = AtEnd(&over);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds as u64) {
            let pause = chaos.dice.millis(60);
            thread::sleep(pause);
            chaos.event();
        }
        chaos.end();
        // A queue at the lock would last as long as clients come.
        cluster.behaves("slow 0.4");
        let well = Instant::now();
        thread::sleep(RECOVERY * 2);
        well
    });
    let outcomes = outcomes.into_inner().unwrap();
    cluster.behaves("list");

    // Afterwards everything works as before.
    let is_check =
        |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("cmonhachk"));
    wait_until("no check is left", || !cluster.processes().into_iter().any(is_check));
    let is_told = |answer| receive(&mut ask(machine.address, GET)) == answer;
    thread::sleep(MAX_AGE);
    // A machine that is busy at the wrong moment makes an answer unknown.
    assert!(once_in_a_while(|| is_told(LEADER)));
    chaos.lead(false);
    thread::sleep(MAX_AGE);
    assert!(once_in_a_while(|| is_told(FOLLOWER)));
    let mut left = Vec::new();
    wait_until("no process is left", || {
        let now = machine.processes(&chaos.xinetd);
        if now != left {
            println!("on the machine: {now:?}");
            left = now;
        }
        left == ["xinetd"]
    });
    let descriptors = fs::read_dir(format!("/proc/{}/fd", chaos.xinetd.pid)).unwrap().count();
    // xinetd may have had its service file open when its descriptors were counted at its start.
    assert!(
        descriptors <= chaos.xinetd.descriptors,
        "xinetd has {descriptors} descriptors"
    );
    let files = |folder: PathBuf| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut cached = files(machine.disk());
    // The draft of a check that was killed while it published; the next check replaces it.
    cached.retain(|name| !name.ends_with(".new"));
    assert_eq!(cached.remove(0), "lock");
    assert_eq!(cached, ["lock.reported", "lock.verdict"]);
    assert_eq!(
        files(cluster.folder.path().to_path_buf()),
        [
            "behaviour",
            "cmonhachk",
            "controllers",
            "defaults-10.0.0.101",
            "garbage",
            "locks",
            "passwd",
            "runs",
            "s9s",
            "service.log",
            "sim",
            "xinetd.conf",
            "xinetd.log",
            "xinetd.pid"
        ]
    );

    judge(&outcomes, &chaos.history, &fates(&machine));
    let late = outcomes.iter().filter(|outcome| outcome.start > well + RECOVERY);
    let late: Vec<_> = late.filter(|outcome| outcome.manner.is_punctual()).collect();
    let is_wrong = |outcome: &&&clients::Outcome| outcome.got.as_deref() != Ok(LEADER.as_bytes());
    let wrong: Vec<_> = late.iter().filter(is_wrong).collect();
    for outcome in &wrong {
        let got = outcome
            .got
            .as_ref()
            .map(|got| String::from_utf8_lossy(got).into_owned());
        println!("{:?} after the end: {got:?}", outcome.start - well);
    }
    let pause = chaos.history.pauses.between(well, Instant::now());
    let count = (wrong.len(), late.len());
    assert!(count.1 > 20 && (wrong.is_empty() || !pause.is_zero()), "{count:?}");
}
