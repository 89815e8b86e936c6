//! Three booted nodes, a switch between them, and a client.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use crate::built;
use crate::cluster::{AtEnd, Cluster, Daemon, PATIENCE, controllers, wait_until};
pub use crate::failover::NAMES;
use crate::failover::Ui;
use crate::node::DEB;
use crate::systemd::Systemd;
use crate::versions::Versions;

pub const VIRTUAL: &str = "10.0.0.130";
pub const SITE: &str = "10.0.0.130 10.0.0.101 10.0.0.102 10.0.0.103";

/// Longer than a takeover takes on a quiet machine.
const TAKEOVER: Duration = Duration::from_secs(5);

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Does something in the network namespace that this file names.
pub fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(namespace).unwrap();
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The switch and the client 10.0.0.200, in one network namespace.
pub struct Network(pub String);

impl Network {
    pub fn new() -> Network {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Network(format!("chk-{}-{count}", std::process::id()));
        // A test that was killed may have left one, and had the same process id.
        let _ = Command::new("ip").args(["netns", "del", &network.0]).output();
        ip(&format!("netns add {}", network.0));
        for line in [
            "link set lo up",
            "link add switch type bridge",
            "addr add 10.0.0.200/24 dev switch",
            "addr add fd00::200/64 dev switch nodad",
            "link set switch up",
        ] {
            network.ip(line);
        }
        network
    }

    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }

    /// Runs a command of the shell's, until it is dropped.
    pub fn daemon(&self, command: &str) -> Daemon {
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", &self.0, "sh", "-c", &format!("exec {command}")]);
        Daemon(shell.spawn().unwrap())
    }

    pub fn file(&self) -> String {
        format!("/run/netns/{}", self.0)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub struct Node {
    pub name: &'static str,
    pub systemd: Systemd,
    ui: Mutex<Option<Ui>>,
    _cluster: Cluster,
}

impl Node {
    /// Boots it, and installs the package.
    pub fn boot(network: &Network, name: &'static str, versions: &Versions) -> Node {
        let number = 100 + name[4..].parse::<u8>().unwrap();
        built::packages();
        let cluster = Cluster::new();
        cluster.leads("10.0.0.102");
        let systemd = Systemd::boot_on(&cluster, &versions.root(), &versions.prepare());
        let pid = systemd.first_process().unwrap();
        network.ip(&format!("link add {name} type veth peer name eth1 netns {pid}"));
        network.ip(&format!("link set {name} master switch up"));
        let installed = systemd.output(&format!(
            "ip addr del 10.0.0.101/32 dev lo; ip addr add 10.0.0.{number}/24 dev eth1; ip addr add fd00::{number}/64 dev eth1 nodad; ip link set eth1 up
             sed -i s/10.0.0.101/10.0.0.{number}/ /etc/default/cmon
             rm /etc/systemd/system/cmonhachk*.* /usr/sbin/cmonhachk 2>/dev/null
             systemctl stop cmonhachk.socket; systemctl daemon-reload
             rm -f /usr/sbin/policy-rc.d
             dpkg --install {DEB}"
        ));
        assert!(installed.status.success(), "{name}: {installed:?}");
        let node = Node {
            name,
            systemd,
            ui: Mutex::default(),
            _cluster: cluster,
        };
        node.starts_ui();
        node
    }

    /// Boots one that is not connected to others, with the program instead of the packages, and without a UI.
    pub fn boot_alone(versions: &Versions) -> Node {
        let cluster = Cluster::new();
        Node {
            name: NAMES[0],
            systemd: Systemd::boot_on(&cluster, &versions.root(), &versions.prepare()),
            ui: Mutex::default(),
            _cluster: cluster,
        }
    }

    /// Starts the UI, unless it runs.
    pub fn starts_ui(&self) {
        let network = format!("/proc/{}/ns/net", self.systemd.first_process().unwrap());
        let start = || inside(&network, || Ui::start([0, 0, 0, 0].into(), self.name));
        self.ui.lock().unwrap().get_or_insert_with(start);
    }

    pub fn stops_ui(&self) {
        self.ui.lock().unwrap().take();
    }

    /// Replaces a file of the node in one step.
    pub fn put(&self, path: &str, text: &str) {
        let path = self.systemd.root().join(path);
        let draft = path.with_extension("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(draft, path).unwrap();
    }

    /// From now on, this node's list says that the node with this name leads, or none of the three.
    pub fn hears(&self, leader: &str) {
        let leader = leader.replace("node", "10.0.0.10");
        self.put("opt/cluster/controllers", &controllers(&leader));
    }

    /// Makes this node's s9s behave in this way; see tests/sim/s9s.
    pub fn behaves(&self, behaviour: &str) {
        self.put("opt/cluster/behaviour", &format!("{behaviour}\n"));
    }

    /// The processes of a service.
    pub fn processes_of(&self, unit: &str) -> Vec<Pid> {
        let group = format!("system.slice/{unit}.service/cgroup.procs");
        let list = fs::read_to_string(self.systemd.control_group.join(group)).unwrap_or_default();
        list.lines().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    /// Makes the UI accept connections and answer nobody, or go on.
    pub fn freezes_ui(&self, on: bool) {
        if let Some(ui) = &*self.ui.lock().unwrap() {
            ui.freeze(on);
        }
    }

    /// Stops all processes of the node, but not the UI, or lets them go on.
    pub fn freeze(&self, on: bool) {
        let file = self.systemd.control_group.join("cgroup.freeze");
        fs::write(file, if on { "1" } else { "0" }).unwrap();
    }

    /// What our HAProxy answers on its admin socket; nothing, if it does not answer.
    pub fn admin(&self, command: &str) -> String {
        let ask = || {
            let socket = self.systemd.root().join("run/cmonhachk-front/admin.sock");
            let mut stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            writeln!(stream, "{command}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        ask().unwrap_or_default()
    }

    /// The names of the nodes that our HAProxy counts as up.
    pub fn counts_as_up(&self) -> Vec<String> {
        let servers = self.admin("show stat");
        let up = servers
            .lines()
            .filter(|line| line.starts_with("role,node") && line.contains(",UP"));
        up.map(|line| line.split(',').nth(1).unwrap().to_string()).collect()
    }

    /// The users' connections that our HAProxy has open, one a line.
    pub fn connections(&self) -> Vec<String> {
        let answer = self.admin("show sess");
        let users = answer.lines().filter(|line| line.contains(" fe=users "));
        users.map(str::to_string).collect()
    }

    pub fn run(&self, command: &str) -> String {
        self.systemd.run(command)
    }

    /// What cmonhachk-front prints, and its exit status as the last line.
    pub fn front(&self, arguments: &str) -> String {
        self.run(&format!("cmonhachk-front {arguments} 2>&1; echo $?"))
    }

    pub fn succeeds(&self, arguments: &str) -> String {
        let said = self.front(arguments);
        assert!(said.ends_with("\n0\n"), "{} {arguments}: {said}", self.name);
        said
    }

    pub fn has(&self, address: &str) -> bool {
        !self.run(&format!("ip -o addr show to {address}")).is_empty()
    }

    /// Everything that a run could change.
    pub fn state(&self) -> String {
        self.run(
            "cd /etc; find haproxy keepalived systemd/system -type f -o -type l | sort | xargs stat --format '%n %i %a %U %.9Y'
             systemctl show --property MainPID,ActiveState,UnitFileState haproxy keepalived cmonhachk-front
             pgrep --list-full haproxy; ip -o -4 addr; ls -d /run/cmonhachk-front /run/keepalived-cmonhachk/*",
        )
    }
}

pub struct Site {
    pub nodes: Vec<Node>,
    pub network: Network,
    /// The port that users go to.
    pub port: u16,
}

impl Site {
    /// Boots the nodes, without a front; the second one leads.
    pub fn boot(versions: &Versions) -> Site {
        let network = Network::new();
        let nodes = thread::scope(|scope| {
            let boots = NAMES.map(|name| scope.spawn(|| Node::boot(&network, name, versions)));
            boots.map(|boot| boot.join().unwrap()).into()
        });
        let site = Site {
            nodes,
            network,
            port: 81,
        };
        for number in 101..=103 {
            let check = SocketAddr::from(([10, 0, 0, number], 9201));
            // The switch may still learn where the nodes are.
            wait_until("each check is in reach", || {
                inside(&site.network.file(), || {
                    TcpStream::connect_timeout(&check, Duration::from_secs(1)).is_ok()
                })
            });
        }
        site
    }

    /// Boots the nodes and sets up their fronts; the first one has the address.
    pub fn with_fronts(versions: &Versions) -> Site {
        let site = Site::boot(versions);
        site.succeeds(SITE);
        site.puts_address_on("node1");
        site
    }

    /// The same without HAProxy: the second node leads, and has the address.
    pub fn without_haproxy(versions: &Versions) -> Site {
        let mut site = Site::boot(versions);
        site.port = 443;
        site.succeeds(&format!("--without-haproxy {SITE}"));
        site
    }

    /// Runs cmonhachk-front on all nodes at the same moment. One after the other, each would look for 6 s whether
    /// it takes the address from the one before.
    pub fn succeeds(&self, arguments: &str) {
        thread::scope(|scope| {
            for node in &self.nodes {
                scope.spawn(|| node.succeeds(arguments));
            }
        });
    }

    /// Moves the address to this node, unless it is there.
    pub fn puts_address_on(&self, name: &str) {
        if self.holder() == name {
            return;
        }
        let others = || self.nodes.iter().filter(|node| node.name != name);
        for node in others() {
            node.run("systemctl stop cmonhachk-front");
        }
        wait_until("the address is there", || self.holders(VIRTUAL) == [name]);
        for node in others() {
            node.run("systemctl start cmonhachk-front");
        }
    }

    /// Whether users go through HAProxy.
    pub fn has_haproxy(&self) -> bool {
        self.port == 81
    }

    /// The name of the one node that has the address.
    pub fn holder(&self) -> &'static str {
        wait_until("one node has the address", || self.holders(VIRTUAL).len() == 1);
        self.holders(VIRTUAL)[0]
    }

    pub fn holders(&self, address: &str) -> Vec<&'static str> {
        let holders = self.nodes.iter().filter(|node| node.has(address));
        holders.map(|node| node.name).collect()
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap()
    }

    /// A user's session, and the name of the node that it is on.
    pub fn visit(&self, address: &str, port: u16) -> Option<(TcpStream, String)> {
        let address = SocketAddr::from((address.parse::<IpAddr>().unwrap(), port));
        inside(&self.network.file(), || {
            let mut session = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            session.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut name = [0; 5];
            session.read_exact(&mut name).ok()?;
            Some((session, String::from_utf8(name.to_vec()).unwrap()))
        })
    }

    pub fn user_gets(&self, address: &str) -> Option<String> {
        self.visit(address, self.port).map(|(_, name)| name)
    }

    /// Whether users get to the second node, at the address.
    pub fn users_are_on_the_leader(&self) -> bool {
        self.user_gets(VIRTUAL).as_deref() == Some("node2")
    }

    /// A user goes there again and again while `act` is done: how often to which node, or to none.
    pub fn replies_during(&self, (address, port): (&str, u16), act: impl FnOnce()) -> HashMap<Option<String>, u32> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let end = AtEnd(&over);
            let user = scope.spawn(|| {
                let mut replies = HashMap::new();
                while !over.load(Ordering::Relaxed) {
                    let name = self.visit(address, port).map(|(_, name)| name);
                    *replies.entry(name).or_insert(0) += 1;
                }
                replies
            });
            act();
            drop(end);
            user.join().unwrap()
        })
    }

    /// The address moves to another node, and users with it. The old node and another never both have it.
    pub fn moves_from(&self, old: &str) -> &'static str {
        let start = Instant::now();
        wait_until("the address is elsewhere and serves", || {
            let holders = self.holders(VIRTUAL);
            assert!(!(holders.contains(&old) && holders.len() > 1), "{holders:?}");
            holders.len() == 1 && holders != [old] && self.users_are_on_the_leader()
        });
        eprintln!("the address moved in {:?}", start.elapsed());
        self.holders(VIRTUAL)[0]
    }

    /// The address stays on this node for longer than any takeover takes.
    pub fn stays_on(&self, name: &str) {
        let start = Instant::now();
        while start.elapsed() < TAKEOVER {
            assert_eq!(self.holders(VIRTUAL), [name]);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Site {
    /// A failed test shows what HAProxy and keepalived said on each node.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let command = "journalctl --unit keepalived --unit cmonhachk-front --no-pager --no-hostname \
            --output short-precise | grep -v ' users ui/' | tail -n 60";
        for node in &self.nodes {
            if node.systemd.first_process().is_some() {
                eprintln!("{}:\n{}", node.name, node.run(command));
            }
        }
    }
}

pub fn is_open(session: &TcpStream) -> bool {
    session.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // An open session is neither closed nor reset, but has nothing to read.
    (&mut &*session)
        .read(&mut [0])
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
