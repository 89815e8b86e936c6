//! What the clients were told last, so that each change of it is one line in the log.
//!
//! Checks run side by side, and most publish nothing. So the words of the last verdict are a symbolic link
//! beside the lock file, `LOCK.told`. A check that tells something else replaces it and logs the change. If
//! another check is doing that at the same moment, it leaves the change to that one, or to the next.

use std::fs::{File, TryLockError};
use std::path::Path;

use nix::unistd::Uid;

use crate::cache::{beside, folder, replace, text};
use crate::os::syslog;
use crate::verdict::Verdict;

/// Records that clients are told `verdict`. Logs a change, with the row or the error behind it.
pub fn tell(lock_file: &Path, verdict: Verdict, evidence: &str) {
    if last(lock_file, None) == Some(verdict) {
        return;
    }
    let folder = File::open(folder(lock_file));
    if matches!(folder.as_ref().map(File::try_lock), Ok(Err(TryLockError::WouldBlock))) {
        return;
    }
    let before = last(lock_file, None);
    if before != Some(verdict) {
        syslog::change(before, verdict, evidence);
        let _ = replace(&beside(lock_file, "told"), &verdict.words());
    }
}

/// What the clients of this lock file's service were told last, if the record belongs to this user or to `owner`.
pub fn last(lock_file: &Path, owner: Option<Uid>) -> Option<Verdict> {
    Verdict::from_words(&text(&beside(lock_file, "told"), owner)?)
}
