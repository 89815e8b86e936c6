//! The clock of a check, and how much time is left on it.

use std::time::Duration;

use nix::poll::PollTimeout;
use nix::time::{ClockId, clock_gettime};

/// The time since boot (`CLOCK_BOOTTIME`): it never steps, and it goes on while the machine is suspended.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
    now.expect("Linux has had CLOCK_BOOTTIME since 2.6.39").into()
}

/// A moment by which something must be over, as the time since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Duration);

impl Deadline {
    /// The moment `span` from now.
    pub fn from_now(span: Duration) -> Deadline {
        Deadline(since_boot() + span)
    }

    /// The moment `span` before this one.
    pub fn earlier(self, span: Duration) -> Deadline {
        Deadline(self.0.saturating_sub(span))
    }

    /// The time that is left; zero once the moment has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(since_boot())
    }

    /// Whether the moment has passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// The time that is left as poll(2) takes it: whole milliseconds, rounded up, so that a wait
    /// never ends just before the deadline and spins until it.
    pub fn poll_timeout(self) -> PollTimeout {
        let millis = self.left().as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }
}
