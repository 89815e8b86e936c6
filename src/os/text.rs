//! Text that is fit for a terminal and for a line of a log.

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
