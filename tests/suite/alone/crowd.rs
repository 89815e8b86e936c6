//! Crowds that hold all connections that they can get: nobody else waits for them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, id};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use crate::cluster::{AtEnd, Cluster, LEADER, ask_from, wait_until};
use crate::listener::{add_addresses, lend_on, listen};
use crate::pauses::unless_paused;
use crate::scale::percentiles;

/// How long a member of the crowd keeps a connection after its answer: the check lingers for a second.
const KEPT: Duration = Duration::from_secs(1);

/// When a good client gives up.
const UNANSWERED: Duration = Duration::from_secs(2);

/// Where all of these listen.
const PORT: u16 = 9201;

/// A crowd.
struct Crowd {
    /// Its addresses.
    from: Vec<IpAddr>,
    /// The address that it connects to.
    to: IpAddr,
    /// How many connections each of its addresses holds.
    connections: usize,
    /// Whether it takes processor time from this machine.
    is_local: bool,
}

impl Crowd {
    /// Holds connections until the test is over.
    fn hold(&self, own: IpAddr, is_over: &AtomicBool) {
        if !self.is_local {
            // SAFETY: setpriority(2) touches no memory; on Linux, this is the calling thread.
            unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, 19) };
        }
        let mut held: Vec<Held> = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let missing = self.connections - held.len();
            held.extend((0..missing).map_while(|_| Held::open(own, self.to)));
            Held::drop_the_closed(&mut held);
        }
    }
}

/// A connection of a crowd.
struct Held {
    stream: TcpStream,
    answered: Option<Instant>,
}

impl Held {
    /// Opens a connection, waits for nothing, and sends a byte. None if this address has no port left.
    fn open(own: IpAddr, to: IpAddr) -> Option<Held> {
        let family = if own.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let client = socket::socket(family, SockType::Stream, flags, None).unwrap();
        let storage = |ip, port| SockaddrStorage::from(SocketAddr::new(ip, port));
        socket::bind(client.as_raw_fd(), &storage(own, 0)).ok()?;
        // On the same machine, it is connected when this returns.
        let _ = socket::connect(client.as_raw_fd(), &storage(to, PORT));
        let mut stream = TcpStream::from(client);
        let _ = stream.write_all(b"G");
        Some(Held { stream, answered: None })
    }

    /// Waits for a moment, and drops those that the other side has closed.
    fn drop_the_closed(all: &mut Vec<Held>) {
        let to_read = |held: &Held| match held.answered {
            None => PollFlags::POLLIN,
            Some(_) => PollFlags::empty(),
        };
        let mut polled: Vec<_> = all
            .iter()
            .map(|held| PollFd::new(held.stream.as_fd(), to_read(held)))
            .collect();
        let _ = poll(&mut polled, 20u16);
        let mut has_news = polled
            .iter()
            .map(|held| held.any() == Some(true))
            .collect::<Vec<_>>()
            .into_iter();
        all.retain_mut(|held| match has_news.next() {
            Some(true) if held.answered.is_none() => held.has_an_answer(),
            _ => held.answered.is_none_or(|answered| answered.elapsed() < KEPT),
        });
    }

    fn has_an_answer(&mut self) -> bool {
        self.answered = Some(Instant::now());
        self.stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0)
    }
}

/// How long a good client elsewhere waits for its answer.
fn answer() -> Result<Duration, String> {
    let (own, to) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 101));
    let start = Instant::now();
    let mut client = ask_from(own, SocketAddrV4::new(to, PORT));
    client.set_read_timeout(Some(UNANSWERED)).unwrap();
    let mut text = String::new();
    let end = client.read_to_string(&mut text);
    match end {
        Ok(_) if text == LEADER => Ok(start.elapsed()),
        _ => Err(format!("after {:?}: {end:?}, {text:?}", start.elapsed())),
    }
}

/// How long it waits for each of 100 beside the crowd.
fn answers_beside(crowd: &Crowd, listener: u32) -> Result<Vec<Duration>, String> {
    let checks = format!("/proc/{listener}/task/{listener}/children");
    let checks = || fs::read_to_string(&checks).unwrap().split_whitespace().count();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = AtEnd(&is_over);
        for own in &crowd.from {
            scope.spawn(|| crowd.hold(*own, &is_over));
        }
        wait_until("the crowd has its places", || checks() >= 100);
        let next = || {
            thread::sleep(Duration::from_millis(10));
            answer()
        };
        (0..100).map(|_| next()).collect()
    })
}

fn nobody_waits_for(crowd: &Crowd) {
    // The soft limit of open files may be less than a crowd needs.
    let limit = ["--nofile=4096:", "--pid", &id().to_string()];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    let cluster = Cluster::new();
    add_addresses();
    let node = cluster.leader();
    let measure = |what: &str, listener: u32| {
        let mut took = answers_beside(crowd, listener)?;
        took.sort();
        println!("{what}: {}", percentiles(took.clone()));
        let in_time = took[50] < Duration::from_millis(100) && took[99] < Duration::from_millis(500);
        if in_time { Ok(()) } else { Err(percentiles(took)) }
    };
    unless_paused(|| {
        let lent = lend_on(PORT, &mut node.command());
        measure("a socket on standard input", lent.pid())
    });
    unless_paused(|| {
        let listener = listen(&mut node.command(), (Ipv6Addr::UNSPECIFIED, PORT).into());
        measure("--listen", listener.0.id())
    });
}

#[test]
fn nobody_waits_for_five_ipv4_addresses_with_500_connections_each() {
    nobody_waits_for(&Crowd {
        from: (1..=5).map(|host| Ipv4Addr::new(10, 9, 1, host).into()).collect(),
        to: Ipv4Addr::new(10, 0, 0, 101).into(),
        connections: 500,
        is_local: false,
    });
}

#[test]
fn nobody_waits_for_five_addresses_of_an_ipv6_network_with_500_connections_each() {
    nobody_waits_for(&Crowd {
        from: (1..=5)
            .map(|host| Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, host).into())
            .collect(),
        to: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7).into(),
        connections: 500,
        is_local: false,
    });
}

#[test]
fn nobody_waits_for_a_local_user_with_1500_connections() {
    nobody_waits_for(&Crowd {
        from: vec![Ipv4Addr::LOCALHOST.into()],
        to: Ipv4Addr::LOCALHOST.into(),
        connections: 1500,
        is_local: true,
    });
}
