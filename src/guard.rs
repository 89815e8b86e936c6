//! The last guard: a second thread, which answers and ends the process when the check is late.
//!
//! A file on a dead NFS server, behind an on-access scanner or on a frozen disk holds a process in
//! a wait that no signal handler can interrupt. So the guard is a second thread. When it ends the
//! process, the kernel kills s9s (see [`crate::process`]).

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::moment::Moment;
use crate::process;

/// After its deadline, a check has this much longer to answer by itself. The time starts when the guard
/// wakes up, not at the deadline, because the whole process may have been stopped.
const GRACE: Duration = Duration::from_millis(200);

/// How long the process may live after that, to send the answer and to linger.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// Room for the guard's stack, in bytes.
const STACK: usize = 65_536;

/// The check's handle on its guard.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// What the check is doing.
    doing: Arc<Mutex<String>>,
    answered: Arc<AtomicBool>,
}

/// Arms the guard. Unless the check calls [`Guard::answer`] in time, the guard calls `answer` with what
/// the check is doing, and ends the process with the status that it returns.
///
/// # Errors
/// The system has no room for a thread.
pub fn arm(deadline: Moment, answer: impl FnOnce(&str) -> i32 + Send + 'static) -> io::Result<Guard> {
    let guard = Guard::default();
    // The guard must not take the signals that `process::run` waits for.
    let _ = process::exit_signals().thread_block();
    let watch = guard.clone();
    thread::Builder::new().stack_size(STACK).spawn(move || {
        thread::sleep(deadline.left());
        thread::sleep(GRACE);
        if watch.takes_the_answer() {
            let doing = format!("no answer in time: still {}", watch.doing());
            std::process::exit(answer(&doing));
        }
        thread::sleep(AFTERMATH);
        std::process::exit(0);
    })?;
    Ok(guard)
}

impl Guard {
    /// Records what the check does next, and on what.
    pub fn enter(&self, doing: &str, path: &Path) {
        *self.doing() = format!("{doing} {}", path.display());
    }

    /// Claims the one answer for the check. Does not return if the guard has claimed it already and
    /// is about to end the process.
    pub fn answer(&self) {
        while !self.takes_the_answer() {
            thread::park();
        }
    }

    /// Whether the caller is the first to claim the one answer.
    fn takes_the_answer(&self) -> bool {
        !self.answered.swap(true, Ordering::SeqCst)
    }

    fn doing(&self) -> MutexGuard<'_, String> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
