//! Every row of the table "How long a failover takes" in deploy/README.md, on three booted nodes with the packages.
//!
//! Once with HAProxy, and once without it, where the address is on the leader.
//!
//! `CMONHACHK_ROWS` (see `scale`) is the number of runs of each row, and `CMONHACHK_ROW` a part of the names of the
//! rows to run. The figures are printed and not judged. What must always hold is: users get to the leader in the
//! end, and a minute later HAProxy has no connection open to a node that is dead.
//!
//! It is for the night, because other tests judge each of these faults: the history, failover.rs here and in the
//! suite, and for connections to a dead node front.rs.

mod faults;
mod figures;

use std::env;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use faults::{Place, ROWS, Row, Scene, Target, mend};
use figures::{Figures, Left};

use crate::cluster::{AtEnd, wait_until};
use crate::front::site::{NAMES, Node, SITE, Site, VIRTUAL};
use crate::front::users::{stay, users_during};
use crate::pauses::Pauses;
use crate::scale::amount;
use crate::versions::Versions;

/// The time between two users.
const USERS: Duration = Duration::from_millis(20);
/// How long users come before the fault.
const BEFORE: Duration = Duration::from_millis(300);
/// When all users have been on the right node for so long, nothing more is to come.
const SETTLED: Duration = Duration::from_secs(2);
/// How long a user who stays may take to notice that the session is over. If the address has moved without a word,
/// the next retransmission tells, and each one waits twice as long as the one before.
const NOTICE: Duration = Duration::from_secs(15);
/// How long a connection to a dead node may stay open.
const LEFT_OPEN: Duration = Duration::from_secs(60);

mod nightly {
    use super::*;

    #[test]
    fn after_every_fault_of_the_table_users_reach_the_leader_and_nothing_stays_open_to_a_dead_node() {
        let site = Site::boot(&Versions::usual());
        for node in &site.nodes {
            use_the_deployed_time_limit(node);
            node.succeeds(SITE);
        }
        run_all(&site);
    }

    #[test]
    fn without_haproxy_users_reach_the_leader_after_every_fault_of_the_table() {
        let site = Site::without_haproxy(&Versions::usual());
        site.nodes.iter().for_each(use_the_deployed_time_limit);
        run_all(&site);
    }
}

fn run_all(site: &Site) {
    println!("{}", versions(&site.nodes[0]));
    let pauses = Pauses::watch();
    let (count, chosen) = (
        amount("CMONHACHK_ROWS", 1, 12),
        env::var("CMONHACHK_ROW").unwrap_or_default(),
    );
    let (mut table, mut stayed) = (vec![figures::TITLES.to_string()], Vec::new());
    let is_to_run = |row: &&Row| row.name.contains(&chosen) && (site.has_haproxy() || makes_sense_without_haproxy(row));
    for row in ROWS.iter().filter(is_to_run) {
        let runs = runs_of(row, count, site, &pauses);
        // In the moment of a move, HAProxy 3.0.11 may keep a connection: deploy/README.md.
        let is_dead = row.name.contains("machine");
        let bad = runs.iter().filter(|run| is_dead && run.stay_open());
        stayed.extend(bad.map(|run| format!("{}: {}", row.name, run.in_words())));
        table.push(figures::in_words(row.name, &runs));
    }
    println!("{}", table.join("\n"));
    assert_eq!(stayed, [""; 0], "connections are open to a dead node after a minute");
}

/// Without HAProxy, the leader has the address, so it does not matter who does.
fn makes_sense_without_haproxy(row: &Row) -> bool {
    let others = ["HAProxy", "and it has the address", "the node with the address dies"];
    !others.iter().any(|other| row.name.contains(other))
}

/// Nodes are booted with a longer one, for tests that do not measure.
fn use_the_deployed_time_limit(node: &Node) {
    node.run(
        "sed -i 's/ CMONHACHK_TIMEOUT=15//' /etc/systemd/system/cmonhachk.service.d/*.conf
         systemctl daemon-reload; systemctl stop cmonhachk.service",
    );
}

fn versions(node: &Node) -> String {
    let start = Instant::now();
    node.run("S9S_SIM=/opt/cluster s9s controller --list --long");
    let run = start.elapsed();
    let names = node.run("haproxy -v | sed 1q; keepalived --version 2>&1 | sed 1q");
    format!("{names}R is less than {run:.0?}")
}

/// As many runs as are wanted during which the machine did not pause; if there are none at all, disturbed ones.
fn runs_of(row: &Row, count: usize, site: &Site, pauses: &Pauses) -> Vec<Figures> {
    let (mut runs, mut disturbed) = (Vec::new(), Vec::new());
    for number in 0..count + 6 {
        let figures = run(row, number, site, pauses);
        println!("{}: {}", row.name, figures.in_words());
        let kind = if figures.paused.is_zero() {
            &mut runs
        } else {
            &mut disturbed
        };
        kind.push(figures);
        if runs.len() == count {
            break;
        }
    }
    if runs.is_empty() { disturbed } else { runs }
}

/// Names who has the address, who leads, and who leads afterwards.
fn parts(row: &Row, number: usize, site: &Site) -> [&'static str; 3] {
    let holder = site.holders(VIRTUAL)[0];
    let mut others: Vec<&str> = NAMES.into_iter().filter(|name| *name != holder).collect();
    // Each of the two in turn.
    others.rotate_left(number % 2);
    match row.place {
        Place::Elsewhere if site.has_haproxy() => [holder, others[0], others[1]],
        Place::OnLeader | Place::Elsewhere => [holder, holder, others[0]],
    }
}

fn run(row: &Row, number: usize, site: &Site, pauses: &Pauses) -> Figures {
    let [holder, old, new] = parts(row, number, site).map(|name| site.node(name));
    let scene = Scene { site, holder, old, new };
    site.nodes.iter().for_each(|node| node.hears(old.name));
    wait_until("all is well", || is_well(site, old));
    // Each time at another moment of the second between two checks, and of the time between two users.
    let before = BEFORE + Duration::from_millis(number as u64 * 7 % 20);
    thread::sleep(Duration::from_millis(1000 + number as u64 * 370 % 1000));

    let target = match row.target {
        Target::OldLeader => old,
        Target::NewLeader => new,
    };
    let (session, name) = site.visit(VIRTUAL, site.port).expect("a user gets to the leader");
    assert_eq!(name, old.name);
    let over = AtomicBool::new(false);
    let (visits, cut, [begun, ended], counts) = thread::scope(|scope| {
        let end = AtEnd(&over);
        let session = scope.spawn(|| stay(session, &over));
        let (visits, (begun, counts)) = users_during(site, USERS, |visits| {
            thread::sleep(before);
            let begun = Instant::now();
            let counts = (row.fault)(&scene);
            // Without HAProxy, users may have been on this node while nobody led.
            let since = counts.unwrap_or(begun);
            wait_until("users are on the leader", || {
                since.elapsed() > SETTLED && visits.are_all_on(target.name, SETTLED)
            });
            (begun, counts)
        });
        let ended = Instant::now();
        while !session.is_finished() && begun.elapsed() < NOTICE {
            thread::sleep(Duration::from_millis(20));
        }
        drop(end);
        (visits, session.join().unwrap(), [begun, ended], counts)
    });
    let address_moved = site.holders(VIRTUAL) != [holder.name];
    let figures = Figures {
        cut: cut.map(|cut| cut.saturating_duration_since(begun)),
        left: (site.has_haproxy() && row.target == Target::NewLeader).then(|| left_open(&scene, begun)),
        address_moved,
        paused: pauses.between(begun, ended),
        ..Figures::of(&visits, begun, counts, target.name)
    };
    mend(site, target);
    wait_until("all is well again", || is_well(site, target));
    figures
}

/// Whether users get to this leader from every node, and each node could have the address.
fn is_well(site: &Site, leader: &Node) -> bool {
    let serves = |node: &Node| match site.has_haproxy() {
        true => {
            let services = "systemctl is-active cmonhachk.socket cmonhachk-front keepalived | uniq";
            up(node) == [leader.name] && node.run(services) == "active\n"
        }
        false => node.run("systemctl is-active cmonhachk.socket keepalived | uniq") == "active\n",
    };
    site.nodes.iter().all(serves)
        && site.holders(VIRTUAL).len() == 1
        && site.user_gets(VIRTUAL).as_deref() == Some(leader.name)
}

/// The nodes that HAProxy there counts as up.
fn up(node: &Node) -> Vec<String> {
    let table = node.admin("show stat");
    let servers = table.lines().filter_map(|line| line.strip_prefix("role,node"));
    let up = servers.filter(|line| line.contains(",UP,"));
    up.map(|line| format!("node{}", &line[..1])).collect()
}

/// Looks for connections to the old leader on the other nodes, until there are none.
fn left_open(scene: &Scene<'_>, begun: Instant) -> Left {
    let server = format!(" srv={} ", scene.old.name);
    let others = scene.site.nodes.iter().filter(|node| node.name != scene.old.name);
    let count = || {
        let connections = others.clone().flat_map(Node::connections);
        connections.filter(|line| line.contains(&server)).count()
    };
    let mut left = Left {
        at_first: count(),
        in_the_end: 0,
    };
    loop {
        left.in_the_end = count();
        if left.in_the_end == 0 {
            return left;
        }
        if begun.elapsed() > LEFT_OPEN {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    // Nothing else gets rid of them, and the next run must not find them.
    others.for_each(|node| drop(node.run("systemctl restart cmonhachk-front")));
    left
}
