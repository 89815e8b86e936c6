//! The single-flight cache: one run of s9s at a time, and its verdict for all who ask.
//!
//! Beside the lock file is one entry, `LOCK.verdict`. It is a symbolic link whose text is the [`Entry`]:
//! rename(2) replaces it in one piece, readlink(2) reads it in one call, and `ls -l` shows it. The kernel frees
//! the lock, flock(2), when its holder ends, however that happens.

pub mod backoff;
pub mod entry;
pub mod key;
pub mod reported;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::fcntl::{self, OFlag};
use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{AccessFlags, Uid, access};

use crate::cache::entry::Entry;
use crate::cache::key::key;
use crate::options::Options;
use crate::os::clock::Moment;
use crate::os::files::boot_id;
use crate::os::watchdog;
use crate::s9s::config;
use crate::verdict::Verdict;
use crate::verdict::reason::{Fault, Reason};

/// How long a check that waits for another one's verdict pauses before it looks again: at first, and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];

/// What a check gets from the cache.
#[derive(Debug)]
pub enum Turn {
    /// The verdict of another check.
    Hit(Verdict),
    /// The lock: this check runs s9s, and publishes its verdict.
    Miss(Slot),
}

/// The place for the entry, locked. Dropping it frees the lock.
#[derive(Debug)]
pub struct Slot {
    /// The cache key.
    pub key: u64,
    /// The boot id.
    pub boot: String,
    /// The entry before this one, however old.
    pub before: Option<Entry>,
    path: PathBuf,
    _lock: File,
}

/// Takes a turn: a usable entry, or the lock. It waits for either until `deadline`.
///
/// # Errors
/// [`Reason::LockUnusable`], with what is wrong with the lock file. [`Reason::LockTimeout`] where there is
/// neither before the deadline.
pub fn turn(options: &Options, deadline: Moment) -> Result<Turn, Fault> {
    let (lock_file, timeout) = (&options.lock_file, options.timeout);
    watchdog::enter("looking at", Path::new("s9s and the defaults file"));
    let boot = boot_id().map_err(|error| Reason::LockUnusable.because(error))?;
    let key = key(options, &boot);
    let usable = |entry: &Option<Entry>, limit| {
        let entry = entry.as_ref()?;
        let is_fresh = entry.key == key && entry.from.age().is_some_and(|age| age < limit);
        (is_fresh || is_paused(entry, &boot, options.backoff)).then_some(entry.verdict)
    };
    watchdog::enter("reading the verdict beside", lock_file);
    let found = entry(lock_file, None);
    if let Some(verdict) = usable(&found, options.max_age) {
        return Ok(Turn::Hit(verdict));
    }
    let unusable = |error: anyhow::Error| {
        Reason::LockUnusable.because(error.context(format!("lock file {}", lock_file.display())))
    };
    let lock = open(lock_file, true).map_err(unusable)?;
    watchdog::enter("waiting for the lock on", lock_file);
    let asked = Moment::now();
    let before = loop {
        let waited = asked.age().unwrap_or_default();
        // A run of s9s that is cut short says nothing about s9s. The next check has more time.
        let is_late = waited > timeout / 6 || deadline.left() < timeout / 2;
        let is_holder = !is_late && locked(&lock).map_err(unusable)?;
        let before = entry(lock_file, None);
        // What was published meanwhile is for all who waited. No run takes longer than the timeout.
        let limit = if before == found { options.max_age } else { timeout };
        if let Some(verdict) = usable(&before, limit) {
            return Ok(Turn::Hit(verdict));
        }
        if is_holder {
            break before;
        }
        if deadline.has_passed() {
            let why = format!("no verdict came in time beside the lock file {}", lock_file.display());
            return Err(Reason::LockTimeout.because(anyhow!(why)));
        }
        // flock(2) could wait, too, but for the lock and not for the verdict: where s9s takes longer than the
        // maximum age, newcomers would take the lock again and again before all who waited have had it.
        thread::sleep((waited / 8).clamp(LOOK[0], LOOK[1]).min(deadline.left()));
    };
    Ok(Turn::Miss(Slot {
        key,
        boot,
        before,
        path: beside(lock_file, "verdict"),
        _lock: lock,
    }))
}

/// Tries to lock the file. Returns whether this check has the lock.
fn locked(file: &File) -> Result<bool> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(anyhow!(error).context("it cannot be locked")),
        Ok(()) => Ok(true),
    }
}

/// Whether s9s must not be run, because of what this entry's run met.
fn is_paused(entry: &Entry, boot: &str, backoff: Duration) -> bool {
    match entry.pause.survivor {
        Some(survivor) => survivor.is_there(),
        None => pause_left(entry, backoff).is_some() && entry.pause.credentials == config::digest(boot),
    }
}

/// How long the entry's pause, of at most `backoff`, still lasts; None if it is over.
pub fn pause_left(entry: &Entry, backoff: Duration) -> Option<Duration> {
    let left = entry.pause.span.min(backoff).checked_sub(entry.from.age()?)?;
    (!left.is_zero()).then_some(left)
}

impl Slot {
    /// Publishes the entry, and frees the lock.
    ///
    /// # Errors
    /// The entry cannot be written. The lock is freed anyway; the other checks run s9s themselves.
    pub fn publish(self, entry: &Entry) -> Result<()> {
        replace(&self.path, &entry.encode())
            .with_context(|| format!("the verdict is not shared: cannot write {}", self.path.display()))
    }
}

/// Replaces the text of the symbolic link at `path`, in one step. The caller keeps others from doing the same.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = beside(path, "new");
    // A check that was killed here may have left it.
    let _ = fs::remove_file(&draft);
    symlink(text, &draft)?;
    fs::rename(&draft, path)
}

/// The folder of the lock file.
pub fn folder(lock_file: &Path) -> &Path {
    let folder = lock_file.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or(Path::new("."))
}

/// The path with one more extension.
pub fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// The text of the symbolic link at `path`, if it belongs to this user, or to `owner`. Text and owner are read
/// from one open link: by its path, a stranger could exchange the folder in between.
pub fn text(path: &Path, owner: Option<Uid>) -> Option<String> {
    let how = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let link = fcntl::open(path, how, Mode::empty()).ok()?;
    let text = fcntl::readlinkat(&link, "").ok()?.into_string().ok()?;
    let its_owner = Some(Uid::from_raw(fstat(&link).ok()?.st_uid));
    (its_owner == Some(Uid::effective()) || its_owner == owner).then_some(text)
}

/// The entry beside the lock file, if it belongs to this user, or to `owner`.
pub fn entry(lock_file: &Path, owner: Option<Uid>) -> Option<Entry> {
    Entry::decode(&text(&beside(lock_file, "verdict"), owner)?)
}

/// Opens the lock file, and refuses any other file in its place. With `create`, a missing file and a missing
/// folder are made, and a file of another user is replaced if its folder permits that.
///
/// # Errors
/// What is wrong with it, or with its folder.
pub fn open(path: &Path, create: bool) -> Result<File> {
    let me = Uid::effective();
    let folder = folder(path);
    if create && !folder.exists() {
        let _ = DirBuilder::new().mode(0o700).create(folder);
    }
    let owner = folder.metadata().context("its folder cannot be used")?.uid();
    // The owner of the folder could exchange the lock file at any moment.
    ensure!(
        me.is_root() || owner == me.as_raw() || owner == 0,
        "its folder belongs to user {owner} and this check runs as user {me}; run it as that user"
    );
    // Without it, neither a verdict nor a pause can be kept.
    ensure!(
        !create || access(folder, AccessFlags::W_OK).is_ok(),
        "user {me} cannot write into its folder"
    );
    // The service may have run as another user before, for example as root in the article's way.
    let is_anothers = |file: fs::Metadata| file.is_file() && file.uid() != me.as_raw();
    if create && fs::symlink_metadata(path).is_ok_and(is_anothers) {
        fs::remove_file(path).context("it belongs to another user and cannot be removed")?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        // A FIFO or a device in its place must neither block nor become the controlling terminal.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        .open(path)
        .context("it cannot be opened")?;
    let meta = file.metadata().context("it cannot be examined")?;
    ensure!(meta.is_file(), "it is not a regular file");
    let owner = meta.uid();
    ensure!(
        owner == me.as_raw(),
        "it belongs to user {owner} and this check runs as user {me}; run it as that user"
    );
    let mode = meta.mode() & 0o7777;
    // Everybody who can read it can lock it, for as long as they like.
    ensure!(mode & 0o066 == 0, "other users can open it (mode {mode:04o})");
    Ok(file)
}
