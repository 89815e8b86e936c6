//! The faults of a run, drawn from its seed: the same seed, the same faults.

use super::Span;
use crate::rng::Rng;

/// The node that leads at the start.
pub const FIRST: usize = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub span: Span,
    pub what: &'static str,
    /// A node has one fault at a time about one thing.
    pub about: &'static str,
    /// The node that it is on; the new leader, where the leadership moves.
    pub node: usize,
    /// How late each view sees a move; how slow s9s is; how far the clock is set; how many are meant.
    pub numbers: [u64; 3],
}

impl Fault {
    pub fn text(&self) -> String {
        match self.what {
            "move" => format!("move: seen after {:?} ms", self.numbers),
            "s9s slow" => format!("s9s slow: {} ms", self.numbers[0]),
            "clock" => format!("clock: {} s", self.offset()),
            what => what.into(),
        }
    }

    /// How far the wall clock is set, in seconds: up to a day back or forth.
    pub fn offset(&self) -> i64 {
        self.numbers[0].cast_signed() * 120 - 72_000
    }

    /// The same node with another fault.
    fn with(&self, what: &'static str, about: &'static str, span: Span) -> Fault {
        Fault {
            what,
            about,
            span,
            ..self.clone()
        }
    }

    fn clashes(&self, other: &Fault, apart: u64) -> bool {
        let is_apart = self.span.1 + apart < other.span.0 || other.span.1 + apart < self.span.0;
        let is_same = self.about == other.about || self.about == "node" || other.about == "node";
        !is_apart && is_same && (self.node == other.node || self.about == "truth")
    }
}

/// A kind of fault: its name, what it is about, its tickets in the draw, and its least and greatest length in
/// milliseconds. What is about the node as a whole is about everything there.
pub type Kind = (&'static str, &'static str, usize, u64, u64);

/// What can happen in a run, and how densely. All times are in milliseconds.
pub struct Deck {
    pub kinds: Vec<Kind>,
    pub nodes: usize,
    /// The length of the time without a fault at the start.
    pub calm: u64,
    /// No fault begins in the last part of the run.
    pub tail: u64,
    /// The least and greatest time between two beginnings.
    pub step: (u64, u64),
    /// The least time between two faults about one thing, and between two moves.
    pub apart: u64,
    pub moves_apart: u64,
}

/// The faults of so many milliseconds.
pub fn plan(deck: &Deck, seed: u64, length: u64) -> Vec<Fault> {
    let mut plan = Plan {
        deck,
        rng: Rng(seed),
        length,
        faults: Vec::new(),
        leader: FIRST,
        moved: 0,
    };
    let (mut tickets, mut in_vain): (Vec<&Kind>, _) = (Vec::new(), 0);
    let mut now = deck.calm;
    while now + deck.tail < length {
        // Those that are left may all clash with a fault that lasts.
        if in_vain >= tickets.len() {
            tickets.extend(deck.kinds.iter().flat_map(|kind| vec![kind; kind.2]));
            in_vain = 0;
        }
        let kind = tickets.swap_remove(plan.rng.below(tickets.len()));
        let new = plan.draw(kind, now);
        now += plan.rng.between(deck.step.0, deck.step.1);
        if plan.takes(new) {
            in_vain = 0;
        } else {
            tickets.push(kind);
            in_vain += 1;
        }
    }
    plan.faults.sort_by_key(|fault| fault.span.0);
    plan.faults
}

struct Plan<'a> {
    deck: &'a Deck,
    rng: Rng,
    length: u64,
    faults: Vec<Fault>,
    leader: usize,
    moved: u64,
}

impl Plan<'_> {
    /// A fault of this kind, and those that belong to it.
    fn draw(&mut self, kind: &Kind, now: u64) -> Vec<Fault> {
        let &(what, about, _, least, greatest) = kind;
        let end = now + self.rng.between(least, greatest);
        let mut fault = Fault {
            span: (now, end.min(self.length)),
            what,
            about,
            node: self.rng.below(self.deck.nodes),
            numbers: [0; 3].map(|_| self.rng.between(50, 1199)),
        };
        match what {
            "move" => {
                fault.node = self.elect();
                vec![fault]
            }
            "cut nodes" | "cut both" | "cable" if fault.node == self.leader => self.loses_its_leader(fault),
            // By a new configuration, on all nodes at once.
            "haproxy reloaded" => (0..3).map(|node| Fault { node, ..fault.clone() }).collect(),
            "check killed" | "check stopped" => self.with_a_slow_s9s(fault),
            _ => vec![fault],
        }
    }

    /// A node other than the leader.
    fn elect(&mut self) -> usize {
        (self.leader + 1 + self.rng.below(2)) % 3
    }

    /// The others elect a leader when they lose theirs, and it goes on to believe that it leads, or not.
    fn loses_its_leader(&mut self, fault: Fault) -> Vec<Fault> {
        let what = ["view frozen", "view none"][self.rng.below(2)];
        let at = fault.span.0 + 1000;
        let elected = Fault {
            node: self.elect(),
            ..fault.with("move", "truth", (at, at))
        };
        vec![fault.with(what, "view", fault.span), elected, fault]
    }

    /// The other checks have waited for this one, and have little time left when they run s9s themselves.
    fn with_a_slow_s9s(&mut self, mut fault: Fault) -> Vec<Fault> {
        if self.rng.below(2) == 0 {
            fault.node = self.leader;
        }
        let (now, end) = fault.span;
        let slow = |from: u64, to: u64, time: u64| Fault {
            numbers: [time; 3],
            ..fault.with("s9s slow", "s9s", (from, to.min(self.length)))
        };
        let [before, after] = [slow(now, now + 2000, 1000), slow(now + 2000, end + 12_000, 400)];
        fault.span = (now + 2000, (end + 2000).min(self.length));
        vec![before, after, fault]
    }

    /// Takes these faults into the plan, unless they clash with others.
    fn takes(&mut self, new: Vec<Fault>) -> bool {
        let moves = new.iter().find(|fault| fault.what == "move");
        if moves.is_some_and(|moves| moves.span.0 < self.moved + self.deck.moves_apart) {
            return false;
        }
        let clashes = |fault: &Fault| self.faults.iter().any(|other| fault.clashes(other, self.deck.apart));
        if new.iter().any(clashes) {
            return false;
        }
        if let Some(moves) = moves {
            (self.leader, self.moved) = (moves.node, moves.span.0);
        }
        self.faults.extend(new);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::deck;
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults_and_a_run_has_many_that_overlap() {
        let faults = plan(&deck(true), 7, 120_000);
        assert_eq!(faults, plan(&deck(true), 7, 120_000));
        assert_ne!(faults, plan(&deck(true), 8, 120_000));
        let overlaps = |fault: &&Fault| {
            let meets = |other: &&Fault| other.span.0 < fault.span.1 && fault.span.0 < other.span.1;
            faults.iter().filter(meets).count() > 1
        };
        assert!(faults.iter().filter(overlaps).count() > 10, "{faults:?}");
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let faults: Vec<Fault> = (0..3).flat_map(|seed| plan(&deck(true), seed, 180_000)).collect();
        for kind in deck(true).kinds {
            assert!(faults.iter().any(|fault| fault.what == kind.0), "{}", kind.0);
        }
    }
}
