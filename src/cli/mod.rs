//! What a person or a script gets: the same answer, without the lock and the cache, and an exit status.

pub mod explain;

use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;

use crate::check::find_out;
use crate::cli::explain::explain;
use crate::net::listener;
use crate::net::request::Request;
use crate::net::response::render;
use crate::options::{Options, in_short};
use crate::os::clock::Moment;
use crate::os::watchdog;
use crate::verdict::reason::Reason;
use crate::verdict::{Role, Verdict, verdict};

/// Makes the check and prints the answer, or with `--explain` the way to it. With `--listen`, serves clients
/// instead. The status of a check is 0 for the leader, 1 for a follower, 2 for an unknown state.
pub fn by_hand(started: Moment) -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => match error.downcast::<clap::Error>() {
            // clap prints its errors, --help and --version itself.
            Ok(error) => error.exit(),
            Err(error) => return refuse(&in_short(&error)),
        },
    };
    if let Some(address) = options.listen {
        let served = TcpListener::bind(address).and_then(|listener| listener::serve_all(listener, false));
        return served.unwrap_or_else(|error| {
            refuse(&format!("cannot listen on {address}: {error}. `ss -ltnp` shows which program has a port, `ip address` the addresses"))
        });
    }
    let (deadline, explains) = (started + options.timeout, options.explain);
    let armed = watchdog::arm(deadline, move |doing| {
        let verdict = Verdict::Unknown(Reason::Stuck);
        match explains {
            true => explain::conclude(Reason::Stuck, doing),
            false => print(&render(verdict, Request::Role, false)),
        }
        status(verdict).into()
    });
    if let Err(error) = armed {
        return refuse(&format!("cannot start a thread: {error}"));
    }
    let verdict = match explains {
        true => explain(&options, deadline),
        false => verdict(&find_out(&options, deadline, &mut |_| ())),
    };
    watchdog::claim_answer();
    if !explains {
        print(&render(verdict, Request::Role, false));
    }
    status(verdict).into()
}

/// A reader that closes the output early still gets the status.
pub fn print(text: &[u8]) {
    let _ = io::stdout().write_all(text).and_then(|()| io::stdout().flush());
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("cmonhachk: {why}");
    ExitCode::from(2)
}

fn status(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Known(Role::Leader) => 0,
        Verdict::Known(Role::Follower) => 1,
        Verdict::Unknown(_) => 2,
    }
}
