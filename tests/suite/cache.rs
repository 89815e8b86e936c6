//! A cached verdict: how long it is used, for which checks, and from which entries.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::cache::entry::Entry;
use cmonhachk::os::clock::Instant as SinceBoot;
use nix::time::{ClockId, clock_gettime};

use crate::cluster::{
    Cluster, FOLLOWER, GET, LEADER, Node, connect, in_namespaces, requesting, unknown, wait_until, waits_for_a_verdict,
};

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

/// The entry beside the node's lock file: its path and text.
fn entry(node: &Node<'_>) -> (PathBuf, String) {
    let path = PathBuf::from(format!("{}.verdict", node.lock.display()));
    let text = fs::read_link(&path).unwrap().into_os_string().into_string().unwrap();
    (path, text)
}

/// The entry that a check leaves while this node leads. Afterwards the node follows again, and
/// the runs are counted from zero.
fn entry_of_a_leader(node: &Node<'_>, arguments: &[&str]) -> (PathBuf, Entry) {
    node.cluster.leads("10.0.0.102");
    assert_eq!(node.get(arguments), LEADER);
    let (path, text) = entry(node);
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
    let (path, valid) = entry_of_a_leader(&node, &["--max-age", "60"]);
    put(&path, &valid.encode());
    assert_eq!(
        node.get(&["--max-age", "60"]),
        LEADER,
        "the entry that the others differ from"
    );
    let valid = || valid.clone();
    for (what, text) in [
        (
            "the past",
            Entry {
                from: SinceBoot(valid().from.0 - Duration::from_secs(61)),
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
        ("another version", valid().encode().replace("cmonhachk7", "cmonhachk6")),
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
    assert_eq!(cluster.runs(), 5);
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
fn a_verdict_reached_with_another_s9s_conf_client_or_defaults_file_is_not_taken() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let check = |name: &str, value: &str| {
        let mut check = node.command();
        check.args(["--max-age", "60"]).env(name, value);
        assert_eq!(requesting(&mut check, GET).answer(), LEADER);
        cluster.runs()
    };
    assert_eq!(check("REMOTE_HOST", "10.0.0.1"), 1);
    assert_eq!(check("REMOTE_HOST", "10.0.0.2"), 1, "who asks makes no difference");
    assert_eq!(check("HOME", "/tmp"), 2);
    assert_eq!(check("S9S_SYSTEM_CONFIG", "/tmp/s9s.conf"), 3);
    assert_eq!(check("CMON_CONTROLLER", "https://10.0.0.9:9501"), 4);
    assert_eq!(
        check("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        5
    );
    assert_eq!(check("PATH", "/bin:/usr/bin"), 5, "the same s9s is found");
    assert_eq!(check("CMONHACHK_TIMEOUT", "4"), 6, "one s9s has more time than another");
    let text = fs::read_to_string(&node.defaults).unwrap();
    assert_eq!(check("CMONHACHK_TIMEOUT", "4"), 6);
    fs::write(&node.defaults, text).unwrap();
    assert_eq!(
        check("CMONHACHK_TIMEOUT", "4"),
        7,
        "the defaults file was written again"
    );
}

#[test]
fn two_services_on_one_lock_file_run_s9s_one_at_a_time_and_take_no_verdict_of_the_other() {
    let cluster = Cluster::new();
    let leader = cluster.leader();
    let follower = Node {
        lock: leader.lock.clone(),
        ..cluster.node("10.0.0.102")
    };
    for round in 1..10 {
        assert_eq!(leader.get(&["--max-age", "60"]), LEADER);
        assert_eq!(follower.get(&["--max-age", "60"]), FOLLOWER);
        assert_eq!(cluster.runs(), 2 * round);
    }
    cluster.behaves("gate");
    let mut clients = vec![requesting(&mut leader.command(), GET)];
    wait_until("s9s runs", || cluster.runs() == 19);
    clients.push(requesting(follower.command().args(["--max-age", "0"]), GET));
    wait_until("the other waits", || waits_for_a_verdict(clients[1].responder.id()));
    cluster.open_gate();
    let answers: Vec<_> = clients.into_iter().map(|client| client.answer()).collect();
    assert_eq!(answers, [LEADER, FOLLOWER]);
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
        // A check that has to write cannot, and would ask s9s.
        cluster.leads("10.0.0.102");
        check("ro");
        cluster.leads("10.0.0.101");
    }
}

#[test]
fn an_entry_is_as_old_as_its_run() {
    let cluster = Cluster::new();
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
    let before = now();
    cluster.behaves("slow 0.3");
    let (_, entry) = entry_of_a_leader(&cluster.node("10.0.0.102"), &[]);
    assert!(entry.from.0 > before && entry.from.0 + Duration::from_millis(300) < now());
}

#[test]
fn an_entry_of_another_boot_is_not_believed() {
    let cluster = Cluster::new();
    let node = cluster.node("10.0.0.102");
    let (path, valid) = entry_of_a_leader(&node, &["--max-age", "60"]);
    put(&path, &valid.encode());
    let boot = cluster.folder.write("boot", "00000000-0000-0000-0000-000000000000\n");
    let script = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id; exec \"$@\"",
        boot.display()
    );
    let mut check = node.command();
    check.args(["--max-age", "60"]);
    let mut client = connect(&mut in_namespaces(&["--mount"], &script, &check));
    client.send(GET);
    assert_eq!(client.answer(), FOLLOWER);
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
    assert!(checks > possible, "too few checks ({checks}) to show anything");
    assert!(
        cluster.runs() <= possible,
        "{checks} checks took {} runs, {possible} would do",
        cluster.runs()
    );
}
