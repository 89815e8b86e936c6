//! One address for all users: three hosts, each with the responder, the UI, HAProxy and keepalived,
//! all with the deployed files and the addresses that those have as examples.
//!
//! A host is a network namespace, joined to the others by a bridge. keepalived is started outside
//! and enters its host's namespace by itself (`net_namespace`): the kernel reports the starts and
//! ends of processes only to those who subscribed outside. So these tests need to be root in the
//! machine's own network namespace.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

use crate::cluster::{Cluster, Daemon, Folder, in_namespaces, project, wait_until};
use crate::failover::Ui;
use crate::haproxy::{Haproxy, Which};
use crate::xinetd::Xinetd;

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 130);

/// How long a failover may take.
const LIMIT: Duration = Duration::from_secs(5);

fn deployed() -> PathBuf {
    project().join("deploy/keepalived/keepalived.conf")
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// A network namespace, gone with all that is in it.
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace(format!("chk-{}-{count}", std::process::id()));
        ip(&format!("netns add {}", namespace.0));
        ip(&format!("-n {} link set lo up", namespace.0));
        namespace
    }

    /// Does something in it: sockets and processes that are made there stay there.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A switch in a namespace of its own, which its cables lead to.
struct Switch(Namespace);

impl Switch {
    fn new() -> Switch {
        let namespace = Namespace::new();
        ip(&format!("-n {} link add switch type bridge", namespace.0));
        ip(&format!("-n {} link set switch up", namespace.0));
        Switch(namespace)
    }

    /// A new namespace, whose eth1 has this address and a cable to the switch.
    fn attach(&self, address: Ipv4Addr) -> Namespace {
        let (switch, end) = (&self.0.0, Namespace::new());
        let port = port(address);
        ip(&format!(
            "-n {switch} link add {port} type veth peer name eth1 netns {}",
            end.0
        ));
        ip(&format!("-n {switch} link set {port} master switch up"));
        ip(&format!("-n {} addr add {address}/24 dev eth1", end.0));
        ip(&format!("-n {} link set eth1 up", end.0));
        end
    }

    /// Cuts a cable, or mends it.
    fn set(&self, address: Ipv4Addr, state: &str) {
        ip(&format!("-n {} link set {} {state}", self.0.0, port(address)));
    }
}

fn port(address: Ipv4Addr) -> String {
    format!("port{}", address.octets()[3])
}

/// A running keepalived.
struct Keepalived {
    _process: Daemon,
    log: PathBuf,
}

impl Keepalived {
    fn start(folder: &Folder, configuration: &str) -> Keepalived {
        let file = folder.write("keepalived.conf", configuration);
        let log = folder.join("keepalived.log");
        let output = fs::File::create(&log).unwrap();
        let process = Command::new("keepalived")
            .args([
                "--dont-fork",
                "--log-console",
                "--no-syslog",
                "--log-detail",
                "--use-file",
            ])
            .arg(file)
            .arg("--pid")
            .arg(folder.join("keepalived.pid"))
            .arg("--vrrp_pid")
            .arg(folder.join("vrrp.pid"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("keepalived is installed");
        Keepalived {
            _process: Daemon(process),
            log,
        }
    }

    /// What it has said.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

struct Host<'a> {
    name: &'static str,
    address: Ipv4Addr,
    keepalived: Option<Keepalived>,
    haproxy: Option<Haproxy>,
    _ui: Ui,
    _responder: Xinetd<'a>,
    /// HAProxy by a name of the host's own: the hosts have one process table.
    program: PathBuf,
    folder: Folder,
    namespace: Namespace,
}

const HOSTS: [(&str, Ipv4Addr); 3] = [
    ("node1", Ipv4Addr::new(10, 0, 0, 101)),
    ("node2", Ipv4Addr::new(10, 0, 0, 102)),
    ("node3", Ipv4Addr::new(10, 0, 0, 103)),
];

impl<'a> Host<'a> {
    /// Starts all but keepalived.
    fn start(switch: &Switch, cluster: &'a Cluster, name: &'static str, address: Ipv4Addr) -> Host<'a> {
        let namespace = switch.attach(address);
        let responder = namespace.inside(|| Xinetd::start_on(address, cluster.node(&address.to_string()), ""));
        let ui = namespace.inside(|| Ui::start(address, name));
        let folder = Folder::new();
        // At most 15 characters, or the kernel cuts it.
        let program = folder.join(&namespace.0.replace("chk", "ha"));
        symlink("/usr/sbin/haproxy", &program).unwrap();
        let mut host = Host {
            name,
            address,
            keepalived: None,
            haproxy: None,
            _ui: ui,
            _responder: responder,
            program,
            folder,
            namespace,
        };
        host.start_haproxy();
        host
    }

    /// Starts it as Debian's unit does, with a master and a worker.
    fn start_haproxy(&mut self) {
        let configuration = fs::read_to_string(project().join("deploy/haproxy/haproxy.cfg")).unwrap();
        let socket = self.folder.join("stats").display().to_string();
        let configuration = exchange(configuration, "/run/haproxy/admin.sock", &socket);
        let haproxy = self
            .namespace
            .inside(|| Haproxy::start_as(&self.program, "-Ws", &self.folder, &configuration));
        self.haproxy = Some(haproxy);
    }

    fn kill_haproxy(&mut self, which: Which) {
        self.haproxy.take().unwrap().kill(which);
    }

    /// Starts it with the deployed file, in which only the lines to change are changed, the name
    /// of HAProxy's process is the host's, and the host's namespace is added.
    fn start_keepalived(&mut self) {
        let place = HOSTS.iter().position(|(name, _)| *name == self.name).unwrap();
        let mut configuration = fs::read_to_string(deployed()).unwrap();
        for (line, new) in own_lines(place) {
            configuration = exchange(configuration, line, &new);
        }
        let process = self.program.file_name().unwrap().display();
        configuration = exchange(
            configuration,
            "    process haproxy\n",
            &format!("    process {process}\n"),
        );
        let configuration = format!("net_namespace {}\n{configuration}", self.namespace.0);
        self.keepalived = Some(Keepalived::start(&self.folder, &configuration));
    }

    /// What its keepalived has said.
    fn log(&self) -> String {
        self.keepalived.as_ref().map(Keepalived::log).unwrap_or_default()
    }

    /// How often its keepalived has begun to stand by.
    fn stood_by(&self) -> usize {
        self.log().matches("(users) Entering BACKUP STATE").count()
    }

    fn has_the_address(&self) -> bool {
        self.namespace.inside(|| {
            let mut addresses = getifaddrs().unwrap().filter_map(|interface| interface.address);
            addresses.any(|address| address.as_sockaddr_in().is_some_and(|address| address.ip() == VIRTUAL))
        })
    }
}

/// The lines to change, as deployed and as a node in this place has them.
fn own_lines(place: usize) -> [(&'static str, String); 4] {
    let mut others = HOSTS.map(|(_, address)| address).to_vec();
    let own = others.remove(place);
    [
        ("unicast_src_ip 10.0.0.101 # to change", format!("unicast_src_ip {own}")),
        ("10.0.0.102 # to change", others[0].to_string()),
        ("10.0.0.103 # to change", others[1].to_string()),
        ("priority 103 # to change", format!("priority {}", 103 - 20 * place)),
    ]
}

/// The text with `old`, which must be there once, exchanged for `new`.
fn exchange(text: String, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old} in {text}");
    text.replace(old, new)
}

/// The whole, and a client. The hosts come first, so that they end before their cables do.
struct Site<'a> {
    hosts: Vec<Host<'a>>,
    client: Namespace,
    switch: Switch,
}

impl<'a> Site<'a> {
    /// Starts everything; the address is on node1 then, and the leader is node3.
    fn start(cluster: &'a Cluster) -> Site<'a> {
        cluster.leads("10.0.0.103");
        let switch = Switch::new();
        let hosts = HOSTS.map(|(name, address)| Host::start(&switch, cluster, name, address));
        let mut site = Site {
            hosts: hosts.into(),
            client: switch.attach(Ipv4Addr::new(10, 0, 0, 200)),
            switch,
        };
        wait_until("every HAProxy has found the leader", || {
            let up = |host: &Host<'_>, name| host.haproxy.as_ref().unwrap().is_up("ui", name);
            site.hosts
                .iter()
                .all(|host| HOSTS.map(|(name, _)| up(host, name)) == [false, false, true])
        });
        // Whoever is first keeps it, so the first one is started alone.
        site.hosts[0].start_keepalived();
        site.wait_until("the address is on node1", |site| site.holders() == ["node1"]);
        for host in &mut site.hosts[1..] {
            host.start_keepalived();
        }
        site.wait_until("the others stand by", |site| {
            site.hosts[1..].iter().all(|host| host.stood_by() == 1)
        });
        site.serves();
        site
    }

    /// The hosts that have the address.
    fn holders(&self) -> Vec<&'static str> {
        let holders = self.hosts.iter().filter(|host| host.has_the_address());
        holders.map(|host| host.name).collect()
    }

    /// The node that a user gets who goes to the address.
    fn user_gets(&self) -> Option<String> {
        self.client.inside(|| {
            let patience = Duration::from_millis(200);
            let mut session = TcpStream::connect_timeout(&SocketAddr::from((VIRTUAL, 81)), patience).ok()?;
            session.set_read_timeout(Some(patience)).unwrap();
            let mut name = [0; 5];
            session.read_exact(&mut name).ok()?;
            Some(String::from_utf8(name.to_vec()).unwrap())
        })
    }

    /// As [`wait_until`]; tells what every keepalived has said when it was in vain.
    fn wait_until(&self, what: &str, is_so: impl Fn(&Site<'_>) -> bool) {
        let _tell = TellWhenInVain(self);
        wait_until(what, || {
            // Looking costs threads and connections, which others need who measure time.
            thread::sleep(Duration::from_millis(20));
            is_so(self)
        });
    }

    /// The address goes from this host to another one, and users with it, within the limit from
    /// `start` on. The old one gives it up before another one takes it. Returns the new one.
    fn moves_from(&self, old: &str, start: Instant) -> &'static str {
        self.wait_until("the address is elsewhere and serves", |site| {
            let holders = site.holders();
            assert!(!(holders.contains(&old) && holders.len() > 1), "{holders:?}");
            holders.len() == 1 && holders != [old] && site.user_gets().as_deref() == Some("node3")
        });
        assert!(start.elapsed() < LIMIT, "took {:?}", start.elapsed());
        self.holders()[0]
    }

    /// The address is on this host for longer than any takeover would take, and serves.
    fn stays_on(&self, name: &str) {
        self.remains_on(name);
        self.serves();
    }

    fn remains_on(&self, name: &str) {
        let start = Instant::now();
        self.wait_until("the time is over", |site| {
            assert_eq!(site.holders(), [name]);
            start.elapsed() > LIMIT
        });
    }

    fn serves(&self) {
        self.wait_until("a user gets the leader", |site| {
            site.user_gets().as_deref() == Some("node3")
        });
    }
}

struct TellWhenInVain<'a>(&'a Site<'a>);

impl Drop for TellWhenInVain<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for host in &self.0.hosts {
                eprintln!("{} {}:\n{}", host.name, host.address, host.log());
            }
        }
    }
}

#[test]
fn the_deployed_configuration_is_valid_without_a_warning() {
    let mut command = Command::new("keepalived");
    command.arg("--config-test").arg("--use-file").arg(deployed());
    // It looks whether the interface is there.
    let script = "ip link add eth1 type veth peer name other\nexec \"$@\"";
    let output = in_namespaces(&["--net"], script, &command).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_address_leaves_a_host_whose_haproxy_is_killed_and_does_not_jump_back() {
    let cluster = Cluster::new();
    let mut site = Site::start(&cluster);
    let killed = Instant::now();
    site.hosts[0].kill_haproxy(Which::Worker);
    let second = site.moves_from("node1", killed);

    site.hosts[0].start_haproxy();
    site.wait_until("node1 stands by", |site| site.hosts[0].stood_by() == 2);
    site.stays_on(second);

    // Now node1 alone is fit for it.
    let killed = Instant::now();
    for host in &mut site.hosts[1..] {
        host.kill_haproxy(Which::Master);
    }
    assert_eq!(site.moves_from(second, killed), "node1");
}

#[test]
fn the_address_leaves_a_host_whose_cable_is_cut_and_does_not_jump_back() {
    let cluster = Cluster::new();
    let site = Site::start(&cluster);
    let node1 = site.hosts[0].address;
    let cut = Instant::now();
    site.switch.set(node1, "down");
    let second = site.moves_from("node1", cut);

    site.switch.set(node1, "up");
    site.wait_until("node1 stands by", |site| site.hosts[0].stood_by() == 2);
    site.stays_on(second);
}

#[test]
fn the_address_stays_where_haproxy_is_only_reloaded_or_restarted() {
    let cluster = Cluster::new();
    let mut site = Site::start(&cluster);
    site.hosts[0].haproxy.as_ref().unwrap().reload();
    site.stays_on("node1");
    site.hosts[0].kill_haproxy(Which::Master);
    site.hosts[0].start_haproxy();
    site.stays_on("node1");
}

#[test]
fn the_address_is_not_given_up_to_a_stranger() {
    let cluster = Cluster::new();
    let site = Site::start(&cluster);
    let stranger = site.switch.attach(Ipv4Addr::new(10, 0, 0, 99));
    let configuration = format!(
        "net_namespace {}\n\
         vrrp_instance stranger {{\n    interface eth1\n    virtual_router_id 51\n    priority 200\n    \
         unicast_src_ip 10.0.0.99\n    unicast_peer {{\n        10.0.0.101\n    }}\n    \
         virtual_ipaddress {{\n        {VIRTUAL}\n    }}\n}}\n",
        stranger.0
    );
    let folder = Folder::new();
    let keepalived = Keepalived::start(&folder, &configuration);
    site.wait_until("the stranger claims the address", |_| {
        keepalived.log().contains("(stranger) Entering MASTER STATE")
    });
    site.remains_on("node1");
}
