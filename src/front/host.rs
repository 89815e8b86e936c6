//! Commands, files and services of this host, and what a run changes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use crate::failure::{Failure, Outcome, complain, fail};
use crate::options::Action;

/// Where programs are, whatever the caller's own path.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The folder of this program's own notes about what services have read.
pub const NOTES: &str = "/run/cmonhachk-front";

/// A run: whether it may change anything, what it has changed, and what it has found wrong.
#[derive(Debug)]
pub struct Run {
    /// Whether it only shows what would change.
    pub dry_run: bool,
    changes: u32,
    /// What is wrong, although the run goes on.
    pub complaints: Vec<String>,
}

impl Run {
    /// A run that has not begun.
    pub fn new(dry_run: bool) -> Run {
        Run {
            dry_run,
            changes: 0,
            complaints: Vec::new(),
        }
    }

    /// Says a change. Returns whether it is to be made.
    pub fn change(&mut self, what: &str) -> bool {
        println!("{what}");
        self.changes += 1;
        !self.dry_run
    }

    /// Says that a service starts, or reloads if it runs. Returns systemctl's verb if that is to be done.
    pub fn start_or_reload(&mut self, service: &str, runs: bool) -> Option<&'static str> {
        let (verb, says) = match runs {
            true => ("reload", "Reloads"),
            false => ("start", "Starts"),
        };
        self.change(&format!("{says} {service}")).then_some(verb)
    }

    /// Notes what is wrong.
    pub fn complain(&mut self, what: impl Into<String>) {
        self.complaints.push(what.into());
    }

    /// Whether anything was changed.
    pub fn has_changed(&self) -> bool {
        self.changes > 0
    }

    /// Says how it went. The status is 0 if nothing is wrong.
    pub fn end(self, action: Action) -> ExitCode {
        if self.dry_run {
            println!("This was a dry run: nothing was changed.");
        }
        if !self.complaints.is_empty() {
            complain(&self.complaints);
            return ExitCode::FAILURE;
        }
        if !self.has_changed() && action != Action::Status {
            println!("Nothing had to be changed.");
        }
        ExitCode::SUCCESS
    }
}

/// What a command said, and whether it succeeded.
#[derive(Debug)]
pub struct Said {
    /// Its output.
    pub output: String,
    /// What it said on standard error.
    pub errors: String,
    /// Whether it succeeded.
    pub succeeded: bool,
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(program: &str, arguments: &[&str]) -> Said {
    match command(program).args(arguments).output() {
        Ok(output) => Said {
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            succeeded: output.status.success(),
        },
        Err(error) => Said {
            output: String::new(),
            errors: format!("{program}: {error}"),
            succeeded: false,
        },
    }
}

/// Whether a command succeeds. What it says is the operator's.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    command(program)
        .args(arguments)
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    PATH.split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// Whether this is root.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Waits a moment before the next try.
pub fn pause() {
    thread::sleep(Duration::from_millis(200));
}

/// Tries until there is a result, or the time is up.
pub fn within<T>(time: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let result = attempt();
        if result.is_some() || start.elapsed() >= time {
            return result;
        }
        pause();
    }
}

/// The text of a file; None if it cannot be read.
pub fn text_of(path: &str) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// Whether there is such a file.
pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// Gives a file this text in one step, unless it has it. It keeps its owner, its mode and its place behind a symbolic
/// link. Returns whether it differed.
pub fn put(run: &mut Run, path: &str, text: impl AsRef<[u8]>) -> Outcome<bool> {
    let text = text.as_ref();
    if fs::read(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    if run.change(&format!("Writes {path}")) {
        replace(path, text).map_err(|error| Failure::of(format!("cannot write {path}: {error}")))?;
    } else {
        show_difference(path, text);
    }
    Ok(true)
}

fn replace(path: &str, text: &[u8]) -> std::io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    let folder = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!(
        ".{}.{}",
        target.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let result = write_draft(&target, &draft, text).and_then(|()| fs::rename(&draft, &target));
    if result.is_err() {
        let _ = fs::remove_file(&draft);
    }
    result
}

/// cp keeps all that a file has beside its text: owner, mode, access list, label.
fn write_draft(target: &Path, draft: &Path, text: &[u8]) -> std::io::Result<()> {
    if target.exists() {
        let copied = command("cp").arg("--preserve=all").arg(target).arg(draft).status()?;
        if !copied.success() {
            return Err(std::io::Error::other("its owner and mode cannot be kept"));
        }
        fs::write(draft, text)
    } else {
        fs::write(draft, text)?;
        fs::set_permissions(draft, fs::Permissions::from_mode(0o644))
    }
}

fn show_difference(path: &str, text: &[u8]) {
    let diff = command("diff").args(["-uN", path, "-"]).stdin(Stdio::piped()).spawn();
    let Ok(mut diff) = diff else { return };
    if let Some(mut input) = diff.stdin.take() {
        let _ = input.write_all(text);
    }
    let _ = diff.wait();
}

/// Writes a file of our own.
pub fn write(path: &str, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(|error| Failure::of(format!("cannot write {path}: {error}")))
}

/// Removes a file, if it is there.
pub fn remove_file(path: &str) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => fail(format!("cannot remove {path}: {error}")),
        _ => Ok(()),
    }
}

/// Notes that a service has read its configuration as it is now.
pub fn note_read(service: &str) {
    // Without the note, the next run only reloads once more.
    let _ = fs::create_dir_all(NOTES).and_then(|()| fs::write(format!("{NOTES}/{service}.read"), ""));
}

/// Whether a service has been told to read this file since the file changed.
pub fn has_read(service: &str, file: &str) -> bool {
    let changed = |path: &str| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let note = changed(&format!("{NOTES}/{service}.read"));
    if note.is_some() && note > changed(file) {
        return true;
    }
    let started = property(service, "ExecMainStartTimestamp");
    let newer = run("find", &[file, "-newermt", &started]);
    newer.succeeded && newer.output.is_empty()
}

/// A property of a unit.
pub fn property(unit: &str, name: &str) -> String {
    let said = run("systemctl", &["show", "--property", name, "--value", unit]);
    said.output.trim().to_string()
}

/// Makes systemctl do this with a unit.
///
/// # Errors
/// It does not.
pub fn control(unit: &str, arguments: &[&str]) -> Outcome<()> {
    match succeeds("systemctl", &[arguments, &[unit]].concat()) {
        true => Ok(()),
        false => fail(format!(
            "systemctl {} {unit} fails: see journalctl --unit {unit}",
            arguments.join(" ")
        )),
    }
}

/// Whether a unit runs.
pub fn is_active(unit: &str) -> bool {
    run("systemctl", &["is-active", "--quiet", unit]).succeeded
}

/// Whether a unit is enabled.
pub fn is_enabled(unit: &str) -> bool {
    run("systemctl", &["is-enabled", "--quiet", unit]).succeeded
}

/// Whether a unit is masked.
pub fn is_masked(unit: &str) -> bool {
    run("systemctl", &["is-enabled", unit]).output.starts_with("masked")
}

/// Enables a unit.
pub fn enable(run: &mut Run, unit: &str) -> Outcome<()> {
    match !is_enabled(unit) && run.change(&format!("Enables {unit}")) {
        true => control(unit, &["--quiet", "enable"]),
        false => Ok(()),
    }
}

/// The lines of `said` that are not in `before`.
pub fn new_lines(said: &str, before: &str) -> String {
    let known: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = said.lines().filter(|line| !known.contains(line)).collect();
    new.join("\n")
}
