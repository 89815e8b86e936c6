//! The listener: accepts each connection, and forks a process for its check.
//!
//! It does nothing else. It opens no file of a check, runs no program, has no thread and keeps nothing of a check,
//! so what happens to one connection changes nothing for the next.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stdin, fork};

use crate::net::connection::{Connection, Patience};
use crate::net::{refuse, serve};
use crate::os::clock::Instant;
use crate::os::signals::by_default;
use crate::os::syslog;

/// How many checks run at once. Further connections wait in the socket's queue.
const CHECKS: usize = 400;

/// How many of them may be for one address. Its further connections are closed. Loopback has no such limit.
const CHECKS_OF_ONE_CLIENT: usize = 100;

/// A listener whose socket somebody else holds ends after this time without a connection.
const IDLE: Duration = Duration::from_secs(60);

/// How long to wait where the system has no room for another descriptor.
const NO_ROOM: Duration = Duration::from_millis(50);

/// Serves the connections that come to standard input, a socket that a super-server lends.
pub fn serve_stdin() -> ExitCode {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let served = socket.and_then(|socket| serve_all(socket.into(), true));
    served.unwrap_or_else(|error| {
        syslog::fault(&format!("cannot serve the listening socket on standard input: {error}"));
        ExitCode::FAILURE
    })
}

/// Serves the connections that come to `listener`, until SIGTERM or SIGINT. If a super-server holds the socket
/// (`lent`) and starts a listener for the next connection, this one also ends after a minute without a connection,
/// and, if its program's file was replaced, before it accepts the next one. The process of a check returns when
/// that is over.
///
/// # Errors
/// The system's, before the first connection.
pub fn serve_all(listener: TcpListener, lent: bool) -> io::Result<ExitCode> {
    // No signal interrupts it: it reads them, one by one.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    by_default(Signal::SIGCHLD)?;
    let nothing = File::open("/dev/null")?;
    // Fails on a socket that is not TCP.
    listener.local_addr()?;
    // A client may go before it is accepted.
    listener.set_nonblocking(true)?;
    let connection = Connection {
        patience: Patience::Usual,
    };
    let mut checks: HashMap<Pid, IpAddr> = HashMap::new();
    let mut end = Instant::now() + IDLE;
    loop {
        let is_full = checks.len() >= CHECKS;
        let sources = [signals.as_fd(), listener.as_fd()];
        let until = (lent && !is_full).then_some(end);
        let has_come = wait(&sources[..if is_full { 1 } else { 2 }], until);
        while let Ok(Some(signal)) = signals.read_signal() {
            if [Signal::SIGTERM as u32, Signal::SIGINT as u32].contains(&signal.ssi_signo) {
                return Ok(ExitCode::SUCCESS);
            }
        }
        while let Some(check) = waitpid(None, Some(WaitPidFlag::WNOHANG))
            .ok()
            .and_then(|status| status.pid())
        {
            checks.remove(&check);
        }
        if lent && (is_replaced() || !has_come && until.is_some_and(Instant::has_passed)) {
            return Ok(ExitCode::SUCCESS);
        }
        if !has_come {
            continue;
        }
        let (client, address) = match listener.accept() {
            Ok((client, address)) => (client, address.ip().to_canonical()),
            Err(error) => {
                // Without room for a descriptor, the client is still there at once.
                if error.kind() != io::ErrorKind::WouldBlock {
                    wait(&sources[..1], Some(Instant::now() + NO_ROOM));
                }
                continue;
            }
        };
        let accepted = Instant::now();
        end = accepted + IDLE;
        let _ = dup2_stdin(client);
        let of_this_client = checks.values().filter(|other| **other == address).count();
        if address.is_loopback() || of_this_client < CHECKS_OF_ONE_CLIENT {
            // SAFETY: this process has one thread, so the new one can go on as it likes.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    drop((listener, signals, nothing));
                    let _ = mask.thread_set_mask();
                    serve(connection, accepted);
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(ForkResult::Parent { child }) => drop(checks.insert(child, address)),
                Err(errno) => refuse(connection, &format!("cannot start a process: {errno}")),
            }
        }
        let _ = dup2_stdin(&nothing);
    }
}

/// Waits until one of the sources can be read, or `until`. Returns whether the second one can.
fn wait(sources: &[BorrowedFd<'_>], until: Option<Instant>) -> bool {
    let mut ready: Vec<_> = sources
        .iter()
        .map(|source| PollFd::new(*source, PollFlags::POLLIN))
        .collect();
    let timeout = until.map_or(PollTimeout::NONE, Instant::poll_timeout);
    poll(&mut ready, timeout).is_ok() && ready.get(1).is_some_and(|listener| listener.any().unwrap_or(true))
}

/// Whether another program has the name of this one's file. The kernel knows without looking at the disk.
fn is_replaced() -> bool {
    let program = fs::read_link("/proc/self/exe").unwrap_or_default();
    program.to_string_lossy().ends_with(" (deleted)")
}
