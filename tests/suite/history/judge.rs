//! Whether a history keeps the promises of deploy/README.md. It looks at nothing but the history.
//!
//! Every bound is in milliseconds and comes from "How long a failover takes" or haproxy.cfg. What excuses
//! something excuses it for no longer than these bounds say.

mod spans;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use self::spans::{last, meet, meets, outside, without};
use super::{Entry, History, NAMES, Span};

const MAX_AGE: u64 = 900;
const TIMEOUT: u64 = 1500;
/// s9s is killed after this time.
const S9S: u64 = TIMEOUT - 550;
/// The leadership moves, or a controller or a responder on the way does not answer.
const MOVES: u64 = 1500 + S9S;
const FREEZES: u64 = 3500;
/// The longest time in the table. So long after the last cause, everybody is on the leader.
const LONGEST: u64 = 3800;
/// The host that users come from learns within this time who has the address, if two nodes had it for a while:
/// `garp_master_refresh` of keepalived.conf.
const REFRESH: u64 = 5000;
/// Without HAProxy: a leader that does not know any more that it leads is asked twice, each time for as long as a run of
/// s9s takes, and then the address moves.
const LONGEST_ALONE: u64 = 1000 + 1000 + 2 * (TIMEOUT + WATCHDOG) + 1100;
/// HAProxy takes a node down that accepts connections and says nothing: `inter`, `fastinter`, and `timeout
/// check` twice.
const SILENT: u64 = 1000 + 1010 + 2 * 2000;
/// HAProxy holds a connection so long, also after a reload.
const CONNECTION: u64 = 2000 + SLACK;
/// The watchdog responds so long after the deadline.
const WATCHDOG: u64 = 200;
/// A check waits so long for its client.
const LINGER: u64 = 1000;
/// What a busy machine may add.
const SLACK: u64 = 300;
/// `hard-stop-after` of haproxy.cfg.
const HARD_STOP: u64 = 10_000;
/// The first back-off after a refused login.
const REFUSED: u64 = 30_000;
/// Until everything is well after the last fault.
const RECOVERY: u64 = 10_000;

/// Names of faults, or how they begin: s9s gives no whole list; something stands still; anything about a check.
const BAD_LISTS: &[&str] = &["s9s hangs", "s9s half", "s9s refuses", "s9s fails", "s9s missing"];
const STANDSTILLS: &[&str] = &["listener stopped", "check stopped", "frozen"];
const CHECKS: &[&str] = &["s9s", "listener", "check", "frozen"];
/// The node is apart from the others; it cannot serve users; the address may move.
const APART: &[&str] = &["cut nodes", "cut both", "cable"];
const AWAY: &[&str] = &[
    "haproxy killed",
    "haproxy stopped",
    "frozen",
    "cut users",
    "cut both",
    "cable",
];
const ADDRESS: &[&str] = &[
    "haproxy killed",
    "haproxy stopped",
    "keepalived",
    "frozen",
    "cut",
    "cable",
];

#[derive(Debug, Default)]
pub struct Judgement {
    /// The rule, 1 to 6, and what broke it.
    pub violations: Vec<(u8, String)>,
    /// How many connections of users had no excuse.
    pub users: usize,
}

pub fn judge(history: &History) -> Judgement {
    let bound = |name, usual| history.bound(name).unwrap_or(usual);
    let judge = Judge {
        history,
        max_age: bound("max-age", MAX_AGE),
        busy: bound("busy", SLACK),
        recovery: bound("recovery", RECOVERY),
        has_haproxy: history.bound("without-haproxy").is_none(),
        // Afterwards, others still have to catch up.
        pauses: history
            .of("pause")
            .map(|pause| (pause.span.0.saturating_sub(100), pause.span.1 + 300))
            .collect(),
        judgement: RefCell::default(),
    };
    judge.users();
    judge.sessions();
    for node in 0..3 {
        judge.checks(node);
        judge.logins(node);
    }
    judge.recovery();
    judge.judgement.into_inner()
}

/// What a check said, without what is known about its connection.
fn said(check: &Entry) -> &str {
    check.text.split(", ").next().unwrap()
}

/// Whether this is known about its connection.
fn is(check: &Entry, what: &str) -> bool {
    check.text.split(", ").skip(1).any(|known| known == what)
}

struct Judge<'a> {
    history: &'a History,
    max_age: u64,
    /// What a busy machine may add to the time of a response.
    busy: u64,
    recovery: u64,
    has_haproxy: bool,
    pauses: Vec<Span>,
    judgement: RefCell<Judgement>,
}

impl Judge<'_> {
    fn breaks(&self, rule: u8, entry: &Entry, why: &str) {
        let node = entry.node.map_or("-", |node| NAMES[node]);
        let ((from, to), kind, text) = (entry.span, &entry.kind, &entry.text);
        let what = format!("{from} to {to} ms, {kind} {node} {text:?}: {why}");
        self.judgement.borrow_mut().violations.push((rule, what));
    }

    fn of(&self, kind: &str, node: usize) -> impl Iterator<Item = &Entry> {
        self.history.of(kind).filter(move |entry| entry.node == Some(node))
    }

    fn spans(&self, kind: &str, node: usize, is_one: impl Fn(&str) -> bool) -> Vec<Span> {
        let entries = self.of(kind, node).filter(|entry| is_one(&entry.text));
        entries.map(|entry| entry.span).collect()
    }

    /// When these faults, or all whose names begin so, were on a node.
    fn faults(&self, node: usize, names: &[&str]) -> Vec<Span> {
        self.spans("fault", node, |text| names.iter().any(|name| text.starts_with(name)))
    }

    fn has(&self, node: usize, names: &[&str], during: Span) -> bool {
        meets(&self.faults(node, names), during)
    }

    /// When the node's own list says that it leads.
    fn said(&self, node: usize) -> Vec<Span> {
        self.spans("view", node, |leader| leader == NAMES[node])
    }

    /// When the node leads, by its own list.
    fn leads(&self, node: usize) -> Vec<Span> {
        without(self.said(node), &self.faults(node, &["maintenance"]))
    }

    fn holds(&self, node: usize) -> Vec<Span> {
        self.spans("holder", node, |_| true)
    }

    /// Whether two nodes have the address at some time of this span.
    fn is_shared(&self, during: Span) -> bool {
        let holds = [0, 1, 2].map(|node| self.holds(node));
        [(0, 1), (0, 2), (1, 2)].into_iter().any(|(one, other)| {
            let mut pairs = holds[one]
                .iter()
                .flat_map(|one| holds[other].iter().map(move |other| (one, other)));
            // The nodes are looked at one after the other, so a move can look like this for a moment.
            pairs.any(|(one, other)| {
                let both = (one.0.max(other.0), one.1.min(other.1));
                both.0 + 100 < both.1 && meet(both, during)
            })
        })
    }

    /// The one node that has such spans during this time, if it has them all the time.
    fn one(during: Span, spans: impl Fn(usize) -> Vec<Span>) -> Option<usize> {
        let mut nodes = (0..3).filter(|node| meets(&spans(*node), during));
        let node = nodes.next()?;
        (nodes.next().is_none() && outside(during, &spans(node)) == 0).then_some(node)
    }

    /// Rule 1: how much later than promised a user is on this node at that moment.
    fn late(&self, node: usize, at: u64) -> Option<String> {
        let Some(last) = last(&self.leads(node), at) else {
            return Some("it had never led".into());
        };
        let until_noticed = |(from, to): Span| (from, to.min(from + SILENT));
        let mut excused: Vec<Span> = self.faults(node, STANDSTILLS).into_iter().map(until_noticed).collect();
        // What a cut network holds back arrives when it is whole again; an HAProxy that stands still knows nothing.
        excused.extend(self.faults(node, APART));
        for holder in (0..3).filter(|node| meets(&self.holds(*node), (last, at))) {
            excused.extend(self.faults(holder, &["haproxy stopped", "frozen", "cut", "cable"]));
        }
        excused.extend(&self.pauses);
        let is_disturbed = self.has(node, CHECKS, (last.saturating_sub(MAX_AGE), at));
        let bound = if is_disturbed { FREEZES } else { MOVES };
        let late = outside((last, at), &excused);
        (late > bound + SLACK).then(|| format!("it had not led for {late} ms, {bound} at most"))
    }

    /// Rule 2: the one leader that users must reach, if nothing excuses that they do not.
    fn must_reach(&self, span: Span) -> Option<usize> {
        match self.has_haproxy {
            true => self.must_reach_by_haproxy(span),
            false => self.must_have_the_address(span),
        }
    }

    /// Without HAProxy, users are where the address is.
    fn must_have_the_address(&self, (from, to): Span) -> Option<usize> {
        let during = (from.saturating_sub(LONGEST_ALONE), to);
        let leader = self.well_leader(during)?;
        // What moves the address, or lets two nodes have it.
        let is_excused = (0..3).any(|node| self.has(node, ADDRESS, during));
        (!is_excused && !self.is_shared((from.saturating_sub(REFRESH), to))).then_some(leader)
    }

    /// The one node that leads all the time, if its check can know it.
    fn well_leader(&self, during: Span) -> Option<usize> {
        let leader = Judge::one(during, |node| self.leads(node))?;
        let slow = self.spans("fault", leader, |text| {
            let time = text
                .strip_prefix("s9s slow: ")
                .and_then(|text| text.strip_suffix(" ms"));
            time.is_some_and(|time| time.parse::<u64>().unwrap() > S9S / 2)
        });
        let is_unwell = self.has(leader, BAD_LISTS, during) || self.has(leader, STANDSTILLS, during);
        (!meets(&self.pauses, during) && !meets(&slow, during) && !is_unwell).then_some(leader)
    }

    fn must_reach_by_haproxy(&self, (from, to): Span) -> Option<usize> {
        let during = (from.saturating_sub(LONGEST), to);
        let leader = self.well_leader(during)?;
        let excused = match Judge::one(during, |node| self.holds(node)) {
            Some(holder) => {
                let is_apart = self.has(holder, APART, during) || self.has(leader, APART, during);
                holder != leader && is_apart || self.has(holder, AWAY, during)
            }
            // The address moves, or is on two nodes: only after a fault that moves it.
            None => (0..3).any(|node| self.has(node, ADDRESS, (during.0.saturating_sub(LONGEST), to))),
        };
        (!excused && !self.is_shared((from.saturating_sub(REFRESH), to))).then_some(leader)
    }

    fn users(&self) {
        for user in self.history.of("user") {
            let (from, to) = user.span;
            let late = user
                .node
                .filter(|_| self.has_haproxy)
                .and_then(|node| self.late(node, to));
            if let Some(late) = late {
                self.breaks(1, user, &late);
            } else if let Some(leader) = self.must_reach(user.span) {
                self.judgement.borrow_mut().users += 1;
                if user.node != Some(leader) || to - from > CONNECTION {
                    self.breaks(2, user, &format!("{} leads, and nothing excuses this", NAMES[leader]));
                }
            }
        }
        let all: Vec<Span> = self.history.of("user").map(|user| user.span).collect();
        let quiet = all.iter().filter(|user| !meets(&self.pauses, **user)).count();
        let mut judgement = self.judgement.borrow_mut();
        // So many excuses would hide anything; and so would a machine that always pauses.
        if judgement.users * 20 < quiet || judgement.users * 100 < all.len() {
            let why = format!(
                "of {} users, {quiet} of them outside all pauses, only {} have no excuse",
                all.len(),
                judgement.users
            );
            judgement.violations.push((2, why));
        }
    }

    fn sessions(&self) {
        for session in self.history.of("session") {
            let (node, end) = (session.node.unwrap(), session.span.1);
            // After a reload, the old process has it, no longer checks the nodes, and ends after some time.
            let reloaded = |span| (0..3).any(|node| self.has(node, &["haproxy reloaded"], span));
            // The old process does not count the time in which it stands still.
            let hard_stop = end.saturating_sub(HARD_STOP);
            let earliest = hard_stop.saturating_sub(2 * SLACK + self.stood_still(session.span));
            let since = session.span.0.max(earliest);
            let late = self.late(node, end).filter(|_| self.has_haproxy);
            if let Some(late) = late.filter(|_| !reloaded((since, end))) {
                self.breaks(1, session, &late);
            }
            let is_cut = !["open", "over"].contains(&session.text.as_str());
            let is_hard_stop = reloaded((earliest, hard_stop + SLACK));
            if is_cut && !is_hard_stop && !self.is_clock_set(end) && self.must_reach((end, end)) == Some(node) {
                self.breaks(2, session, "it was cut without a cause");
            }
        }
    }

    /// Whether a clock was set just before. If it is set forward by more than `timeout client`, HAProxy 2.8.0 and
    /// older ones, also Debian 12's, may end sessions (haproxy/haproxy, issue 2704).
    fn is_clock_set(&self, at: u64) -> bool {
        let faults = (0..3).flat_map(|node| self.faults(node, &["clock"]));
        let is_just_before = |moment| moment <= at && at <= moment + SLACK;
        faults.flat_map(|fault| [fault.0, fault.1]).any(is_just_before)
    }

    /// How long a node or its HAProxy stood still during this span, in milliseconds, in all.
    fn stood_still(&self, during: Span) -> u64 {
        let faults = (0..3).flat_map(|node| self.faults(node, &["frozen", "haproxy stopped"]));
        let length = |fault: Span| fault.1.min(during.1).saturating_sub(fault.0.max(during.0));
        faults.map(length).sum()
    }

    /// Rules 3 and 5.
    fn checks(&self, node: usize) {
        let bad_lists = self.faults(node, BAD_LISTS);
        let [leads, follows] = [true, false].map(|leads| {
            let said = self.spans("view", node, |leader| (leader == NAMES[node]) == leads);
            without(said, &bad_lists)
        });
        let maintenance = self.faults(node, &["maintenance"]);
        // These begin late with a check.
        let mut held_up = self.faults(node, &["listener stopped", "frozen"]);
        held_up.extend(&self.pauses);
        let mut late = self.faults(node, &["check stopped"]);
        late.extend(&held_up);

        let longest = TIMEOUT + WATCHDOG + self.busy;
        for check in self.of("check", node) {
            let role = match said(check) {
                "leader" => Some(&leads),
                "follower" => Some(&follows),
                _ => None,
            };
            if let Some(role) = role {
                self.role(check, role, &maintenance);
                if outside(check.span, &held_up) > longest && !self.is_recent(role, check.span.1) {
                    self.breaks(3, check, "it says an old role after its deadline");
                }
            }
            let is_response = role.is_some() || said(check).starts_with("unknown ");
            let took = outside(check.span, &late);
            if is_response && !is(check, "stopped") && took > longest {
                self.breaks(5, check, &format!("the response took {took} ms"));
            }
            if !self.is_excused(check) {
                self.breaks(5, check, "no response, or no good one");
            }
        }
        for failed in self.of("failed", node) {
            self.breaks(5, failed, "a check ends well");
        }
    }

    /// Rule 3, of a check with a role that its list has said in these spans.
    fn role(&self, check: &Entry, said: &[Span], maintenance: &[Span]) {
        let (from, to) = check.span;
        // A check that looked before the maintenance file came may say its role.
        if maintenance.iter().any(|(start, end)| start + SLACK < from && to < *end) {
            self.breaks(3, check, "it is in maintenance");
        }
        let late = last(said, to).map(|said| outside((said.min(from), from), &self.pauses));
        if late.is_none_or(|late| late > self.oldest()) {
            self.breaks(3, check, &format!("its list last said so {late:?} ms before"));
        }
    }

    /// How long before a moment a list must have said what counts then. A check that waits takes what was published
    /// meanwhile, at most its timeout old.
    fn oldest(&self) -> u64 {
        self.max_age.max(TIMEOUT) + SLACK
    }

    /// Whether the list has just said so at this moment. A check that is stopped before its first instruction begins
    /// when it goes on: its role is late for the client, and new.
    fn is_recent(&self, said: &[Span], at: u64) -> bool {
        last(said, at).is_some_and(|said| outside((said, at), &self.pauses) <= self.oldest())
    }

    /// Whether what the client got may be so.
    fn is_excused(&self, check: &Entry) -> bool {
        let node = check.node.unwrap();
        let paused = (check.span.1 - check.span.0) - outside(check.span, &self.pauses);
        // A client that was late with its request may get a reset.
        let is_orderly = !is(check, "reset") || paused > LINGER;
        match said(check) {
            "left" => true,
            "leader" | "follower" => is_orderly,
            said if said.starts_with("unknown ") => is_orderly,
            // Its process is known, and was killed or could not be one.
            "none: killed" | "none: over the limit" | "none: not executed" => true,
            "none" => self.has(node, &["check killed", "listener killed"], check.span) || paused > LINGER,
            // xinetd's queue is lost with it.
            "none: never started" => self.has(node, &["xinetd killed"], check.span),
            said if said.starts_with("failed: ") => self.has(node, &["xinetd killed"], check.span),
            _ => false,
        }
    }

    /// Rule 4.
    fn logins(&self, node: usize) {
        let mut logins: Vec<&Entry> = self.of("login", node).collect();
        logins.sort_by_key(|login| login.span);
        for login in logins.iter().filter(|login| login.text.starts_with("beside")) {
            // The kernel frees the lock of a killed check first, and then it kills the s9s of this check.
            let just_before = (login.span.0.saturating_sub(SLACK), login.span.0 + 20);
            if !self.has(node, &["check killed"], just_before) {
                self.breaks(4, login, "two runs of s9s at a time");
            }
        }
        // The start of a run is known in clock ticks, 10 ms. A check that is killed has no verdict for the others.
        let soon = |pair: &[&Entry], least: u64| {
            let (from, to) = (pair[0].span.0, pair[1].span.0);
            if to - from + SLACK < least && !self.has(node, &["check killed"], (from, to + 20)) {
                self.breaks(4, pair[1], &format!("{} ms after the one before", to - from));
            }
        };
        logins.windows(2).for_each(|pair| soon(pair, MAX_AGE));
        // The end of such a fault is an s9s.conf with another password.
        for refusal in self.faults(node, &["s9s refuses"]) {
            let mut refused = logins.clone();
            refused.retain(|login| login.text.ends_with("wrong-password") && meet(login.span, refusal));
            refused.windows(2).for_each(|pair| soon(pair, REFUSED));
            if refused.len() > 5 {
                self.breaks(4, refused[5], "more than five refused logins");
            }
        }
    }

    /// Rule 6.
    fn recovery(&self) {
        self.history
            .of("left")
            .for_each(|left| self.breaks(6, left, "left at the end"));
        let end = self
            .history
            .of("end")
            .map(|end| end.span.0)
            .max()
            .unwrap_or(u64::MAX - self.recovery);
        let truth = self.history.of("truth").max_by_key(|truth| truth.span);
        let leader = truth.and_then(|truth| truth.node);
        let connections = self.history.of("user").chain(self.history.of("check"));
        let mut after: Vec<&Entry> = connections
            .filter(|entry| entry.span.0 >= end + self.recovery)
            .collect();
        after.retain(|entry| !meets(&self.pauses, entry.span) && entry.text != "left");
        for entry in &after {
            let (leads, took) = (entry.node == leader, entry.span.1 - entry.span.0);
            let is_right = match entry.kind.as_str() {
                "user" => leads && took <= CONNECTION,
                _ => entry.text == ["follower", "leader"][usize::from(leads)],
            };
            if !is_right {
                self.breaks(6, entry, "all faults are over");
            }
        }
        if after.len() < 10 {
            let why = format!("only {} connections after the end", after.len());
            self.judgement.borrow_mut().violations.push((6, why));
        }
    }
}
