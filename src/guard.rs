//! The last guard: a second thread, which answers and ends the process when the check is late.
//!
//! A file on a dead NFS server, behind an on-access scanner or on a frozen disk holds a process in
//! a wait that no signal handler can interrupt. So the guard is a second thread. When it ends the
//! process, the kernel kills s9s and its group (see [`crate::process`]).

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::log;
use crate::process;
use crate::reason::Reason;

/// How long after its deadline a check may still answer by itself. The time counts from when the guard
/// runs, so that a check that was stopped past its deadline can still say why it is late.
const GRACE: Duration = Duration::from_millis(200);

/// How long after its deadline and the grace the process may still live, to send the answer, linger and
/// publish the verdict.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// Room for the guard's stack, in bytes.
const STACK: usize = 65_536;

/// What a check is doing.
#[derive(Debug)]
pub enum Stage {
    /// Reading its options and the settings file.
    Settings,
    /// Looking at the files that decide the verdict, or whether there is one.
    Inputs,
    /// Reading the request.
    Request,
    /// Looking for a cached verdict beside this lock file.
    Cache(PathBuf),
    /// Waiting for the lock on this file. The one stage that may last until the deadline.
    Lock(PathBuf),
    /// Reading this defaults file.
    Defaults(PathBuf),
    /// Running this s9s.
    S9s(PathBuf),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Settings => f.write_str("reading its settings"),
            Stage::Inputs => {
                f.write_str("looking at the s9s program, the defaults file, the maintenance file or an s9s.conf")
            }
            Stage::Request => f.write_str("reading the request"),
            Stage::Cache(path) => write!(f, "reading the cache at {}", path.display()),
            Stage::Lock(path) => write!(f, "waiting for the lock on {}", path.display()),
            Stage::Defaults(path) => write!(f, "reading {}", path.display()),
            Stage::S9s(path) => write!(f, "running {}", path.display()),
        }
    }
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<(Deadline, Stage)>,
    answered: AtomicBool,
}

/// The check's handle on its guard.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    thread: Thread,
}

/// Arms the guard. Unless the check calls [`Guard::answer`] before `deadline` and 200 ms have
/// passed, the guard logs what the check is doing, calls `answer` with the reason, and ends the
/// process with the status that it returns. With `to_the_end`, the guard also ends a process that
/// does not end after its answer.
///
/// # Errors
/// The system has no room for a thread.
pub fn arm(
    deadline: Deadline,
    to_the_end: bool,
    answer: impl FnOnce(Reason) -> i32 + Send + 'static,
) -> io::Result<Guard> {
    let shared = Arc::new(Shared {
        progress: Mutex::new((deadline, Stage::Settings)),
        answered: AtomicBool::new(false),
    });
    // The guard must not take the signals that `process::run` waits for.
    let _ = process::exit_signals().thread_block();
    let guards = Arc::clone(&shared);
    let watch = move || {
        let reason = guards.wait();
        if guards.takes_the_answer() {
            let stage = &guards.progress().1;
            log::fault(&format!("{}: no answer in time: still {stage}", reason.code()));
            std::process::exit(answer(reason));
        }
        if to_the_end {
            thread::sleep(AFTERMATH);
            std::process::exit(0);
        }
    };
    let thread = thread::Builder::new().stack_size(STACK).spawn(watch)?.thread().clone();
    Ok(Guard { shared, thread })
}

impl Shared {
    /// Waits until the check is late, and says why.
    fn wait(&self) -> Reason {
        loop {
            let left = self.progress().0.left();
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        if matches!(self.progress().1, Stage::Lock(_)) {
            return Reason::LockTimeout;
        }
        thread::sleep(GRACE);
        Reason::Stuck
    }

    /// Whether the caller is the first to claim the one answer.
    fn takes_the_answer(&self) -> bool {
        !self.answered.swap(true, Ordering::SeqCst)
    }

    fn progress(&self) -> MutexGuard<'_, (Deadline, Stage)> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    /// Sets another deadline.
    pub fn set_deadline(&self, deadline: Deadline) {
        let before = std::mem::replace(&mut self.shared.progress().0, deadline);
        if before != deadline {
            self.thread.unpark();
        }
    }

    /// Records what the check does next.
    pub fn enter(&self, stage: Stage) {
        self.shared.progress().1 = stage;
    }

    /// Claims the one answer for the check. Does not return if the guard has claimed it already and
    /// is about to end the process.
    pub fn answer(&self) {
        while !self.shared.takes_the_answer() {
            thread::park();
        }
    }
}
