//! The complete texts that people read, as in `snapshots/`: a change shows there, to be read once more.
//! `INSTA_UPDATE=always cargo test -- texts` writes them again.

use insta::assert_snapshot;
use regex::Regex;

use crate::cluster::{Cluster, Node, in_namespaces, project};

/// The users of a machine, with and without the service's.
const WITH_SERVICE: &str = "root:x:0:0::/root:/bin/sh\ncmonhachk:x:990:990::/var/lib/cmonhachk:/usr/sbin/nologin\n";
const WITHOUT: &str = "root:x:0:0::/root:/bin/sh\n";

/// What the program prints on a machine with these users, without the parts that differ between runs.
fn text(node: &Node<'_>, users: &str, arguments: &[&str]) -> String {
    let folder = node.cluster.folder.path().to_str().unwrap();
    let users = node.cluster.folder.write("users", users);
    let mut command = node.command();
    command.args(arguments).args(["--timeout", "20"]).env("HOME", folder);
    command.env_remove("CMONHACHK_TIMEOUT");
    command.env("S9S_SYSTEM_CONFIG", format!("{folder}/s9s.conf"));
    let script = format!("mount --bind {} /etc/passwd; exec \"$@\"", users.display());
    let output = in_namespaces(&["--mount"], &script, &command).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = printed
        .replace(folder, "FOLDER")
        .replace(project().to_str().unwrap(), "PROJECT");
    let time = Regex::new(r"after [0-9]+\.[0-9]+ s").unwrap();
    time.replace_all(&printed, "after TIME").into_owned()
}

#[test]
fn help() {
    assert_snapshot!(text(&Cluster::new().leader(), WITHOUT, &["--help"]));
}

#[test]
fn explain_of_a_leader() {
    assert_snapshot!(text(&Cluster::new().leader(), WITH_SERVICE, &["--explain"]));
}

#[test]
fn explain_of_a_refused_login() {
    let cluster = Cluster::new();
    cluster.behaves("fail 3 Invalid username or password.");
    assert_snapshot!(text(&cluster.leader(), WITHOUT, &["--explain"]));
}
