//! The deployed check has a user of its own and no other rights: under the real xinetd, as
//! deploy/install.sh installs it. Needs root, as tests/suite/install.rs does.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::cluster::{project, simulated_s9s, wait_until};
use crate::install::{ALL, CONF, NODES, PRIVATE, RECORD, Root, SERVICE, TMPFILES};

const LOCK: &str = "/run/cmonhachk/lock";
const ROOTS_CONF: &str = "/root/.s9s/s9s.conf";
const KEY: &str = "/var/lib/cmonhachk/.s9s/admin.key";

impl Root {
    /// A node that boots with systemd, where nothing is installed yet but a simulated cluster that
    /// it leads, and a user for root's s9s.
    fn of_a_leader() -> Root {
        let root = Root::new("10.0.0.101");
        root.write("/etc/default/cmon", "RPC_BIND_ADDRESSES=10.0.0.101\n");
        root.make("/run/sim", 0o777);
        root.write(
            "/run/sim/controllers",
            "l\t2.3.4.11302\tsystem\tadmins\t10.0.0.101\t10.0.0.101\t9501\tActing as leader.\n",
        );
        root.write("/run/sim/behaviour", "login\n");
        // Whoever runs it.
        root.write("/run/sim/runs", "");
        root.allow("/run/sim/runs", 0o666);
        fs::copy(simulated_s9s(), root.path("/run/simulated-s9s")).unwrap();
        root.write(
            "/usr/bin/s9s",
            "#!/bin/sh\nS9S_SIM=/run/sim exec sh /run/simulated-s9s \"$@\"\n",
        );
        root.allow("/usr/bin/s9s", 0o755);
        root.make("/root/.s9s", 0o700);
        root.write(
            ROOTS_CONF,
            "[global]\ncmon_user = admin\nos_sudo_password = secret\ncontroller = https://localhost:9501\n",
        );
        root.write("/root/.s9s/admin.key", "the key\n");
        root.run(&["ln", "-sf", "/lib/systemd/systemd", "/sbin/init"])
            .succeeds();
        root
    }

    fn make(&self, folder: &str, mode: u32) {
        fs::create_dir(self.path(folder)).unwrap();
        self.allow(folder, mode);
    }

    fn allow(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
    }

    fn shell(&self, script: &str) -> String {
        self.run(&["sh", "-c", script]).stdout
    }

    /// What the port answers: the state and, where that is unknown, the reason.
    fn answers(&self) -> String {
        let head = self.shell("curl --silent --include --max-time 20 http://10.0.0.101:9201/ | tr -d '\\r'");
        let value = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
        };
        let (state, reason) = (value("Cmonhachk-State: "), value("Cmonhachk-Reason: "));
        format!("{state} {reason}").trim_end().to_string()
    }

    fn comes_to_answer(&self, answer: &str) {
        wait_until(&format!("the port answers {answer}"), || self.answers() == answer);
    }

    /// Mode, owner and group of a file or folder.
    fn rights(&self, path: &str) -> String {
        self.run(&["stat", "--format", "%a %U %G", path])
            .succeeds()
            .trim_end()
            .to_string()
    }

    fn runs(&self) -> usize {
        self.read("/run/sim/runs").lines().count()
    }
}

#[test]
fn the_check_and_s9s_run_as_a_user_of_their_own_and_share_their_verdicts() {
    let root = Root::of_a_leader();
    // As the README has it, root has tried it first.
    root.run(&["/run/built"]).succeeds();
    assert!(
        !root.has("/run/cmonhachk"),
        "a person's folder would lock the service out"
    );
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains("port 9201 by xinetd, checks by cmonhachk\n"),
        "{output}"
    );
    assert!(
        output.ends_with("http://10.0.0.101:9201/: HTTP/1.1 200 OK, leader\n"),
        "{output}"
    );
    assert_eq!(root.read("/run/sim/who"), "cmonhachk /var/lib/cmonhachk admin\n");
    assert_eq!(root.rights("/run/cmonhachk"), "700 cmonhachk cmonhachk");
    assert_eq!(root.rights(LOCK), "600 cmonhachk cmonhachk");
    assert_eq!(root.rights(&format!("{PRIVATE}/s9s.state")), "644 cmonhachk cmonhachk");
    let shell = root.shell("getent passwd cmonhachk");
    assert!(shell.ends_with(":/var/lib/cmonhachk:/usr/sbin/nologin\n"), "{shell}");
    // It is in the groups that it was put into, under xinetd as under systemd.
    root.run(&["usermod", "--append", "--groups", "adm", "cmonhachk"])
        .succeeds();
    root.run(&["chgrp", "adm", "/etc/default/cmon"]).succeeds();
    root.allow("/etc/default/cmon", 0o640);

    root.comes_to_answer("leader");
    let before = root.runs();
    root.shell("curl --silent --parallel --parallel-max 100 --output /dev/null 'http://10.0.0.101:9201/[1-100]'");
    let runs = root.runs() - before;
    assert!(runs < 20, "100 checks at once took {runs} runs");

    // As after a boot, before and when systemd has made the folder again.
    root.run(&["rm", "-r", "/run/cmonhachk"]).succeeds();
    let before = root.runs();
    for _ in 0..5 {
        assert_eq!(root.answers(), "leader");
    }
    assert!(root.runs() - before <= 2, "shared in /dev/shm meanwhile");
    root.run(&["systemd-tmpfiles", "--create"]);
    assert_eq!(root.answers(), "leader");
    assert_eq!(root.rights("/run/cmonhachk"), "700 cmonhachk cmonhachk");
    assert_eq!(root.rights(LOCK), "600 cmonhachk cmonhachk");
}

#[test]
fn what_the_user_has_no_right_to_is_the_reason_and_explained() {
    let root = Root::of_a_leader();
    root.install(NODES).succeeds();
    let fails = |file: &str, mode: u32, reason: &str| {
        let before = root.path(file).metadata().unwrap().mode();
        root.allow(file, mode);
        root.comes_to_answer(&format!("unknown {reason}"));
        let output = root.install(NODES).succeeds();
        assert!(
            output.contains(
                "(runuser -u cmonhachk -- env -i /usr/local/sbin/cmonhachk --explain --lock-file /run/cmonhachk/lock)"
            ),
            "{output}"
        );
        assert!(output.contains(&format!("verdict: unknown {reason}\n")), "{output}");
        assert!(output.contains("What to do\n"), "{output}");
        root.allow(file, before);
        root.comes_to_answer("leader");
    };
    fails("/etc/default/cmon", 0o600, "defaults-unreadable");
    fails("/usr/bin/s9s", 0o744, "s9s-not-executable");
    root.run(&["rm", KEY, "/root/.s9s/admin.key"]).succeeds();
    root.comes_to_answer("unknown s9s-no-credentials");
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains("No password and no RSA key for user admin."),
        "{output}"
    );
}

/// The lines of the README's example that begins so, without their indentation.
fn example(start: &str) -> String {
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    let lines = readme
        .lines()
        .skip_while(|line| !line.starts_with(&format!("    {start}")));
    let example: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!example.is_empty(), "{start}");
    example.join("\n") + "\n"
}

#[test]
fn a_dry_run_says_what_the_readme_shows() {
    let root = Root::of_a_leader();
    fs::remove_file(root.path("/root/.s9s/admin.key")).unwrap();
    let output = root.install(&format!("{ALL} --dry-run")).succeeds();
    assert_eq!(output, example("node        10.0.0.101"));
    assert_eq!(root.shell("getent passwd cmonhachk"), "");
}

#[test]
fn a_check_by_hand_is_the_services_as_its_user_and_in_nobodys_way_as_root() {
    let root = Root::of_a_leader();
    root.install(NODES).succeeds();
    let text = root.shell(&example("runuser -u cmonhachk"));
    assert!(
        text.contains("verdict: leader\n") && !text.contains("not used"),
        "{text}"
    );
    let by_hand = ["/usr/local/sbin/cmonhachk", "--explain", "--lock-file", LOCK];
    let text = root.run(&by_hand).succeeds();
    assert!(text.contains("not used: its folder belongs to user"), "{text}");
    assert!(
        text.contains("this check runs as user 0; run it as that user\n"),
        "{text}"
    );
    // Nor when it is the first one.
    root.shell(&format!("rm {LOCK}*"));
    root.run(&by_hand).succeeds();
    assert!(!root.has(LOCK));
    assert_eq!(root.answers(), "leader");
    assert_eq!(root.rights(LOCK), "600 cmonhachk cmonhachk");
}

#[test]
fn the_user_gets_what_roots_s9s_conf_says_and_nobody_else_does() {
    let root = Root::of_a_leader();
    let output = root.install(NODES).succeeds();
    for path in [CONF, KEY] {
        let line = format!("new         {path} (a copy of root's, for cmonhachk alone)\n");
        assert!(output.contains(&line), "{output}");
        assert_eq!(root.rights(path), "600 cmonhachk cmonhachk");
    }
    assert_eq!(root.rights(PRIVATE), "700 cmonhachk cmonhachk");
    // The passwords for the databases' hosts are root's alone.
    let conf = "[global]\ncmon_user = admin\ncontroller = https://localhost:9501\n";
    assert_eq!(root.read(CONF), conf);
    assert_eq!(root.read(KEY), "the key\n");
    let output = root.install(NODES).succeeds();
    assert!(output.ends_with("Nothing had to be changed.\n"), "{output}");

    // It follows root's, with a key in another place as well.
    root.write("/root/other.key", "the other key\n");
    root.append(ROOTS_CONF, "auth_key = \"~/other.key\"\n");
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains(&format!("changed     {CONF} (as root's has changed)\n")),
        "{output}"
    );
    assert_eq!(root.read(CONF), format!("{conf}auth_key = ~/.s9s/admin.key\n"));
    assert_eq!(root.read(KEY), "the other key\n");
    root.comes_to_answer("leader");

    // Until somebody edits it.
    root.append(CONF, "cmon_password = mine\n");
    let edited = root.read(CONF);
    root.append(ROOTS_CONF, "cmon_password = roots\n");
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains(&format!("left        {CONF} (somebody's own)\n")),
        "{output}"
    );
    assert_eq!(root.read(CONF), edited);

    // What is somebody's own outlives the user, as root's, for another user may get its number.
    let output = root.install("--uninstall").succeeds();
    let kept = format!("{PRIVATE}.kept-1");
    assert!(output.contains(&kept), "{output}");
    assert_eq!(root.rights(&kept), "700 root root");
    assert_eq!(root.rights(&format!("{kept}/s9s.conf")), "600 root root");
    assert_eq!(root.read(&format!("{kept}/s9s.conf")), edited);
    assert_eq!(root.shell("getent passwd cmonhachk; find /etc /var -xdev -nouser"), "");
}

#[test]
fn without_roots_s9s_conf_it_says_what_is_missing() {
    let root = Root::of_a_leader();
    fs::remove_dir_all(root.path("/root/.s9s")).unwrap();
    let missing = format!("missing     {CONF}: s9s knows no user");
    let output = root.install(NODES).succeeds();
    assert!(output.contains(&missing), "{output}");
    assert!(output.contains("verdict: unknown s9s-no-user\n"), "{output}");
    // What s9s itself makes where there is none is none.
    root.shell(&format!("echo '# cmon_user = x' | runuser -u cmonhachk -- tee {CONF}"));
    let output = root.install(NODES).succeeds();
    assert!(output.contains(&missing), "{output}");
    root.make("/root/.s9s", 0o700);
    root.write(ROOTS_CONF, "cmon_user = admin\ncmon_password = secret\n");
    let output = root.install(NODES).succeeds();
    assert!(!output.contains(&missing), "{output}");
    root.comes_to_answer("leader");
    assert!(!root.has(KEY));

    // One of its own, as the README has it.
    root.shell(&example("install -m 0600 -o cmonhachk"));
    assert_eq!(root.rights(CONF), "600 cmonhachk cmonhachk");
    wait_until("s9s uses it", || {
        root.answers() == "leader" && root.read("/run/sim/who") == "cmonhachk /var/lib/cmonhachk cmonhachk\n"
    });
    let output = root.install(NODES).succeeds();
    assert!(
        output.contains(&format!("left        {CONF} (somebody's own)\n")),
        "{output}"
    );
}

#[test]
fn the_user_cannot_make_root_write_elsewhere_or_read_for_it() {
    let root = Root::of_a_leader();
    root.install(NODES).succeeds();
    let (shadow, record) = (root.read("/etc/shadow"), root.read(RECORD));
    // The record, which root believes, is out of its reach.
    root.shell(&format!(
        "runuser -u cmonhachk -- sh -c 'rm -f {RECORD}; echo x >>{RECORD}; mv {PRIVATE} {PRIVATE}.1'"
    ));
    assert_eq!(root.read(RECORD), record);
    assert_eq!(root.rights("/var/lib/cmonhachk"), "755 root root");
    for trap in ["s9s.conf", "s9s.conf.new", "admin.key", "admin.key.new"] {
        let path = format!("{PRIVATE}/{trap}");
        root.shell(&format!("runuser -u cmonhachk -- ln -sf /etc/shadow {path}"));
        root.append(ROOTS_CONF, "# changed\n");
        root.append("/root/.s9s/admin.key", "changed\n");
        root.install(NODES).succeeds();
        assert_eq!(root.read("/etc/shadow"), shadow, "{trap}");
        assert_eq!(root.rights(CONF), "600 cmonhachk cmonhachk");
        assert_eq!(root.rights(KEY), "600 cmonhachk cmonhachk");
    }
    root.shell(&format!(
        "runuser -u cmonhachk -- sh -c 'rm {CONF}; ln -s /etc/shadow {CONF}'"
    ));
    root.install("--uninstall").succeeds();
    assert!(!root.has(PRIVATE));
}

#[test]
fn an_installation_whose_checks_ran_as_root_is_changed_and_leaves_nothing_stale() {
    let root = Root::of_a_leader();
    root.install(&format!("{NODES} --user root")).succeeds();
    assert_eq!(root.read("/run/sim/who"), "root /root admin\n");
    // What tells it from the first version.
    fs::remove_file(root.path(TMPFILES)).unwrap();
    let ours = |line: &&str| !line.ends_with(TMPFILES) && !line.ends_with(" root");
    let record: Vec<String> = root
        .read(RECORD)
        .lines()
        .filter(ours)
        .map(|line| format!("{line}\n"))
        .collect();
    root.write(RECORD, &record.concat());
    root.shell("mv /run/cmonhachk/lock /run/cmonhachk.lock; rmdir /run/cmonhachk");

    let output = root.install(NODES).succeeds();
    assert!(output.contains("new         user cmonhachk "), "{output}");
    assert!(output.contains("removed     /run/cmonhachk.lock "), "{output}");
    assert!(!root.has("/run/cmonhachk.lock"));
    root.comes_to_answer("leader");
    assert_eq!(root.read("/run/sim/who"), "cmonhachk /var/lib/cmonhachk admin\n");
    assert_eq!(root.rights(LOCK), "600 cmonhachk cmonhachk");
    assert_eq!(root.shell("ls /etc/xinetd.d | grep -c kept"), "0\n");
}

#[test]
fn another_user_can_be_named_and_stays_named() {
    let root = Root::of_a_leader();
    let accounts = root.read("/etc/passwd");
    root.run(&[
        "useradd",
        "--system",
        "--create-home",
        "--home-dir",
        "/home/monitor",
        "monitor",
    ])
    .succeeds();
    root.install(NODES).succeeds();
    let output = root.install(&format!("{NODES} --user monitor")).succeeds();
    assert!(output.contains("removed     user cmonhachk\n"), "{output}");
    assert!(
        output.contains("verdict: unknown s9s-no-user\n"),
        "its home is its own business: {output}"
    );
    assert!(!root.read("/etc/passwd").contains("cmonhachk"));
    assert!(!root.has(PRIVATE));
    assert!(root.read(SERVICE).contains("user            = monitor\n"));
    assert!(root.rights(LOCK).starts_with("600 monitor "));
    root.make("/home/monitor/.s9s", 0o755);
    root.write(
        "/home/monitor/.s9s/s9s.conf",
        "cmon_user = monitor\ncmon_password = x\n",
    );
    root.comes_to_answer("leader");
    assert_eq!(root.read("/run/sim/who"), "monitor /home/monitor monitor\n");

    let output = root.install(NODES).succeeds();
    assert!(output.ends_with("Nothing had to be changed.\n"), "{output}");
    let output = root.install(&format!("{NODES} --with systemd --dry-run")).succeeds();
    assert!(output.contains("checks by monitor\n"), "{output}");
    root.install(&format!("{NODES} --with systemd")).succeeds();
    let service = root.read("/etc/systemd/system/cmonhachk@.service");
    for line in [
        "User=monitor",
        "ReadWritePaths=-/home/monitor/.s9s",
        "ProtectHome=read-only",
    ] {
        assert!(service.lines().any(|other| other == line), "{service}");
    }

    root.install(&format!("{NODES} --with xinetd --user cmonhachk"))
        .succeeds();
    root.append(ROOTS_CONF, "# changed\n");
    let output = root.install(NODES).succeeds();
    assert!(output.contains("checks by cmonhachk\n"), "{output}");
    assert!(
        output.contains(&format!("changed     {CONF} (as root's has changed)\n")),
        "{output}"
    );

    root.install(&format!("{NODES} --user nobodys"))
        .fails(1, "there is no user nobodys");
    root.install("--uninstall").succeeds();
    assert_ne!(root.read("/etc/passwd"), accounts, "it was there before");
    assert!(root.read("/etc/passwd").starts_with(&accounts));
    assert!(root.has("/home/monitor/.s9s/s9s.conf"));
}

#[test]
fn where_nothing_would_make_its_folder_at_boot_the_lock_file_is_on_the_disk() {
    let root = Root::of_a_leader();
    root.run(&["ln", "-sf", "/usr/bin/true", "/sbin/init"]).succeeds();
    let output = root.install(NODES).succeeds();
    assert!(output.ends_with("HTTP/1.1 200 OK, leader\n"), "{output}");
    let lock = "/var/lib/cmonhachk/run/lock";
    assert!(
        root.read(SERVICE)
            .contains(&format!("server_args     = --lock-file {lock}\n"))
    );
    assert_eq!(root.rights("/var/lib/cmonhachk/run"), "700 cmonhachk cmonhachk");
    assert_eq!(root.rights(lock), "600 cmonhachk cmonhachk");
    assert!(!root.has(TMPFILES) && !root.has("/run/cmonhachk"));
    root.install("--uninstall").succeeds();
    assert!(!root.has("/var/lib/cmonhachk"));
}
