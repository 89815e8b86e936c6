//! The log lines for the operator in syslog: facility daemon, ident `cmonhachk`.
//!
//! They go directly to the socket, and no check waits for it: the C library's syslog(3) blocks for as
//! long as the log daemon does not read.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::text::clean;

const SOCKET: &str = "/dev/log";

/// The longest text of one line, in bytes; RFC 3164 guarantees no more than 1024 with its header.
const MAX_TEXT: usize = 900;

// RFC 3164, section 4.1.1: facility daemon (3) times 8, plus the severity.
const ERROR: u8 = 3 * 8 + 3;
const WARNING: u8 = 3 * 8 + 4;
const NOTICE: u8 = 3 * 8 + 5;

/// Logs a fault of the check itself: its arguments, its lock file, its code.
pub fn fault(text: &str) {
    line(ERROR, text);
}

/// Logs a change that may need an operator.
pub fn warning(text: &str) {
    line(WARNING, text);
}

/// Logs a change that is as it should be.
pub fn notice(text: &str) {
    line(NOTICE, text);
}

fn line(priority: u8, text: &str) {
    let line = format!("cmonhachk[{}]: {}", process::id(), clean(text, MAX_TEXT));
    // A log daemon that does not read loses the line; the client still gets its response.
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(format!("<{priority}>{line}").as_bytes(), SOCKET)
    });
    // A container has no log daemon, but reads standard error.
    if sent.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        to_standard_error(&line);
    }
}

/// If nobody reads standard error, the line is lost. A pipe that can be written takes a whole line: poll(2) says so
/// only where there is room for PIPE_BUF, 4,096 bytes. A terminal does with less, and so does a pipe when others write
/// at the same moment, so a listener that opens its own socket also has a standard error that never waits.
fn to_standard_error(line: &str) {
    let error = io::stderr();
    let mut ready = [PollFd::new(error.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        let _ = error.lock().write_all(format!("{line}\n").as_bytes());
    }
}
