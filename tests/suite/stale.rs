//! No answer is older than it may be, whatever the clocks do; alone/stale.rs has what a controller does.
//!
//! The wall clock belongs to the whole machine and is not set here. Instead, a trace shows every clock
//! that a check asks; the wall clock is none of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cluster::{
    Cluster, FOLLOWER, GET, LEADER, Node, connect, in_namespaces, once_in_a_while, unknown, wait_until,
};

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

/// Makes a check for a client with this request, and calls `look` at the start of each system call of its first thread, with the call's
/// number and first argument. Returns the answer.
fn trace(command: &mut Command, request: &[u8], mut look: impl FnMut(Pid, i64, u64)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(request).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let socket: OwnedFd = listener.accept().unwrap().0.into();
    // SAFETY: one system call.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let child = command.stdin(socket).stdout(Stdio::null()).spawn();
    // What spawned the check must not hold the connection open.
    command.stdin(Stdio::null());
    let pid = Pid::from_raw(child.unwrap().id().cast_signed());
    assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))));
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    forbid_silent_clocks(pid);
    let mut signal = None;
    loop {
        ptrace::syscall(pid, signal.take()).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(pid).unwrap();
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: `op` says that this member of the union is the one that is set.
                    let entry = unsafe { info.u.entry };
                    look(pid, entry.nr.cast_signed(), entry.args[0]);
                }
            }
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::Exited(..) => break,
            other => panic!("{other:?}"),
        }
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

/// The clocks that a check asks or waits on for a client, by name.
fn clocks(command: &mut Command) -> BTreeSet<String> {
    let mut clocks = BTreeSet::new();
    trace(command, GET, |_, number, clock| clocks.extend(clock_of(number, clock)));
    clocks
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
    assert_eq!(check(&["--max-age", "0", "--timeout", "2"]), one, "where s9s hangs");
    let _held = node.hold_the_lock();
    assert_eq!(
        check(&["--max-age", "0", "--timeout", "0.5"]),
        ["monotonic", "since boot"].map(str::to_string).into(),
        "where the lock is not free, and the check waits for some milliseconds again and again"
    );
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_check_that_was_stopped_between_its_verdict_and_its_answer_tells_no_role() {
    // On a busy machine, the check may have answered before it is stopped.
    assert!(once_in_a_while(|| {
        let cluster = Cluster::new();
        let node = cluster.leader();
        let mut client = node.connect(&["--timeout", "2"]);
        let started = Instant::now();
        client.send(b"GET / HTTP/1.1\r\n");
        let published = format!("{}.verdict", node.lock.display());
        wait_until("it has its verdict", || fs::symlink_metadata(&published).is_ok());
        let responder = Pid::from_raw(client.responder.id() as i32);
        kill(responder, Signal::SIGSTOP).unwrap();
        cluster.leads("10.0.0.102");
        thread::sleep(Duration::from_millis(2050).saturating_sub(started.elapsed()));
        client.send(b"\r\n");
        kill(responder, Signal::SIGCONT).unwrap();
        client.answer() == unknown("stuck")
    }));
}

#[cfg(target_arch = "x86_64")]
fn first_argument(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.rdi
}

#[cfg(target_arch = "aarch64")]
fn first_argument(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.regs[0]
}

/// Makes the check fail as a defect would, where it asks the clock for the time `place`. Returns its answer, if it
/// has asked that often.
fn with_a_defect_at(place: u32, check: &mut Command, request: &[u8]) -> Option<String> {
    let mut asked = 0;
    let answer = trace(check, request, |pid, number, _| {
        asked += u32::from(number == libc::SYS_clock_gettime);
        if number == libc::SYS_clock_gettime && asked == place {
            let mut registers = ptrace::getregs(pid).unwrap();
            // There is no such clock.
            *first_argument(&mut registers) = 1000;
            ptrace::setregs(pid, registers).unwrap();
        }
    });
    (asked >= place).then_some(answer)
}

/// The answer of a check that fails as a defect would.
pub fn with_a_defect(check: &mut Command, request: &[u8]) -> String {
    // The first time is before there is a client, the second before its request is read.
    with_a_defect_at(3, check, request).unwrap()
}

#[test]
fn a_defect_in_any_place_costs_no_client_its_one_answer() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let mut defects = 0;
    for place in 2.. {
        let Some(answer) = with_a_defect_at(place, node.command().args(["--max-age", "0"]), GET) else {
            break;
        };
        let is_defect = answer == unknown("internal-error");
        assert!(is_defect || answer == LEADER, "{place}: {answer}");
        defects += u32::from(is_defect);
    }
    println!("{defects} defects before the answer");
    assert!(defects > 5);
}
