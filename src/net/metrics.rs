//! The verdict for Prometheus.
//!
//! Source of the format: Prometheus' documentation, "Exposition formats", text-based format 0.0.4. A metric that is not
//! known is left out. Nothing is counted: a process that answers once has no counters.

use std::time::Duration;

use crate::verdict::reason::Reason;
use crate::verdict::{Answer, Verdict};

/// The format's media type.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the answer.
pub fn render(answer: &Answer) -> String {
    let (verdict, measured) = (answer.verdict, &answer.measured);
    let is_in_maintenance = verdict == Verdict::Unknown(Reason::Maintenance);
    [
        metric("state", "1 for the state of this node, else 0.", states(verdict)),
        metric("reason", "1 for the reason why the state is unknown.", reason(verdict)),
        metric(
            "maintenance",
            "1 while the maintenance file is there.",
            [flag("", is_in_maintenance)],
        ),
        time(
            "verdict_age_seconds",
            "The age of the verdict, from the start of the run of s9s behind it.",
            measured.age,
        ),
        time(
            "s9s_duration_seconds",
            "How long the last run of s9s took.",
            measured.took,
        ),
        time("s9s_timeout_seconds", "The time limit of a run of s9s.", measured.limit),
        time("backoff_seconds", "The rest of the back-off.", measured.back_off),
        metric("build_info", "The version of cmonhachk.", [flag(VERSION, true)]),
    ]
    .concat()
}

/// The labels of the version.
const VERSION: &str = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");

fn states(verdict: Verdict) -> [String; 3] {
    ["leader", "follower", "unknown"].map(|state| flag(&format!("{{state=\"{state}\"}}"), verdict.state() == state))
}

fn reason(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Unknown(reason) => Some(flag(&format!("{{reason=\"{}\"}}", reason.code()), true)),
        Verdict::Known(_) => None,
    }
}

/// Labels and a value: whether something is so.
fn flag(labels: &str, is_so: bool) -> String {
    format!("{labels} {}", u8::from(is_so))
}

/// A metric that is a time, or nothing if it is not known.
fn time(name: &str, help: &str, span: Option<Duration>) -> String {
    let value = span.map(|span| match span {
        // Prometheus' word for a time without a known end.
        Duration::MAX => " +Inf".to_string(),
        // Cut, not rounded: a cache entry keeps whole milliseconds.
        span => format!(" {}.{:03}", span.as_secs(), span.subsec_millis()),
    });
    metric(name, help, value)
}

/// A metric with its samples, each of which is labels and a value. Nothing if there are none.
fn metric(name: &str, help: &str, samples: impl IntoIterator<Item = String>) -> String {
    let samples: String = samples
        .into_iter()
        .map(|sample| format!("cmonhachk_{name}{sample}\n"))
        .collect();
    match samples.is_empty() {
        true => String::new(),
        false => format!("# HELP cmonhachk_{name} {help}\n# TYPE cmonhachk_{name} gauge\n{samples}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Measured, Role};

    /// The lines that are no comments.
    fn samples(answer: &Answer) -> Vec<String> {
        let text = render(answer);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_string).collect()
    }

    #[test]
    fn a_known_role_has_no_reason() {
        let answer = Answer {
            verdict: Verdict::Known(Role::Follower),
            measured: Measured {
                age: Some(Duration::from_micros(1_012_999)),
                took: Some(Duration::from_millis(87)),
                limit: Some(Duration::from_millis(950)),
                back_off: Some(Duration::ZERO),
            },
        };
        assert_eq!(
            samples(&answer),
            [
                "cmonhachk_state{state=\"leader\"} 0",
                "cmonhachk_state{state=\"follower\"} 1",
                "cmonhachk_state{state=\"unknown\"} 0",
                "cmonhachk_maintenance 0",
                "cmonhachk_verdict_age_seconds 1.012",
                "cmonhachk_s9s_duration_seconds 0.087",
                "cmonhachk_s9s_timeout_seconds 0.950",
                "cmonhachk_backoff_seconds 0.000",
                concat!("cmonhachk_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let answer = Answer::from(Verdict::Unknown(Reason::Maintenance));
        assert_eq!(
            samples(&answer)[..5],
            [
                "cmonhachk_state{state=\"leader\"} 0",
                "cmonhachk_state{state=\"follower\"} 0",
                "cmonhachk_state{state=\"unknown\"} 1",
                "cmonhachk_reason{reason=\"maintenance\"} 1",
                "cmonhachk_maintenance 1",
            ]
        );
        assert_eq!(samples(&answer).len(), 6);
        assert!(!render(&answer).contains("_seconds"));
    }

    #[test]
    fn a_back_off_without_a_known_end_is_infinite() {
        let mut answer = Answer::from(Verdict::Unknown(Reason::Stuck));
        answer.measured.back_off = Some(Duration::MAX);
        assert!(samples(&answer).contains(&"cmonhachk_backoff_seconds +Inf".to_string()));
    }
}
