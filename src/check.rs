//! The check: the way from the lock to a verdict.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::anyhow;

use crate::deadline::Deadline;
use crate::defaults::{self, Entry};
use crate::list;
use crate::lock::{self, Sharing, Turn};
use crate::log;
use crate::machine;
use crate::options::{self, Options};
use crate::reason::{Fault, Reason};
use crate::s9s::{self, Run};
use crate::verdict::{Standing, Verdict, judge, verdict};

/// What is kept of a check's time for handing its verdict over, so that those who came to the lock
/// together with it and have the same deadline still get it. At most a tenth of what there is.
const HAND_OVER: Duration = Duration::from_millis(100);

/// What a check saw on its way to an outcome; whatever it did not come to is empty.
#[derive(Debug, Default)]
pub struct Seen {
    /// The entries of `RPC_BIND_ADDRESSES`.
    pub entries: Vec<Entry>,
    /// The addresses that a wildcard among the entries stands for.
    pub interfaces: Vec<IpAddr>,
    /// The run of s9s.
    pub run: Option<Run>,
}

/// What a check that ran by itself found.
#[derive(Debug)]
pub struct Findings {
    /// Why it ran without a guard, where it did.
    pub unguarded: Option<anyhow::Error>,
    /// What it saw.
    pub seen: Seen,
    /// What it came to.
    pub outcome: Result<Standing, Fault>,
}

/// Where a verdict is from.
#[derive(Debug)]
pub enum Checked {
    /// Another check reached it just now.
    Shared(Verdict),
    /// This check found it out.
    Found(Box<Findings>),
}

impl Checked {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        match self {
            Checked::Shared(verdict) => *verdict,
            Checked::Found(findings) => verdict(&findings.outcome),
        }
    }
}

/// Reaches a verdict before `deadline`: takes a turn at the lock, and where it is ours, asks s9s
/// and hands the verdict over. Logs a verdict that is another than the one before.
pub fn check(options: &Options, sharing: Sharing, deadline: Deadline) -> Checked {
    let mut seen = Seen::default();
    let mut unguarded = None;
    let outcome = match lock::turn(&options.lock_file, options::question(), sharing, deadline) {
        Turn::Shared(verdict) => return Checked::Shared(verdict),
        Turn::Ours(guard) => {
            let outcome = find_out(options, deadline, &mut seen);
            let before = guard.before();
            if let Err(error) = guard.hand_over(verdict(&outcome), options.max_age) {
                log::fault(&format!("{}: {error:#}", options.lock_file.display()));
            }
            log::change(before, &outcome);
            outcome
        }
        Turn::Unguarded(why) => {
            log::fault(&format!("the check runs unguarded: {why:#}"));
            unguarded = Some(why);
            find_out(options, deadline, &mut seen)
        }
        Turn::Late => {
            let fault = Reason::LockTimeout.because(anyhow!(
                "{} was locked by another process until the time was up",
                options.lock_file.display()
            ));
            log::fault(&format!("{fault}"));
            Err(fault)
        }
    };
    Checked::Found(Box::new(Findings {
        unguarded,
        seen,
        outcome,
    }))
}

/// From the defaults file and the list to this node's standing. Notes on the way what it sees.
fn find_out(options: &Options, deadline: Deadline, seen: &mut Seen) -> Result<Standing, Fault> {
    let deadline = deadline.earlier(HAND_OVER.min(deadline.left() / 10));
    seen.entries = defaults::bind_addresses(&machine::defaults_file(&options.cmon_defaults)?)?;
    if seen.entries.contains(&Entry::Wildcard) {
        seen.interfaces = machine::interface_addresses()?;
    }
    let run = seen.run.insert(s9s::run(&options.s9s, deadline)?);
    let text = list::plain(run.output()?);
    let rows = list::parse(&text)
        .map_err(|error| Reason::ListUnreadable.because(error.context("what s9s printed is no controller list")))?;
    judge(&seen.entries, &seen.interfaces, &rows)
}
