//! xinetd on the machine that suffers, and what its log says about each connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::faults::Machine;
use crate::cluster::{project, wait_until};
use crate::front::site::Node;

/// Shorter than usual, so that s9s is run more often.
pub const MAX_AGE: Duration = Duration::from_millis(300);
/// The deployed limit of processes.
pub const MANY: usize = 1500;

/// xinetd writes both.
const LOG: &str = "opt/cluster/xinetd.log";
const SERVICE_LOG: &str = "opt/cluster/service.log";

const UNIT: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/sbin/xinetd -dontfork -f /opt/xinetd.conf -filelog /opt/cluster/xinetd.log -pidfile /run/xinetd.pid
# The checks go on without it.
KillMode=process
";

/// xinetd with the deployed service, except for its limits and its log.
pub struct Xinetd {
    pub pid: Pid,
    /// How many descriptors it had open at the start.
    pub descriptors: usize,
}

impl Xinetd {
    pub fn install(node: &Node) {
        node.put("etc/systemd/system/xinetd.service", UNIT);
        node.run("systemctl daemon-reload");
    }

    pub fn start(node: &Node, instances: usize) -> Xinetd {
        node.put("opt/xinetd.conf", &service(instances));
        loop {
            let before = log(node).len();
            node.run("systemctl restart xinetd");
            let said = || log(node).split_off(before);
            wait_until("xinetd has started", || said().contains("Started working"));
            // A child of a killed xinetd may hold the port until it executes its program. xinetd tries
            // ten times without a break, then goes on without the port.
            if said().contains("Started working: 1 available service") {
                let pid = main_process(node);
                return Xinetd {
                    pid,
                    descriptors: descriptors(pid),
                };
            }
        }
    }

    pub fn kill(&self) {
        kill(self.pid, Signal::SIGKILL).unwrap();
        let name = || fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        wait_until("xinetd is gone", || !name().contains("xinetd"));
    }

    /// Makes it read its service file again.
    pub fn reload(&self, node: &Node) {
        // It needs descriptors for that.
        self.limit("nofile", 4096);
        let reloads = || log(node).matches("Reconfigured:").count();
        let before = reloads();
        kill(self.pid, Signal::SIGHUP).unwrap();
        wait_until("xinetd has read its files again", || reloads() > before);
    }

    /// Limits a resource of its checks: `nofile` or `nproc`. Its own processes are root's.
    pub fn limit(&self, resource: &str, limit: usize) {
        let limited = Command::new("prlimit")
            .arg(format!("--pid={}", self.pid))
            .arg(format!("--{resource}={limit}:"))
            .status();
        assert!(limited.unwrap().success());
    }

    /// Leaves it so many descriptors more than it needs for one connection at a time.
    pub fn limit_descriptors(&self, more: usize) {
        self.limit("nofile", self.descriptors + 2 + more);
    }
}

pub fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn service(instances: usize) -> String {
    let deployed = fs::read_to_string(project().join("deploy/xinetd/cmonhachk")).unwrap();
    let own = format!(
        "bind = 127.0.0.1\nonly_from = 127.0.0.0/8\nlog_type = FILE /{SERVICE_LOG}\nlog_on_success = PID HOST EXIT\n\
         env = S9S_SIM=/opt/cluster CMONHACHK_MAX_AGE={}\n}}\n",
        MAX_AGE.as_secs_f64()
    );
    let mut service = String::new();
    for line in deployed.lines() {
        match line.split_whitespace().next() {
            Some("only_from" | "log_on_success") => {}
            Some("instances") => service += &format!("instances = {instances}\n"),
            Some("}") => service += &own,
            _ => service += &format!("{line}\n"),
        }
    }
    service
}

fn log(node: &Node) -> String {
    fs::read_to_string(node.systemd.root().join(LOG)).unwrap_or_default()
}

/// The number that xinetd's process has outside of the node.
fn main_process(node: &Node) -> Pid {
    let inside = node.run("systemctl show --property MainPID --value xinetd");
    let is_it = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some(inside.trim()))
    };
    let mut pids = node.processes_of("xinetd").into_iter();
    pids.find(is_it).expect("xinetd runs")
}

/// What is known about one connection.
#[derive(Default)]
struct Connection {
    is_started: bool,
    /// Refused because of xinetd's limit of processes.
    is_refused: bool,
    /// The kernel did not let the user have another process, so the check was not executed.
    is_not_executed: bool,
    is_killed: bool,
    is_stopped: bool,
    /// How the check ended, if not with status 0.
    ended: Option<String>,
}

impl Connection {
    fn why_none(&self) -> String {
        let causes = [
            (self.is_killed, ": killed"),
            (self.is_refused, ": over the limit"),
            (self.is_not_executed, ": not executed"),
            (!self.is_started, ": never started"),
        ];
        let cause = causes.into_iter().find(|(is_cause, _)| *is_cause);
        format!("none{}", cause.map_or("", |(_, cause)| cause))
    }
}

/// The connections by the address of their client.
pub struct Connections(BTreeMap<Ipv4Addr, Connection>);

impl Connections {
    pub fn read(machine: &Machine) -> Connections {
        let node = machine.node();
        let not_executed = not_executed(&log(node));
        let service_log = fs::read_to_string(node.systemd.root().join(SERVICE_LOG)).unwrap();
        let mut connections: BTreeMap<Ipv4Addr, Connection> = BTreeMap::new();
        let mut running: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
        for line in service_log.lines() {
            let (time, text) = time_and_text(line);
            let field = |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name));
            let pid = || field("pid=").unwrap().to_string();
            // xinetd has no address of a client that was gone before it looked.
            let from = || field("from=").unwrap().parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
            match text.split(' ').next().unwrap() {
                "START:" => {
                    running.insert(pid(), from());
                    let connection = connections.entry(from()).or_default();
                    connection.is_started = true;
                    connection.is_not_executed = not_executed.contains(&(pid(), time));
                }
                "EXIT:" if field("status=") == Some("0") => {}
                "EXIT:" => connections.entry(running[&pid()]).or_default().ended = Some(text.to_string()),
                "FAIL:" if text.contains("service_limit") => {
                    connections.entry(from()).or_default().is_refused = true;
                }
                _ => panic!("what does xinetd mean by this? {line}"),
            }
        }
        for from in machine.killed.lock().unwrap().iter() {
            connections.entry(*from).or_default().is_killed = true;
        }
        for from in machine.stopped.lock().unwrap().iter() {
            connections.entry(*from).or_default().is_stopped = true;
        }
        Connections(connections)
    }

    /// The words for what a client got, with what is known about its connection.
    pub fn explain(&self, from: Ipv4Addr, words: String) -> String {
        let nothing = Connection::default();
        let connection = self.0.get(&from).unwrap_or(&nothing);
        match words.as_str() {
            "none" => connection.why_none(),
            // The kernel resets the connection of a process that is killed with a request in its queue.
            _ if connection.is_killed => words.trim_end_matches(", reset").to_string(),
            _ if connection.is_stopped => words + ", stopped",
            _ => words,
        }
    }

    /// Whether the check of this client stood still for a while.
    pub fn is_stopped(&self, from: Ipv4Addr) -> bool {
        self.0.get(&from).is_some_and(|connection| connection.is_stopped)
    }

    /// How checks ended that should have ended well.
    pub fn failed(&self) -> impl Iterator<Item = &String> {
        let connections = self.0.values();
        let blameless = connections.filter(|connection| !connection.is_killed && !connection.is_not_executed);
        blameless.filter_map(|connection| connection.ended.as_ref())
    }
}

/// The processes of xinetd that could not become a check, and when.
fn not_executed(log: &str) -> BTreeSet<(String, i64)> {
    let mut processes = BTreeSet::new();
    for line in log.lines() {
        let (time, text) = time_and_text(line);
        if text.contains("ERROR: execv(") && text.contains("Resource temporarily unavailable") {
            let (pid, _) = text.strip_prefix("xinetd[").unwrap().split_once(']').unwrap();
            // Two processes note the two lines.
            processes.extend((time - 10..=time + 10).map(|time| (pid.to_string(), time)));
        }
    }
    processes
}

/// The time of a line in xinetd's log, in seconds of its day, and the rest of the line.
fn time_and_text(line: &str) -> (i64, &str) {
    let (time, text) = line.split_once(' ').unwrap();
    let (_, time) = time.split_once('@').unwrap();
    let parts = time.trim_end_matches(':').split(':');
    (parts.fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap()), text)
}
