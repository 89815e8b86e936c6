//! What does a client get? One response to one connection.
//!
//! A super-server, or the [`listener`], starts a process for each connection. It reads the request, makes the check
//! and sends the response in time.

pub mod connection;
pub mod listener;
pub mod metrics;
mod places;
pub mod request;
pub mod response;

use std::panic;
use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;
use std::time::Duration;

use crate::cache::Store;
use crate::check::check;
use crate::options::{DEFAULT_TIMEOUT, Options, SETTINGS, in_short};
use crate::os::clock::Instant;
use crate::os::{syslog, watchdog};
use crate::verdict::reason::Reason;
use crate::verdict::{Answer, Measured, Verdict};
use connection::{Connection, Patience};
use request::Request;
use response::render;

/// How long a check waits for the request, at most half of the check's time.
const READING: Duration = Duration::from_secs(1);

/// How long it waits for the first byte. A network that lost it sends it again after 200 ms.
const SILENCE: Duration = Duration::from_millis(400);

/// The options, once they are read. A process makes one check.
static OPTIONS: OnceLock<Options> = OnceLock::new();

/// Answers `connection`. The options' timeout counts from `started`: when the connection was accepted, or the process
/// was started for it.
pub fn serve(connection: Connection, started: Instant) {
    // A defect must not cost the client its response: a fixed one, as the watchdog's.
    panic::set_hook(Box::new(move |panic| {
        watchdog::claim_response();
        send(connection, Verdict::Unknown(Reason::InternalError).into(), b"");
        fault(Reason::InternalError, panic);
        connection.linger();
        exit(0);
    }));
    // Usually the whole request is there. Read it now: a check that is killed must leave nothing unread.
    let mut head = Vec::new();
    connection.read_what_is_there(&mut head);
    if let Err(reason) = respond(connection, started, &mut head) {
        wait_for_the_request(connection, &mut head, started, READING);
        watchdog::claim_response();
        send(connection, Verdict::Unknown(reason).into(), &head);
    }
    // A client that has sent nothing would only hold this process.
    if !head.is_empty() {
        connection.linger();
    }
}

fn wait_for_the_request(connection: Connection, head: &mut Vec<u8>, started: Instant, limit: Duration) {
    let is_patient = connection.patience == Patience::Usual;
    if is_patient || head.is_empty() {
        connection.wait_for_the_rest(head, started + SILENCE.min(limit));
    }
    if is_patient && !head.is_empty() {
        connection.wait_for_the_rest(head, started + limit);
    }
}

/// Answers a connection for which the system has no room, and waits for nothing.
pub fn refuse(connection: Connection, why: &str) {
    let mut head = Vec::new();
    connection.read_what_is_there(&mut head);
    let verdict = Verdict::Unknown(fault(Reason::S9sNotStarted, &why));
    send(connection, verdict.into(), &head);
}

/// # Errors
/// Why there is no check, if nothing was sent.
fn respond(connection: Connection, started: Instant, head: &mut Vec<u8>) -> Result<(), Reason> {
    // If there is no room for a thread, there is none for s9s.
    watchdog::arm(started + DEFAULT_TIMEOUT, move |step| respond_late(connection, step))
        .map_err(|error| fault(Reason::S9sNotStarted, &error))?;
    watchdog::enter("reading", Path::new(SETTINGS));
    // To clap, --help and --version are errors, too; nobody would read their texts here.
    let options = Options::read().map_err(|error| fault(Reason::BadArguments, &in_short(&error)))?;
    let options = OPTIONS.get_or_init(|| options);
    let deadline = started + options.timeout;
    watchdog::set_deadline(deadline);

    let mut checked = check(options, deadline);
    watchdog::enter("reading the request from", Path::new("the client"));
    connection.read_what_is_there(head);
    if !request::is_complete(head) {
        // Wait for the rest last: it decides only the form of the response, so it must not shorten the time for
        // s9s, and other checks must not wait for it.
        checked.finish();
        wait_for_the_request(connection, head, started, READING.min(options.timeout / 2));
    }
    let measured = match request::request(head) {
        Request::Metrics => checked.measured(),
        Request::Role | Request::Health | Request::Agent => Measured::default(),
    };
    watchdog::claim_response();
    // Last: after this look at the clock, nothing is done but to write.
    let verdict = checked.verdict_before(deadline);
    send(connection, Answer { verdict, measured }, head);
    // The response must not wait for the lock file's disk.
    checked.finish();
    Ok(())
}

/// Sends one fixed response for a check that is late, whatever the form of the request. Returns the exit status.
fn respond_late(connection: Connection, step: &str) -> i32 {
    let verdict = Verdict::Unknown(Reason::Stuck);
    send(connection, verdict.into(), b"");
    match OPTIONS.get().map(Store::open) {
        Some(Ok(store)) => store.report(verdict, step),
        _ => drop(fault(Reason::Stuck, &step)),
    }
    connection.linger();
    0
}

fn send(connection: Connection, answer: Answer, head: &[u8]) {
    connection.send(&render(&answer, request::request(head), request::is_head(head)));
}

/// Logs, for the operator, why there is no check.
fn fault(reason: Reason, why: &dyn std::fmt::Display) -> Reason {
    syslog::fault(&format!("{}: {why}", reason.code()));
    reason
}
