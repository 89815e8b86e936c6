//! Other files in the lock file's place, and places where it cannot be made.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chown, mkfifo};

use crate::cluster::{Cluster, FOLLOWER, GET, LEADER, Node, connect, in_namespaces};

#[test]
fn a_lock_file_may_be_named_without_its_folder() {
    let cluster = Cluster::new();
    let mut command = cluster.leader().command();
    command.env("CMONHACHK_LOCK_FILE", "here").args(["--max-age", "60"]);
    command.current_dir(cluster.folder.path());
    for _ in 0..2 {
        let answer = command.output().unwrap().stdout;
        assert_eq!(String::from_utf8(answer).unwrap(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    assert!(cluster.folder.join("here").is_file());
}

#[test]
fn a_symbolic_link_is_named_as_what_it_is() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    symlink("target", &node.lock).unwrap();
    let text = node.answer(&["--explain"]);
    assert!(text.contains("not used: it is a symbolic link\n"), "{text}");
}

fn put_lock(node: &Node<'_>, content: &[u8]) {
    fs::write(&node.lock, content).unwrap();
    fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
}

/// The check caches elsewhere, and does not change what is in the lock file's place.
fn is_refused(what: &str, prepare: impl FnOnce(&Node<'_>)) {
    let cluster = Cluster::new();
    let node = cluster.node("10.0.0.102");
    prepare(&node);
    let state = || {
        let kind = fs::symlink_metadata(&node.lock).unwrap().file_type();
        // Read only a regular file: reading a FIFO would block.
        let content = kind.is_file().then(|| fs::read(&node.lock).unwrap());
        (
            kind,
            content,
            fs::read(cluster.folder.join("target")).ok(),
            cluster.folder.join("nowhere").exists(),
        )
    };
    let before = state();
    assert_eq!(node.get_in_own_memory(&["--max-age", "60"]), FOLLOWER, "{what}");
    assert_eq!(node.get_in_own_memory(&["--max-age", "60"]), FOLLOWER, "{what}");
    assert_eq!(cluster.runs(), 1, "{what}: the verdict is shared all the same");
    assert_eq!(state(), before, "{what}");
    let memory = cluster.folder.join("memory/cmonhachk-0/lock");
    assert!(memory.exists(), "{what}: it is used");
}

#[test]
fn whatever_else_lies_in_the_lock_files_place_is_not_followed_trusted_or_touched() {
    is_refused("a symbolic link", |node| {
        let target = node.cluster.folder.write("target", "");
        symlink(target, &node.lock).unwrap();
    });
    is_refused("a dangling symbolic link", |node| {
        symlink(node.cluster.folder.join("nowhere"), &node.lock).unwrap();
    });
    is_refused("a hard link", |node| {
        let target = node.cluster.folder.write("target", "");
        fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(target, &node.lock).unwrap();
    });
    is_refused("a directory", |node| fs::create_dir(&node.lock).unwrap());
    is_refused("a FIFO", |node| mkfifo(&node.lock, Mode::S_IRWXU).unwrap());
    is_refused("a socket", |node| drop(UnixListener::bind(&node.lock).unwrap()));
    is_refused("a file that others may write to", |node| {
        put_lock(node, b"");
        fs::set_permissions(&node.lock, Permissions::from_mode(0o666)).unwrap();
    });
    is_refused("a file that others may read, and lock", |node| {
        put_lock(node, b"");
        fs::set_permissions(&node.lock, Permissions::from_mode(0o644)).unwrap();
    });
    is_refused("another program's file", |node| {
        put_lock(node, &[b'#'; 1000]);
    });
    is_refused("a device", |node| {
        mknod(&node.lock, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    });
    is_refused("another user's file", |node| {
        put_lock(node, b"");
        chown(&node.lock, Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).unwrap();
    });
}

#[test]
fn no_lock_file_is_made_in_another_users_folder() {
    let cluster = Cluster::new();
    let folder = cluster.folder.join("service");
    fs::create_dir(&folder).unwrap();
    let node = Node {
        lock: folder.join("lock"),
        ..cluster.leader()
    };
    let check = || node.answer(&["--max-age", "60", "--explain"]);
    chown(&folder, Some(Uid::from_raw(65534)), None).unwrap();
    let text = check();
    assert!(text.contains("verdict: leader"), "{text}");
    assert!(
        text.contains("its folder belongs to user 65534 and this check runs as user 0; run it as that user"),
        "{text}"
    );
    assert!(!node.lock.exists(), "root's file would lock the service out");
    chown(&folder, Some(Uid::from_raw(0)), None).unwrap();
    assert!(check().contains("not there; the service's first check makes it"));
    assert!(!node.lock.exists(), "an explained check makes no file");
    node.answer(&[]);
    assert!(check().contains("usable"));
}

#[test]
fn a_lock_file_that_cannot_be_made_does_not_stop_the_check() {
    let cluster = Cluster::new();
    let node = Node {
        lock: cluster.folder.join("no-such/folder/lock"),
        ..cluster.leader()
    };
    assert_eq!(node.get_in_own_memory(&[]), LEADER);
}

/// A check after a script that makes the folder of the lock file.
fn with_lock_folder(script: &str) -> String {
    let cluster = Cluster::new();
    let folder = cluster.folder.join("locks");
    fs::create_dir(&folder).unwrap();
    let node = Node {
        lock: folder.join("lock"),
        ..cluster.leader()
    };
    let script = format!(
        "mount -t tmpfs tmpfs /dev/shm; cd {}; {script}; exec \"$@\"",
        folder.display()
    );
    let mut client = connect(&mut in_namespaces(&["--mount"], &script, &node.command()));
    client.send(GET);
    client.answer()
}

#[test]
fn a_verdict_that_cannot_be_written_down_is_given_all_the_same() {
    let full = "mount -t tmpfs -o size=4k tmpfs .; cd .; head -c 4096 /dev/zero >ballast";
    assert_eq!(with_lock_folder(full), LEADER, "on a full disk");
    let read_only = "mount -t tmpfs -o ro tmpfs .";
    assert_eq!(with_lock_folder(read_only), LEADER, "on a read-only one");
    assert_eq!(
        with_lock_folder("prlimit --fsize=100 --pid $$"),
        LEADER,
        "where files may not grow"
    );
}

#[test]
fn the_lock_file_is_the_owners_alone() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    node.get(&[]);
    assert_eq!(fs::metadata(&node.lock).unwrap().permissions().mode() & 0o7777, 0o600);
}
