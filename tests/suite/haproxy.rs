//! The real HAProxy's health check understands every answer as it is meant.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Daemon, Folder, PATIENCE, parent, processes, wait_until};
use crate::versions::Versions;
use crate::xinetd::Xinetd;

/// A running HAProxy.
pub struct Haproxy {
    process: Daemon,
    socket: PathBuf,
    log: PathBuf,
}

impl Haproxy {
    /// Starts it with a configuration whose stats socket is the file `stats` in `folder`.
    pub fn start(versions: &Versions, folder: &Folder, configuration: &str) -> Haproxy {
        let (socket, log) = (folder.join("stats"), folder.join("haproxy.log"));
        let configuration = folder.write("haproxy.cfg", configuration);
        let said = fs::File::create(&log).unwrap();
        let process = versions
            .haproxy()
            .args(["-Ws", "-f"])
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .expect("haproxy is installed");
        let process = Daemon(process);
        let haproxy = Haproxy { process, socket, log };
        wait_until("HAProxy answers", || UnixStream::connect(&haproxy.socket).is_ok());
        haproxy
    }

    /// What it answers to a command on its stats socket.
    pub fn command(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{command}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What it says about a server, by the name of the column.
    pub fn server(&self, proxy: &str, name: &str) -> HashMap<String, String> {
        let table = self.command("show stat");
        let mut lines = table.lines();
        let titles = lines.next().unwrap().trim_start_matches("# ").split(',');
        let row = lines
            .find(|line| line.starts_with(&format!("{proxy},{name},")))
            .unwrap();
        titles
            .map(str::to_string)
            .zip(row.split(',').map(str::to_string))
            .collect()
    }

    /// Whether a server is up. Its state may also show a change under way: `UP 1/2`.
    pub fn is_up(&self, proxy: &str, name: &str) -> bool {
        self.server(proxy, name)["status"].starts_with("UP")
    }

    /// The workers of the master: after a reload also old ones, as long as they have users.
    fn workers(&self) -> Vec<u32> {
        let master = Some(self.process.0.id());
        processes().filter(|pid| parent(*pid) == master).collect()
    }

    /// Makes the master read its configuration again, and waits for the new worker.
    pub fn reload(&self) {
        let old = self.workers();
        self.process.signal(Signal::SIGUSR2);
        wait_until("there is a new worker", || {
            self.workers().iter().any(|worker| !old.contains(worker))
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
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
    let servers: Vec<String> = nodes
        .iter()
        .zip(["leader", "follower", "unknown"])
        .map(|(node, name)| format!("    server {name} {} check inter 20ms\n", node.address))
        .collect();
    // As in the article: nothing but httpchk.
    let configuration = format!(
        "global\n    stats socket {}\n\
         defaults\n    mode tcp\n    timeout connect 20s\n    timeout client 20s\n    timeout server 20s\n    timeout check 20s\n\
         backend ui\n    option httpchk\n{}",
        cluster.folder.join("stats").display(),
        servers.concat()
    );
    let haproxy = Haproxy::start(&Versions::usual(), &cluster.folder, &configuration);
    // Every check of the leader needs a run, so the runs count its checks.
    for count in (10..=100).step_by(10) {
        wait_until("the leader was checked ten more times", || cluster.runs() >= count);
    }
    // A star marks a check under way; after it comes the result of the last check.
    let result = |server: &HashMap<String, String>| server["check_status"].trim_start_matches("* ").to_string();
    let leader = haproxy.server("ui", "leader");
    assert_eq!((&*leader["status"], &*result(&leader)), ("UP", "L7OK"));
    assert_eq!((&*leader["chkfail"], &*leader["chkdown"]), ("0", "0"));
    for name in ["follower", "unknown"] {
        wait_until("the others are down", || haproxy.server("ui", name)["status"] == "DOWN");
        // A wrong status, not a broken or missing answer.
        assert_eq!(result(&haproxy.server("ui", name)), "L7STS", "{name}");
    }
}
