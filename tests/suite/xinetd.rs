//! Under the real xinetd, with the service file that is deployed, asked by curl and genhash.
//!
//! xinetd is started with an empty environment, as an init system does.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Output, Stdio};

use crate::cluster::{
    Cluster, Daemon, FOLLOWER, LEADER, Node, TIMEOUT, ask_from, binary, in_namespaces, is_closed, loopback, parent,
    project, receive, simulated_s9s, unknown, wait_until,
};

/// A line of the deployed service file.
const LIMIT_BY_ADDRESS: &str = "per_source      = 100\n";

/// A running xinetd that serves one node on a loopback address of its own.
pub struct Xinetd<'a> {
    process: Daemon,
    pub address: SocketAddrV4,
    node: Node<'a>,
}

impl<'a> Xinetd<'a> {
    /// Starts it with the deployed service file. Only these are filled in: the program's path, root as
    /// the user, the address, the node's files, the time limit, and the arguments if there are any.
    /// tests/suite/rights.rs tests the service's own user.
    pub fn start(node: Node<'a>, arguments: &str) -> Xinetd<'a> {
        Xinetd::start_on(loopback(), node, arguments)
    }

    /// The same on a given address.
    pub fn start_on(ip: Ipv4Addr, node: Node<'a>, arguments: &str) -> Xinetd<'a> {
        let mut service = fs::read_to_string(project().join("deploy/xinetd/cmonhachk")).unwrap();
        assert!(service.contains("= cmonhachk\n"));
        service = service.replace("= cmonhachk\n", "= root\n");
        if !arguments.is_empty() {
            let (body, _) = service.rsplit_once('}').unwrap();
            service = format!("{body}server_args = {arguments}\n}}\n");
        }
        // All clients of a test have one address; one_address_can_have_100_checks_at_once has the limit.
        assert!(service.contains(LIMIT_BY_ADDRESS));
        Xinetd::serve(
            ip,
            node,
            &service.replace(LIMIT_BY_ADDRESS, "per_source      = UNLIMITED\n"),
        )
    }

    /// Starts it with a service file, on a machine whose /etc/services has the article's line.
    fn serve(ip: Ipv4Addr, node: Node<'a>, service: &str) -> Xinetd<'a> {
        let folder = &node.cluster.folder;
        let service = service.replace("/usr/sbin/cmonhachk", binary());
        let environment = format!(
            "env = S9S_SIM={} CMONHACHK_S9S={} CMONHACHK_CMON_DEFAULTS={} CMONHACHK_LOCK_FILE={} CMONHACHK_TIMEOUT={TIMEOUT}",
            folder.path().display(),
            simulated_s9s().display(),
            node.defaults.display(),
            node.lock.display(),
        );
        let (body, _) = service.rsplit_once('}').unwrap();
        let conf = folder.write(
            &format!("xinetd-{ip}.conf"),
            format!("{body}bind = {ip}\n{environment}\n}}\n"),
        );
        let log = folder.join(&format!("xinetd-{ip}.log"));
        let mut command = Command::new("/usr/sbin/xinetd");
        command.args(["-dontfork", "-f"]).arg(conf).arg("-filelog").arg(&log);
        command.arg("-pidfile").arg(folder.join(&format!("xinetd-{ip}.pid")));
        let services = fs::read_to_string("/etc/services").unwrap();
        let services = folder.write("services", services + "\ncmonhachk 9201/tcp\n");
        let script = format!("mount --bind {} /etc/services; exec env -i \"$@\"", services.display());
        let process = Daemon(in_namespaces(&["--mount"], &script, &command).spawn().unwrap());
        let address = SocketAddrV4::new(ip, 9201);
        let xinetd = Xinetd { process, address, node };
        wait_until("xinetd has started", || {
            fs::read_to_string(&log).unwrap_or_default().contains("Started working")
        });
        let log = fs::read_to_string(&log).unwrap();
        assert!(log.contains("Started working: 1 available service"), "{log}");
        xinetd
    }

    /// xinetd's process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program).args(arguments).output().expect(program)
    }

    /// The whole answer as curl prints it; curl must succeed.
    fn curl(&self, arguments: &[&str]) -> String {
        let url = format!("http://{}/", self.address);
        let output = self.run(
            "curl",
            &[
                &["--silent", "--show-error", "--include", "--max-time", "60", &url],
                arguments,
            ]
            .concat(),
        );
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The processes of the node's checks: xinetd's children.
    fn responders(&self) -> Vec<u32> {
        let pids = self.node.cluster.processes().into_iter();
        pids.filter(|pid| parent(*pid) == Some(self.pid())).collect()
    }
}

#[test]
fn curl_gets_each_state_byte_for_byte() {
    let cluster = Cluster::new();
    for (address, expected) in [
        ("10.0.0.101", LEADER.to_string()),
        ("10.0.0.102", FOLLOWER.to_string()),
        ("10.0.0.9", unknown("not-listed")),
    ] {
        let xinetd = Xinetd::start(cluster.node(address), "");
        assert_eq!(xinetd.curl(&[]), expected);
        assert_eq!(xinetd.curl(&["--http1.0"]), expected);
        assert_eq!(xinetd.curl(&["--request", "OPTIONS"]), expected);
        assert_eq!(xinetd.curl(&["--data", &"x".repeat(50_000)]), expected);
        let (head, _) = expected.split_once("<html>").unwrap();
        assert_eq!(xinetd.curl(&["--head"]), head);
    }
}

#[test]
fn one_address_can_have_100_checks_at_once_and_keeps_nobody_else_out() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let service = fs::read_to_string(project().join("deploy/xinetd/cmonhachk")).unwrap();
    let service = service.replace("= cmonhachk\n", "= root\n");
    let xinetd = Xinetd::serve(loopback(), cluster.leader(), &service);

    let greedy: Vec<_> = (0..110)
        .map(|_| ask_from(Ipv4Addr::new(10, 0, 0, 2), xinetd.address))
        .collect();
    wait_until("ten are turned away", || {
        greedy.iter().filter(|client| is_closed(client)).count() == 10
    });
    wait_until("the others are served", || xinetd.responders().len() == 100);
    let mut modest = ask_from(Ipv4Addr::new(10, 0, 0, 10), xinetd.address);
    wait_until("another address is served", || xinetd.responders().len() == 101);

    cluster.open_gate();
    assert_eq!(receive(&mut modest), LEADER);
}

#[test]
fn genhash_reads_each_state_every_time() {
    let cluster = Cluster::new();
    for (address, body) in [
        ("10.0.0.101", "<html><body>This node is a leader.</body></html>"),
        ("10.0.0.102", "<html><body>This node is a follower.</body></html>"),
        (
            "10.0.0.9",
            "<html><body>This node is in an unknown state.</body></html>",
        ),
    ] {
        let mut md5sum = Command::new("md5sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        md5sum.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let digest = String::from_utf8(md5sum.wait_with_output().unwrap().stdout).unwrap();
        let digest = digest.split(' ').next().unwrap();
        let xinetd = Xinetd::start(cluster.node(address), "");
        for _ in 0..20 {
            let ip = xinetd.address.ip().to_string();
            let output = xinetd.run("genhash", &["-s", &ip, "-p", "9201", "-u", "/"]);
            let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            assert!(text.contains(digest), "{address}: {text}");
        }
    }
}

#[test]
fn leadership_that_moves_is_seen_by_the_next_check_after_max_age() {
    let cluster = Cluster::new();
    let first = Xinetd::start(cluster.node("10.0.0.101"), "--max-age 0.1");
    let second = Xinetd::start(cluster.node("10.0.0.102"), "--max-age 0.1");
    assert_eq!(
        (first.curl(&[]), second.curl(&[])),
        (LEADER.to_string(), FOLLOWER.to_string())
    );
    cluster.leads("10.0.0.102");
    wait_until("leadership has moved", || {
        first.curl(&[]) == FOLLOWER && second.curl(&[]) == LEADER
    });
}

/// What the article has in /etc/xinetd.d/cmonhachk.
pub const ARTICLES_SERVICE: &str = "\
service cmonhachk
{
        flags           = REUSE
        socket_type     = stream
        port            = 9201
        wait            = no
        user            = root
        server          = /usr/local/sbin/cmonhachk.py
        log_on_failure  += USERID
        disable         = no
        only_from       = 0.0.0.0/0
        per_source      = UNLIMITED
}
";

#[test]
fn the_articles_service_file_with_only_the_server_changed_works() {
    let cluster = Cluster::new();
    let service = ARTICLES_SERVICE.replace("/usr/local/sbin/cmonhachk.py", "/usr/sbin/cmonhachk");
    let xinetd = Xinetd::serve(loopback(), cluster.leader(), &service);
    assert_eq!(xinetd.curl(&[]), LEADER);
}

#[test]
fn a_client_from_elsewhere_is_not_let_in() {
    let cluster = Cluster::new();
    let xinetd = Xinetd::start(cluster.leader(), "");
    let url = format!("http://{}/", xinetd.address);
    let output = xinetd.run("curl", &["--silent", "--interface", "127.0.0.99", &url]);
    assert!(output.stdout.is_empty());
    assert_eq!(cluster.runs(), 0);
}
