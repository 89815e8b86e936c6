//! What goes wrong on three nodes, and how each fault is undone.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::cause::{Place, Repair, STATE, end, nothing, stop};
use super::plan::{Deck, Fault, Kind};
use super::record::Recorder;
use crate::cluster::{age, parent, project};
use crate::front::site::{Node, Site};
use crate::node::{DEB, make_version};

/// The kinds of faults of a run with HAProxy, or without it.
pub fn deck(has_haproxy: bool) -> Deck {
    let own = if has_haproxy { OF_HAPROXY } else { WITHOUT_HAPROXY };
    Deck {
        nodes: 3,
        calm: 5000,
        tail: 2000,
        step: (300, 4499),
        // The one that is over is undone within this time, also on a busy machine.
        apart: 1000,
        moves_apart: 1500,
        kinds: [KINDS, own].concat(),
    }
}

const OF_HAPROXY: &[Kind] = &[
    ("haproxy killed", "haproxy", 1, 0, 0),
    ("haproxy reloaded", "haproxy", 3, 0, 0),
    ("haproxy stopped", "haproxy", 1, 500, 5000),
];

const WITHOUT_HAPROXY: &[Kind] = &[("keepalived reloaded", "keepalived", 2, 0, 0)];

const KINDS: &[Kind] = &[
    ("move", "truth", 7, 0, 0),
    ("view frozen", "view", 2, 2000, 9000),
    ("view alone", "view", 1, 1500, 5000),
    ("view none", "view", 1, 1500, 6000),
    ("s9s hangs", "s9s", 2, 1500, 9000),
    ("s9s slow", "s9s", 3, 4000, 15000),
    ("s9s half", "s9s", 1, 1500, 6000),
    ("s9s refuses", "s9s", 1, 2000, 12000),
    ("cut nodes", "network", 1, 1500, 9000),
    ("cut users", "network", 1, 1500, 6000),
    ("cut both", "network", 1, 1500, 9000),
    ("cable", "network", 1, 1500, 9000),
    ("keepalived killed", "keepalived", 1, 1000, 6000),
    ("keepalived stopped", "keepalived", 1, 500, 6000),
    ("listener killed", "responder", 3, 0, 0),
    ("listener stopped", "responder", 1, 1000, 9000),
    ("check killed", "responder", 4, 0, 0),
    ("check stopped", "responder", 2, 500, 5000),
    ("frozen", "node", 1, 1000, 6000),
    ("run full", "files", 1, 3000, 12000),
    ("upgrade", "files", 2, 4000, 4000),
    ("maintenance", "maintenance", 1, 2000, 8000),
    ("clock", "clock", 2, 2000, 10000),
];

const OTHER_DEB: &str = "/opt/cmonhachk_9.0.0_$(dpkg --print-architecture).deb";

/// How s9s is run: it notes its start, in clock ticks since boot, and whether another one runs at that time. It
/// waits by itself, so that there is one process, as with the genuine client.
const S9S: &str = r#"#!/bin/bash
sim=/opt/cluster arguments=$*
exec 8<>$sim/never 9>>$sim/busy
flock --nonblock 9 && is=alone || is=beside
read -r stat </proc/$$/stat
set -- ${stat##*)}
read -r how <$sim/behaviour
echo "${20} $is $how" >>$sim/log
case $how in
hang) exec sleep 60 ;;
slow*) read -rt "${how#slow }" -u 8 ;;
esac
S9S_SIM=$sim sh /opt/s9s $arguments 9>&-
"#;

/// Services whose wall clock tests/sim/clock.c shifts.
const CLOCKED: [&str; 2] = ["cmonhachk-front", "keepalived"];

const PREPARE: &str = r"
    mount -o remount,size=48m /run
    mv /usr/local/bin/s9s /opt/s9s
    mkfifo -m 666 /opt/cluster/never
    printf '[Service]\nReadWritePaths=/opt/cluster\n' >/etc/systemd/system/cmonhachk.service.d/simulation.conf
    printf '[global]\ncmon_user = check\ncmon_password = 0\n' >/var/lib/cmonhachk/.s9s/s9s.conf
    chown cmonhachk /var/lib/cmonhachk/.s9s/s9s.conf; chmod 600 /var/lib/cmonhachk/.s9s/s9s.conf
    systemctl daemon-reload; systemctl stop cmonhachk.service
    # What fails in a namespace by itself.
    systemctl reset-failed";

pub fn prepare(node: &Node) {
    node.put("opt/cluster/behaviour", "list\n");
    make_clock(node);
    node.put("opt/cluster/half", HALF);
    for unit in CLOCKED {
        let folder = node.systemd.root().join(format!("etc/systemd/system/{unit}.service.d"));
        fs::create_dir(folder).unwrap();
        node.put(&format!("etc/systemd/system/{unit}.service.d/clock.conf"), CLOCK);
    }
    make_version(&node.systemd, "9.0.0", "deb");
    node.run(PREPARE);
    node.put("usr/local/bin/s9s", S9S);
    let program = node.systemd.root().join("usr/local/bin/s9s");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

const CLOCK: &str = "[Service]\nEnvironment=LD_PRELOAD=/opt/clock.so WALL_CLOCK=/opt/wall\n";

fn make_clock(node: &Node) {
    shift_clock(node, 0);
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(node.systemd.root().join("opt/clock.so"))
        .arg(project().join("tests/sim/clock.c"))
        .status();
    assert!(made.unwrap().success());
}

/// Sets the wall clock of HAProxy and keepalived. They have this file mapped, so it is written in place.
fn shift_clock(node: &Node, seconds: i64) {
    let mut how = fs::File::options();
    how.write(true).create(true).truncate(false);
    let file = how.open(node.systemd.root().join("opt/wall")).unwrap();
    file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
}

/// The list, cut in the leader's row.
const HALF: &str = "S VERSION    OWNER  GROUP  NAME       IP         PORT COMMENT\n\
    l 1.7.4.3565 system admins 10.0.0.101 10.0.0.101 9501 Acting as leader.\nf 1.7.4.3565 sys";

/// Three booted nodes, on which users reach the leader.
pub struct Nodes {
    pub site: Site,
    /// The two ends of each cut, by the last number of their addresses.
    cuts: Mutex<Vec<(usize, usize)>>,
}

impl Nodes {
    pub fn new(site: Site) -> Nodes {
        site.nodes.iter().for_each(prepare);
        Nodes {
            site,
            cuts: Mutex::default(),
        }
    }

    /// Does this to the node's link, and undoes it by that.
    fn link<'a>(&'a self, node: &'a Node, now: &str, then: &'a str) -> Repair<'a> {
        let ip = move |what: &str| self.site.network.ip(&format!("link set {} {what}", node.name));
        ip(now);
        Box::new(move || ip(then))
    }

    /// Cuts the node off. Each end has a wrong hardware address for the other one, so what it sends is lost, and
    /// nobody hears of it.
    fn cut(&self, node: usize, others: &'static [usize]) -> Repair<'_> {
        let own = 101 + node;
        for other in others.iter().filter(|other| **other != own) {
            self.cuts.lock().unwrap().push(pair(own, *other));
            self.connect(own, *other);
        }
        Box::new(move || {
            for other in others.iter().filter(|other| **other != own) {
                let mut cuts = self.cuts.lock().unwrap();
                let place = cuts.iter().position(|cut| *cut == pair(own, *other));
                cuts.swap_remove(place.unwrap());
                drop(cuts);
                self.connect(own, *other);
            }
        })
    }

    /// Cuts these two off from each other, or connects them, as `cuts` says.
    fn connect(&self, one: usize, other: usize) {
        let cuts = self.cuts.lock().unwrap();
        let verb = match cuts.contains(&pair(one, other)) {
            true => "replace nud permanent lladdr 02:00:00:00:00:99",
            false => "del",
        };
        for (at, to) in [(one, other), (other, one)] {
            if let Some(node) = self.site.nodes.get(at.wrapping_sub(101)) {
                node.run(&format!("ip neigh {verb} dev eth1 10.0.0.{to}"));
            }
        }
    }
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl Place for Nodes {
    fn nodes(&self) -> &[Node] {
        &self.site.nodes
    }

    fn cause<'a>(&'a self, fault: &'a Fault, _: &'a Recorder) -> Repair<'a> {
        let node = &self.site.nodes[fault.node];
        match fault.what {
            "s9s hangs" => behave(node, "hang"),
            "s9s slow" => behave(node, &format!("slow {}", fault.numbers[0] as f64 / 1000.)),
            "s9s half" => behave(node, "print /opt/cluster/half"),
            "s9s refuses" => refuse(node),
            "cut nodes" => self.cut(fault.node, &[101, 102, 103]),
            "cut users" => self.cut(fault.node, &[200]),
            // The link is up, and leads nowhere.
            "cut both" => self.link(node, "nomaster", "master switch"),
            "cable" => self.link(node, "down", "up"),
            "haproxy killed" => end(node.processes_of("cmonhachk-front")),
            "haproxy reloaded" => run(node, "systemctl reload cmonhachk-front"),
            "haproxy stopped" => stop(node.processes_of("cmonhachk-front")),
            "keepalived killed" => kill_keepalived(node),
            "keepalived reloaded" => run(node, "systemctl reload keepalived"),
            "keepalived stopped" => stop(node.processes_of("keepalived")),
            "listener killed" => end(listeners(node)),
            "listener stopped" => stop(listeners(node)),
            "check killed" => end(check(node)),
            "check stopped" => stop(check(node)),
            "frozen" => freeze(node),
            "run full" => fill(node),
            "upgrade" => upgrade(node, [DEB, OTHER_DEB][fault.numbers[0] as usize % 2]),
            "maintenance" => maintain(node),
            "clock" => set_clock(node, fault.offset()),
            what => unreachable!("{what}"),
        }
    }

    fn left(&self) -> Vec<(usize, String)> {
        let nodes = self.site.nodes.iter().enumerate();
        let left = nodes.flat_map(|(number, node)| left(node).into_iter().map(move |left| (number, left)));
        left.collect()
    }
}

fn behave<'a>(node: &'a Node, how: &str) -> Repair<'a> {
    node.behaves(how);
    Box::new(|| node.behaves("list"))
}

/// Other credentials end the back-off after a refused login.
fn refuse(node: &Node) -> Repair<'_> {
    node.behaves("wrong-password");
    Box::new(|| {
        node.behaves("list");
        node.run("sed -i 's/cmon_password = .*/&0/' /var/lib/cmonhachk/.s9s/s9s.conf");
    })
}

fn run(node: &Node, command: &str) -> Repair<'static> {
    node.run(command);
    nothing()
}

fn kill_keepalived(node: &Node) -> Repair<'_> {
    let _ = end(node.processes_of("keepalived"));
    Box::new(|| drop(node.run("systemctl reset-failed keepalived; systemctl start keepalived")))
}

fn freeze(node: &Node) -> Repair<'_> {
    node.freeze(true);
    Box::new(|| node.freeze(false))
}

fn fill(node: &Node) -> Repair<'_> {
    node.run("cat /dev/zero >/run/fill");
    Box::new(|| fs::remove_file(node.systemd.root().join("run/fill")).unwrap())
}

fn upgrade(node: &Node, deb: &str) -> Repair<'static> {
    let said = node.run(&format!("dpkg --install {deb} 2>&1; echo $?"));
    assert!(said.ends_with("\n0\n"), "{said}");
    nothing()
}

fn maintain(node: &Node) -> Repair<'_> {
    let file = node.systemd.root().join("run/cmonhachk.maintenance");
    fs::write(&file, "").unwrap();
    Box::new(|| fs::remove_file(file).unwrap())
}

fn set_clock(node: &Node, offset: i64) -> Repair<'_> {
    shift_clock(node, offset);
    Box::new(|| shift_clock(node, 0))
}

/// The processes of the service whose parent is systemd: checks that have lost theirs, too.
fn listeners(node: &Node) -> Vec<Pid> {
    let systemd = node.systemd.first_process().unwrap().parse().ok();
    let mut pids = node.processes_of("cmonhachk");
    pids.retain(|pid| parent(pid.as_raw().cast_unsigned()) == systemd);
    pids
}

/// A check that has run s9s for a while, if there is one soon, or else any that runs it. None, if there is none in
/// four seconds.
fn check(node: &Node) -> Vec<Pid> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let least = match start.elapsed() < Duration::from_secs(2) {
            true => Duration::from_millis(850),
            false => Duration::ZERO,
        };
        let is_old = |s9s: &String| age(s9s.parse().unwrap()).is_some_and(|age| age >= least);
        let runs_s9s = |check: &String| children(check).iter().any(is_old);
        let mut checks = listeners(node)
            .into_iter()
            .flat_map(|listener| children(&listener.to_string()));
        if let Some(check) = checks.find(runs_s9s) {
            return vec![Pid::from_raw(check.parse().unwrap())];
        }
        thread::sleep(Duration::from_micros(500));
    }
    Vec::new()
}

fn children(pid: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_string).collect()
}

/// What should not be on a node after the end.
fn left(node: &Node) -> Vec<String> {
    let mut left: Vec<String> = node
        // Other units fail, too, where many systems on one machine use up its inotify instances.
        .run("systemctl list-units --failed --no-legend --plain 'cmonhachk*' 'haproxy*' 'keepalived*' 'xinetd*'")
        .lines()
        .map(str::to_string)
        .collect();
    let files = node.run("ls -A /run/cmonhachk");
    let is_known = |file: &&str| STATE.contains(file);
    left.extend(
        files
            .lines()
            .filter(|file| !is_known(file))
            .map(|file| format!("/run/cmonhachk/{file}")),
    );
    // Checks come all the time, and each is gone soon.
    let old = "ps -o pid=,etimes=,args= -u cmonhachk | awk '$2 > 5' | grep -v '/usr/sbin/cmonhachk$'";
    left.extend(node.run(old).lines().map(str::to_string));
    let listeners = node.run("pgrep --exact --parent 1 cmonhachk | wc -l");
    if listeners.trim() != "1" {
        left.push(format!("{} listeners", listeners.trim()));
    }
    left
}

/// Notes the runs of s9s on a node.
pub fn logins(recorder: &Recorder, number: usize, node: &Node) {
    let log = fs::read_to_string(node.systemd.root().join("opt/cluster/log")).unwrap();
    for line in log.lines() {
        let (ticks, text) = line.split_once(' ').unwrap();
        let at = ticks.parse::<u64>().unwrap() * 10;
        if let Some(at) = recorder.at(at) {
            recorder.add((at, at), "login", Some(number), text);
        }
    }
}
