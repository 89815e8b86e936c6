//! The binary needs nothing of the system that it runs on.

use std::fs;
use std::process::Command;

use crate::cluster::{Cluster, GET, binary, connect, in_namespaces, unknown};

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
