//! The history of a run: what clients saw while faults were caused.
//!
//! There are two kinds of run: `run` has three nodes and users, and alone/chaos.rs has one node under xinetd. For
//! both, `plan` draws the faults from a seed, `cause` causes them, `clients` has the clients of a check, `record`
//! writes down what happened, and `judge` judges the history by itself.

use std::fmt::Write;

pub mod cause;
pub mod clients;
mod faults;
pub mod judge;
pub mod plan;
pub mod record;
mod run;

pub use crate::failover::NAMES;

/// From one moment to another, in milliseconds since the start of the run.
pub type Span = (u64, u64);

/// Something that was so for a while. By its kind:
///
///     view     what the node's list says: which node leads, or `none`
///     truth    the node leads
///     holder   the node has the virtual address
///     fault    the name of the fault, and behind a colon its details
///     user     a connection through the address: the node that was reached, or else the error
///     session  a user who stays: the node, and how the session ended
///     check    a connection to the node's check, in the words of `clients::Outcome`; behind `none`, a colon and the
///              cause, if it is known; behind all others, `, stopped` if the check stood still
///     login    a run of s9s on the node: `alone` or `beside` another one, and how it behaves
///     failed   the process of a check ended in a way that no check should
///     pause    the machine stood still
///     end      all faults were over
///     left     what was left at the end
///     bound    a bound of the judge that is another one in this history: its name and its milliseconds
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub span: Span,
    pub kind: String,
    pub node: Option<usize>,
    pub text: String,
}

/// One line for each entry, with tabs between from, to, kind, node and text.
#[derive(Clone, Default, Debug)]
pub struct History(pub Vec<Entry>);

impl History {
    pub fn add(&mut self, span: Span, kind: &str, node: Option<usize>, text: &str) {
        self.0.push(Entry {
            span,
            kind: kind.into(),
            node,
            text: text.replace(['\t', '\n'], " "),
        });
    }

    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.kind == kind)
    }

    /// The bound with this name, if the history has its own.
    pub fn bound(&self, name: &str) -> Option<u64> {
        let mut bounds = self.of("bound").filter_map(|bound| bound.text.split_once(' '));
        let (_, millis) = bounds.find(|(of, _)| *of == name)?;
        Some(millis.parse().expect("a bound is a number"))
    }

    pub fn parse(text: &str) -> History {
        let mut history = History::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.splitn(5, '\t').collect();
            let [from, to, kind, node, text] = fields[..] else {
                panic!("this is no line of a history: {line:?}")
            };
            let node = NAMES.iter().position(|name| *name == node);
            history.add((from.parse().unwrap(), to.parse().unwrap()), kind, node, text);
        }
        history
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for entry in &self.0 {
            let node = entry.node.map_or("-", |node| NAMES[node]);
            let (from, to) = entry.span;
            writeln!(text, "{from}\t{to}\t{}\t{node}\t{}", entry.kind, entry.text).unwrap();
        }
        text
    }
}
