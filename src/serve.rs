//! What a client gets: one answer to one connection.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use crate::request;
use crate::verdict::Verdict;

/// How long a check waits for the request, at most half of the check's time.
const READING: Duration = Duration::from_secs(1);

/// Answers `connection`: request -> cache -> s9s -> verdict -> response. `started` is when the process
/// started, since boot; the options' timeout counts from then. A late part of the request is waited for
/// last: it only decides the form of the answer, and must not take time from s9s.
pub fn serve(connection: Connection, started: Duration) {
    let client = Client {
        connection,
        head: Arc::default(),
    };
    let late = client.clone();
    let last_words = move |reason| {
        late.answer(Verdict::Unknown(reason));
        // While this check lingers, it may still get the lock, and would keep it from the others.
        if reason != Reason::LockTimeout {
            late.connection.linger();
        }
        0
    };
    // Nothing can block up to here, nor in this statement. Everything after it may block.
    let options = or_internal_error(|| Options::given().map_err(|error| refuse(&error.into()))).flatten();
    let timeout = options.as_ref().map_or(READING, |options| options.timeout);
    match guard::arm(Deadline(started + timeout), true, last_words) {
        Ok(guard) => client.serve(started, timeout, options, &guard),
        Err(error) => {
            // If there is no room for a thread, there is none for s9s.
            log::fault(&format!("{}: {error}", Reason::S9sNotStarted.code()));
            client.read_request(reading_deadline(started, timeout));
            client.answer(Verdict::Unknown(Reason::S9sNotStarted));
        }
    }
    connection.linger();
}

fn reading_deadline(started: Duration, timeout: Duration) -> Deadline {
    Deadline(started + READING.min(timeout / 2))
}

#[derive(Clone)]
struct Client {
    connection: Connection,
    /// The part of the request that has come so far.
    head: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    fn serve(&self, started: Duration, mut timeout: Duration, options: Result<Options, Reason>, guard: &Guard) {
        // Usually the whole request is there. Read it now: a check that is killed must leave nothing unread.
        self.read_request(Deadline(started));
        let mut checked = or_internal_error(|| {
            let options = options?.with_settings_file().map_err(|error| refuse(&error))?;
            timeout = options.timeout;
            let deadline = options.deadline(started);
            guard.set_deadline(deadline);
            Ok(check(&options, Asker::Client, deadline, guard))
        })
        .flatten();
        let publish = |checked: &mut Result<Checked, Reason>| {
            let _ = or_internal_error(|| checked.as_mut().map(|checked| checked.publish(true)).ok());
        };
        guard.enter(Stage::Request);
        if !self.read_request(Deadline(started)) {
            // The others must not wait for a request that is still on its way.
            publish(&mut checked);
            self.read_request(reading_deadline(started, timeout));
        }
        let verdict = match &checked {
            Ok(checked) => checked.verdict(Deadline(started + timeout)),
            Err(reason) => Verdict::Unknown(*reason),
        };
        guard.answer();
        self.answer(verdict);
        // Publish after the answer: the answer must not wait for the lock file's disk.
        publish(&mut checked);
    }

    /// Reads the request until `deadline` at the latest. Returns whether it is complete.
    fn read_request(&self, deadline: Deadline) -> bool {
        let mut head = self.head();
        let read = or_internal_error(|| {
            self.connection.read_head(&mut head, deadline);
            request::is_complete(&head)
        });
        read.unwrap_or(true)
    }

    fn answer(&self, verdict: Verdict) {
        self.read_request(Deadline(Duration::ZERO));
        let head = self.head();
        self.connection
            .send(&render(verdict, request::request(&head), request::is_head(&head)));
    }

    fn head(&self) -> MutexGuard<'_, Vec<u8>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs, for the operator, why the options cannot be used. To clap, --help and --version are errors, too;
/// nobody would read their texts here.
fn refuse(error: &anyhow::Error) -> Reason {
    log::fault(&format!(
        "{}: {}",
        Reason::BadArguments.code(),
        options::in_short(error)
    ));
    Reason::BadArguments
}

/// A panic must not cost the client its answer, and must not be shown to the client.
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
