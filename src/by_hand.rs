//! What a person or a script gets: the same answer on standard output, and an exit status.

use std::ffi::c_int;
use std::io::{self, Write};
use std::time::Instant;

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::answer;
use crate::check::{Checked, check};
use crate::deadline::Deadline;
use crate::explain::explain;
use crate::lock::Sharing;
use crate::options::Options;
use crate::verdict::Verdict;

/// Makes the check and prints the answer, or with `--explain` the way to it. The status is 0 for
/// the leader, 1 for a follower, 2 for an unknown state. An explained check is never a shared one.
pub fn by_hand(options: &Options, started: Instant) -> c_int {
    let sharing = if options.explain {
        Sharing::Nothing
    } else {
        Sharing::Allowed
    };
    let checked = check(options, sharing, Deadline::after(started, options.timeout));
    let verdict = checked.verdict();
    let text = match &checked {
        Checked::Found(findings) if options.explain => explain(options, findings).into_bytes(),
        Checked::Found(_) | Checked::Shared(_) => answer::render(verdict, false),
    };
    // Whoever closed the output early still wants the status.
    // SAFETY: ignoring a signal runs nothing at any moment.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let _ = io::stdout().write_all(&text).and_then(|()| io::stdout().flush());
    match verdict {
        Verdict::Leader => 0,
        Verdict::Follower => 1,
        Verdict::Unknown(_) => 2,
    }
}
