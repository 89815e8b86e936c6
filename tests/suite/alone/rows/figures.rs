//! What the runs of a row have shown, in figures and in words.

use std::time::{Duration, Instant};

use crate::front::users::{End, Visit};

/// What one run has shown. Times without another beginning are since the fault.
pub struct Figures {
    /// Until users were on the leader, or the longest time without an answer: the row's fault tells which counts.
    pub waited: Duration,
    /// The longest time without an answer.
    pub gap: Duration,
    pub users: usize,
    /// How many of them were closed without an answer, and how many gave up: a user whose connection is under way
    /// when the node with the address dies hears nothing more.
    pub closed: usize,
    pub hung: usize,
    /// How long the longest connection was held.
    pub longest: Duration,
    /// When the user who stayed noticed that the session was over.
    pub cut: Option<Duration>,
    /// If a node was dead.
    pub left: Option<Left>,
    pub address_moved: bool,
    /// How long the machine itself stood still.
    pub paused: Duration,
}

/// The connections to the dead node that HAProxy had open when all users had gone, and a minute after the fault.
#[derive(Clone, Copy)]
pub struct Left {
    pub at_first: usize,
    pub in_the_end: usize,
}

impl Figures {
    /// Those that the visits tell: `begun` is the moment of the fault, and `counts` what the fault has returned.
    pub fn of(visits: &[Visit], begun: Instant, counts: Option<Instant>, leader: &str) -> Figures {
        let gap = longest_gap(visits, begun);
        let arrived = |since: Instant| {
            let on_leader = visits.iter().filter(|visit| visit.is_on(leader));
            let moments = on_leader.filter_map(|visit| visit.ended.checked_duration_since(since));
            moments.min().expect("users are on the leader")
        };
        let count = |end: &End| visits.iter().filter(|visit| visit.end == *end).count();
        Figures {
            waited: counts.map_or(gap, arrived),
            gap,
            users: visits.len(),
            closed: count(&End::Closed),
            hung: count(&End::Hung),
            longest: visits.iter().map(Visit::took).max().unwrap_or_default(),
            cut: None,
            left: None,
            address_moved: false,
            paused: Duration::ZERO,
        }
    }

    /// Whether connections to a dead node are open after a minute.
    pub fn stay_open(&self) -> bool {
        self.left.is_some_and(|left| left.in_the_end > 0)
    }

    pub fn in_words(&self) -> String {
        let seconds = |span: Duration| format!("{:.2} s", span.as_secs_f64());
        let mut words = vec![
            seconds(self.waited),
            format!("longest gap {}", seconds(self.gap)),
            format!("{} of {} closed", self.closed, self.users),
            format!("{} hung", self.hung),
            format!("longest connection {}", seconds(self.longest)),
        ];
        match self.cut {
            Some(cut) => words.push(format!("session cut after {}", seconds(cut))),
            None => words.push("session open".into()),
        }
        if let Some(left) = self.left {
            words.push(format!("{} left open, in the end {}", left.at_first, left.in_the_end));
        }
        if self.address_moved {
            words.push("the address moved".into());
        }
        if !self.paused.is_zero() {
            words.push(format!("the machine paused for {}", seconds(self.paused)));
        }
        words.join(", ")
    }
}

/// The longest time between two answers, from the last one before this moment on.
fn longest_gap(visits: &[Visit], since: Instant) -> Duration {
    let answers = visits.iter().filter(|visit| visit.is_answered());
    let mut moments: Vec<Instant> = answers.map(|visit| visit.ended).collect();
    moments.sort_unstable();
    let pairs = moments.windows(2).filter(|pair| pair[1] >= since);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Of the table of all rows. Each pair of figures is the median of the runs and the most.
pub const TITLES: &str = "
| what fails | runs | until users are served | longest gap | closed | hung | longest connection | session cut | left open after a minute | the address moved |
|---|---|---|---|---|---|---|---|---|---|";

/// A row of this table.
pub fn in_words(name: &str, runs: &[Figures]) -> String {
    let times = |figure: fn(&Figures) -> Duration| {
        let (median, most) = median_and_most(runs.iter().map(figure));
        format!("{:.2}, {:.2} s", median.as_secs_f64(), most.as_secs_f64())
    };
    let numbers = |figure: fn(&Figures) -> usize| {
        let (median, most) = median_and_most(runs.iter().map(figure));
        format!("{median}, {most}")
    };
    let share = |is_so: fn(&Figures) -> bool| {
        let count = runs.iter().filter(|run| is_so(run)).count();
        format!("{count} of {}", runs.len())
    };
    let left = match runs.iter().all(|run| run.left.is_none()) {
        true => "-".into(),
        false => numbers(|run| run.left.map_or(0, |left| left.in_the_end)),
    };
    let cells = [
        name.to_string(),
        runs.len().to_string(),
        times(|run| run.waited),
        times(|run| run.gap),
        numbers(|run| run.closed),
        numbers(|run| run.hung),
        times(|run| run.longest),
        share(|run| run.cut.is_some()),
        left,
        share(|run| run.address_moved),
    ];
    format!("| {} |", cells.join(" | "))
}

fn median_and_most<T: Ord + Copy>(figures: impl Iterator<Item = T>) -> (T, T) {
    let mut figures: Vec<T> = figures.collect();
    figures.sort_unstable();
    (figures[figures.len() / 2], figures[figures.len() - 1])
}
