//! The log lines for the operator in syslog: facility daemon, ident `cmonhachk`.
//!
//! They go directly to the socket, and no check waits for it: the C library's syslog(3) blocks for as
//! long as the log daemon does not read.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::process;

use crate::verdict::Verdict;

const SOCKET: &str = "/dev/log";

/// The longest text of one line, in bytes; RFC 3164 guarantees no more than 1024 with its header.
const MAX_TEXT: usize = 900;

// RFC 3164, section 4.1.1: facility daemon (3) times 8, plus the severity.
const ERROR: u8 = 3 * 8 + 3;
const WARNING: u8 = 3 * 8 + 4;
const NOTICE: u8 = 3 * 8 + 5;

/// Logs that what clients are told has changed, with the row or the error that it comes from.
pub fn change(before: Option<Verdict>, now: Verdict, evidence: &str) {
    let before = before.map_or_else(|| "none".to_string(), Verdict::words);
    let text = format!("{before} -> {}: {evidence}", now.words());
    let is_known = matches!(now, Verdict::Known(_));
    line(if is_known { NOTICE } else { WARNING }, &text);
}

/// Logs a fault of the check itself: its arguments, its lock file, its code.
pub fn fault(text: &str) {
    line(ERROR, text);
}

fn line(priority: u8, text: &str) {
    let line = format!("cmonhachk[{}]: {}", process::id(), clean(text, MAX_TEXT));
    // A log daemon that does not read loses the line; the client still gets its answer.
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(format!("<{priority}>{line}").as_bytes(), SOCKET)
    });
    // A container has no log daemon, but reads standard error.
    if sent.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Whether the character reorders text or breaks lines without being a control character (Unicode
/// Standard Annex 9, section 2, and the line and paragraph separators).
fn is_bidi(character: char) -> bool {
    matches!(
        character,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// `text` on one line of at most `max` bytes, without characters that control a terminal: the output
/// of s9s and the text of files must not forge or reorder what an operator reads.
pub fn clean(text: &str, max: usize) -> String {
    let mut line = String::new();
    for character in text.chars() {
        let shown = match character {
            '\n' | '\r' | '\t' => ' ',
            steering if steering.is_control() || is_bidi(steering) => '?',
            plain => plain,
        };
        if line.len() + shown.len_utf8() > max {
            // The ellipsis needs three bytes of the limit.
            while line.len() + '…'.len_utf8() > max && line.pop().is_some() {}
            line.push('…');
            break;
        }
        line.push(shown);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_without_controls() {
        assert_eq!(clean("a\nb\tc\r\n\u{1b}[31mred\u{7f}\u{9b}", 100), "a b c  ?[31mred??");
        assert_eq!(
            clean(
                "\u{202e}redael\u{202c} \u{2066}l\u{2069}\u{2028}\u{200f}\u{61c} \u{2027}\u{202f}é",
                100
            ),
            "?redael? ?l???? \u{2027}\u{202f}é"
        );
    }

    #[test]
    fn a_line_is_bounded_and_says_that_it_was_cut() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abc…");
        assert_eq!(clean(&"→".repeat(9), 9), "→→…");
        assert_eq!(clean("ééé", 5), "é…");
        assert_eq!(clean("abc", 2), "…", "room for the ellipsis there must be");
    }
}
