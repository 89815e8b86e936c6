//! The connection: a client's socket on standard input, as a super-server hands it over.

use std::fs::{File, OpenOptions};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, STDERR_FILENO, STDIN_FILENO, STDOUT_FILENO};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockaddrLike, SockaddrStorage, getpeername, getsockname, getsockopt, recv, send,
    shutdown, sockopt,
};
use nix::sys::stat::fstat;
use nix::unistd::{dup2_stderr, dup2_stdout};

use crate::net::request::{self, MAX_HEAD};
use crate::os::clock::Instant;
use crate::os::syslog;

/// How long the check waits for the client's last bytes after the response.
const LINGER: Duration = Duration::from_secs(1);

/// How much of a request is read at once, in bytes: a health check's whole request.
const CHUNK: usize = 1024;

/// What standard input is.
#[derive(Debug)]
pub enum Input {
    /// A client's connection.
    Client(Connection),
    /// A socket that listens.
    Listener,
    /// Anything else: a person or a script started the check.
    Other,
}

/// A client's connection, on standard input.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// How long it waits for the client.
    pub patience: Patience,
}

/// How long a check waits for a client that is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as a bad network may need.
    Usual,
    /// Only for the first byte, because others need the place: neither for the rest of a half request, nor for what
    /// comes after the response.
    Little,
}

impl Connection {
    /// Looks at standard input.
    ///
    /// A super-server may have made standard output and error the same socket. They are pointed at
    /// /dev/null, so that nothing but the response can reach the client.
    pub fn on_stdin() -> Input {
        let Ok(listens) = getsockopt(&standard(STDIN_FILENO), sockopt::AcceptConn) else {
            return Input::Other;
        };
        let (output, error) = (is_stdin(STDOUT_FILENO), is_stdin(STDERR_FILENO));
        if !listens && !is_client(output) {
            return Input::Other;
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        // A folder takes no text, either.
        if let Ok(null) = null.or_else(|_| File::open("/")) {
            if output {
                let _ = dup2_stdout(&null);
            }
            if error {
                let _ = dup2_stderr(&null);
            }
        }
        if listens {
            Input::Listener
        } else {
            Input::Client(Connection {
                patience: Patience::Usual,
            })
        }
    }

    /// Reads what has come of the request. Without this, closing the socket with unread bytes would send RST,
    /// and the client would lose the response.
    pub fn read_what_is_there(self, head: &mut Vec<u8>) {
        self.wait_for_the_rest(head, Instant(Duration::ZERO));
    }

    /// Reads the rest of the request, until it is complete, the deadline has passed, the client has closed its
    /// side, or [`MAX_HEAD`] bytes have come.
    pub fn wait_for_the_rest(self, head: &mut Vec<u8>, deadline: Instant) {
        let mut chunk = [0; CHUNK];
        while head.len() < MAX_HEAD && !request::is_complete(head) {
            match self.receive(&mut chunk, deadline) {
                Some(count) => head.extend_from_slice(&chunk[..count]),
                None => break,
            }
        }
    }

    /// Sends the whole response, and in the same segment the end of this side of the connection. It never waits: any
    /// socket's buffer has room for a response.
    pub fn send(self, response: &[u8]) {
        let flags = MsgFlags::from_bits_retain(MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL);
        match send(STDIN_FILENO, response, flags) {
            // The client did not wait for its response. The check did nothing wrong.
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
            Err(errno) => syslog::fault(&format!("the response could not be sent: {errno}")),
        }
        let _ = shutdown(STDIN_FILENO, Shutdown::Write);
    }

    /// Reads and drops what the client still sends until it closes its side, for at most a second.
    /// Without this, what arrives late would make the kernel send RST, and the client might lose
    /// the response.
    pub fn linger(self) {
        if self.patience == Patience::Little {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let mut dropped = [0; CHUNK];
        while !deadline.has_passed() && self.receive(&mut dropped, deadline).is_some() {}
    }

    /// Some bytes; None if there are none before the deadline, or the client has closed its side.
    fn receive(self, buffer: &mut [u8], deadline: Instant) -> Option<usize> {
        loop {
            match recv(STDIN_FILENO, buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return None,
                Ok(count) => return Some(count),
                Err(Errno::EAGAIN) if !deadline.has_passed() => {
                    let mut socket = [PollFd::new(standard(STDIN_FILENO), PollFlags::POLLIN)];
                    // The result does not matter: the next read shows what has happened.
                    let _ = poll(&mut socket, deadline.poll_timeout());
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Whether standard input, a socket that does not listen, is the connection of a client. Programs also use
/// sockets among themselves. For example, Node's `execFile` gives a child three pairs of them. So a local socket
/// counts as a connection only if it is standard output, too, as a super-server makes it.
fn is_client(output_is_the_same: bool) -> bool {
    let name = getsockname::<SockaddrStorage>(STDIN_FILENO);
    match name.ok().and_then(|name| name.family()) {
        Some(AddressFamily::Unix) => output_is_the_same && getpeername::<SockaddrStorage>(STDIN_FILENO).is_ok(),
        family => family.is_some(),
    }
}

/// Whether this standard descriptor is the same socket as standard input.
fn is_stdin(other: RawFd) -> bool {
    let identity = |fd| fstat(standard(fd)).map(|stat| (stat.st_dev, stat.st_ino));
    identity(other).is_ok_and(|other| identity(STDIN_FILENO) == Ok(other))
}

/// A standard descriptor. `std::io::stdin` would allocate a buffer. Under a memory limit, that could make
/// the process write an error before its standard error leads to /dev/null.
fn standard(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: std opens the three descriptors before main, and nobody closes them.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
