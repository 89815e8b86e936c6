//! What a client gets: one answer to one connection.

use std::cell::LazyCell;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::answer;
use crate::check::check;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::lock::{self, Sharing};
use crate::log;
use crate::options::{self, Options};
use crate::reason::Reason;
use crate::request;
use crate::verdict::Verdict;

/// How long a request is waited for, at most half of the check's time.
const READING: Duration = Duration::from_secs(1);

/// Answers `connection`: request → lock → s9s → verdict → answer. `started` is when the process
/// did; from then on the answer takes no longer than the options' timeout.
///
/// Most checks share a verdict that lies there already. They need no options, and reading them
/// would take more instructions than all the rest, so they are read when first asked for.
pub fn serve(connection: &Connection, started: Instant) {
    let options = LazyCell::new(Options::read);
    let head = connection.read_head(|| {
        let reading = options
            .as_ref()
            .map_or(READING, |options| READING.min(options.timeout / 2));
        Deadline::after(started, reading)
    });
    let verdict = or_internal_error(|| {
        lock::shared(&options::likely_lock_file(), options::question()).unwrap_or_else(|| match &*options {
            Ok(options) => check(options, Sharing::Allowed, Deadline::after(started, options.timeout)).verdict(),
            Err(error) => refuse(error),
        })
    });
    match connection.send(&answer::render(verdict, request::is_head(&head))) {
        // A client that did not wait for its answer is its own business.
        Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => connection.linger(),
        Err(errno) => log::fault(&format!("the answer could not be sent: {errno}")),
    }
}

/// Options that cannot be used are the operator's to mend; --help and --version, which are errors
/// to clap too, have no reader here.
fn refuse(error: &clap::Error) -> Verdict {
    log::fault(&format!("{}: {error}", Reason::BadArguments.code()));
    Verdict::Unknown(Reason::BadArguments)
}

/// A defect of ours must not cost the client its answer, nor be shown to it.
fn or_internal_error(check: impl FnOnce() -> Verdict) -> Verdict {
    panic::set_hook(Box::new(|panic| {
        log::fault(&format!("{}: {panic}", Reason::InternalError.code()))
    }));
    panic::catch_unwind(AssertUnwindSafe(check)).unwrap_or(Verdict::Unknown(Reason::InternalError))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_unknown_verdict() {
        assert_eq!(
            or_internal_error(|| panic!("seen in the test's output only if the hook is not ours")),
            Verdict::Unknown(Reason::InternalError)
        );
    }
}
