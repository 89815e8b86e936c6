//! The README says what is so.

use std::fs;
use std::process::Command;

use cmonhachk::reason::Reason;

use crate::cluster::{binary, project};

fn readme() -> String {
    fs::read_to_string(project().join("README.md")).unwrap()
}

#[test]
fn the_readme_has_every_reason_with_its_meaning_and_advice_and_no_other() {
    let readme = readme();
    let table = readme
        .split("| reason | what has happened | what to do |\n|---|---|---|\n")
        .nth(1)
        .expect("the table");
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<String> = Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} | {} |", reason.code(), reason.meaning(), reason.advice()))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn the_readme_has_every_option_with_its_variable_default_and_meaning_as_help_tells_them() {
    let output = Command::new(binary()).arg("--help").env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let readme = readme();
    let rows: Vec<Vec<&str>> = readme
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    for row in &rows {
        let (option, variable, default, meaning) = (row[1], row[2], row[3], row[4]);
        let option = option.replace(' ', " <") + if option.contains(' ') { ">" } else { "" };
        let line = help
            .lines()
            .find(|line| line.trim_start().starts_with(&option))
            .expect(&option);
        assert!(line.contains(&format!("[env: {variable}=]")), "{line}");
        if !default.is_empty() {
            assert!(line.contains(&format!("[default: {default}]")), "{line}");
        }
        let first_letter = |text: &str| text[..1].to_lowercase() + &text[1..];
        let described = line.trim_start().strip_prefix(&option).unwrap().trim_start();
        assert!(
            first_letter(described).starts_with(&first_letter(&meaning.replace("says step", "say step"))),
            "{line} / {meaning}"
        );
    }
    let options = help.lines().filter(|line| line.trim_start().starts_with("--")).count();
    assert_eq!(rows.len(), options, "{help}");
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
