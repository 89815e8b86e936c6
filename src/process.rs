//! One bounded run of a program in a process group of its own.
//!
//! The group is killed when the program exits and when its time is up. If this process itself is killed, the
//! kernel kills the program, though not its children. What leaves the group is not followed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, killpg, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid, setpgid};

use crate::machine::start_of;
use crate::moment::Moment;

/// How much a program may print to either stream, in bytes: a list of 10,000 controllers.
pub const MAX_OUTPUT: usize = 1024 * 1024;

/// How long to wait until a killed process is gone, before it is left to init. A process that waits
/// for a dead disk or mount survives even SIGKILL.
const DYING: Duration = Duration::from_millis(100);

/// What the new process adds to an error number that it meets before it executes the program: the standard
/// library reports both by their number alone. Linux's own numbers are below 4096.
const BEFORE: i32 = 4096;

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
    /// SIGKILL does not end it: it waits for a disk or mount that does not answer.
    Survived(Survivor),
}

/// A process that SIGKILL does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot: another process may get its id.
    pub started: u64,
}

impl Survivor {
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

/// Why a program was not started.
#[derive(Debug)]
pub enum NotStarted {
    /// The system could not prepare the run.
    Before(io::Error),
    /// The system could not execute the program.
    Execution(io::Error),
}

/// Runs `command`, with nothing as its input, and waits for its end, until `deadline` at the latest.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(command: &mut Command, deadline: Moment) -> Result<Run, NotStarted> {
    let began = Moment::now();
    let exits = watch_for_exits().map_err(|errno| NotStarted::Before(errno.into()))?;
    let nothing = File::open("/dev/null").map_err(NotStarted::Before)?;
    let parent = Pid::this();
    command.stdin(nothing).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: there is a second thread, so the new process must not allocate or lock anything:
    // `enter_group` does system calls only.
    unsafe {
        command
            .pre_exec(move || enter_group(parent).map_err(|errno| io::Error::from_raw_os_error(BEFORE + errno as i32)));
    }
    let mut child = command.spawn().map_err(|error| match error.raw_os_error() {
        Some(number) if number > BEFORE => NotStarted::Before(io::Error::from_raw_os_error(number - BEFORE)),
        _ => NotStarted::Execution(error),
    })?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let stdout = OwnedFd::from(child.stdout.take().expect("it is piped"));
    let stderr = OwnedFd::from(child.stderr.take().expect("it is piped"));
    let mut streams = [stdout, stderr].map(Stream::new);
    let early = collect(&mut streams, pid, &exits, deadline);
    // It is not reaped yet, so no other group can have its number.
    let _ = killpg(pid, Signal::SIGKILL);
    let status = reap(pid, &exits);
    // Read the rest of its output, without waiting for what a surviving process might add later.
    let overflow = drain(&mut streams);
    let ended = match (status, early) {
        (None, _) => Ended::Survived(Survivor {
            pid: pid.as_raw(),
            started: start_of(pid).unwrap_or_default(),
        }),
        (_, Some(early)) => early,
        _ if overflow => Ended::TooMuchOutput,
        (Some(WaitStatus::Exited(_, status)), None) => Ended::Exited(status),
        (Some(WaitStatus::Signaled(_, signal, _)), None) => Ended::Killed(signal),
        _ => Ended::Killed(Signal::SIGKILL),
    };
    let [stdout, stderr] = streams.map(|stream| stream.bytes);
    Ok(Run {
        ended,
        stdout,
        stderr,
        took: began.age().unwrap_or_default(),
    })
}

/// Gives the new process its group and no blocked signal, and ties it to its parent.
fn enter_group(parent: Pid) -> nix::Result<()> {
    SigSet::empty().thread_set_mask()?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    set_pdeathsig(Signal::SIGKILL)?;
    // If the parent died before this took effect, nothing else kills this process.
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
}

/// Collects what the program prints until it exits. Returns why its end is not waited for, if so.
fn collect(streams: &mut [Stream; 2], pid: Pid, exits: &SignalFd, deadline: Moment) -> Option<Ended> {
    loop {
        if drain(streams) {
            return Some(Ended::TooMuchOutput);
        }
        if deadline.has_passed() {
            return Some(Ended::TimedOut);
        }
        let mut ready: Vec<PollFd<'_>> = streams.iter().filter_map(Stream::poll_fd).collect();
        ready.push(PollFd::new(exits.as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut ready, deadline.poll_timeout());
        let _ = exits.read_signal();
        // Perhaps another child has exited, one that the program left behind. Nothing is reaped here.
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if !matches!(waitid(Id::Pid(pid), peek), Ok(WaitStatus::StillAlive)) {
            return None;
        }
    }
}

/// The program's status, as soon as it is gone; None if it is not gone in time.
fn reap(pid: Pid, exits: &SignalFd) -> Option<WaitStatus> {
    let patience = Moment::now() + DYING;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if patience.has_passed() => return None,
            Ok(WaitStatus::StillAlive) => {
                let mut ready = [PollFd::new(exits.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut ready, patience.poll_timeout());
                let _ = exits.read_signal();
            }
            status => return Some(status.unwrap_or(WaitStatus::StillAlive)),
        }
    }
}

/// Reads the output that is waiting. Returns whether a stream has exceeded its limit.
fn drain(streams: &mut [Stream; 2]) -> bool {
    let [stdout, stderr] = streams.each_mut().map(Stream::drain);
    stdout || stderr
}

/// Sees to it that the exits of children are reported. A super-server may start this process with SIGCHLD ignored.
///
/// # Errors
/// The system's.
pub fn report_exits() -> nix::Result<()> {
    // SAFETY: the default action is no handler, so nothing can run at a wrong moment.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}

/// A descriptor that becomes readable when a child has exited.
fn watch_for_exits() -> nix::Result<SignalFd> {
    report_exits()?;
    SignalFd::with_flags(&exit_signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The signals that every thread must block from its start, because [`run`] reads them.
pub fn exit_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGCHLD])
}

/// One of the streams that the program prints to.
struct Stream {
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(pipe: OwnedFd) -> Stream {
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Stream {
            pipe: Some(File::from(pipe)),
            bytes: Vec::with_capacity(4096),
        }
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        Some(PollFd::new(self.pipe.as_ref()?.as_fd(), PollFlags::POLLIN))
    }

    fn drain(&mut self) -> bool {
        if let Some(pipe) = &mut self.pipe {
            let room = MAX_OUTPUT + 1 - self.bytes.len();
            // An error means that there is nothing more for now: a non-blocking pipe has no other error.
            if pipe.take(room as u64).read_to_end(&mut self.bytes).is_ok() {
                self.pipe = None;
            }
        }
        let too_much = self.bytes.len() > MAX_OUTPUT;
        self.bytes.truncate(MAX_OUTPUT);
        too_much
    }
}
