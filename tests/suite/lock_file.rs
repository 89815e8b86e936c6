//! Other files in the lock file's place, and places where it cannot be made.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Uid, chown, mkfifo};

use crate::cluster::{Cluster, GET, LEADER, Node, connect, in_namespaces, requesting, unknown};
use crate::syslog::{Log, logging};

#[test]
fn a_lock_file_may_be_named_without_its_folder() {
    let cluster = Cluster::new();
    let mut command = cluster.leader().command();
    command.env("CMONHACHK_LOCK_FILE", "here").args(["--max-age", "60"]);
    command.current_dir(cluster.folder.path());
    for _ in 0..2 {
        assert_eq!(requesting(&mut command, GET).answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    assert!(cluster.folder.join("here").is_file());
}

/// The check does not run s9s, says what is wrong, and does not change what is in the lock file's place.
fn is_refused(words: &str, prepare: impl FnOnce(&Node<'_>)) {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
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
    for _ in 0..3 {
        let check = requesting(&mut logging(&node, &["--max-age", "60"]), GET);
        assert_eq!(check.answer(), unknown("lock-unusable"), "{words}");
    }
    assert_eq!(cluster.runs(), 0, "{words}");
    assert_eq!(state(), before, "{words}");
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let named = format!("<28>none -> unknown lock-unusable: lock file {}: ", node.lock.display());
    assert!(
        lines[0].starts_with(&named) && lines[0].contains(words),
        "{words}: {lines:?}"
    );
    let explained = node.answer(&["--explain"]);
    assert!(
        explained.contains("  it cannot be used: it is not a regular file"),
        "{explained}"
    );
    assert!(explained.contains("HAProxy is told 503"), "{explained}");
}

#[test]
fn whatever_else_lies_in_the_lock_files_place_is_not_followed_trusted_or_touched() {
    is_refused("it cannot be opened: ", |node| {
        let target = node.cluster.folder.write("target", "");
        symlink(target, &node.lock).unwrap();
    });
    is_refused("it cannot be opened: ", |node| {
        symlink(node.cluster.folder.join("nowhere"), &node.lock).unwrap();
    });
    is_refused("it cannot be opened: ", |node| fs::create_dir(&node.lock).unwrap());
    is_refused("it is not a regular file", |node| {
        mkfifo(&node.lock, Mode::S_IRWXU).unwrap();
    });
    is_refused("it cannot be opened: ", |node| {
        drop(UnixListener::bind(&node.lock).unwrap())
    });
    is_refused("it is not a regular file", |node| {
        mknod(&node.lock, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    });
}

/// A node whose lock file is in a folder of this owner and mode.
fn in_a_folder(cluster: &Cluster, owner: u32, mode: u32) -> Node<'_> {
    let folder = cluster.folder.join("service");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(Uid::from_raw(owner)), None).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
    Node {
        lock: folder.join("lock"),
        s9s: cluster.folder.join("sim"),
        ..cluster.leader()
    }
}

#[test]
fn a_folder_in_which_another_user_can_write_holds_no_lock() {
    for (owner, mode, words) in [
        (0, 0o777, "other users can write into its folder (mode 0777)"),
        (0, 0o1777, "other users can write into its folder (mode 1777)"),
        (0, 0o770, "other users can write into its folder (mode 0770)"),
        (
            65533,
            0o755,
            "its folder belongs to user 65533 and this check runs as user 0",
        ),
    ] {
        let cluster = Cluster::for_any_user();
        let log = Log::open(&cluster);
        let node = in_a_folder(&cluster, owner, mode);
        let check = requesting(&mut logging(&node, &[]), GET);
        assert_eq!(check.answer(), unknown("lock-unusable"), "{words}");
        let lines = log.lines();
        assert!(lines[0].contains(words), "{words}: {lines:?}");
        assert_eq!(cluster.runs(), 0, "{words}");
        assert_eq!(fs::read_dir(node.lock.parent().unwrap()).unwrap().count(), 0, "{words}");

        let explained = node.answer(&["--explain"]);
        let line = match owner {
            0 => format!("  it cannot be used: {words}\n"),
            _ => "  its folder belongs to user 65533: the service must run as that user\n".to_string(),
        };
        assert!(explained.contains(&line), "{explained}");
    }
}

#[test]
fn explain_tells_why_nothing_can_be_learnt_of_a_lock_file() {
    let cluster = Cluster::new();
    let long = "x".repeat(300);
    for (lock, words) in [
        (cluster.folder.join(&long), "it cannot be examined"),
        (cluster.folder.join(&long).join("lock"), "its folder cannot be used"),
    ] {
        let node = Node {
            lock,
            ..cluster.leader()
        };
        let explained = node.answer(&["--explain"]);
        let line = format!("  it cannot be used: {words}: ");
        assert!(explained.contains(&line), "{explained}");
    }
}

#[test]
fn the_second_user_of_a_lock_file_changes_nothing_of_the_first_ones() {
    let cluster = Cluster::for_any_user();
    let node = in_a_folder(&cluster, 65534, 0o755);
    let of_nobody = || requesting(node.command_of_nobody().args(["--max-age", "60"]), GET).answer();
    let files = || {
        let files = fs::read_dir(node.lock.parent().unwrap()).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap())
            .map(|file| {
                (
                    file.file_name(),
                    file.metadata().unwrap().ino(),
                    fs::read_link(file.path()).ok(),
                )
            })
            .collect();
        files.sort();
        files
    };
    assert_eq!(of_nobody(), LEADER);
    let before = files();
    for _ in 0..3 {
        assert_eq!(node.get(&["--max-age", "60"]), unknown("lock-unusable"));
        assert_eq!(of_nobody(), LEADER);
    }
    assert_eq!(files(), before);
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn a_lock_file_that_a_former_user_has_left_is_replaced() {
    let cluster = Cluster::for_any_user();
    let node = in_a_folder(&cluster, 65534, 0o700);
    fs::write(&node.lock, "").unwrap();
    fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
    let check = requesting(&mut node.command_of_nobody(), GET);
    assert_eq!(check.answer(), LEADER);
    assert_eq!(fs::metadata(&node.lock).unwrap().uid(), 65534);
}

#[test]
fn a_check_on_the_command_line_makes_no_file() {
    let cluster = Cluster::new();
    let folder = cluster.folder.join("service");
    let node = Node {
        lock: folder.join("lock"),
        ..cluster.leader()
    };
    assert_eq!(node.answer(&[]), LEADER);
    assert!(
        node.answer(&["--explain"])
            .contains("not there; the service's first check makes it")
    );
    assert!(!folder.exists());
    assert_eq!(node.get(&[]), LEADER);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn without_a_folder_for_the_lock_file_s9s_is_not_run() {
    let cluster = Cluster::new();
    let node = Node {
        lock: cluster.folder.join("no-such/folder/lock"),
        ..cluster.leader()
    };
    assert_eq!(node.get(&[]), unknown("lock-unusable"));
    assert_eq!(cluster.runs(), 0);
}

#[test]
fn where_no_back_off_could_be_kept_s9s_is_not_run() {
    let cluster = Cluster::for_any_user();
    cluster.behaves("wrong-password");
    let node = in_a_folder(&cluster, 65534, 0o555);
    for _ in 0..3 {
        let check = requesting(&mut node.command_of_nobody(), GET);
        assert_eq!(check.answer(), unknown("lock-unusable"));
    }
    assert_eq!(cluster.runs(), 0);
}

#[test]
fn without_a_boot_id_s9s_is_not_run() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let script = "mount --bind /dev/null /proc/sys/kernel/random/boot_id; exec \"$@\"";
    let mut client = connect(&mut in_namespaces(&["--mount"], script, &logging(&node, &[])));
    client.send(GET);
    assert_eq!(client.answer(), unknown("lock-unusable"));
    assert_eq!(cluster.runs(), 0);
    assert!(log.lines()[0].contains("without /proc/sys/kernel/random/boot_id, no verdict can be dated"));
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
    let script = format!("cd {}; {script}; exec \"$@\"", folder.display());
    let mut client = connect(&mut in_namespaces(&["--mount"], &script, &node.command()));
    client.send(GET);
    client.answer()
}

#[test]
fn a_verdict_that_cannot_be_written_down_is_given_all_the_same() {
    let full = "mount -t tmpfs -o size=4k,mode=700 tmpfs .; cd .; head -c 4096 /dev/zero >ballast";
    assert_eq!(with_lock_folder(full), LEADER, "on a full disk");
    let without_inodes = "mount -t tmpfs -o nr_inodes=2,mode=700 tmpfs .; cd .; touch lock";
    assert_eq!(with_lock_folder(without_inodes), LEADER, "where no file can be made");
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
