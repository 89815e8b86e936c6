//! What signals do to this process.

use nix::errno::Errno;
use nix::libc::{SIG_SETMASK, SYS_rt_sigprocmask, syscall};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Gives a signal its usual effect. A super-server may start this process with SIGCHLD ignored, and then no
/// exit of a child is reported; Rust ignores SIGPIPE.
///
/// # Errors
/// The system refuses it, as it does for SIGKILL and SIGSTOP.
pub fn by_default(which: Signal) -> nix::Result<()> {
    // SAFETY: the default action is no handler, so nothing can run at a wrong time.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}

/// Every signal, also those that the C library keeps for itself.
pub const EVERY: u64 = u64::MAX;

/// Makes the kernel hold these signals back from the calling thread, one for each bit, and no others. Returns those
/// that it held back before.
///
/// The C library's function for this leaves some out: with musl, signal 34 would end a listener that blocks all.
///
/// # Errors
/// The system knows another number of signals.
pub fn hold_back(signals: u64) -> nix::Result<u64> {
    let mut before = 0u64;
    let size = size_of::<u64>();
    // SAFETY: the kernel reads and writes no more than these eight bytes each.
    let done = unsafe {
        syscall(
            SYS_rt_sigprocmask,
            SIG_SETMASK,
            &raw const signals,
            &raw mut before,
            size,
        )
    };
    Errno::result(done)?;
    Ok(before)
}
