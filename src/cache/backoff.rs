//! Back-off: how long to wait before s9s may run again.
//!
//! Each refused login brings the user nearer to being suspended, and each run that cannot be killed leaves
//! one more process. The back-off must end when its cause ends: while it lasts, this node is no leader.

use std::time::Duration;

use crate::s9s::process::{Ended, UnkillableProcess};
use crate::verdict::Verdict;
use crate::verdict::reason::Reason;

/// The first back-off after a refused user or password. The next one doubles it.
const REFUSED: Duration = Duration::from_secs(30);

/// The first back-off after a login that failed for another cause, such as a database that restarts.
const FAILED: Duration = Duration::from_secs(2);

/// When s9s can be run again, after a run that ended with some verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    /// How long s9s is not run again, from the start of the run.
    pub span: Duration,
    /// The back-off after the last refusal, if no login has succeeded since then.
    pub refused: Duration,
    /// The process that could not be killed: s9s is not run again while it is there.
    pub unkillable: Option<UnkillableProcess>,
}

impl BackOff {
    /// The back-off after a run whose end, if s9s was started, led to `verdict`. `before` are the previous verdict
    /// with the same cache key and its back-off. No back-off is longer than `longest`.
    ///
    /// Only a login that succeeds ends the count of refusals. The shorter back-off doubles only while every login
    /// fails in the same way.
    pub fn after(
        verdict: Verdict,
        ended: Option<Ended>,
        before: Option<(Verdict, BackOff)>,
        longest: Duration,
    ) -> BackOff {
        // With status 2, s9s has logged in, and the listing failed.
        let has_logged_in = matches!(ended, Some(Ended::Exited(0 | 2)));
        let before = before.filter(|_| !has_logged_in);
        let refused = before.map_or(Duration::ZERO, |(_, back_off)| back_off.refused);
        let again = before.filter(|(previous, _)| *previous == verdict);
        let (span, refused) = match verdict {
            Verdict::Unknown(reason) if reason.is_refusal() => {
                let span = (refused * 2).max(REFUSED).min(longest);
                (span, span)
            }
            Verdict::Unknown(Reason::S9sLoginFailed) => {
                let span = again.map_or(FAILED, |(_, back_off)| (back_off.span * 2).max(FAILED));
                (span.min(longest), refused)
            }
            _ => (Duration::ZERO, refused),
        };
        let unkillable = match ended {
            Some(Ended::Unkillable(process)) => Some(process),
            _ => None,
        };
        BackOff {
            span,
            refused,
            unkillable,
        }
    }

    /// Whether the process that could not be killed is still there.
    pub fn is_unkillable_there(&self) -> bool {
        self.unkillable.is_some_and(UnkillableProcess::is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Role;

    const LONGEST: Duration = Duration::from_secs(300);

    /// The spans, in seconds, of the back-offs after these ends of s9s, one after the other.
    fn spans(ends: &[(Verdict, i32)]) -> Vec<u64> {
        let mut before = None;
        ends.iter()
            .map(|(verdict, status)| {
                let back_off = BackOff::after(*verdict, Some(Ended::Exited(*status)), before, LONGEST);
                before = Some((*verdict, back_off));
                back_off.span.as_secs()
            })
            .collect()
    }

    const LEADER: (Verdict, i32) = (Verdict::Known(Role::Leader), 0);
    const OFFLINE: (Verdict, i32) = (Verdict::Unknown(Reason::Offline), 0);
    const REFUSED: (Verdict, i32) = (Verdict::Unknown(Reason::S9sRefused), 3);
    const SUSPENDED: (Verdict, i32) = (Verdict::Unknown(Reason::S9sSuspended), 3);
    const FAILED: (Verdict, i32) = (Verdict::Unknown(Reason::S9sLoginFailed), 3);
    const AWAY: (Verdict, i32) = (Verdict::Unknown(Reason::S9sNoConnection), 3);

    #[test]
    fn a_refusal_doubles_the_back_off_up_to_the_longest() {
        assert_eq!(spans(&[REFUSED; 6]), [30, 60, 120, 240, 300, 300]);
        assert_eq!(spans(&[REFUSED, SUSPENDED]), [30, 60]);
    }

    #[test]
    fn only_a_login_ends_the_count_of_refusals() {
        assert_eq!(spans(&[REFUSED, AWAY, AWAY, REFUSED]), [30, 0, 0, 60]);
        assert_eq!(spans(&[REFUSED, FAILED, FAILED, REFUSED]), [30, 2, 4, 60]);
        assert_eq!(spans(&[REFUSED, LEADER, REFUSED]), [30, 0, 30]);
        assert_eq!(spans(&[REFUSED, OFFLINE, REFUSED]), [30, 0, 30]);
    }

    #[test]
    fn another_failure_of_the_login_backs_off_shortly_while_the_same_goes_on() {
        assert_eq!(spans(&[FAILED; 9]), [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(spans(&[FAILED, FAILED, AWAY, FAILED]), [2, 4, 0, 2]);
        assert_eq!(spans(&[FAILED, FAILED, LEADER, FAILED]), [2, 4, 0, 2]);
    }

    #[test]
    fn the_longest_back_off_can_be_none() {
        let back_off = BackOff::after(REFUSED.0, Some(Ended::Exited(3)), None, Duration::ZERO);
        assert_eq!(back_off.span, Duration::ZERO);
    }
}
