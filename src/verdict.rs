//! The vocabulary: the possible results of a check.

use crate::reason::{Fault, Reason};

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The list says that this node, and no other, leads.
    Leader,
    /// The list says that this node follows.
    Follower,
    /// The check is certain of neither, for this reason.
    Unknown(Reason),
}

impl Verdict {
    /// The word in the `Cmonhachk-State` header.
    pub fn state(self) -> &'static str {
        match self {
            Verdict::Leader => "leader",
            Verdict::Follower => "follower",
            Verdict::Unknown(_) => "unknown",
        }
    }

    /// The verdict as log lines and cache entries name it: `leader`, `follower`, or `unknown` and
    /// the reason's code.
    pub fn words(self) -> String {
        match self {
            Verdict::Unknown(reason) => format!("unknown {}", reason.code()),
            known => known.state().to_string(),
        }
    }

    /// The verdict that has these words.
    pub fn from_words(words: &str) -> Option<Verdict> {
        match words {
            "leader" => Some(Verdict::Leader),
            "follower" => Some(Verdict::Follower),
            _ => Reason::from_code(words.strip_prefix("unknown ")?).map(Verdict::Unknown),
        }
    }
}

/// What the list says of this node, and where.
#[derive(Debug)]
pub struct Standing {
    /// Leader or follower.
    pub verdict: Verdict,
    /// The row as s9s printed it, without colour. It may hold any bytes: clean it with
    /// [`crate::log::clean`] before it is shown.
    pub row: String,
}

/// The verdict that follows from the outcome of a check.
pub fn verdict(outcome: &Result<Standing, Fault>) -> Verdict {
    match outcome {
        Ok(standing) => standing.verdict,
        Err(fault) => Verdict::Unknown(fault.reason),
    }
}
