//! cmonhachk-front: puts the ClusterControl UI of the leader at one address, and says what it has seen.
//!
//! It shares nothing with the check's way but [`cmonhachk::os::text`]. It asks checks by [`cmonhachk::client`]. Imports go down this table.
//!
//! | room | question |
//! |---|---|
//! | [`set_up`], [`status`], [`remove`] | the three things that it does |
//! | [`refusals`] | what keeps a front from being set up? |
//! | [`users`] | do users reach the leader's UI? |
//! | [`haproxy`], [`keepalived`] | the configuration and the service of each |
//! | [`site`] | which nodes, which address, which way, seen from this host? |
//! | [`network`] | addresses and routes of this host, and who has an address |
//! | [`nodes`] | what does each node's check say? |
//! | [`template`] | a configuration, filled in by names |
//! | [`host`] | commands, files and services of this host, and what a run changes |
//! | [`options`] | what did the operator ask for, now and the last time? |
//! | [`failure`] | why it ends |

mod failure;
mod haproxy;
mod host;
mod keepalived;
mod network;
mod nodes;
mod options;
mod refusals;
mod remove;
mod set_up;
mod site;
mod status;
mod template;
mod users;

use std::fs::{self, File, TryLockError};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cmonhachk::os::signals::by_default;
use nix::sys::signal::Signal;

use failure::{Failure, Outcome, fail};
use host::{Run, pause};
use options::{Action, Options};
use site::Site;

/// Each run but `--status` holds it.
const LOCK: &str = "/run/cmonhachk-front.lock";
/// So long it waits for another run. The longest run waits twice for ten seconds, and for keepalived.
const WAIT_FOR_LOCK: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match front() {
        Ok(status) => status,
        Err(failure) => failure.end(),
    }
}

fn front() -> Outcome<ExitCode> {
    // A reader such as head may leave early. Rust ignores the signal, and its print would panic.
    let _ = by_default(Signal::SIGPIPE);
    let options = Options::read(&[haproxy::CONFIGURATION, keepalived::SNIPPET])?;
    let mut run = Run::new(options.dry_run);
    let _lock = match options.action {
        Action::Status => None,
        Action::SetUp | Action::Remove => Some(lock()?),
    };
    match options.action {
        Action::SetUp => set_up::set_up(&Site::of(&options)?, &mut run)?,
        Action::Status => status::status(&Site::of(&options)?, &mut run)?,
        Action::Remove => remove::remove(&mut run)?,
    }
    Ok(run.end(options.action))
}

/// The lock, for as long as the file is open.
fn lock() -> Outcome<File> {
    if !host::is_root() {
        return fail("only root can do this");
    }
    let file = fs::OpenOptions::new().append(true).create(true).open(LOCK);
    let file = file.map_err(|error| Failure::of(format!("cannot open {LOCK}: {error}")))?;
    let start = Instant::now();
    let mut is_told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return fail(format!("cannot lock {LOCK}: {error}")),
            Err(TryLockError::WouldBlock) if start.elapsed() > WAIT_FOR_LOCK => {
                let seconds = WAIT_FOR_LOCK.as_secs();
                return fail(format!(
                    "another cmonhachk-front has held {LOCK} for {seconds} s: end it, and run this again"
                ));
            }
            Err(TryLockError::WouldBlock) => {
                if !is_told {
                    println!("Waits for another cmonhachk-front to end.");
                    is_told = true;
                }
                pause();
            }
        }
    }
}
