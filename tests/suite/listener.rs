//! The listener: one process accepts, and each connection gets a process of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, Backlog};
use nix::unistd::Pid;

use crate::cluster::{
    Cluster, Daemon, FOLLOWER, GET, LEADER, Node, TIMEOUT, ask, ask_from, binary, connect_from, enter_network, exits,
    is_closed, once_in_a_while, parent, processes, receive, starting, unknown, wait_until, with_own_fault,
};
use crate::late::with_disk;
use crate::syslog::{Log, logging, with_log};

/// A listener to which a super-server has lent its socket.
pub struct Lent {
    listener: Daemon,
    address: SocketAddrV4,
    /// The super-server's own descriptor.
    socket: TcpListener,
}

/// Lends a socket to the command, as cmonhachk.socket does.
fn lend(command: &mut Command) -> Lent {
    lend_on(0, command)
}

/// The same on this port.
pub fn lend_on(port: u16, command: &mut Command) -> Lent {
    let socket = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    socket::listen(&socket, Backlog::MAXALLOWABLE).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port());
    let listener = with_socket(command, socket.try_clone().unwrap().into());
    Lent {
        listener,
        address,
        socket,
    }
}

/// Starts the command with the socket as its three standard descriptors.
fn with_socket(command: &mut Command, socket: OwnedFd) -> Daemon {
    let copy = || socket.try_clone().unwrap();
    let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Daemon(child)
}

impl Lent {
    pub fn pid(&self) -> u32 {
        self.listener.0.id()
    }

    fn ask(&self) -> TcpStream {
        ask(self.address, GET)
    }

    fn get(&self) -> String {
        receive(&mut self.ask())
    }

    /// Whether it takes no processor time for a while.
    fn rests(&self) -> bool {
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            // proc(5): the 14th and 15th word, in hundredths of a second.
            let (_, words) = stat.rsplit_once(") ").unwrap();
            let words = words.split(' ').skip(11).take(2);
            words.map(|word| word.parse::<u64>().unwrap()).sum::<u64>()
        };
        let before = ticks();
        thread::sleep(Duration::from_millis(300));
        ticks() - before < 5
    }

    /// The processes of its checks, also those that have ended and were not waited for.
    fn checks(&self) -> Vec<u32> {
        children(self.pid())
    }
}

/// The processes that this one has started, and which live.
pub fn children(of: u32) -> Vec<u32> {
    processes().filter(|pid| parent(*pid) == Some(of)).collect()
}

/// Gives the test's network the addresses 10.9.0.0 to 10.9.255.255, and some in two networks of IPv6.
pub fn add_addresses() {
    enter_network();
    let networks = (1..=9).map(|host| format!("address add fd00:0:0:1::{host} dev lo nodad\n"));
    let batch: String = networks
        .chain(["address add 10.9.0.1/16 dev lo\n".to_string()])
        .collect();
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

/// The address of the client with this number, after [`add_addresses`].
fn client(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 9, 1, 0).to_bits() + number as u32)
}

/// How many of these were closed without an answer. None has been served.
fn closed(clients: &[TcpStream]) -> usize {
    clients.iter().filter(|client| is_closed(client)).count()
}

#[test]
fn each_connection_has_a_process_of_its_own_which_leaves_nothing() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let lent = lend(&mut cluster.leader().command());
    let clients: Vec<_> = (0..20).map(|_| lent.ask()).collect();
    wait_until("each has its process", || lent.checks().len() == 20);
    let threads = fs::read_dir(format!("/proc/{}/task", lent.pid())).unwrap().count();
    assert_eq!(threads, 1);
    cluster.open_gate();
    for mut client in clients {
        assert_eq!(receive(&mut client), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    wait_until("no process is left, and none waits for its end to be seen", || {
        lent.checks().is_empty()
    });
}

#[test]
fn while_nobody_asks_it_takes_no_processor_time() {
    let cluster = Cluster::new();
    let lent = lend(&mut cluster.leader().command());
    assert_eq!(lent.get(), LEADER);
    assert!(lent.rests());
}

#[test]
fn the_time_of_a_check_counts_from_its_own_connection() {
    let cluster = Cluster::new();
    let lent = lend(cluster.leader().command().args(["--timeout", "2", "--max-age", "0"]));
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        assert_eq!(lent.get(), LEADER);
    }
}

#[test]
fn of_500_clients_at_once_400_have_a_process_and_the_others_wait() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    add_addresses();
    let lent = lend(&mut cluster.leader().command());
    let clients: Vec<_> = (0..500)
        .map(|number| ask_from(client(number / 2), lent.address))
        .collect();
    wait_until("as many as may have a process", || lent.checks().len() == 400);
    assert!(lent.rests());
    assert_eq!(lent.checks().len(), 400);
    cluster.open_gate();
    for mut client in clients {
        assert_eq!(receive(&mut client), LEADER);
    }
}

#[test]
fn one_address_gets_100_processes_and_keeps_nobody_else_out() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let lent = lend(&mut cluster.leader().command());
    let greedy: Vec<_> = (0..110)
        .map(|_| ask_from(Ipv4Addr::new(10, 0, 0, 2), lent.address))
        .collect();
    wait_until("the others are turned away", || closed(&greedy) == 10);
    assert_eq!(lent.checks().len(), 100);
    let modest = ask_from(Ipv4Addr::new(10, 0, 0, 10), lent.address);
    let local: Vec<_> = (0..110).map(|_| lent.ask()).collect();
    wait_until("others are served", || lent.checks().len() == 211);
    cluster.open_gate();
    for mut client in local.into_iter().chain([modest]) {
        assert_eq!(receive(&mut client), LEADER);
    }
    let answer = |mut client: TcpStream| {
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    };
    let answers: Vec<_> = greedy.into_iter().map(answer).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == LEADER).count(), 100);
    assert_eq!(answers.iter().filter(|answer| answer.is_empty()).count(), 10);
}

#[test]
fn the_addresses_of_one_network_of_ipv6_get_100_processes_together() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    add_addresses();
    let lent = lend(&mut cluster.leader().command());
    let here: Ipv6Addr = "fd00::7".parse().unwrap();
    let to = SocketAddr::from((here, lent.address.port()));
    let own = |number: u16| Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, number);
    let greedy: Vec<_> = (0..150).map(|number| ask_from(own(number % 5 + 1), to)).collect();
    wait_until("the others are turned away", || closed(&greedy) == 50);
    assert_eq!(lent.checks().len(), 100);

    let mut modest = ask_from(here, to);
    wait_until("another network is served", || lent.checks().len() == 101);
    cluster.open_gate();
    assert_eq!(receive(&mut modest), LEADER);
}

#[test]
fn all_of_loopback_gets_200_processes_together() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let lent = lend(&mut cluster.leader().command());
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, lent.address.port()));
    let local: Vec<_> = (0..70)
        .flat_map(|_| {
            [
                ask_from(Ipv4Addr::LOCALHOST, lent.address),
                ask_from(Ipv4Addr::new(127, 8, 9, 10), lent.address),
                ask_from(Ipv6Addr::LOCALHOST, six),
            ]
        })
        .collect();
    wait_until("the others are turned away", || closed(&local) == 10);
    assert_eq!(lent.checks().len(), 200);

    let mut modest = ask_from(Ipv4Addr::new(10, 0, 0, 10), lent.address);
    wait_until("another client is served", || lent.checks().len() == 201);
    cluster.open_gate();
    assert_eq!(receive(&mut modest), LEADER);
}

#[test]
fn beside_sixty_addresses_that_hold_what_they_get_another_one_gets_a_process() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    add_addresses();
    let lent = lend(&mut cluster.leader().command());
    let greedy: Vec<_> = (0..1200)
        .map(|number| ask_from(client(number % 60), lent.address))
        .collect();
    let has_decided = || lent.checks().len() + closed(&greedy) == greedy.len();
    wait_until("each is served or turned away", has_decided);
    let served = lent.checks().len();
    assert!((330..390).contains(&served), "{served}");

    let mut modest = ask_from(Ipv4Addr::new(10, 0, 0, 10), lent.address);
    wait_until("another client is served", || lent.checks().len() == served + 1);
    cluster.open_gate();
    assert_eq!(receive(&mut modest), LEADER);
}

#[test]
fn clients_of_one_address_that_come_back_at_once_are_served_as_long_as_they_are_not_too_many() {
    let cluster = Cluster::new();
    let lent = lend(cluster.leader().command().args(["--max-age", "60"]));
    let ask = || ask_from(Ipv4Addr::new(10, 0, 0, 2), lent.address);
    thread::scope(|scope| {
        // Few of what one address may have: on a busy machine, many checks that have answered take a while to end.
        for _ in 0..6 {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(receive(&mut ask()), LEADER)));
        }
    });
}

#[test]
fn that_a_client_is_turned_away_is_logged_once() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let log = Log::open(&cluster);
    let lent = lend(&mut logging(&cluster.leader(), &[]));
    let greedy: Vec<_> = (0..150)
        .map(|_| ask_from(Ipv4Addr::new(10, 0, 0, 2), lent.address))
        .collect();
    wait_until("many are turned away", || closed(&greedy) == 50);
    let local: Vec<_> = (0..300).map(|_| lent.ask()).collect();
    wait_until("others are, too", || closed(&local) == 150);
    assert_eq!(
        log.lines(),
        [
            "<28>too many connections from 10.0.0.2: 100 of its checks are in flight, and further connections are \
             closed. Find out what opens them there, or let a firewall keep it out"
        ]
    );
}

#[test]
fn when_places_are_scarce_a_check_waits_only_for_the_first_byte() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    add_addresses();
    let maintenance = cluster.folder.join("maintenance");
    let arguments = ["--maintenance", maintenance.to_str().unwrap()];
    let lent = lend(cluster.leader().command().args(arguments));
    let own = Ipv4Addr::new(10, 0, 0, 10);
    // Its checks need no lock, so they do not wait for the crowd's.
    let in_maintenance = unknown("maintenance");
    let half = || {
        let mut client = connect_from(own, lent.address);
        client.write_all(b"GET /").unwrap();
        let start = Instant::now();
        assert_eq!(receive(&mut client), in_maintenance);
        (client, start.elapsed())
    };

    let mut crowd: Vec<_> = (0..300)
        .map(|number| ask_from(client(number / 4), lent.address))
        .collect();
    wait_until("300 places are taken", || lent.checks().len() == 300);
    cluster.folder.write("maintenance", "");
    let (patient, took) = half();
    assert!(took > Duration::from_millis(900), "{took:?}");
    drop(patient);
    wait_until("it is let go", || lent.checks().len() == 300);

    fs::remove_file(&maintenance).unwrap();
    crowd.push(ask_from(own, lent.address));
    wait_until("one more is taken", || lent.checks().len() == 301);
    cluster.folder.write("maintenance", "");
    assert!(once_in_a_while(|| {
        let (_client, took) = half();
        let answered = Instant::now();
        wait_until("it is let go", || lent.checks().len() == 301);
        took.max(answered.elapsed()) < Duration::from_millis(700)
    }));
    let (head, _) = in_maintenance.split_once("<html>").unwrap();
    assert!(once_in_a_while(|| {
        let mut client = connect_from(own, lent.address);
        thread::sleep(Duration::from_millis(100));
        client.write_all(b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
        receive(&mut client) == head
    }));
}

#[test]
fn a_client_without_a_byte_holds_a_process_for_half_a_second() {
    let cluster = Cluster::new();
    let lent = lend(&mut cluster.leader().command());
    assert_eq!(lent.get(), LEADER);
    let start = Instant::now();
    let mut silent = TcpStream::connect(lent.address).unwrap();
    assert_eq!(receive(&mut silent), LEADER);
    // A lost packet comes again after 200 ms.
    assert!(start.elapsed() > Duration::from_millis(350), "{:?}", start.elapsed());
    wait_until("it is let go", || lent.checks().is_empty());
    // A client that has sent a byte is waited for longer, before its answer and after it.
    assert!(start.elapsed() < Duration::from_millis(1400), "{:?}", start.elapsed());
}

#[test]
fn it_ends_on_sigterm_and_its_checks_finish() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let mut lent = lend(&mut cluster.leader().command());
    let mut client = lent.ask();
    wait_until("s9s runs", || cluster.runs() == 1);
    lent.listener.signal(Signal::SIGTERM);
    exits(&mut lent.listener.0);
    cluster.open_gate();
    assert_eq!(receive(&mut client), LEADER);
}

#[test]
fn at_its_end_it_serves_the_clients_that_have_connected_before() {
    let cluster = Cluster::new();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
    let mut listener = listen(&mut cluster.leader().command(), address.into());
    listener.signal(Signal::SIGSTOP);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| ask(address, GET)).collect();
    listener.signal(Signal::SIGTERM);
    listener.signal(Signal::SIGCONT);
    for client in &mut clients {
        assert_eq!(receive(client), LEADER);
    }
    drop(clients);
    exits(&mut listener.0);
}

#[test]
fn with_a_socket_of_its_own_it_waits_on_sigterm_for_its_checks() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
    let mut listener = listen(&mut cluster.leader().command(), address.into());
    let mut client = ask(address, GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    listener.signal(Signal::SIGTERM);
    wait_until("it accepts nobody else", || TcpStream::connect(address).is_err());
    assert!(listener.0.try_wait().unwrap().is_none());
    cluster.open_gate();
    assert_eq!(receive(&mut client), LEADER);
    drop(client);
    exits(&mut listener.0);
}

#[test]
fn a_second_signal_or_the_end_of_the_longest_check_ends_that_wait() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
    for (timeout, signals) in [("3", 1), (TIMEOUT, 2)] {
        let mut listener = listen(cluster.leader().command().args(["--timeout", timeout]), address.into());
        let _client = ask(address, GET);
        wait_until("it has its process", || !children(listener.0.id()).is_empty());
        let checks = children(listener.0.id());
        let send = |signal| {
            checks
                .iter()
                .for_each(|check| kill(Pid::from_raw(check.cast_signed()), signal).unwrap())
        };
        send(Signal::SIGSTOP);
        let start = Instant::now();
        for _ in 0..signals {
            listener.signal(Signal::SIGTERM);
            wait_until("it accepts nobody else", || TcpStream::connect(address).is_err());
        }
        exits(&mut listener.0);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        send(Signal::SIGKILL);
    }
    cluster.open_gate();
}

#[test]
fn a_stop_leaves_the_connections_in_the_queue_to_the_next_listener() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let mut lent = lend(&mut node.command());
    assert_eq!(lent.get(), LEADER);
    lent.listener.signal(Signal::SIGSTOP);
    let clients: Vec<_> = (0..20).map(|_| lent.ask()).collect();
    lent.listener.signal(Signal::SIGTERM);
    lent.listener.signal(Signal::SIGCONT);
    exits(&mut lent.listener.0);

    lent.listener = with_socket(&mut node.command(), lent.socket.try_clone().unwrap().into());
    for mut client in clients {
        assert_eq!(receive(&mut client), LEADER);
    }
}

#[test]
fn nothing_that_a_client_does_stops_it() {
    let cluster = Cluster::new();
    let lent = lend(cluster.leader().command().args(["--timeout", "5"]));
    let flood = vec![b'x'; 1_000_000];
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(lent.address).unwrap()).collect();
    for round in 0..20 {
        let mut client = lent.ask();
        let _ = client.write_all(&flood);
        // SO_LINGER of 0 seconds makes close(2) send a reset.
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        socket::setsockopt(&client, socket::sockopt::Linger, &linger).unwrap();
        if round % 2 == 0 {
            client.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }
    assert_eq!(lent.get(), LEADER);
    drop(silent);
    wait_until("no process is left", || lent.checks().is_empty());
    assert_eq!(lent.get(), LEADER);
}

#[test]
fn a_check_that_is_stopped_or_killed_is_no_other_ones_business() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let lent = lend(cluster.leader().command().args(["--max-age", "0"]));
    let first = |signal| {
        let client = lent.ask();
        wait_until("it has its process", || lent.checks().len() == 1);
        kill(Pid::from_raw(lent.checks()[0].cast_signed()), signal).unwrap();
        client
    };
    let mut killed = first(Signal::SIGKILL);
    let mut answer = String::new();
    let _ = killed.read_to_string(&mut answer);
    assert_eq!(answer, "");
    wait_until("it is gone", || lent.checks().is_empty());
    // Stopped before it has the lock.
    let node = cluster.leader();
    let lock = node.hold_the_lock();
    let mut stopped = first(Signal::SIGSTOP);
    drop(lock);
    cluster.open_gate();
    assert_eq!(lent.get(), LEADER);
    kill(Pid::from_raw(lent.checks()[0].cast_signed()), Signal::SIGCONT).unwrap();
    assert_eq!(receive(&mut stopped), LEADER);
}

#[test]
fn checks_that_wait_for_a_dead_disk_keep_no_other_from_its_answer() {
    let cluster = Cluster::new();
    let node = Node {
        lock: cluster.folder.join("disk/lock"),
        ..cluster.leader()
    };
    let lent = lend(&mut with_disk(
        &cluster,
        node.command().args(["--timeout", "1", "--max-age", "0"]),
    ));
    assert_eq!(lent.get(), LEADER);
    cluster.folder.write("freeze", "");
    wait_until("the disk is frozen", || cluster.folder.join("frozen").exists());
    let clients: Vec<_> = (0..5).map(|_| lent.ask()).collect();
    let expected = [LEADER.to_string(), unknown("stuck"), unknown("lock-timeout")];
    for mut client in clients {
        assert!(expected.contains(&receive(&mut client)));
    }
    cluster.folder.write("thaw", "");
    wait_until("the stuck checks are gone", || lent.checks().is_empty());
    assert_eq!(lent.get(), LEADER);
}

/// Ends the listener under strace, which would wait for it.
fn end_of_the_traced(strace: u32) {
    for listener in children(strace) {
        kill(Pid::from_raw(listener.cast_signed()), Signal::SIGTERM).unwrap();
    }
}

#[test]
fn without_room_for_a_process_the_client_is_told_so_and_the_next_one_is_served() {
    let cluster = Cluster::new();
    let lent = lend(&mut with_own_fault(
        "fork,clone,clone3:error=EAGAIN:when=1..2",
        &cluster.leader().command(),
    ));
    for _ in 0..2 {
        assert_eq!(lent.get(), unknown("s9s-not-started"));
    }
    assert_eq!(lent.get(), LEADER);
    end_of_the_traced(lent.pid());
}

#[test]
fn without_room_for_a_descriptor_the_client_waits() {
    let cluster = Cluster::new();
    let lent = lend(&mut with_own_fault(
        "accept4:error=EMFILE:when=1..3",
        &cluster.leader().command(),
    ));
    assert_eq!(lent.get(), LEADER);
    end_of_the_traced(lent.pid());
}

/// How often the process has waited for something.
fn waits(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

#[test]
fn without_room_for_a_descriptor_it_waits_a_little_before_it_tries_again() {
    let cluster = Cluster::new();
    let lent = lend(&mut cluster.leader().command());
    assert_eq!(lent.get(), LEADER);
    wait_until("its check is over", || lent.checks().is_empty());

    let may_have = |descriptors: usize| {
        let pid = lent.pid().to_string();
        let limit = format!("--nofile={descriptors}:");
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.unwrap().success());
    };
    let is_free = |number: &usize| fs::symlink_metadata(format!("/proc/{}/fd/{number}", lent.pid())).is_err();
    may_have((0..).find(is_free).unwrap());
    let before = waits(lent.pid());
    let mut client = lent.ask();
    wait_until("it has waited several times", || waits(lent.pid()) > before + 5);

    may_have(100);
    assert_eq!(receive(&mut client), LEADER);
}

#[test]
fn no_signal_but_two_ends_it() {
    let cluster = Cluster::new();
    let mut lent = lend(&mut cluster.leader().command());
    assert_eq!(lent.get(), LEADER);
    let ends = [
        nix::libc::SIGTERM,
        nix::libc::SIGINT,
        nix::libc::SIGKILL,
        nix::libc::SIGSTOP,
    ];
    // With those that the C library keeps for itself.
    for number in (1..65).filter(|number| !ends.contains(number)) {
        // SAFETY: kill(2) touches no memory. nix knows no real-time signals.
        let sent = unsafe { nix::libc::kill(lent.pid().cast_signed(), number) };
        assert_eq!(sent, 0, "{number}");
        assert_eq!(lent.get(), LEADER, "{number}");
    }
    lent.listener.signal(Signal::SIGINT);
    exits(&mut lent.listener.0);
}

#[test]
fn with_sigchld_ignored_it_still_sees_the_ends_of_its_checks() {
    let cluster = Cluster::new();
    let check = cluster.node("10.0.0.102");
    let mut command = starting("env", &check.command());
    command.args(["--ignore-signal=CHLD", binary(), "--max-age", "60"]);
    let lent = lend(&mut command);
    assert_eq!(lent.get(), FOLLOWER);
    // More than may run at once.
    for _ in 0..500 {
        assert_eq!(lent.get(), FOLLOWER);
    }
}

#[test]
fn it_sees_the_ends_of_checks_whatever_signal_ends_them() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let lent = lend(&mut cluster.leader().command());
    let own = Ipv4Addr::new(10, 0, 0, 2);
    let _killed: Vec<_> = (0..100).map(|_| ask_from(own, lent.address)).collect();
    wait_until("it has all that it may", || lent.checks().len() == 100);
    for check in lent.checks() {
        // SAFETY: kill(2) touches no memory. nix knows no real-time signals.
        let sent = unsafe { nix::libc::kill(check.cast_signed(), 35) };
        assert_eq!(sent, 0);
    }
    wait_until("they are gone", || lent.checks().is_empty());
    cluster.open_gate();
    assert_eq!(receive(&mut ask_from(own, lent.address)), LEADER);
}

#[test]
fn its_checks_hold_back_the_signals_that_it_was_started_with_and_no_others() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let mut command = starting("env", &cluster.leader().command());
    command.args(["--block-signal=USR1", binary()]);
    let lent = lend(&mut command);
    let mut client = lent.ask();
    wait_until("s9s runs", || cluster.runs() == 1);
    let status = fs::read_to_string(format!("/proc/{}/status", lent.checks()[0])).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
    let mask = u64::from_str_radix(mask, 16).unwrap();
    let bit = |signal: Signal| 1 << (signal as u64 - 1);
    // A check reads the end of s9s as a signal.
    assert_eq!(mask & !bit(Signal::SIGCHLD), bit(Signal::SIGUSR1), "{mask:x}");
    cluster.open_gate();
    assert_eq!(receive(&mut client), LEADER);
}

/// Starts a listener of its own, and waits until its port is served.
pub fn listen(command: &mut Command, address: SocketAddr) -> Daemon {
    let listener = Daemon(command.args(["--listen", &address.to_string()]).spawn().unwrap());
    let mut local = address;
    if address.ip().is_unspecified() {
        local.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    wait_until("the port is served", || TcpStream::connect(local).is_ok());
    listener
}

#[test]
fn it_opens_its_own_socket_for_one_address_or_for_both_families() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let answers = |ip: IpAddr, port: u16| {
        let Ok(mut client) = TcpStream::connect((ip, port)) else {
            return false;
        };
        client.write_all(GET).unwrap();
        assert_eq!(receive(&mut client), LEADER);
        true
    };
    let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    for (ip, by_four, by_six) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), true, false),
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), true, true),
        (four, true, false),
        ("10.0.0.101".parse().unwrap(), false, false),
    ] {
        let address = SocketAddr::new(ip, 9201);
        let mut listener = listen(&mut node.command(), address);
        assert_eq!((answers(four, 9201), answers(six, 9201)), (by_four, by_six), "{ip}");
        // Clients and their checks go on for a while; the port is free at once.
        listener.signal(Signal::SIGTERM);
        exits(&mut listener.0);
    }
}

#[test]
fn it_says_where_it_listens_and_its_queue_is_as_long_as_that_of_the_socket_unit() {
    let cluster = Cluster::new();
    let version = env!("CARGO_PKG_VERSION");
    for (asked, ip) in [
        ("10.0.0.101:9201", "10.0.0.101"),
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::]:0", "[::]"),
    ] {
        let mut command = cluster.leader().command();
        command.args(["--listen", asked]).stdout(Stdio::piped());
        let mut listener = Daemon(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(listener.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let start = format!("cmonhachk {version} listens on {ip}:");
        let port = line.strip_prefix(&start).unwrap_or_else(|| panic!("{line:?}"));
        let port: u16 = port.trim_end_matches('\n').parse().unwrap();

        let ip = ip.parse().unwrap_or(Ipv4Addr::LOCALHOST);
        assert_eq!(receive(&mut ask(SocketAddrV4::new(ip, port), GET)), LEADER);
        let sockets = Command::new("ss")
            .args([
                "--no-header",
                "--listening",
                "--tcp",
                "--numeric",
                &format!("sport = {port}"),
            ])
            .output()
            .unwrap();
        let sockets = String::from_utf8(sockets.stdout).unwrap();
        let queue = sockets.split_whitespace().nth(2);
        assert_eq!(queue, Some("4096"), "{sockets}");
        listener.signal(Signal::SIGTERM);
        exits(&mut listener.0);
    }
}

#[test]
fn a_reader_of_standard_error_that_stalls_holds_nobody_up() {
    let cluster = Cluster::new();
    // There is no log daemon any more.
    drop(Log::open(&cluster));
    fs::remove_file(cluster.folder.join("log")).unwrap();
    let (_stalled, mut error) = std::io::pipe().unwrap();
    // A pipe's usual size.
    error.write_all(&[b'x'; 65536]).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
    let mut command = logging(&cluster.leader(), &["--listen", "0.0.0.0:9201", "--max-age", "60"]);
    let listener = Daemon(
        command
            .stdout(error.try_clone().unwrap())
            .stderr(error)
            .spawn()
            .unwrap(),
    );
    wait_until("the port is served", || TcpStream::connect(address).is_ok());
    // The first one logs a change.
    for _ in 0..3 {
        assert_eq!(receive(&mut ask(address, GET)), LEADER);
    }
    wait_until("no check is held up", || children(listener.0.id()).is_empty());

    cluster.behaves("gate");
    cluster.leader().forget();
    let greedy: Vec<_> = (0..101)
        .map(|_| ask_from(Ipv4Addr::new(10, 0, 0, 2), address))
        .collect();
    wait_until("the listener itself logs", || closed(&greedy) == 1);
    let mut modest = ask(address, GET);
    cluster.open_gate();
    assert_eq!(receive(&mut modest), LEADER);
}

#[test]
fn a_terminal_that_nobody_reads_holds_nobody_up() {
    let cluster = Cluster::new();
    // There is no log daemon any more.
    drop(Log::open(&cluster));
    fs::remove_file(cluster.folder.join("log")).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
    let mut listener = cluster.leader().command();
    listener.args(["--listen", "0.0.0.0:9201"]);
    // The listener itself refuses each connection, and logs that.
    let mut command = with_log(&cluster, with_own_fault("fork,clone,clone3:error=EAGAIN", &listener));
    let terminal = openpty(None, None).unwrap();
    command
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave);
    let traced = Daemon(command.spawn().unwrap());
    wait_until("the port is served", || TcpStream::connect(address).is_ok());
    // The lines of half of them have room.
    for _ in 0..400 {
        assert_eq!(receive(&mut ask(address, GET)), unknown("s9s-not-started"));
    }
    end_of_the_traced(traced.0.id());
}

#[test]
fn an_address_that_cannot_be_had_is_one_sentence_and_a_status() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let _taken = TcpListener::bind("10.0.0.101:9201").unwrap();
    for (address, error) in [
        ("10.0.0.101:9201", "Address in use"),
        ("192.0.2.1:9201", "Address not available"),
        ("[2001:db8::1]:9201", "Address not available"),
        ("localhost", "invalid value 'localhost' for '--listen <ADDRESS:PORT>'"),
    ] {
        let output = node.command_line(&["--listen", address]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(error), "{said}");
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        if address.contains(':') {
            assert!(
                said.starts_with(&format!("cmonhachk: cannot listen on {address}: ")),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

/// The client in a container: it needs its s9s.conf.
const S9S: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    int main(void) {
        char conf[200];
        snprintf(conf, sizeof conf, "%s/.s9s/s9s.conf", getenv("HOME"));
        if (!fopen(conf, "r")) return fputs("No user name set.\n", stderr), 6;
        puts("S VERSION OWNER GROUP NAME IP         PORT COMMENT");
        puts("l 2.3.4   a     b     cc1  10.0.0.101 9501 Acting as leader.\nTotal: 1 controller(s)");
        return 0;
    }
"#;

/// A root with nothing but the binary, the client, the defaults file and what every container has.
const CONTAINER: &str = r#"
    mount -t tmpfs tmpfs "$ROOT"
    cd "$ROOT"
    mkdir -p bin dev proc etc/default home/.s9s run/cmonhachk
    mount -t proc proc proc
    touch dev/null
    mount --bind /dev/null dev/null
    cp "$BINARY" bin/cmonhachk
    cp "$FOLDER/static-s9s" bin/s9s
    cp "$FOLDER/defaults-10.0.0.101" etc/default/cmon
    touch home/.s9s/s9s.conf
    chmod 600 home/.s9s/s9s.conf
    chmod 700 home/.s9s run/cmonhachk
    chown -R 999:999 home/.s9s run/cmonhachk
    exec env -i HOME=/home PATH=/bin "$(command -v chroot)" --userspec 999:999 . /bin/cmonhachk --listen 0.0.0.0:9201"#;

#[test]
fn a_container_needs_the_binary_the_client_its_settings_and_the_defaults_file() {
    let cluster = Cluster::new();
    cluster.leader();
    let source = cluster.folder.write("s9s.c", S9S);
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-o"]).arg(cluster.folder.join("static-s9s"));
    assert!(compiler.arg(source).status().unwrap().success());
    let root = cluster.folder.join("root");
    fs::create_dir(&root).unwrap();
    let mut container = Command::new("unshare");
    container.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", CONTAINER]);
    container
        .env("ROOT", root)
        .env("BINARY", binary())
        .env("FOLDER", cluster.folder.path());
    let log = cluster.folder.join("log");
    container.stderr(fs::File::create(&log).unwrap());
    let container = Daemon(container.spawn().unwrap());
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9201);
    wait_until("the port is served", || TcpStream::connect(address).is_ok());
    for _ in 0..3 {
        assert_eq!(receive(&mut ask(address, GET)), LEADER);
    }
    // There is no log daemon.
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.starts_with("cmonhachk[") && log.contains("]: none -> leader: l 2.3.4 "),
        "{log}"
    );
    // It is the container's first process, to which the kernel sends no signal that it does not handle.
    let first = children(container.0.id())[0];
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGTERM).unwrap();
    wait_until("it ends", || children(container.0.id()).is_empty());
}
