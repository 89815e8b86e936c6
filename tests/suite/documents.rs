//! What the manual page says is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cmonhachk::verdict::reason::Reason;
use regex::Regex;

use crate::built;
use crate::cluster::{Folder, binary, project};

const PAGES: [&str; 2] = ["cmonhachk.8", "cmonhachk-front.8"];

/// How a display begins in a page's source: a command, or a text.
pub const COMMAND: &str = "-literal -offset indent -compact";
pub const TEXT: &str = "-unfilled -offset indent -compact";

fn source(page: &str) -> String {
    fs::read_to_string(project().join("deploy/man").join(page)).unwrap()
}

/// What these escapes stand for.
fn plain(source: &str) -> String {
    let escapes = [
        (r"\-", "-"),
        (r"\(aq", "'"),
        (r"\(ti", "~"),
        (r"\(ha", "^"),
        (r"\e", r"\"),
    ]
    .into_iter();
    escapes.fold(source.to_string(), |text, (escape, character)| {
        text.replace(escape, character)
    })
}

/// Commands, with one line for each.
pub fn joined(commands: &str) -> String {
    let breaks = Regex::new(r"( \\|( \|))\n +").unwrap();
    breaks.replace_all(commands, "$2 ").into_owned()
}

/// What is quoted in running text, and the mark behind it.
fn quoted() -> Regex {
    Regex::new(r"(?m)^\.(?:Pq .*?)?Ql (.*?)(?: \))?(?: ([.,]))?$").unwrap()
}

/// The page on a terminal of 80 columns: by man, by mandoc, and by a groff that makes typographic characters
/// of what is not escaped, as some distributions have it.
fn rendered(page: &str) -> Vec<String> {
    let folder = Folder::new();
    let strict = ".char - \\[hy]\n.char ' \\[cq]\n.char ~ \\[u02DC]\n.char ^ \\[u02C6]\n.char ` \\[oq]\n";
    folder.write("mdoc.local", strict);
    let script = r#"
        export LC_ALL=C.UTF-8 MANWIDTH=80 FOLDER=$1
        sh -c "$2 $3" | sed 's/.\x08//g'"#;
    let by = |program: &str| {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-ec", script, "bash"]);
        command.arg(folder.path()).arg(program);
        let output = command.arg(project().join("deploy/man").join(page)).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let groff = "groff -mdoc -Tutf8 -P-cbou -rLL=78n -M $FOLDER";
    ["man --local-file", "mandoc -T utf8 -O width=78", groff]
        .map(by)
        .to_vec()
}

/// The displays of the rendered page, one after the other: how each begins in the source, and its lines as they
/// are in the page.
fn displays<'a>(page: &str, rendered: &'a str) -> Vec<(String, Vec<&'a str>)> {
    let text = source(page);
    let mut lines: Vec<&str> = rendered.lines().collect();
    let mut find = |display: &str| {
        let (begin, text) = display.split_once('\n').unwrap();
        let text = plain(text.split("\n.Ed").next().unwrap());
        let wanted: Vec<&str> = text.lines().collect();
        let is_it = |place: &[&str]| {
            let indent = place[0].len() - place[0].trim_start().len();
            let mut both = place.iter().zip(&wanted);
            both.all(|(line, wanted)| line.get(indent..) == Some(*wanted))
        };
        let at = lines.windows(wanted.len()).position(is_it);
        lines.drain(..at.unwrap_or_else(|| panic!("not in {page} as on the terminal: {text}")));
        (begin.to_string(), lines.drain(..wanted.len()).collect())
    };
    text.split("\n.Bd ").skip(1).map(&mut find).collect()
}

/// The commands or texts of the page, as they are copied from `man` on a terminal of 80 columns.
pub fn copied(page: &str, what: &str) -> Vec<String> {
    let rendered = &rendered(page)[0];
    let shown = displays(page, rendered).into_iter().filter(|(begin, _)| begin == what);
    shown.map(|(_, lines)| lines.join("\n")).collect()
}

#[test]
fn what_a_page_shows_can_be_copied_from_a_terminal_of_80_columns() {
    for page in PAGES {
        let text = source(page);
        let quoted: Vec<String> = quoted().captures_iter(&text).map(|found| plain(&found[1])).collect();
        for rendered in rendered(page) {
            for (_, lines) in displays(page, &rendered) {
                assert!(
                    lines.iter().all(|line| line.chars().count() <= 80),
                    "too wide: {lines:?}"
                );
            }
            // A line break inside would make two commands.
            for words in &quoted {
                let count = quoted.iter().filter(|other| *other == words).count();
                assert!(
                    rendered.matches(words).count() >= count,
                    "{page} breaks or changes: {words}"
                );
            }
        }
        let commands = copied(page, COMMAND);
        assert!(commands.len() > 4 && !text.contains("\n.Dl "), "{page}: {commands:?}");
        for command in commands {
            let check = Command::new("bash").args(["-n", "-c", &command]).output().unwrap();
            assert!(
                check.status.success() && check.stderr.is_empty(),
                "{command}: {check:?}"
            );
            // A line that goes on says so.
            let indent = command.len() - command.trim_start().len();
            let ends = |line: &str| !line[indent..].starts_with(' ');
            assert!(joined(&command).lines().all(ends), "{command}");
        }
    }
}

/// The manual page's source, with each entry of a list on a line of its own and its text in words. A command
/// has a line of its own there, too.
fn entries() -> Vec<String> {
    let page = source("cmonhachk.8").replace("\n.El\n", "\n.It\n");
    let page = page.replace(".Bk -words\n", "").replace(".Ek\n", "");
    let page = quoted().replace_all(&page, "`$1`$2");
    let page = page.replace("\n.Po\n", "\n(").replace("\n.Pc ,\n", "),\n");
    let command = Regex::new(&format!(r"(?s)\n\.Bd {COMMAND}\n(.*?)\n\.Ed\n")).unwrap();
    let page = command.replace_all(&page, |found: &regex::Captures<'_>| {
        format!("\r  {}\r", joined(&plain(&found[1])))
    });
    let entries = page.split("\n.It ").skip(1);
    let text = |entry: &str| {
        plain(
            &entry
                .split("\n.It\n")
                .next()
                .unwrap()
                .replace('\n', " ")
                .replace('\r', "\n"),
        )
    };
    entries.map(text).collect()
}

/// The lines of a help that begin with an option.
fn option_lines(help: &[u8]) -> Vec<String> {
    let help = str::from_utf8(help).unwrap();
    let lines = help.lines().map(str::trim_start);
    lines.filter(|line| line.starts_with('-')).map(str::to_string).collect()
}

/// The options of `--help`, one a line.
fn help() -> Vec<String> {
    let output = Command::new(binary()).arg("--help").env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    option_lines(&output.stdout)
}

#[test]
fn no_manual_page_has_a_fault_of_form() {
    for page in ["cmonhachk.8", "cmonhachk-front.8"] {
        let page = project().join("deploy/man").join(page);
        let output = Command::new("mandoc").args(["-T", "lint"]).arg(page).output().unwrap();
        // A page that it refers to may not be installed here; that is no fault of this page.
        let said = String::from_utf8(output.stdout).unwrap();
        let faults: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains("referenced manual not found"))
            .collect();
        assert_eq!(faults, [""; 0]);
    }
}

#[test]
fn the_manual_page_has_every_reason_with_its_meaning_and_advice_and_no_other() {
    let entries = entries();
    for reason in Reason::ALL {
        let entry = format!("Sy {} {} {}", reason.code(), reason.meaning(), reason.advice());
        assert!(entries.contains(&entry), "not in deploy/man/cmonhachk.8: {entry}");
    }
    let states = ["leader", "follower", "unknown"];
    for state in states {
        let entry = format!("Sy {state} ");
        assert!(entries.iter().any(|other| other.starts_with(&entry)), "{state}");
    }
    for entry in entries.iter().filter_map(|entry| entry.strip_prefix("Sy ")) {
        let code = entry.split(' ').next().unwrap();
        assert!(
            states.contains(&code) || Reason::from_code(code).is_some(),
            "there is no reason {code}"
        );
    }
}

#[test]
fn the_manual_page_has_every_option_with_its_variable_default_and_meaning_as_help_tells_them() {
    let entries = entries();
    let mut documented: Vec<&String> = entries.iter().filter(|entry| entry.starts_with("Fl ")).collect();
    for line in help().iter().filter(|line| line.starts_with("--")) {
        let (usage, rest) = line.split_once("  ").unwrap();
        let usage = usage.replacen("--", "Fl -", 1).replace('<', "Ar ").replace('>', "");
        let mut brackets = rest.split(" [");
        let mut start = format!("{usage} {}.", brackets.next().unwrap().trim());
        if rest.contains(" [env: ") {
            start += " Variable .Ev ";
        }
        let at = documented.iter().position(|entry| entry.starts_with(&start));
        let entry = documented.remove(at.unwrap_or_else(|| panic!("not in deploy/man/cmonhachk.8: {start}")));
        for bracket in brackets {
            let (kind, value) = bracket.trim_end_matches(']').split_once(": ").unwrap();
            let value = value.trim_end_matches('=');
            assert!(
                entry.split(' ').any(|word| word.trim_matches(['`', '.']) == value),
                "{kind} {value} is not in: {entry}"
            );
        }
    }
    assert_eq!(
        documented,
        ["Fl h , Fl -help Print help.", "Fl V , Fl -version Print version."]
    );
}

/// What bash completes after `--`.
fn completed(program: &str) -> BTreeSet<String> {
    let script = format!(
        ". deploy/package/completion; COMP_WORDS=({program} --); COMP_CWORD=1; complete -p {program} >/dev/null; \
         _{}; echo ${{COMPREPLY[*]}}",
        program.replace('-', "_")
    );
    let mut command = Command::new("bash");
    let output = command.args(["-ec", &script]).current_dir(project()).output().unwrap();
    let completed = String::from_utf8(output.stdout).unwrap();
    completed.split_whitespace().map(str::to_string).collect()
}

/// The options of `cmonhachk-front --help`, one a line.
fn help_of_front() -> Vec<String> {
    let output = Command::new(built::front()).arg("--help").output().unwrap();
    option_lines(&output.stdout)
}

#[test]
fn the_manual_page_of_the_front_has_every_option_with_its_argument_and_default_and_no_other() {
    let usage = |line: &String| line.split("  ").next().unwrap().replace(['<', '>'], "");
    let mut told: Vec<String> = help_of_front().iter().map(usage).collect();
    let page = source("cmonhachk-front.8");
    let entries = page.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    let mut documented: Vec<String> = entries
        .map(|entry| format!("-{}", entry.replace(" , Fl ", ", -").replace("Ar ", "")))
        .collect();
    told.sort();
    documented.sort();
    assert_eq!(documented, told);
    for line in help_of_front() {
        let default = line
            .split_once("[default: ")
            .map(|(_, rest)| rest.trim_end_matches(']').to_string());
        if let Some(number) = default.filter(|default| default.parse::<u16>().is_ok()) {
            assert!(
                page.contains(&format!("default {number}.")) || page.contains(&format!("default {number};")),
                "{line}"
            );
        }
    }
}

#[test]
fn bash_completes_every_option_and_no_other() {
    let long = Regex::new("--[a-z0-9-]+").unwrap();
    let options = |lines: Vec<String>| -> BTreeSet<String> {
        let usage = lines.iter().map(|line| line.split("  ").next().unwrap());
        usage
            .flat_map(|usage| long.find_iter(usage))
            .map(|option| option.as_str().to_string())
            .collect()
    };
    assert_eq!(completed("cmonhachk"), options(help()));
    let front = options(help_of_front());
    assert!(front.len() > 9, "{front:?}");
    assert_eq!(completed("cmonhachk-front"), front);
}

#[test]
fn every_reason_has_a_code_of_its_own_that_fits_a_header() {
    for (at, reason) in Reason::ALL.into_iter().enumerate() {
        let code = reason.code();
        assert!(
            code.chars()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-'),
            "{code}"
        );
        assert_eq!(Reason::from_code(code), Some(reason));
        assert!(
            Reason::ALL.iter().skip(at + 1).all(|other| other.code() != code),
            "{code} twice"
        );
    }
}

/// The documents in this folder and below, without what is built.
fn documents_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut documents = Vec::new();
    for path in entries {
        if path.is_dir() && path != project().join("target") {
            documents.extend(documents_in(&path));
        } else if path.extension().is_some_and(|kind| kind == "md") {
            documents.push(path);
        }
    }
    documents
}

/// What the part of a link behind # can be: the headings, as sites that show such documents name them.
fn headings(document: &str) -> Vec<String> {
    let titles = document.lines().filter(|line| line.starts_with('#'));
    let name = |title: &str| {
        let words = title.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.collect::<String>().replace(' ', "-")
    };
    titles.map(name).collect()
}

#[test]
fn every_link_to_a_file_or_heading_leads_there() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut count = 0;
    for document in documents_in(project()) {
        let text = fs::read_to_string(&document).unwrap();
        let links = link.captures_iter(&text).map(|found| found[1].to_string());
        for target in links.filter(|target| !target.contains("://")) {
            count += 1;
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let file = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(file.exists(), "{}: there is no {target}", document.display());
            if !heading.is_empty() {
                let headings = headings(&fs::read_to_string(file).unwrap());
                assert!(
                    headings.iter().any(|other| other == heading),
                    "{}: no heading {target}: {headings:?}",
                    document.display()
                );
            }
        }
    }
    assert!(count > 5, "{count} links");
}
