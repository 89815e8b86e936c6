//! What signals do to this process.

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
