//! Which verdict was reported to clients last, so that each change of it is one line in the log.
//!
//! Checks run side by side, and most publish nothing. So the words of the last verdict are a symbolic link
//! beside the lock file, `LOCK.reported`. A check that reports something else replaces it and logs the change. If
//! another check is doing that at the same time, it leaves the change to that one, or to the next.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::link;
use super::lock::folder;
use crate::os::syslog;
use crate::verdict::Verdict;

/// Records that `verdict` is reported. Logs a change, with the detail behind it.
pub(super) fn report(lock_file: &Path, verdict: Verdict, detail: &str) {
    if last(lock_file) == Some(verdict) {
        return;
    }
    let folder = File::open(folder(lock_file));
    if matches!(folder.as_ref().map(File::try_lock), Ok(Err(TryLockError::WouldBlock))) {
        return;
    }
    let before = last(lock_file);
    if before != Some(verdict) {
        log_change(before, verdict, detail);
        let _ = link::replace(&link::beside(lock_file, "reported"), &verdict.words());
    }
}

/// The verdict that was reported last beside this lock file.
pub(super) fn last(lock_file: &Path) -> Option<Verdict> {
    Verdict::from_words(&link::read(&link::beside(lock_file, "reported"))?)
}

/// Logs that the reported verdict has changed, with the row or the error that it comes from.
pub fn log_change(before: Option<Verdict>, now: Verdict, detail: &str) {
    let before = before.map_or_else(|| "none".to_string(), Verdict::words);
    let text = format!("{before} -> {}: {detail}", now.words());
    match now {
        Verdict::Known(_) => syslog::notice(&text),
        Verdict::Unknown(_) => syslog::warning(&text),
    }
}
