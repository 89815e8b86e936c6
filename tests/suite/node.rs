//! Freshly booted Debians on which the packages of `deploy/package.sh` are installed. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::built;
use crate::cluster::{AtEnd, Folder, GET, LEADER, project, wait_until};
use crate::systemd::Systemd;
use crate::versions::root;

/// Puts into the root, before it boots: the packages, a simulated cluster that the node leads, and the
/// operator's own program, which answers as well.
const PREPARE: &str = r#"
    cp "$1"/target/dist/* "$1/tests/sim/s9s" opt 2>/dev/null || true
    mkdir -m 777 opt/cluster
    printf '#!/bin/sh\nS9S_SIM=/opt/cluster exec sh /opt/s9s "$@"\n' >usr/local/bin/s9s
    printf '#!/bin/sh\nCMONHACHK_LOCK_FILE=/run/own.lock exec /opt/cmonhachk\n' >usr/local/bin/own
    chmod 755 usr/local/bin/*
    echo 'RPC_BIND_ADDRESSES="127.0.0.1,10.0.0.101"' >etc/default/cmon
    printf 'l\t2.3.4\tsystem\tadmins\t10.0.0.101\t10.0.0.101\t9501\tActing as leader.\n' >opt/cluster/controllers
    mkdir etc/systemd/system/cmonhachk.service.d
    printf '[Service]\nReadWritePaths=/opt/cluster\n' >etc/systemd/system/cmonhachk.service.d/own.conf
"#;

/// The names of all files and folders on the disk, and when each file was changed, except where the
/// records of packages, accounts and units are kept.
const FILES: &str = r"
    find / -xdev \( -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path /opt \
        -o -path /var/lib/systemd -o -path /var/lib/rpm -o -path /var/lib/dnf -o -path /root -o -path /etc/ld.so.cache -o -path '/etc/*shadow*' \
        -o -path '/etc/passwd*' -o -path '/etc/group*' -o -path /etc/.pwd.lock \) -prune \
        -o -type d -print -o -printf '%p %C@\n'";

/// The package that `deploy/package.sh` has made, as a node finds it.
pub const DEB: &str = concat!(
    "/opt/cmonhachk_",
    env!("CARGO_PKG_VERSION"),
    "_$(dpkg --print-architecture).deb"
);
pub const XINETD_DEB: &str = concat!("/opt/cmonhachk-xinetd_", env!("CARGO_PKG_VERSION"), "_all.deb");

/// What Debian calls this processor.
const DEBIANS_ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

pub struct Node {
    pub systemd: Systemd,
    _folder: Folder,
}

impl Node {
    pub fn boot(suite: &str) -> Node {
        built::packages();
        let root = root(suite);
        let folder = Folder::new();
        let prepare = format!("set -- {}\n{PREPARE}", project().display());
        let systemd = Systemd::boot_root(&folder, &root, "multi-user.target", &prepare);
        Node {
            systemd,
            _folder: folder,
        }
    }

    /// The output of a command, which must succeed.
    pub fn run(&self, command: &str) -> String {
        let output = self.systemd.output(command);
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{command}: {said}");
        said
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.systemd.root().join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn has(&self, path: &str) -> bool {
        self.systemd.root().join(&path[1..]).symlink_metadata().is_ok()
    }

    /// Installs packages, given by name or file, with options for apt if need be.
    pub fn install(&self, packages: &str) -> String {
        self.run(&apt_get_install(packages))
    }

    /// Installs a package's file without apt, which takes four times as long.
    pub fn install_file(&self, package: &str) -> String {
        self.run(&format!("dpkg --install {package}"))
    }

    /// Makes packages of another version, in /opt.
    pub fn make_version(&self, version: &str, kind: &str) {
        make_version(&self.systemd, version, kind);
    }

    /// Makes the package of a version whose postinst leaves the listener as it is, in /opt.
    pub fn make_former_version(&self, kind: &str) {
        let read = |name: &str| fs::read_to_string(project().join("deploy/package").join(name)).unwrap();
        let postinst = read("postinst");
        let lines = postinst.lines().filter(|line| !line.contains("try-restart"));
        let former: Vec<&str> = lines.collect();
        assert!(former.len() < postinst.lines().count());
        self.write("/opt/former-postinst", &former.join("\n"));
        let opt = self.systemd.root().join("opt");
        let path = opt.join("former-postinst");
        let config = read("cmonhachk.yaml").replace("deploy/package/postinst", path.to_str().unwrap());
        self.write("/opt/former.yaml", &config);
        make_package(
            &self.systemd,
            &opt.join("former.yaml"),
            kind,
            &[("VERSION", "0.2.0"), ("ARCH", DEBIANS_ARCH)],
        );
    }

    /// Who listens on the port, or what ss says, and the state of the socket's unit.
    pub fn serves(&self) -> String {
        let said = self.run("ss --listening --tcp --numeric --processes 'sport = 9201'");
        let names = |name: &&str| said.contains(&format!("\"{name}\""));
        let listener = ["xinetd", "systemd"].into_iter().find(names).unwrap_or(&said);
        let state = self
            .systemd
            .run("systemctl is-active cmonhachk.socket; systemctl is-enabled cmonhachk.socket");
        format!("{listener}: {}", state.trim_end().replace('\n', " "))
    }

    /// The inode of the socket that listens on the port: while that is the same, no connection is refused.
    pub fn socket(&self) -> String {
        self.run("ss --listening --tcp --extended 'sport = 9201' | grep --only-matching 'ino:[0-9]*'")
    }

    /// Waits until the listener runs the program that was installed last: systemd starts it a moment before that.
    pub fn answers_from_the_installed_program(&self) {
        let listener = "/proc/$(systemctl show --property MainPID --value cmonhachk.service)/exe";
        let is_installed = format!("test {listener} -ef /usr/sbin/cmonhachk");
        wait_until("the listener runs the installed program", || {
            self.systemd.output(&is_installed).status.success()
        });
    }

    pub fn files(&self) -> BTreeSet<String> {
        self.run(FILES).lines().map(str::to_string).collect()
    }

    /// The paths that are new, gone or changed.
    pub fn differences(&self, before: &BTreeSet<String>) -> Vec<String> {
        let now = self.files();
        let lines = before.symmetric_difference(&now);
        lines.map(|line| line.split(' ').next().unwrap().to_string()).collect()
    }

    /// Waits until the node answers as the leader.
    pub fn leads(&self) {
        wait_until("the node answers", || self.systemd.curl() == LEADER);
    }

    /// Makes one check after the other during `act`. Returns the longest time without a right answer; zero
    /// if every answer was right.
    pub fn gap_during(&self, act: impl FnOnce()) -> Duration {
        let (over, network) = (AtomicBool::new(false), self.systemd.network());
        thread::scope(|scope| {
            let poll = scope.spawn(|| {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                longest_gap(&over)
            });
            let end = AtEnd(&over);
            act();
            drop(end);
            poll.join().unwrap()
        })
    }
}

/// Makes packages of another version, in the system's /opt.
pub fn make_version(systemd: &Systemd, version: &str, kind: &str) {
    for (package, architecture) in [("cmonhachk", DEBIANS_ARCH), ("cmonhachk-xinetd", "all")] {
        let config = project().join(format!("deploy/package/{package}.yaml"));
        make_package(systemd, &config, kind, &[("VERSION", version), ("ARCH", architecture)]);
    }
}

/// Makes a package with nfpm, in the system's /opt.
pub fn make_package(systemd: &Systemd, config: &Path, kind: &str, variables: &[(&str, &str)]) {
    let mut tools = fs::read_dir(project().join("target/tools")).unwrap();
    let nfpm = tools.find_map(|tool| Some(tool.unwrap().path().join("bin/nfpm")).filter(|nfpm| nfpm.exists()));
    let made = Command::new(nfpm.expect("deploy/package.sh has been run"))
        .args(["package", "--packager", kind, "--config"])
        .arg(config)
        .arg("--target")
        .arg(systemd.root().join("opt"))
        .envs(variables.iter().copied())
        .current_dir(project())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

pub fn apt_get_install(packages: &str) -> String {
    let options = "-qq --yes --no-install-recommends --option Dpkg::Use-Pty=0";
    format!("DEBIAN_FRONTEND=noninteractive apt-get install {options} {packages}")
}

fn longest_gap(over: &AtomicBool) -> Duration {
    let (mut right, mut failed, mut longest) = (Instant::now(), false, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let is_right = ask().as_deref() == Some(LEADER);
        if is_right && failed {
            longest = longest.max(right.elapsed());
        }
        if is_right {
            right = Instant::now();
        }
        failed = !is_right;
        // xinetd disables a service without `cps` after 50 connections in what it counts as one second,
        // which may be nearly two.
        thread::sleep(Duration::from_millis(45));
    }
    if failed { right.elapsed() } else { longest }
}

fn ask() -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9201)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(GET).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
