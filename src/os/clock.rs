//! The clock of a check: moments since boot, and how much time is left until one.

use std::ops::Add;
use std::time::Duration;

use nix::poll::PollTimeout;
use nix::time::{ClockId, clock_gettime};

/// A moment, as the time since boot (`CLOCK_BOOTTIME`): that clock never steps, and it goes on while the
/// machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Duration);

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
        Moment(now.expect("Linux has had CLOCK_BOOTTIME since 2.6.39").into())
    }

    /// How long ago it was; None if it is still to come.
    pub fn age(self) -> Option<Duration> {
        Moment::now().0.checked_sub(self.0)
    }

    /// The time that is left until then; zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Moment::now().0)
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// The time that is left as poll(2) takes it: whole milliseconds, rounded up, so that a wait
    /// never ends just before the moment and spins until it.
    pub fn poll_timeout(self) -> PollTimeout {
        let millis = self.left().as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment(self.0 + span)
    }
}
