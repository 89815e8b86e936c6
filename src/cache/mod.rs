//! What do checks share? One run of s9s at a time, and its verdict for all who ask.
//!
//! It is a single-flight cache. Beside the lock file is one [`Entry`], in the symbolic link `LOCK.verdict`, and what
//! was reported last, in `LOCK.reported`.

pub mod backoff;
pub mod entry;
mod key;
mod link;
mod lock;
mod reported;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::unistd::{AccessFlags, Uid, access};

use crate::options::Options;
use crate::os::clock::Instant;
use crate::os::files::is_missing;
use crate::os::proc::{BOOT_ID, boot_id};
use crate::os::watchdog;
use crate::s9s::process::Run;
use crate::verdict::reason::{Fault, Reason};
use crate::verdict::{Measured, Verdict};
use backoff::BackOff;
use entry::Entry;
pub use reported::log_change;

/// The shortest and the longest poll interval of a check that waits for another check's verdict.
const POLL: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];

/// How long a check that has waited for this time waits until it looks again.
fn poll_interval(waited: Duration) -> Duration {
    (waited / 8).clamp(POLL[0], POLL[1])
}

/// What checks with these options share.
#[derive(Debug)]
pub struct Store<'a> {
    options: &'a Options,
}

/// What a check gets from the store.
#[derive(Debug)]
pub enum LookUp {
    /// The entry of another check.
    Hit(Entry),
    /// The lock: this check runs s9s, and publishes its verdict.
    Miss(Lease),
}

/// The place for the entry, locked. Dropping it frees the lock.
#[derive(Debug)]
pub struct Lease {
    key: u64,
    before: Option<Entry>,
    max_backoff: Duration,
    path: PathBuf,
    _lock: File,
}

impl<'a> Store<'a> {
    /// Opens the store, and makes its folder if it is missing.
    ///
    /// # Errors
    /// [`Reason::LockUnusable`]: another user could change what is in the folder of the lock file.
    pub fn open(options: &'a Options) -> Result<Store<'a>, Fault> {
        let store = Store { options };
        let lock_file = store.lock_file();
        watchdog::enter("looking at the folder of", lock_file);
        lock::make_folder(lock_file).map_err(|error| store.unusable(error))?;
        Ok(store)
    }

    /// A usable entry, or the lock. It waits for either until `deadline`.
    ///
    /// # Errors
    /// [`Reason::LockUnusable`], with what is wrong with the lock file. [`Reason::LockTimeout`] where there is
    /// neither before the deadline.
    pub fn look_up(&self, deadline: Instant) -> Result<LookUp, Fault> {
        let key = self.key()?;
        watchdog::enter("reading the verdict beside", self.lock_file());
        let found = self.entry();
        if let Some(entry) = self.usable(found.as_ref(), key, self.options.max_age) {
            return Ok(LookUp::Hit(entry));
        }
        let lock = lock::open(self.lock_file()).map_err(|error| self.unusable(error))?;
        watchdog::enter("waiting for the lock on", self.lock_file());
        let asked = Instant::now();
        loop {
            // s9s does not start with too little time: its timeout would say nothing about it.
            let has_time = deadline.left() >= self.options.timeout / 2;
            let is_holder = has_time && lock::try_lock(&lock).map_err(|error| self.unusable(error))?;
            let entry = self.entry();
            // What was published meanwhile is for all who waited. No run takes longer than the timeout.
            let max_age = match entry == found {
                true => self.options.max_age,
                false => self.options.timeout,
            };
            if let Some(entry) = self.usable(entry.as_ref(), key, max_age) {
                return Ok(LookUp::Hit(entry));
            }
            if is_holder {
                return Ok(LookUp::Miss(Lease {
                    key,
                    before: entry,
                    max_backoff: self.options.backoff,
                    path: link::beside(self.lock_file(), "verdict"),
                    _lock: lock,
                }));
            }
            if deadline.has_passed() {
                let why = format!(
                    "no verdict came in time beside the lock file {}",
                    self.lock_file().display()
                );
                return Err(Reason::LockTimeout.because(anyhow!(why)));
            }
            // flock(2) could wait, too, but for the lock and not for the verdict: where s9s takes longer than the
            // maximum age, newcomers would take the lock again and again before all who waited have had it.
            let waited = asked.age().unwrap_or_default();
            thread::sleep(poll_interval(waited).min(deadline.left()));
        }
    }

    /// Records that `verdict` is reported to a client. Logs a change, with the detail behind it.
    pub fn report(&self, verdict: Verdict, detail: &str) {
        reported::report(self.lock_file(), verdict, detail);
    }

    /// What is measured of an entry now, but for the limit of a run.
    pub fn measured(&self, entry: &Entry) -> Measured {
        let back_off = match self.left_of_backoff(entry) {
            None => Duration::ZERO,
            Some(LeftOfBackOff::Time(left)) => left,
            Some(LeftOfBackOff::Process(_)) => Duration::MAX,
        };
        Measured {
            age: entry.from.age(),
            took: entry.took,
            limit: None,
            back_off: Some(back_off),
        }
    }

    fn lock_file(&self) -> &Path {
        &self.options.lock_file
    }

    fn key(&self) -> Result<u64, Fault> {
        watchdog::enter("looking at", Path::new("s9s, its configuration and the defaults file"));
        let boot = boot_id().with_context(|| format!("without {BOOT_ID}, no verdict can be dated"));
        let boot = boot.map_err(|error| Reason::LockUnusable.because(error))?;
        Ok(key::key(self.options, &boot))
    }

    fn entry(&self) -> Option<Entry> {
        Entry::decode(&link::read(&link::beside(self.lock_file(), "verdict"))?)
    }

    /// The entry, if this check can use it: it is younger than `max_age`, or s9s must not be run.
    fn usable(&self, entry: Option<&Entry>, key: u64, max_age: Duration) -> Option<Entry> {
        let entry = entry?;
        let is_fresh = || entry.from.age().is_some_and(|age| age < max_age);
        let is_ours = entry.key == key && (is_fresh() || self.left_of_span(entry).is_some());
        (is_ours || entry.back_off.is_unkillable_there()).then(|| entry.clone())
    }

    /// How long the back-off of this entry still lasts; None if it is over.
    fn left_of_backoff(&self, entry: &Entry) -> Option<LeftOfBackOff> {
        match entry.back_off.unkillable {
            Some(process) => process.is_there().then_some(LeftOfBackOff::Process(process.pid)),
            None => self.left_of_span(entry).map(LeftOfBackOff::Time),
        }
    }

    fn left_of_span(&self, entry: &Entry) -> Option<Duration> {
        let span = entry.back_off.span.min(self.options.backoff);
        let left = span.checked_sub(entry.from.age()?)?;
        (!left.is_zero()).then_some(left)
    }

    fn unusable(&self, error: anyhow::Error) -> Fault {
        Reason::LockUnusable.because(error.context(format!("lock file {}", self.lock_file().display())))
    }
}

impl Lease {
    /// The entry for a check that began at `from`, and whose run of s9s, if there was one, led to `verdict`.
    pub fn entry(&self, from: Instant, verdict: Verdict, run: Option<&Run>) -> Entry {
        let before = self.before.as_ref().filter(|entry| entry.key == self.key);
        let before = before.map(|entry| (entry.verdict, entry.back_off));
        Entry {
            key: self.key,
            from,
            took: run.map(|run| run.took),
            back_off: BackOff::after(verdict, run.map(|run| run.ended), before, self.max_backoff),
            verdict,
        }
    }

    /// Publishes the entry, and frees the lock.
    ///
    /// # Errors
    /// The entry cannot be written. The lock is freed anyway; the other checks run s9s themselves.
    pub fn publish(self, entry: &Entry) -> Result<()> {
        link::replace(&self.path, &entry.encode())
            .with_context(|| format!("the verdict is not shared: cannot write {}", self.path.display()))
    }
}

/// What is beside the lock file, for a person. Reading it changes nothing.
#[derive(Debug)]
pub struct Contents {
    /// Whether the service's checks can use the lock file.
    pub lock: LockState,
    /// The entry, and its age.
    pub entry: Option<(Entry, Duration)>,
    /// How long the entry's back-off still lasts, or that its process is still there.
    pub back_off: Option<LeftOfBackOff>,
    /// The verdict that was reported last.
    pub reported: Option<Verdict>,
}

/// What can be seen of the lock file.
#[derive(Debug)]
pub enum LockState {
    /// This user's checks can use it.
    Usable,
    /// It is not there yet.
    Missing,
    /// The folder is that of another user, whose checks may be able to use it.
    OfUser(u32),
    /// The folder is that of another user, and this one may not look into it.
    Closed(u32),
    /// No check of this user can use it.
    Unusable(anyhow::Error),
}

/// Why s9s is not run.
#[derive(Clone, Copy, Debug)]
pub enum LeftOfBackOff {
    /// For this time.
    Time(Duration),
    /// While this process is there.
    Process(i32),
}

/// Looks at the store of these options as it is.
pub fn inspect(options: &Options) -> Contents {
    let store = Store { options };
    watchdog::enter("reading the verdict beside", store.lock_file());
    let entry = store.entry().and_then(|entry| {
        let age = entry.from.age()?;
        Some((entry, age))
    });
    Contents {
        lock: lock_state(store.lock_file()),
        back_off: entry.as_ref().and_then(|(entry, _)| store.left_of_backoff(entry)),
        entry,
        reported: reported::last(store.lock_file()),
    }
}

fn lock_state(lock_file: &Path) -> LockState {
    let folder = match fs::metadata(lock::folder(lock_file)) {
        Ok(folder) => folder,
        Err(error) if is_missing(&error) => return LockState::Missing,
        Err(error) => return LockState::Unusable(anyhow!(error).context("its folder cannot be used")),
    };
    if Uid::from_raw(folder.uid()) != Uid::effective() {
        return match access(lock::folder(lock_file), AccessFlags::X_OK) {
            Ok(()) => LockState::OfUser(folder.uid()),
            Err(_) => LockState::Closed(folder.uid()),
        };
    }
    if let Err(error) = lock::trust_folder(lock_file) {
        return LockState::Unusable(error);
    }
    match fs::symlink_metadata(lock_file) {
        Ok(file) if !file.is_file() => LockState::Unusable(anyhow!("it is not a regular file")),
        Ok(_) => LockState::Usable,
        Err(error) if is_missing(&error) => LockState::Missing,
        Err(error) => LockState::Unusable(anyhow!(error).context("it cannot be examined")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_looks_less_often_the_longer_it_waits() {
        let after = |millis| poll_interval(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 40, 80, 200, 1000].map(after), [5, 5, 10, 25, 25]);
    }
}
