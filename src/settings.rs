//! Files of shell-style assignments. They are read and never evaluated.

/// What a line of such a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Empty, or a comment.
    Nothing,
    /// An assignment: name and value.
    Assignment(String, String),
    /// Anything else.
    Other,
}

/// Reads one line of a settings file.
pub fn line(text: &[u8]) -> Line {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text).trim_ascii();
    if text.is_empty() || text.starts_with(b"#") {
        return Line::Nothing;
    }
    let text = match text.strip_prefix(b"export") {
        Some(rest) if rest.first().is_some_and(u8::is_ascii_whitespace) => rest.trim_ascii_start(),
        _ => text,
    };
    let assignment = || {
        let equals = text.iter().position(|byte| *byte == b'=')?;
        let name = String::from_utf8(text[..equals].to_vec()).ok()?;
        let value = String::from_utf8(unquote(&text[equals + 1..]).trim_ascii().to_vec()).ok()?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then_some(Line::Assignment(name, value))
    };
    assignment().unwrap_or(Line::Other)
}

/// The value that a shell would see in the rest of an assignment's line: quotes taken off, a
/// comment or a further command left out. Blanks outside quotes are kept, for systemd's
/// `EnvironmentFile=` reads the same file and ends an unquoted value only at the line's end.
pub fn unquote(rest: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    let mut quote = None;
    let mut bytes = rest.iter().copied();
    let mut before = b' ';
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => value.push(byte),
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'\\') => value.extend(bytes.next()),
            (None, b';' | b'&' | b'|') => break,
            (None, b'#') if before.is_ascii_whitespace() => break,
            (None, _) => value.push(byte),
        }
        before = byte;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_nothing_an_assignment_or_something_else() {
        for text in ["", " \t\r", "# CMONHACHK_TIMEOUT=3", "  #", "\u{feff}"] {
            assert_eq!(line(text.as_bytes()), Line::Nothing, "{text:?}");
        }
        for text in [
            "CMONHACHK_TIMEOUT=2.5",
            "  export CMONHACHK_TIMEOUT=\"2.5\" # slow",
            "CMONHACHK_TIMEOUT='2.5'\r",
            "\u{feff}CMONHACHK_TIMEOUT=2.5; echo",
        ] {
            let expected = Line::Assignment("CMONHACHK_TIMEOUT".to_string(), "2.5".to_string());
            assert_eq!(line(text.as_bytes()), expected, "{text:?}");
        }
        for text in ["CMONHACHK_TIMEOUT", "timeout 3", "A B=3", "[cmon]", "NAME=\u{fffd}"] {
            let mut text = text.as_bytes().to_vec();
            if text.len() > 7 && text.ends_with(b"\xbd") {
                text.truncate(text.len() - 1);
            }
            assert_eq!(line(&text), Line::Other, "{text:?}");
        }
    }
}
