//! Whose turn it is: the lock that lets one check at a time run s9s, and the verdict that the
//! others share.
//!
//! The lock is the kernel's (flock(2)): it goes with the process that holds it, however that ends.
//! The verdict lies in the locked file as a [`Record`]. It is read without the lock, which is safe
//! because a record is believed only whole, and written under it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, c_int};
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction, signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Uid;

use crate::deadline::Deadline;
use crate::record::{self, Record};
use crate::verdict::Verdict;

/// What a check that comes to the lock may do.
#[derive(Debug)]
pub enum Turn {
    /// Give this verdict: another check has just reached it.
    Shared(Verdict),
    /// Run s9s, alone, and hand over the verdict.
    Ours(Guard),
    /// Run s9s without a guard: the lock file cannot be used, for this reason.
    Unguarded(anyhow::Error),
    /// Give up: the lock was not free before the deadline.
    Late,
}

/// Which verdicts a check is content with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One that still counts, or that was reached after the check came to the lock.
    Allowed,
    /// None but its own.
    Nothing,
}

/// The held lock. Dropping it frees the lock.
#[derive(Debug)]
pub struct Guard {
    file: Flock<File>,
    boot: String,
    question: u64,
    before: Option<Verdict>,
}

/// The verdict on `question` that the lock file at `path` holds, if it still counts.
///
/// For a check that knows no more than what it was asked: whoever left this verdict was asked the
/// same, so was told the same of how long it counts.
pub fn shared(path: &Path, question: u64) -> Option<Verdict> {
    let file = open(OpenOptions::new().read(true), path).ok()?;
    let record = last_record(&file).filter(|record| record.question == question)?;
    let counts = record.boot == boot_id().ok()? && record.counts_at(since_boot());
    counts.then_some(record.verdict)
}

/// Comes to the lock file at `path` for a turn; waits for it until `deadline`. `question` is a
/// digest of what the check asks: a verdict on another question is not shared.
pub fn turn(path: &Path, question: u64, sharing: Sharing, deadline: Deadline) -> Turn {
    take_turn(path, question, sharing, deadline)
        .unwrap_or_else(|error| Turn::Unguarded(error.context(format!("lock file {}", path.display()))))
}

fn take_turn(path: &Path, question: u64, sharing: Sharing, deadline: Deadline) -> Result<Turn> {
    let arrived = since_boot();
    examine_folder(path)?;
    let file = open(OpenOptions::new().read(true).write(true).create(true), path)?;
    let boot = boot_id()?;
    let shared = |record: &Option<Record>| {
        let record = record
            .as_ref()
            .filter(|record| sharing == Sharing::Allowed && record.boot == boot && record.question == question)?;
        let now = since_boot();
        let wanted = record.counts_at(now) || (arrived..=now).contains(&record.at);
        wanted.then_some(Turn::Shared(record.verdict))
    };
    if let Some(turn) = shared(&last_record(&file)) {
        return Ok(turn);
    }
    let Some(file) = lock(file, deadline)? else {
        return Ok(Turn::Late);
    };
    // Read again: whoever held the lock may have reached a verdict since.
    let record = last_record(&file);
    Ok(shared(&record).unwrap_or_else(|| {
        let before = record.map(|record| record.verdict);
        Turn::Ours(Guard {
            file,
            boot,
            question,
            before,
        })
    }))
}

impl Guard {
    /// The verdict before this one, however old and on whatever question.
    pub fn before(&self) -> Option<Verdict> {
        self.before
    }

    /// Leaves `verdict` to the others, to be given again until it is `max_age` old, and frees the
    /// lock.
    ///
    /// # Errors
    /// The file cannot be written. The lock is free all the same; the others run s9s themselves.
    pub fn hand_over(self, verdict: Verdict, max_age: Duration) -> Result<()> {
        let Guard {
            file, boot, question, ..
        } = self;
        let at = since_boot();
        let record = Record {
            boot,
            at,
            until: at.saturating_add(nanos(max_age)),
            question,
            verdict,
        };
        // A limit on the size of files must be an error here and not the end of this process.
        // SAFETY: ignoring a signal runs nothing at any moment.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        file.write_all_at(&record.encode(), 0)
            .context("the verdict cannot be written to the lock file, so others cannot share it")
    }
}

/// Opens the lock file and refuses whatever somebody else may have put there.
fn open(how: &mut OpenOptions, path: &Path) -> Result<File> {
    let file = how
        .mode(0o600)
        // A FIFO or a device in its place must neither block nor become our terminal.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP) => anyhow!("it is a symbolic link"),
            _ => anyhow!(error).context("it cannot be opened"),
        })?;
    let meta = file.metadata().context("it cannot be examined")?;
    let (owner, me) = (meta.uid(), Uid::effective().as_raw());
    ensure!(meta.is_file(), "it is no regular file");
    ensure!(
        owner == me,
        "it belongs to user {owner} and this check runs as user {me}; run it as that user"
    );
    ensure!(meta.nlink() <= 1, "it has {} hard links", meta.nlink());
    let mode = meta.permissions().mode() & 0o7777;
    ensure!(mode & 0o022 == 0, "others may write to it (mode {mode:04o})");
    ensure!(
        meta.len() <= record::LEN as u64,
        "it holds {} bytes, more than a verdict has: is it another program's file?",
        meta.len()
    );
    Ok(file)
}

/// Refuses a folder of somebody else's: a file that root left there would lock its user out.
fn examine_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let (keeper, me) = (
        folder.metadata().context("its folder cannot be examined")?.uid(),
        Uid::effective().as_raw(),
    );
    ensure!(
        keeper == me || keeper == 0,
        "its folder belongs to user {keeper} and this check runs as user {me}; run it as that user"
    );
    Ok(())
}

/// The file's record. Content that is no record is none.
fn last_record(file: &File) -> Option<Record> {
    let mut line = [0; record::LEN];
    file.read_exact_at(&mut line, 0).ok()?;
    Record::decode(&line)
}

/// Waits for the exclusive lock. None: it was not free before the deadline.
fn lock(file: File, deadline: Deadline) -> Result<Option<Flock<File>>> {
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => return Ok(Some(locked)),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(anyhow!(errno).context("it cannot be locked")),
    };
    // flock(2) has no deadline of its own, so a timer's signal interrupts it. The timer repeats,
    // lest its one signal come just before the call.
    let _alarm = alarm(deadline).context("the timer for the lock cannot be set")?;
    while !deadline.passed() {
        file = match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(locked) => return Ok(Some(locked)),
            Err((file, Errno::EINTR)) => file,
            Err((_, errno)) => return Err(anyhow!(errno).context("it cannot be locked")),
        };
    }
    Ok(None)
}

/// A SIGALRM at the deadline and every 10 ms after it, until the timer is dropped.
fn alarm(deadline: Deadline) -> nix::Result<Timer> {
    extern "C" fn interrupt(_: c_int) {}
    let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing at all, so it is safe at any moment.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGALRM);
    signals.thread_unblock()?;
    let event = SigEvent::new(SigevNotify::SigevSignal {
        signal: Signal::SIGALRM,
        si_value: 0,
    });
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event)?;
    let first = deadline.left().max(Duration::from_nanos(1));
    timer.set(
        Expiration::IntervalDelayed(first.into(), Duration::from_millis(10).into()),
        TimerSetTimeFlags::empty(),
    )?;
    Ok(timer)
}

/// Nanoseconds since boot, on the clock that neither steps nor stops in suspend.
fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    nanos(now.into())
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("584 years of nanoseconds fit")
}

/// Tells this boot's clock from another's. Source: proc(5), /proc/sys/kernel/random/boot_id.
fn boot_id() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let mut text = [0; 64];
    let length = File::open(FILE)
        .and_then(|mut file| file.read(&mut text))
        .with_context(|| format!("the time in it means nothing without {FILE}"))?;
    let id = String::from_utf8_lossy(text[..length].trim_ascii_end());
    ensure!(id.len() == 36 && !id.contains(' '), "{FILE} holds no boot id: {id:?}");
    Ok(id.to_string())
}
