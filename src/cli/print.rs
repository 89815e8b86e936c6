//! What goes to standard output and standard error.

use std::io::{self, Write};
use std::process::ExitCode;

/// Prints the text. A reader that closes the output early still gets the status.
pub(super) fn print(text: &[u8]) {
    let _ = io::stdout().write_all(text).and_then(|()| io::stdout().flush());
}

/// Says why there is no check. Returns the status for that.
pub(super) fn refuse(why: &str) -> ExitCode {
    eprintln!("cmonhachk: {why}");
    ExitCode::from(2)
}
