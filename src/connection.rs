//! The connection: standard input, when a super-server gives us a client's socket there.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::STDERR_FILENO;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{dup2_stderr, dup2_stdout};

use crate::deadline::Deadline;
use crate::request::{self, MAX_HEAD};

/// How long the client's last bytes are waited for after the answer.
const LINGER: Duration = Duration::from_secs(1);

/// How long the answer may take to go out. It fits into any socket's buffer, so this is for the
/// client that a broken network or a hostile peer makes of it.
const SENDING: Duration = Duration::from_secs(1);

/// What one turn of reading a request takes. Room for a health check's whole request, and no more,
/// for the pages of a buffer cost time even where nothing is read into them. In bytes.
const CHUNK: usize = 1024;

/// A client's connection.
pub struct Connection {
    socket: io::Stdin,
}

impl Connection {
    /// The connection on standard input; None if that is no socket.
    ///
    /// A super-server may have made standard output and error the same socket. They are pointed at
    /// /dev/null, so that nothing but the answer can reach the client, whoever writes it.
    pub fn on_stdin() -> Option<Connection> {
        let null = null();
        let socket = io::stdin();
        let stat = fstat(&socket).ok()?;
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
            return None;
        }
        let is_the_same = |other: nix::Result<FileStat>| {
            other.is_ok_and(|other| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino))
        };
        if let Ok(null) = null {
            if is_the_same(fstat(io::stdout())) {
                let _ = dup2_stdout(&null);
            }
            if is_the_same(fstat(io::stderr())) {
                let _ = dup2_stderr(&null);
            }
        }
        Some(Connection { socket })
    }

    /// Reads the request's head, or what of it there is when the deadline has passed, the client
    /// has closed its side, or [`MAX_HEAD`] bytes have come. Read at all because a socket that is
    /// closed with unread bytes sends RST, and the client loses the answer. The deadline is asked
    /// for only if something has to be waited for.
    pub fn read_head(&self, deadline: impl Fn() -> Deadline) -> Vec<u8> {
        let mut head = Vec::with_capacity(CHUNK);
        let mut chunk = [0; CHUNK];
        while head.len() < MAX_HEAD && !request::is_complete(&head) {
            match self.receive(&mut chunk, &deadline) {
                Some(count) => head.extend_from_slice(&chunk[..count]),
                None => break,
            }
        }
        head
    }

    /// Sends the whole answer.
    ///
    /// # Errors
    /// The client is gone, or takes nothing for a second.
    pub fn send(&self, answer: &[u8]) -> nix::Result<()> {
        let deadline = Deadline::from_now(SENDING);
        let mut rest = answer;
        while !rest.is_empty() {
            match send(
                self.socket.as_raw_fd(),
                rest,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !deadline.passed() => self.wait_for(PollFlags::POLLOUT, deadline),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Says that nothing more comes, then reads and drops what the client still sends until it
    /// closes its side, for at most a second. Without it, what arrives late would make the kernel
    /// send RST, and the client might lose the answer.
    pub fn linger(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        let deadline = Deadline::from_now(LINGER);
        let mut dropped = [0; CHUNK];
        // Waited for before it is looked for: a client that got its answer needs time to close.
        self.wait_for(PollFlags::POLLIN, deadline);
        while !deadline.passed() && self.receive(&mut dropped, || deadline).is_some() {}
    }

    /// Some bytes, or None when there will be none before the deadline.
    fn receive(&self, buffer: &mut [u8], deadline: impl Fn() -> Deadline) -> Option<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return None,
                Ok(count) => return Some(count),
                Err(Errno::EAGAIN) => {
                    let deadline = deadline();
                    if deadline.passed() {
                        return None;
                    }
                    self.wait_for(PollFlags::POLLIN, deadline);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn wait_for(&self, event: PollFlags, deadline: Deadline) {
        let mut socket = [PollFd::new(self.socket.as_fd(), event)];
        // Whatever it returns, the next try to read or write tells.
        let _ = poll(&mut socket, deadline.poll_timeout());
    }
}

/// Opens /dev/null, first of all as whichever standard descriptor is closed: a file of ours must
/// not be taken for one.
fn null() -> nix::Result<OwnedFd> {
    loop {
        let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
        if null.as_raw_fd() > STDERR_FILENO {
            return Ok(null);
        }
        mem::forget(null);
    }
}
