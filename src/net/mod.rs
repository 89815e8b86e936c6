//! What a client gets: one answer to one connection.

pub mod connection;
pub mod listener;
pub mod request;
pub mod response;

use std::panic;
use std::path::Path;
use std::process::exit;
use std::time::Duration;

use crate::cache::reported::tell;
use crate::check::check;
use crate::net::connection::Connection;
use crate::net::response::render;
use crate::options::{Options, in_short};
use crate::os::clock::Moment;
use crate::os::syslog;
use crate::os::watchdog;
use crate::verdict::Verdict;
use crate::verdict::reason::Reason;

/// How long a check waits for the request, at most half of the check's time.
const READING: Duration = Duration::from_secs(1);

/// How long it waits for the first byte. A network that lost it sends it again after 200 ms.
const SILENCE: Duration = Duration::from_millis(400);

/// Answers `connection`: request -> cache -> s9s -> verdict -> response. The options' timeout counts from
/// `started`: when the connection was accepted, or the process was started for it.
pub fn serve(connection: Connection, started: Moment) {
    // A defect must not cost the client its answer: a fixed one, as the guard's.
    panic::set_hook(Box::new(move |panic| {
        watchdog::claim_answer();
        send(connection, Verdict::Unknown(Reason::InternalError), b"");
        fault(Reason::InternalError, panic);
        connection.linger();
        exit(0);
    }));
    // Usually the whole request is there. Read it now: a check that is killed must leave nothing unread.
    let mut head = Vec::new();
    connection.read_what_is_there(&mut head);
    if let Err(reason) = answer(connection, started, &mut head) {
        wait_for_the_request(connection, &mut head, started, READING);
        send(connection, Verdict::Unknown(reason), &head);
    }
    // A client that has sent nothing would only hold this process.
    if !head.is_empty() {
        connection.linger();
    }
}

fn wait_for_the_request(connection: Connection, head: &mut Vec<u8>, started: Moment, limit: Duration) {
    connection.wait_for_the_rest(head, started + SILENCE.min(limit));
    if !head.is_empty() {
        connection.wait_for_the_rest(head, started + limit);
    }
}

/// Answers a connection for which the system has no room, and waits for nothing.
pub fn refuse(connection: Connection, why: &str) {
    let mut head = Vec::new();
    connection.read_what_is_there(&mut head);
    send(connection, Verdict::Unknown(fault(Reason::S9sNotStarted, &why)), &head);
}

/// # Errors
/// Why there is no check, if nothing was sent.
fn answer(connection: Connection, started: Moment, head: &mut Vec<u8>) -> Result<(), Reason> {
    // To clap, --help and --version are errors, too; nobody would read their texts here.
    let options = Options::read().map_err(|error| fault(Reason::BadArguments, &in_short(&error)))?;
    let deadline = started + options.timeout;
    let lock_file = options.lock_file.clone();
    // The guard sends one fixed answer, whatever the form of the request.
    let armed = watchdog::arm(deadline, move |doing| {
        let verdict = Verdict::Unknown(Reason::Stuck);
        send(connection, verdict, b"");
        tell(&lock_file, verdict, doing);
        connection.linger();
        0
    });
    // If there is no room for a thread, there is none for s9s.
    armed.map_err(|error| fault(Reason::S9sNotStarted, &error))?;
    let mut checked = check(&options, deadline);
    watchdog::enter("reading the request from", Path::new("the client"));
    connection.read_what_is_there(head);
    if !request::is_complete(head) {
        // Wait for the rest last: it decides only the form of the answer, so it must not shorten the time for
        // s9s, and other checks must not wait for it.
        checked.finish(&options.lock_file);
        wait_for_the_request(connection, head, started, READING.min(options.timeout / 2));
    }
    // After the deadline, a role from the list is not used. The process may have been stopped (SIGSTOP, a
    // paused machine), so the list may be old.
    if matches!(checked.verdict, Verdict::Known(_)) && deadline.has_passed() {
        checked.verdict = Verdict::Unknown(Reason::Stuck);
        checked.evidence = "the check was stopped until its deadline had passed".to_string();
    }
    watchdog::claim_answer();
    send(connection, checked.verdict, head);
    // The answer must not wait for the lock file's disk.
    checked.finish(&options.lock_file);
    Ok(())
}

fn send(connection: Connection, verdict: Verdict, head: &[u8]) {
    connection.send(&render(verdict, request::request(head), request::is_head(head)));
}

/// Logs, for the operator, why there is no check.
fn fault(reason: Reason, why: &dyn std::fmt::Display) -> Reason {
    syslog::fault(&format!("{}: {why}", reason.code()));
    reason
}
