//! The complete texts that people read, as in `snapshots/`: a change shows there, to be read once more.
//! `INSTA_UPDATE=always cargo test -- texts` writes them again.

use insta::assert_snapshot;
use regex::Regex;

use crate::cluster::{Cluster, Node, project};

/// What the program prints, without the parts that differ between runs.
fn text(node: &Node<'_>, arguments: &[&str]) -> String {
    let folder = node.cluster.folder.path().to_str().unwrap();
    let mut command = node.command();
    command.args(arguments).args(["--timeout", "20"]).env("HOME", folder);
    command.env_remove("CMONHACHK_TIMEOUT");
    command.env("S9S_SYSTEM_CONFIG", format!("{folder}/s9s.conf"));
    let printed = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let printed = printed
        .replace(folder, "FOLDER")
        .replace(project().to_str().unwrap(), "PROJECT");
    let time = Regex::new(r"after [0-9]+\.[0-9]+ s").unwrap();
    let printed = time.replace_all(&printed, "after TIME");
    let lines = printed.lines().map(|line| format!("{line}\n"));
    // This line is there only if the service's user exists.
    lines.filter(|line| !line.contains("as the service: ")).collect()
}

#[test]
fn help() {
    assert_snapshot!(text(&Cluster::new().leader(), &["--help"]));
}

#[test]
fn explain_of_a_leader() {
    assert_snapshot!(text(&Cluster::new().leader(), &["--explain"]));
}

#[test]
fn explain_of_a_refused_login() {
    let cluster = Cluster::new();
    cluster.behaves("fail 3 Invalid username or password.");
    assert_snapshot!(text(&cluster.leader(), &["--explain"]));
}
