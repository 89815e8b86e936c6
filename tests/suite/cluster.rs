//! A simulated cluster and its nodes, for the other tests.

use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;

pub use crate::built::binary;
pub use crate::client::{
    Client, ask, ask_from, connect, connect_from, exits, is_closed, receive, requesting, try_connect,
    wait_until_all_but_one_wait,
};

/// The longest time that the tests wait for anything. A busy machine may need much of it.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The time limit of a check where the test says no other, in seconds. The program's own, 1.5 s, is too
/// short for a machine that stops for a second: the answer would be that s9s took too long.
pub const TIMEOUT: &str = "15";

pub const LEADER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 48\r\nConnection: close\r\n\
    Cache-Control: no-store\r\nCmonhachk-State: leader\r\n\r\n<html><body>This node is a leader.</body></html>";

pub const FOLLOWER: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 50\r\nConnection: close\r\n\
    Cache-Control: no-store\r\nCmonhachk-State: follower\r\n\r\n<html><body>This node is a follower.</body></html>";

pub fn unknown(code: &str) -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 59\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nCmonhachk-State: unknown\r\nCmonhachk-Reason: {code}\r\n\r\n\
         <html><body>This node is in an unknown state.</body></html>"
    )
}

pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n";

/// The test's own folder, removed at its end.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        // Not below the target folder: its path may be too long for a socket's.
        Folder(tempfile::Builder::new().prefix("cmonhachk-test-").tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Replaces a file in the folder in one step, so that no reader sees a part of it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        let draft = self.join(&format!("{name}.draft"));
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, &path).unwrap();
        path
    }
}

/// What the simulated s9s of one cluster prints.
pub struct Cluster {
    pub folder: Folder,
}

impl Cluster {
    /// Controllers 10.0.0.101 to 10.0.0.103; the first one leads.
    pub fn new() -> Cluster {
        enter_network();
        let cluster = Cluster { folder: Folder::new() };
        cluster.leads("10.0.0.101");
        cluster
    }

    /// The same, with copies of the program and of the simulated s9s in its folder, named `cmonhachk`
    /// and `sim`, so that any user can run its checks.
    pub fn for_any_user() -> Cluster {
        let cluster = Cluster::new();
        fs::set_permissions(cluster.folder.path(), Permissions::from_mode(0o777)).unwrap();
        // Another process copies: if this one had the copy open for writing, a child of another test
        // could inherit that, and the kernel executes no program that is open for writing.
        for (program, name) in [(binary().into(), "cmonhachk"), (simulated_s9s(), "sim")] {
            let mut copy = Command::new("cp");
            assert!(
                copy.arg(program)
                    .arg(cluster.folder.join(name))
                    .status()
                    .unwrap()
                    .success()
            );
        }
        cluster
    }

    /// Makes this address the one leader from now on.
    pub fn leads(&self, leader: &str) {
        self.folder.write("controllers", controllers(leader));
    }

    /// Makes s9s behave in this way; see tests/sim/s9s.
    pub fn behaves(&self, behaviour: &str) {
        self.folder.write("behaviour", format!("{behaviour}\n"));
    }

    /// How often s9s was run so far.
    pub fn runs(&self) -> usize {
        fs::read_to_string(self.folder.join("runs"))
            .unwrap_or_default()
            .lines()
            .count()
    }

    /// The live processes of this cluster's checks, found by the environment that they inherit.
    pub fn processes(&self) -> Vec<u32> {
        let mark = format!("S9S_SIM={}", self.folder.path().display());
        processes()
            .filter(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
            .collect()
    }

    /// Lets an s9s that behaves as `gate` go on.
    pub fn open_gate(&self) {
        self.folder.write("gate", "");
    }

    /// A node of the cluster whose defaults file names this address.
    pub fn node(&self, address: &str) -> Node<'_> {
        let defaults = self.folder.write(
            &format!("defaults-{address}"),
            format!("RPC_BIND_ADDRESSES=\"127.0.0.1,{address}\"\n"),
        );
        Node {
            cluster: self,
            defaults,
            lock: self.folder.join(&format!("lock-{address}")),
            s9s: simulated_s9s(),
        }
    }

    /// The node that leads at the start.
    pub fn leader(&self) -> Node<'_> {
        self.node("10.0.0.101")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A check that a super-server started may still run, and would make its lock file again.
        let start = Instant::now();
        while !self.processes().is_empty() && start.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A node on which checks are run.
pub struct Node<'a> {
    pub cluster: &'a Cluster,
    pub defaults: PathBuf,
    pub lock: PathBuf,
    pub s9s: PathBuf,
}

impl Node<'_> {
    /// The binary with this node's files, in the environment that xinetd gives its services.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("REMOTE_HOST", "127.0.0.1")
            .env("S9S_SIM", self.cluster.folder.path())
            .env("CMONHACHK_S9S", &self.s9s)
            .env("CMONHACHK_CMON_DEFAULTS", &self.defaults)
            .env("CMONHACHK_LOCK_FILE", &self.lock)
            .env("CMONHACHK_TIMEOUT", TIMEOUT)
            .stdin(Stdio::null());
        command
    }

    /// The same as a user without rights; for a node of [`Cluster::for_any_user`].
    pub fn command_of_nobody(&self) -> Command {
        let mut check = starting("setpriv", &self.command());
        check.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        check.arg(self.cluster.folder.join("cmonhachk"));
        check
    }

    /// Makes the node forget every verdict.
    pub fn forget(&self) {
        let name = self.lock.file_name().unwrap().to_str().unwrap();
        for file in fs::read_dir(self.lock.parent().unwrap()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with(name) {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// Holds the node's lock until the file is dropped.
    pub fn hold_the_lock(&self) -> File {
        let mut how = File::options();
        how.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = how.open(&self.lock).unwrap();
        file.lock().unwrap();
        file
    }

    /// A check on the command line.
    pub fn command_line(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// The response on the command line.
    pub fn answer(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.command_line(arguments).stdout).unwrap()
    }

    /// Starts a check on a connection, as xinetd does: all three standard descriptors are the
    /// client's socket. Returns the client's end.
    pub fn connect(&self, arguments: &[&str]) -> Client {
        connect(self.command().args(arguments))
    }

    /// The answer to a well-behaved client.
    pub fn get(&self, arguments: &[&str]) -> String {
        self.ask(arguments, GET)
    }

    /// The answer to this request.
    pub fn ask(&self, arguments: &[&str], request: &[u8]) -> String {
        requesting(self.command().args(arguments), request).answer()
    }
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn simulated_s9s() -> PathBuf {
    project().join("tests/sim/s9s")
}

/// The addresses that every test's network has, on its loopback interface.
const HERE: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.9",
    "10.0.0.10",
    "10.0.0.101",
    "10.0.0.102",
    "10.0.0.103",
    "fd00::7",
];

/// Gives the calling thread, and what it starts from then on, a network of its own: RPC_BIND_ADDRESSES may
/// only name addresses that the machine has, and no port is another test's.
pub fn enter_network() {
    thread_local! {
        static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    }
    if IS_INSIDE.replace(true) {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
    let addresses = HERE.map(|address| format!("address add {address} dev lo\n"));
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!("link set lo up\n{}", addresses.concat());
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

/// A loopback address that nobody else in the test's network uses.
pub fn loopback() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    enter_network();
    Ipv4Addr::new(127, 0, 1, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The simulated controllers, of which this address is the one leader.
pub fn controllers(leader: &str) -> String {
    let rows = ["10.0.0.101", "10.0.0.102", "10.0.0.103"].map(|address| match address == leader {
        true => format!("l\t1.7.4.3565\tsystem\tadmins\t{address}\t{address}\t9501\tActing as leader.\n"),
        false => format!("f\t1.7.4.3565\tsystem\tadmins\t{address}\t{address}\t9501\tAccepting heartbeats.\n"),
    });
    rows.concat()
}

/// A command for a `program` that starts the check, with only the check's environment.
pub fn starting(program: &str, check: &Command) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for (name, value) in check.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

/// The check, with a fault that strace injects into its system calls and those of what it starts.
pub fn with_fault(fault: &str, check: &Command) -> Command {
    traced(&["-f"], fault, check)
}

/// The listener, with a fault in its own system calls; those of its checks have none.
pub fn with_own_fault(fault: &str, listener: &Command) -> Command {
    traced(&[], fault, listener)
}

fn traced(options: &[&str], fault: &str, check: &Command) -> Command {
    let mut traced = starting("strace", check);
    traced.args(options);
    traced.args(["-qq", "-o", "/dev/null", "-e", &format!("inject={fault}")]);
    traced.arg(check.get_program()).args(check.get_args());
    traced
}

/// The same command, run by a shell script in its own namespaces; the script ends with `exec "$@"`.
pub fn in_namespaces(kinds: &[&str], script: &str, command: &Command) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(kinds).args(["sh", "-euc", script, "sh"]);
    outer.arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    outer.stdin(Stdio::null());
    outer
}

/// All processes of the machine.
pub fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())
}

/// A process's parent.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the parent's id is the second word behind the program's name.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// How long ago a process was started, in steps of 10 ms.
pub fn age(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the 20th word behind the program's name is the start, in clock ticks since boot.
    let ticks: u64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    let now: Duration = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into();
    Some(now.saturating_sub(Duration::from_millis(ticks * 10)))
}

/// Whether the check waits for another one's verdict: it has a lock file open, and no lock.
pub fn waits_for_a_verdict(pid: u32) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let is_lock = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name == "lock" || name.starts_with("lock-")
    };
    let mut paths = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut holders = locks.split_whitespace();
    paths.any(is_lock) && !holders.any(|word| word == pid.to_string())
}

/// A daemon that a test has started. It is ended with the test, if it has not ended before.
pub struct Daemon(pub Child);

impl Daemon {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal(Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Tells the other threads of a scope that the scope is over, also after a panic.
pub struct AtEnd<'a>(pub &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until `what` is so; fails when that takes longer than [`PATIENCE`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether one of a few attempts succeeds: for a condition that may fail on a machine that is busy at
/// the wrong moment.
pub fn once_in_a_while(attempt: impl FnMut() -> bool) -> bool {
    std::iter::repeat_with(attempt).take(5).any(|succeeded| succeeded)
}
