//! The pause: when s9s must not be run again, because running it does harm.
//!
//! Each refused login brings the user nearer to being suspended, and each run that cannot be killed leaves
//! one more process. A pause must not outlive its cause, because it takes the leader away.

use std::time::Duration;

use crate::s9s::process::{Ended, Survivor};
use crate::verdict::Verdict;
use crate::verdict::reason::Reason;

/// The first pause after a refused user or password. The next one doubles it.
const REFUSED: Duration = Duration::from_secs(30);

/// The first pause after a login that failed for another cause, such as a database that restarts.
const FAILED: Duration = Duration::from_secs(2);

/// When s9s can be run again, after a run that ended with some verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// How long s9s is not run again, from the start of the run.
    pub span: Duration,
    /// The pause after the last refusal, if no login has succeeded since then.
    pub refused: Duration,
    /// The digest of the credentials that this is about, as [`crate::s9s::config::digest`] has it.
    pub credentials: u32,
    /// The process that could not be killed: s9s is not run again while it is there.
    pub survivor: Option<Survivor>,
}

impl Pause {
    /// The pause after a run with these `credentials`, whose end, if s9s was run, led to `verdict`. `before` are
    /// the previous verdict and its pause. No pause is longer than `backoff`.
    ///
    /// Only a login that succeeds, or changed credentials, ends the count of refusals. The shorter pause
    /// doubles only while every login fails in the same way.
    pub fn after(
        verdict: Verdict,
        ended: Option<Ended>,
        credentials: u32,
        before: Option<(Verdict, Pause)>,
        backoff: Duration,
    ) -> Pause {
        // With status 2, s9s has logged in, and the listing failed.
        let logged_in = matches!(ended, Some(Ended::Exited(0 | 2)));
        let before = before.filter(|(_, pause)| pause.credentials == credentials && !logged_in);
        let refused = before.map_or(Duration::ZERO, |(_, pause)| pause.refused);
        let again = before.filter(|(previous, _)| *previous == verdict);
        let (span, refused) = match verdict {
            Verdict::Unknown(reason) if reason.is_refusal() => {
                let span = (refused * 2).max(REFUSED).min(backoff);
                (span, span)
            }
            Verdict::Unknown(Reason::S9sLoginFailed) => {
                let span = again.map_or(FAILED, |(_, pause)| (pause.span * 2).max(FAILED));
                (span.min(backoff), refused)
            }
            _ => (Duration::ZERO, refused),
        };
        let survivor = match ended {
            Some(Ended::Survived(survivor)) => Some(survivor),
            _ => None,
        };
        Pause {
            span,
            refused,
            credentials,
            survivor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Role;

    const BACKOFF: Duration = Duration::from_secs(300);

    /// The spans, in seconds, of the pauses after these ends of s9s, one after the other.
    fn spans(ends: &[(Verdict, i32, u32)]) -> Vec<u64> {
        let mut before = None;
        ends.iter()
            .map(|(verdict, status, credentials)| {
                let ended = Some(Ended::Exited(*status));
                let pause = Pause::after(*verdict, ended, *credentials, before, BACKOFF);
                before = Some((*verdict, pause));
                pause.span.as_secs()
            })
            .collect()
    }

    const LEADER: (Verdict, i32, u32) = (Verdict::Known(Role::Leader), 0, 1);
    const OFFLINE: (Verdict, i32, u32) = (Verdict::Unknown(Reason::Offline), 0, 1);
    const REFUSED: (Verdict, i32, u32) = (Verdict::Unknown(Reason::S9sRefused), 3, 1);
    const SUSPENDED: (Verdict, i32, u32) = (Verdict::Unknown(Reason::S9sSuspended), 3, 1);
    const FAILED: (Verdict, i32, u32) = (Verdict::Unknown(Reason::S9sLoginFailed), 3, 1);
    const AWAY: (Verdict, i32, u32) = (Verdict::Unknown(Reason::S9sNoConnection), 3, 1);

    #[test]
    fn a_refusal_doubles_the_pause_up_to_the_longest() {
        assert_eq!(spans(&[REFUSED; 6]), [30, 60, 120, 240, 300, 300]);
        assert_eq!(spans(&[REFUSED, SUSPENDED]), [30, 60]);
    }

    #[test]
    fn only_a_login_or_other_credentials_end_the_count_of_refusals() {
        assert_eq!(spans(&[REFUSED, AWAY, AWAY, REFUSED]), [30, 0, 0, 60]);
        assert_eq!(spans(&[REFUSED, FAILED, FAILED, REFUSED]), [30, 2, 4, 60]);
        assert_eq!(spans(&[REFUSED, LEADER, REFUSED]), [30, 0, 30]);
        assert_eq!(spans(&[REFUSED, OFFLINE, REFUSED]), [30, 0, 30]);
        assert_eq!(spans(&[REFUSED, (REFUSED.0, 3, 2)]), [30, 30]);
    }

    #[test]
    fn another_failure_of_the_login_pauses_shortly_while_the_same_goes_on() {
        assert_eq!(spans(&[FAILED; 9]), [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(spans(&[FAILED, FAILED, AWAY, FAILED]), [2, 4, 0, 2]);
        assert_eq!(spans(&[FAILED, FAILED, LEADER, FAILED]), [2, 4, 0, 2]);
    }

    #[test]
    fn the_longest_pause_can_be_none() {
        let pause = Pause::after(REFUSED.0, Some(Ended::Exited(3)), 1, None, Duration::ZERO);
        assert_eq!(pause.span, Duration::ZERO);
    }
}
