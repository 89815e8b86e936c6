//! The machine that suffers, and what goes wrong on it.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::slice;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::xinetd::{MANY, Xinetd, descriptors};
use crate::cluster::PATIENCE;
use crate::front::site::Node;
use crate::history::cause::{Place, Repair, STATE, end, nothing, stop};
use crate::history::plan::{Deck, Fault, Kind};
use crate::history::record::Recorder;
use crate::rng::Rng;
use crate::versions::Versions;

pub fn deck() -> Deck {
    Deck {
        nodes: 1,
        calm: 1000,
        tail: 0,
        step: (0, 60),
        apart: 0,
        // An old verdict has the time to show.
        moves_apart: 2500,
        kinds: KINDS.to_vec(),
    }
}

const KINDS: &[Kind] = &[
    ("move", "truth", 1, 0, 0),
    ("s9s slow", "s9s", 4, 30, 200),
    ("s9s: stray", "s9s", 1, 30, 200),
    ("s9s: orphan", "s9s", 1, 30, 200),
    ("s9s: flaky 3", "s9s", 1, 30, 200),
    ("s9s: colour", "s9s", 1, 30, 200),
    ("s9s fails: hang", "s9s", 1, 30, 200),
    ("s9s fails: stubborn", "s9s", 1, 30, 200),
    ("s9s fails: crash", "s9s", 1, 30, 200),
    ("s9s fails: flood", "s9s", 1, 30, 200),
    ("s9s fails: flood-errors", "s9s", 1, 30, 200),
    ("s9s fails: fail 5 Connection refused.", "s9s", 1, 30, 200),
    ("s9s fails: print /opt/cluster/garbage", "s9s", 1, 30, 200),
    ("s9s missing", "program", 3, 30, 300),
    ("s9s missing: a text", "program", 3, 30, 300),
    ("s9s killed", "runs", 10, 0, 0),
    ("checks killed", "checks", 18, 0, 0),
    // Longer than a check may last on this machine.
    ("checks stopped", "stops", 1, 5500, 6500),
    ("xinetd restarted", "xinetd", 2, 0, 0),
    ("xinetd reloaded", "xinetd", 2, 0, 0),
    ("few instances", "xinetd", 1, 200, 1000),
    ("few descriptors", "descriptors", 3, 50, 500),
    ("few processes", "processes", 3, 50, 500),
    ("disk read-only", "disk", 2, 50, 300),
    ("disk full", "disk", 2, 50, 300),
];

/// All files that may be in the simulated cluster's folder at the end.
const CLUSTER: [&str; 6] = [
    "behaviour",
    "controllers",
    "garbage",
    "runs",
    "service.log",
    "xinetd.log",
];

/// xinetd instead of systemd, and a small disk of the check's own for its state.
const PREPARE: &str = "
    systemctl stop cmonhachk.socket cmonhachk.service
    mv /usr/local/bin/s9s /opt/s9s
    ln -s /opt/s9s /usr/local/bin/s9s
    rm -f /run/cmonhachk/*
    mount -t tmpfs -o size=64k,mode=700,uid=$(id -u cmonhachk),gid=$(id -g cmonhachk) tmpfs /run/cmonhachk";

pub struct Machine {
    node: Node,
    xinetd: Mutex<Xinetd>,
    /// The clients whose checks were killed, and those whose checks stood still.
    pub killed: Mutex<BTreeSet<Ipv4Addr>>,
    pub stopped: Mutex<BTreeSet<Ipv4Addr>>,
}

impl Machine {
    pub fn boot() -> Machine {
        let node = Node::boot_alone(&Versions::usual());
        node.run(PREPARE);
        Xinetd::install(&node);
        fs::write(node.systemd.root().join("opt/cluster/garbage"), Rng(1).bytes(5000)).unwrap();
        Machine {
            xinetd: Mutex::new(Xinetd::start(&node, MANY)),
            node,
            killed: Mutex::default(),
            stopped: Mutex::default(),
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The processes of checks, with their clients: the checks themselves, or what they have started.
    fn processes(&self, are_checks: bool) -> Vec<(Pid, Ipv4Addr)> {
        let all = self.node.processes_of("xinetd").into_iter();
        // A child of xinetd has a client when it has become a check.
        let with_client = all.filter_map(|pid| Some((pid, client_of(pid)?)));
        with_client.filter(|(pid, _)| is_check(*pid) == are_checks).collect()
    }

    pub fn has_checks(&self) -> bool {
        !self.processes(true).is_empty()
    }

    fn behave(&self, how: &str) -> Repair<'_> {
        self.node.behaves(how);
        Box::new(|| self.node.behaves("list"))
    }

    /// Puts nothing, or a file that cannot be executed, in the place of s9s.
    fn lose_s9s(&self, instead: &str) -> Repair<'_> {
        self.node.run(&format!("rm /usr/local/bin/s9s; {instead}"));
        Box::new(|| drop(self.node.run("ln -sf /opt/s9s /usr/local/bin/s9s")))
    }

    /// Some processes of checks, with their clients. It spares what a killed check has left, because that must end by
    /// itself, and checks that stand still, because few would live to go on.
    fn some(&self, are_checks: bool, seed: u64, most: usize) -> Vec<(Pid, Ipv4Addr)> {
        let mut all = self.processes(are_checks);
        let (killed, stopped) = (self.killed.lock().unwrap(), self.stopped.lock().unwrap());
        all.retain(|(_, client)| !killed.contains(client) && !stopped.contains(client));
        let mut rng = Rng(seed);
        let count = all.len().min(1 + rng.below(most));
        (0..count).map(|_| all.swap_remove(rng.below(all.len()))).collect()
    }

    fn kill_checks(&self, seed: u64) -> Repair<'static> {
        let victims = self.some(true, seed, 3);
        self.killed
            .lock()
            .unwrap()
            .extend(victims.iter().map(|(_, client)| client));
        end(victims.into_iter().map(|(pid, _)| pid).collect())
    }

    fn stop_checks(&self, seed: u64) -> Repair<'static> {
        let victims = self.some(true, seed, 8);
        self.stopped
            .lock()
            .unwrap()
            .extend(victims.iter().map(|(_, client)| client));
        stop(victims.into_iter().map(|(pid, _)| pid).collect())
    }

    fn kill_s9s(&self, seed: u64) -> Repair<'static> {
        end(self.some(false, seed, 3).into_iter().map(|(pid, _)| pid).collect())
    }

    fn restart_xinetd(&self, recorder: &Recorder, instances: usize) {
        let mut xinetd = self.xinetd.lock().unwrap();
        let before = recorder.now();
        xinetd.kill();
        *xinetd = Xinetd::start(&self.node, instances);
        recorder.add((before, recorder.now()), "fault", Some(0), "xinetd killed");
    }

    fn limit(&self, limit: impl Fn(&Xinetd), lift: impl Fn(&Xinetd) + 'static) -> Repair<'_> {
        limit(&self.xinetd.lock().unwrap());
        Box::new(move || lift(&self.xinetd.lock().unwrap()))
    }

    /// Mounted over the real disk, which cannot become read-only while checks write to it.
    fn cover_disk(&self) -> Repair<'_> {
        let user = "uid=$(id -u cmonhachk),gid=$(id -g cmonhachk)";
        self.node
            .run(&format!("mount -t tmpfs -o ro,mode=700,{user} tmpfs /run/cmonhachk"));
        Box::new(|| drop(self.node.run("umount --lazy /run/cmonhachk")))
    }

    /// An existing lock file would stay usable on a full disk.
    fn fill_disk(&self) -> Repair<'_> {
        self.node
            .run("rm -f /run/cmonhachk/lock; cat /dev/zero >/run/cmonhachk/ballast");
        Box::new(|| drop(self.node.run("rm -f /run/cmonhachk/ballast")))
    }

    /// All processes of xinetd's service, and of its user, but for xinetd itself.
    fn processes_left(&self) -> Vec<String> {
        // What s9s has left of itself may sleep, if the check that would have killed it was killed.
        let all = self.node.run(
            "ps -o pid=,stat=,comm= -u cmonhachk \
             --pid $(paste -sd, /sys/fs/cgroup/system.slice/xinetd.service/cgroup.procs) | grep -v ' sleep$'",
        );
        let mut left: Vec<String> = all.lines().map(str::to_string).collect();
        if let Some(own) = left.iter().position(|line| line.ends_with(" xinetd")) {
            left.remove(own);
        }
        left
    }
}

impl Place for Machine {
    fn nodes(&self) -> &[Node] {
        slice::from_ref(&self.node)
    }

    fn cause<'a>(&'a self, fault: &'a Fault, recorder: &'a Recorder) -> Repair<'a> {
        let [number, ..] = fault.numbers;
        match fault.what {
            "s9s slow" => self.behave(&format!("slow {}", number as f64 / 1000.)),
            "s9s missing" => self.lose_s9s(""),
            "s9s missing: a text" => self.lose_s9s("echo text >/usr/local/bin/s9s"),
            "s9s killed" => self.kill_s9s(number),
            "checks killed" => self.kill_checks(number),
            "checks stopped" => self.stop_checks(number),
            "xinetd restarted" => {
                self.restart_xinetd(recorder, MANY);
                nothing()
            }
            "xinetd reloaded" => {
                self.xinetd.lock().unwrap().reload(&self.node);
                nothing()
            }
            "few instances" => {
                self.restart_xinetd(recorder, 12);
                Box::new(|| self.restart_xinetd(recorder, MANY))
            }
            "few descriptors" => self.limit(
                |xinetd| xinetd.limit_descriptors(number as usize % 9),
                |xinetd| xinetd.limit("nofile", 4096),
            ),
            "few processes" => self.limit(
                |xinetd| xinetd.limit("nproc", number as usize % 25),
                |xinetd| xinetd.limit("nproc", 4096),
            ),
            "disk read-only" => self.cover_disk(),
            "disk full" => self.fill_disk(),
            what => {
                let (_, how) = what.split_once(": ").expect("how s9s behaves");
                self.behave(how)
            }
        }
    }

    fn left(&self) -> Vec<(usize, String)> {
        let _ = comes_true(|| self.processes_left().is_empty());
        let mut left = self.processes_left();
        let xinetd = self.xinetd.lock().unwrap();
        // xinetd may have had its service file open when its descriptors were counted at its start.
        let open = descriptors(xinetd.pid);
        if open > xinetd.descriptors {
            left.push(format!(
                "{open} descriptors of xinetd, and {} at its start",
                xinetd.descriptors
            ));
        }
        let files = |folder: &str| self.node.run(&format!("ls -A {folder}"));
        // The draft of a check that was killed while it published; the next check replaces it.
        let is_known = |file: &&str| STATE.contains(file) || file.ends_with(".new");
        left.extend(
            files("/run/cmonhachk")
                .lines()
                .filter(|file| !is_known(file))
                .map(str::to_string),
        );
        left.extend(
            files("/opt/cluster")
                .lines()
                .filter(|file| !CLUSTER.contains(file))
                .map(str::to_string),
        );
        left.into_iter().map(|what| (0, what)).collect()
    }
}

/// Whether this is so after a while.
pub fn comes_true(mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_check(pid: Pid) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program.ends_with("cmonhachk"))
}

/// The client whose check this is, or has started this.
fn client_of(pid: Pid) -> Option<Ipv4Addr> {
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split('\0').filter_map(|text| text.split_once('='));
    let (_, client) = variables.find(|(name, _)| *name == "REMOTE_HOST")?;
    client.parse().ok()
}
