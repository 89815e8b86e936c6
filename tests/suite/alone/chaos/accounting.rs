//! The outcome of every connection, and whether it is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use cmonhachk::verdict::reason::Reason;

use super::clients::{Outcome, Then};
use super::machine::Machine;
use super::{GRACE, LINGER, MAX_AGE, TIMEOUT};
use crate::cluster::{FOLLOWER, LEADER, unknown};
use crate::pauses::Pauses;
use crate::scale::percentiles;

/// What has been done to the machine, and when.
pub struct History {
    /// When the node became (or stopped being) the leader: from just before to just after.
    pub leads: Vec<(Instant, Instant, bool)>,
    /// The times without xinetd, each from start to end.
    pub without_xinetd: Vec<(Instant, Instant)>,
    /// The connections whose checks were killed.
    pub killed: BTreeSet<Ipv4Addr>,
    /// When the machine stood still.
    pub pauses: Pauses,
    /// How often each event happened.
    pub count: BTreeMap<&'static str, usize>,
}

impl History {
    /// Whether the node was a leader, or was not, at some time from `from` to `to`.
    fn was(&self, leader: bool, from: Instant, to: Instant) -> bool {
        let ends = self.leads.iter().skip(1).map(|next| next.1).chain([to]);
        let mut spans = self.leads.iter().zip(ends);
        spans.any(|((start, _, leads), end)| *leads == leader && *start <= to && end >= from)
    }

    /// Whether there was no xinetd at some time from `from` to `to`.
    fn gap(&self, from: Instant, to: Instant) -> bool {
        self.without_xinetd
            .iter()
            .any(|(start, end)| *start <= to && *end >= from)
    }
}

/// What xinetd logs about one connection.
#[derive(Debug, Default)]
pub struct Fate {
    started: bool,
    /// Refused because of xinetd's limit of processes.
    refused: bool,
    /// The kernel did not let the user have another process, so the check was not executed.
    not_executed: bool,
    /// How the check ended, if not with status 0.
    ended: Option<String>,
}

/// The time of a line in xinetd's log, in seconds of its day, and the rest of the line.
fn time_and_text(line: &str) -> (i64, &str) {
    let (time, text) = line.split_once(' ').unwrap();
    let (_, time) = time.split_once('@').unwrap();
    let parts = time.trim_end_matches(':').split(':');
    (parts.fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap()), text)
}

pub fn fates(machine: &Machine<'_>) -> BTreeMap<Ipv4Addr, Fate> {
    let read = |name: &str| fs::read_to_string(machine.cluster.folder.join(name)).unwrap();
    // The processes of xinetd that could not become a check, and when.
    let mut not_executed: BTreeSet<(String, i64)> = BTreeSet::new();
    for line in read("xinetd.log").lines() {
        let (time, text) = time_and_text(line);
        if text.contains("ERROR: execv(") && text.contains("Resource temporarily unavailable") {
            let (pid, _) = text.strip_prefix("xinetd[").unwrap().split_once(']').unwrap();
            // Two processes note the two lines.
            not_executed.extend((time - 10..=time + 10).map(|time| (pid.to_string(), time)));
        }
    }
    let mut fates: BTreeMap<Ipv4Addr, Fate> = BTreeMap::new();
    let mut running: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    for line in read("service.log").lines() {
        let (time, text) = time_and_text(line);
        let field = |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name));
        let pid = || field("pid=").unwrap().to_string();
        let from = || field("from=").unwrap().parse::<Ipv4Addr>().unwrap();
        match text.split(' ').next().unwrap() {
            "START:" => {
                running.insert(pid(), from());
                let fate = fates.entry(from()).or_default();
                fate.started = true;
                fate.not_executed = not_executed.contains(&(pid(), time));
            }
            "EXIT:" if field("status=") == Some("0") => {}
            "EXIT:" => fates.entry(running[&pid()]).or_default().ended = Some(text.to_string()),
            "FAIL:" if text.contains("service_limit") => fates.entry(from()).or_default().refused = true,
            _ => panic!("what does xinetd mean by this? {line}"),
        }
    }
    fates
}

/// Fails if the outcome of any connection is wrong.
pub fn judge(outcomes: &[Outcome], history: &History, fates: &BTreeMap<Ipv4Addr, Fate>) {
    let unknowns: Vec<String> = Reason::ALL
        .into_iter()
        .filter(|reason| !matches!(reason, Reason::BadArguments | Reason::InternalError))
        .map(|reason| unknown(reason.code()))
        .collect();
    let (mut wrong, mut took, mut count) = (Vec::new(), Vec::new(), BTreeMap::<String, usize>::new());
    for outcome in outcomes {
        let fate = fates.get(&outcome.from);
        let is_started = fate.is_some_and(|fate| fate.started);
        let killed = history.killed.contains(&outcome.from);
        let got = outcome
            .got
            .as_ref()
            .map(|got| String::from_utf8_lossy(got).into_owned());
        let is_head = outcome
            .manner
            .parts
            .first()
            .is_some_and(|part| part.starts_with(b"HEAD "));
        let is_one = |got: &str, whole: &str| match is_head {
            // The guard has one answer, whatever the form of the request.
            true if got == unknown("stuck") => whole == got,
            true => whole.split_once("<html>").is_some_and(|(head, _)| head == got),
            false => whole == got,
        };
        let is_beginning = |got: &str| {
            let mut all = [LEADER, FOLLOWER]
                .into_iter()
                .chain(unknowns.iter().map(String::as_str));
            all.any(|whole| whole.starts_with(got))
        };
        let since = outcome.start - MAX_AGE - TIMEOUT;
        let patient = matches!(outcome.manner.then, Then::Wait | Then::Close);
        // A client that goes on sending after the answer may get a reset.
        let must_be_orderly = outcome.manner.parts.len() < 2 && !killed;
        // So may one that was late with its request, because the machine paused.
        let paused = history.pauses.between(outcome.start, outcome.end);
        let was_held_up = paused > LINGER;
        let what = match &got {
            Err(_) if history.gap(outcome.start, outcome.end) => "no xinetd",
            Err(_) => "WRONG: no connection",
            Ok(got) if !patient && is_beginning(got) => "left",
            Ok(got) if got.is_empty() && killed => "killed",
            Ok(got) if got.is_empty() && fate.is_some_and(|fate| fate.refused) => "over xinetd's limit",
            Ok(got) if got.is_empty() && fate.is_some_and(|fate| fate.not_executed) => "not executed",
            Ok(got) if got.is_empty() && !is_started && history.gap(outcome.start, outcome.end) => {
                "lost with xinetd's queue"
            }
            Ok(got) if got.is_empty() && !outcome.orderly && was_held_up => "reset after a pause",
            Ok(got) if got.is_empty() => "WRONG: no answer",
            Ok(_) if must_be_orderly && !was_held_up && !outcome.orderly => "WRONG: a reset",
            Ok(_) if outcome.end - outcome.start > TIMEOUT + GRACE + paused => "WRONG: late",
            Ok(got) if is_one(got, LEADER) => match history.was(true, since, outcome.end) {
                true => "leader",
                false => "WRONG: leader",
            },
            Ok(got) if is_one(got, FOLLOWER) => match history.was(false, since, outcome.end) {
                true => "follower",
                false => "WRONG: follower",
            },
            Ok(got) => match unknowns.iter().any(|whole| is_one(got, whole)) {
                true => "unknown",
                false => "WRONG: no answer of ours",
            },
        };
        if ["leader", "follower", "unknown"].contains(&what) {
            took.push(outcome.end - outcome.start);
        }
        *count.entry(what.to_string()).or_default() += 1;
        if what.starts_with("WRONG") {
            wrong.push(format!("{what}: {} {fate:?} killed {killed} {got:?}", outcome.from));
        }
    }
    for (from, fate) in fates {
        if let Some(ended) = &fate.ended
            && !history.killed.contains(from)
            && !fate.not_executed
        {
            wrong.push(format!("WRONG: a check ended otherwise than well: {ended}"));
        }
    }
    println!("{:?}\n{count:?}\n{}", history.count, percentiles(took));
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}
