//! What does a person or a script get on the command line?
//!
//! The same response as a client's, without the lock and the cache, and an exit status; or the way to the verdict; or
//! a listener.

mod explain;
mod print;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::check::find_out;
use crate::net::listener;
use crate::net::request::Request;
use crate::net::response::render;
use crate::options::{Options, in_short};
use crate::os::clock::Instant;
use crate::os::watchdog;
use crate::verdict::reason::Reason;
use crate::verdict::{Role, Verdict};
use explain::{conclude, explain};
use print::{never_wait_for_a_reader, print, refuse};

/// How much longer than its timeout a check may take: the watchdog's response, and the client's last bytes.
const AFTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes the check and prints the response, or with `--explain` the way to it. With `--listen`, serves clients
/// instead. The status of a check is 0 for the leader, 1 for a follower, 2 for an unknown state.
pub fn command_line(started: Instant) -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => match error.downcast::<clap::Error>() {
            // clap prints its errors, --help and --version itself.
            Ok(error) => error.exit(),
            Err(error) => return refuse(&in_short(&error)),
        },
    };
    match options.listen {
        Some(address) => listen(address, options.timeout + AFTER_TIMEOUT),
        None => check_once(&options, started),
    }
}

fn listen(address: SocketAddr, last_wait: Duration) -> ExitCode {
    never_wait_for_a_reader();
    let socket = || {
        let socket = listener::open(address)?;
        // With port 0, the system has chosen one.
        let address = socket.local_addr()?;
        print(format!("cmonhachk {} listens on {address}\n", env!("CARGO_PKG_VERSION")).as_bytes());
        Ok(socket)
    };
    listener::serve_all(last_wait, socket).unwrap_or_else(|error| {
        refuse(&format!(
            "cannot listen on {address}: {error}. `ss -ltnp` shows which program has a port, `ip address` the addresses"
        ))
    })
}

fn check_once(options: &Options, started: Instant) -> ExitCode {
    let (deadline, explains) = (started + options.timeout, options.explain);
    let armed = watchdog::arm(deadline, move |step| {
        let verdict = Verdict::Unknown(Reason::Stuck);
        match explains {
            true => conclude(Reason::Stuck, step),
            false => print(&response(verdict)),
        }
        status(verdict).into()
    });
    if let Err(error) = armed {
        return refuse(&format!("cannot start a thread: {error}"));
    }

    let verdict = match explains {
        true => explain(options, deadline),
        false => Verdict::of(&find_out(options, deadline).outcome),
    };
    watchdog::claim_response();
    if !explains {
        print(&response(verdict));
    }
    status(verdict).into()
}

fn response(verdict: Verdict) -> Vec<u8> {
    render(&verdict.into(), Request::Role, false)
}

fn status(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Known(Role::Leader) => 0,
        Verdict::Known(Role::Follower) => 1,
        Verdict::Unknown(_) => 2,
    }
}
