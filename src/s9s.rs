//! What s9s says: one bounded run of the client.
//!
//! The client runs directly, never through a shell, in a process group of its own, and nothing of
//! that group outlives the run: it is killed when the client exits, when its time is up, and, by
//! the kernel, when this process itself is killed (see `tie`). What has left the group is killed
//! with it in the first two cases.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::iter;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, killpg, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{AccessFlags, Pid, Uid, access, execve, getppid, pipe2};

use crate::deadline::Deadline;
use crate::machine;
use crate::reason::{Fault, Reason};

/// The arguments of every run. Further words would be name filters.
pub const ARGUMENTS: [&str; 3] = ["controller", "--list", "--long"];

/// How much is kept of what s9s prints to either stream, in bytes. More is not believable: it
/// would be a list of more than 10,000 controllers.
pub const MAX_OUTPUT: usize = 1024 * 1024;

/// Where programs are looked up when there is no PATH.
const SENSIBLE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a killed process may take to be gone, before it is left to init. One that waits for a
/// dead disk or mount does not die even of SIGKILL.
const DYING: Duration = Duration::from_millis(100);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal from elsewhere ended it.
    Killed(Signal),
    /// Its time was up; it was killed.
    TimedOut,
    /// It printed more than [`MAX_OUTPUT`]; it was killed.
    TooMuchOutput,
}

/// A run of s9s that is over.
#[derive(Debug)]
pub struct Run {
    /// The program, as it was found.
    pub program: PathBuf,
    /// How it ended.
    pub ended: Ended,
    /// What it printed to standard output.
    pub stdout: Vec<u8>,
    /// What it printed to standard error.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    /// What s9s printed, if it ended well. The meaning of its exit statuses is measured on the
    /// genuine client: 2 redirect failed, 3 refused, 5 no connection, 6 no user.
    ///
    /// # Errors
    /// A reason for every other end, with what s9s printed to standard error.
    pub fn output(&self) -> Result<&[u8], Fault> {
        let reason = match self.ended {
            Ended::Exited(0) => return Ok(&self.stdout),
            Ended::Exited(2) => Reason::S9sRedirectFailed,
            Ended::Exited(3) => Reason::S9sRefused,
            Ended::Exited(5) => Reason::S9sNoConnection,
            Ended::Exited(6) => Reason::S9sNoUser,
            Ended::Exited(_) => Reason::S9sFailed,
            Ended::Killed(_) => Reason::S9sKilled,
            Ended::TimedOut => Reason::S9sTimeout,
            Ended::TooMuchOutput => Reason::S9sTooMuchOutput,
        };
        let stderr = String::from_utf8_lossy(&self.stderr);
        let said = match stderr.trim() {
            "" => String::new(),
            text => format!(": {text}"),
        };
        Err(reason.because(anyhow!("{} {}{said}", self.program.display(), self.ending())))
    }

    /// How it ended, in words that follow the program's name.
    pub fn ending(&self) -> String {
        let seconds = self.took.as_secs_f64();
        match self.ended {
            Ended::Exited(status) => format!("exited with status {status} after {seconds:.3} s"),
            Ended::Killed(signal) => format!("was ended by {signal} after {seconds:.3} s"),
            Ended::TimedOut => format!("was still running after {seconds:.3} s and was killed"),
            Ended::TooMuchOutput => format!("printed more than {MAX_OUTPUT} bytes and was killed after {seconds:.3} s"),
        }
    }
}

/// Runs `program controller --list --long` and waits for its end, until `deadline` at the latest.
///
/// `program` is a path, or a name that is looked up on PATH.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(program: &Path, deadline: Deadline) -> Result<Run, Fault> {
    let program = find(program)?;
    let started = Instant::now();
    let mut child = Child::start(&program, deadline)?;
    let ended = child.finish(deadline);
    let [stdout, stderr] = child.streams.map(|stream| stream.bytes);
    Ok(Run {
        program,
        ended,
        stdout,
        stderr,
        took: started.elapsed(),
    })
}

/// Finds the program, so that the one that is run can be named.
fn find(program: &Path) -> Result<PathBuf, Fault> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_path_buf());
    }
    let path = set("PATH").unwrap_or_else(|| SENSIBLE_PATH.into());
    let candidates: Vec<PathBuf> = env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .filter(|candidate| candidate.is_file())
        .collect();
    let executable = candidates
        .iter()
        .find(|candidate| access(*candidate, AccessFlags::X_OK).is_ok());
    match (executable, candidates.first()) {
        (Some(found), _) => Ok(found.clone()),
        (None, Some(found)) => {
            Err(Reason::S9sNotExecutable.because(anyhow!("{} may not be executed", found.display())))
        }
        (None, None) => {
            Err(Reason::S9sNotFound.because(anyhow!("no {} in {}", program.display(), path.to_string_lossy())))
        }
    }
}

/// Our environment, with what s9s cannot do without. An init system gives xinetd's services no
/// HOME, and HOME decides which s9s.conf is read; and s9s waits 30 seconds for a controller that
/// says nothing unless it is told otherwise.
fn environment(deadline: Deadline) -> Vec<CString> {
    let mut variables: BTreeMap<OsString, OsString> = env::vars_os().collect();
    let mut default = |name: &str, value: &dyn Fn() -> Option<OsString>| {
        if set(name).is_none()
            && let Some(value) = value()
        {
            variables.insert(name.into(), value);
        }
    };
    default("PATH", &|| Some(SENSIBLE_PATH.into()));
    default("HOME", &|| machine::home_of(Uid::effective()));
    default("S9S_CONNECTION_TIMEOUT", &|| {
        Some(deadline.left().as_secs().max(1).to_string().into())
    });
    let assignments = variables
        .into_iter()
        .map(|(name, value)| [name, value].join("=".as_ref()));
    assignments.map(|assignment| c_string(&assignment)).collect()
}

/// The value of an environment variable that is there and not empty.
fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// A running s9s.
struct Child {
    pid: Pid,
    streams: [Stream; 2],
    exit: SignalFd,
    /// Children that whoever started us had before we were executed.
    others: Vec<Pid>,
    /// Our end of the pipe that ties s9s to this process; see [`tie`].
    _leash: OwnedFd,
}

impl Child {
    fn start(program: &Path, deadline: Deadline) -> Result<Child, Fault> {
        let failed =
            |what: &'static str| move |errno: Errno| Reason::S9sNotStarted.because(anyhow!(errno).context(what));
        let exit = watch_for_exit().map_err(failed("cannot watch for the end of s9s"))?;
        let (stdout, stdout_end) = pipe().map_err(failed("cannot make a pipe"))?;
        let (stderr, stderr_end) = pipe().map_err(failed("cannot make a pipe"))?;
        let (held, leash) = pipe2(OFlag::O_CLOEXEC).map_err(failed("cannot make a pipe"))?;
        let path = c_string(program.as_os_str());
        let words: Vec<CString> = iter::once(path.clone())
            .chain(ARGUMENTS.map(|word| c_string(word.as_ref())))
            .collect();
        let environment = environment(deadline);
        let parent = Pid::this();
        let others = children();
        let execute = move || -> io::Result<()> {
            SigSet::empty().thread_set_mask()?;
            tie(&held, parent)?;
            // Executed here, for std would hand a file without #! to a shell, as execvp(3) does.
            let Err(errno) = execve(&path, &words, &environment);
            Err(errno.into())
        };
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .stdout(stdout_end)
            .stderr(stderr_end)
            .process_group(0);
        // SAFETY: this process has one thread, so nothing that its child uses can be locked or half
        // done.
        unsafe { command.pre_exec(execute) };
        let child = command.spawn().map_err(|error| not_started(program, error))?;
        Ok(Child {
            pid: Pid::from_raw(child.id().cast_signed()),
            streams: [Stream::new(stdout), Stream::new(stderr)],
            exit,
            others,
            _leash: leash,
        })
    }

    /// Collects what s9s prints until it exits, its time is up, or it prints too much; then nothing
    /// of it is left running.
    fn finish(&mut self, deadline: Deadline) -> Ended {
        let ended = loop {
            if self.streams.iter_mut().any(|stream| stream.drain().is_err()) {
                break Some(Ended::TooMuchOutput);
            }
            if deadline.passed() {
                break Some(Ended::TimedOut);
            }
            let mut ready: Vec<PollFd<'_>> = self.streams.iter().filter_map(Stream::poll_fd).collect();
            ready.push(PollFd::new(self.exit.as_fd(), PollFlags::POLLIN));
            let _ = poll(&mut ready, deadline.poll_timeout());
            if self.has_exited() {
                break None;
            }
        };
        let _ = killpg(self.pid, Signal::SIGKILL);
        let status = self.reap();
        // Its last words; what a stray descendant might add later is not waited for.
        let overflow = self.streams.iter_mut().any(|stream| stream.drain().is_err());
        match (ended, status) {
            (Some(ended), _) => ended,
            (None, _) if overflow => Ended::TooMuchOutput,
            (None, Some(WaitStatus::Exited(_, status))) => Ended::Exited(status),
            (None, Some(WaitStatus::Signaled(_, signal, _))) => Ended::Killed(signal),
            (None, _) => Ended::Killed(Signal::SIGKILL),
        }
    }

    /// Whether s9s itself has exited, and not only something that it started. It is not reaped yet,
    /// so its group's number stays its own.
    fn has_exited(&self) -> bool {
        let _ = self.exit.read_signal();
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid), peek), Ok(WaitStatus::StillAlive))
    }

    /// Waits for the end of the whole group and of what has left it. The status is that of s9s.
    fn reap(&self) -> Option<WaitStatus> {
        let group = Pid::from_raw(-self.pid.as_raw());
        let patience = Deadline::from_now(DYING);
        let mut status = None;
        while !patience.passed() {
            match waitpid(group, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => self.wait_for_an_exit(patience),
                Ok(ended) if ended.pid() == Some(self.pid) => status = Some(ended),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // Whoever lost its parent is our child now; see `watch_for_exit`.
        while !patience.passed() {
            let mut strays = children();
            strays.retain(|pid| !self.others.contains(pid));
            if strays.is_empty() {
                break;
            }
            strays.retain(|pid| {
                let _ = kill(*pid, Signal::SIGKILL);
                matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
            });
            if !strays.is_empty() {
                self.wait_for_an_exit(patience);
            }
        }
        status
    }

    fn wait_for_an_exit(&self, deadline: Deadline) {
        let mut exit = [PollFd::new(self.exit.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut exit, deadline.poll_timeout());
        let _ = self.exit.read_signal();
    }
}

/// This process's children. None where the kernel does not tell (proc_pid_task(5), `children`).
fn children() -> Vec<Pid> {
    // Most often there is none, and to ask that is far cheaper than the first look into /proc.
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    if waitid(Id::All, peek) == Err(Errno::ECHILD) {
        return Vec::new();
    }
    let list = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let numbers = list.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.map(Pid::from_raw).collect()
}

/// Why the program could not be executed. The kernel says ENOENT for a missing interpreter as well.
fn not_started(program: &Path, error: io::Error) -> Fault {
    let reason = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) if program.is_file() => Reason::S9sNotExecutable,
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => Reason::S9sNotFound,
        Some(Errno::EACCES | Errno::EPERM | Errno::ENOEXEC | Errno::EISDIR) => Reason::S9sNotExecutable,
        _ => Reason::S9sNotStarted,
    };
    reason.because(anyhow!(error).context(format!("cannot execute {}", program.display())))
}

/// A descriptor that becomes readable when a process of s9s has exited.
fn watch_for_exit() -> nix::Result<SignalFd> {
    // Whoever started us may have had SIGCHLD ignored; then no exit would be reported.
    // SAFETY: the default action is no handler, so nothing can run at a wrong moment.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    let exits = SigSet::from_iter([Signal::SIGCHLD]);
    exits.thread_block()?;
    // What s9s leaves behind becomes our child, so that its end can be waited for as well.
    set_child_subreaper(true)?;
    SignalFd::with_flags(&exits, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// A pipe whose reading end never blocks: only poll(2) is waited on.
fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reading, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reading, writing))
}

/// One of the streams that s9s prints to.
struct Stream {
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(pipe: OwnedFd) -> Stream {
        Stream {
            pipe: Some(File::from(pipe)),
            bytes: Vec::new(),
        }
    }

    fn poll_fd(&self) -> Option<PollFd<'_>> {
        let fd: BorrowedFd<'_> = self.pipe.as_ref()?.as_fd();
        Some(PollFd::new(fd, PollFlags::POLLIN))
    }

    /// Takes what is there to be read. Err: that makes it too much.
    fn drain(&mut self) -> Result<(), ()> {
        if let Some(pipe) = &mut self.pipe {
            let room = MAX_OUTPUT + 1 - self.bytes.len();
            // An error is that there is nothing more for now: a pipe that never blocks has no other.
            if pipe.take(room as u64).read_to_end(&mut self.bytes).is_ok() {
                self.pipe = None;
            }
        }
        if self.bytes.len() > MAX_OUTPUT {
            self.bytes.truncate(MAX_OUTPUT);
            return Err(());
        }
        Ok(())
    }
}

/// Ties the calling process's group to its parent: when that is gone, even by SIGKILL, the kernel
/// kills the whole group. A parent-death signal would reach s9s alone and not what it starts.
///
/// The group holds the reading end of a pipe that signals it (fcntl(2), F_SETSIG) when something
/// happens to the other end. The parent has that and never writes, so the one thing that can
/// happen is that it is closed, which the kernel does for a process that dies.
fn tie(held: &OwnedFd, parent: Pid) -> io::Result<()> {
    // Source: fcntl(2) and Linux's asm-generic/fcntl.h; the libc crate lacks it for glibc.
    const F_SETSIG: libc::c_int = 10;
    let fd = held.as_raw_fd();
    // SAFETY: both commands take an integer and touch no memory of ours.
    Errno::result(unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGKILL) })?;
    // SAFETY: as above; a negative owner is a process group.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETOWN, -Pid::this().as_raw()) })?;
    fcntl(held, FcntlArg::F_SETFL(OFlag::O_ASYNC))?;
    // s9s and what it starts inherit it.
    fcntl(held, FcntlArg::F_SETFD(FdFlag::empty()))?;
    // A parent that died before this took effect is told by nobody else.
    if getppid() == parent {
        Ok(())
    } else {
        Err(Errno::ESRCH.into())
    }
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("the kernel passes no text with a NUL")
}
