//! Many checks at once: one run of s9s, whatever the lock file is, and nobody in anybody's way.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{
    Client, Cluster, GET, LEADER, Node, connect, in_namespaces, once_in_a_while, requesting, unknown, wait_until,
    wait_until_all_but_one_wait, waits_for_a_lock,
};

/// This many checks at the same moment, on a node that leads. One of them runs s9s.
fn at_once(cluster: &Cluster, checks: usize, connect: impl Fn(&[&str]) -> Client) {
    cluster.behaves("gate");
    let mut clients: Vec<_> = (0..checks).map(|_| connect(&["--max-age", "0"])).collect();
    for client in &mut clients {
        client.send(GET);
    }
    wait_until_all_but_one_wait(&clients);
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
}

#[test]
fn without_a_usable_lock_file_many_checks_at_once_are_one_run() {
    let cluster = Cluster::new();
    let node = Node {
        lock: cluster.folder.join("no-such/folder/lock"),
        ..cluster.leader()
    };
    at_once(&cluster, 40, |arguments| node.connect_in_own_memory(arguments));
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn where_no_entry_can_be_written_beside_the_lock_file_many_checks_are_one_run_all_the_same() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    fs::write(&node.lock, "").unwrap();
    fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
    // A folder takes the place of the draft, because root may write everywhere else.
    let name = node.lock.file_name().unwrap().to_str().unwrap().to_string();
    assert_eq!(node.get(&["--max-age", "0"]), LEADER);
    let entries = fs::read_dir(cluster.folder.path())
        .unwrap()
        .map(|file| file.unwrap().path());
    let entry = entries.into_iter().find(|path| path.is_symlink()).unwrap();
    assert!(entry.file_name().unwrap().to_str().unwrap().starts_with(&name));
    fs::create_dir(format!("{}.new", entry.display())).unwrap();
    // An entry of a boot that lasted longer stays there, and must not hide the new one.
    let text = fs::read_link(&entry).unwrap().to_str().unwrap().to_string();
    let mut words: Vec<&str> = text.split(' ').collect();
    words[2] = "00000000-0000-0000-0000-000000000000";
    words[3] = "999999999999999";
    fs::remove_file(&entry).unwrap();
    symlink(words.join(" "), &entry).unwrap();
    let runs = cluster.runs();
    at_once(&cluster, 40, |arguments| node.connect_in_own_memory(arguments));
    assert_eq!(node.get_in_own_memory(&["--max-age", "60"]), LEADER);
    assert_eq!(cluster.runs(), runs + 1);
}

#[test]
fn clients_that_send_nothing_take_no_run_from_those_that_do() {
    // A silent one is waited for during the first second of its check.
    assert!(once_in_a_while(|| {
        let cluster = Cluster::new();
        cluster.behaves("gate");
        let node = cluster.leader();
        let check = || requesting(node.command().args(["--max-age", "60"]), b"");
        let mut clients = vec![check()];
        wait_until("it runs s9s", || cluster.runs() == 1);
        clients.extend((0..7).map(|_| check()));
        let good = requesting(node.command().args(["--max-age", "60"]), GET);
        wait_until("it waits for the lock", || waits_for_a_lock(good.responder.id()));
        let start = Instant::now();
        cluster.open_gate();
        assert_eq!(good.answer(), LEADER);
        let took = start.elapsed();
        assert_eq!(cluster.runs(), 1, "of the run that a silent one began");
        let silent_is_waited_for = clients[0].is_waiting();
        for client in clients {
            assert_eq!(client.answer(), LEADER);
        }
        println!("{took:?}, and a silent one was waited for: {silent_is_waited_for}");
        silent_is_waited_for
    }));
}

#[test]
fn a_timeout_of_a_check_that_waited_for_the_lock_is_not_shared() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.hold_the_lock();
    let options = ["--timeout", "6", "--max-age", "60"];
    let mut client = node.connect(&options);
    client.send(GET);
    cluster.behaves("hang");
    // A third of its time.
    thread::sleep(Duration::from_secs(2));
    drop(lock);
    assert_eq!(client.answer(), unknown("s9s-timeout"));
    cluster.behaves("list");
    assert_eq!(node.get(&options), LEADER);
}

#[test]
fn a_failure_that_has_nothing_to_do_with_time_is_shared_by_a_check_that_waited() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.hold_the_lock();
    let clients: Vec<_> = (0..20)
        .map(|_| requesting(node.command().args(["--timeout", "8"]), GET))
        .collect();
    cluster.behaves("connection-refused");
    wait_until("they wait", || {
        clients.iter().all(|client| waits_for_a_lock(client.responder.id()))
    });
    // So long that a timeout would not be shared any more.
    thread::sleep(Duration::from_millis(2200));
    drop(lock);
    for client in clients {
        assert_eq!(client.answer(), unknown("s9s-no-connection"));
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn the_folder_of_the_lock_file_is_made_for_its_user_alone() {
    let cluster = Cluster::new();
    let folder = cluster.folder.join("run");
    let node = Node {
        lock: folder.join("lock"),
        ..cluster.leader()
    };
    assert_eq!(node.answer(&[]), LEADER);
    assert!(
        !folder.exists(),
        "a check by hand must not make the folder of the service"
    );
    assert_eq!(cluster.runs(), 1);
    at_once(&cluster, 10, |arguments| node.connect(arguments));
    assert_eq!(cluster.runs(), 2);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn without_a_boot_id_only_those_who_waited_share() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = cluster.leader();
    let start = || {
        let mut command = node.command();
        command.args(["--max-age", "60"]);
        let script = "mount --bind /dev/null /proc/sys/kernel/random/boot_id; exec \"$@\"";
        let mut client = connect(&mut in_namespaces(&["--mount"], script, &command));
        client.send(GET);
        client
    };
    let clients = [start(), start(), start()];
    wait_until_all_but_one_wait(&clients);
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 1);
    assert_eq!(start().answer(), LEADER);
    assert_eq!(cluster.runs(), 2, "an old entry was believed");
}

#[test]
fn a_person_who_looks_is_in_no_checks_way() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("gate");
    let looks: Vec<_> = [&["--explain"][..], &["--explain"], &[]]
        .map(|arguments| node.command().args(arguments).stdout(Stdio::null()).spawn().unwrap())
        .into();
    wait_until("they look", || cluster.runs() == 3);
    let clients: Vec<Client> = (0..6).map(|_| requesting(&mut node.command(), GET)).collect();
    wait_until_all_but_one_wait(&clients);
    wait_until("one of them runs s9s", || cluster.runs() == 4);
    cluster.open_gate();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 4);
    for mut look in looks {
        assert_eq!(look.wait().unwrap().code(), Some(0));
    }
}
