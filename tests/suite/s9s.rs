//! The run of s9s: what it gets, and that no process of it outlives the check.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cmonhachk::s9s::process::MAX_OUTPUT;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::unistd::{Pid, Uid, User};

use crate::cluster::{Cluster, GET, LEADER, Node, connect, in_namespaces, unknown, wait_until, with_fault};

/// What s9s found in its environment, one variable a line.
fn environment(cluster: &Cluster) -> Vec<String> {
    let text = fs::read_to_string(cluster.folder.join("environment")).unwrap();
    text.lines().map(str::to_string).collect()
}

#[test]
fn home_comes_from_the_password_database_when_the_environment_has_none() {
    let cluster = Cluster::new();
    cluster.behaves("environment");
    let node = cluster.leader();
    let home = User::from_uid(Uid::effective()).unwrap().unwrap().dir;
    assert_eq!(node.answer(&[]), LEADER);
    assert!(environment(&cluster).contains(&format!("HOME={}", home.display())));

    let mut command = node.command();
    command.args(["--max-age", "0"]);
    for (given, used) in [
        ("", home.to_str().unwrap()),
        ("/tmp", "/tmp"),
        // Nobody's, not even root's.
        ("/nonexistent", home.to_str().unwrap()),
    ] {
        let output = command.env("HOME", given).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(environment(&cluster).contains(&format!("HOME={used}")), "{given}");
    }
}

#[test]
fn a_home_that_this_user_may_not_enter_counts_as_none() {
    let cluster = Cluster::for_any_user();
    cluster.behaves("environment");
    let home = cluster.folder.join("roots");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    let node = Node {
        s9s: cluster.folder.join("sim"),
        ..cluster.leader()
    };
    let mut check = node.command_of_nobody();
    check.env("HOME", &home);
    assert_eq!(check.output().unwrap().status.code(), Some(0));
    let own = User::from_uid(Uid::from_raw(65534)).unwrap().unwrap().dir;
    assert!(environment(&cluster).contains(&format!("HOME={}", own.display())));
    let told = String::from_utf8(check.arg("--explain").output().unwrap().stdout).unwrap();
    assert!(
        told.contains(&format!("  home {} (from /etc/passwd)\n", own.display())),
        "{told}"
    );
}

#[test]
fn s9s_is_told_how_long_it_may_wait_for_the_controller() {
    let cluster = Cluster::new();
    cluster.behaves("environment");
    let node = cluster.leader();
    for (timeout, told) in [("5", "4"), ("30", "29"), ("1", "1"), ("0.5", "1")] {
        wait_until("the time is enough", || {
            node.answer(&["--max-age", "0", "--timeout", timeout]) == LEADER
        });
        assert!(
            environment(&cluster).contains(&format!("S9S_CONNECTION_TIMEOUT={told}")),
            "{timeout}"
        );
    }
    let output = node
        .command()
        .args(["--max-age", "0"])
        .env("S9S_CONNECTION_TIMEOUT", "17")
        .output();
    assert_eq!(output.unwrap().status.code(), Some(0));
    assert!(environment(&cluster).contains(&"S9S_CONNECTION_TIMEOUT=17".to_string()));
}

#[test]
fn s9s_is_not_told_to_print_the_password() {
    let cluster = Cluster::new();
    cluster.behaves("environment");
    let loud = ["S9S_VERBOSE", "S9S_DEBUG_NETWORK", "S9S_DEBUG"];
    let mut command = cluster.leader().command();
    command
        .envs(loud.map(|name| (name, "1")))
        .env("S9S_USER_CONFIG", "/kept");
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    let environment = environment(&cluster);
    for name in loud {
        assert!(!environment.contains(&format!("{name}=1")), "{environment:?}");
    }
    assert!(environment.contains(&"S9S_USER_CONFIG=/kept".to_string()));
}

#[test]
fn s9s_never_holds_the_clients_socket_or_the_lock() {
    let cluster = Cluster::new();
    cluster.behaves("environment");
    assert_eq!(cluster.leader().get(&[]), LEADER);
    let descriptors = fs::read_to_string(cluster.folder.join("descriptors")).unwrap();
    assert!(descriptors.contains("0 -> /dev/null"), "{descriptors}");
    assert!(descriptors.contains("1 -> pipe:"), "{descriptors}");
    assert!(descriptors.contains("2 -> pipe:"), "{descriptors}");
    assert!(!descriptors.contains("socket:"), "{descriptors}");
    assert!(!descriptors.contains("lock-"), "{descriptors}");
}

#[test]
fn a_name_is_looked_up_on_path_and_on_a_sensible_one_when_there_is_none() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let with = |s9s: &str, path: Option<&Path>| {
        let mut command = node.command();
        command.args(["--max-age", "0", "--s9s", s9s]).env_remove("PATH");
        if let Some(path) = path {
            command.env("PATH", path);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let simulation = crate::cluster::simulated_s9s();
    let folder = simulation.parent().unwrap();
    // The simulation is a shell script that needs awk, so its folder alone is not enough.
    let path = format!("relative::/nonexistent:{}:/usr/bin:/bin", folder.display());
    assert_eq!(with("s9s", Some(Path::new(&path))), LEADER);
    assert_eq!(with("s9s", Some(Path::new("/nonexistent"))), unknown("s9s-not-found"));
    // /bin/true is on the sensible path: it is found and run, and prints no list.
    assert_eq!(with("true", None), unknown("list-unreadable"));
    assert_eq!(with("true", Some(Path::new(""))), unknown("list-unreadable"));
}

#[test]
fn each_way_not_to_start_has_its_reason() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let script = |name: &str, text: &str, mode: u32| {
        let path = cluster.folder.write(name, text);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_string()
    };
    let plain = script("plain", "#!/bin/sh\n", 0o644);
    let shellish = script("shellish", "touch \"$S9S_SIM/ran-by-a-shell\"\n", 0o755);
    let lost = script("lost", "#!/nonexistent/interpreter\n", 0o755);
    let folder = cluster.folder.join("folder");
    fs::create_dir(&folder).unwrap();
    for (s9s, reason) in [
        ("/nonexistent/s9s", "s9s-not-found"),
        ("no-such-program", "s9s-not-found"),
        ("s9s; touch ran", "s9s-not-found"),
        ("$(touch ran)", "s9s-not-found"),
        (plain.as_str(), "s9s-not-executable"),
        (shellish.as_str(), "s9s-not-executable"),
        (lost.as_str(), "s9s-not-executable"),
        (folder.to_str().unwrap(), "s9s-not-executable"),
    ] {
        assert_eq!(node.get(&["--max-age", "0", "--s9s", s9s]), unknown(reason), "{s9s}");
    }
    assert!(!cluster.folder.join("ran-by-a-shell").exists());
    let mut command = node.command();
    command.args(["--s9s", "plain"]).env("PATH", cluster.folder.join(""));
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), unknown("s9s-not-executable"));
}

#[test]
fn what_fails_before_s9s_is_executed_is_no_fault_of_s9s() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let mut check = node.command();
    check.args(["--max-age", "0", "--explain"]);
    let output = with_fault("signalfd4:error=EPERM", &check).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("\n  verdict: unknown s9s-not-started\n"), "{told}");
    assert!(told.contains("(os error 1)"), "{told}");
    for fault in ["prctl:error=EPERM", "setpgid:error=EACCES"] {
        let check = with_fault(fault, node.command().args(["--max-age", "0"]))
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(2), "{fault}");
    }
    let script = "mount -t tmpfs tmpfs /dev; exec \"$@\"";
    let output = in_namespaces(&["--mount"], script, node.command().args(["--max-age", "0"]))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        unknown("s9s-not-started"),
        "without /dev/null"
    );
    assert_eq!(cluster.runs(), 0);
}

#[test]
fn each_failing_of_the_defaults_file_has_its_reason() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let fifo = cluster.folder.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let large = cluster.folder.write("large", vec![b'\n'; 1024 * 1024 + 1]);
    let empty = cluster.folder.write("empty", "");
    let local = cluster.folder.write("local", "RPC_BIND_ADDRESSES=\"127.0.0.1\"\n");
    for (file, reason) in [
        (Path::new("/nonexistent"), "defaults-missing"),
        (&fifo, "defaults-unreadable"),
        (&large, "defaults-unreadable"),
        (Path::new("/"), "defaults-unreadable"),
        (&empty, "no-bind-addresses"),
        (&local, "only-loopback"),
    ] {
        let arguments = ["--max-age", "0", "--cmon-defaults", file.to_str().unwrap()];
        assert_eq!(node.get(&arguments), unknown(reason), "{}", file.display());
    }
    assert_eq!(
        cluster.runs(),
        0,
        "s9s is not asked who leads for a node that does not know who it is"
    );
    let full = [
        b"RPC_BIND_ADDRESSES=10.0.0.101\n".to_vec(),
        vec![b'#'; 1024 * 1024 - 30],
    ]
    .concat();
    let full = cluster.folder.write("full", full);
    assert_eq!(node.get(&["--cmon-defaults", full.to_str().unwrap()]), LEADER);
}

#[test]
fn a_wildcard_is_the_addresses_of_the_interfaces_but_not_loopback() {
    let cluster = Cluster::new();
    let row = |state: char, address: &str| {
        format!("{state}\t1.7.4.3565\tsystem\tadmins\t{address}\t{address}\t9501\tAnything.\n")
    };
    let check = |bind: &str, controllers: &[String]| {
        let defaults = format!("RPC_BIND_ADDRESSES=\"127.0.0.1,{bind}\"\n");
        let defaults = cluster.folder.write("wildcard", defaults);
        cluster.folder.write("controllers", controllers.concat());
        let mut command = cluster.leader().command();
        command.args(["--max-age", "0", "--cmon-defaults"]).arg(defaults);
        let script =
            "ip link set lo up; ip address add 10.0.0.7/32 dev lo; ip address add fd00::7/128 dev lo; exec \"$@\"";
        let output = in_namespaces(&["--net"], script, &command).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for bind in ["0.0.0.0", "::"] {
        assert_eq!(check(bind, &[row('f', "10.0.0.8"), row('l', "10.0.0.7")]), LEADER);
        assert_eq!(check(bind, &[row('f', "fd00::8"), row('l', "fd00::7")]), LEADER);
        assert_eq!(
            check(bind, &[row('l', "10.0.0.8"), row('f', "10.0.0.9")]),
            unknown("not-listed")
        );
        // Every machine has 127.0.0.1 and ::1, so a row with one of them says nothing about this one.
        assert_eq!(check(bind, &[row('l', "127.0.0.1")]), unknown("not-listed"));
        assert_eq!(check(bind, &[row('l', "::1")]), unknown("not-listed"));
    }
}

/// s9s behaves like this; the check is still over in time, and no process is left.
fn is_contained(behaviour: &str, answer: &str) {
    let cluster = Cluster::new();
    cluster.behaves(behaviour);
    // If s9s must end by itself, its time is long enough even for a busy machine.
    let seconds = if answer == LEADER { 15 } else { 2 };
    let start = Instant::now();
    let timeout = seconds.to_string();
    assert_eq!(cluster.leader().get(&["--timeout", &timeout]), answer, "{behaviour}");
    // What s9s has started would go on for a minute.
    assert!(start.elapsed() < Duration::from_secs(seconds + 5), "{behaviour}");
    wait_until("nothing is left", || cluster.processes().is_empty());
}

#[test]
fn an_s9s_that_hangs_is_killed() {
    is_contained("hang", &unknown("s9s-timeout"));
}

#[test]
fn a_child_of_s9s_that_ignores_sigterm_is_killed() {
    is_contained("stubborn", &unknown("s9s-timeout"));
}

#[test]
fn an_s9s_that_prints_without_end_is_killed() {
    is_contained("flood", &unknown("s9s-too-much-output"));
    is_contained("flood-errors", &unknown("s9s-too-much-output"));
}

#[test]
fn a_child_that_s9s_leaves_behind_is_not_waited_for_and_killed() {
    is_contained("stray", LEADER);
}

#[test]
fn the_end_of_a_child_of_s9s_is_not_taken_for_its_own() {
    is_contained("orphan", LEADER);
}

#[test]
fn the_largest_output_that_is_believed_is_half_a_mebibyte() {
    let cluster = Cluster::new();
    let page = |size: usize| {
        let mut text = String::from(
            "S VERSION OWNER GROUP NAME IP       PORT COMMENT\nl 1.9     a     b     cc1  10.0.0.101 9501 ",
        );
        text = text.replace("IP       ", "IP         ");
        let end = "\nTotal: 1 controller(s)\n";
        text += &"x".repeat(size - text.len() - end.len());
        let path = cluster.folder.write("page", text + end);
        cluster.behaves(&format!("print {}", path.display()));
    };
    page(512 * 1024);
    assert_eq!(cluster.leader().get(&["--max-age", "0"]), LEADER);
    page(512 * 1024 + 1);
    assert_eq!(
        cluster.leader().get(&["--max-age", "0"]),
        unknown("s9s-too-much-output")
    );
}

#[test]
fn the_last_words_of_s9s_count_as_well() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    // The list ends at the last byte of the limit; s9s may print one more byte before it exits. s9s
    // stops the check when that has read the list and sleeps, so that it cannot read this byte earlier.
    let end = "\nTotal: 1 controller(s)\n";
    let start = "S VERSION OWNER GROUP NAME IP         PORT COMMENT\nl 1.9     a     b     cc1  10.0.0.101 9501 ";
    let list = format!("{start}{}{end}", "x".repeat(MAX_OUTPUT - start.len() - end.len()));
    let page = cluster.folder.write("page", list);
    let s9s = |last: &str| {
        let script = format!(
            "#!/bin/sh\ncat {}\nuntil grep -q '^State:.S' /proc/$PPID/status; do :; done\n\
             kill -STOP $PPID\nprintf '{last}'\necho $$ >{}\n",
            page.display(),
            cluster.folder.join("pid").display()
        );
        let path = cluster.folder.write("s9s", script);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    };
    for (last, answer) in [("", LEADER.to_string()), ("x", unknown("s9s-too-much-output"))] {
        let s9s = s9s(last);
        let mut client = node.connect(&["--max-age", "0", "--timeout", "30", "--s9s", s9s.to_str().unwrap()]);
        client.send(GET);
        wait_until("s9s has exited", || {
            let pid = fs::read_to_string(cluster.folder.join("pid")).unwrap_or_default();
            let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
            status.lines().any(|line| line.starts_with("State:\tZ"))
        });
        kill(Pid::from_raw(client.responder.id().cast_signed()), Signal::SIGCONT).unwrap();
        assert_eq!(client.answer(), answer);
        fs::remove_file(cluster.folder.join("pid")).unwrap();
    }
}

#[test]
fn s9s_dies_with_a_check_that_is_killed() {
    for behaviour in ["hang", "flood"] {
        let cluster = Cluster::new();
        cluster.behaves(behaviour);
        let mut client = cluster.leader().connect(&["--timeout", "60"]);
        client.send(GET);
        wait_until("s9s runs", || cluster.runs() == 1);
        let s9s = fs::read_to_string(cluster.folder.join("runs")).unwrap();
        client.responder.kill().unwrap();
        client.responder.wait().unwrap();
        wait_until("s9s is gone", || !Path::new("/proc").join(s9s.trim()).exists());
    }
}

#[test]
fn signals_that_somebody_blocked_or_ignored_before_do_not_matter() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let mut command = node.command();
    // SAFETY: both calls are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            signal(Signal::SIGCHLD, SigHandler::SigIgn)?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
            Ok(())
        })
    };
    cluster.behaves("environment");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), LEADER);
    let signals = fs::read_to_string(cluster.folder.join("signals")).unwrap();
    // A shell unblocks all signals itself, awk does not.
    let text = "#!/usr/bin/awk -f\nBEGIN { while ((getline line <\"/proc/self/status\") > 0) if (line ~ /^Sig/) print line }\n";
    let awk = cluster.folder.write("awk", text);
    fs::set_permissions(&awk, Permissions::from_mode(0o755)).unwrap();
    let told = command
        .args(["--explain", "--s9s", awk.to_str().unwrap()])
        .output()
        .unwrap()
        .stdout;
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("    SigBlk: 0000000000000000\n"), "{told}");
    let ignored = signals.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD] {
        assert_eq!(ignored >> (signal as u32 - 1) & 1, 0, "{signal}: {signals}");
    }

    // With all signals blocked, the wait for the lock still ends.
    let _held = node.hold_the_lock();
    let mut client = connect(command.args(["--max-age", "0", "--timeout", "1.5"]));
    client.send(GET);
    assert_eq!(client.answer(), unknown("lock-timeout"));
}
