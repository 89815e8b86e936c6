//! Do real shells read a defaults file as cmonhachk does?
//!
//! Files are generated, always the same ones. Of each file that is accepted, every shell must
//! see the same entries. A file of nothing but plain lines must be accepted. `CMONHACHK_SHELL_FILES` (see
//! `scale`) is the number of files. Needs the Debian packages bash and dash.
//!
//! A shell runs only what was accepted, but a fault may accept anything, and that must do no harm: random text
//! has neither small letters nor slashes, so it names no program and no file elsewhere; the other words are
//! builtins, and no line loops. The shells have an empty folder and no PATH, and run as the user nobody.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use cmonhachk::os::env_file::{Line, lines};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::string::bytes_regex;
use proptest::test_runner::TestRunner;

use crate::cluster::Folder;
use crate::scale::amount;

/// Each as a program and its one variable. On Debian, sh is dash; on Red Hat's systems, it is bash in its
/// POSIX mode.
const SHELLS: [(&str, &str, &str); 3] = [
    ("/bin/dash", "LC_ALL", "C"),
    ("/bin/bash", "LC_ALL", "C.UTF-8"),
    ("/bin/bash", "POSIXLY_CORRECT", "1"),
];

/// Prints for each file `=VALUE NUL`, if the shell gets to its end, and another NUL.
const SCRIPT: &str = r#"
for file do
    (. "$file" >/dev/null 2>&1; printf '=%s\0' "$RPC_BIND_ADDRESSES")
    printf '\0'
done"#;

/// How many files one shell reads.
const BATCH: usize = 2_000;

/// A part of a line: an entry, a word of the packaged file, or a few characters without a meaning.
const WORD: &str =
    r"(127\.0\.0\.1|10\.0\.0\.[1-9]|fd00::[1-9]|0\.0\.0\.0|cc1|http://cc1:9510|--pool|[A-Z0-9_.,:@%+=#^-]{1,4})";
/// Any variable, or one that means something to a shell.
const NAME: &str = "([A-Z]|[A-Z]_[A-Z0-9_]{0,6}|PATH|IFS|HOME|PWD|ENV|BASH_ENV|LANG|LC_ALL|LINENO|PS4|TZ|_|\
    POSIXLY_CORRECT)";
/// What follows what a line is about.
const TAIL: &str = r"(|[ \t]{1,2}|[ \t]#[^a-z/\n\x00]{0,8}| # RPC_BIND_ADDRESSES=10\.9\.9\.9)";

/// Bytes with a meaning for some shell, or inside of one.
const SPECIAL: &[u8] = b"\"'\\$`;&|<>(){}[]*?~!#=+:, \t\r\n\0\x01\x0b\x0c\x7f\x81\x85\x88\xa0\xff";

/// Lines that only a shell can evaluate, or that are not what they seem to be.
const SHELL_CODE: &[&str] = &[
    "RPC_BIND_ADDRESSES=10.9.9.1 10.9.9.2",
    "RPC_BIND_ADDRESSES=10.9.9.1 RPC_BIND_ADDRESSES=10.9.9.2",
    "RPC_BIND_ADDRESSES=10.9.9.1 :",
    "RPC_BIND_ADDRESSES=10.9.9.1 \r",
    "RPC_BIND_ADDRESSES=10.9.9.1;A=1",
    "RPC_BIND_ADDRESSES=10.9.9.1; RPC_BIND_ADDRESSES=10.9.9.2",
    "A=1 || RPC_BIND_ADDRESSES=10.9.9.1",
    "A=1 &&\n# x\nRPC_BIND_ADDRESSES=10.9.9.1",
    "A=1 | RPC_BIND_ADDRESSES=10.9.9.1",
    "RPC_BIND_ADDRESSES=10.9.9.1&",
    "RPC_BIND_ADDRESSES = 10.9.9.1",
    "RPC_BIND_ADDRESSES+=,10.9.9.1",
    "RPC_BIND_ADDRESSES[0]=10.9.9.1",
    "RPC_BIND_ADDRESSES=(10.9.9.1 10.9.9.2)",
    "RPC_BIND_ADDRESSES=$A",
    "RPC_BIND_ADDRESSES=\"$A\"",
    "RPC_BIND_ADDRESSES=\"${A:-10.9.9.1}\"",
    "A=\"${RPC_BIND_ADDRESSES:=10.9.9.1}\"",
    "A=\"$((RPC_BIND_ADDRESSES=1))\"",
    "RPC_BIND_ADDRESSES=$(echo 10.9.9.1)",
    "RPC_BIND_ADDRESSES=\"`echo 10.9.9.1`\"",
    "RPC_BIND_ADDRESSES=$'10.9.9.1'",
    "RPC_BIND_ADDRESSES=10.9.9.1:~",
    "RPC_BIND_ADDRESSES=*",
    "RPC_BIND_ADDRESSES={10.9.9.1,10.9.9.2}",
    "RPC_BIND_ADDRESSES=10.9.9.1,\\\nA=1",
    "RPC_BIND_ADDRESSES=10.9.9.1,\\10.9.9.2",
    "RPC_BIND_ADDRESSES=\"10.9.9.1\\\"\"",
    "RPC_BIND_ADDRESSES=\"10.9.9.1,\\\\\"",
    "RPC_BIND_ADDRESSES=\"10.9.9.1\nRPC_BIND_ADDRESSES=10.9.9.2\"",
    "A='\nRPC_BIND_ADDRESSES=10.9.9.1 #'",
    "RPC_BIND_ADDRESSES=cc\u{e9}",
    "\u{feff}RPC_BIND_ADDRESSES=10.9.9.1",
    "export RPC_BIND_ADDRESSES=10.9.9.1 RPC_BIND_ADDRESSES=10.9.9.2",
    "export A RPC_BIND_ADDRESSES=10.9.9.1",
    "export\rRPC_BIND_ADDRESSES=10.9.9.1",
    "readonly RPC_BIND_ADDRESSES",
    "declare -i RPC_BIND_ADDRESSES",
    "unset RPC_BIND_ADDRESSES",
    "eval RPC_BIND_ADDRESSES=10.9.9.1",
    "read RPC_BIND_ADDRESSES",
    "alias export=:",
    "UID=1",
    "export EUID=",
    "PPID=1",
    "OPTIND=A",
    "RANDOM=RPC_BIND_ADDRESSES=7",
    "SRANDOM=RPC_BIND_ADDRESSES=7",
    "HISTCMD=1/0",
    "SHELLOPTS=",
    "BASHOPTS=",
    "BASH_VERSINFO=1",
    "exit",
    "return",
    "if false; then\nRPC_BIND_ADDRESSES=10.9.9.1\nfi",
    "case A in B)\nRPC_BIND_ADDRESSES=10.9.9.1\nesac",
    "for RPC_BIND_ADDRESSES in 10.9.9.1; do\nA=1\ndone",
    ": <<EOF\nRPC_BIND_ADDRESSES=10.9.9.1\nEOF",
    ": <<'A'\nRPC_BIND_ADDRESSES=10.9.9.1",
    "f() {\nRPC_BIND_ADDRESSES=10.9.9.1\n}",
    "(\nRPC_BIND_ADDRESSES=10.9.9.1\n)",
    "[ -e 10.9.9.1 ] &&\n\nRPC_BIND_ADDRESSES=10.9.9.1",
    "!\nRPC_BIND_ADDRESSES=10.9.9.1",
];

/// A line that needs no shell.
fn plain_line() -> impl Strategy<Value = Vec<u8>> {
    let line = |pattern: &str| bytes_regex(&format!("(?-u){pattern}")).unwrap();
    let words = format!(r"{WORD}([, \t]{{1,2}}{WORD}){{0,2}}");
    let single = format!(r"'({words}|[^a-z/'\n\x00]{{0,8}})'");
    let double = format!(r#""({words}|[^a-z/"$`\\\n\x00]{{0,8}})""#);
    let any_name = format!("({NAME}|RPC_BIND_ADDRESSES)");
    let variable = format!(r#""{WORD}?\$({any_name}|\{{{any_name}\}})[ ,:']?""#);
    let start = r"[ \t]{0,2}(export[ \t]{1,2})?";
    prop_oneof![
        1 => line(r"[ \t]{0,2}\r?"),
        2 => line(r"[ \t]{0,2}#( RPC_BIND_ADDRESSES=10\.9\.9\.9|[^a-z/\n\x00]{0,12})\\?\r?"),
        4 => line(&format!(r"{start}RPC_BIND_ADDRESSES=({WORD}|{single}|{double}){{0,4}}\r?{TAIL}")),
        3 => line(&format!(r"{start}{NAME}=({WORD}|{single}|{double}|{variable}){{0,3}}\r?{TAIL}")),
        1 => line(&format!(r"[ \t]{{0,2}}export[ \t]{{1,2}}{any_name}{TAIL}")),
    ]
}

fn plain_file() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::collection::vec(plain_line(), 1..8);
    (lines, prop::sample::select(vec!["", "\n", "\n\n"])).prop_map(|(lines, end)| {
        let text = lines.join(&b'\n');
        [text.as_slice(), end.as_bytes()].concat()
    })
}

/// A file, and whether it has only plain lines: half of them; the others are damaged or have shell code.
fn file() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let index = any::<prop::sample::Index>;
    let edit = (index(), 0..=1_usize, prop::option::of(prop::sample::select(SPECIAL)));
    let damaged = (plain_file(), prop::collection::vec(edit, 1..4)).prop_map(|(mut text, edits)| {
        for (at, removed, added) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, added);
        }
        text
    });
    // In half of the files nothing comes after it, so that what it does to the value stays.
    let place = prop::option::of(index());
    let with_code = (plain_file(), prop::sample::select(SHELL_CODE), place).prop_map(|(text, code, place)| {
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        let end = lines.len();
        lines.insert(place.map_or(end, |place| place.index(end)), code.as_bytes());
        lines.join(&b'\n')
    });
    prop_oneof![
        2 => plain_file().prop_map(|text| (text, true)),
        1 => damaged.prop_map(|text| (text, false)),
        1 => with_code.prop_map(|text| (text, false)),
    ]
}

/// The value of RPC_BIND_ADDRESSES, which is empty if nothing is assigned to it.
type Value = Vec<u8>;

/// What is read in the file; None where only a shell can tell it.
fn reading(text: &[u8]) -> Option<Value> {
    let mut value = Some(Vec::new());
    for line in lines(text) {
        match line {
            Line::Assignment(b"RPC_BIND_ADDRESSES", assigned) => value = assigned,
            Line::Assignment(..) | Line::Nothing => {}
            Line::Other => return None,
        }
    }
    value
}

/// Whether a shell reads our value. To a shell, the carriage return at the end of a line belongs to it.
fn is_read_alike(ours: &[u8], read: &[u8]) -> bool {
    read.strip_prefix(ours).is_some_and(|rest| matches!(rest, b"" | b"\r"))
}

/// What a shell reads in each of these files; None where it does not get to the end.
fn read_by(shell: (&str, &str, &str), texts: &[Vec<u8>]) -> Vec<Option<Value>> {
    let folder = Folder::new();
    let work = folder.join("work");
    fs::create_dir(&work).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for (number, text) in texts.iter().enumerate() {
        fs::write(folder.join(&number.to_string()), text).unwrap();
    }
    let (program, name, value) = shell;
    let output = Command::new(program)
        .args(["-c", SCRIPT, "shell"])
        .args((0..texts.len()).map(|number| format!("../{number}")))
        .env_clear()
        .envs([("PATH", "/nonexistent"), (name, value)])
        .current_dir(&work)
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{shell:?} says {said}");
    let mut values = Vec::new();
    let mut value = None;
    for record in output.stdout.split_inclusive(|byte| *byte == 0) {
        match record {
            [b'=', read @ .., 0] => value = Some(read.to_vec()),
            _ => values.push(value.take()),
        }
    }
    assert_eq!(values.len(), texts.len(), "{shell:?}");
    values
}

#[test]
fn what_is_accepted_is_what_shells_read() {
    let count = amount("CMONHACHK_SHELL_FILES", 2_000, 100_000);
    let mut runner = TestRunner::deterministic();
    let files = file();
    let mut accepted = 0;
    for start in (0..count).step_by(BATCH) {
        let mut texts = Vec::new();
        for _ in start..count.min(start + BATCH) {
            let (text, is_plain) = files.new_tree(&mut runner).unwrap().current();
            let is_unclear = reading(&text).is_none();
            assert!(!(is_plain && is_unclear), "refused: \"{}\"", text.escape_ascii());
            if !is_unclear {
                texts.push(text);
            }
        }
        accepted += texts.len();
        thread::scope(|scope| {
            for shell in SHELLS {
                let texts = &texts;
                scope.spawn(move || {
                    for (text, read) in texts.iter().zip(read_by(shell, texts)) {
                        let ours = reading(text).unwrap();
                        let read = read.unwrap_or_default();
                        assert!(is_read_alike(&ours, &read), "{shell:?}: \"{}\"", text.escape_ascii());
                    }
                });
            }
        });
    }
    println!(
        "{count} files: {accepted} accepted, and read alike by {} shells",
        SHELLS.len()
    );
    assert!(accepted > count / 3, "only {accepted} of {count} files were accepted");
}
