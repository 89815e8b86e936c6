//! How is the client s9s run, and what does each way to end mean?
//!
//! It is given its arguments, an environment and a limit of time. Its end and its words lead to a list, or to a reason.

pub mod config;
pub mod printed;
pub mod process;

use std::borrow::Cow;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, access};

use crate::os::clock::Instant;
use crate::verdict::reason::{Fault, Reason};
use config::variable;
use printed::plain;
use process::{Ended, MAX_OUTPUT, Run};

/// The arguments of every run. Further words would be name filters.
pub const ARGUMENTS: [&str; 3] = ["controller", "--list", "--long"];

/// Where programs are looked up when there is no PATH.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the client at `program`, as [`find`] found it, until `deadline` at the latest.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(program: &Path, deadline: Instant) -> Result<Run, Fault> {
    let mut command = Command::new(program);
    command.args(ARGUMENTS).env("PATH", path());

    // With these, s9s prints more than the list, the password among it.
    let is_loud = |name: &OsStr| name == "S9S_VERBOSE" || name.as_bytes().starts_with(b"S9S_DEBUG");
    for (name, _) in env::vars_os().filter(|(name, _)| is_loud(name)) {
        command.env_remove(name);
    }

    // By default, s9s waits 30 seconds for a silent controller.
    if variable("S9S_CONNECTION_TIMEOUT").is_none() {
        let seconds = deadline.left().as_secs().max(1);
        command.env("S9S_CONNECTION_TIMEOUT", seconds.to_string());
    }

    // An init system gives xinetd's services no HOME, and HOME decides which s9s.conf is read.
    if let Some((home, _)) = config::home() {
        command.env("HOME", home);
    }
    process::run(command, deadline).map_err(|error| not_started(program, error))
}

fn path() -> OsString {
    variable("PATH").unwrap_or_else(|| USUAL_PATH.into())
}

/// Finds the client: a path, or a name that is looked up on PATH.
///
/// # Errors
/// [`Reason::S9sNotFound`]. A file that cannot be executed is found, too.
pub fn find(program: &Path) -> Result<PathBuf, Fault> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_path_buf());
    }
    let path = path();
    let files = || {
        let folders = env::split_paths(&path).filter(|folder| folder.is_absolute());
        folders.map(|folder| folder.join(program)).filter(|file| file.is_file())
    };
    let found = files().find(|file| access(file, AccessFlags::X_OK).is_ok());
    found
        .or_else(|| files().next())
        .ok_or_else(|| Reason::S9sNotFound.because(anyhow!("no {} in {}", program.display(), path.display())))
}

/// Why the program was not started. The kernel says ENOENT for a missing interpreter as well.
fn not_started(program: &Path, error: io::Error) -> Fault {
    let reason = match error.raw_os_error() {
        Some(libc::ENOENT) if program.is_file() => Reason::S9sNotExecutable,
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG) => Reason::S9sNotFound,
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR) => Reason::S9sNotExecutable,
        _ => Reason::S9sNotStarted,
    };
    reason.because(anyhow!(error).context(format!("cannot start {}", program.display())))
}

/// What s9s printed, without colour, if it ended well.
///
/// # Errors
/// A reason for every other end, with what s9s printed to standard error.
pub fn output<'a>(program: &Path, run: &'a Run) -> Result<Cow<'a, [u8]>, Fault> {
    let stderr = String::from_utf8_lossy(&run.stderr);
    let reason = match run.ended {
        Ended::Exited(0) => return Ok(plain(&run.stdout)),
        Ended::Exited(status) => of_exit(status, &stderr),
        // s9s wrote to a controller that had closed the connection.
        Ended::Killed(Signal::SIGPIPE) => Reason::S9sNoTls,
        Ended::Killed(_) => Reason::S9sKilled,
        Ended::TimedOut => Reason::S9sTimeout,
        Ended::TooMuchOutput => Reason::S9sTooMuchOutput,
        Ended::Unkillable(_) => Reason::Stuck,
    };
    let said = match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    Err(reason.because(anyhow!("{} {}{said}", program.display(), ending(run))))
}

/// What the controller's or the client's words mean for an exit status: 3 for the login, 2 for the listing,
/// 5 for the connection, 6 for the credentials. The words are in lower case. The first row that fits counts;
/// the last row of a status fits any words. Source: recordings of the genuine client (s9s-tools 1.9).
///
/// Their order counts where a text has the words of two rows: a licence is refused with "access denied", a database
/// with "password", and a user who is suspended is told to try again.
///
/// Only words about the user and the password are a refusal, because a refusal begins a long back-off.
const EXITS: &[(&[i32], &str, Reason)] = &[
    (&[2, 3], "licen", Reason::S9sFailed),
    (&[3], "database", Reason::S9sLoginFailed),
    (&[3], "suspended", Reason::S9sSuspended),
    (&[3], "password", Reason::S9sRefused),
    (&[2, 3], "access denied", Reason::S9sRefused),
    (&[2, 3], "redirect", Reason::S9sRedirectFailed),
    (&[2, 3], "try again", Reason::S9sTryAgain),
    (&[2, 3], "initializ", Reason::S9sTryAgain),
    (&[3], "user", Reason::S9sRefused),
    (&[3], "", Reason::S9sLoginFailed),
    (&[5], "host '", Reason::S9sNoSuchHost),
    (&[5], "connect to ", Reason::S9sNoConnection),
    (&[5], "ssl", Reason::S9sNoTls),
    (&[5], "", Reason::S9sNoConnection),
    (&[6], "configuration file", Reason::S9sConfUnreadable),
    (&[6], "no user", Reason::S9sNoUser),
    (&[6], "", Reason::S9sNoCredentials),
];

fn of_exit(status: i32, stderr: &str) -> Reason {
    let stderr = stderr.to_lowercase();
    let mut rows = EXITS.iter();
    let row = rows.find(|(exits, words, _)| exits.contains(&status) && stderr.contains(words));
    row.map_or(Reason::S9sFailed, |(.., reason)| *reason)
}

/// How a run ended, in words that can follow the program's name.
pub fn ending(run: &Run) -> String {
    let seconds = run.took.as_secs_f64();
    match run.ended {
        Ended::Exited(status) => format!("exited with status {status} after {seconds:.3} s"),
        Ended::Killed(signal) => format!("was ended by {signal} after {seconds:.3} s"),
        Ended::TimedOut => format!("was still running after {seconds:.3} s and was killed"),
        Ended::Unkillable(_) => format!("was still running after {seconds:.3} s, and SIGKILL does not end it"),
        Ended::TooMuchOutput => format!("printed more than {MAX_OUTPUT} bytes in {seconds:.3} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_its_reason() {
        for (status, stderr, code) in [
            (3, "Access denied.", "s9s-refused"),
            (3, "Whatever the login was answered.", "s9s-login-failed"),
            (3, "Could not connect to the database.", "s9s-login-failed"),
            (3, "Access to database denied for user cmon.", "s9s-login-failed"),
            (3, "No such user.", "s9s-refused"),
            (3, "No valid license found.", "s9s-failed"),
            (3, "Access denied: the licence for this user has expired.", "s9s-failed"),
            (2, "Access denied: no license.", "s9s-failed"),
            (3, "The user is suspended.", "s9s-user-suspended"),
            (3, "Please try again later.", "s9s-try-again"),
            (3, "The controller is being initialized.", "s9s-try-again"),
            (3, "Redirect notification.", "s9s-redirect-failed"),
            (2, "Whatever the listing was answered.", "s9s-failed"),
            (2, "Access denied.", "s9s-refused"),
            (2, "Please try again later.", "s9s-try-again"),
            (2, "The controller is being initialized.", "s9s-try-again"),
            (2, "Redirect notification.", "s9s-redirect-failed"),
            (2, "Invalid password for this user.", "s9s-failed"),
            (3, "Invalid username or password, please try again.", "s9s-refused"),
            (
                3,
                "The user is suspended. Please try again later.",
                "s9s-user-suspended",
            ),
            (3, "The check against the directory failed.", "s9s-login-failed"),
            (2, "Access to database denied.", "s9s-failed"),
            (2, "User suspended a job.", "s9s-failed"),
            (
                5,
                "Connect to ssl-cc1:9501 failed(111): Connection refused.",
                "s9s-no-connection",
            ),
            (
                5,
                "Connect to 127.0.0.1:9501 failed(111): Connection refused.",
                "s9s-no-connection",
            ),
            (
                5,
                "Connect to 10.0.0.1:9501 failed(111): Connection refused.",
                "s9s-no-connection",
            ),
            (5, "Anything.", "s9s-no-connection"),
            (5, "Host 'no-such-host.invalid' not found.", "s9s-no-such-host"),
            (5, "SSL handshake failed.", "s9s-no-tls"),
            (
                6,
                "Error reading user configuration file: Permission denied.",
                "s9s-conf-unreadable",
            ),
            (6, "No password and no RSA key for user system.", "s9s-no-credentials"),
            (
                6,
                "Could not load user private key: ~/.s9s/alice.key",
                "s9s-no-credentials",
            ),
            (6, "No user name set.", "s9s-no-user"),
            (1, "Anything.", "s9s-failed"),
        ] {
            assert_eq!(of_exit(status, stderr).code(), code, "{stderr}");
        }
    }
}
