//! The single-flight cache: one run of s9s at a time for each key, and its verdict for all who ask.
//!
//! For each key there is an entry beside the lock file, `LOCK.KEY`. It is a symbolic link whose text is
//! the [`Entry`]: rename(2) replaces it in one piece, readlink(2) reads it in one call, and `ls -l`
//! shows it. The lock of a key is the byte at the key's offset in the lock file (fcntl(2)): the
//! kernel frees it when its holder ends, however that happens.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::fcntl::{self, FcntlArg, OFlag};
use nix::libc::{self, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::Uid;

use crate::conf;
use crate::deadline::since_boot;
use crate::entry::{Entry, Hold};
use crate::guard::{Guard, Stage};
use crate::machine::boot_id;
use crate::reason::Reason;
use crate::verdict::Verdict;

/// The longest time that options allow. Entries that are older are removed.
pub const MAX_AGE: Duration = Duration::from_secs(3600);

/// How a lock file that is not empty begins: earlier versions kept their verdict in it.
const OURS: &[u8] = b"cmonhachk";

/// What a check asks of the cache.
pub struct Query<'a> {
    /// The lock file.
    pub lock_file: &'a Path,
    /// What is created if the lock file is missing.
    pub missing: Missing,
    /// What decides the verdict.
    pub key: u64,
    /// How old an entry may be.
    pub max_age: Duration,
    /// How old an entry may be for a check that waited for the lock: no run takes longer.
    pub timeout: Duration,
    /// The longest time for which a hold counts.
    pub backoff: Duration,
    /// Whether maintenance is on. Then only an entry of maintenance is usable, otherwise only the others.
    pub maintenance: bool,
}

impl Query<'_> {
    /// Whether the entry may be used: it is younger than `limit`, or its hold is not over.
    fn allows(&self, entry: &Entry, limit: Duration) -> bool {
        let hold = entry.hold.filter(|hold| hold.credentials == conf::digest());
        let limit = hold.map_or(limit, |hold| limit.max(hold.span.min(self.backoff)));
        let is_maintenance = entry.verdict == Verdict::Unknown(Reason::Maintenance);
        is_maintenance == self.maintenance && entry.age(since_boot()).is_some_and(|age| age < limit)
    }
}

/// What is created if the lock file is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The file, and its folder if that is missing, too.
    FolderIsMade,
    /// The file, if its folder is there.
    FileIsMade,
    /// Nothing.
    IsLeft,
}

/// What a check gets from the cache.
#[derive(Debug)]
pub enum Turn {
    /// The verdict of another check.
    Hit(Verdict),
    /// The lock: this check runs s9s, and publishes its verdict.
    Miss(Slot),
    /// Nothing can be locked here. This check runs s9s alone.
    Bypass(anyhow::Error),
}

/// The place for an entry, locked. Dropping it frees the lock.
#[derive(Debug)]
pub struct Slot {
    /// The entry before this one, however old.
    pub before: Option<Entry>,
    /// The error, if the place is not beside the lock file of the query.
    pub instead: Option<anyhow::Error>,
    key: u64,
    boot: Option<String>,
    path: PathBuf,
    spare: PathBuf,
    _lock: File,
}

/// Takes a turn: a usable entry, or the lock. It waits for the lock until `guard` ends the process. If
/// the lock file cannot be used, the user's own folder in memory replaces it.
pub fn turn(query: &Query<'_>, guard: &Guard) -> Turn {
    take(query, guard).unwrap_or_else(|error| {
        let error = error.context(format!("lock file {}", query.lock_file.display()));
        let instead = make_private_folder().and_then(|folder| {
            let lock_file = &folder.join("lock");
            take(&Query { lock_file, ..*query }, guard)
        });
        match instead {
            Ok(Turn::Miss(slot)) => Turn::Miss(Slot {
                instead: Some(error),
                ..slot
            }),
            Ok(turn) => turn,
            Err(_) => Turn::Bypass(error),
        }
    })
}

fn take(query: &Query<'_>, guard: &Guard) -> Result<Turn> {
    guard.enter(Stage::Cache(query.lock_file.to_path_buf()));
    let name = format!("{:016x}", query.key);
    let path = beside(query.lock_file, &name);
    let boot = boot_id();
    let is_fresh = |entry: &Entry| boot.is_some() && entry.boot == boot && query.allows(entry, query.max_age);
    if let Some(entry) = read(&path, query.key).filter(is_fresh) {
        return Ok(Turn::Hit(entry.verdict));
    }
    // An entry that could not be written beside the lock file is in the user's own folder.
    let spare = beside(&private_folder().join("lock"), &name);
    let look = || {
        let entries = [&path, &spare].into_iter().filter_map(|path| read(path, query.key));
        entries.max_by_key(|entry| (entry.boot == boot, entry.from))
    };
    let found = look();
    if let Some(entry) = found.as_ref().filter(|entry| is_fresh(entry)) {
        return Ok(Turn::Hit(entry.verdict));
    }
    let lock = open(query.lock_file, query.missing)?;
    guard.enter(Stage::Lock(query.lock_file.to_path_buf()));
    wait_for(&lock, query.key)?;
    guard.enter(Stage::Cache(query.lock_file.to_path_buf()));
    // The previous holder may have published. An entry that changed meanwhile is of this boot.
    let now = look();
    if let Some(entry) = &now
        && (is_fresh(entry) || (now != found && query.allows(entry, query.timeout)))
    {
        return Ok(Turn::Hit(entry.verdict));
    }
    Ok(Turn::Miss(Slot {
        before: now,
        instead: None,
        key: query.key,
        boot,
        path,
        spare,
        _lock: lock,
    }))
}

impl Slot {
    /// Publishes `verdict`, of a run of s9s that began at `from`, and frees the lock. With a hold, s9s
    /// is not run again before the hold is over. Returns the error if the entry is not beside the lock
    /// file of the query.
    ///
    /// # Errors
    /// The entry cannot be written. The lock is freed anyway; the other checks run s9s themselves.
    pub fn publish(self, verdict: Verdict, from: Duration, hold: Option<Hold>) -> Result<Option<anyhow::Error>> {
        let entry = Entry {
            key: self.key,
            boot: self.boot.clone(),
            from,
            hold,
            verdict,
        };
        let failed = write(&entry, &self.path).err();
        if failed.is_some() {
            make_private_folder()?;
            write(&entry, &self.spare)?;
        }
        if self.before.is_none() {
            self.sweep();
        }
        Ok(self.instead.or(failed))
    }

    /// Removes useless entries: those of another boot and those past every limit. Called for each new key.
    fn sweep(&self) {
        let is_useless = |path: &Path| match target(path).as_deref().map(Entry::decode) {
            Some(Some(entry)) => entry.boot != self.boot || entry.age(since_boot()).is_none_or(|age| age > MAX_AGE),
            _ => false,
        };
        let files = self.path.parent().and_then(|folder| fs::read_dir(folder).ok());
        for file in files.into_iter().flatten().flatten() {
            if is_useless(&file.path()) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

/// The entries of all keys whose hold, of `backoff` at most, keeps s9s from being run, each with the time
/// that is left. An entry of a maintenance only remembers its hold.
pub fn holds(lock_file: &Path, backoff: Duration) -> Vec<(Entry, Duration)> {
    let boot = boot_id();
    let folders = [lock_file.parent().map(Path::to_path_buf), Some(private_folder())];
    let files = folders
        .into_iter()
        .flatten()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten();
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let entries = links.filter_map(|text| Entry::decode(text.to_str()?));
    let rests = |entry: &Entry| entry.boot == boot && entry.verdict != Verdict::Unknown(Reason::Maintenance);
    let held = entries.filter(rests).filter_map(|entry| {
        let left = entry.hold?.span.min(backoff).checked_sub(entry.age(since_boot())?)?;
        Some((entry, left))
    });
    held.collect()
}

/// Replaces the entry at `path` in one piece.
fn write(entry: &Entry, path: &Path) -> Result<()> {
    let draft = beside(path, "new");
    // A check that was killed here may have left it.
    let _ = fs::remove_file(&draft);
    symlink(entry.encode(), &draft)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write the cache entry {}", path.display()))
}

/// The path with one more extension.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn read(path: &Path, key: u64) -> Option<Entry> {
    Entry::decode(&target(path)?).filter(|entry| entry.key == key)
}

/// The text of a symbolic link that belongs to this user. Both are read from one open link: by its path, a
/// stranger could exchange the folder in between.
fn target(path: &Path) -> Option<String> {
    let how = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let link = fcntl::open(path, how, Mode::empty()).ok()?;
    let text = fcntl::readlinkat(&link, "").ok()?.into_string().ok()?;
    (fstat(&link).ok()?.st_uid == Uid::effective().as_raw()).then_some(text)
}

/// Opens the lock file, and refuses any other file in its place.
///
/// # Errors
/// What is wrong with it, or with its folder.
pub fn open(path: &Path, missing: Missing) -> Result<File> {
    let me = Uid::effective().as_raw();
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if missing == Missing::FolderIsMade && !folder.exists() {
        make_folder(folder).context("its folder cannot be made")?;
    }
    let owner = folder.metadata().context("its folder cannot be examined")?.uid();
    // A file that root leaves in the folder of the service's user would lock that user out.
    ensure!(
        owner == me || owner == 0,
        "its folder belongs to user {owner} and this check runs as user {me}; run it as that user"
    );
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(missing != Missing::IsLeft)
        .truncate(false)
        .mode(0o600)
        // A FIFO or a device in its place must neither block nor become the controlling terminal.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP) => anyhow!("it is a symbolic link"),
            _ => anyhow!(error).context("it cannot be opened"),
        })?;
    let meta = file.metadata().context("it cannot be examined")?;
    let owner = meta.uid();
    ensure!(meta.is_file(), "it is not a regular file");
    ensure!(
        owner == me,
        "it belongs to user {owner} and this check runs as user {me}; run it as that user"
    );
    ensure!(meta.nlink() <= 1, "it has {} hard links", meta.nlink());
    let mode = meta.mode() & 0o7777;
    // Who may read it may lock it, for as long as they like.
    ensure!(mode & 0o066 == 0, "others may open it (mode {mode:04o})");
    let mut start = [0; OURS.len()];
    ensure!(
        meta.len() == 0 || (file.read_exact_at(&mut start, 0).is_ok() && start == OURS),
        "it holds {} bytes that are not cmonhachk's: is it another program's file?",
        meta.len()
    );
    Ok(file)
}

/// Waits for the lock on the byte at the key's offset.
fn wait_for(file: &File, key: u64) -> Result<()> {
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (key >> 1).cast_signed(),
        l_len: 1,
        l_pid: 0,
    };
    loop {
        match fcntl::fcntl(file, FcntlArg::F_SETLKW(&byte)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(anyhow!(errno).context("it cannot be locked")),
        }
    }
}

/// A folder in memory that belongs to this user only. /dev/shm is sticky: nobody else can replace it.
fn private_folder() -> PathBuf {
    format!("/dev/shm/cmonhachk-{}", Uid::effective()).into()
}

fn make_private_folder() -> Result<PathBuf> {
    let folder = private_folder();
    make_folder(&folder)?;
    let meta = fs::symlink_metadata(&folder)?;
    ensure!(
        meta.is_dir() && meta.uid() == Uid::effective().as_raw() && meta.mode() & 0o077 == 0,
        "{} is not this user's alone",
        folder.display()
    );
    Ok(folder)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        // Another check may just have made it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}
