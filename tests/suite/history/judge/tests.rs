//! Histories that are right, and histories that are wrong, each for its rule.

use super::*;

/// A run of a minute: the second node leads until the third one does at 20 s, the first one has the address,
/// and all faults are over at 40 s. To it, come these lines: from, to, kind, node, text.
fn made_up(lines: &str) -> History {
    let mut history = History::default();
    for node in 0..3 {
        history.add((0, 20_000), "view", Some(node), "node2");
        history.add((20_000, 60_000), "view", Some(node), "node3");
        for from in (0..60_000).step_by(1000) {
            let leads = from < 21_000 && node == 1 || from > 20_000 && node == 2;
            let role = if leads { "leader" } else { "follower" };
            history.add((from, from + 5), "check", Some(node), role);
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
        // Without HAProxy, the address needs its time, and keepalived's faults excuse.
        "0 0 bound - without-haproxy 1\n26000 26010 user node2 reached",
        "0 0 bound - without-haproxy 1\n10000 12000 fault node1 keepalived killed\n15000 15010 user - timed out",
        // As late as promised.
        "22500 22540 user node2 reached",
        "21500 23500 fault node2 s9s hangs\n23400 23600 user node2 reached",
        "21750 21760 check node2 leader",
        "21750 21760 check node3 follower",
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
        "10000 13000 pause - \n10100 13100 user node2 reached\n10000 13010 check node1 follower",
        "10000 20000 fault node1 s9s refuses\n11500 11500 login node1 alone wrong-password\n10100 19000 fault node1 check killed",
        "10000 10100 fault node1 haproxy reloaded\n10050 11700 user node2 reached\n1000 20300 session node2 over",
        "14000 14100 fault node1 haproxy reloaded\n1000 24200 session node2 connection reset",
        "9000 9100 fault node1 haproxy reloaded\n1000 19100 session node2 connection reset",
        "14000 14100 fault node1 haproxy reloaded\n23900 27000 fault node1 frozen\n1000 27200 session node2 connection reset",
        "14900 18000 fault node1 clock: 61920 s\n1000 15000 session node2 closed",
        "9000 10000 fault node3 check killed\n10020 10020 login node3 beside list",
        "0 15000 holder node1 \n14000 60000 holder node3 \n19500 19510 user - timed out",
        // What xinetd and its clients do.
        "10000 10010 check node1 left\n10000 10010 check node1 none: killed\n10000 10010 check node1 none: over the limit",
        "10000 10100 fault node1 xinetd killed\n10050 10060 check node1 failed: ECONNREFUSED",
        "10000 10100 fault node1 xinetd killed\n9950 10060 check node1 none: never started",
        "10000 11500 pause - \n10000 11600 check node1 follower, reset",
        "10000 16000 check node1 unknown stuck, stopped",
        "0 0 bound - busy 3000\n10000 14000 check node1 unknown s9s-timeout",
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
        // Without HAProxy, users are on the leader when its time to get the address is over.
        (2, "0 0 bound - without-haproxy 1\n26600 26610 user node2 reached"),
        (
            2,
            "0 0 bound - without-haproxy 1\n15000 15010 user - connection refused",
        ),
        (
            2,
            "0 0 bound - without-haproxy 1\n1000 15000 session node2 connection reset",
        ),
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
        (3, "0 0 bound - max-age 300\n21900 21910 check node2 leader"),
        (3, "1200 1210 check node2 follower"),
        (3, "22300 22310 check node3 follower"),
        // It says a role when its time is over.
        (
            3,
            "18000 24000 fault node2 check stopped\n18000 24100 check node2 leader",
        ),
        (3, "18000 24000 check node2 leader, stopped"),
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
        (5, "0 0 bound - busy 3000\n10000 15000 check node1 unknown s9s-timeout"),
        (5, "10000 10010 check node1 hung"),
        (5, "10000 10010 check node1 follower, reset"),
        (5, "10000 10010 check node1 none: never started"),
        (
            5,
            "9000 9100 fault node1 xinetd killed\n10000 10010 check node1 failed: ECONNREFUSED",
        ),
        (5, "10000 10010 failed node1 EXIT: status=1"),
        // It is not well again at the end.
        (6, "51000 51010 check node1 unknown lock-timeout"),
        (6, "41000 60000 view node1 node1\n51000 51010 check node1 leader"),
        (6, "59000 59000 left node1 cmonhachk-front.service loaded failed"),
        (6, "55000 55000 end - "),
        (
            6,
            "0 0 bound - recovery 4000\n45000 45010 check node1 unknown lock-timeout",
        ),
    ] {
        assert_eq!(broken(lines), [rule], "{lines}");
    }
    let mut history = made_up("");
    history.0.retain(|entry| entry.kind != "end");
    assert_eq!(judge(&history).violations.len(), 1);
    assert_eq!(
        broken("0 60000 pause - "),
        [2, 6],
        "a machine that always pauses shows nothing"
    );
}

#[test]
fn a_history_is_the_same_after_it_was_written() {
    let history = made_up("10000 10010 user - connection reset");
    assert_eq!(History::parse(&history.text()).0, history.0);
}
