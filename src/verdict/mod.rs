//! In which words is the result of a check given?
//!
//! A verdict is a role, or unknown for a [`reason`]. The words are the same in the response, the log and the cache.

pub mod reason;

use std::time::Duration;

use reason::{Fault, Reason};

/// What the list says of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This node, and no other, leads.
    Leader,
    /// This node follows.
    Follower,
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The list gives this role.
    Known(Role),
    /// The check is certain of no role, for this reason.
    Unknown(Reason),
}

impl Verdict {
    /// The verdict that follows from an outcome.
    pub fn of(outcome: &Outcome) -> Verdict {
        match outcome {
            Ok((role, _)) => Verdict::Known(*role),
            Err(fault) => Verdict::Unknown(fault.reason),
        }
    }

    /// The word in the `Cmonhachk-State` header.
    pub fn state(self) -> &'static str {
        match self {
            Verdict::Known(Role::Leader) => "leader",
            Verdict::Known(Role::Follower) => "follower",
            Verdict::Unknown(_) => "unknown",
        }
    }

    /// The verdict as log lines and cache entries name it: `leader`, `follower`, or `unknown` and
    /// the reason's code.
    pub fn words(self) -> String {
        match self {
            Verdict::Unknown(reason) => format!("unknown {}", reason.code()),
            Verdict::Known(_) => self.state().to_string(),
        }
    }

    /// The verdict that has these words.
    pub fn from_words(words: &str) -> Option<Verdict> {
        match words {
            "leader" => Some(Verdict::Known(Role::Leader)),
            "follower" => Some(Verdict::Known(Role::Follower)),
            _ => Reason::from_code(words.strip_prefix("unknown ")?).map(Verdict::Unknown),
        }
    }
}

/// What a client is told: a verdict, and for monitoring what is measured with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// What is measured.
    pub measured: Measured,
}

/// Where nothing is measured.
impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Answer {
        Answer {
            verdict,
            measured: Measured::default(),
        }
    }
}

/// What is known of the run of s9s behind a verdict. None where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// How long ago the run began: the verdict is as old as that.
    pub age: Option<Duration>,
    /// How long the run took, if s9s was started.
    pub took: Option<Duration>,
    /// How long a run may take, in a check that waits for no other check.
    pub limit: Option<Duration>,
    /// How long s9s is still not run. [`Duration::MAX`] stands for "while a process is there".
    pub back_off: Option<Duration>,
}

/// What a check finds out: this node's role and its row as s9s printed it, without colour, or why the role is
/// not known. The row can hold any bytes: clean it before it is shown.
pub type Outcome = Result<(Role, String), Fault>;

/// The row or the error behind an outcome, for the operator. Not clean, either.
pub fn detail(outcome: &Outcome) -> String {
    match outcome {
        Ok((_, row)) => row.clone(),
        Err(fault) => format!("{:#}", fault.detail),
    }
}
