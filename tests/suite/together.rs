//! Many checks at once: one run of s9s, whatever the lock file is, and nobody in anybody's way.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{
    Client, Cluster, GET, LEADER, once_in_a_while, requesting, wait_until, wait_until_all_but_one_wait,
    waits_for_a_verdict, with_fault,
};

#[test]
fn clients_that_send_nothing_take_no_run_from_those_that_do() {
    // A silent one is waited for during the first second of its check.
    assert!(once_in_a_while(|| {
        let cluster = Cluster::new();
        cluster.behaves("gate");
        let node = cluster.leader();
        let check = || requesting(node.command().args(["--max-age", "60"]), b"");
        let mut clients = vec![check()];
        wait_until("it runs s9s", || cluster.runs() == 1);
        clients.extend((0..7).map(|_| check()));
        let good = requesting(node.command().args(["--max-age", "60"]), GET);
        wait_until("it waits for the lock", || waits_for_a_verdict(good.responder.id()));
        let start = Instant::now();
        cluster.open_gate();
        assert_eq!(good.answer(), LEADER);
        let took = start.elapsed();
        assert_eq!(cluster.runs(), 1, "of the run that a silent one began");
        let silent_is_waited_for = clients[0].is_waiting();
        for client in clients {
            assert_eq!(client.answer(), LEADER);
        }
        println!("{took:?}, and a silent one was waited for: {silent_is_waited_for}");
        silent_is_waited_for
    }));
}

#[test]
fn where_no_entry_can_be_written_the_checks_take_turns() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = cluster.leader();
    // A folder takes the place of the draft, because root may write everywhere else.
    fs::create_dir(format!("{}.verdict.new", node.lock.display())).unwrap();
    let clients: Vec<_> = (0..4)
        .map(|_| requesting(node.command().args(["--max-age", "0", "--timeout", "60"]), GET))
        .collect();
    wait_until_all_but_one_wait(&clients);
    wait_until("one runs s9s", || cluster.runs() > 0);
    assert_eq!(cluster.runs(), 1);
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 4);
}

#[test]
fn a_lock_whose_holder_is_gone_is_taken_by_a_check_that_waits() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.hold_the_lock();
    let check = requesting(node.command().args(["--timeout", "6"]), GET);
    wait_until("it waits", || waits_for_a_verdict(check.responder.id()));
    // Longer than the usual wait, and less than half of its time.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(cluster.runs(), 0);
    drop(lock);
    assert_eq!(check.answer(), LEADER);
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn a_check_that_waited_too_long_leaves_s9s_to_one_that_has_more_time_and_shares_its_verdict() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.hold_the_lock();
    let start = || requesting(node.command().args(["--max-age", "0", "--timeout", "4"]), GET);
    let late = start();
    wait_until("it waits", || waits_for_a_verdict(late.responder.id()));
    // Half of its time, and more.
    thread::sleep(Duration::from_millis(2200));
    drop(lock);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(cluster.runs(), 0);
    assert_eq!(start().answer(), LEADER);
    assert_eq!(late.answer(), LEADER);
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn a_check_that_meets_a_run_with_another_key_asks_s9s_itself() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("slow 0.5");
    let first = requesting(node.command().args(["--timeout", "3"]), GET);
    wait_until("it runs s9s", || cluster.runs() == 1);
    let second = requesting(
        node.command()
            .args(["--timeout", "3"])
            .env("CMON_CONTROLLER", "https://10.0.0.9:9501"),
        GET,
    );
    assert_eq!(second.answer(), LEADER);
    assert_eq!(first.answer(), LEADER);
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_check_that_was_held_up_before_the_lock_takes_it_if_it_is_free() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    assert_eq!(node.get(&[]), LEADER);
    // Longer than a sixth of its time, before it looks for the lock.
    let fault = "readlinkat:delay_enter=350000";
    let mut check = with_fault(fault, node.command().args(["--max-age", "0", "--timeout", "2"]));
    assert_eq!(requesting(&mut check, GET).answer(), LEADER);
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_person_who_looks_is_in_no_checks_way() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("gate");
    let looks: Vec<_> = [&["--explain"][..], &[], &[]]
        .map(|arguments| node.command().args(arguments).stdout(Stdio::null()).spawn().unwrap())
        .into();
    wait_until("they look", || cluster.runs() == 3);
    let clients: Vec<Client> = (0..6).map(|_| requesting(&mut node.command(), GET)).collect();
    wait_until_all_but_one_wait(&clients);
    wait_until("one of them runs s9s", || cluster.runs() == 4);
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 4);
    for mut look in looks {
        assert_eq!(look.wait().unwrap().code(), Some(0));
    }
}
