//! The binary needs nothing from the system that it runs on, and its parts are known.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::built;
use crate::cluster::{Cluster, GET, binary, connect, in_namespaces, project, unknown};

#[test]
fn the_binary_runs_where_there_is_nothing_else() {
    let cluster = Cluster::new();
    let root = &cluster.folder;
    let node = cluster.leader();
    fs::copy(binary(), root.join("cmonhachk")).unwrap();
    root.write("defaults", "RPC_BIND_ADDRESSES=10.0.0.101\n");
    for folder in ["proc", "dev", "run"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    root.write("dev/null", "");
    let mut check = Command::new("chroot");
    check
        .arg(root.path())
        .args(["/cmonhachk", "--cmon-defaults", "/defaults"]);
    for (name, value) in node.command().get_envs() {
        if name == "PATH" {
            check.env(name, value.unwrap());
        }
    }
    let script = format!(
        "cd {}; mount -t proc none proc; mount --bind /dev/null dev/null; exec \"$@\"",
        root.path().display()
    );
    let mut client = connect(&mut in_namespaces(&["--mount"], &script, &check));
    client.send(GET);
    assert_eq!(client.answer(), unknown("s9s-not-found"));
    assert!(root.join("run/cmonhachk/lock").exists());
}

/// Whether an ELF file is position-independent, and whether it needs an interpreter.
pub fn kind(program: &[u8]) -> (bool, bool) {
    const ET_DYN: u16 = 3;
    const PT_INTERP: u16 = 3;
    let half = |at: usize| u16::from_le_bytes([program[at], program[at + 1]]);
    let headers = (0..half(56)).map(|header| usize::from(half(32) + header * half(54)));
    (half(16) == ET_DYN, headers.into_iter().any(|at| half(at) == PT_INTERP))
}

#[test]
fn the_programs_are_static_and_position_independent() {
    for program in [PathBuf::from(binary()), built::leads(), built::front()] {
        assert_eq!(
            kind(&fs::read(&program).unwrap()),
            (true, false),
            "{}",
            program.display()
        );
    }
}

#[test]
fn what_the_binary_is_made_of_is_listed_with_its_licences() {
    let tree = Command::new("cargo")
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}|{l}"])
        .current_dir(project())
        .output()
        .unwrap();
    let mut used: Vec<String> = String::from_utf8(tree.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("cmonhachk "))
        .map(|line| {
            let (package, licence) = line.trim_end_matches(" (*)").split_once('|').unwrap();
            let name = package.split(' ').next().unwrap();
            format!("{name} | {licence}")
        })
        .collect();
    used.sort();
    used.dedup();
    let text = fs::read_to_string(project().join("deploy/package/notices")).unwrap();
    let table = text.split("package | licence | copyright\n").nth(1).expect("the table");
    let rows = table.lines().take_while(|line| !line.is_empty());
    let listed: Vec<&str> = rows.map(|row| row.rsplit_once(" | ").unwrap().0).collect();
    assert_eq!(listed, used);
}
