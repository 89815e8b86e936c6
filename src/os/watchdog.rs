//! The last guard: a second thread, which answers and ends the process when the check is late.
//!
//! A file on a dead NFS server, behind an on-access scanner or on a frozen disk holds a process in
//! a wait that no signal handler can interrupt. So the guard is a second thread. When it ends the
//! process, the kernel kills s9s (see [`crate::s9s::process`]).

use std::io;
use std::path::Path;
use std::process::exit;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::os::clock::Moment;

/// After its deadline, a check has this much longer to answer by itself. The time starts when the guard
/// wakes up, not at the deadline, because the whole process may have been stopped.
const GRACE: Duration = Duration::from_millis(200);

/// How long the process may live after that, to send the answer and to linger.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// Room for the guard's stack, in bytes.
const STACK: usize = 65_536;

/// What the check is doing. A process makes one check.
static DOING: Mutex<String> = Mutex::new(String::new());

/// The thread that has claimed the one answer.
static ANSWERER: OnceLock<ThreadId> = OnceLock::new();

/// Arms the guard. Unless the check calls [`claim_answer`] in time, the guard calls `answer` with what the check is
/// doing, and ends the process with the status that it returns.
///
/// # Errors
/// The system has no room for a thread.
pub fn arm(deadline: Moment, answer: impl FnOnce(&str) -> i32 + Send + 'static) -> io::Result<()> {
    // The guard must not take the signal that `process::run` reads.
    let _ = SigSet::from(Signal::SIGCHLD).thread_block();
    let guard = move || {
        thread::sleep(deadline.left());
        thread::sleep(GRACE);
        if has_answer() {
            let doing = format!("no answer in time: still {}", doing());
            exit(answer(&doing));
        }
        thread::sleep(AFTERMATH);
        exit(0);
    };
    thread::Builder::new().stack_size(STACK).spawn(guard).map(drop)
}

/// Records what the check does next, and on what.
pub fn enter(next: &str, path: &Path) {
    *doing() = format!("{next} {}", path.display());
}

/// Claims the one answer for this thread. Does not return if the other one has claimed it already and
/// is about to end the process.
pub fn claim_answer() {
    while !has_answer() {
        thread::park();
    }
}

/// Whether this thread is the first to claim the answer.
fn has_answer() -> bool {
    let me = thread::current().id();
    *ANSWERER.get_or_init(|| me) == me
}

fn doing() -> MutexGuard<'static, String> {
    DOING.lock().unwrap_or_else(PoisonError::into_inner)
}
