//! The watchdog: a second thread, which answers and ends the process when the check is late.
//!
//! A file on a dead NFS server, behind an on-access scanner or on a frozen disk holds a process in
//! a wait that no signal handler can interrupt. So the watchdog is a second thread. When it ends the
//! process, the kernel kills the program that the check runs.

use std::io;
use std::path::Path;
use std::process::exit;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::alarm;

use super::clock::Instant;
use super::signals::by_default;

/// After its deadline, a check has this much longer to respond by itself. The time starts when the watchdog
/// wakes up, not at the deadline, because the whole process may have been stopped.
const GRACE: Duration = Duration::from_millis(200);

/// How long the process may live after that, to send the response and to linger.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// The same for a response of the watchdog, in seconds. Then the kernel ends the process, because what follows the
/// response may block as the check does.
const ALARM: u32 = 3;

/// Room for the watchdog's stack, in bytes.
const STACK: usize = 65_536;

/// When the check is late. A process makes one check.
static DEADLINE: Mutex<Instant> = Mutex::new(Instant(Duration::ZERO));

/// Wakes the watchdog where its deadline has moved.
static MOVED: Condvar = Condvar::new();

/// What the check is doing.
static STEP: Mutex<String> = Mutex::new(String::new());

/// The thread that has claimed the one response.
static CLAIMANT: OnceLock<ThreadId> = OnceLock::new();

/// Arms the watchdog. Unless the check calls [`claim_response`] in time, the watchdog calls `respond` with what the
/// check is doing, and ends the process with the status that it returns.
///
/// # Errors
/// The system has no room for a thread.
pub fn arm(deadline: Instant, respond: impl FnOnce(&str) -> i32 + Send + 'static) -> io::Result<()> {
    *locked(&DEADLINE) = deadline;

    // A new thread inherits the mask. The watchdog takes no signal that the check waits for.
    let mut others = SigSet::all();
    others.remove(Signal::SIGALRM);
    let mask = others.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = thread::Builder::new().stack_size(STACK).spawn(|| watch(respond));
    mask.thread_set_mask()?;
    thread.map(drop)
}

/// Moves the deadline.
pub fn set_deadline(deadline: Instant) {
    *locked(&DEADLINE) = deadline;
    MOVED.notify_one();
}

fn watch(respond: impl FnOnce(&str) -> i32) {
    wait_for_the_deadline();
    thread::sleep(GRACE);
    if has_claimed() {
        let _ = by_default(Signal::SIGALRM);
        alarm::set(ALARM);
        let step = format!("no answer in time: still {}", locked(&STEP));
        exit(respond(&step));
    }
    thread::sleep(AFTERMATH);
    exit(0);
}

fn wait_for_the_deadline() {
    let mut deadline = locked(&DEADLINE);
    while !deadline.has_passed() {
        let left = deadline.left();
        let woken = MOVED.wait_timeout(deadline, left);
        deadline = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Records what the check does next, and on what.
pub fn enter(next: &str, path: &Path) {
    *locked(&STEP) = format!("{next} {}", path.display());
}

/// Claims the one response for this thread. Does not return if the other one has claimed it already and
/// is about to end the process.
pub fn claim_response() {
    while !has_claimed() {
        thread::park();
    }
}

/// Whether this thread is the first to claim the response.
fn has_claimed() -> bool {
    let me = thread::current().id();
    *CLAIMANT.get_or_init(|| me) == me
}

fn locked<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
