//! One s9s at a time, and one verdict for all checks at the same moment.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::cluster::{
    Cluster, GET, LEADER, requesting, unknown, wait_until, wait_until_all_but_one_wait, waits_for_a_verdict,
};

#[test]
fn fifty_checks_at_the_same_moment_are_fifty_right_answers_from_one_run() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = cluster.leader();
    let mut clients: Vec<_> = (0..50).map(|_| node.connect(&[])).collect();
    for client in &mut clients {
        client.send(GET);
    }
    wait_until_all_but_one_wait(&clients);
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn with_max_age_0_only_those_who_were_waiting_share() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = cluster.leader();
    let ask = || requesting(node.command().args(["--max-age", "0", "--timeout", "20"]), GET);
    let mut clients = vec![ask()];
    wait_until("s9s runs", || cluster.runs() == 1);
    clients.extend((0..10).map(|_| ask()));
    wait_until("the others wait", || {
        clients[1..]
            .iter()
            .all(|client| waits_for_a_verdict(client.responder.id()))
    });
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    // No check is waiting now, so each one runs s9s.
    assert_eq!(node.get(&["--max-age", "0"]), LEADER);
    assert_eq!(node.get(&["--max-age", "0"]), LEADER);
    assert_eq!(cluster.runs(), 3);
}

#[test]
fn those_who_wait_for_a_hanging_s9s_are_told_what_the_first_one_met() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let node = cluster.leader();
    let start = || requesting(node.command().args(["--timeout", "5"]), GET);
    let mut clients = vec![start()];
    wait_until("s9s runs", || cluster.runs() == 1);
    clients.extend((0..10).map(|_| start()));
    wait_until_all_but_one_wait(&clients);
    for client in clients {
        assert_eq!(client.answer(), unknown("s9s-timeout"));
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn a_kill_in_the_middle_of_a_check_stops_no_later_one() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let node = cluster.leader();
    let mut client = node.connect(&[]);
    client.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    client.responder.kill().unwrap();
    client.responder.wait().unwrap();
    cluster.behaves("list");
    assert_eq!(node.get(&[]), LEADER);
    wait_until("nothing of the killed check is left", || cluster.processes().is_empty());
}

#[test]
fn a_kill_lets_one_of_those_who_wait_go_on() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = cluster.leader();
    let mut killed = node.connect(&[]);
    killed.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    let mut waiting: Vec<_> = (0..5).map(|_| node.connect(&[])).collect();
    for client in &mut waiting {
        client.send(GET);
    }
    wait_until("the others wait", || {
        waiting.iter().all(|client| waits_for_a_verdict(client.responder.id()))
    });
    killed.responder.kill().unwrap();
    killed.responder.wait().unwrap();
    cluster.open_gate();
    for client in waiting {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_lock_that_is_never_free_is_not_waited_for_past_the_deadline() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let held = node.hold_the_lock();
    let start = Instant::now();
    assert_eq!(node.get(&["--timeout", "1.5"]), unknown("lock-timeout"));
    // The kernel gives the start of a process in hundredths of a second.
    assert!(start.elapsed() >= Duration::from_millis(1480));
    assert_eq!(cluster.runs(), 0);
    drop(held);
    assert_eq!(node.get(&[]), LEADER);
}

#[test]
fn a_lock_that_comes_free_before_the_deadline_is_taken() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let held = node.hold_the_lock();
    let mut client = node.connect(&[]);
    client.send(GET);
    wait_until("the responder waits for the lock", || {
        waits_for_a_verdict(client.responder.id())
    });
    drop(held);
    assert_eq!(client.answer(), LEADER);
}

#[test]
fn the_time_kept_for_the_hand_over_is_no_more_than_a_part_of_what_there_is() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let list = "S VERSION OWNER GROUP NAME IP         PORT COMMENT\n\
                l 1.9     a     b     cc1  10.0.0.101 9501\nTotal: 1 controller(s)\n";
    let s9s = cluster
        .folder
        .write("quick", format!("#!/bin/sh\necho '{}'\n", list.trim_end()));
    fs::set_permissions(&s9s, Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--max-age", "0", "--timeout", "0.1", "--s9s", s9s.to_str().unwrap()];
    // A busy machine may sometimes take longer.
    wait_until("a short time is enough", || node.answer(&arguments) == LEADER);
}
