//! Each keepalived puts the address on the node that leads, with deploy/keepalived/leader.conf as it is but for what
//! cmonhachk-front fills in. Three nodes, each in a network of its own, with the real check and a UI. They boot nothing:
//! front.rs has nodes with the packages.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::built;
use crate::cluster::{Cluster, Daemon, Folder, in_namespaces, once_in_a_while, processes, project, wait_until};
use crate::failover::{NAMES, Ui};
use crate::front::site::{Network, inside, ip};
use crate::keepalived::end;
use crate::versions::{Versions, on_each_system};

on_each_system! {
    the_address_follows_the_leader,
}

fn the_address_follows_the_leader(versions: &Versions) {
    follows_the_leader(&|| versions.keepalived());
}

mod nightly {
    /// 2.1.5.
    #[test]
    fn the_address_follows_the_leader_on_debian_11() {
        super::follows_the_leader(&|| crate::versions::in_usr_of("bullseye-front", "keepalived"));
    }
}

const VIRTUAL: &str = "10.0.0.130";

/// Longer than a move takes on a quiet machine.
const MOVE: Duration = Duration::from_secs(4);

/// A move to a node that has to wait for the old leader takes no longer, if the machine is not busy.
const SOON: Duration = Duration::from_millis(2500);

/// The user of the program. This machine may have none with the name.
const USER: u32 = 62_000;

/// keepalived sees the check's user, and in /run the files of its node.
const INSIDE: &str = "
    mount --bind FOLDER/run /run
    for file in passwd group; do mount --bind FOLDER/$file /etc/$file; done
    exec \"$@\"";

struct Node {
    keepalived: Option<Daemon>,
    _check: Daemon,
    _ui: Ui,
    cluster: Cluster,
    name: &'static str,
    network: String,
    folder: Folder,
}

fn address(name: &str) -> String {
    name.replace("node", "10.0.0.10")
}

impl Node {
    /// The node, without keepalived.
    fn start(switch: &Network, name: &'static str) -> Node {
        let namespace = format!("{}-{name}", switch.0);
        let network = format!("/run/netns/{namespace}");
        let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
        ip(&format!("netns add {namespace}"));
        switch.ip(&format!("link add {name} type veth peer name eth1 netns {namespace}"));
        switch.ip(&format!("link set {name} master switch up"));
        for line in [
            "link set lo up",
            "link set eth1 up",
            &format!("addr add {}/24 dev eth1", address(name)),
        ] {
            ip(&format!("-n {namespace} {line}"));
        }
        let cluster = Cluster::new();
        let mut check = cluster.node(&address(name)).command();
        check.args(["--listen", &format!("{}:9201", address(name))]);
        let start = || (check.spawn().unwrap(), Ui::start(address(name).parse().unwrap(), name));
        let (check, ui) = inside(&network, start);
        Node {
            keepalived: None,
            _check: Daemon(check),
            _ui: ui,
            cluster,
            name,
            network,
            folder: folder(),
        }
    }

    fn starts_keepalived(&mut self, program: &dyn Fn() -> Command) {
        let file = self
            .folder
            .write("keepalived.conf", configuration(self.name, "/run/libexec"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let arguments =
            "--dont-fork --log-console --log-detail --vrrp --pid /run/keepalived.pid --vrrp_pid /run/vrrp.pid";
        let arguments: Vec<&str> = arguments
            .split(' ')
            .chain(["--use-file", file.to_str().unwrap()])
            .collect();
        let mut keepalived = self.keepalived(program, &arguments);
        keepalived.stdout(log.try_clone().unwrap()).stderr(log);
        self.keepalived = Some(Daemon(inside(&self.network, || keepalived.spawn().unwrap())));
    }

    /// A keepalived that sees this node.
    fn keepalived(&self, program: &dyn Fn() -> Command, arguments: &[&str]) -> Command {
        let mut keepalived = program();
        keepalived.args(arguments);
        let script = INSIDE.replace("FOLDER", &self.folder.path().display().to_string());
        let mut keepalived = in_namespaces(&["--mount"], &script, &keepalived);
        keepalived.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        keepalived
    }

    /// What keepalived says of the configuration. 2.2.7 ends itself by SIGTERM in such a test, if a script has another
    /// user: it takes that for the death of its parent.
    fn complaints(&self, program: &dyn Fn() -> Command) -> String {
        let text = fs::read_to_string(self.folder.join("keepalived.conf")).unwrap();
        let tested = self
            .folder
            .write("test.conf", text.replace("user cmonhachk", "user root"));
        let mut keepalived = self.keepalived(program, &["--config-test", "--use-file", tested.to_str().unwrap()]);
        let output = inside(&self.network, || keepalived.output().unwrap());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    fn restarts_keepalived(&mut self, program: &dyn Fn() -> Command, signal: Signal) {
        end(self.keepalived.as_mut().unwrap(), signal, &self.folder.join("run"));
        self.starts_keepalived(program);
    }

    fn has_address(&self) -> bool {
        let namespace = self.network.rsplit('/').next().unwrap();
        let mut show = Command::new("ip");
        show.args(["-n", namespace, "-o", "addr", "show", "to", VIRTUAL]);
        !show.output().unwrap().stdout.is_empty()
    }

    /// From now on, this node's list says that the node with this name leads, or nobody.
    fn hears(&self, leader: &str) {
        self.cluster.leads(&address(leader));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}:\n{}", self.name, self.log());
        }
        let namespace = self.network.rsplit('/').next().unwrap();
        let _ = Command::new("ip").args(["netns", "del", namespace]).status();
    }
}

/// What a node's keepalived sees of this machine.
fn folder() -> Folder {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("run/libexec")).unwrap();
    let copied = Command::new("cp")
        .arg(built::leads())
        .arg(folder.join("run/libexec"))
        .status();
    assert!(copied.unwrap().success());
    for (file, line) in [
        ("passwd", format!("cmonhachk:x:{USER}:{USER}::/:/usr/sbin/nologin\n")),
        ("group", format!("cmonhachk:x:{USER}:\n")),
    ] {
        let others = fs::read_to_string(format!("/etc/{file}")).unwrap();
        let others = others.lines().filter(|line| !line.starts_with("cmonhachk:"));
        let others: String = others.map(|line| format!("{line}\n")).collect();
        fs::write(folder.join(file), others + &line).unwrap();
    }
    folder
}

/// The template, filled in as by cmonhachk-front. Only the folder of the program may be another.
pub fn configuration(own: &str, folder: &str) -> String {
    let template = fs::read_to_string(project().join("deploy/keepalived/leader.conf")).unwrap();
    let place = NAMES.iter().position(|name| *name == own).unwrap();
    let mut peers = NAMES.iter().filter(|name| **name != own);
    let filled = template.lines().map(|line| match line.split_once(" # @") {
        Some((line, "leads")) => line
            .replace("/usr/libexec/keepalived", folder)
            .replace("10.0.0.101", &address(own)),
        Some((line, "priority")) => line.replace("103", &(103 - 20 * place).to_string()),
        Some((line, "own")) => line.replace("10.0.0.101", &address(own)),
        Some((line, "peer")) => {
            let indent = line.len() - line.trim_start().len();
            format!("{}{}", &line[..indent], address(peers.next().unwrap()))
        }
        Some((line, _)) => line.to_string(),
        None => line.to_string(),
    });
    filled.map(|line| line + "\n").collect()
}

struct Site<'a> {
    nodes: Vec<Node>,
    program: &'a dyn Fn() -> Command,
    _switch: Network,
}

impl<'a> Site<'a> {
    /// Starts it; the second node leads.
    fn start(program: &'a dyn Fn() -> Command) -> Site<'a> {
        let switch = Network::new();
        let nodes = NAMES.map(|name| Node::start(&switch, name));
        let mut site = Site {
            nodes: nodes.into(),
            program,
            _switch: switch,
        };
        site.all_hear("node2");
        for node in &mut site.nodes {
            node.starts_keepalived(program);
        }
        site
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    fn all_hear(&self, leader: &str) {
        self.nodes.iter().for_each(|node| node.hears(leader));
    }

    fn holders(&self) -> Vec<&'static str> {
        let holders = self.nodes.iter().filter(|node| node.has_address());
        holders.map(|node| node.name).collect()
    }

    fn comes_to(&self, name: &str, why: &str) -> Duration {
        let start = Instant::now();
        wait_until(&format!("the address is on {name}: {why}"), || self.holders() == [name]);
        let took = start.elapsed();
        eprintln!("{why}: the address is on {name} after {took:.2?}");
        took
    }

    /// No other node gets the address while this is done, and for as long as a move takes. `act` is done once.
    fn stays_on(&self, name: &str, why: &str, act: impl FnOnce()) {
        act();
        let start = Instant::now();
        while start.elapsed() < MOVE {
            assert_eq!(self.holders(), [name], "{why}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn follows_the_leader(program: &dyn Fn() -> Command) {
    let mut site = Site::start(program);
    site.comes_to("node2", "it leads");
    runs_as_a_user_of_its_own(&site);
    assert!(once_in_a_while(|| {
        for leader in ["node3", "node1"] {
            site.all_hear(leader);
            site.comes_to(leader, "the leadership moves");
        }
        site.all_hear("node2");
        // The first node keeps the address until it knows that it does not lead.
        site.comes_to("node2", "the leadership moves") < SOON
    }));
    moves_only_if_it_must(&mut site);
    starts_without_the_address(&mut site);

    site.all_hear("nobody");
    site.comes_to("node1", "nobody leads");
    site.all_hear("node3");
    site.comes_to("node3", "a node leads again");
    site.node("node2").hears("node2");
    site.comes_to("node2", "two nodes say that they lead, and it has the higher priority");
    site.all_hear("node3");
    site.comes_to("node3", "only one says so again");
    nothing_is_wrong_with_the_configuration(&site);
}

/// The second node leads, before and after.
fn moves_only_if_it_must(site: &mut Site<'_>) {
    let node = site.nodes.iter().find(|node| node.name == "node2").unwrap();
    site.stays_on("node2", "a check is lost", || {
        let runs = node.cluster.runs();
        node.cluster.behaves("connection-refused");
        wait_until("a check is lost", || node.cluster.runs() > runs);
        node.cluster.behaves("list");
    });
    site.stays_on("node2", "keepalived is reloaded", || {
        for node in &site.nodes {
            node.keepalived.as_ref().unwrap().signal(Signal::SIGHUP);
        }
    });
    node.cluster.behaves("connection-refused");
    for node in site.nodes.iter().filter(|node| node.name != "node2") {
        node.hears("node3");
    }
    site.comes_to("node3", "the leader's controller dies");
    node.cluster.behaves("list");
    site.all_hear("node2");
    site.comes_to("node2", "it leads again");
}

/// The second node leads, and the first one has the highest priority of the others.
fn starts_without_the_address(site: &mut Site<'_>) {
    let program = site.program;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        site.node("node1").restarts_keepalived(program, signal);
        site.stays_on("node2", "keepalived starts on a node that does not lead", || {});
        site.node("node2").restarts_keepalived(program, signal);
        site.comes_to("node2", "keepalived starts on the leader");
    }
}

/// While s9s waits, keepalived's program is there to be seen.
fn runs_as_a_user_of_its_own(site: &Site<'_>) {
    let node = &site.nodes[0];
    node.cluster.behaves("gate");
    let program = node.folder.join("run/libexec/cmonhachk-leads");
    let inode = fs::metadata(&program).unwrap().ino();
    let is_program = |pid: &u32| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ino() == inode);
    let mut owner = None;
    wait_until("keepalived runs it", || {
        let mut owners = processes().filter(is_program).filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            Some(status.lines().find(|line| line.starts_with("Uid:"))?.to_string())
        });
        owner = owners.next();
        owner.is_some()
    });
    assert_eq!(owner.unwrap(), format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"));
    node.cluster.open_gate();
    node.cluster.behaves("list");
}

/// What keepalived says when it does not like something.
const COMPLAINTS: [&str; 12] = [
    "warning",
    "error",
    "violation",
    "unsafe",
    "disabl",
    "unknown",
    "ignor",
    "invalid",
    "deprecat",
    "unable",
    "rounded",
    "cannot",
];

fn nothing_is_wrong_with_the_configuration(site: &Site<'_>) {
    for node in &site.nodes {
        assert_eq!(node.complaints(site.program), "", "{}", node.name);
        let log = node.log();
        let is_complaint = |line: &&str| COMPLAINTS.iter().any(|word| line.to_lowercase().contains(word));
        let complaints: Vec<&str> = log.lines().filter(is_complaint).collect();
        assert_eq!(complaints, [""; 0], "{}", node.name);
    }
}
