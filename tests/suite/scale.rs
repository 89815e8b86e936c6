//! The amounts for tests that could go on for ever.
//!
//! Each has a short form for every test run and a long one for its figure. `CMONHACHK_LONG=1` asks
//! for the long ones; a test's own variable, named at the top of its file, sets its amount alone.

use std::env;
use std::time::Duration;

/// How much a test does: the value of `variable`, or else the long or the short form.
pub fn amount(variable: &str, short: usize, long: usize) -> usize {
    let is_long = env::var("CMONHACHK_LONG").is_ok_and(|value| value == "1");
    match env::var(variable) {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {number}")),
        Err(_) if is_long => long,
        Err(_) => short,
    }
}

/// The median, 99th and 99.9th percentile and maximum, in words.
pub fn percentiles(mut spans: Vec<Duration>) -> String {
    spans.sort();
    let at = |share: f64| spans[((spans.len() as f64 * share).ceil() as usize).clamp(1, spans.len()) - 1];
    format!(
        "{} answers: median {:.0?}, 99 % {:.0?}, 99.9 % {:.0?}, last {:.0?}",
        spans.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    )
}
