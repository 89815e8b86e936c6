//! Clients of every kind, each from its own address.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::{Dice, PATIENCE};
use crate::cluster::GET;

/// How a client behaves: what it sends, with a pause after each part, and what it does then.
pub struct Manner {
    pub parts: Vec<Vec<u8>>,
    pause: Duration,
    pub then: Then,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    /// Waits for the end of the answer.
    Wait,
    /// The same, after it has closed its own side.
    Close,
    /// Leaves after this many bytes of the answer.
    Leave(usize),
    /// Resets the connection at once.
    Reset,
}

impl Manner {
    pub fn random(dice: &mut Dice) -> Manner {
        let mut garbage = vec![0; dice.below(20_000)];
        garbage.fill_with(|| dice.next() as u8);
        let bytes = |text: &[u8]| text.chunks(1).map(<[u8]>::to_vec).collect();
        let mut request = GET.to_vec();
        let half = GET[..dice.below(GET.len())].to_vec();
        let then = match dice.below(10) {
            0 => Then::Leave(0),
            1 => Then::Leave(1 + dice.below(100)),
            2 => Then::Reset,
            3 => Then::Close,
            _ => Then::Wait,
        };
        let parts = match dice.below(10) {
            0 => vec![b"OPTIONS / HTTP/1.0\r\n\r\n".to_vec()],
            1 => vec![b"HEAD / HTTP/1.0\r\n\r\n".to_vec()],
            2 => bytes(&request),
            3 => bytes(&[b'x'; 500]),
            4 => vec![half],
            5 => vec![garbage],
            6 => vec![],
            7 => {
                request.extend(garbage);
                vec![request.clone(), request]
            }
            _ => vec![request],
        };
        let pause = Duration::from_millis(1) + dice.millis(30);
        Manner { parts, pause, then }
    }
}

impl Manner {
    /// HAProxy's, which comes on time.
    pub fn punctual(_: &mut Dice) -> Manner {
        Manner {
            parts: vec![GET.to_vec()],
            pause: Duration::ZERO,
            then: Then::Wait,
        }
    }

    pub fn is_punctual(&self) -> bool {
        self.pause.is_zero()
    }
}

/// The outcome of one connection.
pub struct Outcome {
    pub from: Ipv4Addr,
    pub manner: Manner,
    pub start: Instant,
    /// The answer, or why there was no connection.
    pub got: Result<Vec<u8>, Errno>,
    /// When the last bytes of the answer came, or the connection failed.
    pub end: Instant,
    /// Whether the connection ended in good order.
    pub orderly: bool,
}

/// Connects from an address that the caller chooses.
fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> nix::Result<TcpStream> {
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // This also limits connect(2).
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::new(PATIENCE.as_secs() as i64, 0),
    )?;
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Reads until the stream's timeout, its end, or `limit` bytes. False after the timeout only.
fn take(stream: &mut TcpStream, outcome: &mut Outcome, limit: usize) -> bool {
    let mut chunk = [0; 4096];
    let got = outcome.got.as_mut().unwrap();
    while got.len() < limit {
        let room = chunk.len().min(limit - got.len());
        match stream.read(&mut chunk[..room]) {
            Ok(0) => {
                outcome.orderly = true;
                return true;
            }
            Ok(count) => {
                got.extend_from_slice(&chunk[..count]);
                outcome.end = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    true
}

pub fn converse(from: Ipv4Addr, to: SocketAddrV4, manner: Manner) -> Outcome {
    let start = Instant::now();
    let connection = connect_from(from, to);
    let mut outcome = Outcome {
        from,
        manner,
        start,
        got: connection.as_ref().map(|_| Vec::new()).map_err(|errno| *errno),
        end: Instant::now(),
        orderly: false,
    };
    let Ok(mut stream) = connection else {
        return outcome;
    };
    let limit = match outcome.manner.then {
        Then::Leave(count) => count,
        _ => usize::MAX,
    };
    let pause = outcome.manner.pause.max(Duration::from_millis(1));
    stream.set_read_timeout(Some(pause)).unwrap();
    let mut over = false;
    for part in std::mem::take(&mut outcome.manner.parts) {
        let _ = stream.write_all(&part);
        outcome.manner.parts.push(part);
        if outcome.manner.parts.len() > 1 || outcome.manner.then == Then::Reset {
            over = over || take(&mut stream, &mut outcome, limit);
        }
        if over {
            break;
        }
    }
    match outcome.manner.then {
        Then::Reset => {
            let at_once = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
            return outcome;
        }
        Then::Close => drop(stream.shutdown(Shutdown::Write)),
        Then::Leave(_) | Then::Wait => {}
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if !over {
        take(&mut stream, &mut outcome, limit);
    }
    if outcome.got.as_ref().unwrap().is_empty() {
        outcome.end = Instant::now();
    }
    outcome
}
