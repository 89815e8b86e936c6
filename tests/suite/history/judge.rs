//! Whether a history keeps the promises of deploy/README.md. It looks at nothing but the history.
//!
//! Every bound is in milliseconds and comes from "How long a failover takes" or haproxy.cfg. What excuses
//! something excuses it for no longer than these bounds say.

use std::cell::RefCell;

use super::{Entry, History, NAMES, Span};

const MAX_AGE: u64 = 1000;
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
/// HAProxy takes a node down that accepts connections and says nothing: `inter`, `fastinter`, and `timeout
/// check` twice.
const SILENT: u64 = 1000 + 1010 + 2 * 2000;
/// HAProxy holds a connection so long, also after a reload; and the guard answers so long after the deadline.
const CONNECTION: u64 = 2000 + SLACK;
const GUARD: u64 = 200;
/// What a busy machine may add.
const SLACK: u64 = 300;
/// `hard-stop-after` of haproxy.cfg.
const HARD_STOP: u64 = 10_000;
/// The first pause after a refused login.
const REFUSED: u64 = 30_000;
/// Until everything is well after the last fault.
const RECOVERY: u64 = 10_000;

/// Names of faults, or how they begin: s9s gives no whole list; something stands still; anything about a check.
const BAD_LISTS: &[&str] = &["s9s hangs", "s9s half", "s9s refuses"];
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
    let judge = Judge {
        history,
        // Afterwards, others still have to catch up.
        pauses: history
            .of("pause")
            .map(|pause| (pause.span.0.saturating_sub(100), pause.span.1 + 300))
            .collect(),
        judgement: RefCell::default(),
    };
    judge.users();
    judge.sessions();
    judge.checks();
    (0..3).for_each(|node| judge.logins(node));
    judge.recovery();
    judge.judgement.into_inner()
}

/// Whether the spans have a moment in common.
fn meet(one: Span, other: Span) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

fn meets(spans: &[Span], during: Span) -> bool {
    spans.iter().any(|span| meet(*span, during))
}

/// How much of the span is outside these others.
fn outside(span: Span, others: &[Span]) -> u64 {
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
fn without(spans: Vec<Span>, others: &[Span]) -> Vec<Span> {
    others.iter().fold(spans, |spans, other| {
        let parts = spans.into_iter().flat_map(|span| match meet(span, *other) {
            true => vec![(span.0, other.0), (other.1, span.1)],
            false => vec![span],
        });
        parts.filter(|part| part.0 < part.1).collect()
    })
}

/// The last moment until `at` in these spans.
fn last(spans: &[Span], at: u64) -> Option<u64> {
    spans
        .iter()
        .filter(|span| span.0 <= at + SLACK)
        .map(|span| span.1.min(at))
        .max()
}

struct Judge<'a> {
    history: &'a History,
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

    fn spans(&self, kind: &str, node: usize, is_one: impl Fn(&str) -> bool) -> Vec<Span> {
        let entries = self
            .history
            .of(kind)
            .filter(|entry| entry.node == Some(node) && is_one(&entry.text));
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
    fn must_reach(&self, (from, to): Span) -> Option<usize> {
        let during = (from.saturating_sub(LONGEST), to);
        let leader = Judge::one(during, |node| self.leads(node))?;
        let slow = self.spans("fault", leader, |text| {
            let time = text
                .strip_prefix("s9s slow: ")
                .and_then(|text| text.strip_suffix(" ms"));
            time.is_some_and(|time| time.parse::<u64>().unwrap() > S9S / 2)
        });
        let is_unwell = self.has(leader, BAD_LISTS, during) || self.has(leader, STANDSTILLS, during);
        if meets(&self.pauses, during) || meets(&slow, during) || is_unwell {
            return None;
        }
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
            if let Some(late) = user.node.and_then(|node| self.late(node, to)) {
                self.breaks(1, user, &late);
            } else if let Some(leader) = self.must_reach(user.span) {
                self.judgement.borrow_mut().users += 1;
                if user.node != Some(leader) || to - from > CONNECTION {
                    self.breaks(2, user, &format!("{} leads, and nothing excuses this", NAMES[leader]));
                }
            }
        }
        let all = self.history.of("user").count();
        let mut judgement = self.judgement.borrow_mut();
        // So many excuses would hide anything.
        if judgement.users * 20 < all {
            let why = format!("of {all} users, only {} have no excuse", judgement.users);
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
            if let Some(late) = self.late(node, end).filter(|_| !reloaded((since, end))) {
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
    fn checks(&self) {
        for check in self.history.of("check") {
            let (node, (from, to), answer) = (check.node.unwrap(), check.span, check.text.as_str());
            if answer == "leader" {
                // A check that looked before the maintenance file came may answer.
                let is_out = |(start, end)| start + SLACK < from && to < end;
                if self.faults(node, &["maintenance"]).into_iter().any(is_out) {
                    self.breaks(3, check, "it is in maintenance");
                }
                let said = last(&without(self.said(node), &self.faults(node, BAD_LISTS)), to);
                let late = said.map(|said| outside((said, to), &self.pauses));
                if late.is_none_or(|late| late > MAX_AGE + TIMEOUT + SLACK) {
                    self.breaks(3, check, &format!("its list last said so {late:?} ms before"));
                }
            }
            let is_well_formed = answer == "leader" || answer == "follower" || answer.starts_with("unknown ");
            let is_killed = answer == "none" && self.has(node, &["check killed", "listener killed"], check.span);
            if !is_well_formed && !is_killed {
                self.breaks(5, check, "no answer");
            }
            let mut excused = self.faults(node, STANDSTILLS);
            excused.extend(&self.pauses);
            let took = outside((from, to), &excused);
            if took > TIMEOUT + GUARD + SLACK {
                self.breaks(5, check, &format!("the answer took {took} ms"));
            }
        }
    }

    /// Rule 4.
    fn logins(&self, node: usize) {
        let mut logins: Vec<&Entry> = self
            .history
            .of("login")
            .filter(|login| login.node == Some(node))
            .collect();
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
            .unwrap_or(u64::MAX - RECOVERY);
        let truth = self.history.of("truth").max_by_key(|truth| truth.span);
        let leader = truth.and_then(|truth| truth.node);
        let connections = self.history.of("user").chain(self.history.of("check"));
        let mut after: Vec<&Entry> = connections.filter(|entry| entry.span.0 >= end + RECOVERY).collect();
        after.retain(|entry| !meets(&self.pauses, entry.span));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of a minute: the second node leads until the third one does at 20 s, the first one has the address,
    /// and all faults are over at 40 s. To it, come these lines: from, to, kind, node, text.
    fn made_up(lines: &str) -> History {
        let mut history = History::default();
        for node in 0..3 {
            history.add((0, 20_000), "view", Some(node), "node2");
            history.add((20_000, 60_000), "view", Some(node), "node3");
            for from in (0..60_000).step_by(1000) {
                let answer = if from < 21_000 && node == 1 || from > 20_000 && node == 2 {
                    "leader"
                } else {
                    "follower"
                };
                history.add((from, from + 5), "check", Some(node), answer);
                history.add((from, from), "login", Some(node), "alone list");
            }
        }
        history.add((0, 20_000), "truth", Some(1), "");
        history.add((20_000, 60_000), "truth", Some(2), "");
        history.add((0, 60_000), "holder", Some(0), "");
        history.add((40_000, 40_000), "end", None, "");
        history.add((10, 21_200), "session", Some(1), "closed");
        history.add((21_400, 60_000), "session", Some(2), "open");
        for from in (0..60_000).step_by(400) {
            let node = if from < 21_300 { 1 } else { 2 };
            history.add((from, from + 10), "user", Some(node), "reached");
        }
        for line in lines.lines() {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            let mut new = History::parse(&words.join("\t"));
            let during = new.0[0].span;
            history.0.retain(|entry| match words[2] {
                // Another node has the address instead.
                "holder" => entry.kind != "holder" || entry.span != (0, 60_000),
                // What all others see during a fault is not what this is about.
                "fault" => !["check", "user", "login"].contains(&entry.kind.as_str()) || !meet(entry.span, during),
                _ => true,
            });
            history.0.append(&mut new.0);
        }
        history
    }

    fn broken(lines: &str) -> Vec<u8> {
        let mut rules: Vec<u8> = judge(&made_up(lines))
            .violations
            .iter()
            .map(|violation| violation.0)
            .collect();
        rules.dedup();
        rules
    }

    #[test]
    fn right_histories_are_accepted() {
        for lines in [
            "",
            // As late as promised.
            "22500 22540 user node2 reached",
            "21500 23500 fault node2 s9s hangs\n23400 23600 user node2 reached",
            "22400 22410 check node2 leader",
            // The check has looked before the file came, and the list says so only then.
            "19900 26000 fault node3 maintenance\n19800 20600 check node3 leader",
            "18000 24000 user - timed out\n23000 24000 user - connection reset",
            // What has an excuse.
            "10000 14000 fault node1 haproxy stopped\n10100 14100 user node2 reached\n16000 16010 user - connection reset",
            "10000 14000 fault node2 s9s hangs\n13000 13010 user - connection reset\n13000 13010 check node2 unknown s9s-timeout",
            "10000 14000 fault node2 s9s slow: 900 ms\n13000 13010 user - connection reset",
            "10000 14000 fault node1 cut nodes\n13000 13010 user - connection reset",
            "19000 25000 fault node1 haproxy stopped\n25000 25100 user node2 reached",
            "8000 12000 holder node1 \n12600 60000 holder node3 \n8000 12000 fault node1 cable\n12200 12210 user - timed out",
            "10000 14000 fault node1 check stopped\n10000 14100 check node1 unknown stuck",
            "10100 10900 fault node1 check killed\n10090 10110 check node1 none\n10400 10400 login node1 alone list",
            "10000 13000 pause - \n10100 13100 user node2 reached\n10000 13010 check node2 follower",
            "10000 20000 fault node1 s9s refuses\n11500 11500 login node1 alone wrong-password\n10100 19000 fault node1 check killed",
            "10000 10100 fault node1 haproxy reloaded\n10050 11700 user node2 reached\n1000 20300 session node2 over",
            "14000 14100 fault node1 haproxy reloaded\n1000 24200 session node2 connection reset",
            "9000 9100 fault node1 haproxy reloaded\n1000 19100 session node2 connection reset",
            "14000 14100 fault node1 haproxy reloaded\n23900 27000 fault node1 frozen\n1000 27200 session node2 connection reset",
            "14900 18000 fault node1 clock: 61920 s\n1000 15000 session node2 closed",
            "9000 10000 fault node3 check killed\n10020 10020 login node3 beside list",
            "0 15000 holder node1 \n14000 60000 holder node3 \n19500 19510 user - timed out",
            // Two lead by their own views: users may be on both.
            "30000 35000 view node1 node1\n31000 31010 user node1 reached\n31000 31010 check node1 leader",
        ] {
            let violations = judge(&made_up(lines)).violations;
            assert!(violations.is_empty(), "{lines}: {violations:?}");
        }
    }

    #[test]
    fn wrong_histories_are_rejected_each_for_its_rule() {
        for (rule, lines) in [
            // Users are where nobody leads.
            (1, "1200 1210 user node1 reached"),
            (1, "23500 23510 user node2 reached"),
            (1, "19800 24500 fault node2 s9s hangs\n24300 24310 user node2 reached"),
            (
                1,
                "10000 30000 fault node2 listener stopped\n29500 29510 user node2 reached",
            ),
            (
                1,
                "18000 22000 fault node3 haproxy stopped\n23500 23510 user node2 reached",
            ),
            (1, "30000 36000 fault node3 maintenance\n34000 34010 user node3 reached"),
            (1, "15000 26000 session node2 closed"),
            (1, "15000 60000 session node2 open"),
            (
                1,
                "10000 10100 fault node1 haproxy reloaded\n1000 26000 session node2 over",
            ),
            // They are not on the leader.
            (2, "10000 10010 user - connection reset"),
            (2, "10000 12500 user node2 reached"),
            (
                2,
                "10000 10100 fault node1 haproxy reloaded\n10400 10410 user - connection reset",
            ),
            (
                2,
                "10000 16000 fault node1 listener stopped\n15000 15010 user - connection reset",
            ),
            (2, "10000 16000 fault node3 frozen\n15000 15010 user - connection reset"),
            (
                2,
                "10000 10100 fault node2 check killed\n10500 10510 user - connection reset",
            ),
            (
                2,
                "10000 14000 fault node2 upgrade\n12000 12010 user - connection reset",
            ),
            (
                2,
                "10000 10100 fault node1 haproxy killed\n14500 14510 user - connection refused",
            ),
            (
                2,
                "0 12000 holder node1 \n12600 60000 holder node3 \n12200 12210 user - timed out",
            ),
            (
                2,
                "0 15000 holder node1 \n14000 60000 holder node3 \n25600 25610 user - timed out",
            ),
            (2, "1000 15000 session node2 connection reset"),
            (
                2,
                "14000 18000 fault node1 clock: 61920 s\n1000 15000 session node2 closed",
            ),
            (2, "0 60000 view node1 node1"),
            // A check says what its list has not said for long.
            (3, "1200 1210 check node1 leader"),
            (3, "23000 23010 check node2 leader"),
            (3, "10000 15000 fault node2 s9s hangs\n13500 13510 check node2 leader"),
            (3, "10000 15000 fault node2 s9s half\n14000 14010 check node2 leader"),
            (3, "30000 36000 fault node3 maintenance\n34000 34010 check node3 leader"),
            // s9s is run too often.
            (4, "10000 10000 login node3 beside list"),
            (4, "10400 10400 login node3 alone list"),
            (
                4,
                "10100 20000 fault node1 s9s refuses\n12000 12000 login node1 alone wrong-password\n19000 19000 login node1 alone wrong-password",
            ),
            // A check does not answer.
            (5, "10000 10010 check node1 none"),
            (5, "10500 10500 fault node1 check killed\n10000 10010 check node1 none"),
            (5, "10000 10010 check node1 malformed \"HTTP/1.1 200 OK\""),
            (5, "10000 10010 check node1 failed: connection refused"),
            (5, "10000 12500 check node1 unknown s9s-timeout"),
            // It is not well again at the end.
            (6, "51000 51010 check node1 unknown lock-timeout"),
            (6, "51000 51010 check node3 follower"),
            (6, "59000 59000 left node1 cmonhachk-front.service loaded failed"),
            (6, "55000 55000 end - "),
        ] {
            assert_eq!(broken(lines), [rule], "{lines}");
        }
        let mut history = made_up("");
        history.0.retain(|entry| entry.kind != "end");
        assert_eq!(judge(&history).violations.len(), 1);
    }

    #[test]
    fn a_history_is_the_same_after_it_was_written() {
        let history = made_up("10000 10010 user - connection reset");
        assert_eq!(History::parse(&history.text()).0, history.0);
    }
}
