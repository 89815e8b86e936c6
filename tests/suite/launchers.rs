//! The same check under other super-servers than xinetd: one answer, byte for byte.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{
    Cluster, FOLLOWER, GET, LEADER, Node, PATIENCE, loopback, project, simulated_s9s, unknown, wait_until,
};

/// A running super-server.
struct Launcher(Child);

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The words of a node's check.
fn words(node: &Node<'_>) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_string();
    vec![
        env!("CARGO_BIN_EXE_cmonhachk").to_string(),
        format!("--cmon-defaults={}", path(&node.defaults)),
        format!("--lock-file={}", path(&node.lock)),
        format!("--s9s={}", path(&simulated_s9s())),
    ]
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
    let launcher = Launcher(process);
    wait_until("the port is served", || TcpStream::connect(address).is_ok());
    launcher
}

fn systemd_socket_activate(node: &Node<'_>, address: SocketAddrV4) -> Launcher {
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--accept", "--inetd", "--setenv=S9S_SIM", "--setenv=HOME=/", "--listen"]);
    launch(node, command.arg(address.to_string()).args(words(node)), address)
}

fn openbsd_inetd(node: &Node<'_>, address: SocketAddrV4) -> Launcher {
    let words = words(node);
    let program = Path::new(&words[0]).file_name().unwrap().to_str().unwrap();
    let line = format!(
        "{address} stream tcp nowait.0 root {} {program} {}\n",
        words[0],
        words[1..].join(" ")
    );
    let configuration = node.cluster.folder.write("inetd.conf", line);
    // Unpacked by tests/run.sh: Debian lets no two super-servers be installed.
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

fn ask(address: SocketAddrV4, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the connection ends in good order");
    answer
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
            assert_eq!(ask(port, request), expected, "{request:?}");
        }
        let (head, _) = expected.split_once("<html>").unwrap();
        assert_eq!(ask(port, b"HEAD / HTTP/1.0\r\n\r\n"), head);
    }
}

#[test]
fn systemds_socket_activation_gives_one_answer() {
    gives_one_answer(systemd_socket_activate);
}

#[test]
fn openbsd_inetd_gives_one_answer() {
    gives_one_answer(openbsd_inetd);
}

#[test]
fn socat_gives_one_answer() {
    gives_one_answer(socat);
}
