//! The packages that `deploy/package.sh` has left in target/dist, installed, changed and removed by the
//! real apt, dpkg and rpm on freshly booted Debians. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::cluster::{Folder, GET, LEADER, project, simulated_s9s, unknown, wait_until};
use crate::systemd::Systemd;

const DEBIANS: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// How long a handover between xinetd and systemd may take.
const HANDOVER: Duration = Duration::from_secs(2);

const SERVICE: &str = "/etc/xinetd.d/cmonhachk";
const PURGE: &str = "DEBIAN_FRONTEND=noninteractive apt-get purge -qq -y cmonhachk cmonhachk-xinetd";

/// What the article has operators write, with a program of their own behind it.
const OWN_SERVICE: &str = "service cmonhachk
{
        flags           = REUSE
        socket_type     = stream
        port            = 9201
        wait            = no
        user            = root
        server          = /usr/local/bin/own
        disable         = no
        only_from       = 0.0.0.0/0
}
";

/// A booted node with a simulated cluster that it leads; the packages are below /opt.
struct Node {
    systemd: Systemd,
    _folder: Folder,
}

impl Node {
    fn boot(suite: &str) -> Node {
        let made = Command::new(project().join("tests/root.sh"))
            .arg(suite)
            .status()
            .unwrap();
        assert!(made.success(), "no root for {suite}");
        let folder = Folder::new();
        let prepare = format!(
            "cp {dist}/*.deb {dist}/*.rpm {sim} opt
             mkdir -m 777 opt/cluster
             printf '#!/bin/sh\\nS9S_SIM=/opt/cluster exec sh /opt/s9s \"$@\"\\n' >usr/local/bin/s9s
             printf '#!/bin/sh\\nexec /usr/bin/env CMONHACHK_LOCK_FILE=/run/own.lock /opt/cmonhachk\\n' >usr/local/bin/own
             cp {dist}/cmonhachk opt
             chmod 755 usr/local/bin/*
             echo 'RPC_BIND_ADDRESSES=\"127.0.0.1,10.0.0.101\"' >etc/default/cmon
             printf 'l\\t2.3.4\\tsystem\\tadmins\\t10.0.0.101\\t10.0.0.101\\t9501\\tActing as leader.\\n' >opt/cluster/controllers
             mkdir etc/systemd/system/cmonhachk@.service.d
             printf '[Service]\\nReadWritePaths=/opt/cluster\\n' >etc/systemd/system/cmonhachk@.service.d/own.conf",
            dist = project().join("target/dist").display(),
            sim = simulated_s9s().display(),
        );
        let root = project().join("target/roots").join(suite);
        let systemd = Systemd::boot_root(&folder, &root, "multi-user.target", &prepare);
        Node {
            systemd,
            _folder: folder,
        }
    }

    /// What a command prints that must succeed.
    fn run(&self, command: &str) -> String {
        let output = self.systemd.output(command);
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{command}: {said}");
        said
    }

    fn install(&self, options: &str, packages: &[&str]) -> String {
        self.run(&format!("{} {}", apt_get(options), packages.join(" ")))
    }

    /// The state of a unit, and whether it is enabled.
    fn state(&self, unit: &str) -> String {
        let command = format!("systemctl is-active {unit}; systemctl is-enabled {unit} 2>/dev/null");
        self.systemd.run(&command).replace('\n', " ").trim_end().to_string()
    }

    fn pid(&self, program: &str) -> String {
        self.run(&format!("pgrep --exact --oldest {program}"))
    }

    /// Who listens on the port, or what ss says.
    fn listener(&self) -> String {
        let said = self
            .systemd
            .run("ss --listening --tcp --numeric --processes 'sport = 9201'");
        let names = |name: &&str| said.contains(&format!("\"{name}\""));
        ["xinetd", "systemd"]
            .into_iter()
            .find(names)
            .unwrap_or(&said)
            .to_string()
    }

    /// The names of all files and folders on the disk, and when each file was changed, but for what
    /// packages, accounts and units are kept in.
    fn files(&self) -> BTreeSet<String> {
        let said = self.run(
            "find / -xdev \\( -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path /opt \\
             -o -path /var/lib/systemd -o -path /var/lib/rpm -o -path /root -o -path /etc/ld.so.cache -o -path '/etc/*shadow*' \\
             -o -path '/etc/passwd*' -o -path '/etc/group*' -o -path /etc/.pwd.lock \\) -prune \\
             -o -type d -print -o -printf '%p %C@\n'",
        );
        said.lines().map(str::to_string).collect()
    }

    /// The paths that are there now and were not, or the other way round, or have changed.
    fn differences(&self, before: &BTreeSet<String>) -> Vec<String> {
        let now = self.files();
        let lines = before.symmetric_difference(&now);
        lines.map(|line| line.split(' ').next().unwrap().to_string()).collect()
    }

    /// Gives the same answer from here on, seen from outside.
    fn leads(&self) {
        wait_until("the node answers", || self.systemd.curl() == LEADER);
    }

    /// Checks one after the other during `act`; the longest time without a right answer.
    fn gap_during(&self, act: impl FnOnce()) -> Duration {
        let poll = Poll::start(&self.systemd);
        act();
        poll.gap()
    }
}

fn apt_get(options: &str) -> String {
    format!(
        "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 {options}"
    )
}

/// The package's file on a node.
fn deb(name: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match name {
        "cmonhachk" => format!("/opt/cmonhachk_{version}_amd64.deb"),
        _ => format!("/opt/{name}_{version}_all.deb"),
    }
}

/// The same package with another version, made by nfpm as deploy/package.sh does it, put on the node.
fn make_version(node: &Node, version: &str, kind: &str) {
    let tools = fs::read_dir(project().join("target/tools")).unwrap();
    let nfpm = tools
        .map(|entry| entry.unwrap().path().join("bin/nfpm"))
        .find(|nfpm| nfpm.exists());
    for (package, architecture) in [("cmonhachk", "amd64"), ("cmonhachk-xinetd", "all")] {
        let made = Command::new(nfpm.as_ref().expect("deploy/package.sh has been run"))
            .args(["package", "--packager", kind, "--config"])
            .arg(project().join(format!("deploy/package/{package}.yaml")))
            .arg("--target")
            .arg(node.systemd.root().join("opt"))
            .envs([("VERSION", version), ("ARCH", architecture)])
            .current_dir(project())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }
}

/// Checks by a client that never stops.
struct Poll {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Poll {
    fn start(systemd: &Systemd) -> Poll {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, network) = (over.clone(), systemd.network());
        let thread = thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            let (mut right, mut gap) = (Instant::now(), Duration::ZERO);
            let mut failed = false;
            while !ends.load(Ordering::Relaxed) {
                let answer = ask_once();
                if answer.as_deref() == Some(LEADER) {
                    if failed {
                        gap = gap.max(right.elapsed());
                    }
                    right = Instant::now();
                    failed = false;
                } else {
                    failed = true;
                }
                // xinetd takes a service offline that has no `cps` and gets more than 50 a second.
                thread::sleep(Duration::from_millis(30));
            }
            if failed { right.elapsed() } else { gap }
        });
        Poll { over, thread }
    }

    /// The longest time without a right answer; none where no check went wrong.
    fn gap(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn ask_once() -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9201)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(GET).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The commands of the block in deploy/README.md that begins so.
fn commands(start: &str) -> String {
    let text = fs::read_to_string(project().join("deploy/README.md")).unwrap();
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with(&format!("    {start}")));
    let block: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!block.is_empty(), "{start}");
    block.join("\n")
}

#[test]
fn from_installation_to_purge_no_answer_is_lost_and_nothing_is_left() {
    for suite in DEBIANS {
        let node = Node::boot(suite);
        let before = node.files();
        node.install("", &[&deb("cmonhachk")]);
        assert_eq!(node.systemd.curl(), LEADER, "{suite}");
        assert_eq!(node.state("cmonhachk.socket"), "active enabled");
        let rights = node.run("cd /var/lib/cmonhachk && stat --format '%a %U %n' . .s9s /run/cmonhachk");
        assert_eq!(rights, "755 root .\n700 cmonhachk .s9s\n700 cmonhachk /run/cmonhachk\n");
        assert_eq!(node.run("dpkg --verify cmonhachk"), "");

        make_version(&node, "9.9.9", "deb");
        let newer = "/opt/cmonhachk_9.9.9_amd64.deb";
        let poll = node.gap_during(|| {
            node.install("", &[newer]);
            node.install("--allow-downgrades", &[&deb("cmonhachk")]);
            node.install("--reinstall", &[&deb("cmonhachk")]);
        });
        assert_eq!(poll, Duration::ZERO, "{suite}: upgrade, downgrade or reinstallation");

        for (change, state) in [("disable", "inactive disabled"), ("mask", "inactive masked")] {
            node.run(&format!("systemctl {change} --now cmonhachk.socket"));
            node.install("", &[newer]);
            node.install("--allow-downgrades", &[&deb("cmonhachk")]);
            assert_eq!(node.state("cmonhachk.socket"), state, "{suite}");
        }
        node.run("systemctl unmask cmonhachk.socket; systemctl enable --now cmonhachk.socket");
        node.leads();

        node.run("touch /var/lib/cmonhachk/.s9s/s9s.conf; apt-get remove -qq -y cmonhachk");
        assert_eq!(node.systemd.curl(), "", "{suite}: nobody serves the port");
        node.install("", &[&deb("cmonhachk")]);
        node.leads();
        assert!(node.systemd.root().join("var/lib/cmonhachk/.s9s/s9s.conf").exists());

        node.run("touch /etc/default/cmonhachk");
        node.run(PURGE.trim_end_matches(" cmonhachk-xinetd"));
        assert_eq!(node.differences(&before), ["/etc/default/cmonhachk"], "{suite}");
        assert_eq!(
            node.run("cd /run && ls -d cmonhachk* /dev/shm/cmonhachk* 2>&1 | grep -c cannot"),
            "2\n"
        );
        assert_eq!(node.run("systemctl list-units --all --no-legend 'cmonhachk*'"), "");
        assert!(
            node.run("getent passwd cmonhachk").ends_with(":/usr/sbin/nologin\n"),
            "the manual says so"
        );
    }
}

#[test]
fn xinetd_takes_the_port_over_and_gives_it_back_without_a_restart() {
    for suite in DEBIANS {
        let node = Node::boot(suite);
        let before = node.files();
        node.install("", &[&deb("cmonhachk"), "xinetd"]);
        let xinetd = node.pid("xinetd");
        let gap = node.gap_during(|| {
            node.install("", &[&deb("cmonhachk-xinetd")]);
            node.leads();
        });
        assert!(gap < HANDOVER, "{suite}: {gap:?}");
        assert_eq!(
            (node.listener().as_str(), node.state("cmonhachk.socket").as_str()),
            ("xinetd", "inactive enabled")
        );

        make_version(&node, "9.9.9", "deb");
        let newer = ["/opt/cmonhachk_9.9.9_amd64.deb", "/opt/cmonhachk-xinetd_9.9.9_all.deb"];
        let gap = node.gap_during(|| {
            node.install("", &newer);
            node.install("--allow-downgrades", &[&deb("cmonhachk"), &deb("cmonhachk-xinetd")]);
        });
        assert_eq!(gap, Duration::ZERO, "{suite}");

        node.run(&format!("sed -i 's/^ *only_from.*/only_from = 127.0.0.1/' {SERVICE}"));
        let narrowed = node.run(&format!("cat {SERVICE}"));
        let gap = node.gap_during(|| {
            node.run("apt-get remove -qq -y cmonhachk-xinetd");
            node.leads();
        });
        assert!(gap < HANDOVER, "{suite}: {gap:?}");
        assert_eq!(
            (node.listener().as_str(), node.state("cmonhachk.socket").as_str()),
            ("systemd", "active enabled")
        );

        node.install("", &[&deb("cmonhachk-xinetd")]);
        assert_eq!(node.listener(), "xinetd");
        assert_eq!(node.run(&format!("cat {SERVICE}")), narrowed, "edits come back");
        assert_eq!(node.pid("xinetd"), xinetd, "{suite}: it was not restarted");

        node.run(PURGE);
        assert_eq!(node.systemd.curl(), "", "{suite}: nobody serves the port");
        node.run("apt-get purge -qq -y xinetd && apt-get autoremove --purge -qq -y");
        assert_eq!(node.differences(&before), [""; 0], "{suite}");
    }
}

#[test]
fn an_operators_own_xinetd_file_goes_on_serving_until_the_operator_says_otherwise() {
    for suite in DEBIANS {
        let node = Node::boot(suite);
        node.install("", &["xinetd"]);
        fs::write(node.systemd.root().join(&SERVICE[1..]), OWN_SERVICE).unwrap();
        node.run("echo cmonhachk 9201/tcp >>/etc/services; invoke-rc.d xinetd reload");
        node.leads();
        let is_left_alone = || {
            assert_eq!(node.run(&format!("cat {SERVICE}")), OWN_SERVICE, "{suite}");
            assert_eq!(node.listener(), "xinetd", "{suite}");
        };
        let gap = node.gap_during(|| {
            let said = node.install("", &[&deb("cmonhachk")]);
            assert!(said.contains(&format!("port 9201 is xinetd's, by {SERVICE}")), "{said}");
            is_left_alone();
            // Nor does a boot start it.
            node.run("systemctl start cmonhachk.socket");
            is_left_alone();
            // dpkg asks; nobody is there to answer, so nothing is done.
            let output = node
                .systemd
                .output(&format!("{} {}", apt_get(""), deb("cmonhachk-xinetd")));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("conffile prompt"), "{said}");
            is_left_alone();
            node.run("DEBIAN_FRONTEND=noninteractive dpkg --force-confold --configure cmonhachk-xinetd");
            is_left_alone();
            node.run("apt-get remove -qq -y cmonhachk-xinetd");
            is_left_alone();
        });
        assert_eq!(gap, Duration::ZERO, "{suite}");
        let gap = node.gap_during(|| {
            node.run(&commands("rm /etc/xinetd.d/cmonhachk"));
            node.leads();
        });
        assert!(gap < HANDOVER, "{suite}: {gap:?}");
        assert_eq!(
            (node.listener().as_str(), node.state("cmonhachk.socket").as_str()),
            ("systemd", "active enabled")
        );
    }
}

/// What the former deploy/install.sh put on a node.
fn as_install_sh_left_it(node: &Node, with: &str) -> Vec<String> {
    let root = node.systemd.root();
    let place = |path: &str, text: &str| {
        let path = root.join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(
            path,
            text.replace("/usr/sbin/", "/usr/local/sbin/")
                .replace("\nConditionPathExists=", "\n#"),
        )
        .unwrap();
    };
    let deployed = |name: &str| fs::read_to_string(project().join("deploy").join(name)).unwrap();
    node.run(
        "useradd --system --user-group --home-dir /var/lib/cmonhachk --shell /usr/sbin/nologin cmonhachk
        install -D -m 755 /opt/cmonhachk /usr/local/sbin/cmonhachk
        install -d -m 700 -o cmonhachk -g cmonhachk /var/lib/cmonhachk/.s9s",
    );
    let mut files = vec!["/usr/local/sbin/cmonhachk"];
    if with == "xinetd" {
        node.install("", &["xinetd"]);
        place(SERVICE, &deployed("xinetd/cmonhachk"));
        place(
            "/etc/tmpfiles.d/cmonhachk.conf",
            "d /run/cmonhachk 0700 cmonhachk cmonhachk -\n",
        );
        node.run("systemd-tmpfiles --create cmonhachk.conf; invoke-rc.d xinetd reload");
        files.extend([SERVICE, "/etc/tmpfiles.d/cmonhachk.conf"]);
    } else {
        let units = [
            "/etc/systemd/system/cmonhachk.socket",
            "/etc/systemd/system/cmonhachk@.service",
        ];
        for unit in units {
            place(unit, &deployed(&unit.replace("/etc/systemd/system", "systemd")));
        }
        node.run("systemctl daemon-reload; systemctl enable --now cmonhachk.socket");
        files.extend(units);
        files.push("/etc/systemd/system/sockets.target.wants/cmonhachk.socket");
    }
    let record: Vec<String> = files.iter().map(|file| format!("0 - {file}\n")).collect();
    place(
        "/var/lib/cmonhachk/installed",
        &(record.concat() + "made - cmonhachk\n"),
    );
    node.leads();
    files.into_iter().map(str::to_string).collect()
}

#[test]
fn a_node_that_install_sh_has_set_up_is_told_so_and_moves_as_the_manual_says() {
    for (suite, with) in [("bookworm", "systemd"), ("trixie", "xinetd"), ("bookworm", "xinetd")] {
        let node = Node::boot(suite);
        let files = as_install_sh_left_it(&node, with);
        let sums = format!("md5sum {}", files.join(" "));
        let before = node.run(&sums);
        let gap = node.gap_during(|| {
            let said = node.install("", &[&deb("cmonhachk")]);
            for file in &files {
                assert!(said.contains(&format!("\n  {file}\n")), "{file}: {said}");
            }
            assert_eq!(node.run(&sums), before);
            node.leads();
        });
        assert_eq!(gap, Duration::ZERO, "{suite} {with}");
        let gap = node.gap_during(|| {
            node.run(&commands("rm -f /etc/xinetd.d"));
            node.leads();
        });
        assert!(gap < HANDOVER, "{suite} {with}: {gap:?}");
        assert_eq!(
            (node.listener().as_str(), node.state("cmonhachk.socket").as_str()),
            ("systemd", "active enabled")
        );
        for file in files.iter().filter(|file| !file.contains("wants")) {
            assert!(!node.systemd.root().join(&file[1..]).exists(), "{file}");
        }
        let unit = node.run("systemctl show --property FragmentPath cmonhachk.socket");
        assert!(unit.contains("/lib/systemd/system/cmonhachk.socket"), "{unit}");
    }
}

#[test]
fn the_first_check_says_what_to_type_for_credentials_and_that_works() {
    let node = Node::boot("trixie");
    node.install("", &[&deb("cmonhachk")]);
    node.run("echo login >/opt/cluster/behaviour; rm -f /run/cmonhachk/*");
    assert_eq!(node.systemd.curl(), unknown("s9s-no-user"));
    for (give, user) in [
        (commands("install -m 0600 -o cmonhachk"), "cmonhachk"),
        (commands("cp -r /root"), "admin"),
    ] {
        node.run("rm -rf /var/lib/cmonhachk/.s9s/*; mkdir -p /root/.s9s; echo cmon_user=admin >/root/.s9s/s9s.conf; touch /root/.s9s/admin.key");
        node.run(&give);
        let expected = format!("cmonhachk /var/lib/cmonhachk {user}\n");
        wait_until("the credentials are used", || {
            node.systemd.curl() == LEADER && node.run("cat /opt/cluster/who") == expected
        });
        let rights = node.run("stat --format '%a %U' /var/lib/cmonhachk/.s9s /var/lib/cmonhachk/.s9s/s9s.conf");
        assert_eq!(rights, "700 cmonhachk\n600 cmonhachk\n");
    }
}

#[test]
fn rpm_installs_upgrades_verifies_and_erases_the_same() {
    let node = Node::boot("trixie");
    // What makes it a Debian to the scripts.
    node.install("", &["xinetd"]);
    node.run("rm /usr/bin/deb-systemd-* /usr/sbin/invoke-rc.d");
    let before = node.files();
    let rpm = |version: &str| format!("/opt/cmonhachk-{version}-1.x86_64.rpm");
    let this = env!("CARGO_PKG_VERSION");
    // The packages that they depend on are dpkg's here.
    node.run(&format!("rpm --install --nodeps {}", rpm(this)));
    assert_eq!(node.systemd.curl(), LEADER);
    assert_eq!(node.state("cmonhachk.socket"), "active enabled");
    assert_eq!(node.run("rpm --verify --nodeps cmonhachk"), "");
    assert!(node.run("rpm --query --info cmonhachk").contains("License     : MIT"));
    make_version(&node, "9.9.9", "rpm");
    let gap = node.gap_during(|| {
        node.run(&format!("rpm --upgrade --nodeps {}", rpm("9.9.9")));
        node.run(&format!("rpm --upgrade --oldpackage --nodeps {}", rpm(this)));
    });
    assert_eq!(gap, Duration::ZERO);
    node.run("systemctl disable --now cmonhachk.socket");
    node.run(&format!("rpm --upgrade --nodeps {}", rpm("9.9.9")));
    assert_eq!(node.state("cmonhachk.socket"), "inactive disabled");
    node.run("systemctl enable --now cmonhachk.socket");

    let xinetd = node.pid("xinetd");
    let gap = node.gap_during(|| {
        node.run("rpm --install --nodeps /opt/cmonhachk-xinetd-9.9.9-1.noarch.rpm");
        wait_until("xinetd has the port", || node.listener() == "xinetd");
        node.run("rpm --erase cmonhachk-xinetd");
        wait_until("systemd has the port", || node.listener() == "systemd");
        node.leads();
    });
    assert!(gap < HANDOVER, "{gap:?}");
    assert_eq!(node.pid("xinetd"), xinetd);
    node.run("rpm --erase cmonhachk");
    assert_eq!(node.systemd.curl(), "");
    let left = ["/var/lib/cmonhachk", "/var/lib/cmonhachk/.s9s"];
    assert_eq!(node.differences(&before), left, "the manual says so");
}
