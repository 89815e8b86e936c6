//! The lock file, and the folder that it is in.
//!
//! Everything beside the lock file is believed, so nobody else may write there: the folder belongs to the check's
//! user, and no other user can write to it.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::{AccessFlags, Uid, access};

use crate::os::files::is_missing;

/// The folder of the lock file.
pub(super) fn folder(lock_file: &Path) -> &Path {
    let folder = lock_file.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or(Path::new("."))
}

/// Refuses a folder in which another user could exchange files.
///
/// # Errors
/// The folder is missing, or it is not this user's alone.
pub(super) fn trust_folder(lock_file: &Path) -> Result<()> {
    let folder = folder(lock_file).metadata().context("its folder cannot be used")?;
    trust(&folder)
}

/// The same, but makes a missing folder.
///
/// # Errors
/// The folder cannot be made, or it is not this user's alone.
pub(super) fn make_folder(lock_file: &Path) -> Result<()> {
    let path = folder(lock_file);
    let folder = match path.metadata() {
        Err(error) if is_missing(&error) => {
            // Another check may make it at the same time.
            let made = DirBuilder::new().mode(0o700).create(path);
            path.metadata().map_err(|error| made.err().unwrap_or(error))
        }
        found => found,
    };
    trust(&folder.context("its folder cannot be used")?)
}

fn trust(folder: &Metadata) -> Result<()> {
    let (owner, me) = (folder.uid(), Uid::effective());
    ensure!(
        owner == me.as_raw(),
        "its folder belongs to user {owner} and this check runs as user {me}; run it as that user"
    );
    let mode = folder.mode() & 0o7777;
    ensure!(
        mode & 0o022 == 0,
        "other users can write into its folder (mode {mode:04o})"
    );
    Ok(())
}

/// Opens the lock file, and makes it if it is missing.
///
/// # Errors
/// It cannot be opened, is no regular file, or its folder takes no verdict.
pub(super) fn open(lock_file: &Path) -> Result<File> {
    // Without it, neither a verdict nor a back-off can be kept.
    ensure!(
        access(folder(lock_file), AccessFlags::W_OK).is_ok(),
        "user {} cannot write into its folder",
        Uid::effective()
    );
    let mut how = OpenOptions::new();
    how.read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A FIFO or a device in its place must neither block nor become the controlling terminal.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    let file = match how.open(lock_file) {
        // The service may have run as another user before, whose file is still in this user's folder.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let _ = fs::remove_file(lock_file);
            how.open(lock_file)
        }
        opened => opened,
    };
    let file = file.context("it cannot be opened")?;
    let meta = file.metadata().context("it cannot be examined")?;
    ensure!(meta.is_file(), "it is not a regular file");
    Ok(file)
}

/// Tries to lock the file: flock(2), which the kernel frees when its holder ends, however that happens. Returns
/// whether this check has the lock.
///
/// # Errors
/// The file system has no locks.
pub(super) fn try_lock(file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(anyhow!(error).context("it cannot be locked")),
    }
}
