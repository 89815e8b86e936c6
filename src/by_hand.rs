//! What a person or a script gets: the same answer on standard output, and an exit status.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::answer::render;
use crate::check::{check, find_out};
use crate::explain::explain;
use crate::guard::{self, Stage};
use crate::key::Asker;
use crate::options::{Options, in_short};
use crate::request::Request;
use crate::s9s;
use crate::verdict::{Verdict, verdict};

/// Makes the check and prints the answer, or with `--explain` the way to it. The status is 0 for
/// the leader, 1 for a follower, 2 for an unknown state.
pub fn by_hand(started: Duration) -> ExitCode {
    let last_words = |reason| {
        let verdict = Verdict::Unknown(reason);
        print(&render(verdict, Request::Role, false));
        status(verdict).into()
    };
    // clap prints its errors, --help and --version itself, and exits.
    let options = Options::given().unwrap_or_else(|error| error.exit());
    let guard = match guard::arm(options.deadline(started), false, last_words) {
        Ok(guard) => guard,
        Err(error) => return refuse(&format!("cannot start a thread: {error}")),
    };
    let options = match options.with_settings_file() {
        Ok(options) => options,
        Err(error) => return refuse(&in_short(&error)),
    };
    let deadline = options.deadline(started);
    guard.set_deadline(deadline);
    if options.explain {
        // It neither waits for the lock nor publishes its verdict: the service must not notice it.
        let report = find_out(&options, s9s::find(&options.s9s), deadline, &guard);
        guard.enter(Stage::Inputs);
        let text = explain(&options, &report);
        guard.answer();
        print(text.as_bytes());
        return status(verdict(&report.outcome)).into();
    }
    let mut checked = check(&options, Asker::Person, deadline, &guard);
    let verdict = checked.verdict(deadline);
    guard.answer();
    print(&render(verdict, Request::Role, false));
    checked.publish(false);
    status(verdict).into()
}

/// A reader that closes the output early still gets the status.
fn print(text: &[u8]) {
    let _ = io::stdout().write_all(text).and_then(|()| io::stdout().flush());
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("cmonhachk: {why}");
    ExitCode::from(2)
}

fn status(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Leader => 0,
        Verdict::Follower => 1,
        Verdict::Unknown(_) => 2,
    }
}
