//! The real HAProxy's health check takes the answer for what it says, every time.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cluster::{Cluster, PATIENCE, wait_until};
use crate::xinetd::Xinetd;

struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What HAProxy says of a server on its stats socket, by the column's name.
fn server(socket: &Path, name: &str) -> HashMap<String, String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"show stat\n").unwrap();
    let mut table = String::new();
    stream.read_to_string(&mut table).unwrap();
    let mut lines = table.lines();
    let titles = lines
        .next()
        .unwrap()
        .trim_start_matches("# ")
        .split(',')
        .map(str::to_string);
    let row = lines.find(|line| line.split(',').nth(1) == Some(name)).unwrap();
    titles.zip(row.split(',').map(str::to_string)).collect()
}

#[test]
fn the_leader_is_up_and_the_others_are_down_and_no_check_is_misread() {
    let cluster = Cluster::new();
    let unknown = Cluster::new();
    unknown.behaves("fail 5 Connection refused.");
    let nodes = [
        Xinetd::start(cluster.node("10.0.0.101"), "--max-age 0"),
        Xinetd::start(cluster.node("10.0.0.102"), "--max-age 60"),
        Xinetd::start(unknown.node("10.0.0.103"), "--max-age 60"),
    ];
    let socket = cluster.folder.join("stats");
    let servers: Vec<String> = nodes
        .iter()
        .zip(["leader", "follower", "unknown"])
        .map(|(node, name)| format!("    server {name} {} check inter 20ms\n", node.address))
        .collect();
    let conf = cluster.folder.write(
        "haproxy.cfg",
        format!(
            "global\n    stats socket {}\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n    timeout check 5s\n\
             backend ui\n    option httpchk\n{}",
            socket.display(),
            servers.concat()
        ),
    );
    let _haproxy = Haproxy(
        Command::new("haproxy")
            .args(["-q", "-db", "-f"])
            .arg(conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy is installed"),
    );
    wait_until("HAProxy answers", || UnixStream::connect(&socket).is_ok());
    // Every check of the leader costs a run, so the runs count its checks.
    wait_until("the leader was checked a hundred times", || cluster.runs() >= 100);
    // A star marks a check under way; what follows is the last one's result.
    let result = |server: &HashMap<String, String>| server["check_status"].trim_start_matches("* ").to_string();
    let leader = server(&socket, "leader");
    assert_eq!((&*leader["status"], &*result(&leader)), ("UP", "L7OK"));
    assert_eq!((&*leader["chkfail"], &*leader["chkdown"]), ("0", "0"));
    for name in ["follower", "unknown"] {
        wait_until("the others are down", || server(&socket, name)["status"] == "DOWN");
        // A wrong status, not a broken or missing answer.
        assert_eq!(result(&server(&socket, name)), "L7STS", "{name}");
    }
}
