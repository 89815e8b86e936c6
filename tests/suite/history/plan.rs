//! The faults of a run, drawn from its seed: the same seed, the same faults.

use super::Span;
use crate::alone::chaos::Dice;

/// The node that leads at the start.
pub const FIRST: usize = 1;

/// There is no fault in this time after the start, in milliseconds.
const CALM: u64 = 5000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub span: Span,
    pub what: &'static str,
    /// The node that it is on; the new leader, where the leadership moves.
    pub node: usize,
    /// How late each view sees a move; how slow s9s is; how far the clock is set.
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
}

/// A kind of fault: its name, what it is about, its tickets in the draw, and its least and greatest length in
/// milliseconds. A node has one fault at a time about one thing.
type Kind = (&'static str, &'static str, usize, u64, u64);
const KINDS: [Kind; 26] = [
    ("move", "truth", 7, 0, 0),
    ("view frozen", "view", 2, 2000, 9000),
    ("view alone", "view", 1, 1500, 5000),
    ("view none", "view", 1, 1500, 6000),
    ("s9s hangs", "s9s", 2, 1500, 9000),
    ("s9s slow", "s9s", 3, 4000, 15000),
    ("s9s half", "s9s", 1, 1500, 6000),
    ("s9s refuses", "s9s", 1, 2000, 12000),
    ("cut nodes", "network", 1, 1500, 9000),
    ("cut users", "network", 1, 1500, 6000),
    ("cut both", "network", 1, 1500, 9000),
    ("cable", "network", 1, 1500, 9000),
    ("haproxy killed", "haproxy", 1, 0, 0),
    ("haproxy reloaded", "haproxy", 3, 0, 0),
    ("haproxy stopped", "haproxy", 1, 500, 5000),
    ("keepalived killed", "keepalived", 1, 1000, 6000),
    ("keepalived stopped", "keepalived", 1, 500, 6000),
    ("listener killed", "responder", 3, 0, 0),
    ("listener stopped", "responder", 1, 1000, 9000),
    ("check killed", "responder", 4, 0, 0),
    ("check stopped", "responder", 2, 500, 5000),
    ("frozen", "node", 1, 1000, 6000),
    ("run full", "files", 1, 3000, 12000),
    ("upgrade", "files", 2, 4000, 4000),
    ("maintenance", "maintenance", 1, 2000, 8000),
    ("clock", "clock", 2, 2000, 10000),
];

fn about(fault: &Fault) -> &'static str {
    KINDS.iter().find(|kind| kind.0 == fault.what).unwrap().1
}

fn clash(one: &Fault, other: &Fault) -> bool {
    // The one that is over is undone within this time, also on a busy machine.
    let apart = one.span.1 + 1000 < other.span.0 || other.span.1 + 1000 < one.span.0;
    let frozen = |fault: &Fault| about(fault) == "node";
    let same = about(one) == about(other) || frozen(one) || frozen(other);
    !apart && same && (one.node == other.node || about(one) == "truth")
}

/// The faults of so many milliseconds.
pub fn plan(seed: u64, length: u64) -> Vec<Fault> {
    let (mut dice, mut faults, mut leader, mut moved, mut now) = (Dice(seed), Vec::<Fault>::new(), FIRST, 0, CALM);
    let mut deck: Vec<&Kind> = Vec::new();
    while now + 2000 < length {
        if deck.is_empty() {
            deck = KINDS.iter().flat_map(|kind| vec![kind; kind.2]).collect();
        }
        let kind = deck.swap_remove(dice.below(deck.len()));
        let &(what, _, _, least, greatest) = kind;
        let end = now + least + dice.below((greatest - least + 1) as usize) as u64;
        let mut fault = Fault {
            span: (now, end.min(length)),
            what,
            node: dice.below(3),
            numbers: [0; 3].map(|_| 50 + dice.below(1150) as u64),
        };
        let mut new = Vec::new();
        // The others elect a leader when they lose theirs, and it goes on to believe that it leads, or not.
        let is_loss = ["cut nodes", "cut both", "cable"].contains(&what) && fault.node == leader;
        if is_loss {
            let what = ["view frozen", "view none"][dice.below(2)];
            new.push(Fault { what, ..fault.clone() });
        }
        let elected = (leader + 1 + dice.below(2)) % 3;
        match what {
            "move" => fault.node = elected,
            // By a new configuration, on all nodes at once.
            "haproxy reloaded" => new.extend([1, 2].map(|next| Fault {
                node: (fault.node + next) % 3,
                ..fault.clone()
            })),
            // The others have waited for this check, and have little time left when they run s9s themselves.
            "check killed" | "check stopped" => {
                if dice.below(2) == 0 {
                    fault.node = leader;
                }
                let slow = |from: u64, to: u64, time: u64| Fault {
                    what: "s9s slow",
                    span: (now + from, to.min(length)),
                    numbers: [time; 3],
                    ..fault.clone()
                };
                new.extend([slow(0, now + 2000, 1000), slow(1900, end + 12_000, 400)]);
                fault.span = (now + 2000, (end + 2000).min(length));
            }
            _ if is_loss => new.push(Fault {
                what: "move",
                node: elected,
                span: (now + 1000, now + 1000),
                ..fault.clone()
            }),
            _ => {}
        }
        new.push(fault);
        now += 300 + dice.below(4200) as u64;
        let at = new.iter().find(|fault| fault.what == "move").map(|fault| fault.span.0);
        let too_soon = at.is_some_and(|at| at < moved + 1500);
        if too_soon || new.iter().any(|fault| faults.iter().any(|other| clash(fault, other))) {
            deck.push(kind);
            continue;
        }
        if let Some(at) = at {
            (leader, moved) = (elected, at);
        }
        faults.extend(new);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults_and_a_run_has_many_that_overlap() {
        let faults = plan(7, 120_000);
        assert_eq!(faults, plan(7, 120_000));
        assert_ne!(faults, plan(8, 120_000));
        let overlaps = |fault: &&Fault| {
            let meets = |other: &&Fault| other.span.0 < fault.span.1 && fault.span.0 < other.span.1;
            faults.iter().filter(meets).count() > 1
        };
        assert!(faults.iter().filter(overlaps).count() > 10, "{faults:?}");
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let faults: Vec<Fault> = (0..3).flat_map(|seed| plan(seed, 180_000)).collect();
        for kind in KINDS {
            assert!(faults.iter().any(|fault| fault.what == kind.0), "{}", kind.0);
        }
    }
}
