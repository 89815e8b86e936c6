//! The simulated s9s prints what the genuine client prints.
//!
//! tests/lists holds sample lists in the genuine client's format; the simulation is given the same
//! controllers and must print the same bytes.

use std::fs;
use std::process::Command;

use cmonhachk::cluster::list;

use crate::cluster::{Folder, project, simulated_s9s};

/// The controllers of each sample: state, version, owner, group, name, IP, port, comment.
const SAMPLES: [(&str, &str, &str); 5] = [
    (
        "three",
        "list",
        "f|2.3.4.11302|system|admins|cc-a.example.net|192.0.2.11|9501|Accepting heartbeats.\n\
         l|2.3.4.11302|system|admins|cc-b.example.net|192.0.2.12|9501|Acting as leader.\n\
         f|2.3.4.11302|system|admins|cc-c.example.net|192.0.2.113|9501|Accepting heartbeats.\n",
    ),
    (
        "coloured",
        "colour",
        "l|2.3.4.11302|system|admins|192.0.2.11|192.0.2.11|9501|Acting as leader.\n\
         f|2.3.4.11302|system|admins|192.0.2.12|192.0.2.12|9501|Accepting heartbeats.\n",
    ),
    (
        "incomplete",
        "list",
        "-|-|system|admins|192.0.2.11|-|9501|Not responding to heartbeats.\n\
         ?|2.3.4.11302|system|admins|192.0.2.12|192.0.2.12|9501|Election in progress.\n",
    ),
    (
        "single",
        "list",
        "l|1.7.4.3565|system|admins|192.0.2.11|192.0.2.11|9501|Acting as leader.\n",
    ),
    ("none", "list", ""),
];

#[test]
fn the_simulation_prints_the_sample_lists() {
    for (name, behaviour, controllers) in SAMPLES {
        let folder = Folder::new();
        folder.write("controllers", controllers.replace('|', "\t"));
        folder.write("behaviour", format!("{behaviour}\n"));
        let output = Command::new(simulated_s9s())
            .args(cmonhachk::s9s::ARGUMENTS)
            .env("S9S_SIM", folder.join(""))
            .env("HOME", "/")
            .output()
            .unwrap();
        let sample = project().join("tests/lists").join(name);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            fs::read_to_string(&sample).unwrap(),
            "{}",
            sample.display()
        );
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn the_sample_lists_are_read_as_what_they_show() {
    for (name, _, controllers) in SAMPLES {
        let sample = fs::read(project().join("tests/lists").join(name)).unwrap();
        let text = cmonhachk::s9s::printed::plain(&sample);
        let rows = list::parse(&text).unwrap();
        let read: Vec<(u8, &[u8], &[u8])> = rows.iter().map(|row| (row.line[0], row.name, row.ip)).collect();
        let shown: Vec<(u8, &[u8], &[u8])> = controllers
            .lines()
            .map(|line| {
                let fields: Vec<&str> = line.split('|').collect();
                (line.as_bytes()[0], fields[4].as_bytes(), fields[5].as_bytes())
            })
            .collect();
        assert_eq!(read, shown, "{name}");
    }
}

#[test]
fn the_simulation_is_as_strict_as_the_client() {
    let folder = Folder::new();
    let run = |arguments: &[&str], home: &str| {
        let mut command = Command::new(simulated_s9s());
        let output = command
            .args(arguments)
            .env("S9S_SIM", folder.join(""))
            .env("HOME", home)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, said) = run(&["controller", "--list", "--long"], "");
    assert_eq!((status, said.as_str()), (Some(6), "No user name set.\n"));
    // Further words are filters to the client; nothing here may rely on them.
    assert_eq!(run(&["controller", "--list", "--long", "10.0.0.101"], "/").0, Some(1));
}
