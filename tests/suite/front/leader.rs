//! What becomes of users when the leader's machine dies or stands still. The address is on another node.

use std::thread;
use std::time::{Duration, Instant};

use super::site::*;
use super::users::{End, Visit, users_during};
use crate::cluster::wait_until;
use crate::pauses::Pauses;

/// What a busy machine adds. alone/rows.rs measures.
const BUSY: Duration = Duration::from_secs(2);

pub fn nobody_waits_long_for_a_dead_leader_while_there_is_no_other(site: &Site) {
    site.puts_address_on("node1");
    let (visits, ()) = users_during(site, Duration::from_millis(100), |_| {
        thread::sleep(Duration::from_millis(500));
        site.network.ip("link set node2 down");
        // The election takes its time.
        thread::sleep(Duration::from_secs(5));
        let elected = Instant::now();
        the_others_elect(site, "node3");
        wait_until("users are on the new leader", || {
            site.user_gets(VIRTUAL).as_deref() == Some("node3")
        });
        eprintln!("users were on the new leader {:.1?} later", elected.elapsed());
    });
    // Two tries of half a second, or two seconds without a leader.
    assert!(longest(&visits).took() < Duration::from_secs(3) + BUSY, "{visits:?}");
    assert!(!visits.iter().any(|visit| visit.is_on("node1")), "{visits:?}");
    the_second_node_leads_again(site);
}

pub fn of_200_connections_around_the_death_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy(site: &Site) {
    // Held until there is a leader, then two tries of half a second.
    nobody_hangs_when(site, Duration::from_secs(3), || {
        site.network.ip("link set node2 down");
    });
}

pub fn of_200_connections_around_a_standstill_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy(site: &Site) {
    // Its kernel still accepts connections. Two checks come within a second each, and each waits for 2 s.
    nobody_hangs_when(site, Duration::from_secs(6), || {
        let leader = site.node("node2");
        leader.freezes_ui(true);
        leader.freeze(true);
    });
}

/// The others elect a new leader at the moment of the fault.
fn nobody_hangs_when(site: &Site, limit: Duration, fault: impl FnOnce()) {
    site.puts_address_on("node1");
    let (period, start, pauses) = (Duration::from_millis(20), Instant::now(), Pauses::watch());
    let (visits, ()) = users_during(site, period, |_| {
        thread::sleep(period * 15);
        fault();
        the_others_elect(site, "node3");
        // HAProxy notices in this time.
        thread::sleep(period * 185);
    });
    let limit = limit + BUSY + pauses.between(start, Instant::now());
    assert!(longest(&visits).took() < limit, "{:?}", longest(&visits));

    // The leader is still dead, and all users have gone.
    wait_until("HAProxy has closed all connections", || {
        let mut connections = [0, 2].into_iter().flat_map(|node| site.nodes[node].connections());
        !connections.any(|line| line.contains(" src=10.0.0.200:"))
    });
    assert_eq!(site.user_gets(VIRTUAL).as_deref(), Some("node3"));
    the_second_node_leads_again(site);
}

fn the_others_elect(site: &Site, leader: &str) {
    for node in [&site.nodes[0], &site.nodes[2]] {
        node.hears(leader);
    }
}

/// Ends each fault above.
fn the_second_node_leads_again(site: &Site) {
    site.network.ip("link set node2 up");
    let node = site.node("node2");
    node.freeze(false);
    node.freezes_ui(false);
    for node in &site.nodes {
        node.hears("node2");
    }
    // Without users meanwhile: HAProxy 3.0.11 may forget one who comes when a node goes down, see deploy/README.md.
    wait_until("HAProxy has users for the second node alone", || {
        site.nodes[0].counts_as_up() == ["node2"]
    });
    assert!(site.users_are_on_the_leader());
}

/// The visit that took longest. It also prints what became of all.
fn longest(visits: &[Visit]) -> &Visit {
    let longest = visits.iter().max_by_key(|visit| visit.took()).unwrap();
    let count = |is_so: fn(&Visit) -> bool| visits.iter().filter(|visit| is_so(visit)).count();
    eprintln!(
        "of {} visits {} were answered and {} hung; the longest took {:.2?}: {:?}",
        visits.len(),
        count(Visit::is_answered),
        count(|visit| visit.end == End::Hung),
        longest.took(),
        longest.end
    );
    longest
}
