//! How soon users are on the new leader; failover.rs has the rest.
//!
//! `CMONHACHK_FAILOVERS` (see `scale`) is the number of moves of each kind.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE, wait_until};
use crate::failover::{DEPLOYED, NAMES, Site};
use crate::pauses::{Pauses, unless_paused};
use crate::scale::amount;
use crate::versions::Versions;

#[test]
fn users_are_on_the_new_leader_within_three_seconds_and_stay_there() {
    let cluster = Cluster::new();
    let site = Site::start(&Versions::usual(), &cluster, DEPLOYED, |configuration| configuration);
    let (mut old, mut new) = ("node1", "node2");
    unless_paused(|| {
        let (mut session, name) = site.visit().unwrap();
        assert_eq!(name, old);
        let moved = Instant::now();
        cluster.leads(if new == "node2" { "10.0.0.102" } else { "10.0.0.101" });
        let mut replies = Vec::new();
        while moved.elapsed() < Duration::from_secs(5) {
            let asked = moved.elapsed();
            replies.push((asked, site.user_gets()));
            thread::sleep(Duration::from_millis(50).saturating_sub(moved.elapsed() - asked));
        }
        wait_until("only the new leader is up", || site.up() == [new]);
        let is_new = |reply: &Option<String>| reply.as_deref() == Some(new);
        let arrived = replies.iter().position(|(_, reply)| is_new(reply));
        let cut = session.read_to_end(&mut Vec::new());
        assert_eq!(cut.ok(), Some(0), "the session on the old leader was cut");
        (old, new) = (new, old);
        let arrived = arrived.ok_or("no user arrives on the new leader")?;
        let at = replies[arrived].0;
        println!("users arrived after {at:.2?}");
        match replies[arrived..].iter().all(|(_, reply)| is_new(reply)) {
            true if at < Duration::from_secs(3) => Ok(()),
            _ => Err(format!("arrived after {at:?}: {replies:?}")),
        }
    });
}

#[test]
fn users_who_are_held_go_on_when_haproxy_has_found_the_leader() {
    let cluster = Cluster::new();
    let site = Site::start(&Versions::usual(), &cluster, DEPLOYED, |configuration| configuration);
    let mut late = Vec::new();
    for round in 0..amount("CMONHACHK_FAILOVERS", 4, 10) {
        let new = ["node2", "node1"][round % 2];
        unless_paused(|| {
            cluster.leads("nobody");
            wait_until("nobody leads", || site.up().is_empty());
            let (worst, replies) = thread::scope(|scope| {
                let users: Vec<_> = (0..20)
                    .map(|_| {
                        thread::sleep(Duration::from_millis(15));
                        scope.spawn(|| (site.user_gets(), Instant::now()))
                    })
                    .collect();
                thread::sleep(Duration::from_millis(50 * round as u64));
                cluster.leads(["10.0.0.102", "10.0.0.101"][round % 2]);
                wait_until("HAProxy has found the leader", || !site.up().is_empty());
                let found = Instant::now();
                let users = users.into_iter().map(|user| user.join().unwrap());
                let (names, ends): (Vec<_>, Vec<_>) = users.unzip();
                (
                    ends.iter()
                        .map(|end| end.saturating_duration_since(found))
                        .max()
                        .unwrap(),
                    names,
                )
            });
            late.push(worst);
            match replies.iter().all(|name| name.as_deref() == Some(new)) {
                true if worst < Duration::from_millis(300) => Ok(()),
                _ => Err(format!("{worst:?}: {replies:?}")),
            }
        });
    }
    late.sort_unstable();
    println!("the last held user went on after {late:.0?}");
}

#[test]
fn without_a_leader_a_user_is_held_for_two_seconds() {
    let cluster = Cluster::new();
    let site = Site::start(&Versions::usual(), &cluster, DEPLOYED, |configuration| configuration);
    cluster.leads("nobody");
    wait_until("nobody leads", || site.up().is_empty());
    unless_paused(|| {
        let start = Instant::now();
        assert_eq!(site.user_gets(), None);
        let held = start.elapsed().as_secs_f64();
        if (1.9..2.6).contains(&held) { Ok(()) } else { Err(held) }
    });
}

/// By HAProxy's own log: among so many users, the test itself may be late. If an action is over only when inspect-delay
/// ends, HAProxy says so in the log.
#[test]
fn of_500_users_without_a_leader_nobody_is_held_longer_than_2_1_seconds() {
    let cluster = Cluster::new();
    let site = Site::start(&Versions::usual(), &cluster, DEPLOYED, |configuration| configuration);
    cluster.leads("nobody");
    wait_until("nobody leads", || site.up().is_empty());
    unless_paused(|| {
        let start = site.log().len();
        thread::scope(|scope| {
            for _ in 0..500 {
                scope.spawn(|| assert_eq!(site.user_gets(), None));
                thread::sleep(Duration::from_millis(2));
            }
        });
        wait_until("the log has all users", || held(&site.log()[start..]).len() >= 500);
        let log = &site.log()[start..];
        let longest = held(log).into_iter().max().unwrap();
        println!("the longest was held for {longest} ms");
        match longest <= 2100 && !log.contains("Lua") {
            true => Ok(()),
            false => Err(longest),
        }
    });
}

/// How long each user was held who got no node, in milliseconds.
fn held(log: &str) -> Vec<u32> {
    let refused = log.lines().filter_map(|line| line.split_once(" users users/<NOSRV> "));
    let times = refused.filter_map(|(_, rest)| rest.split(' ').next()?.split('/').nth(2)?.parse().ok());
    times.collect()
}

/// What happens to the old leader.
#[derive(Clone, Copy, Debug)]
enum Failover {
    /// It follows.
    Moves,
    /// Its controller accepts no connections.
    Dies,
    /// Its controller accepts connections and says nothing.
    Freezes,
    /// For another 1.5 s, it still says that it leads.
    Lags,
}

/// Moves the leadership back and forth. Returns for each move how long it took until the first user was
/// on the new leader, and how many requests failed meanwhile. A move during which the machine paused does
/// not count, unless there are only such.
fn fail_over(kind: Failover, count: usize) -> Vec<(Duration, usize)> {
    let clusters = [Cluster::new(), Cluster::new(), Cluster::new()];
    let all = [&clusters[0], &clusters[1], &clusters[2]];
    let site = Site::start_on(&Versions::usual(), all, DEPLOYED, |configuration| configuration);
    let pauses = Pauses::watch();
    let addresses = ["10.0.0.101", "10.0.0.102", "10.0.0.103"];
    let (mut figures, mut disturbed) = (Vec::new(), Vec::new());
    for round in 0..4 * count {
        let (old, new) = (round % 2, (round + 1) % 2);
        // Each time at another moment of the second between two checks.
        thread::sleep(Duration::from_millis(1500 + round as u64 * 370 % 1000));
        let moved = Instant::now();
        match kind {
            Failover::Dies => clusters[old].behaves("connection-refused"),
            Failover::Freezes => clusters[old].behaves("hang"),
            Failover::Moves | Failover::Lags => {}
        }
        let lags = matches!(kind, Failover::Lags).then_some(old);
        let told = clusters.iter().enumerate().filter(|(number, _)| Some(*number) != lags);
        told.for_each(|(_, cluster)| cluster.leads(addresses[new]));
        let has_arrived = AtomicBool::new(false);
        let (site, arrived) = (&site, &has_arrived);
        let users = thread::scope(|scope| {
            let mut users = Vec::new();
            while !arrived.load(Ordering::Relaxed) && moved.elapsed() < PATIENCE / 2 {
                users.push(scope.spawn(move || {
                    // A browser whose connection is cut before the first byte tries once more.
                    let name = site.user_gets().or_else(|| site.user_gets());
                    arrived.fetch_or(name.as_deref() == Some(NAMES[new]), Ordering::Relaxed);
                    (moved.elapsed(), name)
                }));
                if matches!(kind, Failover::Lags) && moved.elapsed() > Duration::from_millis(1500) {
                    clusters[old].leads(addresses[new]);
                }
                thread::sleep(Duration::from_millis(20));
            }
            users.into_iter().map(|user| user.join().unwrap()).collect::<Vec<_>>()
        });
        let failed = users.iter().filter(|(_, name)| name.is_none()).count();
        let on_new = users.iter().filter(|(_, name)| name.as_deref() == Some(NAMES[new]));
        let arrived = on_new.map(|(at, _)| *at).min();
        let figure = (arrived.expect("users arrive on the new leader"), failed);
        match pauses.since(moved) {
            Duration::ZERO => figures.push(figure),
            pause => disturbed.push((figure, pause)),
        }
        clusters[old].behaves("list");
        wait_until("only the new leader is up", || site.up() == [NAMES[new]]);
        if figures.len() == count {
            break;
        }
    }
    println!("{kind:?}: while the machine paused: {disturbed:?}");
    figures
}

#[test]
fn users_are_on_the_new_leader_soon_and_no_request_fails() {
    let count = amount("CMONHACHK_FAILOVERS", 3, 20);
    thread::scope(|scope| {
        for (kind, limit) in [
            (Failover::Moves, 2500),
            (Failover::Dies, 4500),
            (Failover::Freezes, 5500),
            (Failover::Lags, 4500),
        ] {
            scope.spawn(move || {
                unless_paused(|| {
                    let figures = fail_over(kind, count);
                    let mut times: Vec<u128> = figures.iter().map(|(time, _)| time.as_millis()).collect();
                    times.sort_unstable();
                    let failed: usize = figures.iter().map(|(_, failed)| failed).sum();
                    println!("{kind:?}: {failed} failed requests; milliseconds: {times:?}");
                    let longest = times.last().copied().unwrap_or_default();
                    match failed == 0 && longest < limit {
                        true => Ok(()),
                        false => Err(format!("{kind:?}: {failed} failed requests; milliseconds: {times:?}")),
                    }
                });
            });
        }
    });
}
