//! One bounded run of a program, after which no process of it is left.
//!
//! The program runs in a process group of its own. The group is killed when the program exits and
//! when its time is up. If this process itself is killed, the kernel kills the group (see `tie`).
//! Processes that have left the group are killed as well, except in the last case.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, killpg, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid, pipe2};

use crate::deadline::{Deadline, since_boot};

/// How long to wait until a killed process is gone, before it is left to init. A process that waits
/// for a dead disk or mount survives even SIGKILL.
const DYING: Duration = Duration::from_millis(100);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// A signal that this process did not send ended it.
    Killed(Signal),
    /// Its time was up; it was killed.
    TimedOut,
    /// It printed more than it may; it was killed.
    TooMuchOutput,
    /// Its time was up, and SIGKILL does not end it: it waits for a disk or mount that does not answer.
    Survived,
}

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub ended: Ended,
    /// What it printed to standard output.
    pub stdout: Vec<u8>,
    /// What it printed to standard error.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

/// Runs `command`, with nothing as its input, and waits for its end, until `deadline` at the
/// latest. It may print `max_output` bytes to each stream.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(command: &mut Command, max_output: usize, deadline: Deadline) -> io::Result<Run> {
    let began = since_boot();
    let mut child = Child::start(command, max_output)?;
    let ended = child.finish(deadline);
    let [stdout, stderr] = child.streams.map(|stream| stream.bytes);
    Ok(Run {
        ended,
        stdout,
        stderr,
        took: since_boot().saturating_sub(began),
    })
}

struct Child {
    pid: Pid,
    streams: [Stream; 2],
    exits: SignalFd,
    /// Children that this process had before it was executed.
    others: Vec<Pid>,
    /// This end of the pipe is closed when this process ends; see [`tie`].
    _leash: OwnedFd,
}

impl Child {
    fn start(command: &mut Command, max_output: usize) -> io::Result<Child> {
        let exits = watch_for_exits()?;
        let (held, leash) = pipe2(OFlag::O_CLOEXEC)?;
        let parent = Pid::this();
        let others = children();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: there is a second thread, so the new process must not allocate or lock anything:
        // `prepare` does system calls only.
        unsafe { command.pre_exec(move || prepare(&held, parent)) };
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().map(OwnedFd::from).expect("it is piped");
        let stderr = child.stderr.take().map(OwnedFd::from).expect("it is piped");
        Ok(Child {
            pid: Pid::from_raw(child.id().cast_signed()),
            streams: [Stream::new(stdout, max_output)?, Stream::new(stderr, max_output)?],
            exits,
            others,
            _leash: leash,
        })
    }

    /// Collects what the program prints until it exits, its time is up, or it prints too much. Then
    /// kills what is left of it.
    fn finish(&mut self, deadline: Deadline) -> Ended {
        let ended = loop {
            if self.drain() {
                break Some(Ended::TooMuchOutput);
            }
            if deadline.passed() {
                break Some(Ended::TimedOut);
            }
            let mut ready: Vec<PollFd<'_>> = self.streams.iter().filter_map(Stream::poll_fd).collect();
            ready.push(PollFd::new(self.exits.as_fd(), PollFlags::POLLIN));
            let _ = poll(&mut ready, deadline.poll_timeout());
            if self.has_exited() {
                break None;
            }
        };
        let _ = killpg(self.pid, Signal::SIGKILL);
        let status = self.reap();
        // Read the rest of its output, without waiting for what a surviving process might add later.
        let overflow = self.drain();
        match (ended, status) {
            (Some(Ended::TimedOut), _) if self.strays().any(is_uninterruptible) => Ended::Survived,
            (Some(ended), _) => ended,
            (None, _) if overflow => Ended::TooMuchOutput,
            (None, Some(WaitStatus::Exited(_, status))) => Ended::Exited(status),
            (None, Some(WaitStatus::Signaled(_, signal, _))) => Ended::Killed(signal),
            (None, _) => Ended::Killed(Signal::SIGKILL),
        }
    }

    /// Reads the output that is waiting. Returns whether a stream has exceeded its limit.
    fn drain(&mut self) -> bool {
        let [stdout, stderr] = self.streams.each_mut().map(Stream::drain);
        stdout || stderr
    }

    /// Whether the program itself has exited, and not only one of its children. It is not reaped here,
    /// so no other group can get its number yet.
    fn has_exited(&self) -> bool {
        let _ = self.exits.read_signal();
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid), peek), Ok(WaitStatus::StillAlive))
    }

    /// Waits for the end of the whole group, and kills the processes that have left it. Returns the
    /// program's status.
    fn reap(&self) -> Option<WaitStatus> {
        let patience = Deadline::from_now(DYING);
        let mut status = None;
        while !patience.passed() {
            match waitpid(Pid::from_raw(-self.pid.as_raw()), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    self.kill_strays();
                    self.wait_for_an_exit(patience);
                }
                Ok(ended) if ended.pid() == Some(self.pid) => status = Some(ended),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        while !patience.passed() && self.strays().next().is_some() {
            self.kill_strays();
            if self.strays().next().is_some() {
                self.wait_for_an_exit(patience);
            }
        }
        status
    }

    fn kill_strays(&self) {
        for stray in self.strays() {
            let _ = kill(stray, Signal::SIGKILL);
            let _ = waitpid(stray, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// What is left of the program. A process that has lost its parent is a child of this one now; see
    /// `watch_for_exits`.
    fn strays(&self) -> impl Iterator<Item = Pid> {
        children().into_iter().filter(|pid| !self.others.contains(pid))
    }

    fn wait_for_an_exit(&self, deadline: Deadline) {
        let mut exits = [PollFd::new(self.exits.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut exits, deadline.poll_timeout());
        let _ = self.exits.read_signal();
    }
}

/// This process's children; empty if the kernel does not list them (proc_pid_task(5), `children`).
fn children() -> Vec<Pid> {
    // Usually there is none, and this question is far cheaper than the first look into /proc.
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    if waitid(Id::All, peek) == Err(Errno::ECHILD) {
        return Vec::new();
    }
    let list = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let numbers = list.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.map(Pid::from_raw).collect()
}

/// Whether the process is in a wait that no signal ends (proc_pid_stat(5): state `D`).
fn is_uninterruptible(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" D"))
}

/// A descriptor that becomes readable when a child has exited. Orphans of the program become
/// children of this process, so that their end can be waited for as well.
fn watch_for_exits() -> nix::Result<SignalFd> {
    // A super-server may start this process with SIGCHLD ignored; then no exit would be reported.
    // SAFETY: the default action is no handler, so nothing can run at a wrong moment.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    set_child_subreaper(true)?;
    SignalFd::with_flags(&exit_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The signals that every thread must block from its start, because [`run`] reads them.
pub fn exit_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGCHLD])
}

/// Makes the new process ready for the program: no signal blocked, and tied to its parent.
fn prepare(held: &OwnedFd, parent: Pid) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    // For a program that closes the pipe. This kills the program only, not its group.
    set_pdeathsig(Signal::SIGKILL)?;
    tie(held)?;
    // If the parent died before this took effect, nothing else kills this process.
    if getppid() == parent {
        Ok(())
    } else {
        Err(Errno::ESRCH.into())
    }
}

/// Ties the calling process's group to its parent: when the parent is gone, even by SIGKILL, the
/// kernel kills the whole group.
///
/// The group holds the reading end of a pipe that signals the group (fcntl(2), F_SETSIG) when
/// something happens to the other end. The parent has the other end and never writes to it, so this
/// happens only when the kernel closes it at the parent's end.
fn tie(held: &OwnedFd) -> io::Result<()> {
    // Source: fcntl(2) and Linux's asm-generic/fcntl.h; the libc crate lacks it for glibc.
    const F_SETSIG: libc::c_int = 10;
    let fd = held.as_raw_fd();
    // SAFETY: both commands take an integer and touch no memory; a negative owner is a group.
    unsafe {
        Errno::result(libc::fcntl(fd, F_SETSIG, libc::SIGKILL))?;
        Errno::result(libc::fcntl(fd, libc::F_SETOWN, -libc::getpid()))?;
    }
    fcntl(held, FcntlArg::F_SETFL(OFlag::O_ASYNC))?;
    // The program and its children inherit it.
    fcntl(held, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// One of the streams that the program prints to.
struct Stream {
    pipe: Option<File>,
    bytes: Vec<u8>,
    max: usize,
}

impl Stream {
    fn new(pipe: OwnedFd, max: usize) -> nix::Result<Stream> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Stream {
            pipe: Some(File::from(pipe)),
            bytes: Vec::new(),
            max,
        })
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        Some(PollFd::new(self.pipe.as_ref()?.as_fd(), PollFlags::POLLIN))
    }

    /// Reads the output that is waiting. Returns whether the stream has exceeded its limit.
    fn drain(&mut self) -> bool {
        if let Some(pipe) = &mut self.pipe {
            let room = self.max + 1 - self.bytes.len();
            // An error means that there is nothing more for now: a non-blocking pipe has no other error.
            if pipe.take(room as u64).read_to_end(&mut self.bytes).is_ok() {
                self.pipe = None;
            }
        }
        let too_much = self.bytes.len() > self.max;
        self.bytes.truncate(self.max);
        too_much
    }
}
