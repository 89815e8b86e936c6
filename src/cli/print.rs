//! What goes to standard output and standard error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::unistd::{dup2_stderr, dup2_stdout};

/// Opens standard output and standard error once more, if they are pipes or terminals, so that no write waits for their
/// reader: a line that has no room is lost. Other programs have the inherited ones, too, so the flags of these must stay.
///
/// A socket, or what belongs to another user, cannot be opened again and stays as it is. A file has no reader.
pub(super) fn never_wait_for_a_reader() {
    if let Ok(output) = open_again(1) {
        let _ = dup2_stdout(output);
    }
    if let Ok(error) = open_again(2) {
        let _ = dup2_stderr(error);
    }
}

fn open_again(descriptor: u8) -> io::Result<File> {
    let path = format!("/proc/self/fd/{descriptor}");
    if fs::metadata(&path)?.is_file() {
        return Err(ErrorKind::Unsupported.into());
    }
    let mut how = OpenOptions::new();
    how.write(true).custom_flags(O_NONBLOCK | O_NOCTTY);
    how.open(path)
}

/// Prints the text. A reader that closes the output early still gets the status.
pub(super) fn print(text: &[u8]) {
    let _ = io::stdout().write_all(text).and_then(|()| io::stdout().flush());
}

/// Says why there is no check. Returns the status for that.
pub(super) fn refuse(why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "cmonhachk: {why}");
    ExitCode::from(2)
}
