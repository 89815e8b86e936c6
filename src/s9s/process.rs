//! One bounded run of a program in a process group of its own.
//!
//! The group is killed when the program exits and when its time is up. If this process itself is killed, the
//! kernel kills the program, though not its children. What leaves the group is not followed.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::null;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc::{SIGCHLD, c_char, execve};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, killpg, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid, pipe2, setpgid};

use crate::os::clock::Moment;
use crate::os::files::start_of;

/// How much a program may print to either stream, in bytes: a list of 5,000 controllers.
pub const MAX_OUTPUT: usize = 512 * 1024;

/// How long to wait until a killed process is gone, before it is left to init. A process that waits
/// for a dead disk or mount survives even SIGKILL.
const DYING: Duration = Duration::from_millis(100);

/// Room for the stack of the new process until it executes the program, in bytes.
const STACK: usize = 16_384;

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
#[derive(Clone, Copy, Debug)]
pub enum NotStarted {
    /// The system could not prepare the run.
    Before(Errno),
    /// The system could not execute the program.
    Execution(Errno),
}

impl From<Errno> for NotStarted {
    fn from(errno: Errno) -> NotStarted {
        NotStarted::Before(errno)
    }
}

/// Runs the program that is the first of `words`, with the others as its arguments and nothing as its input, and
/// waits for its end, until `deadline` at the latest. `variables` are its environment, each as `NAME=VALUE`.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(words: &[CString], variables: &[CString], deadline: Moment) -> Result<Run, NotStarted> {
    let began = Moment::now();
    by_default(Signal::SIGCHLD)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let exits = SignalFd::with_flags(&Signal::SIGCHLD.into(), flags)?;
    let [(stdout, its_stdout), (stderr, its_stderr)] = [stream()?, stream()?];
    let pid = start(words, variables, [its_stdout, its_stderr])?;
    let in_time = end(pid, &exits, deadline);
    // It is not reaped yet, so no other group can have its number.
    let _ = killpg(pid, Signal::SIGKILL);
    let status = in_time.or_else(|| end(pid, &exits, Moment::now() + DYING));
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    let [stdout, stderr] = [stdout, stderr].map(read);
    let ended = match status {
        None => Ended::Survived(Survivor {
            pid: pid.as_raw(),
            started: start_of(pid).unwrap_or_default(),
        }),
        _ if stdout.len().max(stderr.len()) > MAX_OUTPUT => Ended::TooMuchOutput,
        _ if in_time.is_none() => Ended::TimedOut,
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

/// Starts the program in a process group of its own. Until it is executed, the new process uses this one's
/// memory, as with vfork(2): to copy the memory of a process with two threads would take longer than the rest.
fn start(words: &[CString], variables: &[CString], [stdout, stderr]: [OwnedFd; 2]) -> Result<Pid, NotStarted> {
    // The new process must not allocate: if it were killed then, the lock of the memory would never be free again.
    let (words, variables) = (pointers(words), pointers(variables));
    let nothing = open("/dev/null", OFlag::O_CLOEXEC, Mode::empty())?;
    let parent = Pid::this();
    let enter = || {
        by_default(Signal::SIGPIPE)?;
        SigSet::empty().thread_set_mask()?;
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        dup2_stdin(&nothing)?;
        dup2_stdout(&stdout)?;
        dup2_stderr(&stderr)?;
        set_pdeathsig(Signal::SIGKILL)?;
        // If the parent died before this took effect, nothing else kills this process.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
    };
    let mut failure = None;
    let child = Box::new(|| {
        failure = Some(match enter() {
            Err(errno) => NotStarted::Before(errno),
            Ok(()) => {
                // SAFETY: both are arrays of texts, with a null at the end.
                unsafe { execve(words[0], words.as_ptr(), variables.as_ptr()) };
                NotStarted::Execution(Errno::last())
            }
        });
        1
    });
    // SAFETY: this thread stands still until the new process has executed the program or is gone, so they never
    // use the same memory at a time; the guard's thread, which goes on, uses other memory. If it ends this process,
    // the memory stays until the new one has gone. What else the new process changes is its own.
    let pid = unsafe {
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        clone(child, &mut [0; STACK], flags, Some(SIGCHLD))?
    };
    failure.map_or(Ok(pid), Err)
}

/// The texts as execve(2) takes them. They must outlive the result.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain([null()]).collect()
}

/// How the child has ended; None if it has not ended at `until`.
fn end(pid: Pid, exits: &SignalFd, until: Moment) -> Option<WaitStatus> {
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

/// Gives a signal its usual effect. A super-server may start this process with SIGCHLD ignored, and then no
/// exit of a child is reported; Rust ignores SIGPIPE.
///
/// # Errors
/// The system's.
pub fn by_default(which: Signal) -> nix::Result<()> {
    // SAFETY: the default action is no handler, so nothing can run at a wrong moment.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}
