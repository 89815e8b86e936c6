//! What s9s printed.

use std::borrow::Cow;

use regex::bytes::Regex;

use super::ending;
use super::process::Run;

/// How many lines of each output a person is shown.
const MAX_LINES: usize = 40;

/// The text without the terminal's escape sequences (ECMA-48, section 5.4: CSI). With `color = always` in s9s.conf,
/// they surround fields, and one follows the last line.
pub fn plain(printed: &[u8]) -> Cow<'_, [u8]> {
    if !printed.contains(&b'\x1b') {
        return Cow::Borrowed(printed);
    }
    let sequence = Regex::new(r"(?-u)\x1b\[[0-?]*[ -/]*[@-~]").expect("the pattern is constant and tested");
    sequence.replace_all(printed, &b""[..])
}

/// How s9s ended, and what it printed, in lines for a person. They can hold any text: clean them before they are
/// shown.
pub fn describe(run: &Run) -> Vec<String> {
    let mut lines = vec![ending(run)];
    for (name, printed) in [("output", &run.stdout), ("error output", &run.stderr)] {
        let printed = plain(printed);
        let printed = String::from_utf8_lossy(&printed);
        let count = printed.lines().count();
        if count > 0 {
            lines.push(format!("{name}:"));
        }
        lines.extend(printed.lines().take(MAX_LINES).map(|line| format!("  {line}")));
        if count > MAX_LINES {
            lines.push(format!("  … and {} more lines", count - MAX_LINES));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s9s::process::Ended;
    use std::time::Duration;

    fn described(stdout: &str, stderr: &str) -> Vec<String> {
        let run = Run {
            ended: Ended::Exited(0),
            stdout: stdout.into(),
            stderr: stderr.into(),
            took: Duration::from_millis(12),
        };
        describe(&run)
    }

    #[test]
    fn colour_is_taken_off() {
        let coloured = "\u{1b}[1mS NAME\u{1b}[0;39m\n\
                        l \u{1b}[0;32mcc1  \u{1b}[0;39m\u{1b}[1;2m\u{1b}[38;5;176m10.0.0.1 \u{1b}[0;39m9501\n\
                        Total: 1 controller(s)\n\u{1b}[?25h";
        assert_eq!(
            *plain(coloured.as_bytes()),
            *b"S NAME\nl cc1  10.0.0.1 9501\nTotal: 1 controller(s)\n"
        );
    }

    #[test]
    fn a_stream_is_named_where_it_has_lines() {
        assert_eq!(described("", ""), ["exited with status 0 after 0.012 s"]);
        assert_eq!(described("a\nb\n", "")[1..], ["output:", "  a", "  b"]);
        assert_eq!(described("", "c")[1..], ["error output:", "  c"]);
    }

    #[test]
    fn what_is_not_shown_of_a_stream_is_counted() {
        let shown = |count: usize| described(&"x\n".repeat(count), "").split_off(2);
        assert_eq!(shown(39), ["  x"; 39]);
        assert_eq!(shown(40), ["  x"; 40]);
        let more = shown(42);
        assert_eq!(more[..40], ["  x"; 40]);
        assert_eq!(more[40..], ["  … and 2 more lines"]);
    }
}
