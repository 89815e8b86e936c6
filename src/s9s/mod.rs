//! What is known of s9s: how it is found and run, and what each way to end means.

pub mod config;
pub mod process;

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, access};

use crate::os::clock::Moment;
use crate::os::files::variable;
use crate::s9s::process::{Ended, MAX_OUTPUT, NotStarted, Run};
use crate::verdict::reason::{Fault, Reason};

/// The arguments of every run. Further words would be name filters.
pub const ARGUMENTS: [&str; 3] = ["controller", "--list", "--long"];

/// Where programs are looked up when there is no PATH.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the client at `program`, as [`find`] found it, until `deadline` at the latest.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(program: &Path, deadline: Moment) -> Result<Run, Fault> {
    // With these, s9s prints more than the list, the password among it.
    let is_loud = |name: &OsString| name == "S9S_VERBOSE" || name.as_bytes().starts_with(b"S9S_DEBUG");
    let mut environment: BTreeMap<_, _> = env::vars_os().filter(|(name, _)| !is_loud(name)).collect();
    environment.insert("PATH".into(), path());
    // By default, s9s waits 30 seconds for a silent controller.
    if variable("S9S_CONNECTION_TIMEOUT").is_none() {
        let seconds = deadline.left().as_secs().max(1);
        environment.insert("S9S_CONNECTION_TIMEOUT".into(), seconds.to_string().into());
    }
    // An init system gives xinetd's services no HOME, and HOME decides which s9s.conf is read.
    if let Some((home, _)) = config::home() {
        environment.insert("HOME".into(), home);
    }
    let text = |text: &OsStr| CString::new(text.as_bytes()).expect("no argument and no variable holds a NUL");
    let mut words = vec![text(program.as_os_str())];
    words.extend(ARGUMENTS.map(OsStr::new).map(text));
    let variable = |(name, value): (OsString, OsString)| text(&[name, value].join(OsStr::new("=")));
    let variables: Vec<_> = environment.into_iter().map(variable).collect();
    process::run(&words, &variables, deadline).map_err(|why| not_started(program, why))
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
fn not_started(program: &Path, why: NotStarted) -> Fault {
    use NotStarted::{Before, Execution};
    let reason = match why {
        Execution(Errno::ENOENT) if program.is_file() => Reason::S9sNotExecutable,
        Execution(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => Reason::S9sNotFound,
        Execution(Errno::EACCES | Errno::EPERM | Errno::ENOEXEC | Errno::EISDIR) => Reason::S9sNotExecutable,
        _ => Reason::S9sNotStarted,
    };
    let (what, errno) = match why {
        Before(errno) => ("make a process for", errno),
        Execution(errno) => ("execute", errno),
    };
    reason.because(anyhow!(io::Error::from(errno)).context(format!("cannot {what} {}", program.display())))
}

/// What s9s printed, if it ended well.
///
/// # Errors
/// A reason for every other end, with what s9s printed to standard error.
pub fn output<'a>(program: &Path, run: &'a Run) -> Result<&'a [u8], Fault> {
    let stderr = String::from_utf8_lossy(&run.stderr);
    let reason = match run.ended {
        Ended::Exited(0) => return Ok(&run.stdout),
        Ended::Exited(status) => of_exit(status, &stderr),
        // s9s wrote to a controller that had closed the connection.
        Ended::Killed(Signal::SIGPIPE) => Reason::S9sNoTls,
        Ended::Killed(_) => Reason::S9sKilled,
        Ended::TimedOut => Reason::S9sTimeout,
        Ended::TooMuchOutput => Reason::S9sTooMuchOutput,
        Ended::Survived(_) => Reason::Stuck,
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
/// Only words about the user and the password are a refusal, because a refusal begins a long pause.
const EXITS: [(&[i32], &str, Reason); 17] = [
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
    let mut rows = EXITS.into_iter();
    let row = rows.find(|(exits, words, _)| exits.contains(&status) && stderr.contains(words));
    row.map_or(Reason::S9sFailed, |(.., reason)| reason)
}

/// How a run ended, in words that can follow the program's name.
pub fn ending(run: &Run) -> String {
    let seconds = run.took.as_secs_f64();
    match run.ended {
        Ended::Exited(status) => format!("exited with status {status} after {seconds:.3} s"),
        Ended::Killed(signal) => format!("was ended by {signal} after {seconds:.3} s"),
        Ended::TimedOut => format!("was still running after {seconds:.3} s and was killed"),
        Ended::Survived(_) => format!("was still running after {seconds:.3} s, and SIGKILL does not end it"),
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
