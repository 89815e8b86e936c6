//! How much time is left.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// A moment by which something must be over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `span` after `start`.
    pub fn after(start: Instant, span: Duration) -> Deadline {
        Deadline(start + span)
    }

    /// The moment `span` from now.
    pub fn from_now(span: Duration) -> Deadline {
        Deadline::after(Instant::now(), span)
    }

    /// The moment `span` before this one.
    pub fn earlier(self, span: Duration) -> Deadline {
        Deadline(self.0.checked_sub(span).unwrap_or(self.0))
    }

    /// The time that is left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// The time that is left as poll(2) wants it: whole milliseconds, rounded up, so that a wait
    /// never ends just before the deadline and spins until it.
    pub fn poll_timeout(self) -> PollTimeout {
        let millis = self.left().as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }
}
