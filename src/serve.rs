//! What a client gets: one answer to one connection.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::answer::render;
use crate::check::{Checked, check};
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::guard::{self, Guard, Stage};
use crate::key::Asker;
use crate::log;
use crate::options::{self, Options};
use crate::reason::Reason;
use crate::request::{self, Request};
use crate::verdict::Verdict;

/// How long a request is waited for, at most half of the check's time.
const READING: Duration = Duration::from_secs(1);

/// Answers `connection`: request -> cache -> s9s -> verdict -> response. `started` is when the process
/// did, since boot; from then on the answer takes no longer than the options' timeout.
pub fn serve(connection: Connection, started: Duration) {
    let client = Client {
        connection,
        asked: Arc::default(),
    };
    let late = client.clone();
    let last_words = move |reason| {
        late.answer(Verdict::Unknown(reason));
        late.connection.linger();
        0
    };
    // Up to here and in this, nothing can block. After it, anything may.
    let options =
        or_internal_error(|| Options::given().map_err(|error| refuse(&error.into()))).and_then(|options| options);
    let timeout = options.as_ref().map_or(READING, |options| options.timeout);
    match guard::arm(Deadline(started + timeout), true, last_words) {
        Ok(guard) => client.serve(started, options, &guard),
        Err(error) => {
            // Where there is no room for a thread, there is none for s9s.
            log::fault(&format!("{}: {error}", Reason::S9sNotStarted.code()));
            client.read_request(started, timeout);
            client.answer(Verdict::Unknown(Reason::S9sNotStarted));
        }
    }
    connection.linger();
}

#[derive(Clone)]
struct Client {
    connection: Connection,
    /// What it asks for, and whether by HEAD.
    asked: Arc<OnceLock<(Request, bool)>>,
}

impl Client {
    fn serve(&self, started: Duration, options: Result<Options, Reason>, guard: &Guard) {
        let found = or_internal_error(|| self.check(started, options, guard));
        let (verdict, checked) = found.unwrap_or_else(|reason| (Verdict::Unknown(reason), None));
        guard.answer();
        self.answer(verdict);
        // After the answer, which must not wait for the lock file's disk.
        let _ = or_internal_error(|| checked.map(|checked| checked.publish(true)));
    }

    fn check(&self, started: Duration, options: Result<Options, Reason>, guard: &Guard) -> (Verdict, Option<Checked>) {
        let options = options.and_then(|options| options.with_settings_file().map_err(|error| refuse(&error)));
        let timeout = options.as_ref().map_or(READING, |options| options.timeout);
        let deadline = Deadline(started + timeout);
        guard.set_deadline(deadline);
        guard.enter(Stage::Request);
        self.read_request(started, timeout);
        let options = match options {
            Ok(options) => options,
            Err(reason) => return (Verdict::Unknown(reason), None),
        };
        let checked = check(&options, Asker::Client, deadline, guard);
        (checked.verdict(deadline), Some(checked))
    }

    fn read_request(&self, started: Duration, timeout: Duration) {
        let head = self.connection.read_head(Deadline(started + READING.min(timeout / 2)));
        let _ = self.asked.set((request::request(&head), request::is_head(&head)));
    }

    fn answer(&self, verdict: Verdict) {
        let (request, head_only) = self.asked.get().copied().unwrap_or_default();
        self.connection.send(&render(verdict, request, head_only));
    }
}

/// Options that cannot be used are the operator's to mend; --help and --version, which are errors to
/// clap too, have no reader here.
fn refuse(error: &anyhow::Error) -> Reason {
    log::fault(&format!(
        "{}: {}",
        Reason::BadArguments.code(),
        options::in_short(error)
    ));
    Reason::BadArguments
}

/// A defect of ours must not cost the client its answer, nor be shown to it.
fn or_internal_error<T>(step: impl FnOnce() -> T) -> Result<T, Reason> {
    panic::set_hook(Box::new(|panic| {
        log::fault(&format!("{}: {panic}", Reason::InternalError.code()));
    }));
    panic::catch_unwind(AssertUnwindSafe(step)).map_err(|_| Reason::InternalError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_from_a_result() {
        assert_eq!(or_internal_error(|| 1), Ok(1));
        assert_eq!(
            or_internal_error(|| panic!("seen in the test's output only if the hook is not ours")),
            Err::<(), _>(Reason::InternalError)
        );
    }
}
