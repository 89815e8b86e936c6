//! Spans of time, and what they have in common.

use super::{SLACK, Span};

/// Whether the spans have a moment in common.
pub fn meet(one: Span, other: Span) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

pub fn meets(spans: &[Span], during: Span) -> bool {
    spans.iter().any(|span| meet(*span, during))
}

/// How much of the span is outside these others.
pub fn outside(span: Span, others: &[Span]) -> u64 {
    let mut others = others.to_vec();
    others.sort_unstable();
    let (mut from, mut sum) = (span.0, 0);
    for other in others {
        sum += other.0.min(span.1).saturating_sub(from);
        from = from.max(other.1);
    }
    sum + span.1.saturating_sub(from)
}

/// The parts of spans that are outside the others.
pub fn without(spans: Vec<Span>, others: &[Span]) -> Vec<Span> {
    others.iter().fold(spans, |spans, other| {
        let parts = spans.into_iter().flat_map(|span| match meet(span, *other) {
            true => vec![(span.0, other.0), (other.1, span.1)],
            false => vec![span],
        });
        parts.filter(|part| part.0 < part.1).collect()
    })
}

/// The last moment until `at` in these spans.
pub fn last(spans: &[Span], at: u64) -> Option<u64> {
    spans
        .iter()
        .filter(|span| span.0 <= at + SLACK)
        .map(|span| span.1.min(at))
        .max()
}
