//! No answer is older than it may be, while what the controller says changes all the time.
//!
//! `CMONHACHK_ANSWERS` (see `scale`) is the number of answers that are judged.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::cluster::{AtEnd, Cluster, FOLLOWER, LEADER, unknown, wait_until};
use crate::scale::amount;

/// The time since boot; the kernel gives the start of a process on this clock, too.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// The states of the controller: what it says about the node, with the answer to that. Each has a different answer,
/// so that an answer shows which state it comes from.
fn states() -> Vec<(String, String)> {
    let list = |rows: &[&str]| {
        let rows: Vec<String> = rows
            .iter()
            .map(|row| {
                format!(
                    "{} 1.7.4.3565 system admins {} {} 9501 -\n",
                    &row[..1],
                    &row[1..],
                    &row[1..]
                )
            })
            .collect();
        format!(
            "S VERSION    OWNER  GROUP  NAME       IP         PORT COMMENT\n{}Total: {} controller(s)\n",
            rows.concat(),
            rows.len()
        )
    };
    vec![
        (list(&["l10.0.0.101", "f10.0.0.102"]), LEADER.to_string()),
        (list(&["f10.0.0.101", "l10.0.0.102"]), FOLLOWER.to_string()),
        (list(&["-10.0.0.101", "l10.0.0.102"]), unknown("offline")),
        (list(&["?10.0.0.101", "?10.0.0.102"]), unknown("no-role")),
        (list(&["l10.0.0.101", "l10.0.0.102"]), unknown("split")),
        (list(&["l10.0.0.102", "f10.0.0.103"]), unknown("not-listed")),
        ("Total: 0 controller(s)\n".to_string(), unknown("no-controllers")),
        ("Too many controllers.\n".to_string(), unknown("list-unreadable")),
    ]
}

/// A controller whose state changes 20 times a second.
struct Fickle<'a> {
    cluster: &'a Cluster,
    states: Vec<(String, String)>,
    /// When it came to each state, one after the other: from just before to just after it said so.
    times: Mutex<Vec<(Duration, Duration)>>,
}

impl Fickle<'_> {
    /// Changes until `over`.
    fn change(&self, over: &AtomicBool) {
        let start = now();
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let (list, _) = &self.states[number % self.states.len()];
            let before = now();
            self.cluster.folder.write("now", list);
            self.times.lock().unwrap().push((before, now()));
            number += 1;
            let due = start + Duration::from_millis(50) * number as u32;
            thread::sleep(due.saturating_sub(now()));
        }
    }

    /// How old an answer was when it was asked for: how long ago the controller had come to another state.
    fn age(&self, answer: &str, asked: Duration, got: Duration) -> Duration {
        let times = self.times.lock().unwrap();
        let state = self.states.iter().position(|state| state.1 == answer);
        let state = state.unwrap_or_else(|| panic!("no state has this answer: {answer}"));
        let last = (0..times.len())
            .rev()
            .find(|number| number % self.states.len() == state && times[*number].0 <= got);
        let last = last.unwrap_or_else(|| panic!("this state had not come yet: {answer}"));
        match times.get(last + 1) {
            Some((_, over)) => asked.saturating_sub(*over),
            None => Duration::ZERO,
        }
    }
}

/// Each run of s9s: when its process began, rounded down to a tick, and when the next one began. There
/// is one run at a time, so it was over by then.
fn runs(cluster: &Cluster) -> Vec<(Duration, Duration)> {
    let ticks = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    let text = fs::read_to_string(cluster.folder.join("starts")).unwrap();
    let starts: Vec<Duration> = text
        .lines()
        .map(|line| Duration::from_secs(line.parse().unwrap()) / ticks as u32)
        .collect();
    let nexts = starts[1..].iter().copied().chain([now()]);
    starts.iter().copied().zip(nexts).collect()
}

#[test]
fn no_answer_is_older_than_max_age_and_a_run_of_s9s() {
    const CLIENTS: usize = 8;
    const MAX_AGE: Duration = Duration::from_millis(100);
    /// The precision with which the kernel gives the start of a process.
    const TICK: Duration = Duration::from_millis(10);
    let answers = amount("CMONHACHK_ANSWERS", 2000, 20_000);
    let cluster = Cluster::new();
    let node = cluster.leader();
    let fickle = Fickle {
        cluster: &cluster,
        states: states(),
        times: Mutex::default(),
    };
    cluster.behaves(&format!("timed {}", cluster.folder.join("now").display()));
    let (asked, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ask = || {
        let mut got = Vec::new();
        while asked.fetch_add(1, Ordering::Relaxed) < answers {
            let asked = now();
            let answer = node.get(&["--max-age", "0.1", "--timeout", "15"]);
            got.push((answer, asked, now()));
        }
        got
    };
    let got = thread::scope(|scope| {
        let _over = AtEnd(&over);
        scope.spawn(|| fickle.change(&over));
        wait_until("the controller has a state", || {
            !fickle.times.lock().unwrap().is_empty()
        });
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        let got: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        let got = got.into_iter().flat_map(|got| got.unwrap());
        got.collect::<Vec<_>>()
    });
    let runs = runs(&cluster);
    let (mut oldest, mut past) = (Duration::ZERO, 0);
    for (answer, asked, got) in &got {
        let age = fickle.age(answer, *asked, *got);
        oldest = oldest.max(age);
        past += usize::from(!age.is_zero());
        // Its run began within max-age or was still going on, and what it says was true after that run began.
        let mut sources = runs
            .iter()
            .filter(|(start, over)| start <= got && (*start + TICK + MAX_AGE > *asked || *over + TICK > *asked));
        assert!(
            age.is_zero() || sources.any(|(start, _)| age <= asked.saturating_sub(*start)),
            "{answer:?} was {age:?} old, asked for at {asked:?}: {runs:?}"
        );
    }
    println!(
        "{} answers while the controller's state changed {} times, from {} runs of s9s: {past} were not of the state of the moment, the oldest {oldest:.0?} old",
        got.len(),
        fickle.times.lock().unwrap().len(),
        runs.len(),
    );
}
