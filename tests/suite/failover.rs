//! Users land on the leader: three nodes, their UIs, and HAProxy with the deployed configuration.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::cluster::{AtEnd, Cluster, PATIENCE, loopback, once_in_a_while, project, wait_until};
use crate::haproxy::Haproxy;
use crate::scale::amount;
use crate::xinetd::Xinetd;

/// A node's UI: sends the node's name to each client, and keeps the session open.
pub struct Ui {
    pub address: SocketAddrV4,
    socket: TcpListener,
    listener: Option<JoinHandle<()>>,
}

impl Ui {
    pub fn start(ip: Ipv4Addr, name: &'static str) -> Ui {
        let address = SocketAddrV4::new(ip, 443);
        let socket = TcpListener::bind(address).unwrap();
        let listener = socket.try_clone().unwrap();
        let listener = thread::spawn(move || {
            for session in listener.incoming() {
                let mut session = match session {
                    Ok(session) => session,
                    // The socket was shut down.
                    Err(error) if error.kind() == ErrorKind::InvalidInput => return,
                    Err(_) => continue,
                };
                thread::spawn(move || {
                    // A health check only connects and closes.
                    if session.write_all(name.as_bytes()).is_ok() {
                        let _ = session.read_to_end(&mut Vec::new());
                    }
                });
            }
        });
        Ui {
            address,
            socket,
            listener: Some(listener),
        }
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        // This ends the wait for a session even if this thread could not connect to the address.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let _ = self.listener.take().unwrap().join();
    }
}

/// The whole site that users meet.
struct Site<'a> {
    haproxy: Haproxy,
    front: SocketAddrV4,
    statistics: SocketAddrV4,
    uis: Vec<Ui>,
    nodes: Vec<Xinetd<'a>>,
}

const NAMES: [&str; 3] = ["node1", "node2", "node3"];

impl<'a> Site<'a> {
    /// Starts it with the deployed haproxy.cfg. Only the addresses and the path of the stats socket are
    /// filled in, and `adapt` changes what the test does not check.
    fn start(cluster: &'a Cluster, arguments: &str, adapt: impl Fn(String) -> String) -> Site<'a> {
        Site::start_on([cluster; 3], arguments, adapt)
    }

    /// The same, with a separate s9s for each node.
    fn start_on(clusters: [&'a Cluster; 3], arguments: &str, adapt: impl Fn(String) -> String) -> Site<'a> {
        let cluster = clusters[0];
        let addresses = ["10.0.0.101", "10.0.0.102", "10.0.0.103"];
        let nodes: Vec<Xinetd<'_>> = clusters
            .iter()
            .zip(addresses)
            .map(|(cluster, address)| Xinetd::start(cluster.node(address), arguments))
            .collect();
        let uis = nodes
            .iter()
            .zip(NAMES)
            .map(|(node, name)| Ui::start(*node.address.ip(), name))
            .collect();
        let ip = loopback();
        let mut configuration = fs::read_to_string(project().join("deploy/haproxy/haproxy.cfg")).unwrap();
        for (node, address) in nodes.iter().zip(addresses) {
            configuration = configuration.replace(&format!("{address}:"), &format!("{}:", node.address.ip()));
        }
        let socket = cluster.folder.join("stats").display().to_string();
        configuration = configuration
            .replace("bind :", &format!("bind {ip}:"))
            .replace("/run/haproxy/admin.sock", &socket);
        let haproxy = Haproxy::start(&cluster.folder, &adapt(configuration));
        let site = Site {
            haproxy,
            front: SocketAddrV4::new(ip, 81),
            statistics: SocketAddrV4::new(ip, 9600),
            uis,
            nodes,
        };
        // Servers count as up until their first check is over.
        wait_until("HAProxy has found the leader", || site.up() == ["node1"]);
        site
    }

    /// The servers that HAProxy would send users to.
    fn up(&self) -> Vec<&'static str> {
        NAMES
            .into_iter()
            .filter(|name| self.haproxy.is_up("ui", name))
            .collect()
    }

    /// A user's session through HAProxy, and the name of its node. None if no node answers.
    fn visit(&self) -> Option<(TcpStream, String)> {
        let mut session = TcpStream::connect(self.front).ok()?;
        session.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut name = [0; 5];
        session.read_exact(&mut name).ok()?;
        Some((session, String::from_utf8(name.to_vec()).unwrap()))
    }

    /// The node that a user gets.
    fn user_gets(&self) -> Option<String> {
        self.visit().map(|(_, name)| name)
    }
}

#[test]
fn the_deployed_configuration_is_valid_without_a_warning() {
    let file = project().join("deploy/haproxy/haproxy.cfg");
    let output = Command::new("haproxy").arg("-c").arg("-f").arg(file).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "Configuration file is valid\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn users_are_on_the_new_leader_within_three_seconds_and_stay_there() {
    let cluster = Cluster::new();
    let site = Site::start(&cluster, "", |configuration| configuration);
    let (mut session, name) = site.visit().unwrap();
    assert_eq!(name, "node1");

    let moved = Instant::now();
    cluster.leads("10.0.0.102");
    let mut replies = Vec::new();
    while moved.elapsed() < Duration::from_secs(5) {
        let asked = moved.elapsed();
        replies.push((asked, site.user_gets()));
        thread::sleep(Duration::from_millis(50).saturating_sub(moved.elapsed() - asked));
    }
    let on = |name: &str| replies.iter().position(|(_, reply)| reply.as_deref() == Some(name));
    let arrived = on("node2").expect("users arrive on the new leader");
    assert!(
        replies[arrived].0 < Duration::from_secs(3),
        "arrived after {:?}",
        replies[arrived].0
    );
    let after: Vec<_> = replies[arrived..]
        .iter()
        .filter(|(_, reply)| reply.as_deref() != Some("node2"))
        .collect();
    assert!(after.is_empty(), "{after:?}");
    let mut rest = Vec::new();
    let cut = session.read_to_end(&mut rest);
    assert!(
        cut.is_ok_and(|_| rest.is_empty()),
        "the session on the old leader was cut"
    );
    assert_eq!(site.up(), ["node2"]);
}

/// What happens to the old leader.
#[derive(Clone, Copy, Debug)]
enum Failover {
    /// It follows.
    Moves,
    /// Its controller accepts no connections.
    Dies,
    /// Its controller accepts connections and says nothing.
    Freezes,
    /// For another 1.5 s, it still says that it leads.
    Lags,
}

/// Moves the leadership back and forth. Returns for each move how long it took until the first user was
/// on the new leader, and how many requests failed meanwhile.
fn fail_over(kind: Failover, count: usize) -> Vec<(Duration, usize)> {
    let clusters = [Cluster::new(), Cluster::new(), Cluster::new()];
    let site = Site::start_on([&clusters[0], &clusters[1], &clusters[2]], "", |configuration| {
        configuration
    });
    let addresses = ["10.0.0.101", "10.0.0.102", "10.0.0.103"];
    let mut figures = Vec::new();
    for round in 0..count {
        let (old, new) = (round % 2, (round + 1) % 2);
        // Each time at another moment of the second between two checks.
        thread::sleep(Duration::from_millis(1500 + round as u64 * 370 % 1000));
        let moved = Instant::now();
        match kind {
            Failover::Dies => clusters[old].behaves("connection-refused"),
            Failover::Freezes => clusters[old].behaves("hang"),
            Failover::Moves | Failover::Lags => {}
        }
        let lags = matches!(kind, Failover::Lags).then_some(old);
        let told = clusters.iter().enumerate().filter(|(number, _)| Some(*number) != lags);
        told.for_each(|(_, cluster)| cluster.leads(addresses[new]));
        let has_arrived = AtomicBool::new(false);
        let (site, arrived) = (&site, &has_arrived);
        let users = thread::scope(|scope| {
            let mut users = Vec::new();
            while !arrived.load(Ordering::Relaxed) && moved.elapsed() < Duration::from_secs(6) {
                users.push(scope.spawn(move || {
                    // A browser whose connection is cut before the first byte tries once more.
                    let name = site.user_gets().or_else(|| site.user_gets());
                    arrived.fetch_or(name.as_deref() == Some(NAMES[new]), Ordering::Relaxed);
                    (moved.elapsed(), name)
                }));
                if matches!(kind, Failover::Lags) && moved.elapsed() > Duration::from_millis(1500) {
                    clusters[old].leads(addresses[new]);
                }
                thread::sleep(Duration::from_millis(20));
            }
            users.into_iter().map(|user| user.join().unwrap()).collect::<Vec<_>>()
        });
        let failed = users.iter().filter(|(_, name)| name.is_none()).count();
        let on_new = users.iter().filter(|(_, name)| name.as_deref() == Some(NAMES[new]));
        let arrived = on_new.map(|(at, _)| *at).min();
        figures.push((arrived.expect("users arrive on the new leader"), failed));
        clusters[old].behaves("list");
        wait_until("only the new leader is up", || site.up() == [NAMES[new]]);
    }
    figures
}

#[test]
fn users_are_on_the_new_leader_soon_and_no_request_fails() {
    let count = amount("CMONHACHK_FAILOVERS", 3, 20);
    thread::scope(|scope| {
        for (kind, limit) in [
            (Failover::Moves, 2500),
            (Failover::Dies, 4500),
            (Failover::Freezes, 5500),
            (Failover::Lags, 4500),
        ] {
            scope.spawn(move || {
                let figures = fail_over(kind, count);
                let mut times: Vec<u128> = figures.iter().map(|(time, _)| time.as_millis()).collect();
                times.sort_unstable();
                let failed: usize = figures.iter().map(|(_, failed)| failed).sum();
                let (median, longest) = (times[count / 2], times[count - 1]);
                println!(
                    "{kind:?}: median {median} ms, longest {longest} ms, {failed} failed requests; all: {times:?}"
                );
                assert_eq!(failed, 0, "{kind:?}");
                assert!(longest < limit, "{kind:?}: {times:?}");
            });
        }
    });
}

#[test]
fn in_every_transition_the_right_node_is_up_and_nobody_is_stuck() {
    let clusters = [Cluster::new(), Cluster::new(), Cluster::new()];
    let file = clusters[0].folder.join("maintenance");
    let arguments = format!("--maintenance {}", file.display());
    let all = [&clusters[0], &clusters[1], &clusters[2]];
    let mut site = Site::start_on(all, &arguments, |configuration| configuration);
    let leads = |address: &str| clusters.iter().for_each(|cluster| cluster.leads(address));
    let becomes = |site: &Site<'_>, step: &str, up: &[&str]| {
        wait_until(step, || site.up() == up);
        let since = Instant::now();
        // Longer than any check's interval.
        while since.elapsed() < Duration::from_millis(1300) {
            assert_eq!(site.up(), up, "{step}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    leads("10.0.0.102");
    becomes(&site, "the leader follows", &["node2"]);
    clusters[0].behaves("connection-refused");
    becomes(&site, "the follower is unknown", &["node2"]);
    leads("10.0.0.101");
    becomes(&site, "the unknown one is said to lead", &[]);
    clusters[0].behaves("list");
    becomes(&site, "the unknown one leads", &["node1"]);
    clusters[0].behaves("hang");
    becomes(&site, "the leader is unknown", &[]);
    clusters[0].behaves("list");
    becomes(&site, "it leads again", &["node1"]);
    clusters[0].behaves("connection-refused");
    becomes(&site, "the leader is unknown again", &[]);
    leads("10.0.0.102");
    clusters[0].behaves("list");
    becomes(&site, "the unknown one follows", &["node2"]);

    // The agent and the check stop together, because they share one port.
    let ip = *site.nodes[0].address.ip();
    drop(site.nodes.remove(0));
    becomes(&site, "a follower's port is closed", &["node2"]);
    leads("10.0.0.101");
    becomes(&site, "the one with the closed port leads", &[]);
    let node = clusters[0].node("10.0.0.101");
    site.nodes.insert(0, Xinetd::start_on(ip, node, &arguments));
    becomes(&site, "the port is open again", &["node1"]);
    drop(site.nodes.remove(0));
    becomes(&site, "the leader's port is closed", &[]);
    leads("10.0.0.103");
    let node = clusters[0].node("10.0.0.101");
    site.nodes.insert(0, Xinetd::start_on(ip, node, &arguments));
    becomes(&site, "the port is open, and another leads", &["node3"]);

    fs::write(&file, "").unwrap();
    becomes(&site, "maintenance", &[]);
    assert!(
        site.haproxy.log().contains("via agent : stopped (maintenance)"),
        "{}",
        site.haproxy.log()
    );
    fs::remove_file(&file).unwrap();
    becomes(&site, "maintenance is over", &["node3"]);
}

#[test]
fn while_two_nodes_answer_200_users_are_sent_to_one_of_them_alone() {
    let cluster = Cluster::new();
    let site = Site::start(&cluster, "", |configuration| configuration);
    assert_eq!(site.user_gets().as_deref(), Some("node1"));
    // A follower gets the leader's address, as if it were a second cluster's leader: now two nodes lead.
    cluster
        .folder
        .write("defaults-10.0.0.103", "RPC_BIND_ADDRESSES=10.0.0.101\n");
    wait_until("two nodes are up", || site.up() == ["node1", "node3"]);
    for _ in 0..50 {
        assert_eq!(site.user_gets().as_deref(), Some("node1"));
    }
    // When that node goes down, all users move to the other one together.
    cluster
        .folder
        .write("defaults-10.0.0.101", "RPC_BIND_ADDRESSES=10.0.0.102\n");
    wait_until("one node is up", || site.up() == ["node3"]);
    assert_eq!(site.user_gets().as_deref(), Some("node3"));
    cluster
        .folder
        .write("defaults-10.0.0.101", "RPC_BIND_ADDRESSES=10.0.0.101\n");
    wait_until("two nodes are up", || site.up() == ["node1", "node3"]);
    for _ in 0..50 {
        assert_eq!(site.user_gets().as_deref(), Some("node3"), "nobody is drawn back");
    }
}

#[test]
fn one_lost_check_in_ten_takes_nobody_down() {
    let cluster = Cluster::new();
    // Checks five times as often as deployed, so that sixty of them take less than a minute.
    let site = Site::start(&cluster, "--timeout 1.5 --max-age 0.2", |configuration| {
        let spans = "inter 1s fastinter 1010ms downinter 250ms";
        assert!(configuration.contains(spans));
        configuration.replace(spans, "inter 200ms fastinter 220ms downinter 200ms")
    });
    cluster.behaves("flaky 10");
    // Only the leader's failed checks count: the followers are down anyway. The runs of all nodes count.
    let failed = || site.haproxy.server("role", "node1")["chkfail"].parse::<u32>().unwrap();
    let before = (failed(), cluster.runs());
    wait_until("sixty checks of each node were made", || {
        cluster.runs() >= before.1 + 180
    });
    assert!(
        failed() >= before.0 + 3,
        "of sixty checks only {} failed",
        failed() - before.0
    );
    assert_eq!(site.haproxy.server("role", "node1")["chkdown"], "0");
    assert_eq!(site.up(), ["node1"]);
}

#[test]
fn when_every_s9s_hangs_nobody_is_up_and_the_statistics_say_why() {
    let cluster = Cluster::new();
    let site = Site::start(&cluster, "", |configuration| configuration);
    cluster.behaves("hang");
    wait_until("nobody is up", || site.up().is_empty());
    assert_eq!(site.user_gets(), None);
    // HAProxy does not show the reason while the next check is under way.
    for name in NAMES {
        wait_until("the node's reason is known", || {
            site.haproxy.server("role", name)["last_chk"] == "unknown s9s-timeout"
        });
    }
    let url = format!("http://{}/", site.statistics);
    wait_until("the page shows a reason", || {
        let page = Command::new("curl").args(["--silent", "--show-error", &url]).output();
        String::from_utf8(page.unwrap().stdout)
            .unwrap()
            .contains("unknown s9s-timeout")
    });
    assert!(
        site.haproxy.log().contains("unknown s9s-timeout"),
        "{}",
        site.haproxy.log()
    );

    let ended = Instant::now();
    cluster.behaves("list");
    wait_until("the leader is back", || site.up() == ["node1"]);
    assert!(
        ended.elapsed() < Duration::from_secs(3),
        "back after {:?}",
        ended.elapsed()
    );
    assert_eq!(site.user_gets().as_deref(), Some("node1"));
}

#[test]
fn users_are_not_sent_to_a_leader_whose_ui_is_down() {
    let cluster = Cluster::new();
    let mut site = Site::start(&cluster, "", |configuration| configuration);
    let ip = *site.uis.remove(0).address.ip();
    wait_until("the leader is down", || site.up().is_empty());
    assert_eq!(site.user_gets(), None);
    site.uis.push(Ui::start(ip, "node1"));
    wait_until("the leader is back", || site.up() == ["node1"]);
    assert_eq!(site.user_gets().as_deref(), Some("node1"));
}

#[test]
fn nobody_is_sent_to_a_follower_or_away_while_haproxy_reloads() {
    let cluster = Cluster::new();
    let site = Site::start(&cluster, "", |configuration| configuration);
    // node3 is checked last.
    cluster.leads("10.0.0.103");
    wait_until("the leader is up", || site.up() == ["node3"]);
    let nobody_was_refused = || {
        let over = AtomicBool::new(false);
        let replies = thread::scope(|scope| {
            let _end = AtEnd(&over);
            let users = [(); 4].map(|()| {
                scope.spawn(|| {
                    let mut replies = HashMap::new();
                    while !over.load(Ordering::Relaxed) {
                        *replies.entry(site.user_gets()).or_insert(0) += 1;
                    }
                    replies
                })
            });
            for _ in 0..3 {
                site.haproxy.reload();
                // By then it has checked every node, and a little more time has passed.
                thread::sleep(Duration::from_millis(1500));
            }
            over.store(true, Ordering::Relaxed);
            users.map(|user| user.join().unwrap())
        });
        for name in replies.iter().flat_map(HashMap::keys).flatten() {
            assert_eq!(name, "node3", "{replies:?}");
        }
        assert!(
            replies.iter().all(|replies| replies.values().sum::<u32>() > 10),
            "{replies:?}"
        );
        !replies.iter().any(|replies| replies.contains_key(&None))
    };
    // On a busy machine, the new process may take longer to find the leader than users wait.
    assert!(once_in_a_while(nobody_was_refused));
}
