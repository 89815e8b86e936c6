//! Everything goes wrong at once, and the answers are still right.
//!
//! `CMONHACHK_CHAOS_SECONDS` (see `scale`) is how long it does, `CMONHACHK_CHAOS_SEED` makes the
//! same events and clients come in the same order again; the seed is printed. It runs alone; see
//! tests/run.sh.
//!
//! Every connection comes from an address of its own. xinetd logs it with what it did about it, and
//! a check has it in its environment, so a connection without an answer is laid to the one event
//! that took it, or to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::reason::Reason;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::{Pid, Uid};

use crate::cluster::{
    AtEnd, Cluster, Daemon, FOLLOWER, GET, LEADER, Node, PATIENCE, ask, in_namespaces, loopback, parent, processes,
    project, receive, unknown, wait_until,
};
use crate::scale::{amount, percentiles};

const CLIENTS: usize = 16;
const TIMEOUT: Duration = Duration::from_millis(1500);
const MAX_AGE: Duration = Duration::from_millis(300);
/// What a busy machine may add to the time of an answer.
const GRACE: Duration = Duration::from_secs(2);

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn millis(&mut self, limit: usize) -> Duration {
        Duration::from_millis(self.below(limit) as u64)
    }
}

/// A machine of the test's own: its processes and its mounts, all gone with it.
struct Machine<'a> {
    cluster: &'a Cluster,
    holder: Daemon,
    /// Process 1 there.
    init: u32,
    /// The folder of the lock file: a small disk.
    locks: PathBuf,
    node: Node<'a>,
    address: SocketAddrV4,
}

impl Machine<'_> {
    fn new(cluster: &Cluster) -> Machine<'_> {
        let folder = &cluster.folder;
        let locks = folder.join("locks");
        fs::create_dir(&locks).unwrap();
        // A user whose only processes are those of checks, so that they can be counted.
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let user = 63_000 + std::process::id() % 1000;
        let passwd = folder.write("passwd", format!("{passwd}chaos:x:{user}:65534::/:/bin/false\n"));
        let script = format!(
            "mount --bind {} /etc/passwd; mount -t tmpfs -o size=64k,mode=1777 tmpfs {}; exec \"$@\"",
            passwd.display(),
            locks.display(),
        );
        let mut init = Command::new("sh");
        // It waits all the time, so that it reaps what others leave.
        init.args(["-c", "while :; do sleep 1; done"]);
        let kinds = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let holder = Daemon(in_namespaces(&kinds, &script, &init).spawn().unwrap());
        let mut machine = Machine {
            cluster,
            init: 0,
            node: Node {
                lock: locks.join("lock"),
                s9s: folder.join("s9s"),
                ..cluster.leader()
            },
            locks,
            address: SocketAddrV4::new(loopback(), 9201),
            holder,
        };
        wait_until("the machine has started", || {
            machine.init = children(machine.holder.0.id()).first().copied().unwrap_or(0);
            children(machine.init).iter().any(|child| name(*child) == "sleep")
        });
        machine
    }

    /// A command that runs there.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        if !Uid::effective().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--pid", "--target", &self.init.to_string(), program]);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        assert!(self.command(program).args(arguments).status().unwrap().success());
    }

    /// The folder of the lock file as it is there.
    fn disk(&self) -> PathBuf {
        let path = self.locks.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.init)).join(path)
    }

    /// All processes there but its first and `sleep`, by name, with all that was started there and
    /// has died without being reaped.
    fn processes(&self, xinetd: &Xinetd) -> Vec<String> {
        let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let here = namespace(self.init);
        // A dead process has no namespace. Whose parent has died is a child of the first one.
        let roots = [self.init, xinetd.entered.0.id()];
        let mut names: Vec<String> = processes()
            .filter(|pid| *pid != self.init)
            .filter(|pid| namespace(*pid) == here || parent(*pid).is_some_and(|parent| roots.contains(&parent)))
            .map(name)
            .filter(|name| name != "sleep")
            .collect();
        names.sort();
        names
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // unshare heeds nothing less while it waits for the first process, which dies with it.
        self.holder.signal(Signal::SIGKILL);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_string()
}

/// xinetd on that machine, with the deployed service but for its limits and its log.
struct Xinetd {
    entered: Daemon,
    pid: u32,
    /// How many descriptors it had open at the start.
    descriptors: usize,
    started: Instant,
}

impl Xinetd {
    fn start(machine: &Machine<'_>, instances: usize) -> Xinetd {
        let folder = &machine.cluster.folder;
        let log = folder.join("xinetd.log");
        let user = if Uid::effective().is_root() { "chaos" } else { "root" };
        let path = |name: &str| folder.join(name).display().to_string();
        let own = format!(
            "bind = {}\nonly_from = 127.0.0.0/8\nlog_type = FILE {}\nlog_on_success = PID HOST EXIT\n\
             env = S9S_SIM={} CMONHACHK_S9S={} CMONHACHK_CMON_DEFAULTS={} CMONHACHK_LOCK_FILE={}\n\
             env += CMONHACHK_MAX_AGE=0.3\n}}\n",
            machine.address.ip(),
            path("service.log"),
            folder.path().display(),
            machine.node.s9s.display(),
            machine.node.defaults.display(),
            machine.node.lock.display(),
        );
        let mut service = fs::read_to_string(project().join("deploy/xinetd/cmonhachk")).unwrap();
        for (deployed, here) in [
            ("/usr/sbin/cmonhachk\n", path("cmonhachk") + "\n"),
            ("= cmonhachk\n", format!("= {user}\n")),
            ("= 1500\n", format!("= {instances}\n")),
            (
                "        only_from       = 127.0.0.1 ::1 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fe80::/10\n",
                String::new(),
            ),
            ("        log_on_success  =\n", String::new()),
            ("}\n", own),
        ] {
            assert!(service.contains(deployed), "{deployed}");
            service = service.replace(deployed, &here);
        }
        let conf = folder.write("xinetd.conf", service);
        loop {
            let before = fs::read_to_string(&log).unwrap_or_default().len();
            let mut command = machine.command("/usr/sbin/xinetd");
            command.env_clear().args(["-dontfork", "-f"]).arg(&conf);
            command
                .arg("-filelog")
                .arg(&log)
                .args(["-pidfile", &path("xinetd.pid")]);
            let entered = Daemon(command.spawn().unwrap());
            let text = || fs::read_to_string(&log).unwrap_or_default().split_off(before);
            wait_until("xinetd has started", || text().contains("Started working"));
            let pid = children(entered.0.id())[0];
            // A child of a killed one may have the port until it is executed; xinetd tries ten times
            // in no time, and goes on without.
            if !text().contains("Started working: 1 available service") {
                Held::new(pid).unwrap().kill();
                continue;
            }
            return Xinetd {
                entered,
                pid,
                descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
                started: Instant::now(),
            };
        }
    }

    /// Limits what its checks may have; None: nothing that matters. Its own descriptors suffice for
    /// one connection at a time, and its processes are root's.
    fn limit(&self, descriptors: Option<usize>, processes: Option<usize>) {
        let or_many = |limit: Option<usize>| limit.map_or("4096".to_string(), |limit| limit.to_string());
        let descriptors = or_many(descriptors.map(|more| self.descriptors + 2 + more));
        let limited = Command::new("prlimit")
            .arg(format!("--pid={}", self.pid))
            .arg(format!("--nofile={descriptors}:"))
            .arg(format!("--nproc={}:", or_many(processes)))
            .status();
        assert!(limited.unwrap().success());
    }
}

/// A process that cannot become another one between a look at it and a signal to it.
struct Held {
    pid: u32,
    descriptor: OwnedFd,
}

impl Held {
    fn new(pid: u32) -> Option<Held> {
        // SAFETY: takes integers.
        let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).ok()?;
        // SAFETY: the kernel has just made it, for us.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
        Some(Held { pid, descriptor })
    }

    fn variable(&self, name: &str) -> Option<String> {
        let environment = fs::read_to_string(format!("/proc/{}/environ", self.pid)).ok()?;
        let mut assignments = environment.split('\0').filter_map(|text| text.split_once('='));
        assignments.find_map(|(other, value)| (other == name).then(|| value.to_string()))
    }

    fn is_check(&self) -> bool {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid));
        program.is_ok_and(|program| program.ends_with("cmonhachk"))
    }

    fn kill(&self) {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: without a siginfo_t it takes integers. That it is gone by now is no error.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.descriptor.as_raw_fd(),
                libc::SIGKILL,
                none,
                0,
            )
        };
    }
}

/// What has been done to the machine, and when.
#[derive(Default)]
struct History {
    /// When the node became (or stopped being) the leader: from just before to just after.
    leads: Vec<(Instant, Instant, bool)>,
    /// From when to when there was no xinetd.
    without_xinetd: Vec<(Instant, Instant)>,
    /// The connections whose checks were killed.
    killed: BTreeSet<Ipv4Addr>,
    /// How often what was done.
    count: BTreeMap<&'static str, usize>,
}

impl History {
    /// Whether the node was a leader, or was not, at some time from `from` to `to`.
    fn was(&self, leader: bool, from: Instant, to: Instant) -> bool {
        let ends = self.leads.iter().skip(1).map(|next| next.1).chain([to]);
        let mut spans = self.leads.iter().zip(ends);
        spans.any(|((start, _, leads), end)| *leads == leader && *start <= to && end >= from)
    }

    /// When there was no xinetd in this time.
    fn gap(&self, from: Instant, to: Instant) -> bool {
        self.without_xinetd
            .iter()
            .any(|(start, end)| *start <= to && *end >= from)
    }
}

/// Who makes everything go wrong.
struct Chaos<'a> {
    machine: &'a Machine<'a>,
    xinetd: Xinetd,
    history: History,
    dice: Dice,
    covered: bool,
}

impl Chaos<'_> {
    fn lead(&mut self, leads: bool) {
        let before = Instant::now();
        self.machine
            .cluster
            .leads(if leads { "10.0.0.101" } else { "10.0.0.102" });
        self.history.leads.push((before, Instant::now(), leads));
    }

    /// Puts the simulated s9s, a file that cannot be executed, or nothing in s9s's place.
    fn install(&self, what: &str) {
        let folder = &self.machine.cluster.folder;
        match what {
            "sim" => {
                let draft = folder.join("s9s.draft");
                let _ = fs::remove_file(&draft);
                symlink(folder.join("sim"), &draft).unwrap();
                fs::rename(draft, folder.join("s9s")).unwrap();
            }
            "text" => {
                folder.write("s9s", "#!/bin/sh\n");
                fs::set_permissions(folder.join("s9s"), Permissions::from_mode(0o644)).unwrap();
            }
            _ => drop(fs::remove_file(folder.join("s9s"))),
        }
    }

    /// Makes the disk of the lock file read-only, full, or as it was.
    fn disk(&mut self, what: &str) {
        let locks = self.machine.locks.to_str().unwrap();
        if self.covered {
            self.machine.run("umount", &["--lazy", locks]);
            self.covered = false;
        }
        let disk = self.machine.disk();
        let _ = fs::remove_file(disk.join("ballast"));
        match what {
            // Laid over the other one, which cannot become read-only while checks write to it.
            "read-only" => {
                self.machine.run("mount", &["-t", "tmpfs", "-o", "ro", "tmpfs", locks]);
                self.covered = true;
            }
            "full" => {
                // A lock file that is there keeps its place.
                let _ = fs::remove_file(disk.join("lock"));
                let _ = fs::write(disk.join("ballast"), vec![0; 1024 * 1024]);
            }
            _ => {}
        }
    }

    /// Kills some processes of checks: the checks themselves, or what they have started. What a
    /// killed check left is spared, for it must go by itself.
    fn kill(&mut self, checks: bool, limit: usize) {
        let pids = self.machine.cluster.processes();
        let mut victims: Vec<Held> = pids.into_iter().filter_map(Held::new).collect();
        let killed = |victim: &Held| {
            let client = victim.variable("REMOTE_HOST");
            client.is_some_and(|client| self.history.killed.contains(&client.parse().unwrap()))
        };
        victims.retain(|victim| victim.is_check() == checks && !killed(victim));
        for _ in 0..limit.min(victims.len()) {
            let victim = victims.swap_remove(self.dice.below(victims.len()));
            let Some(client) = victim.variable("REMOTE_HOST") else {
                continue;
            };
            if checks {
                self.history.killed.insert(client.parse().unwrap());
            }
            victim.kill();
        }
    }

    fn restart_xinetd(&mut self) {
        let instances = [1500, 1500, 1500, 12][self.dice.below(4)];
        let before = Instant::now();
        let xinetd = Held::new(self.xinetd.pid).unwrap();
        xinetd.kill();
        wait_until("xinetd is gone", || !name(self.xinetd.pid).contains("xinetd"));
        self.xinetd = Xinetd::start(self.machine, instances);
        self.history.without_xinetd.push((before, self.xinetd.started));
    }

    /// Has it read its service file again, for which it needs descriptors.
    fn reload_xinetd(&mut self) {
        self.xinetd.limit(None, None);
        let log = self.machine.cluster.folder.join("xinetd.log");
        let reloads = || fs::read_to_string(&log).unwrap().matches("Reconfigured:").count();
        let before = reloads();
        kill(Pid::from_raw(self.xinetd.pid.cast_signed()), Signal::SIGHUP).unwrap();
        wait_until("xinetd has read its files again", || reloads() > before);
    }

    fn event(&mut self) {
        let cluster = self.machine.cluster;
        let garbage = cluster.folder.join("garbage").display().to_string();
        let event = match self.dice.below(100) {
            0..30 => {
                let behaviours = [
                    "list",
                    "list",
                    "list",
                    "slow 0.2",
                    "slow 1",
                    "hang",
                    "crash",
                    "flood",
                    "flood-errors",
                    "stray",
                    "stubborn",
                    "orphan",
                    "flaky 3",
                    "fail 5 Connection refused.",
                    "colour",
                ];
                match self.dice.below(behaviours.len() + 1) {
                    0 => cluster.behaves(&format!("print {garbage}")),
                    other => cluster.behaves(behaviours[other - 1]),
                }
                "s9s behaves in another way"
            }
            30..38 => {
                let what = ["sim", "sim", "text", "nothing"][self.dice.below(4)];
                self.install(what);
                "s9s is another program"
            }
            38..48 => {
                let leads = self.dice.below(2) == 0;
                self.lead(leads);
                "the leader is another one"
            }
            48..66 => {
                let limit = 1 + self.dice.below(3);
                self.kill(true, limit);
                "checks are killed"
            }
            66..76 => {
                let limit = 1 + self.dice.below(3);
                self.kill(false, limit);
                "s9s is killed"
            }
            76..79 => {
                self.restart_xinetd();
                "xinetd is killed"
            }
            79..81 => {
                self.reload_xinetd();
                "xinetd reads its files again"
            }
            81..90 => {
                let what = ["fine", "fine", "read-only", "full"][self.dice.below(4)];
                self.disk(what);
                "the disk is in another state"
            }
            _ => {
                let descriptors = self.dice.below(9);
                let processes = self.dice.below(25);
                let (few, fewer) = (self.dice.below(3) == 0, self.dice.below(3) == 0);
                self.xinetd
                    .limit(few.then_some(descriptors), fewer.then_some(processes));
                "other limits hold"
            }
        };
        *self.history.count.entry(event).or_default() += 1;
    }

    /// Puts all in order again.
    fn end(&mut self) {
        self.machine.cluster.behaves("list");
        self.install("sim");
        self.disk("fine");
        self.xinetd.limit(None, None);
        self.lead(true);
    }
}

/// How a client behaves: what it sends, with a pause after each part, and what it does then.
struct Manner {
    parts: Vec<Vec<u8>>,
    pause: Duration,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Waits for the end of the answer.
    Wait,
    /// The same, with its own side closed.
    Close,
    /// Leaves after so many bytes of the answer.
    Leave(usize),
    /// Resets the connection at once.
    Reset,
}

impl Manner {
    fn random(dice: &mut Dice) -> Manner {
        let mut garbage = vec![0; dice.below(20_000)];
        garbage.fill_with(|| dice.next() as u8);
        let bytes = |text: &[u8]| text.chunks(1).map(<[u8]>::to_vec).collect();
        let mut request = GET.to_vec();
        let half = GET[..dice.below(GET.len())].to_vec();
        let then = match dice.below(10) {
            0 => Then::Leave(0),
            1 => Then::Leave(1 + dice.below(100)),
            2 => Then::Reset,
            3 => Then::Close,
            _ => Then::Wait,
        };
        let parts = match dice.below(10) {
            0 => vec![b"OPTIONS / HTTP/1.0\r\n\r\n".to_vec()],
            1 => vec![b"HEAD / HTTP/1.0\r\n\r\n".to_vec()],
            2 => bytes(&request),
            3 => bytes(&[b'x'; 500]),
            4 => vec![half],
            5 => vec![garbage],
            6 => vec![],
            7 => {
                request.extend(garbage);
                vec![request.clone(), request]
            }
            _ => vec![request],
        };
        let pause = dice.millis(30);
        Manner { parts, pause, then }
    }
}

/// What came of one connection.
struct Outcome {
    from: Ipv4Addr,
    manner: Manner,
    start: Instant,
    /// The answer, or why there was no connection.
    got: Result<Vec<u8>, Errno>,
    /// When the last of the answer came, or the end.
    end: Instant,
    /// Whether the connection ended in good order.
    orderly: bool,
}

/// Connects from an address of the caller's own choice.
fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> nix::Result<TcpStream> {
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Also for connect(2).
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::new(PATIENCE.as_secs() as i64, 0),
    )?;
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Whether nothing comes any more; reads until the stream's timeout, the end, or `limit` bytes.
fn take(stream: &mut TcpStream, outcome: &mut Outcome, limit: usize) -> bool {
    let mut chunk = [0; 4096];
    let got = outcome.got.as_mut().unwrap();
    while got.len() < limit {
        let room = chunk.len().min(limit - got.len());
        match stream.read(&mut chunk[..room]) {
            Ok(0) => {
                outcome.orderly = true;
                return true;
            }
            Ok(count) => {
                got.extend_from_slice(&chunk[..count]);
                outcome.end = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    true
}

fn converse(from: Ipv4Addr, to: SocketAddrV4, manner: Manner) -> Outcome {
    let start = Instant::now();
    let connection = connect_from(from, to);
    let mut outcome = Outcome {
        from,
        manner,
        start,
        got: connection.as_ref().map(|_| Vec::new()).map_err(|errno| *errno),
        end: Instant::now(),
        orderly: false,
    };
    let Ok(mut stream) = connection else {
        return outcome;
    };
    let limit = match outcome.manner.then {
        Then::Leave(count) => count,
        _ => usize::MAX,
    };
    let pause = outcome.manner.pause.max(Duration::from_millis(1));
    stream.set_read_timeout(Some(pause)).unwrap();
    let mut over = false;
    for part in std::mem::take(&mut outcome.manner.parts) {
        let _ = stream.write_all(&part);
        outcome.manner.parts.push(part);
        if outcome.manner.parts.len() > 1 || outcome.manner.then == Then::Reset {
            over = over || take(&mut stream, &mut outcome, limit);
        }
        if over {
            break;
        }
    }
    match outcome.manner.then {
        Then::Reset => {
            let at_once = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
            return outcome;
        }
        Then::Close => drop(stream.shutdown(Shutdown::Write)),
        Then::Leave(_) | Then::Wait => {}
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if !over {
        take(&mut stream, &mut outcome, limit);
    }
    if outcome.got.as_ref().unwrap().is_empty() {
        outcome.end = Instant::now();
    }
    outcome
}

/// What xinetd says of one connection.
#[derive(Debug, Default)]
struct Fate {
    started: bool,
    /// Turned away for xinetd's limit of processes.
    refused: bool,
    /// The kernel did not let the user have another process, so the check was not executed.
    not_executed: bool,
    /// How the check ended, if otherwise than with status 0.
    ended: Option<String>,
}

/// The time of a line of xinetd's, in seconds of its day, and the rest of the line.
fn time_and_text(line: &str) -> (i64, &str) {
    let (time, text) = line.split_once(' ').unwrap();
    let (_, time) = time.split_once('@').unwrap();
    let parts = time.trim_end_matches(':').split(':');
    (parts.fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap()), text)
}

fn fates(machine: &Machine<'_>) -> BTreeMap<Ipv4Addr, Fate> {
    let read = |name: &str| fs::read_to_string(machine.cluster.folder.join(name)).unwrap();
    // Which process of xinetd's could not become a check, and when.
    let mut not_executed: BTreeSet<(String, i64)> = BTreeSet::new();
    for line in read("xinetd.log").lines() {
        let (time, text) = time_and_text(line);
        if text.contains("ERROR: execv(") && text.contains("Resource temporarily unavailable") {
            let (pid, _) = text.strip_prefix("xinetd[").unwrap().split_once(']').unwrap();
            not_executed.extend([time - 1, time, time + 1].map(|time| (pid.to_string(), time)));
        }
    }
    let mut fates: BTreeMap<Ipv4Addr, Fate> = BTreeMap::new();
    let mut running: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    for line in read("service.log").lines() {
        let (time, text) = time_and_text(line);
        let field = |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name));
        let pid = || field("pid=").unwrap().to_string();
        let from = || field("from=").unwrap().parse::<Ipv4Addr>().unwrap();
        match text.split(' ').next().unwrap() {
            "START:" => {
                running.insert(pid(), from());
                let fate = fates.entry(from()).or_default();
                fate.started = true;
                fate.not_executed = not_executed.contains(&(pid(), time));
            }
            "EXIT:" if field("status=") == Some("0") => {}
            "EXIT:" => fates.entry(running[&pid()]).or_default().ended = Some(text.to_string()),
            "FAIL:" if text.contains("service_limit") => fates.entry(from()).or_default().refused = true,
            _ => panic!("what does xinetd mean by this? {line}"),
        }
    }
    fates
}

#[test]
fn whatever_goes_wrong_every_connection_gets_one_right_answer() {
    let seconds = amount("CMONHACHK_CHAOS_SECONDS", 20, 600);
    let seed = match env::var("CMONHACHK_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("CMONHACHK_CHAOS_SEED is a number"),
        Err(_) => std::process::id() as u64,
    };
    println!("CMONHACHK_CHAOS_SEED={seed}");
    let cluster = Cluster::for_any_user();
    let mut dice = Dice(seed);
    let mut garbage = vec![0; 5000];
    garbage.fill_with(|| dice.next() as u8);
    cluster.folder.write("garbage", garbage);
    let machine = Machine::new(&cluster);
    let mut chaos = Chaos {
        machine: &machine,
        xinetd: Xinetd::start(&machine, 1500),
        history: History::default(),
        dice,
        covered: false,
    };
    chaos.end();

    let (over, number, outcomes) = (AtomicBool::new(false), AtomicU32::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 192, 0, 1)) + number);
                    let manner = Manner::random(&mut Dice(seed ^ (u64::from(number) << 32)));
                    let outcome = converse(from, machine.address, manner);
                    if !outcome.got.as_ref().is_ok_and(|got| !got.is_empty()) {
                        // It would be turned away thousands of times a second.
                        thread::sleep(Duration::from_millis(20));
                    }
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
        let _over = AtEnd(&over);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds as u64) {
            let pause = chaos.dice.millis(60);
            thread::sleep(pause);
            chaos.event();
        }
        chaos.end();
    });
    let outcomes = outcomes.into_inner().unwrap();

    // Afterwards all is as if nothing had been.
    wait_until("no check is left", || cluster.processes().is_empty());
    thread::sleep(MAX_AGE);
    assert_eq!(receive(&mut ask(machine.address, GET)), LEADER, "the first check");
    chaos.lead(false);
    thread::sleep(MAX_AGE);
    assert_eq!(receive(&mut ask(machine.address, GET)), FOLLOWER, "the next one");
    let mut left = Vec::new();
    wait_until("no process is left", || {
        let now = machine.processes(&chaos.xinetd);
        if now != left {
            println!("on the machine: {now:?}");
            left = now;
        }
        left == ["xinetd"]
    });
    let descriptors = fs::read_dir(format!("/proc/{}/fd", chaos.xinetd.pid)).unwrap().count();
    // It may have had its service file open when they were counted at its start.
    assert!(
        descriptors <= chaos.xinetd.descriptors,
        "xinetd has {descriptors} descriptors"
    );
    let files = |folder: PathBuf| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut cached = files(machine.disk());
    // What a check left that was killed while it published, the next one replaces.
    cached.retain(|name| !name.ends_with(".new"));
    assert_eq!(cached.remove(0), "lock");
    let is_entry = |name: &String| name.strip_prefix("lock.").is_some_and(|key| key.len() == 16);
    assert!(cached.iter().all(is_entry), "{cached:?}");
    assert_eq!(
        files(cluster.folder.path().to_path_buf()),
        [
            "behaviour",
            "cmonhachk",
            "controllers",
            "defaults-10.0.0.101",
            "garbage",
            "locks",
            "passwd",
            "runs",
            "s9s",
            "service.log",
            "sim",
            "xinetd.conf",
            "xinetd.log",
            "xinetd.pid"
        ]
    );

    judge(&outcomes, &chaos.history, &fates(&machine));
}

/// Fails if there is a connection that did not get what it ought to.
fn judge(outcomes: &[Outcome], history: &History, fates: &BTreeMap<Ipv4Addr, Fate>) {
    let unknowns: Vec<String> = Reason::ALL
        .into_iter()
        .filter(|reason| !matches!(reason, Reason::BadArguments | Reason::InternalError))
        .map(|reason| unknown(reason.code()))
        .collect();
    let (mut wrong, mut took, mut count) = (Vec::new(), Vec::new(), BTreeMap::<String, usize>::new());
    for outcome in outcomes {
        let fate = fates.get(&outcome.from);
        let is_started = fate.is_some_and(|fate| fate.started);
        let killed = history.killed.contains(&outcome.from);
        let got = outcome
            .got
            .as_ref()
            .map(|got| String::from_utf8_lossy(got).into_owned());
        let is_head = outcome
            .manner
            .parts
            .first()
            .is_some_and(|part| part.starts_with(b"HEAD "));
        let is_one = |got: &str, whole: &str| match is_head {
            true => whole.split_once("<html>").is_some_and(|(head, _)| head == got),
            false => whole == got,
        };
        let is_beginning = |got: &str| {
            let mut all = [LEADER, FOLLOWER]
                .into_iter()
                .chain(unknowns.iter().map(String::as_str));
            all.any(|whole| whole.starts_with(got))
        };
        let since = outcome.start - MAX_AGE - TIMEOUT;
        let patient = matches!(outcome.manner.then, Then::Wait | Then::Close);
        // Who sends on after the answer may be told so by a reset.
        let must_be_orderly = outcome.manner.parts.len() < 2 && !killed;
        let what = match &got {
            Err(_) if history.gap(outcome.start, outcome.end) => "no xinetd",
            Err(_) => "WRONG: no connection",
            Ok(got) if !patient && is_beginning(got) => "left",
            Ok(got) if got.is_empty() && killed => "killed",
            Ok(got) if got.is_empty() && fate.is_some_and(|fate| fate.refused) => "over xinetd's limit",
            Ok(got) if got.is_empty() && fate.is_some_and(|fate| fate.not_executed) => "not executed",
            Ok(got) if got.is_empty() && !is_started && history.gap(outcome.start, outcome.end) => {
                "lost with xinetd's queue"
            }
            Ok(got) if got.is_empty() => "WRONG: no answer",
            Ok(_) if must_be_orderly && !outcome.orderly => "WRONG: a reset",
            Ok(_) if outcome.end - outcome.start > TIMEOUT + GRACE => "WRONG: late",
            Ok(got) if is_one(got, LEADER) => match history.was(true, since, outcome.end) {
                true => "leader",
                false => "WRONG: leader",
            },
            Ok(got) if is_one(got, FOLLOWER) => match history.was(false, since, outcome.end) {
                true => "follower",
                false => "WRONG: follower",
            },
            Ok(got) => match unknowns.iter().any(|whole| is_one(got, whole)) {
                true => "unknown",
                false => "WRONG: no answer of ours",
            },
        };
        if ["leader", "follower", "unknown"].contains(&what) {
            took.push(outcome.end - outcome.start);
        }
        *count.entry(what.to_string()).or_default() += 1;
        if what.starts_with("WRONG") {
            wrong.push(format!("{what}: {} {fate:?} killed {killed} {got:?}", outcome.from));
        }
    }
    for (from, fate) in fates {
        if let Some(ended) = &fate.ended
            && !history.killed.contains(from)
            && !fate.not_executed
        {
            wrong.push(format!("WRONG: a check ended otherwise than well: {ended}"));
        }
    }
    println!("{:?}\n{count:?}\n{}", history.count, percentiles(took));
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}
