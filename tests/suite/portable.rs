//! The binary needs nothing from the system that it runs on, and its parts are known.

use std::fs;
use std::process::Command;

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
