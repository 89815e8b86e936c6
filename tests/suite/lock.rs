//! One s9s at a time, one verdict for all who ask at the same moment.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::entry::Entry;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Uid, chown, mkfifo};

use crate::cluster::{
    Cluster, FOLLOWER, GET, LEADER, Node, connect, in_namespaces, unknown, wait_until, waits_for_a_lock,
};

#[test]
fn fifty_checks_at_the_same_moment_are_fifty_right_answers_from_one_run() {
    let cluster = Cluster::new();
    cluster.behaves("slow 0.3");
    let node = cluster.leader();
    let mut clients: Vec<_> = (0..50).map(|_| node.connect(&[])).collect();
    for client in &mut clients {
        client.send(GET);
    }
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn with_max_age_0_only_those_who_were_waiting_share() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = cluster.leader();
    let ask = || {
        let mut client = node.connect(&["--max-age", "0", "--timeout", "20"]);
        client.send(GET);
        client
    };
    let mut clients = vec![ask()];
    wait_until("s9s runs", || cluster.runs() == 1);
    clients.extend((0..10).map(|_| ask()));
    wait_until("the others wait", || {
        clients[1..]
            .iter()
            .all(|client| waits_for_a_lock(client.responder.id()))
    });
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    // Nobody is waiting now, so everybody runs s9s.
    assert_eq!(node.get(&["--max-age", "0"]), LEADER);
    assert_eq!(node.get(&["--max-age", "0"]), LEADER);
    assert_eq!(cluster.runs(), 3);
}

#[test]
fn within_max_age_the_verdict_is_given_again_and_after_it_a_new_one() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for _ in 0..20 {
        assert_eq!(node.get(&["--max-age", "60"]), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    cluster.leads("10.0.0.102");
    assert_eq!(node.get(&["--max-age", "60"]), LEADER);
    wait_until("the verdict is old and a new one is given", || {
        node.get(&["--max-age", "0.2"]) == FOLLOWER
    });
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn an_unknown_verdict_is_shared_like_any_other() {
    let cluster = Cluster::new();
    cluster.behaves("fail 5 Connection refused.");
    let node = cluster.leader();
    for _ in 0..5 {
        assert_eq!(node.get(&["--max-age", "60"]), unknown("s9s-no-connection"));
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn those_who_wait_for_a_hanging_s9s_are_told_what_the_first_one_met() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let node = cluster.leader();
    let start = || {
        let mut client = node.connect(&["--timeout", "1.5"]);
        client.send(GET);
        client
    };
    let mut clients = vec![start()];
    wait_until("s9s runs", || cluster.runs() == 1);
    clients.extend((0..10).map(|_| start()));
    for client in clients {
        assert_eq!(client.answer(), unknown("s9s-timeout"));
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn a_kill_in_the_middle_of_a_check_stops_no_later_one() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let node = cluster.leader();
    let mut client = node.connect(&[]);
    client.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    client.responder.kill().unwrap();
    client.responder.wait().unwrap();
    cluster.behaves("list");
    assert_eq!(node.get(&[]), LEADER);
    wait_until("nothing of the killed check is left", || cluster.processes().is_empty());
}

#[test]
fn a_kill_lets_one_of_those_who_wait_go_on() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let node = cluster.leader();
    let mut killed = node.connect(&[]);
    killed.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    cluster.behaves("list");
    let mut waiting: Vec<_> = (0..5).map(|_| node.connect(&[])).collect();
    for client in &mut waiting {
        client.send(GET);
    }
    wait_until("the others wait", || {
        waiting.iter().all(|client| waits_for_a_lock(client.responder.id()))
    });
    killed.responder.kill().unwrap();
    killed.responder.wait().unwrap();
    for client in waiting {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_lock_that_is_never_free_is_not_waited_for_past_the_deadline() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let held = node.hold_the_lock();
    let start = Instant::now();
    assert_eq!(node.get(&["--timeout", "0.5"]), unknown("lock-timeout"));
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!(cluster.runs(), 0);
    drop(held);
    assert_eq!(node.get(&[]), LEADER);
}

#[test]
fn a_lock_that_comes_free_before_the_deadline_is_taken() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let held = node.hold_the_lock();
    let mut client = node.connect(&[]);
    client.send(GET);
    wait_until("the responder waits for the lock", || {
        waits_for_a_lock(client.responder.id())
    });
    drop(held);
    assert_eq!(client.answer(), LEADER);
}

/// The entries beside the node's lock file: paths and texts.
fn entries(node: &Node<'_>) -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(node.lock.parent().unwrap()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter_map(|path| {
            let text = fs::read_link(&path).ok()?.into_os_string().into_string().ok()?;
            text.starts_with("cmonhachk").then_some((path, text))
        })
        .collect()
}

/// The one entry that a check on this node leaves when the node leads; then it follows again, and
/// nothing has been run.
fn entry_of_a_leader(node: &Node<'_>) -> (PathBuf, Entry) {
    node.cluster.leads("10.0.0.102");
    assert_eq!(node.get(&["--max-age", "60"]), LEADER);
    let (path, text) = entries(node).pop().unwrap();
    let entry = Entry::decode(&text).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(node.cluster.folder.join("runs")).unwrap();
    node.cluster.leads("10.0.0.101");
    (path, entry)
}

fn put(path: &Path, text: &str) {
    let _ = fs::remove_file(path);
    symlink(text, path).unwrap();
}

#[test]
fn an_entry_is_believed_only_in_its_time_its_boot_and_its_key() {
    let cluster = Cluster::new();
    let node = cluster.node("10.0.0.102");
    let (path, valid) = entry_of_a_leader(&node);
    put(&path, &valid.encode());
    assert_eq!(
        node.get(&["--max-age", "60"]),
        LEADER,
        "the entry that the others differ from"
    );
    let valid = || valid.clone();
    let boot = |id: &str| Some(id.to_string());
    for (what, text) in [
        (
            "another boot",
            Entry {
                boot: boot("00000000-0000-0000-0000-000000000000"),
                ..valid()
            }
            .encode(),
        ),
        ("no boot", Entry { boot: None, ..valid() }.encode()),
        (
            "the past",
            Entry {
                from: valid().from.saturating_sub(Duration::from_secs(61)),
                ..valid()
            }
            .encode(),
        ),
        (
            "the future",
            Entry {
                from: valid().from + Duration::from_secs(600),
                ..valid()
            }
            .encode(),
        ),
        ("another key", Entry { key: 0, ..valid() }.encode()),
        ("another version", valid().encode().replace("cmonhachk4", "cmonhachk3")),
        ("nonsense", "leader".to_string()),
    ] {
        put(&path, &text);
        assert_eq!(node.get(&["--max-age", "60"]), FOLLOWER, "an entry of {what}");
        let runs = cluster.runs();
        assert_eq!(
            node.get(&["--max-age", "60"]),
            FOLLOWER,
            "what replaced an entry of {what}"
        );
        assert_eq!(cluster.runs(), runs);
    }
    assert_eq!(cluster.runs(), 7);
}

#[test]
fn an_entry_of_another_user_is_not_believed() {
    if !Uid::effective().is_root() {
        return;
    }
    let cluster = Cluster::new();
    let node = cluster.node("10.0.0.102");
    let (path, valid) = entry_of_a_leader(&node);
    put(&path, &valid.encode());
    lchown(&path, Some(65534), Some(65534)).unwrap();
    assert_eq!(node.get(&["--max-age", "60"]), FOLLOWER);
}

#[test]
fn entries_that_are_of_no_use_any_more_are_removed_with_the_first_of_a_new_key() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let old = |boot: &str, from: &str| {
        let path = node.lock.with_extension(format!("101.{from}"));
        put(&path, &format!("cmonhachk4 0000000000000001 {boot} {from} - leader"));
        path
    };
    let gone = old("00000000-0000-0000-0000-000000000000", "1");
    put(&node.lock.with_extension("foreign"), "elsewhere");
    assert_eq!(node.get(&[]), LEADER);
    assert!(fs::symlink_metadata(gone).is_err());
    assert!(fs::symlink_metadata(node.lock.with_extension("foreign")).is_ok());
    assert_eq!(entries(&node).len(), 1);
}

#[test]
fn wherever_the_lock_file_is_named_its_verdict_is_shared() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.lock.to_str().unwrap();
    let other = format!("{lock}-2");
    let check = |arguments: &[&str], variable: Option<&str>| {
        let mut command = node.command();
        command
            .env_remove("CMONHACHK_LOCK_FILE")
            .args(["--max-age", "60"])
            .args(arguments);
        if let Some(value) = variable {
            command.env("CMONHACHK_LOCK_FILE", value);
        }
        let usual = node.cluster.folder.join("run");
        let script = format!("mkdir -p {0}; mount --bind {0} /run; exec \"$@\"", usual.display());
        let mut client = connect(&mut in_namespaces(&["--mount"], &script, &command));
        client.send(GET);
        assert_eq!(client.answer(), LEADER);
        cluster.runs()
    };
    let equals = format!("--lock-file={lock}");
    for (arguments, variable, runs) in [
        (&[][..], None, 1),
        (&[], Some(lock), 2),
        (&["--lock-file", lock], None, 2),
        (&["--lock-file", lock], Some(&other[..]), 2),
        (&[&equals], None, 2),
        (&[&equals], Some(&other), 2),
    ] {
        assert_eq!(check(arguments, variable), runs, "{arguments:?} {variable:?}");
        assert_eq!(check(arguments, variable), runs, "{arguments:?} {variable:?}");
    }
    assert!(!Path::new(&other).exists());
    assert!(node.cluster.folder.join("run/cmonhachk/lock").exists());
}

#[test]
fn a_lock_file_of_another_version_is_taken_over() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    for content in [String::new(), format!("cmonhachk-verdict 2 {}\n", "x".repeat(5000))] {
        fs::write(&node.lock, content).unwrap();
        fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
        let runs = cluster.runs();
        for _ in 0..3 {
            assert_eq!(node.get(&["--max-age", "0.2"]), LEADER);
        }
        assert_eq!(cluster.runs(), runs + 1);
        assert_eq!(entries(&node).len(), 1);
        wait_until("the entry is old", || {
            node.get(&["--max-age", "0.2"]) == LEADER && cluster.runs() > runs + 1
        });
        fs::remove_file(&entries(&node)[0].0).unwrap();
    }
}

#[test]
fn a_verdict_reached_with_another_s9s_conf_or_client_is_not_taken() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let check = |name: &str, value: &str| {
        let output = node
            .command()
            .args(["--max-age", "60"])
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), LEADER);
        cluster.runs()
    };
    assert_eq!(check("REMOTE_HOST", "10.0.0.1"), 1);
    assert_eq!(check("REMOTE_HOST", "10.0.0.2"), 1, "who asks makes no difference");
    assert_eq!(check("HOME", "/tmp"), 2);
    assert_eq!(check("S9S_SYSTEM_CONFIG", "/tmp/s9s.conf"), 3);
    assert_eq!(check("CMON_CONTROLLER", "https://10.0.0.9:9501"), 4);
    assert_eq!(check("PATH", "/bin:/usr/bin"), 4, "the same s9s is found");
    assert_eq!(check("CMONHACHK_TIMEOUT", "4"), 4, "the verdict is the same");
    assert_eq!(check("HOME", "/tmp"), 4, "the entries lie side by side");
}

#[test]
fn two_services_on_one_lock_file_share_it_and_not_their_verdicts() {
    let cluster = Cluster::new();
    let leader = cluster.leader();
    let follower = Node {
        lock: leader.lock.clone(),
        ..cluster.node("10.0.0.102")
    };
    for _ in 0..20 {
        assert_eq!(leader.get(&["--max-age", "60"]), LEADER);
        assert_eq!(follower.get(&["--max-age", "60"]), FOLLOWER);
    }
    assert_eq!(cluster.runs(), 2);
}

#[test]
fn a_verdict_that_still_counts_is_only_read() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.lock.to_str().unwrap();
    for (arguments, variable) in [
        (&[][..], None),
        (&[], Some(lock)),
        (&["--lock-file", lock], Some("/nonexistent")),
    ] {
        let mut command = node.command();
        command.env_remove("CMONHACHK_LOCK_FILE").args(["--max-age", "60"]);
        command.args(arguments);
        if let Some(value) = variable {
            command.env("CMONHACHK_LOCK_FILE", value);
        }
        let check = |how: &str| {
            let folder = cluster.folder.path().display();
            let script = format!("mount --bind {folder} /run; mount -o remount,bind,{how} /run; cd /run; exec \"$@\"");
            let lock = format!("mount --bind {folder} {folder}; mount -o remount,bind,{how} {folder}; {script}");
            let mut client = connect(&mut in_namespaces(&["--mount"], &lock, &command));
            client.send(GET);
            assert_eq!(client.answer(), LEADER, "{arguments:?} {variable:?} {how}");
        };
        check("rw");
        // A check that wants to write cannot, and asks s9s.
        cluster.leads("10.0.0.102");
        check("ro");
        cluster.leads("10.0.0.101");
    }
}

#[test]
fn an_entry_is_of_this_boot_and_as_old_as_its_run() {
    let cluster = Cluster::new();
    let before = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into();
    cluster.behaves("slow 0.3");
    let (_, entry) = entry_of_a_leader(&cluster.node("10.0.0.102"));
    let after: Duration = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(entry.boot.as_deref(), Some(boot.trim()));
    assert!(entry.from > before && entry.from + Duration::from_millis(300) < after);
}

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

#[test]
fn the_time_kept_for_the_hand_over_is_no_more_than_a_part_of_what_there_is() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let list = "S VERSION OWNER GROUP NAME IP         PORT COMMENT\n\
                l 1.9     a     b     cc1  10.0.0.101 9501\nTotal: 1 controller(s)\n";
    let s9s = cluster
        .folder
        .write("quick", format!("#!/bin/sh\necho '{}'\n", list.trim_end()));
    fs::set_permissions(&s9s, Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--max-age", "0", "--timeout", "0.1", "--s9s", s9s.to_str().unwrap()];
    // A machine that is busy may well take longer now and then.
    wait_until("a short time is enough", || node.answer(&arguments) == LEADER);
}

fn put_lock(node: &Node<'_>, content: &[u8]) {
    fs::write(&node.lock, content).unwrap();
    fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
}

/// The check caches elsewhere, and what lay in the lock file's place is as it was.
fn is_refused(what: &str, prepare: impl FnOnce(&Node<'_>)) {
    let cluster = Cluster::new();
    let node = cluster.node("10.0.0.102");
    prepare(&node);
    let state = || {
        let kind = fs::symlink_metadata(&node.lock).unwrap().file_type();
        // Only a file, for a FIFO would be waited for.
        let content = kind.is_file().then(|| fs::read(&node.lock).unwrap());
        (
            kind,
            content,
            fs::read(cluster.folder.join("target")).ok(),
            cluster.folder.join("nowhere").exists(),
        )
    };
    let before = state();
    assert_eq!(node.get(&["--max-age", "60"]), FOLLOWER, "{what}");
    assert_eq!(node.get(&["--max-age", "60"]), FOLLOWER, "{what}");
    assert_eq!(cluster.runs(), 1, "{what}: the verdict is shared all the same");
    assert_eq!(state(), before, "{what}");
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
    is_refused("another program's file", |node| {
        put_lock(node, &[b'#'; 1000]);
    });
    if Uid::effective().is_root() {
        is_refused("a device", |node| {
            mknod(&node.lock, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
        });
        is_refused("another user's file", |node| {
            put_lock(node, b"");
            chown(&node.lock, Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).unwrap();
        });
    }
}

#[test]
fn no_lock_file_is_made_in_another_users_folder() {
    if !Uid::effective().is_root() {
        return;
    }
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
    assert_eq!(node.get(&[]), LEADER);
}

/// A check where the folder of the lock file is made by a script that runs before it.
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

#[test]
fn no_rate_of_checks_makes_more_than_one_run_in_max_age() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let start = Instant::now();
    let checks: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut checks = 0;
                    while start.elapsed() < Duration::from_secs(2) {
                        assert_eq!(node.get(&["--max-age", "0.5"]), LEADER);
                        checks += 1;
                    }
                    checks
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let possible = start.elapsed().as_millis() as usize / 500 + 1;
    assert!(checks > 2 * possible, "too few checks ({checks}) to show anything");
    assert!(
        cluster.runs() <= possible,
        "{checks} checks took {} runs, {possible} would do",
        cluster.runs()
    );
}
