//! No answer is older than it may be, whatever the clocks do.
//!
//! `CMONHACHK_ANSWERS` (see `scale`) is the number of answers that are judged while the controller
//! changes its mind. The wall clock belongs to the whole machine and is not set here. Instead, a trace
//! shows every clock that a check asks; the wall clock is none of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::cluster::{AtEnd, Cluster, FOLLOWER, GET, LEADER, Node, connect, in_namespaces, unknown, wait_until};
use crate::scale::amount;

/// The time since boot; the kernel gives the start of a process on this clock, too.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// What a controller may say about the node, with the answer to that. Each has a different answer, so
/// that an answer shows which of them it comes from.
fn minds() -> Vec<(String, String)> {
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

/// A controller that changes its mind 20 times a second.
struct Fickle<'a> {
    cluster: &'a Cluster,
    minds: Vec<(String, String)>,
    /// When it took on each mind, one after the other: from just before to just after it said so.
    times: Mutex<Vec<(Duration, Duration)>>,
}

impl Fickle<'_> {
    /// Changes until `over`.
    fn change(&self, over: &AtomicBool) {
        let start = now();
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let (list, _) = &self.minds[number % self.minds.len()];
            let before = now();
            self.cluster.folder.write("now", list);
            self.times.lock().unwrap().push((before, now()));
            number += 1;
            let due = start + Duration::from_millis(50) * number as u32;
            thread::sleep(due.saturating_sub(now()));
        }
    }

    /// How old an answer was when it was asked for: how long ago the controller had changed to
    /// another mind.
    fn age(&self, answer: &str, asked: Duration, got: Duration) -> Duration {
        let times = self.times.lock().unwrap();
        let mind = self.minds.iter().position(|mind| mind.1 == answer);
        let mind = mind.unwrap_or_else(|| panic!("nobody was of this mind: {answer}"));
        let last = (0..times.len())
            .rev()
            .find(|number| number % self.minds.len() == mind && times[*number].0 <= got);
        let last = last.unwrap_or_else(|| panic!("nobody was of this mind yet: {answer}"));
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
        minds: minds(),
        times: Mutex::default(),
    };
    cluster.behaves(&format!("timed {}", cluster.folder.join("now").display()));
    let (asked, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ask = || {
        let mut got = Vec::new();
        while asked.fetch_add(1, Ordering::Relaxed) < answers {
            let asked = now();
            let answer = node.get(&["--max-age", "0.1", "--timeout", "5"]);
            got.push((answer, asked, now()));
        }
        got
    };
    let got = thread::scope(|scope| {
        let _over = AtEnd(&over);
        scope.spawn(|| fickle.change(&over));
        wait_until("the controller has a mind", || !fickle.times.lock().unwrap().is_empty());
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
        "{} answers while the controller changed its mind {} times, from {} runs of s9s: {past} were not of the mind of the moment, the oldest {oldest:.0?} old",
        got.len(),
        fickle.times.lock().unwrap().len(),
        runs.len(),
    );
}

/// The same check on a machine that was booted this much earlier.
fn booted_earlier(node: &Node<'_>, seconds: u32) -> String {
    let mut command = node.command();
    command.args(["--max-age", "3600"]);
    let kinds = ["--time", "--boottime", &seconds.to_string(), "--fork"];
    let mut client = connect(&mut in_namespaces(&kinds, "exec \"$@\"", &command));
    client.send(GET);
    client.answer()
}

#[test]
fn a_verdict_from_the_future_or_from_long_ago_is_not_given_again() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert_eq!(booted_earlier(&node, 100_000), LEADER);
    cluster.leads("10.0.0.102");
    assert_eq!(booted_earlier(&node, 100_000), LEADER, "still good on its own clock");
    assert_eq!(node.get(&["--max-age", "3600"]), FOLLOWER, "from the future here");
    cluster.leads("10.0.0.101");
    assert_eq!(node.get(&["--max-age", "3600"]), FOLLOWER, "still good");
    assert_eq!(booted_earlier(&node, 100_000), LEADER, "from a day ago there");
    assert_eq!(cluster.runs(), 3);
}

/// Hides the kernel's page that tells the time without a system call from a process that has just been
/// executed and has not run yet.
fn forbid_silent_clocks(pid: Pid) {
    const AT_NULL: u64 = 0;
    const AT_IGNORE: u64 = 1;
    const AT_SYSINFO_EHDR: u64 = 33;
    let syscall = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    // proc(5): the last word but one is the stack pointer.
    let stack = syscall.split_whitespace().nth_back(1).unwrap().trim_start_matches("0x");
    let mut address = u64::from_str_radix(stack, 16).unwrap();
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .unwrap();
    let mut word = || {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, address).unwrap();
        address += 8;
        (address - 8, u64::from_ne_bytes(bytes))
    };
    // The stack holds the count of arguments, the arguments and a null, the environment and a null, pairs.
    word();
    while word().1 != 0 {}
    while word().1 != 0 {}
    loop {
        let (at, kind) = word();
        assert_ne!(kind, AT_NULL, "the kernel gives every process this page");
        word();
        if kind == AT_SYSINFO_EHDR {
            return memory.write_all_at(&AT_IGNORE.to_ne_bytes(), at).unwrap();
        }
    }
}

/// The clocks that a check asks or waits on, by name.
fn clocks(command: &mut Command) -> BTreeSet<String> {
    // SAFETY: one system call.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let pid = Pid::from_raw(child.unwrap().id().cast_signed());
    assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))));
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    forbid_silent_clocks(pid);
    let (mut clocks, mut signal) = (BTreeSet::new(), None);
    loop {
        ptrace::syscall(pid, signal.take()).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(pid).unwrap();
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: `op` says that this member of the union is the one that is set.
                    let (number, clock) = unsafe { (info.u.entry.nr.cast_signed(), info.u.entry.args[0]) };
                    clocks.extend(clock_of(number, clock));
                }
            }
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::Exited(..) => return clocks,
            other => panic!("{other:?}"),
        }
    }
}

fn clock_of(number: i64, clock: u64) -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_time {
        return Some("the wall clock".to_string());
    }
    match number {
        libc::SYS_gettimeofday => Some("the wall clock".to_string()),
        libc::SYS_clock_gettime | libc::SYS_clock_nanosleep | libc::SYS_timer_create | libc::SYS_timerfd_create => {
            Some(match clock as libc::clockid_t {
                libc::CLOCK_MONOTONIC => "monotonic".to_string(),
                libc::CLOCK_BOOTTIME => "since boot".to_string(),
                libc::CLOCK_REALTIME => "the wall clock".to_string(),
                other => format!("clock {other}"),
            })
        }
        _ => None,
    }
}

#[test]
fn no_check_asks_the_wall_clock() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let one = ["since boot"].map(str::to_string).into();
    let check = |arguments: &[&str]| clocks(node.command().args(arguments));
    assert_eq!(check(&["--max-age", "60"]), one, "for a verdict of its own");
    assert_eq!(check(&["--max-age", "60"]), one, "for another's");
    cluster.behaves("hang");
    assert_eq!(check(&["--max-age", "0", "--timeout", "0.5"]), one, "where s9s hangs");
    // By hand, as the other check: a person's check and a client's do not wait for each other.
    let mut holder = node.command();
    let mut holder = holder.args(["--max-age", "0", "--timeout", "20"]).spawn().unwrap();
    wait_until("it holds the lock", || cluster.runs() == 3);
    assert_eq!(
        check(&["--max-age", "0", "--timeout", "0.5"]),
        one,
        "where the lock is not free"
    );
    assert_eq!(cluster.runs(), 3);
    holder.kill().unwrap();
    holder.wait().unwrap();
}
