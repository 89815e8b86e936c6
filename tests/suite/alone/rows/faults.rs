//! The rows of the table: what fails, and how it is mended.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::parent;
use crate::front::site::{Node, Site};

/// Where the address is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the leader.
    OnLeader,
    /// On a node that neither leads nor will lead.
    Elsewhere,
}

/// Where users are in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    OldLeader,
    NewLeader,
}

/// Who plays which part in a run.
pub struct Scene<'a> {
    pub site: &'a Site,
    pub holder: &'a Node,
    pub old: &'a Node,
    pub new: &'a Node,
}

pub struct Row {
    pub name: &'static str,
    pub place: Place,
    pub target: Target,
    /// Causes it. Returns the moment from which on users should soon be on the leader; or nothing, if what counts
    /// is the longest time without an answer.
    pub fault: fn(&Scene<'_>) -> Option<Instant>,
}

const fn row(name: &'static str, place: Place, target: Target, fault: fn(&Scene<'_>) -> Option<Instant>) -> Row {
    Row {
        name,
        place,
        target,
        fault,
    }
}

pub const ROWS: [Row; 16] = {
    use Place::*;
    use Target::*;
    [
        row("the leadership moves", Elsewhere, NewLeader, moves),
        row("the leader's controller dies", Elsewhere, NewLeader, controller_dies),
        row(
            "the leader's controller freezes",
            Elsewhere,
            NewLeader,
            controller_freezes,
        ),
        row("the old leader's list lags 1.5 s", Elsewhere, NewLeader, lags),
        row("the leader's machine dies", Elsewhere, NewLeader, machine_dies),
        row(
            "the leader's machine dies, and it has the address",
            OnLeader,
            NewLeader,
            machine_dies,
        ),
        row(
            "the leader's machine stands still",
            Elsewhere,
            NewLeader,
            machine_stands_still,
        ),
        row("the leader's UI stops for 5 s", Elsewhere, OldLeader, ui_stops),
        row("HAProxy's worker is killed", Elsewhere, OldLeader, worker_is_killed),
        row("HAProxy's master is killed", Elsewhere, OldLeader, master_is_killed),
        row(
            "HAProxy is killed with what its unit runs",
            Elsewhere,
            OldLeader,
            unit_is_killed,
        ),
        row("HAProxy is stopped", Elsewhere, OldLeader, haproxy_is_stopped),
        row("the node with the address dies", Elsewhere, OldLeader, holder_dies),
        row("keepalived is restarted", Elsewhere, OldLeader, keepalived_is_restarted),
        row("another node boots", Elsewhere, OldLeader, another_boots),
        row("nobody leads for 5 s", Elsewhere, NewLeader, nobody_leads),
    ]
};

/// Longer than HAProxy needs to notice, and longer than it holds a user.
const WHILE: Duration = Duration::from_secs(5);

impl Scene<'_> {
    /// The others have elected the new leader.
    fn elect(&self) {
        let others = self.site.nodes.iter().filter(|node| node.name != self.old.name);
        others.for_each(|node| node.hears(self.new.name));
    }
}

fn moves(scene: &Scene<'_>) -> Option<Instant> {
    let at = Instant::now();
    scene.old.hears(scene.new.name);
    scene.elect();
    Some(at)
}

fn controller_dies(scene: &Scene<'_>) -> Option<Instant> {
    let at = Instant::now();
    scene.old.behaves("connection-refused");
    scene.elect();
    Some(at)
}

fn controller_freezes(scene: &Scene<'_>) -> Option<Instant> {
    let at = Instant::now();
    scene.old.behaves("hang");
    scene.elect();
    Some(at)
}

fn lags(scene: &Scene<'_>) -> Option<Instant> {
    let at = Instant::now();
    scene.elect();
    thread::sleep(Duration::from_millis(1500));
    scene.old.hears(scene.new.name);
    Some(at)
}

fn machine_dies(scene: &Scene<'_>) -> Option<Instant> {
    let at = Instant::now();
    scene.site.network.ip(&format!("link set {} down", scene.old.name));
    scene.elect();
    Some(at)
}

/// Its kernel still accepts connections, until so many wait that the UI's queue is full.
fn machine_stands_still(scene: &Scene<'_>) -> Option<Instant> {
    let at = Instant::now();
    scene.old.freezes_ui(true);
    scene.old.freeze(true);
    scene.elect();
    Some(at)
}

fn ui_stops(scene: &Scene<'_>) -> Option<Instant> {
    scene.old.stops_ui();
    thread::sleep(WHILE);
    let at = Instant::now();
    scene.old.starts_ui();
    Some(at)
}

fn worker_is_killed(scene: &Scene<'_>) -> Option<Instant> {
    signal_haproxy(scene.holder, |is_master| !is_master);
    None
}

fn master_is_killed(scene: &Scene<'_>) -> Option<Instant> {
    signal_haproxy(scene.holder, |is_master| is_master);
    None
}

/// Kills those of HAProxy's processes that are chosen by whether they are the master.
fn signal_haproxy(node: &Node, is_chosen: impl Fn(bool) -> bool) {
    let systemd = node.systemd.first_process().unwrap().parse().ok();
    let is_master = |pid: &Pid| parent(pid.as_raw().cast_unsigned()) == systemd;
    let mut pids = node.processes_of("cmonhachk-front");
    pids.retain(|pid| is_chosen(is_master(pid)));
    assert!(!pids.is_empty(), "HAProxy runs on {}", node.name);
    pids.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
}

fn unit_is_killed(scene: &Scene<'_>) -> Option<Instant> {
    scene.holder.run("systemctl kill --signal KILL cmonhachk-front");
    None
}

fn haproxy_is_stopped(scene: &Scene<'_>) -> Option<Instant> {
    scene.holder.run("systemctl stop cmonhachk-front");
    None
}

fn holder_dies(scene: &Scene<'_>) -> Option<Instant> {
    scene.site.network.ip(&format!("link set {} down", scene.holder.name));
    None
}

fn keepalived_is_restarted(scene: &Scene<'_>) -> Option<Instant> {
    scene.holder.run("systemctl restart keepalived");
    None
}

/// As far as others notice: its services end, and start.
fn another_boots(scene: &Scene<'_>) -> Option<Instant> {
    let services = "cmonhachk.socket cmonhachk.service keepalived";
    scene.new.run(&format!("systemctl stop {services}"));
    thread::sleep(WHILE);
    scene.new.run("systemctl start cmonhachk.socket keepalived");
    None
}

fn nobody_leads(scene: &Scene<'_>) -> Option<Instant> {
    scene.site.nodes.iter().for_each(|node| node.hears("nobody"));
    thread::sleep(WHILE);
    let at = Instant::now();
    scene.site.nodes.iter().for_each(|node| node.hears(scene.new.name));
    Some(at)
}

/// keepalived asks each second, and a question that is unclear takes 1.1 s more.
const ASKS_AGAIN: Duration = Duration::from_millis(2500);

/// Undoes all faults, and makes this node the leader.
pub fn mend(site: &Site, leader: &Node) {
    for node in &site.nodes {
        node.freeze(false);
        node.freezes_ui(false);
        node.starts_ui();
        node.behaves("list");
        node.hears(leader.name);
    }
    // Without HAProxy, a node that was cut off as the leader would take the address back, until keepalived has asked.
    if !site.has_haproxy() {
        thread::sleep(ASKS_AGAIN);
    }
    for node in &site.nodes {
        site.network.ip(&format!("link set {} up", node.name));
        node.run("systemctl start cmonhachk-front keepalived");
    }
}
