//! Whether a history keeps the promises of deploy/README.md. It looks at nothing but the history.
//!
//! Every bound is in milliseconds and comes from "How long a failover takes" or haproxy.cfg. What excuses
//! something excuses it for no longer than these bounds say.

use super::{Entry, History, NAMES, Span};

const MAX_AGE: u64 = 1000;
const TIMEOUT: u64 = 1500;
/// s9s is killed after this time.
const S9S: u64 = TIMEOUT - 450;
/// The leadership moves, or a controller or a responder on the way does not answer.
const MOVES: u64 = 1500 + S9S;
const FREEZES: u64 = 3700;
/// The longest time in the table. So long after the last cause, everybody is on the leader.
const LONGEST: u64 = 4100;
/// HAProxy takes a node down that accepts connections and says nothing: `inter`, `fastinter`, and `timeout
/// check` twice.
const SILENT: u64 = 1000 + 1010 + 2 * 2000;
/// A connection, once HAProxy knows the leader, and the answer to a check after its deadline.
const CONNECTION: u64 = 1000;
const GUARD: u64 = 200;
/// What a busy machine may add.
const SLACK: u64 = 300;
/// The first pause after a refused login.
const REFUSED: u64 = 30_000;
/// Until everything is well after the last fault.
const RECOVERY: u64 = 10_000;

const BAD_LISTS: [&str; 3] = ["s9s hangs", "s9s half", "s9s refuses"];
const STANDSTILLS: [&str; 3] = ["listener stopped", "check stopped", "frozen"];

#[derive(Debug, Default)]
pub struct Judgement {
    /// The rule, 1 to 6, and what broke it.
    pub violations: Vec<(u8, String)>,
    /// How many connections of users there were, and how many had no excuse.
    pub users: (usize, usize),
}

pub fn judge(history: &History) -> Judgement {
    let of = |kind: &str| history.of(kind).collect::<Vec<_>>();
    let judge = Judge {
        faults: of("fault"),
        views: of("view"),
        holders: of("holder"),
        pauses: of("pause")
            .iter()
            .map(|pause| (pause.span.0.saturating_sub(100), pause.span.1 + 300))
            .collect(),
        history,
    };
    let mut judgement = Judgement::default();
    judge.users(&mut judgement);
    judge.checks(&mut judgement.violations);
    (0..3).for_each(|node| judge.logins(node, &mut judgement.violations));
    judge.recovery(&mut judgement.violations);
    judgement
}

/// Whether the spans have a moment in common.
fn meet(one: Span, other: Span) -> bool {
    one.0 <= other.1 && other.0 <= one.1
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

struct Judge<'a> {
    history: &'a History,
    faults: Vec<&'a Entry>,
    views: Vec<&'a Entry>,
    holders: Vec<&'a Entry>,
    pauses: Vec<Span>,
}

impl Judge<'_> {
    /// When these faults, or all whose names begin so, were on a node.
    fn faults(&self, node: usize, names: &[&str]) -> Vec<Span> {
        let is_one =
            |fault: &&&Entry| fault.node == Some(node) && names.iter().any(|name| fault.text.starts_with(name));
        self.faults.iter().filter(is_one).map(|fault| fault.span).collect()
    }

    fn has(&self, node: usize, names: &[&str], during: Span) -> bool {
        self.faults(node, names).iter().any(|span| meet(*span, during))
    }

    /// When the node leads, by its own view.
    fn leads(&self, node: usize) -> Vec<Span> {
        let own = |view: &&&Entry| view.node == Some(node) && view.text == NAMES[node];
        let spans = self.views.iter().filter(own).map(|view| view.span).collect();
        without(spans, &self.faults(node, &["maintenance"]))
    }

    /// The nodes that are in one of these states at some time of the span, and whether one is all the time.
    fn one<'s>(during: Span, spans: impl Fn(usize) -> Vec<Span> + 's) -> Result<usize, ()> {
        let met = |node: &usize| spans(*node).iter().any(|span| meet(*span, during));
        match (0..3).filter(met).collect::<Vec<_>>()[..] {
            [node] if outside(during, &spans(node)) == 0 => Ok(node),
            _ => Err(()),
        }
    }

    fn holds(&self, node: usize) -> Vec<Span> {
        let own = |holder: &&&Entry| holder.node == Some(node);
        self.holders.iter().filter(own).map(|holder| holder.span).collect()
    }

    /// Rule 1: how much later than promised a user is on this node at that moment.
    fn is_late(&self, node: usize, at: u64) -> Option<String> {
        let begun = self.leads(node).into_iter().filter(|span| span.0 <= at + SLACK);
        let Some(last) = begun.map(|span| span.1.min(at)).max() else {
            return Some("which had never led".into());
        };
        let since = (last, at);
        let standstill = |(from, to): Span| (from, to.min(from + SILENT));
        let mut excused: Vec<Span> = self.faults(node, &STANDSTILLS).into_iter().map(standstill).collect();
        // What a cut network holds back arrives when it is whole again; an HAProxy that stands still knows nothing.
        excused.extend(self.faults(node, &["cut nodes", "cut both", "cable"]));
        for holder in (0..3).filter(|holder| self.holds(*holder).iter().any(|span| meet(*span, since))) {
            excused.extend(self.faults(holder, &["haproxy stopped", "frozen", "cut", "cable"]));
        }
        excused.extend(&self.pauses);
        let is_disturbed = self.has(node, &BAD_LISTS, (last.saturating_sub(MAX_AGE), at))
            || self.has(
                node,
                &["s9s slow", "check", "listener", "frozen"],
                (last.saturating_sub(MAX_AGE), at),
            );
        let bound = if is_disturbed { FREEZES } else { MOVES };
        let late = outside(since, &excused);
        (late > bound + SLACK).then(|| format!("which had not led for {late} ms, {bound} at most"))
    }

    /// Rule 2: the one leader that users must reach, if nothing excuses that they do not.
    fn must_reach(&self, (from, to): Span) -> Option<usize> {
        let during = (from.saturating_sub(LONGEST), to);
        let leader = Judge::one(during, |node| self.leads(node)).ok()?;
        let is_slow = |fault: &&&Entry| {
            let slow = fault
                .text
                .strip_prefix("s9s slow: ")
                .and_then(|text| text.strip_suffix(" ms"));
            let slow = slow.is_some_and(|slow| slow.parse::<u64>().unwrap() > S9S / 2);
            slow && fault.node == Some(leader) && meet(fault.span, during)
        };
        let paused = self.pauses.iter().any(|pause| meet(*pause, during));
        let unwell = self.has(leader, &BAD_LISTS, during) || self.has(leader, &STANDSTILLS, during);
        if paused || unwell || self.faults.iter().any(|fault| is_slow(&fault)) {
            return None;
        }
        let address = ["haproxy", "keepalived", "frozen", "cut", "cable"];
        match Judge::one(during, |node| self.holds(node)) {
            Ok(holder) => {
                let apart = holder != leader
                    && [holder, leader]
                        .iter()
                        .any(|node| self.has(*node, &["cut nodes", "cut both", "cable"], during));
                let away = self.has(holder, &["haproxy", "frozen", "cut users", "cut both", "cable"], during);
                (!apart && !away).then_some(leader)
            }
            // The address moves or is on two nodes: only after a fault that moves it.
            Err(()) => {
                let before = (during.0.saturating_sub(LONGEST), to);
                (0..3).all(|node| !self.has(node, &address, before)).then_some(leader)
            }
        }
    }

    fn users(&self, judgement: &mut Judgement) {
        for user in self.history.of("user") {
            let (from, to) = user.span;
            judgement.users.0 += 1;
            if let Some(late) = user.node.and_then(|node| self.is_late(node, to)) {
                judgement
                    .violations
                    .push((1, format!("{}: a user reached it, {late}", told(user))));
                continue;
            }
            let Some(leader) = self.must_reach(user.span) else {
                continue;
            };
            judgement.users.1 += 1;
            if user.node != Some(leader) || to - from > CONNECTION {
                let leader = NAMES[leader];
                judgement
                    .violations
                    .push((2, format!("{}: {leader} leads, and nothing excuses this", told(user))));
            }
        }
        for session in self.history.of("session") {
            let (node, end) = (session.node.unwrap(), session.span.1);
            if let Some(late) = self.is_late(node, end) {
                judgement
                    .violations
                    .push((1, format!("{}: a session stayed on it, {late}", told(session))));
            }
            if session.text != "open" && self.must_reach((end, end)) == Some(node) {
                judgement
                    .violations
                    .push((2, format!("{}: the session was cut without a cause", told(session))));
            }
        }
    }

    /// Rules 3 and 5.
    fn checks(&self, violations: &mut Vec<(u8, String)>) {
        for check in self.history.of("check") {
            let (node, (from, to)) = (check.node.unwrap(), check.span);
            if check.text == "leader" {
                let said = without(self.leads(node), &self.faults(node, &BAD_LISTS));
                let last = said
                    .into_iter()
                    .filter(|span| span.0 <= to + SLACK)
                    .map(|span| span.1.min(to))
                    .max();
                let late = last.map(|last| outside((last, to), &self.pauses));
                if late.is_none_or(|late| late > MAX_AGE + TIMEOUT + SLACK) {
                    violations.push((3, format!("{}: its list last said so {late:?} ms before", told(check))));
                }
            }
            let well_formed =
                ["leader", "follower"].contains(&check.text.as_str()) || check.text.starts_with("unknown ");
            let is_killed = check.text == "none" && self.has(node, &["check killed", "listener killed"], check.span);
            if !well_formed && !is_killed {
                violations.push((5, format!("{}: no answer", told(check))));
            }
            let mut excused = self.faults(node, &STANDSTILLS);
            excused.extend(&self.pauses);
            let took = outside((from, to), &excused);
            if took > TIMEOUT + GUARD + SLACK {
                violations.push((5, format!("{}: the answer took {took} ms", told(check))));
            }
        }
    }

    /// Rule 4.
    fn logins(&self, node: usize, violations: &mut Vec<(u8, String)>) {
        let mut logins: Vec<&Entry> = self
            .history
            .of("login")
            .filter(|login| login.node == Some(node))
            .collect();
        logins.sort_by_key(|login| login.span);
        for login in &logins {
            if login.text.starts_with("beside") {
                violations.push((4, format!("{}: two runs of s9s at a time", told(login))));
            }
        }
        // The start of a run is known in clock ticks, 10 ms.
        let killed = |from: &Entry, to: &Entry| self.has(node, &["check killed"], (from.span.0, to.span.0 + 20));
        for pair in logins.windows(2) {
            let apart = pair[1].span.0 - pair[0].span.0;
            if apart + SLACK < MAX_AGE && !killed(pair[0], pair[1]) {
                violations.push((4, format!("{}: {apart} ms after the login before", told(pair[1]))));
            }
        }
        // The end of a refusal is an s9s.conf with another password.
        for refusal in self.faults(node, &["s9s refuses"]) {
            let is_refused = |login: &&&Entry| login.text.ends_with("wrong-password") && meet(login.span, refusal);
            let refused: Vec<&Entry> = logins.iter().filter(is_refused).copied().collect();
            for pair in refused.windows(2) {
                let apart = pair[1].span.0 - pair[0].span.0;
                if apart < REFUSED && !killed(pair[0], pair[1]) {
                    violations.push((4, format!("{}: refused again after {apart} ms", told(pair[1]))));
                }
            }
            if refused.len() > 5 {
                violations.push((4, format!("{}: {} refused logins", told(refused[0]), refused.len())));
            }
        }
    }

    /// Rule 6.
    fn recovery(&self, violations: &mut Vec<(u8, String)>) {
        violations.extend(
            self.history
                .of("left")
                .map(|left| (6, format!("{}: left at the end", told(left)))),
        );
        let end = self.history.of("end").map(|end| end.span.0).max();
        let leader = self
            .history
            .of("truth")
            .max_by_key(|truth| truth.span)
            .and_then(|truth| truth.node);
        let (Some(end), Some(leader)) = (end, leader) else {
            return violations.push((6, "the history has no end".into()));
        };
        let mut count = 0;
        for entry in self.history.of("user").chain(self.history.of("check")) {
            if entry.span.0 < end + RECOVERY || self.pauses.iter().any(|pause| meet(*pause, entry.span)) {
                continue;
            }
            count += 1;
            let right = match entry.kind.as_str() {
                "user" => entry.node == Some(leader) && entry.span.1 - entry.span.0 <= CONNECTION,
                _ => {
                    entry.text
                        == if entry.node == Some(leader) {
                            "leader"
                        } else {
                            "follower"
                        }
                }
            };
            if !right {
                violations.push((
                    6,
                    format!(
                        "{}: {leader} leads, and all faults are over",
                        told(entry),
                        leader = NAMES[leader]
                    ),
                ));
            }
        }
        if count < 10 {
            violations.push((6, format!("only {count} connections after the end")));
        }
    }
}

fn told(entry: &Entry) -> String {
    let node = entry.node.map_or("-", |node| NAMES[node]);
    let (from, to) = entry.span;
    format!("{from} to {to} ms, {} {node} {:?}", entry.kind, entry.text)
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
            // They are not on the leader.
            (2, "10000 10010 user - connection reset"),
            (2, "10000 12500 user node2 reached"),
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
                "0 59999 holder node1 \n1 60000 holder node3 \n12200 12210 user - timed out",
            ),
            (2, "1000 15000 session node2 connection reset"),
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
