//! Clients of a check, of every kind, and what each of them gets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use cmonhachk::verdict::reason::Reason;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::Span;
use super::record::Recorder;
use crate::cluster::{FOLLOWER, GET, LEADER, unknown};
use crate::rng::Rng;

/// How long a client waits for a connection, and then for the response: longer than any fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a client behaves: what it sends, with a wait after each part, and what it does then.
pub struct Manner {
    parts: Vec<Vec<u8>>,
    wait: Duration,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Waits for the end of the response.
    Wait,
    /// The same, after it has closed its own side.
    Close,
    /// Leaves after this many bytes of the response.
    Leave(usize),
    /// Resets the connection at once.
    Reset,
}

impl Manner {
    /// HAProxy's, which says all at once.
    pub fn good() -> Manner {
        Manner {
            parts: vec![GET.to_vec()],
            wait: Duration::from_millis(1),
            then: Then::Wait,
        }
    }

    pub fn random(rng: &mut Rng) -> Manner {
        let then = match rng.below(10) {
            0 => Then::Leave(0),
            1 => Then::Leave(1 + rng.below(100)),
            2 => Then::Reset,
            3 => Then::Close,
            _ => Then::Wait,
        };
        let one_by_one = |text: &[u8]| text.chunks(1).map(<[u8]>::to_vec).collect();
        let parts = match rng.below(10) {
            0 => vec![b"OPTIONS / HTTP/1.0\r\n\r\n".to_vec()],
            1 => vec![b"HEAD / HTTP/1.0\r\n\r\n".to_vec()],
            2 => one_by_one(GET),
            3 => one_by_one(&[b'x'; 500]),
            4 => vec![GET[..rng.below(GET.len())].to_vec()],
            5 => vec![garbage(rng)],
            6 => vec![],
            // A second request comes behind the first one.
            7 => vec![[GET, &garbage(rng)].concat(); 2],
            _ => vec![GET.to_vec()],
        };
        let wait = Duration::from_millis(rng.between(1, 30));
        Manner { parts, wait, then }
    }

    fn is_head(&self) -> bool {
        self.parts.first().is_some_and(|part| part.starts_with(b"HEAD "))
    }

    fn is_patient(&self) -> bool {
        matches!(self.then, Then::Wait | Then::Close)
    }

    /// How many bytes of the response the client wants.
    fn limit(&self) -> usize {
        match self.then {
            Then::Leave(count) => count,
            _ => usize::MAX,
        }
    }
}

fn garbage(rng: &mut Rng) -> Vec<u8> {
    let length = rng.below(20_000);
    rng.bytes(length)
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    InGoodOrder,
    Reset,
    /// The client has waited in vain, or has left.
    Open,
}

/// The outcome of one connection.
pub struct Outcome {
    pub from: Ipv4Addr,
    pub span: Span,
    /// When the last byte of the response came. The end of the connection may come later.
    pub last_byte: u64,
    manner: Manner,
    /// How many parts of its request the client has sent.
    sent: usize,
    /// The response, or why there was no connection.
    got: Result<Vec<u8>, Errno>,
    end: End,
}

impl Outcome {
    /// In one of these ways:
    ///
    ///     leader, follower, unknown REASON     the whole response; then `, reset` if the connection ended so
    ///     left                                 the client has left, and had the beginning of a response
    ///     none, hung                           nothing came: the connection was closed, or not even that
    ///     failed: ERROR, malformed BYTES       there was no connection, or no response of ours
    pub fn words(&self) -> String {
        let got = match &self.got {
            Ok(got) => String::from_utf8_lossy(got),
            Err(error) => return format!("failed: {error}"),
        };
        if !self.manner.is_patient() && responses().iter().any(|(_, whole)| whole.starts_with(&*got)) {
            return "left".into();
        }
        if got.is_empty() {
            return if self.end == End::Open { "hung" } else { "none" }.into();
        }
        let is_head = self.manner.is_head();
        let Some((said, _)) = responses().into_iter().find(|one| is_one(&got, one, is_head)) else {
            return format!("malformed {got:?}");
        };
        // A client that goes on sending after the response may get a reset.
        let is_reset = self.end != End::InGoodOrder && self.sent < 2;
        if is_reset { said + ", reset" } else { said }
    }
}

/// All responses to a check that was started well, in words and bytes.
fn responses() -> Vec<(String, String)> {
    let mut responses = vec![("leader".into(), LEADER.into()), ("follower".into(), FOLLOWER.into())];
    for reason in Reason::ALL {
        if !matches!(reason, Reason::BadArguments | Reason::InternalError) {
            let code = reason.code();
            responses.push((format!("unknown {code}"), unknown(code)));
        }
    }
    responses
}

fn is_one(got: &str, (said, whole): &(String, String), is_head: bool) -> bool {
    // The watchdog has one response, whatever the form of the request.
    if !is_head || said == "unknown stuck" && whole == got {
        return whole == got;
    }
    whole.split_once("<html>").is_some_and(|(head, _)| head == got)
}

/// Connects from an address that the caller chooses.
fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> nix::Result<TcpStream> {
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
    // This also limits connect(2).
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

/// One client from the first byte to the last.
pub fn converse(recorder: &Recorder, from: Ipv4Addr, to: SocketAddrV4, manner: Manner) -> Outcome {
    let start = recorder.now();
    let mut last_byte = None;
    let (got, end, sent) = match connect_from(from, to) {
        Ok(stream) => {
            let mut talk = Talk {
                recorder,
                stream,
                sent: 0,
                got: Vec::new(),
                last_byte: None,
                limit: manner.limit(),
            };
            let end = talk.follow(&manner);
            last_byte = talk.last_byte;
            (Ok(talk.got), end, talk.sent)
        }
        Err(error) => (Err(error), End::Open, 0),
    };
    let over = recorder.now();
    Outcome {
        from,
        span: (start, over),
        last_byte: last_byte.unwrap_or(over),
        manner,
        sent,
        got,
        end,
    }
}

struct Talk<'a> {
    recorder: &'a Recorder,
    stream: TcpStream,
    sent: usize,
    got: Vec<u8>,
    last_byte: Option<u64>,
    limit: usize,
}

impl Talk<'_> {
    fn follow(&mut self, manner: &Manner) -> End {
        for part in &manner.parts {
            let _ = self.stream.write_all(part);
            self.sent += 1;
            let is_more_to_come = manner.parts.len() > 1 || manner.then == Then::Reset;
            if is_more_to_come && let Some(end) = self.take(manner.wait) {
                return end;
            }
        }
        match manner.then {
            Then::Reset => {
                let at_once = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&self.stream, sockopt::Linger, &at_once).unwrap();
                return End::Open;
            }
            Then::Close => drop(self.stream.shutdown(Shutdown::Write)),
            Then::Leave(_) | Then::Wait => {}
        }
        self.take(PATIENCE).unwrap_or(End::Open)
    }

    /// Reads for so long. Returns how the connection has ended, or that the client has all that it wants.
    fn take(&mut self, wait: Duration) -> Option<End> {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut chunk = [0; 4096];
        while self.got.len() < self.limit {
            let room = chunk.len().min(self.limit - self.got.len());
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => return Some(End::InGoodOrder),
                Ok(count) => {
                    self.got.extend_from_slice(&chunk[..count]);
                    self.last_byte = Some(self.recorder.now());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(End::Reset),
            }
        }
        Some(End::Open)
    }
}
