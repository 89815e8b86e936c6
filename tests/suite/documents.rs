//! What the manual page says is true.

use std::fs;
use std::process::Command;

use cmonhachk::reason::Reason;

use crate::cluster::{binary, project};

/// The manual page's source, with each entry of a list on a line of its own and its text in words.
fn entries() -> Vec<String> {
    let page = fs::read_to_string(project().join("deploy/man/cmonhachk.8")).unwrap();
    let page = page.replace("\\(ga", "`").replace("\n.El\n", "\n.It\n");
    let entries = page.split("\n.It ").skip(1);
    let text = |entry: &str| entry.split("\n.It\n").next().unwrap().replace('\n', " ");
    entries.map(text).collect()
}

/// The options of `--help`, one a line.
fn help() -> Vec<String> {
    let output = Command::new(binary()).arg("--help").env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let lines = help.lines().map(str::trim_start);
    lines.filter(|line| line.starts_with('-')).map(str::to_string).collect()
}

#[test]
fn the_manual_page_has_no_fault_of_form() {
    let page = project().join("deploy/man/cmonhachk.8");
    let output = Command::new("mandoc").args(["-T", "lint"]).arg(page).output().unwrap();
    // A page that it refers to may not be installed here; that is no fault of this page.
    let said = String::from_utf8(output.stdout).unwrap();
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("referenced manual not found"))
        .collect();
    assert_eq!(faults, [""; 0]);
}

#[test]
fn the_manual_page_has_every_reason_with_its_meaning_and_advice_and_no_other() {
    let entries = entries();
    for reason in Reason::ALL {
        let entry = format!("Sy {} {} {}", reason.code(), reason.meaning(), reason.advice());
        assert!(entries.contains(&entry), "not in deploy/man/cmonhachk.8: {entry}");
    }
    let states = ["leader", "follower", "unknown"];
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
                entry.split(' ').any(|word| word == value),
                "{kind} {value} is not in: {entry}"
            );
        }
    }
    assert_eq!(
        documented,
        ["Fl h , Fl -help Print help.", "Fl V , Fl -version Print version."]
    );
}

#[test]
fn bash_completes_every_option_and_no_other() {
    let script =
        ". deploy/package/completion; COMP_WORDS=(cmonhachk --); COMP_CWORD=1; _cmonhachk; echo ${COMPREPLY[*]}";
    let output = Command::new("bash")
        .args(["-c", script])
        .current_dir(project())
        .output()
        .unwrap();
    let completed = String::from_utf8(output.stdout).unwrap();
    let mut completed: Vec<&str> = completed.split_whitespace().collect();
    let help = help();
    let mut options: Vec<&str> = help
        .iter()
        .map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")).unwrap())
        .collect();
    completed.sort_unstable();
    options.sort_unstable();
    assert_eq!(completed, options);
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
