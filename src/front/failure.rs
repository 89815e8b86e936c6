//! Why it ends.

use std::process::ExitCode;

/// Why a run ends early: its exit status, and what an operator reads.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    lines: Vec<String>,
}

/// What a step gives.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Something on this host or another one is wrong: status 1.
    pub fn of(line: impl Into<String>) -> Failure {
        Failure::of_lines(vec![line.into()])
    }

    /// The same in several lines.
    pub fn of_lines(lines: Vec<String>) -> Failure {
        Failure { status: 1, lines }
    }

    /// The command line is wrong: status 2.
    pub fn of_usage(line: &str) -> Failure {
        Failure {
            status: 2,
            lines: vec![format!("{line}; see --help")],
        }
    }

    /// Says why, and gives the exit status.
    pub fn end(self) -> ExitCode {
        complain(&self.lines);
        self.status.into()
    }
}

/// Says what is wrong, a line each.
pub fn complain(lines: &[String]) {
    for line in lines {
        eprintln!("cmonhachk-front: {line}");
    }
}

/// # Errors
/// Always: status 1, with this line.
pub fn fail<T>(line: impl Into<String>) -> Outcome<T> {
    Err(Failure::of(line))
}
