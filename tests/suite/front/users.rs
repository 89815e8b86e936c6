//! Users who connect to the site all the time, each in a thread of its own, and what becomes of each.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::site::{Site, VIRTUAL};
use crate::cluster::AtEnd;

/// How long a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The node with this name answers.
    On(String),
    /// The connection ends without an answer.
    Closed,
    /// Neither comes, and the user gives up.
    Hung,
}

#[derive(Clone, Debug)]
pub struct Visit {
    pub began: Instant,
    pub ended: Instant,
    pub end: End,
}

impl Visit {
    pub fn took(&self) -> Duration {
        self.ended - self.began
    }

    pub fn is_on(&self, name: &str) -> bool {
        matches!(&self.end, End::On(node) if node == name)
    }

    pub fn is_answered(&self) -> bool {
        matches!(self.end, End::On(_))
    }
}

/// The visits that are over.
#[derive(Default)]
pub struct Visits(Mutex<Vec<Visit>>);

impl Visits {
    /// Whether, for this long, nobody got anything but an answer from this node.
    pub fn are_all_on(&self, name: &str, span: Duration) -> bool {
        let visits = self.0.lock().unwrap();
        let since = Instant::now().checked_sub(span).unwrap();
        let is_old_enough = visits.iter().any(|visit| visit.ended < since);
        let mut recent = visits.iter().filter(|visit| visit.ended >= since).peekable();
        is_old_enough && recent.peek().is_some() && recent.all(|visit| visit.is_on(name))
    }
}

/// While `act` is done, a new user goes to the address each time when this time has passed. Returns when the
/// last one has an end.
pub fn users_during<T>(site: &Site, period: Duration, act: impl FnOnce(&Visits) -> T) -> (Vec<Visit>, T) {
    let address = SocketAddr::new(VIRTUAL.parse().unwrap(), site.port);
    let network = fs::File::open(site.network.file()).unwrap();
    let (visits, over) = (Visits::default(), AtomicBool::new(false));
    let done = thread::scope(|scope| {
        let end = AtEnd(&over);
        let (visits, over) = (&visits, &over);
        scope.spawn(move || {
            // A thread has the network of the one that has started it.
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            let start = Instant::now();
            for number in 0.. {
                thread::sleep((period * number).saturating_sub(start.elapsed()));
                if over.load(Ordering::Relaxed) {
                    return;
                }
                scope.spawn(move || {
                    let visit = visit(address);
                    visits.0.lock().unwrap().push(visit);
                });
            }
        });
        let done = act(visits);
        drop(end);
        done
    });
    (visits.0.into_inner().unwrap(), done)
}

fn visit(address: SocketAddr) -> Visit {
    let began = Instant::now();
    let reach = || {
        let mut session = TcpStream::connect_timeout(&address, PATIENCE)?;
        session.set_read_timeout(Some(PATIENCE))?;
        // A browser speaks first. If the address has moved meanwhile, this tells it that the connection is gone.
        session.write_all(b".")?;
        let mut name = [0; 5];
        session.read_exact(&mut name).map(|()| name)
    };
    let end = match reach() {
        Ok(name) => End::On(String::from_utf8(name.to_vec()).unwrap()),
        Err(error) if is_silence(&error) => End::Hung,
        Err(_) => End::Closed,
    };
    let ended = Instant::now();
    Visit { began, ended, end }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A user who stays, and now and then sends something: when the session ended, if it did before `over`.
pub fn stay(mut session: TcpStream, over: &AtomicBool) -> Option<Instant> {
    session.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !over.load(Ordering::Relaxed) {
        let heard = session.write(b".").and_then(|_| session.read(&mut [0]));
        match heard {
            Err(error) if is_silence(&error) => {}
            Ok(1) => {}
            _ => return Some(Instant::now()),
        }
    }
    None
}
