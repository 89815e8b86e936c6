//! One bounded run of a program in a process group of its own.
//!
//! The group is killed when the program exits and when its time is up. If this process itself is killed, the
//! kernel kills the program, though not its children. What leaves the group is not followed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid, pipe2};

use crate::os::clock::Instant;
use crate::os::proc::start_of;
use crate::os::signals::by_default;

/// How much a program may print to either stream, in bytes: a list of 5,000 controllers.
pub const MAX_OUTPUT: usize = 512 * 1024;

/// How long to wait until a killed process is gone, before it is left to init. A process that waits
/// for a dead disk or mount outlives even SIGKILL.
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
    /// It printed more than it may.
    TooMuchOutput,
    /// SIGKILL does not end it: it waits for a disk or mount that does not answer.
    Unkillable(UnkillableProcess),
}

/// A process that SIGKILL does not end (state D in proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnkillableProcess {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot: another process may get its id.
    pub started: u64,
}

impl UnkillableProcess {
    /// Whether it is still there.
    pub fn is_there(self) -> bool {
        start_of(Pid::from_raw(self.pid)) == Some(self.started)
    }
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

/// Runs the command with nothing as its input, and waits for its end, until `deadline` at the latest.
///
/// # Errors
/// It could not be started. An error that has a system's number comes from the start itself. Everything after that is
/// in the [`Run`].
pub fn run(mut command: Command, deadline: Instant) -> io::Result<Run> {
    let began = Instant::now();
    let exits = exits().map_err(without_number)?;
    let (stdout, its_stdout) = stream().map_err(without_number)?;
    let (stderr, its_stderr) = stream().map_err(without_number)?;
    let nothing = File::open("/dev/null").map_err(|error| io::Error::other(format!("/dev/null: {error}")))?;
    command.stdin(nothing).stdout(its_stdout).stderr(its_stderr);
    let pid = start(command)?;

    let in_time = end(pid, &exits, deadline);
    // It is not reaped yet, so no other group can have its number.
    let _ = killpg(pid, Signal::SIGKILL);
    if in_time.is_none() {
        end(pid, &exits, Instant::now() + DYING);
    }
    let is_there = waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive);

    let (stdout, stderr) = (read(stdout), read(stderr));
    let ended = match in_time {
        _ if is_there => Ended::Unkillable(UnkillableProcess {
            pid: pid.as_raw(),
            started: start_of(pid).unwrap_or_default(),
        }),
        _ if stdout.len().max(stderr.len()) > MAX_OUTPUT => Ended::TooMuchOutput,
        None => Ended::TimedOut,
        Some(WaitStatus::Exited(_, status)) => Ended::Exited(status),
        Some(WaitStatus::Signaled(_, signal, _)) => Ended::Killed(signal),
        // A signal that nix does not know, such as one for real-time programs.
        Some(_) => Ended::Killed(Signal::SIGKILL),
    };
    Ok(Run {
        ended,
        stdout,
        stderr,
        took: began.age().unwrap_or_default(),
    })
}

/// Tells when a child ends. The signal must be blocked to be read.
fn exits() -> nix::Result<SignalFd> {
    by_default(Signal::SIGCHLD)?;
    let signal = SigSet::from(Signal::SIGCHLD);
    signal.thread_block()?;
    SignalFd::with_flags(&signal, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The error of a preparation, so that its number is not taken for one of the program.
fn without_number(errno: Errno) -> io::Error {
    io::Error::other(io::Error::from(errno))
}

/// Starts the command in a process group of its own.
fn start(mut command: Command) -> io::Result<Pid> {
    let parent = Pid::this();
    let prepare = move || {
        SigSet::empty().thread_set_mask()?;
        set_pdeathsig(Signal::SIGKILL)?;
        // If the parent died before this took effect, nothing else kills this process.
        if getppid() == parent {
            Ok(())
        } else {
            Err(Errno::ESRCH.into())
        }
    };
    // SAFETY: it makes three system calls and allocates nothing, as the new process of a program with two threads
    // must.
    unsafe { command.pre_exec(prepare) };
    let child = command.process_group(0).spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// How the child has ended; None if it has not ended at `until`.
fn end(pid: Pid, exits: &SignalFd, until: Instant) -> Option<WaitStatus> {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // An end that is seen too late may have been long ago: this process may have been stopped.
    while !until.has_passed() {
        match waitid(Id::Pid(pid), peek) {
            Ok(WaitStatus::StillAlive) => {}
            status => return Some(status.unwrap_or(WaitStatus::StillAlive)),
        }
        let _ = poll(
            &mut [PollFd::new(exits.as_fd(), PollFlags::POLLIN)],
            until.poll_timeout(),
        );
        // Perhaps another child has ended, one that the program has left behind.
        let _ = exits.read_signal();
    }
    None
}

/// A pipe, its reading end first. It takes more than [`MAX_OUTPUT`], so nothing has to be read while the program
/// runs. A full pipe is at least half full of bytes, however they were written.
fn stream() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // If the system refuses that, a list that is longer than the usual size times out.
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(2 * MAX_OUTPUT as i32));
    Ok((reader, writer))
}

/// What the pipe holds. What may still come from a process that has left the group is not waited for.
fn read(pipe: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    let _ = File::from(pipe).take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes);
    bytes
}
