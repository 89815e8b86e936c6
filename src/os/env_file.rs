//! Files of shell-style assignments, one a line. They are read and never evaluated.
//!
//! Only lines that every shell reads alike are understood (POSIX, Shell Command Language, sections 2.2 to
//! 2.10, and what bash and dash do beyond it): blank lines, comments, `NAME=VALUE` and `export NAME`. So no
//! such file has to be read as a shell would.

use regex::bytes::Regex;

/// What a line of such a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Blank, a comment, or the export of a variable.
    Nothing,
    /// An assignment: the name, and the value as far as it can be read without a shell.
    Assignment(&'a [u8], Option<Vec<u8>>),
    /// Anything else.
    Other,
}

/// A line that assigns or exports a name. Behind `=`, a value is made of characters without a meaning for
/// the shell, of `'…'`, and of `"…"` with no backslash and no `$` but for `$NAME` and `${NAME}`. The carriage
/// return that other systems end a line with becomes a part of the value. A comment may follow.
const LINE: &str = r#"(?x-u) ^[\ \t]* (?:
      (?: export[\ \t]+ )? ([A-Za-z_][A-Za-z0-9_]*) =
          ( (?: [A-Za-z0-9_.,:/@%+=\#^-] | '[^'\x00]*' | "(?: [^"$`\\\x00] | \$[A-Za-z_]\w* | \$\{[A-Za-z_]\w*\} )*" )* ) \r?
    | export[\ \t]+ [A-Za-z_][A-Za-z0-9_]*
    ) (?: [\ \t]+ (?: \#[^\x00]* )? )? $"#;

/// Names that a shell does not let a file assign, or whose value it evaluates: `RANDOM=A=5` makes bash assign to A.
const SPECIAL: &str = "BASHOPTS BASH_VERSINFO EUID HISTCMD OPTIND PPID RANDOM SHELLOPTS SRANDOM UID";

/// Tells what each line of a text is.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut pattern = None;
    text.split(|byte| *byte == b'\n').map(move |line| {
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let start = line.iter().take_while(blank).count();
        match &line[start..] {
            [] | [b'\r'] => return Line::Nothing,
            [b'#', comment @ ..] if !comment.contains(&0) => return Line::Nothing,
            _ => {}
        }
        let pattern = pattern.get_or_insert_with(|| Regex::new(LINE).expect("the pattern is constant and tested"));
        let Some(parts) = pattern.captures(line) else {
            return Line::Other;
        };
        match (parts.get(1), parts.get(2)) {
            (Some(name), Some(value)) => assignment(name.as_bytes(), value.as_bytes()),
            _ => Line::Nothing,
        }
    })
}

fn assignment<'a>(name: &'a [u8], value: &[u8]) -> Line<'a> {
    match SPECIAL.split(' ').any(|special| special.as_bytes() == name) {
        true => Line::Other,
        false => Line::Assignment(name, literal(value)),
    }
}

/// A value without its quotes; None if it has a variable.
fn literal(value: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut quote = None;
    for byte in value {
        match (quote, byte) {
            (Some(open), _) if *byte == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(b'"'), b'$') => return None,
            _ => plain.push(*byte),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &[u8]) -> Line<'_> {
        let mut lines = lines(text);
        let line = lines.next().unwrap();
        assert_eq!(lines.next(), None);
        line
    }

    #[test]
    fn what_assigns_nothing_is_told_from_what_may() {
        for text in [
            "",
            " \t\r",
            "# A=3",
            "  #",
            "#$(x)\r",
            "export A",
            "\texport  A_1 # x",
            "\r",
        ] {
            assert_eq!(only(text.as_bytes()), Line::Nothing, "{text:?}");
        }
        for text in [
            "A",
            "timeout 3",
            "A B=3",
            "[cmon]",
            "A = 1",
            "A= 1",
            "A=1 2",
            "A=1 B=2",
            "A=1;",
            "A=1; B=2",
            "A=1 | b",
            "A=1\\",
            "A=1\\ 2",
            "A+=1",
            "A[0]=1",
            "1A=1",
            "A=\"1",
            "A='1",
            "A=\"1\\\"\"",
            "A=$B",
            "A=`b`",
            "A=$(b)",
            "A=\"$(b)\"",
            "A=\"${B:=1}\"",
            "A=\"$((B=1))\"",
            "A=\"$1\"",
            "A=~",
            "A=*",
            "A={1,2}",
            "A=$'1'",
            "export A B",
            "export -n A",
            "exportA",
            "unset A",
            "\u{feff}A=1",
            "\u{c}A=1",
            "A=\u{e9}",
            "A=1 \r",
            "export A\r",
            "A=1\0",
            "#\0",
            "UID=0",
            "export RANDOM=A=5",
            "if true",
            ". /etc/other",
        ] {
            assert_eq!(only(text.as_bytes()), Line::Other, "{text:?}");
        }
    }

    #[test]
    fn a_value_is_read_without_its_quotes() {
        for (text, value) in [
            ("A=", ""),
            ("A=2.5", "2.5"),
            ("  export\tA=\"2.5\" # slow", "2.5"),
            ("A='2.5'\r", "2.5"),
            ("A=2.5\t", "2.5"),
            ("A=2.5\r # x", "2.5"),
            ("A=a#b,#c", "a#b,#c"),
            ("A=#", "#"),
            ("A=\"a b\"'c d'e", "a bc de"),
            ("A=\"it's\"", "it's"),
            ("A='a\"$(b)`\\'", "a\"$(b)`\\"),
            ("A=\"\u{e9}\"", "\u{e9}"),
        ] {
            let expected = Line::Assignment(b"A", Some(value.into()));
            assert_eq!(only(text.as_bytes()), expected, "{text:?}");
        }
        for text in ["A=\"$A --pool\"", "A=\"${B}\" # x", "export A=\"x$_1\""] {
            assert_eq!(only(text.as_bytes()), Line::Assignment(b"A", None), "{text:?}");
        }
    }

    #[test]
    fn each_line_is_read_by_itself() {
        let read: Vec<_> = lines(b"# x\nA=1\nexport A\nfi").collect();
        let assignment = Line::Assignment(b"A", Some(b"1".to_vec()));
        assert_eq!(read, [Line::Nothing, assignment, Line::Nothing, Line::Other]);
    }
}
