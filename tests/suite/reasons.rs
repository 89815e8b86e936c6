//! Each reason, in a situation that leads to it, as each kind of client is told.

use std::any::Any;
use std::thread;

use cmonhachk::verdict::reason::Reason;

use crate::cluster::{Cluster, once_in_a_while, requesting, unknown, with_fault};
use crate::late::scanner_that_hangs;
use crate::stale::with_a_defect;

/// What is wrong on a node that would lead.
enum Cause {
    /// s9s behaves in this way.
    Client(&'static str),
    /// The list has these rows: state and address.
    List(&'static [(char, &'static str)]),
    /// The defaults file has this text.
    Defaults(&'static str),
    /// The check has these options.
    Options(&'static [&'static str]),
    /// These system calls fail.
    Calls(&'static str),
    /// The maintenance file is there.
    Maintenance,
    /// Another process holds the lock.
    Lock,
    /// The defaults file cannot be opened before the deadline.
    Scanner,
    /// The check itself fails.
    Defect,
}

/// One situation for each reason: a new reason does not compile without one.
fn cause(reason: Reason) -> Cause {
    use Cause::*;
    match reason {
        Reason::BadArguments => Options(&["surplus"]),
        Reason::InternalError => Defect,
        Reason::Maintenance => Maintenance,
        Reason::Stuck => Scanner,
        Reason::LockTimeout => Lock,
        Reason::LockUnusable => Options(&["--lock-file", "/dev/null/lock"]),
        Reason::DefaultsMissing => Options(&["--cmon-defaults", "/nonexistent"]),
        Reason::DefaultsUnreadable => Options(&["--cmon-defaults", "/"]),
        Reason::ControllerPool => Defaults("EXTRA_OPTS=--pool\n"),
        Reason::DefaultsUnclear => Defaults("RPC_BIND_ADDRESSES=$(hostname)\n"),
        Reason::NoBindAddresses => Defaults(""),
        Reason::OnlyLoopback => Defaults("RPC_BIND_ADDRESSES=127.0.0.1\n"),
        Reason::AnotherNode => Defaults("RPC_BIND_ADDRESSES=10.9.9.9\n"),
        Reason::InterfacesUnreadable => Calls("socket:error=EACCES"),
        Reason::S9sNotFound => Options(&["--s9s", "/nonexistent/s9s"]),
        Reason::S9sNotExecutable => Options(&["--s9s", "/"]),
        Reason::S9sNotStarted => Calls("clone,clone3,vfork:error=EAGAIN"),
        Reason::S9sTimeout => Client("hang"),
        Reason::S9sKilled => Client("crash"),
        Reason::S9sTooMuchOutput => Client("flood"),
        Reason::S9sRedirectFailed => Client("login-redirect-no-leader"),
        Reason::S9sTryAgain => Client("login-try-again"),
        Reason::S9sSuspended => Client("user-suspended"),
        Reason::S9sRefused => Client("wrong-password"),
        Reason::S9sLoginFailed => Client("fail 3 Could not connect to the database."),
        Reason::S9sNoSuchHost => Client("no-such-host"),
        Reason::S9sNoTls => Client("not-tls"),
        Reason::S9sNoConnection => Client("connection-refused"),
        Reason::S9sConfUnreadable => Client("config-syntax-error"),
        Reason::S9sNoCredentials => Client("no-credentials"),
        Reason::S9sNoUser => Client("no-home"),
        Reason::S9sFailed => Client("fail 1 Something else."),
        Reason::ListUnreadable => Client("count 5"),
        Reason::NoControllers => List(&[]),
        Reason::NotListed => List(&[('l', "10.0.0.102")]),
        Reason::RowsDisagree => List(&[('l', "10.0.0.101"), ('f', "10.0.0.101")]),
        Reason::SeveralLeaders => List(&[('l', "10.0.0.101"), ('l', "10.0.0.102")]),
        Reason::Offline => List(&[('-', "10.0.0.101")]),
        Reason::NoRole => List(&[('?', "10.0.0.101")]),
    }
}

fn uses_all_its_time(reason: Reason) -> bool {
    use Reason::*;
    matches!(reason, Stuck | LockTimeout | S9sTimeout | S9sTooMuchOutput)
}

/// What a client with this request is told where the cause is there.
fn told(reason: Reason, request: &str) -> String {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let mut check = node.command();
    // What holds up the check while this is kept.
    let mut kept: Option<Box<dyn Any>> = None;
    match cause(reason) {
        Cause::Client(behaviour) => cluster.behaves(behaviour),
        Cause::List(rows) => {
            let row = |(state, address)| format!("{state}\t1.7.4\tsystem\tadmins\t{address}\t{address}\t9501\tNone.\n");
            let rows: String = rows.iter().copied().map(row).collect();
            cluster.folder.write("controllers", rows);
        }
        Cause::Defaults(text) => std::fs::write(&node.defaults, text).unwrap(),
        Cause::Options(options) => drop(check.args(options)),
        Cause::Calls(calls) => check = with_fault(calls, &check),
        Cause::Maintenance => drop(check.env("CMONHACHK_MAINTENANCE", cluster.folder.write("maintenance", ""))),
        Cause::Lock => kept = Some(Box::new(node.hold_the_lock())),
        Cause::Scanner => kept = Some(Box::new(scanner_that_hangs(&node.defaults))),
        Cause::Defect => return with_a_defect(&mut check, request.as_bytes()),
    }
    if uses_all_its_time(reason) {
        check.env("CMONHACHK_TIMEOUT", "2");
    }
    let answer = requesting(&mut check, request.as_bytes()).answer();
    drop(kept);
    answer
}

/// The client with this request is told so. A check that uses all its time may be late on a busy machine, and then it
/// is stuck.
fn is_told(reason: Reason, request: &str, expected: &str) {
    let mut last = String::new();
    let mut is_right = || {
        last = told(reason, request);
        last == expected
    };
    let is_right = match uses_all_its_time(reason) {
        true => once_in_a_while(is_right),
        false => is_right(),
    };
    assert!(is_right, "{reason:?}, to {request:?}: {last}");
}

#[test]
fn each_reason_has_a_situation_and_is_told_to_each_kind_of_client() {
    let is_told_to_all = |reason: Reason| {
        let code = reason.code();
        for path in ["/", "/health"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            is_told(reason, &request, &unknown(code));
        }
        let line = match reason {
            // One fixed response, because the request may not have been read.
            Reason::Stuck | Reason::InternalError => unknown(code),
            Reason::Maintenance => "stopped #maintenance\n".to_string(),
            _ => format!("#unknown {code}\n"),
        };
        is_told(reason, "agent\n", &line);
        let scraped = told(reason, "GET /metrics HTTP/1.1\r\n\r\n");
        let is_fixed = scraped == unknown(code);
        let has_reason = scraped.contains(&format!("\ncmonhachk_reason{{reason=\"{code}\"}} 1\n"));
        match reason {
            Reason::Stuck | Reason::InternalError => assert!(is_fixed, "{scraped}"),
            // On a busy machine, it may be stuck.
            reason if uses_all_its_time(reason) => assert!(has_reason || scraped == unknown("stuck"), "{scraped}"),
            _ => assert!(has_reason, "{scraped}"),
        }
    };
    thread::scope(|scope| {
        for reason in Reason::ALL {
            scope.spawn(move || is_told_to_all(reason));
        }
    });
}
