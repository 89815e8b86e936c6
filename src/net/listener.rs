//! The listener: accepts each connection, and forks a process for its check.
//!
//! It does nothing else. It opens no file of a check, runs no program, has no thread and keeps nothing of a check,
//! so what happens to one connection changes nothing for the next.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::ptr::null_mut;
use std::time::Duration;

use nix::libc::{WNOHANG, waitpid};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{self, Backlog};
use nix::unistd::{ForkResult, Pid, dup2_stdin, fork};

use super::connection::{Connection, Patience};
use super::places::{Client, Places};
use super::{refuse, serve};
use crate::os::clock::Instant;
use crate::os::signals::{self, by_default};
use crate::os::syslog;

/// How many connections are accepted in a turn. After it, the places of the checks that have ended are free again.
const TURN: usize = 10;

/// The same when places are scarce: a crowd that comes back at once gets its share once in a turn. Else it would be
/// served as fast as the processors can, and everybody waits for that.
const LONG_TURN: usize = 1000;

/// How long to wait where the system has no room for another descriptor, in milliseconds.
const NO_ROOM: u16 = 50;

/// How often the log says that a client is turned away.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Serves the connections that come to standard input, a socket that a super-server lends.
pub fn serve_stdin() -> ExitCode {
    let socket = || Ok(io::stdin().as_fd().try_clone_to_owned()?.into());
    // Its checks go on without it, and the next listener should serve the queue at once.
    serve_all(Duration::ZERO, socket).unwrap_or_else(|error| {
        syslog::fault(&format!("cannot serve the listening socket on standard input: {error}"));
        ExitCode::FAILURE
    })
}

/// Opens a socket on this address.
///
/// # Errors
/// The system's, such as that another program has the port.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // The standard library's queue of 128 is full before a crowd is turned away. The system's limit is 4,096.
    socket::listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener)
}

/// Serves the connections that come to a socket, until SIGTERM or SIGINT, and then waits this long at most for the
/// checks in flight. The process of a check returns when that is over. `socket` is called when these signals already
/// end the listener in good order.
///
/// # Errors
/// The system's, before the first connection.
pub fn serve_all(last_wait: Duration, socket: impl FnOnce() -> io::Result<TcpListener>) -> io::Result<ExitCode> {
    // No signal interrupts it: it reads them, one by one.
    let held_back = signals::hold_back(signals::EVERY)?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    by_default(Signal::SIGCHLD)?;
    let nothing = File::open("/dev/null")?;
    let listener = socket()?;
    // Fails on a socket that is not TCP.
    listener.local_addr()?;
    // A client may go before it is accepted.
    listener.set_nonblocking(true)?;

    let mut places = Places::default();
    let mut last_complaint = None;
    loop {
        let sources = [signals.as_fd(), listener.as_fd()];
        wait(&sources[..if places.are_full() { 1 } else { 2 }], PollTimeout::NONE);
        // Clients that have connected before are still accepted: the end of the socket would reset them.
        let is_last_turn = is_told_to_end(&signals);
        take_back_places(&mut places);

        let turn = match is_last_turn || places.are_scarce() {
            true => LONG_TURN,
            false => TURN,
        };
        for _ in 0..turn {
            if places.are_full() {
                break;
            }
            let Some((stream, client)) = accept(&listener, &signals) else {
                break;
            };
            if places.has_its_share(client) {
                drop(stream);
                complain(client, &places, &mut last_complaint);
                continue;
            }

            let accepted = Instant::now();
            let connection = Connection {
                patience: if places.are_scarce() {
                    Patience::Little
                } else {
                    Patience::Usual
                },
            };
            let _ = dup2_stdin(stream);
            // SAFETY: this process has one thread, so the new one can go on as it likes.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    drop((listener, signals, nothing));
                    let _ = signals::hold_back(held_back);
                    serve(connection, accepted);
                    return Ok(ExitCode::SUCCESS);
                }
                Ok(ForkResult::Parent { child }) => places.give(child, client),
                Err(errno) => refuse(connection, &format!("cannot start a process: {errno}")),
            }
            let _ = dup2_stdin(&nothing);
        }
        if is_last_turn {
            drop(listener);
            wait_for_the_last(&mut places, &signals, Instant::now() + last_wait);
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The next connection, if one waits.
fn accept(listener: &TcpListener, signals: &SignalFd) -> Option<(TcpStream, Client)> {
    match listener.accept() {
        Ok((stream, address)) => Some((stream, Client::of(address.ip()))),
        Err(error) => {
            // Without room for a descriptor, the client is still there at once.
            if error.kind() != io::ErrorKind::WouldBlock {
                wait(&[signals.as_fd()], NO_ROOM.into());
            }
            None
        }
    }
}

/// Logs that this client has its share, but not more than once a minute: else a crowd would flood the log.
fn complain(client: Client, places: &Places, last: &mut Option<Instant>) {
    let age = last.and_then(Instant::age);
    if age.is_some_and(|age| age < COMPLAINT) {
        return;
    }
    *last = Some(Instant::now());
    syslog::warning(&format!(
        "too many connections from {client}: {} of its checks are in flight, and further connections are closed. \
         Find out what opens them there, or let a firewall keep it out",
        places.of(client)
    ));
}

/// Waits until one of the sources can be read. The result does not matter: each is looked at afterwards.
fn wait(sources: &[BorrowedFd<'_>], limit: PollTimeout) {
    let to_read = |source| PollFd::new(source, PollFlags::POLLIN);
    let mut sources: Vec<_> = sources.iter().copied().map(to_read).collect();
    let _ = poll(&mut sources, limit);
}

/// Whether there was a signal that ends the listener. Reads all, so that no other one has an effect.
fn is_told_to_end(signals: &SignalFd) -> bool {
    let all = std::iter::from_fn(|| signals.read_signal().ok().flatten());
    let ends = [Signal::SIGTERM as u32, Signal::SIGINT as u32];
    all.into_iter().any(|signal| ends.contains(&signal.ssi_signo))
}

/// Waits for the checks in flight: the end of a container's first process would end them. A second signal ends the wait.
fn wait_for_the_last(places: &mut Places, signals: &SignalFd, deadline: Instant) {
    take_back_places(places);
    while !places.are_free() && !deadline.has_passed() {
        wait(&[signals.as_fd()], deadline.poll_timeout());
        if is_told_to_end(signals) {
            return;
        }
        take_back_places(places);
    }
}

fn take_back_places(places: &mut Places) {
    while let Some(check) = ended_check() {
        places.take_back(check);
    }
}

/// The process of a check that has ended. nix's waitpid does not say which it was if it knows no name for the signal
/// that ended it.
fn ended_check() -> Option<Pid> {
    // SAFETY: a status that nobody wants may be null.
    let ended = unsafe { waitpid(-1, null_mut(), WNOHANG) };
    (ended > 0).then(|| Pid::from_raw(ended))
}
