//! deploy/install.sh, with the real programs, in a root of its own: an overlay over this machine's,
//! whose upper layer shows what was touched. Needs root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use crate::cluster::{Folder, binary, project, simulated_s9s, wait_until};

pub const NODES: &str = "--nodes 10.0.0.101,10.0.0.102,10.0.0.103 --binary /run/built";
pub const ALL: &str = "--nodes 10.0.0.101,10.0.0.102,10.0.0.103 --vip 10.0.0.130 --interface eth1 \
    --haproxy --keepalived --binary /run/built";

const BINARY: &str = "/usr/local/sbin/cmonhachk";
pub const SERVICE: &str = "/etc/xinetd.d/cmonhachk";
const SOCKET: &str = "/etc/systemd/system/cmonhachk.socket";
const INSTANCE: &str = "/etc/systemd/system/cmonhachk@.service";
const ENABLED: &str = "/etc/systemd/system/sockets.target.wants/cmonhachk.socket";
const HAPROXY: &str = "/etc/haproxy/haproxy.cfg";
const KEEPALIVED: &str = "/etc/keepalived/keepalived.conf";
const SERVICES: &str = "/etc/services";
pub const TMPFILES: &str = "/etc/tmpfiles.d/cmonhachk.conf";
pub const RECORD: &str = "/var/lib/cmonhachk/installed";
pub const PRIVATE: &str = "/var/lib/cmonhachk/.s9s";
pub const CONF: &str = "/var/lib/cmonhachk/.s9s/s9s.conf";

/// The files in which a user is.
const ACCOUNTS: [&str; 4] = ["/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow"];

/// Makes the root below the folder $1, with the address $4 and the interface eth1, and keeps its
/// namespaces until nobody holds standard input any more. All that was started in them goes then.
const MAKE_ROOT: &str = r#"
    mount -t tmpfs tmpfs "$1"
    cd "$1"
    mkdir upper work root
    mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
    mount -t proc proc root/proc
    mount --rbind /dev root/dev
    mount -t tmpfs -o mode=755 tmpfs root/run
    mount -t tmpfs tmpfs root/tmp
    cp -r "$2" root/run/deploy
    cp "$3" root/run/built
    ip link set lo up
    ip address add "$4/32" dev lo
    ip link add eth1 type veth peer name eth1-peer
    ip link set eth1 up
    ip link set eth1-peer up
    exec chroot root bash -c 'echo ready; read -r _'
"#;

pub struct Root {
    folder: Folder,
    init: Child,
}

/// What came of a command in the root.
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Root {
    pub fn new(address: &str) -> Root {
        let folder = Folder::new();
        let mut init = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--fork", "--kill-child"])
            .args(["sh", "-euc", MAKE_ROOT, "sh"])
            .arg(folder.path())
            .arg(project().join("deploy"))
            .args([binary(), address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(init.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "the root could not be made");
        Root { folder, init }
    }

    /// The first of three nodes, on which everything is installed.
    fn installed() -> Root {
        let root = Root::new("10.0.0.101");
        root.install(ALL).succeeds();
        root
    }

    pub fn run(&self, command: &[&str]) -> Outcome {
        let pid = self.init.id();
        let output = Command::new("nsenter")
            .args(["--target", &pid.to_string(), "--mount", "--net"])
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .args(["timeout", "60", "chroot"])
            .arg(self.folder.join("root"))
            .args(["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Outcome {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn install(&self, arguments: &str) -> Outcome {
        let command: Vec<&str> = ["/run/deploy/install.sh"]
            .into_iter()
            .chain(arguments.split_whitespace())
            .collect();
        self.run(&command)
    }

    /// Where a path of the root is for the test.
    pub fn path(&self, path: &str) -> PathBuf {
        self.outside(&format!("root{path}"))
    }

    fn outside(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        Path::new(&format!("/proc/{}/root", self.init.id())).join(folder.strip_prefix("/").unwrap())
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect(path);
    }

    pub fn append(&self, path: &str, text: &str) {
        self.write(path, &(self.read(path) + text));
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The paths in the upper layer, with when and by which inode each was written.
    fn written(&self) -> BTreeMap<String, (u64, SystemTime)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.outside("upper")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let about = path.symlink_metadata().unwrap();
                let name = format!("/{}", path.strip_prefix(self.outside("upper")).unwrap().display());
                found.insert(name, (about.ino(), about.modified().unwrap()));
                if about.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    /// The files and folders that are not as they are on this machine.
    pub fn touched(&self) -> Vec<String> {
        let differs = |name: &String| {
            let (here, there) = (PathBuf::from(name), self.path(name));
            let (Ok(old), Ok(new)) = (here.symlink_metadata(), there.symlink_metadata()) else {
                return true;
            };
            let attributes = |about: &fs::Metadata| (about.mode(), about.uid(), about.gid());
            attributes(&old) != attributes(&new)
                || match new.file_type() {
                    kind if kind.is_file() => fs::read(here).unwrap() != fs::read(there).unwrap(),
                    kind if kind.is_symlink() => fs::read_link(here).unwrap() != fs::read_link(there).unwrap(),
                    kind => kind.is_char_device(),
                }
        };
        // The accounts' tools leave copies and a lock.
        let left = |name: &String| ACCOUNTS.iter().any(|file| *name == format!("{file}-")) || name == "/etc/.pwd.lock";
        self.written()
            .into_keys()
            .filter(|name| !left(name) && differs(name))
            .collect()
    }

    /// The process ids of the root's xinetd, HAProxy and keepalived, in this order.
    fn services(&self) -> [Option<String>; 3] {
        ["xinetd", "haproxy", "keepalived"].map(|name| {
            let pid = fs::read_to_string(self.path(&format!("/run/{name}.pid"))).ok()?;
            let alive = self.run(&["kill", "-0", pid.trim()]).status == Some(0);
            alive.then_some(pid)
        })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

impl Outcome {
    pub fn succeeds(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// Fails with one sentence that has this in it.
    pub fn fails(self, status: i32, why: &str) {
        assert_eq!(self.status, Some(status), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.starts_with("install: "), "{}", self.stderr);
        assert!(self.stderr.contains(why), "{}, not {why}", self.stderr);
    }
}

fn template(name: &str) -> String {
    fs::read_to_string(project().join("deploy").join(name)).unwrap()
}

fn sorted(mut paths: Vec<&str>) -> Vec<&str> {
    paths.sort_unstable();
    paths
}

#[test]
fn the_first_installation_puts_each_file_where_it_belongs_and_nothing_else() {
    let root = Root::new("10.0.0.101");
    let output = root.install(ALL).succeeds();
    let kept = format!("{HAPROXY}.kept-1");
    assert_eq!(
        root.touched(),
        sorted(vec![
            ACCOUNTS[0],
            ACCOUNTS[1],
            ACCOUNTS[2],
            ACCOUNTS[3],
            PRIVATE,
            TMPFILES,
            BINARY,
            SERVICE,
            SERVICES,
            HAPROXY,
            &kept,
            KEEPALIVED,
            "/var/lib/cmonhachk",
            RECORD
        ])
    );
    assert!(output.contains(&kept), "{output}");
    assert_eq!(root.read(&kept), fs::read_to_string(HAPROXY).unwrap());

    assert!(fs::read(root.path(BINARY)).unwrap() == fs::read(binary()).unwrap());
    assert_eq!(root.path(BINARY).metadata().unwrap().permissions().mode(), 0o100755);
    assert_eq!(
        root.read(SERVICE),
        template("xinetd/cmonhachk").replace("= 127.0.0.1 10.0.0.101", "= 127.0.0.1 ::1 10.0.0.101")
    );
    let line = template("xinetd/services").lines().last().unwrap().to_string();
    assert_eq!(
        root.read(SERVICES),
        fs::read_to_string(SERVICES).unwrap() + &line + "\n"
    );
    assert_eq!(
        root.read(HAPROXY),
        template("haproxy/haproxy.cfg").replace(
            "{ src 127.0.0.0/8 10.0.0.0/24 }",
            "{ src 127.0.0.0/8 ::1 10.0.0.101 10.0.0.102 10.0.0.103 }"
        )
    );
    // The example is the first node's.
    assert_eq!(root.read(KEEPALIVED), template("keepalived/keepalived.conf"));
    assert!(root.services().iter().all(Option::is_some));
}

#[test]
fn it_says_what_the_port_answers_and_why_that_is_unknown() {
    let root = Root::new("10.0.0.101");
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains("http://10.0.0.101:9201/: HTTP/1.1 503 Service Unavailable, unknown\n"),
        "{output}"
    );
    assert!(output.contains("verdict: unknown defaults-missing\n"), "{output}");

    root.write("/etc/default/cmon", "RPC_BIND_ADDRESSES=10.0.0.101\n");
    root.write(
        "/run/controllers",
        "l\t2.3.4.11302\tsystem\tadmins\t10.0.0.101\t10.0.0.101\t9501\tActing as leader.\n",
    );
    root.write(
        "/usr/bin/s9s",
        "#!/bin/sh\nS9S_SIM=/run exec sh /run/simulated-s9s \"$@\"\n",
    );
    fs::set_permissions(root.path("/usr/bin/s9s"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(simulated_s9s(), root.path("/run/simulated-s9s")).unwrap();
    wait_until("the last verdict is forgotten", || {
        let output = root.install(NODES).succeeds();
        output.contains("http://10.0.0.101:9201/: HTTP/1.1 200 OK, leader\n") && !output.contains("verdict")
    });
}

#[test]
fn the_second_installation_changes_and_restarts_nothing() {
    let root = Root::installed();
    let before = (root.written(), root.services());
    let output = root.install(ALL).succeeds();
    assert_eq!((root.written(), root.services()), before);
    assert!(output.ends_with("\nNothing had to be changed.\n"), "{output}");
    assert!(!output.contains("restart "), "{output}");
}

#[test]
fn what_was_stopped_is_started_again_though_nothing_changed() {
    let root = Root::installed();
    root.run(&["service", "haproxy", "stop"]).succeeds();
    let output = root.install(ALL).succeeds();
    assert!(output.contains("restart     haproxy\n"), "{output}");
    assert!(!output.contains("restart     xinetd\n"), "{output}");
    assert!(root.services().iter().all(Option::is_some));
}

#[test]
fn an_edited_file_is_kept_beside_the_new_one_and_named() {
    let root = Root::installed();
    let installed = root.read(SERVICE);
    for number in [1, 2] {
        let edited = installed.replace("9201", &format!("920{}", number + 1));
        root.write(SERVICE, &edited);
        let output = root.install(ALL).succeeds();
        let kept = format!("{SERVICE}.kept-{number}");
        assert!(output.contains(&kept), "{output}");
        assert_eq!(root.read(&kept), edited);
        assert_eq!(root.read(SERVICE), installed);
    }
    assert!(root.read(&format!("{SERVICE}.kept-1")).contains("= 9202\n"));
    // Nor is what is kept in use: xinetd reads whole folders.
    for (port, status) in [("9201", 0), ("9202", 7), ("9203", 7)] {
        let curl = root.run(&["curl", "--silent", &format!("http://10.0.0.101:{port}/")]);
        assert_eq!(curl.status, Some(status), "{port}");
    }
}

#[test]
fn an_upgrade_replaces_the_binary_and_what_depends_on_the_nodes() {
    let root = Root::installed();
    let [xinetd, ..] = root.services();
    let mut other = fs::read(binary()).unwrap();
    other.push(0);
    fs::write(root.path("/run/built"), &other).unwrap();
    let output = root.install(ALL).succeeds();
    assert!(fs::read(root.path(BINARY)).unwrap() == other);
    assert!(output.contains(&format!("changed     {BINARY}\n")), "{output}");
    // Every connection executes it anew.
    assert_eq!(root.services()[0], xinetd);

    let nodes = "10.0.0.109,10.0.0.108,10.0.0.101,10.0.0.107";
    root.install(&ALL.replace("10.0.0.101,10.0.0.102,10.0.0.103", nodes))
        .succeeds();
    assert_ne!(root.services()[0], xinetd);
    let allowed = nodes.replace(',', " ");
    assert!(root.read(SERVICE).contains(&format!("= 127.0.0.1 ::1 {allowed}\n")));
    let haproxy = root.read(HAPROXY);
    assert!(haproxy.contains(&format!("{{ src 127.0.0.0/8 ::1 {allowed} }}\n")));
    for (number, node) in (1..).zip(nodes.split(',')) {
        assert!(haproxy.contains(&format!("    server node{number} {node}:443\n")));
        assert!(haproxy.contains(&format!("    server node{number} {node}:443 track role/node{number}\n")));
    }
    assert_eq!(haproxy.matches("    server node").count(), 8);
    let keepalived = root.read(KEEPALIVED);
    assert!(keepalived.contains("    priority 63 # to change\n"));
    assert!(keepalived.contains("    unicast_src_ip 10.0.0.101 # to change\n"));
    let peers =
        "{\n        10.0.0.109 # to change\n        10.0.0.108 # to change\n        10.0.0.107 # to change\n    }";
    assert!(keepalived.contains(peers), "{keepalived}");
    // What it had installed itself, it does not keep.
    let kept: Vec<String> = root
        .touched()
        .into_iter()
        .filter(|name| name.contains("kept"))
        .collect();
    assert_eq!(kept, [format!("{HAPROXY}.kept-1")]);
}

#[test]
fn one_node_and_nodes_with_ipv6_addresses_are_served_as_well() {
    let root = Root::new("10.0.0.101");
    root.install("--nodes 10.0.0.101 --vip 10.0.0.130 --interface eth1 --haproxy --keepalived --binary /run/built")
        .succeeds();
    assert_eq!(root.read(HAPROXY).matches("    server node").count(), 2);
    assert!(!root.read(KEEPALIVED).contains("\n    unicast"));

    root.run(&["ip", "address", "add", "fd00::1/128", "dev", "lo", "nodad"])
        .succeeds();
    let output = root
        .install("--nodes fd00::2,FD00:0::1 --vip fd00::3 --interface eth1 --haproxy --keepalived --binary /run/built")
        .succeeds();
    assert!(output.contains("http://[fd00::1]:9201/: HTTP/1.1 503"), "{output}");
    assert!(
        root.read(HAPROXY)
            .contains("    server node2 [fd00::1]:443 track role/node2\n")
    );
    assert!(root.read(HAPROXY).contains("    bind :::81 v4v6\n"));
    assert!(
        root.read(KEEPALIVED)
            .contains("    unicast_src_ip fd00::1 # to change\n")
    );
}

#[test]
fn uninstalling_leaves_the_root_as_it_was() {
    let root = Root::installed();
    let output = root.install("--uninstall").succeeds();
    assert_eq!(root.touched(), [""; 0]);
    assert!(output.contains("xinetd haproxy keepalived"), "{output}");
    let [_, haproxy, keepalived] = root.services();
    assert!(haproxy.is_some(), "with the package's configuration");
    assert_eq!(keepalived, None);
    let curl = root.run(&["curl", "--silent", "http://10.0.0.101:9201/"]);
    assert_eq!(curl.status, Some(7), "nothing listens");
    let output = root.install("--uninstall").succeeds();
    assert_eq!(output, "Nothing had to be changed.\n");
    assert_eq!(root.touched(), [""; 0]);
}

#[test]
fn uninstalling_keeps_what_was_edited_and_puts_back_what_was_there() {
    let root = Root::new("10.0.0.101");
    root.write(SERVICE, "# ours before\n");
    fs::write(root.path(BINARY), "#!/bin/sh\n").unwrap();
    // The same file that would be installed is not the installer's either.
    root.write(KEEPALIVED, &template("keepalived/keepalived.conf"));
    root.install(ALL).succeeds();
    root.append(SERVICE, "# edited\n");
    let edited = root.read(SERVICE);
    let output = root.install("--uninstall").succeeds();
    let kept = format!("{SERVICE}.kept-2");
    assert_eq!(root.touched(), sorted(vec![BINARY, KEEPALIVED, SERVICE, &kept]));
    assert!(output.contains(&kept), "{output}");
    assert_eq!(root.read(&kept), edited);
    assert_eq!(root.read(SERVICE), "# ours before\n");
    assert_eq!(root.read(BINARY), "#!/bin/sh\n");
}

#[test]
fn a_configuration_that_its_program_refuses_installs_nothing() {
    let root = Root::new("10.0.0.101");
    for (file, program, broken) in [
        (
            "xinetd/cmonhachk",
            "xinetd",
            ("socket_type     = stream", "socket_type     = steam"),
        ),
        ("xinetd/cmonhachk", "xinetd", ("instances", "instanzes")),
        (
            "systemd/cmonhachk.socket",
            "systemd-analyze",
            ("ListenStream=", "ListenStraem="),
        ),
        (
            "systemd/cmonhachk@.service",
            "systemd-analyze",
            ("UMask=0077", "UMask=private"),
        ),
        (
            "haproxy/haproxy.cfg",
            "haproxy",
            ("stick on int(1)", "stick on nothing"),
        ),
        (
            "keepalived/keepalived.conf",
            "keepalived",
            ("nopreempt\n", "nopreemt\n"),
        ),
    ] {
        let path = format!("/run/deploy/{file}");
        let whole = root.read(&path);
        assert!(whole.contains(broken.0), "{file}");
        root.write(&path, &whole.replace(broken.0, broken.1));
        let with = if file.starts_with("systemd") {
            "systemd"
        } else {
            "xinetd"
        };
        root.install(&format!("{ALL} --with {with}"))
            .fails(1, &format!("{program} refuses"));
        assert_eq!(root.touched(), [""; 0], "{file}");
        root.write(&path, &whole);
    }
    // Nor does a template in which the addresses are no longer found.
    for file in ["xinetd/cmonhachk", "haproxy/haproxy.cfg", "keepalived/keepalived.conf"] {
        let path = format!("/run/deploy/{file}");
        let whole = root.read(&path);
        let without: Vec<&str> = whole
            .lines()
            .filter(|line| line.trim_start().starts_with('#') || !line.contains("10.0.0.101"))
            .collect();
        root.write(&path, &(without.join("\n") + "\n"));
        root.install(ALL)
            .fails(1, &format!("deploy/{file} is not as this script knows it"));
        assert_eq!(root.touched(), [""; 0], "{file}");
        root.write(&path, &whole);
    }
    root.write("/run/built", "no program");
    root.install(ALL).fails(1, "/run/built does not run");
    assert_eq!(root.touched(), [""; 0]);
}

#[test]
fn a_file_that_cannot_be_put_in_place_undoes_the_others() {
    let root = Root::new("10.0.0.101");
    root.run(&["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/etc/keepalived"])
        .succeeds();
    let outcome = root.install(ALL);
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("putting everything back"), "{}", outcome.stderr);
    assert_eq!(root.touched(), [""; 0]);

    root.run(&["umount", "/etc/keepalived"]).succeeds();
    root.install(ALL).succeeds();
    let (before, services) = (root.touched(), root.services());
    root.run(&["mount", "--bind", "/usr/local/sbin", "/usr/local/sbin"])
        .succeeds();
    root.run(&["mount", "-o", "remount,bind,ro", "/usr/local/sbin"])
        .succeeds();
    root.append(HAPROXY, "# edited\n");
    let edited = root.read(HAPROXY);
    let outcome = root.install("--uninstall");
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    root.run(&["umount", "/usr/local/sbin"]).succeeds();
    assert_eq!((root.touched(), root.read(HAPROXY)), (before, edited));
    assert_eq!(
        root.services().map(|pid| pid.is_some()),
        services.map(|pid| pid.is_some())
    );
}

#[test]
fn wrong_arguments_change_nothing() {
    let root = Root::new("10.0.0.101");
    for (arguments, status, why) in [
        ("", 2, "--nodes or --uninstall is missing"),
        ("--node 10.0.0.101", 2, "there is no option --node"),
        ("--haproxy", 2, "--nodes is missing"),
        ("--nodes", 2, "--nodes needs a value"),
        ("--nodes 10.0.0.101,", 2, "\"\" is no IP address"),
        ("--nodes 10.0.0.101,10.0.0.256", 2, "\"10.0.0.256\" is no IP address"),
        ("--nodes 10.0.0.101,10.0.0.02", 2, "\"10.0.0.02\" is no IP address"),
        ("--nodes 10.0.0.101,10.0.0", 2, "\"10.0.0\" is no IP address"),
        ("--nodes 10.0.0.101,fd00:::1", 2, "\"fd00:::1\" is no IP address"),
        ("--nodes 10.0.0.101,node2", 2, "\"node2\" is no IP address"),
        ("--nodes 10.0.0.101,10.0.0.102,10.0.0.102", 2, "10.0.0.102 is twice"),
        ("--nodes 10.0.0.101,fd00::1,FD00:0::1", 2, "FD00:0::1 is twice"),
        ("--nodes 10.0.0.101 --with inetd", 2, "--with is xinetd or systemd"),
        ("--nodes 10.0.0.101 --vip 10.0.0.130", 2, "need --keepalived"),
        (
            "--nodes 10.0.0.101 --vip 10.0.0.130 --interface eth1",
            2,
            "need --keepalived",
        ),
        (
            "--nodes 10.0.0.101 --keepalived",
            2,
            "--keepalived needs --vip and --interface",
        ),
        (
            "--nodes 10.0.0.101 --keepalived --vip 10.0.0.130",
            2,
            "--keepalived needs --vip and --interface",
        ),
        (
            "--nodes 10.0.0.101 --keepalived --vip 10.0.0.130 --interface eth7",
            1,
            "there is no network interface eth7",
        ),
        (
            "--nodes 10.0.0.101 --keepalived --vip 10.0.0.101 --interface eth1",
            2,
            "another address than the nodes'",
        ),
        (
            "--nodes 10.0.0.102,10.0.0.103",
            1,
            "none of --nodes is an address of this machine",
        ),
        ("--nodes 10.0.0.101,127.0.0.1", 1, "both 10.0.0.101 and 127.0.0.1"),
        ("--nodes 10.0.0.101 --binary /nowhere", 1, "/nowhere does not run"),
        ("--uninstall --haproxy", 2, "--uninstall goes with no other option"),
    ] {
        root.install(arguments).fails(status, why);
        assert_eq!(root.touched(), [""; 0], "{arguments}");
    }
    assert!(root.install("--help").succeeds().starts_with("usage: "));
    root.run(&[
        "setpriv",
        "--reuid=65534",
        "bash",
        "/run/deploy/install.sh",
        "--uninstall",
    ])
    .fails(1, "only root");
    assert_eq!(root.touched(), [""; 0]);
}

#[test]
fn what_is_missing_is_named_where_it_cannot_be_installed() {
    let root = Root::new("10.0.0.101");
    root.run(&["rm", "/usr/sbin/haproxy"]).succeeds();
    let output = root.install(&format!("{ALL} --dry-run")).succeeds();
    assert!(output.contains("packages    haproxy\n"), "{output}");
    assert!(output.contains("haproxy is not installed yet\n"), "{output}");
    root.run(&["rm", "/usr/bin/apt-get"]).succeeds();
    root.install(ALL)
        .fails(1, "please install haproxy first: there is no apt-get here");
    assert_eq!(root.touched(), ["/usr/bin/apt-get", "/usr/sbin/haproxy"]);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be_done() {
    let root = Root::new("10.0.0.101");
    let announced = root.install(&format!("{ALL} --dry-run")).succeeds();
    assert_eq!(root.touched(), [""; 0]);
    assert_eq!(root.services(), [None, None, None]);
    let done = root.install(ALL).succeeds();
    let (announced, end) = announced.rsplit_once("This was").unwrap();
    assert_eq!(end, " a dry run: nothing was changed.\n");
    assert!(done.starts_with(announced), "{announced}\n{done}");

    root.append(KEEPALIVED, "# edited\n");
    let before = (root.written(), root.services());
    let announced = root.install("--uninstall --dry-run").succeeds();
    assert_eq!((root.written(), root.services()), before);
    assert!(announced.contains(&format!("{KEEPALIVED}.kept-1")), "{announced}");
}

#[test]
fn in_a_chroot_the_files_are_installed_and_nothing_is_started() {
    let root = Root::new("10.0.0.101");
    let chroot = "mount -t tmpfs tmpfs /mnt
        cp -a /bin /sbin /lib /lib64 /mnt
        for folder in dev etc proc run tmp usr var; do
            mkdir /mnt/$folder
            mount --rbind /$folder /mnt/$folder
        done
        exec chroot /mnt /run/deploy/install.sh $0";
    let output = root.run(&["sh", "-euc", chroot, NODES]).succeeds();
    assert!(output.contains("not started xinetd: "), "{output}");
    assert!(output.contains("service xinetd restart\n"), "{output}");
    assert!(!output.contains("answer"), "{output}");
    assert!(root.has(SERVICE));
    assert_eq!(root.services(), [None, None, None]);
}

#[test]
fn systemd_units_are_put_in_place_of_xinetds_service_and_the_other_way_round() {
    let root = Root::new("10.0.0.101");
    root.install(NODES).succeeds();
    let output = root.install(&format!("{NODES} --with systemd")).succeeds();
    assert_eq!(
        root.touched(),
        sorted(vec![
            ACCOUNTS[0],
            ACCOUNTS[1],
            ACCOUNTS[2],
            ACCOUNTS[3],
            PRIVATE,
            BINARY,
            "/etc/systemd/system/sockets.target.wants",
            ENABLED,
            SOCKET,
            INSTANCE,
            "/var/lib/cmonhachk",
            RECORD
        ])
    );
    assert_eq!(root.read(SOCKET), template("systemd/cmonhachk.socket"));
    assert_eq!(root.read(INSTANCE), template("systemd/cmonhachk@.service"));
    assert_eq!(fs::read_link(root.path(ENABLED)).unwrap(), Path::new(SOCKET));
    // No systemd runs in this root.
    assert!(output.contains("not started cmonhachk.socket: "), "{output}");
    assert!(!output.contains("answer"), "{output}");

    // It goes on with what it has.
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains("port 9201 by systemd, checks by cmonhachk\n"),
        "{output}"
    );
    assert!(output.ends_with("Nothing had to be changed.\n"), "{output}");
    root.install("--nodes 10.0.0.101 --with xinetd --binary /run/built")
        .succeeds();
    assert!(!root.has(SOCKET) && !root.has(INSTANCE) && !root.has(ENABLED));
    root.install("--uninstall").succeeds();
    root.install("--nodes 10.0.0.101 --with systemd --binary /run/built")
        .succeeds();
    root.install("--uninstall").succeeds();
    assert_eq!(root.touched(), [""; 0]);
}
