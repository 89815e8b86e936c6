//! The clock of a check: instants since boot, and how much time is left until one.

use std::ops::Add;
use std::time::Duration;

use nix::poll::PollTimeout;
use nix::time::{ClockId, clock_gettime};

/// An instant, as the time since boot (`CLOCK_BOOTTIME`): that clock never steps, and it goes on while the
/// machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant(pub Duration);

impl Instant {
    /// Now.
    pub fn now() -> Instant {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
        Instant(now.expect("Linux has had CLOCK_BOOTTIME since 2.6.39").into())
    }

    /// How long ago it was; None if it is still to come.
    pub fn age(self) -> Option<Duration> {
        Instant::now().0.checked_sub(self.0)
    }

    /// The time that is left until then; zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Instant::now().0)
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// The time that is left as poll(2) takes it: whole milliseconds, rounded up, so that a wait
    /// never ends just before the instant and spins until it.
    pub fn poll_timeout(self) -> PollTimeout {
        let millis = self.left().as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, span: Duration) -> Instant {
        Instant(self.0 + span)
    }
}
