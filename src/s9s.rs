//! What is known of s9s: how it is found and run, and what its ends mean.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::anyhow;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, access};

use crate::deadline::Deadline;
use crate::machine;
use crate::process::{self, Ended, Run};
use crate::reason::{Fault, Reason};

/// The arguments of every run. Further words would be name filters.
pub const ARGUMENTS: [&str; 3] = ["controller", "--list", "--long"];

/// How much is kept of what s9s prints to either stream, in bytes: a list of 10,000 controllers.
pub const MAX_OUTPUT: usize = 1024 * 1024;

/// Where programs are looked up when there is no PATH.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the client at `program`, as [`find`] found it, until `deadline` at the latest.
///
/// # Errors
/// It could not be started. Everything after that is in the [`Run`].
pub fn run(program: &Path, deadline: Deadline) -> Result<Run, Fault> {
    let mut command = Command::new(program);
    command.args(ARGUMENTS).envs(environment(deadline));
    process::run(&mut command, MAX_OUTPUT, deadline).map_err(|error| not_started(program, error))
}

/// Finds the client: a path, or a name that is looked up on PATH.
///
/// # Errors
/// [`Reason::S9sNotFound`] or [`Reason::S9sNotExecutable`].
pub fn find(program: &Path) -> Result<PathBuf, Fault> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_path_buf());
    }
    let path = set("PATH").unwrap_or_else(|| USUAL_PATH.into());
    let candidates: Vec<PathBuf> = env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .filter(|candidate| candidate.is_file())
        .collect();
    let executable = candidates
        .iter()
        .find(|candidate| access(*candidate, AccessFlags::X_OK).is_ok());
    match (executable, candidates.first()) {
        (Some(found), _) => Ok(found.clone()),
        (None, Some(found)) => {
            Err(Reason::S9sNotExecutable.because(anyhow!("{} may not be executed", found.display())))
        }
        (None, None) => {
            Err(Reason::S9sNotFound.because(anyhow!("no {} in {}", program.display(), path.to_string_lossy())))
        }
    }
}

/// What s9s cannot do without, where the environment lacks it. An init system gives xinetd's
/// services no HOME, and HOME decides which s9s.conf is read. s9s waits 30 seconds for a silent
/// controller unless it is told otherwise.
fn environment(deadline: Deadline) -> Vec<(&'static str, OsString)> {
    let home = || machine::home_of(Uid::effective());
    let patience = || Some(deadline.left().as_secs().max(1).to_string().into());
    let defaults: [(&str, &dyn Fn() -> Option<OsString>); 3] = [
        ("PATH", &|| Some(USUAL_PATH.into())),
        ("HOME", &home),
        ("S9S_CONNECTION_TIMEOUT", &patience),
    ];
    let missing = defaults.into_iter().filter(|(name, _)| set(name).is_none());
    missing.filter_map(|(name, value)| Some((name, value()?))).collect()
}

/// The value of an environment variable that is not empty.
fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Why the program could not be executed. The kernel says ENOENT for a missing interpreter as well.
fn not_started(program: &Path, error: io::Error) -> Fault {
    let reason = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) if program.is_file() => Reason::S9sNotExecutable,
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => Reason::S9sNotFound,
        Some(Errno::EACCES | Errno::EPERM | Errno::ENOEXEC | Errno::EISDIR) => Reason::S9sNotExecutable,
        _ => Reason::S9sNotStarted,
    };
    reason.because(anyhow!(error).context(format!("cannot execute {}", program.display())))
}

/// What s9s printed, if it ended well.
///
/// # Errors
/// A reason for every other end, with what s9s printed to standard error.
pub fn output<'a>(program: &Path, run: &'a Run) -> Result<&'a [u8], Fault> {
    let stderr = String::from_utf8_lossy(&run.stderr);
    let reason = match run.ended {
        Ended::Exited(0) => return Ok(&run.stdout),
        Ended::Exited(status) => of_exit(status),
        Ended::Killed(_) => Reason::S9sKilled,
        Ended::TimedOut => Reason::S9sTimeout,
        Ended::TooMuchOutput => Reason::S9sTooMuchOutput,
    };
    let said = match stderr.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    Err(reason.because(anyhow!("{} {}{said}", program.display(), ending(run))))
}

/// The meaning of an exit status, measured on the genuine client.
fn of_exit(status: i32) -> Reason {
    match status {
        2 => Reason::S9sRedirectFailed,
        3 => Reason::S9sRefused,
        5 => Reason::S9sNoConnection,
        6 => Reason::S9sNoUser,
        _ => Reason::S9sFailed,
    }
}

/// How a run ended, in words that follow the program's name.
pub fn ending(run: &Run) -> String {
    let seconds = run.took.as_secs_f64();
    match run.ended {
        Ended::Exited(status) => format!("exited with status {status} after {seconds:.3} s"),
        Ended::Killed(signal) => format!("was ended by {signal} after {seconds:.3} s"),
        Ended::TimedOut => format!("was still running after {seconds:.3} s and was killed"),
        Ended::TooMuchOutput => format!("printed more than {MAX_OUTPUT} bytes and was killed after {seconds:.3} s"),
    }
}
