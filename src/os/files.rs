//! Files of configuration, and programs.

use std::fs::{self, OpenOptions};
use std::io::{self, Error, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// How large a configuration file may be, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Reads a regular file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// It cannot be read, is not regular, or is too large.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO in its place must not block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::other("it is not a regular file"));
    }
    let mut text = Vec::with_capacity(4096);
    (&file).take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Whether the error means that there is no such file.
pub fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The stamp of a file, which differs once the file or its content has changed: device, inode, and when it last
/// changed (ctime, which no program can set). None if there is no such file.
pub fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}
