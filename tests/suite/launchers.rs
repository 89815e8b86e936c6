//! The same check under super-servers other than xinetd: one answer, byte for byte.

use std::fs;
use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{
    Cluster, Daemon, FOLLOWER, GET, LEADER, Node, TIMEOUT, ask, binary, loopback, parent, processes, project, receive,
    simulated_s9s, unknown, wait_until,
};

/// The command line of a node's check, in words.
fn words(node: &Node<'_>) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_string();
    vec![
        binary().to_string(),
        format!("--cmon-defaults={}", path(&node.defaults)),
        format!("--lock-file={}", path(&node.lock)),
        format!("--s9s={}", path(&simulated_s9s())),
        format!("--timeout={TIMEOUT}"),
    ]
}

/// A super-server. A listener that it has started would outlive it.
struct Launcher(Daemon);

impl Drop for Launcher {
    fn drop(&mut self) {
        let launcher = Some(self.0.0.id());
        for listener in processes().filter(|pid| parent(*pid) == launcher) {
            let _ = kill(Pid::from_raw(listener.cast_signed()), Signal::SIGTERM);
        }
    }
}

fn launch(node: &Node<'_>, command: &mut Command, address: SocketAddrV4) -> Launcher {
    let log = fs::File::create(node.cluster.folder.join("launcher.log")).unwrap();
    let process = command
        .env("S9S_SIM", node.cluster.folder.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let launcher = Launcher(Daemon(process));
    wait_until("the port is served", || TcpStream::connect(address).is_ok());
    launcher
}

fn systemd_socket_activate(node: &Node<'_>, address: SocketAddrV4, accept: &[&str]) -> Launcher {
    let mut command = Command::new("systemd-socket-activate");
    command.args(accept);
    command.args(["--inetd", "--setenv=S9S_SIM", "--setenv=HOME=/", "--listen"]);
    launch(node, command.arg(address.to_string()).args(words(node)), address)
}

fn openbsd_inetd(node: &Node<'_>, address: SocketAddrV4, wait: &str) -> Launcher {
    let words = words(node);
    let program = Path::new(&words[0]).file_name().unwrap().to_str().unwrap();
    let line = format!(
        "{address} stream tcp {wait} root {} {program} {}\n",
        words[0],
        words[1..].join(" ")
    );
    let configuration = node.cluster.folder.write("inetd.conf", line);
    // tests/run.sh unpacks it, because Debian does not allow two super-servers to be installed.
    let mut command = Command::new(project().join("target/tools/openbsd-inetd/usr/sbin/inetd"));
    launch(node, command.args(["-i", "-E"]).arg(configuration), address)
}

fn socat(node: &Node<'_>, address: SocketAddrV4) -> Launcher {
    let listen = format!("TCP-LISTEN:{},bind={},reuseaddr,fork", address.port(), address.ip());
    let mut command = Command::new("socat");
    launch(
        node,
        command.args([listen, format!("EXEC:{}", words(node).join(" "))]),
        address,
    )
}

/// Starts a super-server for a node in each state, and asks it in several ways.
fn gives_one_answer(start: impl Fn(&Node<'_>, SocketAddrV4) -> Launcher) {
    for (address, expected) in [
        ("10.0.0.101", LEADER.to_string()),
        ("10.0.0.102", FOLLOWER.to_string()),
        ("10.0.0.9", unknown("not-listed")),
    ] {
        let cluster = Cluster::new();
        let node = cluster.node(address);
        let port = SocketAddrV4::new(loopback(), 9201);
        let _launcher = start(&node, port);
        for request in [GET, b"OPTIONS / HTTP/1.0\r\n\r\n", b"", b"garbage\xff\n\n"] {
            assert_eq!(receive(&mut ask(port, request)), expected, "{request:?}");
        }
        let (head, _) = expected.split_once("<html>").unwrap();
        assert_eq!(receive(&mut ask(port, b"HEAD / HTTP/1.0\r\n\r\n")), head);
    }
}

#[test]
fn systemds_socket_activation_gives_one_answer() {
    gives_one_answer(|node, address| systemd_socket_activate(node, address, &["--accept"]));
}

#[test]
fn so_does_a_listener_that_systemd_starts() {
    gives_one_answer(|node, address| systemd_socket_activate(node, address, &[]));
}

#[test]
fn openbsd_inetd_gives_one_answer() {
    gives_one_answer(|node, address| openbsd_inetd(node, address, "nowait.0"));
}

#[test]
fn so_does_a_listener_that_openbsd_inetd_starts() {
    gives_one_answer(|node, address| openbsd_inetd(node, address, "wait"));
}

#[test]
fn so_does_a_listener_that_xinetd_starts() {
    gives_one_answer(|node, address| {
        let words = words(node);
        let service = format!(
            "service check\n{{\ntype = UNLISTED\nport = {}\nbind = {}\nsocket_type = stream\nprotocol = tcp\n\
             wait = yes\nuser = root\nserver = {}\nserver_args = {}\n}}\n",
            address.port(),
            address.ip(),
            words[0],
            words[1..].join(" ")
        );
        let folder = &node.cluster.folder;
        let mut command = Command::new("/usr/sbin/xinetd");
        command
            .args(["-dontfork", "-f"])
            .arg(folder.write("xinetd.conf", service));
        command.arg("-pidfile").arg(folder.join("xinetd.pid"));
        launch(node, &mut command, address)
    });
}

#[test]
fn so_does_a_listener_without_a_super_server() {
    gives_one_answer(|node, address| {
        let words = words(node);
        let mut command = Command::new(&words[0]);
        launch(
            node,
            command.args(&words[1..]).arg(format!("--listen={address}")),
            address,
        )
    });
}

#[test]
fn socat_gives_one_answer() {
    gives_one_answer(socat);
}
