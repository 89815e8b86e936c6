//! Each keepalived follows the file of cmonhachk-front.service as deploy/keepalived/keepalived.conf wants it. One
//! node, without others; front.rs has three.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Daemon, Folder, in_namespaces, parent, processes, project, wait_until};
use crate::versions::{Versions, on_each_system};

on_each_system! {
    the_address_is_there_while_the_file_has_a_one,
}

fn the_address_is_there_while_the_file_has_a_one(versions: &Versions) {
    follows_the_file(&|| versions.keepalived());
}

mod nightly {
    /// 2.1.5, beside an HAProxy that is too old for us.
    #[test]
    fn the_address_is_there_while_the_file_has_a_one_on_debian_11() {
        super::follows_the_file(&|| crate::versions::in_usr_of("bullseye-front", "keepalived"));
    }
}

/// A keepalived needs 3.7 s to find out that nobody else has the address.
const TAKEOVER: Duration = Duration::from_secs(5);

/// keepalived in a network of its own, with a /run of its own.
struct Keepalived<'a> {
    program: &'a dyn Fn() -> Command,
    folder: Folder,
    process: Daemon,
}

impl<'a> Keepalived<'a> {
    /// Starts it where the folder is there and the file is missing, as after a boot.
    fn start(program: &'a dyn Fn() -> Command) -> Keepalived<'a> {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        for line in [
            "link set lo up",
            "link add eth1 up type veth peer name switch",
            "link set switch up",
            "addr add 10.0.0.101/24 dev eth1",
        ] {
            let status = Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        let folder = Folder::new();
        fs::create_dir_all(folder.join("run/keepalived-cmonhachk")).unwrap();
        let process = run(program, &folder);
        Keepalived {
            program,
            folder,
            process,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("run/keepalived-cmonhachk/haproxy")
    }

    /// As the shell of cmonhachk-front.service does: the file is empty for a moment.
    fn write(&self, text: &str) {
        fs::write(self.file(), format!("{text}\n")).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn becomes(&self, what: &str, has: bool) {
        let start = Instant::now();
        while has_address() != has {
            assert!(start.elapsed() < 3 * TAKEOVER, "{what}: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{what}: after {:.2?}", start.elapsed());
    }

    fn stays(&self, what: &str, has: bool) {
        let start = Instant::now();
        while start.elapsed() < TAKEOVER {
            assert_eq!(has_address(), has, "{what}: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn restart(&mut self, signal: Signal) {
        end(&mut self.process, signal, &self.folder.join("run"));
        self.process = run(self.program, &self.folder);
    }
}

/// Ends keepalived by a signal to its first process. What it leaves in this /run is no reason not to start again.
pub fn end(keepalived: &mut Daemon, signal: Signal, run: &Path) {
    let first = keepalived.0.id();
    let others: Vec<u32> = processes().filter(|pid| parent(*pid) == Some(first)).collect();
    keepalived.signal(signal);
    keepalived.0.wait().unwrap();
    if signal == Signal::SIGKILL {
        // They end with their parent, but not those of 2.1.5 once they have looked at a script as its user: from then
        // on, the kernel tells them nothing of their parent's death.
        for pid in &others {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
    wait_until("all of keepalived has ended", || {
        !others.iter().any(|pid| is_alive(*pid))
    });
    // This machine may not have collected that process yet; then a pid file still seems to be right.
    for name in ["keepalived.pid", "vrrp.pid"] {
        let _ = fs::remove_file(run.join(name));
    }
}

fn run(program: &dyn Fn() -> Command, folder: &Folder) -> Daemon {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let template = project().join("deploy/keepalived/keepalived.conf");
    let mut keepalived = program();
    keepalived
        .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"])
        .args([
            "--pid",
            "/run/keepalived.pid",
            "--vrrp_pid",
            "/run/vrrp.pid",
            "--use-file",
        ])
        .arg(template);
    let script = format!("mount --bind {} /run; exec \"$@\"", folder.join("run").display());
    let mut inside = in_namespaces(&["--mount"], &script, &keepalived);
    inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    inside.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Daemon(inside.spawn().unwrap())
}

fn has_address() -> bool {
    let shown = Command::new("ip")
        .args(["-o", "addr", "show", "to", "10.0.0.130"])
        .output();
    !shown.unwrap().stdout.is_empty()
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

fn follows_the_file(program: &dyn Fn() -> Command) {
    let mut keepalived = Keepalived::start(program);
    keepalived.stays("without a file", false);
    keepalived.write("1");
    keepalived.becomes("the file appears with 1", true);
    keepalived.write("0");
    keepalived.becomes("0", false);
    keepalived.write("1");
    keepalived.becomes("1", true);

    keepalived.process.signal(Signal::SIGHUP);
    keepalived.write("1");
    keepalived.stays("a reload, and 1 again", true);

    fs::remove_file(keepalived.file()).unwrap();
    keepalived.becomes("the file is gone", false);
    keepalived.write("1");
    keepalived.becomes("the file is back", true);

    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        keepalived.write("1");
        keepalived.becomes("before a start", true);
        keepalived.restart(signal);
        keepalived.becomes("1 after a start", true);
        // No keepalived has written into it.
        assert_eq!(fs::read_to_string(keepalived.file()).unwrap(), "1\n");
    }
    keepalived.write("0");
    keepalived.becomes("0 after a start", false);
    keepalived.restart(Signal::SIGKILL);
    keepalived.stays("started with 0", false);
    assert_eq!(fs::read_to_string(keepalived.file()).unwrap(), "0\n");
}
