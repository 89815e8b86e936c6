//! Files of shell-style assignments. They are read and never evaluated.
//!
//! The grammar is a shell's (POSIX, Shell Command Language, sections 2.2 to 2.7).

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
        let (value, rest) = value(&text[equals + 1..])?;
        let value = String::from_utf8(value.trim_ascii().to_vec()).ok()?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (is_name && rest.is_empty()).then_some(Line::Assignment(name, value))
    };
    assignment().unwrap_or(Line::Other)
}

/// The value that a shell would see in the rest of an assignment's line, without its quotes, and the text
/// after a `;`. None if only a shell can tell: variables, commands, an open quote. Blanks outside quotes
/// are kept, because systemd's `EnvironmentFile=` reads the same file and ends an unquoted value only at
/// the end of the line.
pub fn value(rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut quote = None;
    let mut bytes = rest.iter().copied().enumerate();
    let mut before = b' ';
    let mut next = &b""[..];
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(b'"') | None, b'$' | b'`') => return None,
            (Some(_), _) => value.push(byte),
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'\\') => value.push(bytes.next()?.1),
            (None, b'&' | b'|' | b'<' | b'>' | b'(' | b')') => return None,
            (None, b';') => {
                next = rest[at + 1..].trim_ascii();
                break;
            }
            (None, b'#') if before.is_ascii_whitespace() => break,
            (None, _) => value.push(byte),
        }
        before = byte;
    }
    quote.is_none().then_some((value, next))
}

/// What a shell has open where a line begins. Inside it, an assignment may have no effect, or go on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Open {
    quote: Option<u8>,
    /// The line before ends in a backslash, or in `&&`, `||` or `|`.
    continued: bool,
    /// How many conditionals, loops and functions are open. An end of the script counts as one, too.
    blocks: usize,
    parentheses: usize,
    /// The word that ends a here-document, and whether tabs may stand before it.
    here_document: Option<(Vec<u8>, bool)>,
}

/// What a word is to its command.
#[derive(PartialEq, Eq)]
enum Place {
    First,
    /// It follows `function`.
    FunctionName,
    Later,
}

impl Open {
    /// Reads one line. Returns whether it may assign to `name`, in any way.
    pub fn read(&mut self, line: &[u8], name: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_mentioned = *self != Open::default() && mentions(line, name);
        if let Some((end, may_be_indented)) = &self.here_document {
            let indent = line
                .iter()
                .take_while(|byte| **byte == b'\t' && *may_be_indented)
                .count();
            if line[indent..] == *end {
                self.here_document = None;
            }
            return is_mentioned;
        }
        self.continued = false;
        let mut assigns = false;
        // What the next word is, and where it starts.
        let (mut place, mut start, mut at) = (Place::First, 0, 0);
        while let Some(byte) = line.get(at) {
            match (self.quote, byte) {
                (Some(quote), _) if *byte == quote => self.quote = None,
                (None, b'\\') | (Some(b'"' | b'`'), b'\\') => {
                    self.continued = at + 1 == line.len();
                    at += 1;
                }
                (Some(_), _) => {}
                (None, b'"' | b'\'' | b'`') => self.quote = Some(*byte),
                (None, b'#') if at == start => break,
                (None, b'<') if line[at..].starts_with(b"<<<") => at += 2,
                (None, b'<') if line[at..].starts_with(b"<<") && self.parentheses == 0 => {
                    let rest = &line[at + 2..];
                    let may_be_indented = rest.starts_with(b"-");
                    let word = rest[usize::from(may_be_indented)..].trim_ascii();
                    let end = word.iter().position(|byte| b" \t;&|<>)".contains(byte));
                    let word = word[..end.unwrap_or(word.len())].iter();
                    let word = word.filter(|byte| !b"\"'\\".contains(byte)).copied();
                    self.here_document = Some((word.collect(), may_be_indented));
                }
                (None, b' ' | b'\t' | b';' | b'&' | b'|' | b'(' | b')') => {
                    assigns |= self.end_word(&line[start..at], name, &mut place);
                    if !matches!(byte, b' ' | b'\t') {
                        place = Place::First;
                    }
                    match byte {
                        b'(' => self.parentheses += 1,
                        b')' => self.parentheses = self.parentheses.saturating_sub(1),
                        _ => {}
                    }
                    start = at + 1;
                }
                (None, _) => {}
            }
            at += 1;
        }
        let command = &line[..at.min(line.len())];
        self.continued |=
            self.quote.is_none() && [&b"&&"[..], b"|"].iter().any(|end| command.trim_ascii().ends_with(end));
        let last = command.get(start..).unwrap_or_default();
        assigns | self.end_word(last, name, &mut place) | is_mentioned
    }

    /// Records what the word at this place opens or closes. Returns whether it may assign.
    fn end_word(&mut self, word: &[u8], name: &[u8], place: &mut Place) -> bool {
        if word.is_empty() {
            return false;
        }
        let before = std::mem::replace(place, Place::Later);
        let (was_first, mut runs_others) = (before == Place::First, false);
        if was_first {
            match word {
                b"if" | b"while" | b"until" | b"for" | b"select" | b"case" | b"{" => self.blocks += 1,
                b"exit" | b"return" | b"exec" => self.blocks += 1,
                b"fi" | b"done" | b"esac" | b"}" => self.blocks = self.blocks.saturating_sub(1),
                b"." | b"source" | b"eval" => runs_others = true,
                _ => {}
            }
            let goes_on: [&[u8]; 9] = [b"if", b"while", b"until", b"{", b"then", b"else", b"elif", b"do", b"!"];
            if goes_on.contains(&word) {
                *place = Place::First;
            } else if word == b"function" {
                *place = Place::FunctionName;
            }
        } else if before == Place::FunctionName {
            *place = Place::First;
        }
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let letters = word.iter().take_while(|byte| is_name(byte)).count();
        let is_anothers = word[..letters] != *name && word[letters..].starts_with(b"=");
        // A command that is only the name assigns nothing: it fails.
        runs_others || (!is_anothers && mentions(word, name) && !(was_first && word == name))
    }
}

/// Whether `text` has `name` as a whole word, other than to read it: `$name` or `${name}`.
fn mentions(text: &[u8], name: &[u8]) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_${".contains(byte));
    (0..=text.len().saturating_sub(name.len())).any(|at| {
        text[at..].starts_with(name)
            && !is_part(at.checked_sub(1).and_then(|before| text.get(before)))
            && !is_part(text.get(at + name.len()))
    })
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
            "\u{feff}CMONHACHK_TIMEOUT=2.5;",
        ] {
            let expected = Line::Assignment("CMONHACHK_TIMEOUT".to_string(), "2.5".to_string());
            assert_eq!(line(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(
            line(b"exportA=1"),
            Line::Assignment("exportA".to_string(), "1".to_string())
        );
        for text in [
            "CMONHACHK_TIMEOUT",
            "timeout 3",
            "A B=3",
            "[cmon]",
            "A=1; B=2",
            "A=\"1",
            "A=$B",
            "A=`b`",
            "A=1 | b",
            "A=1\\",
            "NAME=\u{fffd}",
        ] {
            let mut text = text.as_bytes().to_vec();
            if text.len() > 7 && text.ends_with(b"\xbd") {
                text.truncate(text.len() - 1);
            }
            assert_eq!(line(&text), Line::Other, "{text:?}");
        }
    }

    #[test]
    fn what_a_line_leaves_open_is_known_on_the_next() {
        let opened = |text: &str| {
            let mut open = Open::default();
            for line in text.split('\n') {
                open.read(line.as_bytes(), b"A");
            }
            open != Open::default()
        };
        for text in [
            "B='",
            "B=\"x'",
            "B=\"\\\"",
            "B=`id",
            "B=x\\",
            "B=x\\\r",
            "if true",
            "if true; then",
            "if ! while true; do x; done",
            "case $x in a) x;;",
            "f() {",
            "function f {",
            "function f () {",
            "cat <<EOF\nfi",
            "cat <<-'EOF' >x\n  EOF",
            "cat <<EOF\n\tEOF",
            "x &&",
            "x || # y",
            "x |",
            "(",
            "X=$(",
            "exit 0",
        ] {
            assert!(opened(text), "{text:?}");
        }
        for text in [
            "",
            "B='x' # it's a \"comment",
            "B=x\\\\",
            "B='x\\'",
            "B=\"it's\"",
            "B=O\\'x",
            "if true; then x; fi",
            "case $x in\na) x;;\nesac",
            "for x in if; do x\ndone",
            "f() {\n  echo if\n}",
            "function f\n{\n  echo {\n}",
            "function f() { x; }",
            "echo function f {",
            "cat <<-EOF\n\tif\n\tEOF",
            "cat <<<EOF",
            "X=$((1<<2))",
            "x && y",
            "(x; y)",
            "B=x if",
            "# if",
        ] {
            assert!(!opened(text), "{text:?}");
        }
    }

    #[test]
    fn a_line_that_may_assign_is_told_from_one_that_does_not() {
        let assigns = |line: &str| Open::default().read(line.as_bytes(), b"A");
        for line in [
            "A=1",
            "A+=1",
            "[ \"x\" ] && A=1",
            "B=1 A=1",
            "export A=1 # x",
            "B=1;A=\"x",
            "A=\\",
            "(A=1)",
            "export \"A=1\"",
            "unset A",
            "read A <<<1",
            ". /etc/other",
        ] {
            assert!(assigns(line), "{line:?}");
        }
        for line in ["# A=1", "B=\"A=1\"", "BA=1", "AB=1", "A = 1", "B=1#A=1"] {
            assert!(!assigns(line), "{line:?}");
        }
    }
}
