//! Causes the faults of a plan, and notes when each was on.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Recorder, since_boot};
use crate::cluster::{controllers, parent, project};
use crate::front::site::{Node, Site};
use crate::history::NAMES;
use crate::history::plan::{FIRST, Fault};
use crate::node::{DEB, make_version};

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

/// What the nodes' lists say.
struct Views<'a> {
    site: &'a Site,
    recorder: &'a Recorder,
    truth: (usize, u64),
    /// What the node says, since when, and how many faults keep it so.
    shown: [(Option<usize>, u64, usize); 3],
}

impl Views<'_> {
    fn show(&mut self, node: usize, leader: Option<usize>) {
        let list = controllers(&leader.map_or("nobody".into(), |leader| format!("10.0.0.{}", 101 + leader)));
        let before = self.recorder.now();
        self.site.nodes[node].put("opt/cluster/controllers", &list);
        // A node leads from the first moment on at which its list may say so, until the last one.
        let at = if leader == Some(node) {
            before
        } else {
            self.recorder.now()
        };
        let (old, since, held) = self.shown[node];
        self.note(node, old, (since, at));
        self.shown[node] = (leader, at, held);
    }

    fn note(&self, node: usize, leader: Option<usize>, span: (u64, u64)) {
        self.recorder
            .add(span, "view", Some(node), leader.map_or("none", |leader| NAMES[leader]));
    }
}

/// Causes the faults, and returns when all are over.
pub fn cause(faults: &[Fault], site: &Site, recorder: &Recorder) {
    let now = recorder.now();
    let views = Mutex::new(Views {
        site,
        recorder,
        truth: (FIRST, now),
        shown: [(Some(FIRST), now, 0); 3],
    });
    let begun = Instant::now();
    let until = |at: u64| thread::sleep(Duration::from_millis(at).saturating_sub(begun.elapsed()));
    let cuts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for fault in faults {
            let (views, cuts, until) = (&views, &cuts, &until);
            scope.spawn(move || {
                until(fault.span.0);
                if fault.what == "move" {
                    return moves(fault, views, recorder, until);
                }
                let node = Faulty {
                    node: &site.nodes[fault.node],
                    fault,
                };
                let from = recorder.now();
                let pids = node.begin(views, cuts, site);
                until(fault.span.1);
                let before = recorder.now();
                node.end(views, cuts, site, &pids);
                // The node can answer as before from the first moment of the repair on.
                let is_told = ["s9s", "maintenance"].iter().any(|what| fault.what.starts_with(what));
                let to = if is_told { before } else { recorder.now() };
                recorder.add((from, to), "fault", Some(fault.node), &fault.text());
            });
        }
    });
    let views = views.into_inner().unwrap();
    // Until the run is over.
    let end = u64::MAX;
    for (node, (leader, since, _)) in views.shown.into_iter().enumerate() {
        views.note(node, leader, (since, end));
    }
    recorder.add((views.truth.1, end), "truth", Some(views.truth.0), "");
}

fn moves(fault: &Fault, views: &Mutex<Views<'_>>, recorder: &Recorder, until: &impl Fn(u64)) {
    let at = recorder.now();
    let mut now = views.lock().unwrap();
    let (old, since) = std::mem::replace(&mut now.truth, (fault.node, at));
    drop(now);
    recorder.add((since, at), "truth", Some(old), "");
    recorder.add((at, at), "fault", Some(fault.node), &fault.text());
    let mut order = [0, 1, 2];
    order.sort_by_key(|node| fault.numbers[*node]);
    for node in order {
        until(fault.span.0 + fault.numbers[node]);
        let mut views = views.lock().unwrap();
        // A later move may have overtaken this one.
        if views.shown[node].2 == 0 {
            let leader = views.truth.0;
            views.show(node, Some(leader));
        }
    }
}

/// The two ends of each cut, by the last number of their addresses.
type Cuts = Mutex<Vec<(usize, usize)>>;

struct Faulty<'a> {
    node: &'a Node,
    fault: &'a Fault,
}

impl Faulty<'_> {
    /// Returns the processes that stand still.
    fn begin(&self, views: &Mutex<Views<'_>>, cuts: &Cuts, site: &Site) -> Vec<Pid> {
        let (node, number, root) = (self.node, self.fault.node, self.node.systemd.root());
        match self.fault.what {
            "view frozen" | "view alone" | "view none" => {
                let mut views = views.lock().unwrap();
                views.shown[number].2 += 1;
                match self.fault.what {
                    "view alone" => views.show(number, Some(number)),
                    "view none" => views.show(number, None),
                    _ => {}
                }
            }
            "s9s hangs" => node.behaves("hang"),
            "s9s slow" => node.put("opt/cluster/behaviour", &self.slow()),
            "s9s half" => node.behaves("print /opt/cluster/half"),
            "s9s refuses" => node.behaves("wrong-password"),
            "cut nodes" | "cut users" => self.cut(cuts, site, true),
            // The link is up, and leads nowhere.
            "cut both" => site.network.ip(&format!("link set {} nomaster", node.name)),
            "cable" => site.network.ip(&format!("link set {} down", node.name)),
            "haproxy killed" => drop(signal(self.node.processes_of("cmonhachk-front"), Signal::SIGKILL)),
            "haproxy reloaded" => drop(node.run("systemctl reload cmonhachk-front")),
            "haproxy stopped" => return signal(self.node.processes_of("cmonhachk-front"), Signal::SIGSTOP),
            "keepalived killed" => drop(signal(self.node.processes_of("keepalived"), Signal::SIGKILL)),
            "keepalived stopped" => return signal(self.node.processes_of("keepalived"), Signal::SIGSTOP),
            "listener killed" => drop(signal(self.listener(), Signal::SIGKILL)),
            "listener stopped" => return signal(self.listener(), Signal::SIGSTOP),
            "check killed" => drop(self.signal_check(Signal::SIGKILL)),
            "check stopped" => return self.signal_check(Signal::SIGSTOP),
            "frozen" => self.node.freeze(true),
            "run full" => drop(node.run("cat /dev/zero >/run/fill")),
            "upgrade" => {
                let deb = [DEB, OTHER_DEB][self.fault.numbers[0] as usize % 2];
                let said = node.run(&format!("dpkg --install {deb} 2>&1; echo $?"));
                assert!(said.ends_with("\n0\n"), "{said}");
            }
            "maintenance" => fs::write(root.join("run/cmonhachk.maintenance"), "").unwrap(),
            "clock" => shift_clock(node, self.fault.offset()),
            what => unreachable!("{what}"),
        }
        Vec::new()
    }

    fn end(&self, views: &Mutex<Views<'_>>, cuts: &Cuts, site: &Site, stopped: &[Pid]) {
        let (node, number, root) = (self.node, self.fault.node, self.node.systemd.root());
        for pid in stopped {
            // Another fault may have killed it.
            let _ = kill(*pid, Signal::SIGCONT);
        }
        match self.fault.what {
            what if what.starts_with("view") => {
                let mut views = views.lock().unwrap();
                views.shown[number].2 -= 1;
                if views.shown[number].2 == 0 {
                    let leader = views.truth.0;
                    views.show(number, Some(leader));
                }
            }
            "s9s refuses" => {
                node.put("opt/cluster/behaviour", "list\n");
                // Other credentials end the pause after a refused login, as deploy/README.md says.
                node.run("sed -i 's/cmon_password = .*/&0/' /var/lib/cmonhachk/.s9s/s9s.conf");
            }
            // Unless another fault has made it slow in another way.
            "s9s slow" if fs::read_to_string(root.join("opt/cluster/behaviour")).unwrap() != self.slow() => {}
            what if what.starts_with("s9s") => node.put("opt/cluster/behaviour", "list\n"),
            "cut nodes" | "cut users" => self.cut(cuts, site, false),
            "cut both" => site.network.ip(&format!("link set {} master switch", node.name)),
            "cable" => site.network.ip(&format!("link set {} up", node.name)),
            "keepalived killed" => drop(node.run("systemctl reset-failed keepalived; systemctl start keepalived")),
            "frozen" => self.node.freeze(false),
            "run full" => fs::remove_file(root.join("run/fill")).unwrap(),
            "maintenance" => fs::remove_file(root.join("run/cmonhachk.maintenance")).unwrap(),
            "clock" => shift_clock(node, 0),
            _ => {}
        }
    }

    fn slow(&self) -> String {
        format!("slow {}\n", self.fault.numbers[0] as f64 / 1000.)
    }

    /// The processes of the service whose parent is systemd: checks that have lost theirs, too.
    fn listener(&self) -> Vec<Pid> {
        let systemd = self.node.systemd.first_process().unwrap().parse().ok();
        let mut pids = self.node.processes_of("cmonhachk");
        pids.retain(|pid| parent(pid.as_raw().cast_unsigned()) == systemd);
        pids
    }

    /// A check that has run s9s for a while, if there is one soon, or else any that runs it.
    fn signal_check(&self, what: Signal) -> Vec<Pid> {
        let children = |pid: &str| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let is_old = |s9s: &str| {
            let stat = fs::read_to_string(format!("/proc/{s9s}/stat")).unwrap_or_default();
            // proc(5): the 20th word behind the program's name is the start in clock ticks.
            let ticks = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok());
            ticks.is_some_and(|ticks: u64| since_boot() > ticks * 10 + 850)
        };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            let any = start.elapsed() > Duration::from_secs(2);
            for listener in self.listener() {
                let checks = children(&listener.to_string());
                let runs = |check: &&str| children(check).split_whitespace().any(|s9s| any || is_old(s9s));
                let check = checks.split_whitespace().find(runs);
                if let Some(check) = check.map(|check| Pid::from_raw(check.parse().unwrap()))
                    && kill(check, what).is_ok()
                {
                    return vec![check];
                }
            }
            thread::sleep(Duration::from_micros(500));
        }
        Vec::new()
    }

    /// Cuts the node off, or connects it: each end has a wrong hardware address for the other one, so what it
    /// sends is lost, and nobody is told.
    fn cut(&self, cuts: &Cuts, site: &Site, on: bool) {
        let own = 101 + self.fault.node;
        let others: Vec<usize> = match self.fault.what {
            "cut nodes" => (101..=103).collect(),
            _ => vec![200],
        };
        let mut cuts = cuts.lock().unwrap();
        for other in others.into_iter().filter(|other| *other != own) {
            let pair = (own.min(other), own.max(other));
            if on {
                cuts.push(pair);
            } else if let Some(place) = cuts.iter().position(|cut| *cut == pair) {
                cuts.swap_remove(place);
            }
            for (at, to) in [(own, other), (other, own)] {
                let verb = if on || cuts.contains(&pair) {
                    "replace nud permanent lladdr 02:00:00:00:00:99"
                } else {
                    "del"
                };
                if let Some(node) = site.nodes.get(at.wrapping_sub(101)) {
                    node.run(&format!("ip neigh {verb} dev eth1 10.0.0.{to}"));
                }
            }
        }
    }
}

fn signal(pids: Vec<Pid>, what: Signal) -> Vec<Pid> {
    pids.iter().for_each(|pid| _ = kill(*pid, what));
    pids
}

/// Notes the runs of s9s on a node.
pub fn logins(recorder: &Recorder, number: usize, node: &Node) {
    let log = fs::read_to_string(node.systemd.root().join("opt/cluster/log")).unwrap();
    for line in log.lines() {
        let (ticks, text) = line.split_once(' ').unwrap();
        let at = ticks.parse::<u64>().unwrap() * 10;
        if let Some(at) = at.checked_sub(recorder.start) {
            recorder.add((at, at), "login", Some(number), text);
        }
    }
}
