//! Under systemd instead of xinetd, with the units that are deployed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::cluster::{Cluster, Folder, LEADER, binary, project, unknown, wait_until};

const UNITS: [&str; 2] = ["cmonhachk.socket", "cmonhachk.service"];

/// Copies of the deployed units with the program that was built: when systemd checks a unit, its
/// program must exist.
fn units(cluster: &Cluster) -> Vec<PathBuf> {
    let copy = |name: &str| {
        let unit = fs::read_to_string(project().join("deploy/systemd").join(name)).unwrap();
        let unit = unit.replace("/usr/sbin/cmonhachk", binary());
        cluster.folder.write(name, unit)
    };
    UNITS.into_iter().map(copy).collect()
}

#[test]
fn the_units_are_valid_without_a_warning() {
    let cluster = Cluster::new();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units(&cluster))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_service_is_exposed_as_little_as_s9s_allows() {
    let cluster = Cluster::new();
    let service = &units(&cluster)[1];
    // The threshold is in tenths.
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(service)
        .output()
        .unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
}

/// Puts the units, the program and a simulated cluster into a root with nothing else to start. `$1` to
/// `$3` are the folder, the project and the binary.
const PREPARE: &str = r#"
    units=etc/systemd/system
    rm -rf $units
    mkdir -p $units/cmonhachk.service.d opt/cluster
    cp "$2"/deploy/systemd/cmonhachk* $units
    cp "$2/deploy/systemd/sysusers.conf" usr/lib/sysusers.d/cmonhachk.conf
    cp "$2/deploy/systemd/tmpfiles.conf" usr/lib/tmpfiles.d/cmonhachk.conf
    rm -f etc/xinetd.d/cmonhachk
    # Each installation would index all manual pages of this machine.
    rm -f var/lib/man-db/auto-update
    cp "$3" usr/sbin/cmonhachk
    cp "$2/tests/sim/s9s" usr/local/bin/s9s
    cp "$1/controllers" opt/cluster
    cp "$2"/target/dist/*.deb opt 2>/dev/null || true
    chroot . systemd-sysusers cmonhachk.conf 2>/dev/null
    chroot . systemd-tmpfiles --create cmonhachk.conf
    chmod 777 opt/cluster
    echo 'RPC_BIND_ADDRESSES="127.0.0.1,10.0.0.101"' >etc/default/cmon
    printf '[Service]\nEnvironment=S9S_SIM=/opt/cluster CMONHACHK_TIMEOUT=15\nReadWritePaths=/opt/cluster\n' \
        >$units/cmonhachk.service.d/simulation.conf
    printf '[Unit]\nRequires=systemd-journald.service cmonhachk.socket\n' >$units/check.target
"#;

/// A systemd that runs in namespaces of its own.
pub struct Systemd {
    unshare: Child,
    pub control_group: PathBuf,
}

impl Systemd {
    /// Boots this machine's systemd, with only the journal and the deployed units.
    pub fn boot(cluster: &Cluster) -> Systemd {
        Systemd::boot_on(cluster, Path::new("/"), "")
    }

    /// The same on another root, in which the shell command `further` is run as well before.
    pub fn boot_on(cluster: &Cluster, root: &Path, further: &str) -> Systemd {
        let words = [cluster.folder.path(), project(), Path::new(binary())].map(|path| path.display().to_string());
        let prepare = format!("set -- {}\n{PREPARE}{further}", words.join(" "));
        let systemd = Systemd::boot_root(&cluster.folder, root, "check.target", &prepare);
        wait_until("systemd listens on the port", || {
            systemd.run("systemctl is-active cmonhachk.socket") == "active\n"
        });
        systemd
    }

    /// Boots a root's own systemd, and waits until it has reached `unit`. What it writes is lost afterwards.
    /// The shell command `prepare` is run in the root before.
    pub fn boot_root(folder: &Folder, root: &Path, unit: &str, prepare: &str) -> Systemd {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let hierarchy = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2")
            .expect("the kernel's unified control groups are mounted")[1];
        let control_group = Path::new(hierarchy).join(folder.path().file_name().unwrap());
        fs::create_dir(&control_group).unwrap();
        fs::create_dir(folder.join("root")).unwrap();
        let unshare = Command::new(project().join("tests/sim/boot-systemd"))
            .args([folder.path(), &control_group, root])
            .args([unit, prepare])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let systemd = Systemd { unshare, control_group };
        wait_until("systemd has booted", || {
            systemd.first_process().is_some() && systemd.run(&format!("systemctl is-active {unit}")) == "active\n"
        });
        systemd
    }

    /// The process of systemd, once it runs.
    pub fn first_process(&self) -> Option<String> {
        let unshare = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let systemd = children.split_whitespace().find(|pid| name(pid) == "systemd\n")?;
        Some(systemd.to_string())
    }

    /// The folder on this machine that holds the system's files.
    pub fn root(&self) -> PathBuf {
        Path::new("/proc").join(self.first_process().unwrap()).join("root")
    }

    /// The system's network.
    pub fn network(&self) -> fs::File {
        let process = self.first_process().expect("systemd runs");
        fs::File::open(format!("/proc/{process}/ns/net")).unwrap()
    }

    /// The outcome of a shell command inside, with the environment that root has there.
    pub fn output(&self, command: &str) -> Output {
        let pid = self.first_process().expect("systemd runs");
        let inside = ["--mount", "--pid", "--net", "--root", "--wd", "env", "-i", "HOME=/root"];
        Command::new("nsenter")
            .args(["--target", &pid])
            .args(inside)
            .args([
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "sh",
                "-c",
                command,
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The output of a shell command inside.
    pub fn run(&self, command: &str) -> String {
        String::from_utf8(self.output(command).stdout).unwrap()
    }

    pub fn curl(&self) -> String {
        self.run("curl --silent --include --max-time 30 http://127.0.0.1:9201/")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The end of its input ends unshare, its child, systemd, and with that all other processes.
        let _ = self.unshare.wait();
        let group = self.control_group.to_str().unwrap();
        wait_until("the control group is empty", || {
            let _ = Command::new("find")
                .args([group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .stderr(Stdio::null())
                .status();
            !self.control_group.exists()
        });
    }
}

#[test]
fn the_units_answer_and_no_burst_of_checks_fails_them_or_piles_them_up() {
    let cluster = Cluster::new();
    let systemd = Systemd::boot(&cluster);
    for _ in 0..3 {
        assert_eq!(systemd.curl(), LEADER);
    }
    // The next check can read a check's verdict, and nobody else can.
    let lock = systemd.run("stat --format '%a %U' /run/cmonhachk /run/cmonhachk/lock");
    assert_eq!(lock, "700 cmonhachk\n600 cmonhachk\n");

    let statuses = systemd.run(
        "curl --silent --parallel --parallel-max 150 --max-time 60 --write-out '%{http_code}\\n' --output /dev/null \
         'http://127.0.0.1:9201/[1-300]'",
    );
    assert_eq!(statuses, "200\n".repeat(300));
    assert_eq!(systemd.run("systemctl is-active cmonhachk.socket"), "active\n");
    wait_until("no process of a check is left", || {
        systemd.run("pgrep -c cmonhachk") == "1\n"
    });
    // There is one line for the change, and none for the start or end of a check.
    let journal = systemd.run("journalctl --no-pager --output cat --identifier cmonhachk");
    assert_eq!(journal.lines().count(), 1, "{journal}");
    assert!(journal.starts_with("none -> leader"), "{journal}");
    let said = systemd.run("journalctl --no-pager --output cat _PID=1 | grep cmonhachk.service");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn the_check_runs_as_a_user_of_its_own_in_a_sandbox_where_s9s_can_do_its_work() {
    let cluster = Cluster::new();
    let systemd = Systemd::boot(&cluster);
    systemd.run("echo login >/opt/cluster/behaviour; mkdir /root/.s9s; echo cmon_user = root >/root/.s9s/s9s.conf");
    assert_eq!(systemd.curl(), unknown("s9s-no-user"));
    systemd.run(
        "cd /var/lib/cmonhachk/.s9s; printf 'cmon_user = check\ncmon_password = x\n' >s9s.conf; \
         chown cmonhachk s9s.conf; chmod 600 s9s.conf",
    );
    wait_until("the last verdict is forgotten", || systemd.curl() == LEADER);
    assert_eq!(
        systemd.run("cat /opt/cluster/who"),
        "cmonhachk /var/lib/cmonhachk check\n"
    );
    let state = systemd.run("stat --format %U /var/lib/cmonhachk/.s9s/s9s.state");
    assert_eq!(state, "cmonhachk\n", "s9s keeps its state");

    // The folder of an earlier installation, whose checks ran as root.
    systemd.run(
        "systemctl stop cmonhachk.service; cd /run/cmonhachk; rm lock; touch lock; chown root . lock; chmod 600 lock",
    );
    assert_eq!(systemd.curl(), LEADER);
    let lock = systemd.run("stat --format '%a %U' /run/cmonhachk /run/cmonhachk/lock");
    assert_eq!(lock, "700 cmonhachk\n600 cmonhachk\n");
}

#[test]
fn a_refused_login_is_not_repeated_whatever_the_lock_file_is() {
    let cluster = Cluster::new();
    let systemd = Systemd::boot(&cluster);
    systemd.run("echo wrong-password >/opt/cluster/behaviour; touch /opt/cluster/runs; chmod 666 /opt/cluster/runs");
    for (setup, reason, logins) in [
        // Root's own in the service's folder, and one below a read-only folder.
        ("touch /run/cmonhachk/lock", "s9s-refused", 1),
        (
            "echo CMONHACHK_LOCK_FILE=/var/lib/cmonhachk/lock >/etc/default/cmonhachk",
            "lock-unusable",
            0,
        ),
    ] {
        systemd.run(&format!("{setup}; : >/opt/cluster/runs"));
        for _ in 0..4 {
            assert_eq!(systemd.curl(), unknown(reason), "{setup}");
        }
        assert_eq!(systemd.run("cat /opt/cluster/runs").lines().count(), logins, "{setup}");
        let journal = systemd.run("journalctl --no-pager --output cat --identifier cmonhachk | tail -n 1");
        assert!(journal.contains(&format!(" -> unknown {reason}: ")), "{journal}");
    }
}

#[test]
fn the_service_that_is_killed_or_restarted_loses_no_answer_but_those_in_hand() {
    let cluster = Cluster::new();
    let systemd = Systemd::boot(&cluster);
    assert_eq!(systemd.curl(), LEADER);
    // Killed, it is there again for the next connection.
    systemd.run("systemctl kill --signal KILL cmonhachk.service");
    assert_eq!(systemd.curl(), LEADER);
    for command in ["try-restart", "stop"] {
        // A check that is under way finishes.
        systemd.run("cd /opt/cluster; rm -f gate runs; echo gate >behaviour; rm -f /run/cmonhachk/lock.verdict");
        let under_way = format!(
            "curl --silent --include --max-time 30 http://127.0.0.1:9201/ & \
             until pgrep --full s9s >/dev/null; do :; done; systemctl {command} cmonhachk.service; \
             cd /opt/cluster; touch gate; wait"
        );
        assert_eq!(systemd.run(&under_way), LEADER, "{command}");
        assert_eq!(systemd.curl(), LEADER, "{command}");
    }
    assert_eq!(systemd.run("systemctl list-units --failed --no-legend"), "");
}

#[test]
fn a_service_that_cannot_start_is_tried_again_with_pauses_until_it_can() {
    let cluster = Cluster::new();
    let systemd = Systemd::boot(&cluster);
    systemd.run("mv /usr/sbin/cmonhachk /opt; curl --silent --max-time 3 http://127.0.0.1:9201/");
    let starts = systemd.run("journalctl --no-pager --output cat _PID=1 | grep --count 'Failed with result'");
    let starts: usize = starts.trim().parse().unwrap();
    assert!((1..=15).contains(&starts), "{starts} starts in three seconds");
    systemd.run("mv /opt/cmonhachk /usr/sbin");
    assert_eq!(systemd.curl(), LEADER);
}

#[test]
fn where_the_socket_is_stopped_nobody_answers_and_the_port_is_free() {
    let cluster = Cluster::new();
    let systemd = Systemd::boot(&cluster);
    assert_eq!(systemd.curl(), LEADER);
    systemd.run("systemctl stop cmonhachk.socket");
    assert_eq!(systemd.curl(), "");
    assert_eq!(
        systemd.run("ss --listening --tcp --no-header 'sport = 9201'; pgrep cmonhachk"),
        ""
    );
    systemd.run("systemctl start cmonhachk.socket");
    assert_eq!(systemd.curl(), LEADER);
}
