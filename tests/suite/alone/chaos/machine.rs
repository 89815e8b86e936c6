//! The machine that suffers: namespaces, xinetd in them, and handles on processes to kill.

use std::fs;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Daemon, Node, in_namespaces, loopback, parent, processes, project, wait_until};

/// The test's own machine: its processes and its mounts, which all end with it.
pub struct Machine<'a> {
    pub cluster: &'a Cluster,
    holder: Daemon,
    /// Its process 1.
    init: u32,
    /// The folder of the lock file: a small disk.
    pub locks: PathBuf,
    node: Node<'a>,
    pub address: SocketAddrV4,
}

impl Machine<'_> {
    pub fn new(cluster: &Cluster) -> Machine<'_> {
        let folder = &cluster.folder;
        let locks = folder.join("locks");
        fs::create_dir(&locks).unwrap();
        // This user has no other processes than the checks', so that they can be counted.
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let user = 63_000 + std::process::id() % 1000;
        let passwd = folder.write("passwd", format!("{passwd}chaos:x:{user}:65534::/:/bin/false\n"));
        let script = format!(
            "mount --bind {} /etc/passwd; mount -t tmpfs -o size=64k,mode=1777 tmpfs {};\n\
             mount -t tmpfs -o mode=1777 tmpfs /dev/shm; exec \"$@\"",
            passwd.display(),
            locks.display(),
        );
        let mut init = Command::new("sh");
        // The shell waits all the time, so that it reaps orphans.
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

    /// A command that runs on this machine.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", &self.init.to_string(), program]);
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) {
        assert!(self.command(program).args(arguments).status().unwrap().success());
    }

    /// The folder of the lock file as this machine sees it.
    pub fn disk(&self) -> PathBuf {
        let path = self.locks.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.init)).join(path)
    }

    /// The names of all processes on this machine except its first and `sleep`. Processes that have died
    /// and are not reaped count, too.
    pub fn processes(&self, xinetd: &Xinetd) -> Vec<String> {
        let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let here = namespace(self.init);
        // If a process's namespace cannot be read, its parent counts. Orphans are children of the first.
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
        // While unshare waits for the first process, only SIGKILL ends it. The first process dies with it.
        self.holder.signal(Signal::SIGKILL);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_string()
}

/// xinetd on that machine, with the deployed service except for its limits and its log.
pub struct Xinetd {
    entered: Daemon,
    pub pid: u32,
    /// How many descriptors it had open at the start.
    pub descriptors: usize,
    pub started: Instant,
}

impl Xinetd {
    pub fn start(machine: &Machine<'_>, instances: usize) -> Xinetd {
        let folder = &machine.cluster.folder;
        let log = folder.join("xinetd.log");
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
            ("= cmonhachk\n", "= chaos\n".to_string()),
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
            // A child of a killed xinetd may hold the port until it executes its program. xinetd tries
            // ten times without a pause, then goes on without the port.
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

    /// Limits the descriptors and processes of its checks; None means many. xinetd's own descriptors
    /// suffice for one connection at a time, and its processes are root's.
    pub fn limit(&self, descriptors: Option<usize>, processes: Option<usize>) {
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

/// A handle on a process: no other process can take its id between a look at it and a signal to it.
pub struct Held {
    pid: u32,
    descriptor: OwnedFd,
}

impl Held {
    pub fn new(pid: u32) -> Option<Held> {
        // SAFETY: takes integers.
        let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).ok()?;
        // SAFETY: the kernel has just made it, for us.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
        Some(Held { pid, descriptor })
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        let environment = fs::read_to_string(format!("/proc/{}/environ", self.pid)).ok()?;
        let mut assignments = environment.split('\0').filter_map(|text| text.split_once('='));
        assignments.find_map(|(other, value)| (other == name).then(|| value.to_string()))
    }

    pub fn is_check(&self) -> bool {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid));
        program.is_ok_and(|program| program.ends_with("cmonhachk"))
    }

    pub fn kill(&self) {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: without a siginfo_t it takes integers. If the process is gone by now, that is no error.
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
