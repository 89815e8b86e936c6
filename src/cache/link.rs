//! A short text in a symbolic link: rename(2) replaces it in one piece, readlink(2) reads it in one call, and
//! `ls -l` shows it. On a tmpfs it is in the inode, so it can be written where no block is free.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The path with one more extension.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// The text of the link at `path`, if there is one.
pub(super) fn read(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.into_os_string().into_string().ok()
}

/// Replaces the text of the link at `path`, in one step. The caller keeps others from doing the same.
///
/// # Errors
/// The folder takes no link.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = beside(path, "new");
    // A check that was killed here may have left it.
    let _ = fs::remove_file(&draft);
    symlink(text, &draft)?;
    fs::rename(&draft, path)
}
