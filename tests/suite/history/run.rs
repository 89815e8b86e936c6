//! A run on three nodes, with HAProxy, or, with an even seed, without it: users connect all the time while faults that a seed has drawn overlap, and each response of
//! a check is judged. tests/history/run.sh runs it alone and says how.
//!
//! `CMONHACHK_HISTORY_SEED`, `_MINUTES` and `_RUNS` (see `scale`) are the first seed, the length of a run, and
//! the number of runs, each with the next seed. With `CMONHACHK_HISTORY_FILE`, a recorded history is judged.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};

use super::clients::{Manner, converse};
use super::faults::{Nodes, deck, logins};
use super::plan::{Fault, plan};
use super::record::{Recorder, every, keep_and_judge, record, report};
use super::{History, NAMES};
use crate::front::site::{SITE, Site, VIRTUAL};
use crate::scale::amount;
use crate::versions::{System, Versions, on_each_system};

/// With this seed and the next one, two runs of a minute have nearly every kind of fault.
const SEED: usize = 7705;
/// How long after the last fault the run goes on.
const AFTERWARDS: Duration = Duration::from_secs(13);
/// How often each comes: a user, a check of each node, a byte of the session, a look for the address.
const USERS: Duration = Duration::from_millis(60);
const CHECKS: Duration = Duration::from_millis(150);
const SESSION: Duration = Duration::from_millis(200);
const HOLDERS: Duration = Duration::from_millis(40);
/// How long a session lasts, in milliseconds.
const STAY: u64 = 25_000;

on_each_system! {
    whatever_goes_wrong_users_reach_the_leader_soon_and_nobody_who_has_not_led_for_a_while,
}

/// Runs the seeds with an odd number on this system, and the others on Debian 13, unless one was chosen.
fn whatever_goes_wrong_users_reach_the_leader_soon_and_nobody_who_has_not_led_for_a_while(versions: &Versions) {
    if env::var_os("CMONHACHK_HISTORY_FILE").is_some() {
        return;
    }
    let first = amount("CMONHACHK_HISTORY_SEED", SEED, 1) as u64;
    let length = amount("CMONHACHK_HISTORY_MINUTES", 1, 3) as u64 * 60_000;
    let seeds = first..first + amount("CMONHACHK_HISTORY_RUNS", 2, 20) as u64;
    let is_ours = |seed: &u64| versions.is_chosen() || (versions.system == System::Here) == (seed % 2 == 1);
    let mut violations = 0;
    for seed in seeds.filter(is_ours) {
        println!("CMONHACHK_HISTORY_SEED={seed} on {}", versions.name());
        let site = match has_haproxy(seed) {
            true => with_haproxy(versions),
            false => Site::without_haproxy(versions),
        };
        let history = run(&faults(seed, length), site);
        violations += keep_and_judge(&format!("seed-{seed}-{}", versions.name()), &history);
    }
    assert_eq!(violations, 0, "violations");
}

#[test]
fn a_recorded_history_is_judged() {
    if let Ok(file) = env::var("CMONHACHK_HISTORY_FILE") {
        let history = History::parse(&fs::read_to_string(&file).unwrap());
        assert_eq!(report(&file, &history), 0, "violations");
    }
}

fn has_haproxy(seed: u64) -> bool {
    seed % 2 == 1
}

/// The faults of a run that takes so many milliseconds in all.
fn faults(seed: u64, length: u64) -> Vec<Fault> {
    plan(&deck(has_haproxy(seed)), seed, length - AFTERWARDS.as_millis() as u64)
}

#[test]
fn two_short_runs_have_nearly_every_kind_of_fault() {
    let seeds = [SEED as u64, SEED as u64 + 1];
    let faults = seeds.into_iter().flat_map(|seed| faults(seed, 60_000));
    let kinds: BTreeSet<&str> = faults.map(|fault| fault.what).collect();
    let [with, without] = [true, false].map(|has_haproxy| deck(has_haproxy).kinds);
    let all: BTreeSet<&str> = with.iter().chain(&without).map(|kind| kind.0).collect();
    assert!(kinds.len() + 2 >= all.len(), "{kinds:?}");
}

fn with_haproxy(versions: &Versions) -> Site {
    let site = Site::boot(versions);
    for node in &site.nodes {
        node.succeeds(SITE);
    }
    site
}

fn run(faults: &[Fault], site: Site) -> History {
    let nodes = Nodes::new(site);
    let clients = |recorder: &Recorder, over: &AtomicBool| observe(&nodes.site, recorder, over);
    let rest = || thread::sleep(AFTERWARDS);
    record(&nodes, faults, rest, clients, |recorder| {
        if !nodes.site.has_haproxy() {
            recorder.add((0, 0), "bound", None, "without-haproxy 1");
        }
        for (number, node) in nodes.site.nodes.iter().enumerate() {
            logins(recorder, number, node);
        }
    })
}

/// Notes what users and checks get, and who has the address, until it is over.
fn observe(site: &Site, recorder: &Recorder, over: &AtomicBool) {
    thread::scope(|scope| {
        let network = fs::File::open(site.network.file()).unwrap();
        scope.spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            // A thread has the network of the one that has started it.
            let port = site.port;
            scope.spawn(move || every(SESSION, over, || session(recorder, port, over)));
            every(USERS, over, || {
                scope.spawn(move || user(recorder, port));
            });
        });
        for (number, node) in site.nodes.iter().enumerate() {
            let network = node.systemd.network();
            scope.spawn(move || {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                every(CHECKS, over, || check(recorder, number));
            });
        }
        holders(recorder, site, over);
    });
}

/// The session of a user, and the node that it is on.
fn visit(port: u16) -> Result<(TcpStream, usize), String> {
    let address = SocketAddr::new(VIRTUAL.parse().unwrap(), port);
    let in_words = |error: std::io::Error| error.kind().to_string();
    let mut session = TcpStream::connect_timeout(&address, Duration::from_secs(3)).map_err(in_words)?;
    session.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut name = [0; 5];
    session.read_exact(&mut name).map_err(in_words)?;
    let node = NAMES.iter().position(|node| node.as_bytes() == name);
    Ok((session, node.ok_or("a stranger")?))
}

fn user(recorder: &Recorder, port: u16) {
    let from = recorder.now();
    let (node, text) = match visit(port) {
        Ok((_, node)) => (Some(node), "reached".into()),
        Err(error) => (None, error),
    };
    recorder.add((from, recorder.now()), "user", node, &text);
}

/// A session that goes on until it is cut, or the user has stayed long enough, or the run is over.
fn session(recorder: &Recorder, port: u16, over: &AtomicBool) {
    let Ok((mut session, node)) = visit(port) else { return };
    let (from, mut ended) = (recorder.now(), "open".to_string());
    session.set_read_timeout(Some(SESSION)).unwrap();
    // A user without an answer gives up, and TCP alone would for minutes.
    setsockopt(&session, TcpUserTimeout, &1000).unwrap();
    while !over.load(Ordering::Relaxed) {
        if recorder.now() > from + STAY {
            ended = "over".into();
            break;
        }
        let sent = session.write(b".").and_then(|_| session.read(&mut [0]));
        match sent {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => ended = error.kind().to_string(),
            Ok(_) => ended = "closed".into(),
        }
        break;
    }
    recorder.add((from, recorder.now()), "session", Some(node), &ended);
}

/// Asks a node for its verdict, on itself: so what is cut off from the network is seen, too.
fn check(recorder: &Recorder, node: usize) {
    let outcome = converse(
        recorder,
        Ipv4Addr::LOCALHOST,
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201),
        Manner::good(),
    );
    recorder.add(outcome.span, "check", Some(node), &outcome.words());
}

/// Who has the address: from the last look without it until the first one without it again.
fn holders(recorder: &Recorder, site: &Site, over: &AtomicBool) {
    let tables = site
        .nodes
        .iter()
        .map(|node| format!("/proc/{}/net/fib_trie", node.systemd.first_process().unwrap()));
    let tables: Vec<String> = tables.collect();
    let mut since = [None; 3];
    let mut last = [0; 3];
    let mut look = |is_over: bool| {
        for (node, table) in tables.iter().enumerate() {
            let before = std::mem::replace(&mut last[node], recorder.now());
            let has = !is_over && fs::read_to_string(table).unwrap().contains(VIRTUAL);
            let now = recorder.now();
            match (has, since[node]) {
                (true, None) => since[node] = Some(before),
                (false, Some(from)) => {
                    since[node] = None;
                    recorder.add((from, now), "holder", Some(node), "");
                }
                _ => {}
            }
        }
    };
    every(HOLDERS, over, || look(false));
    look(true);
}
