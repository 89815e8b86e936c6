//! The packages, installed, changed and removed by the real apt, dpkg and rpm.

use std::fs;
use std::time::Duration;

use crate::cluster::{LEADER, project, unknown, wait_until};
use crate::documents::{COMMAND, TEXT, copied, joined};
use crate::node::{DEB, Node, XINETD_DEB, apt_get_install};
use crate::xinetd::ARTICLES_SERVICE;

/// Runs a test of this file on each of these Debians.
macro_rules! on {
    ($($test:ident: $($debian:ident)*;)*) => {$(
        mod $test {
            $(#[test] fn $debian() { crate::packages::$test(stringify!($debian)); })*
        }
    )*};
}

mod nightly;

on! {
    from_installation_to_purge_no_answer_is_lost_and_nothing_is_left: bookworm trixie;
    xinetd_takes_the_port_over_and_gives_it_back_without_a_restart: bookworm;
    an_operators_own_xinetd_file_goes_on_serving_until_the_operator_says_otherwise: bookworm;
}

/// How long a handover between xinetd and systemd may take on a busy machine. How long it took is printed.
const HANDOVER: Duration = Duration::from_secs(10);

const SERVED: &str = "systemd: active enabled";
const SERVED_BY_XINETD: &str = "xinetd: inactive enabled";

const SERVICE: &str = "/etc/xinetd.d/cmonhachk";

/// An operator's file for our HAProxy.
const OWN_SETTINGS: &str = "/etc/haproxy/cmonhachk.d/own.cfg";

/// What the article has operators write, with their own program behind it.
fn own_service() -> String {
    ARTICLES_SERVICE.replace("/usr/local/sbin/cmonhachk.py", "/usr/local/bin/own")
}

/// The commands that begin with `start`, to the end of their block: as copied from the manual page, or in the
/// other documents.
pub fn commands(start: &str) -> String {
    let pasted = copied("cmonhachk.8", COMMAND);
    if let Some(commands) = pasted
        .into_iter()
        .find(|commands| commands.trim_start().starts_with(start))
    {
        return commands;
    }
    for document in ["deploy/README.md", "README.md"] {
        let text = fs::read_to_string(project().join(document)).unwrap();
        let first = format!("    {start}");
        let lines = text.lines().skip_while(|line| !line.starts_with(&first));
        let block: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
        if !block.is_empty() {
            return block.join("\n");
        }
    }
    panic!("no document says {start}");
}

/// No check goes without its right answer.
fn loses_nothing(node: &Node, of: &str, act: impl FnOnce()) {
    assert_eq!(node.gap_during(act), Duration::ZERO, "{of}");
}

fn nothing_runs(node: &Node) {
    assert_eq!(node.run("ls /run /dev/shm | sed -n /cmonhachk/p"), "");
    assert_eq!(node.run("systemctl list-units --all --no-legend 'cmonhachk*'"), "");
}

/// Another program gets the port, within two seconds.
fn hands_over(node: &Node, of: &str, act: impl FnOnce()) {
    let gap = node.gap_during(|| {
        act();
        node.leads();
    });
    println!("{of}: no right answer for {gap:?}");
    assert!(gap < HANDOVER, "{of}: {gap:?}");
}

fn from_installation_to_purge_no_answer_is_lost_and_nothing_is_left(suite: &str) {
    let node = Node::boot(suite);
    let before = node.files();
    node.install(DEB);
    assert_eq!(node.systemd.curl(), LEADER, "{suite}");
    assert_eq!(node.serves(), SERVED, "{suite}");
    let rights = node.run("cd /var/lib/cmonhachk && stat --format '%a %U %n' . .s9s /run/cmonhachk");
    assert_eq!(rights, "755 root .\n700 cmonhachk .s9s\n700 cmonhachk /run/cmonhachk\n");
    assert_eq!(node.run("dpkg --verify cmonhachk"), "");

    node.make_version("9.9.9", "deb");
    node.make_former_version("deb");
    node.write(OWN_SETTINGS, "global\n");
    let socket = node.socket();
    loses_nothing(&node, suite, || {
        for (package, version) in [
            ("/opt/cmonhachk_9.9.9_*.deb", "9.9.9"),
            ("--allow-downgrades /opt/cmonhachk_0.2.0_*.deb", "0.2.0"),
            (DEB, env!("CARGO_PKG_VERSION")),
            (&format!("--reinstall {DEB}"), env!("CARGO_PKG_VERSION")),
        ] {
            node.install(package);
            let status = node.run("dpkg --status cmonhachk");
            assert!(status.contains(&format!("Version: {version}\n")), "{package}: {status}");
            node.answers_from_the_installed_program();
        }
    });
    assert_eq!(node.socket(), socket, "{suite}: it was not closed");
    for (change, state, package) in [
        ("disable", "inactive disabled", "/opt/cmonhachk_9.9.9_*.deb"),
        ("mask", "inactive masked", DEB),
    ] {
        node.run(&format!("systemctl {change} --now cmonhachk.socket"));
        node.install_file(package);
        assert!(node.serves().ends_with(state), "{suite}: {}", node.serves());
    }
    node.run("systemctl unmask cmonhachk.socket; systemctl enable --now cmonhachk.socket");
    node.leads();

    node.run("touch /etc/default/cmonhachk /var/lib/cmonhachk/.s9s/s9s.conf; apt-get remove -qq -y cmonhachk");
    assert_eq!(node.systemd.curl(), "", "{suite}: nobody serves the port");
    node.install_file(DEB);
    assert_eq!(node.serves(), SERVED, "{suite}");
    assert!(node.has("/var/lib/cmonhachk/.s9s/s9s.conf"));
    assert_eq!(node.run(&format!("cat {OWN_SETTINGS}")), "global\n", "{suite}");

    // Only what the manual names stays.
    node.run("apt-get purge -qq -y cmonhachk");
    assert_eq!(node.differences(&before), ["/etc/default/cmonhachk"], "{suite}");
    assert!(node.run("getent passwd cmonhachk").ends_with(":/usr/sbin/nologin\n"));
    nothing_runs(&node);
}

fn xinetd_takes_the_port_over_and_gives_it_back_without_a_restart(suite: &str) {
    let node = Node::boot(suite);
    let before = node.files();
    node.install(&format!("{DEB} xinetd"));
    let xinetd = node.run("pgrep --exact xinetd");
    hands_over(&node, suite, || {
        let said = node.install(XINETD_DEB);
        assert!(!said.contains("does not answer"), "{said}");
    });
    assert_eq!(node.serves(), SERVED_BY_XINETD, "{suite}");

    node.make_version("9.9.9", "deb");
    let socket = node.socket();
    loses_nothing(&node, suite, || {
        node.install("/opt/cmonhachk_9.9.9_*.deb");
        node.install("/opt/cmonhachk-xinetd_9.9.9_all.deb");
        node.install(&format!("--allow-downgrades {DEB} {XINETD_DEB}"));
    });
    assert_eq!(node.socket(), socket, "{suite}: it was not closed");

    node.run(&format!("sed -i 's/^ *only_from.*/only_from = 127.0.0.1/' {SERVICE}"));
    let narrowed = node.run(&format!("cat {SERVICE}"));
    hands_over(&node, suite, || {
        drop(node.run("apt-get remove -qq -y cmonhachk-xinetd"))
    });
    assert_eq!(node.serves(), SERVED, "{suite}");
    node.install(XINETD_DEB);
    wait_until("xinetd has the port", || node.serves() == SERVED_BY_XINETD);
    assert_eq!(node.run(&format!("cat {SERVICE}")), narrowed, "{suite}: the edit stays");
    assert_eq!(node.run("pgrep --exact xinetd"), xinetd, "{suite}: no restart");

    node.run("invoke-rc.d xinetd stop");
    let said = node.install(&format!("--reinstall {XINETD_DEB}"));
    let cause = "cmonhachk-xinetd: the check does not answer yet, because xinetd does not run. Run: systemctl enable xinetd; systemctl start xinetd\n";
    assert!(said.contains(cause), "{said}");
    node.run("systemctl enable xinetd; systemctl start xinetd");
    node.leads();

    node.run("apt-get remove -qq -y cmonhachk-xinetd; apt-get purge -qq -y cmonhachk");
    assert_eq!(node.systemd.curl(), "", "{suite}: nobody serves the port");
    assert!(node.has(&format!("{SERVICE}.removed")), "{suite}: as the manual says");
    node.run("apt-get purge -qq -y cmonhachk-xinetd");
    node.run("apt-get purge -qq -y xinetd && apt-get autoremove --purge -qq -y");
    assert_eq!(node.differences(&before), [""; 0], "{suite}");
}

fn an_operators_own_xinetd_file_goes_on_serving_until_the_operator_says_otherwise(suite: &str) {
    let node = Node::boot(suite);
    node.write(SERVICE, &own_service());
    let tells = |cause: &str| {
        let said = node.install_file(DEB);
        let warning = format!("cmonhachk: the check does not answer yet, because {cause}");
        assert!(said.contains(&warning), "{said}");
        node.run("dpkg --purge cmonhachk; systemctl reset-failed");
    };
    let not_running = "xinetd does not run. Install or start xinetd, or remove ";
    tells(not_running);
    node.install("xinetd");
    node.run("systemctl stop xinetd");
    tells(not_running);
    node.run("systemctl start xinetd");
    node.run(&format!(
        "echo cmonhachk 9201/tcp >>/etc/services; mv {SERVICE} /etc/xinetd.d/other; invoke-rc.d xinetd reload"
    ));
    node.leads();
    tells("cmonhachk.socket could not start");
    node.run(&format!("mv /etc/xinetd.d/other {SERVICE}; invoke-rc.d xinetd reload"));
    node.leads();
    let is_left_alone = |after: &str| {
        assert_eq!(node.run(&format!("cat {SERVICE}")), own_service(), "{suite}, {after}");
        assert_eq!(node.serves(), SERVED_BY_XINETD, "{suite}, {after}");
    };
    loses_nothing(&node, suite, || {
        let said = node.install(DEB);
        assert!(
            said.contains(&format!("xinetd has port 9201, because of {SERVICE}")),
            "{said}"
        );
        is_left_alone("installation");
        // A boot does the same.
        node.run("systemctl start sockets.target cmonhachk.socket");
        is_left_alone("boot");
        // dpkg asks a question that nobody answers, so nothing is changed.
        let output = node.systemd.output(&apt_get_install(XINETD_DEB));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("conffile prompt"), "{said}");
        is_left_alone("question");
        node.run("dpkg --force-confold --configure cmonhachk-xinetd");
        is_left_alone("answer");
        node.run("apt-get remove -qq -y cmonhachk-xinetd");
        is_left_alone("removal");
    });
    let give_up = commands("rm /etc/xinetd.d/cmonhachk");
    hands_over(&node, suite, || drop(node.run(&give_up)));
    assert_eq!(node.serves(), SERVED, "{suite}");
    // dpkg does not bring the file back, so xinetd does not take the port.
    node.install(XINETD_DEB);
    assert_eq!(node.serves(), SERVED, "{suite}");

    // The operator's file survives dpkg's question and its purge.
    let kept = |name: &str| assert_eq!(node.run(&format!("cat {SERVICE}.{name}")), own_service(), "{suite}");
    node.run("apt-get purge -qq -y cmonhachk-xinetd");
    for (answer, removal, name) in [("confnew", "remove", "dpkg-old"), ("confold", "purge", "own")] {
        node.write(SERVICE, &own_service());
        node.install(&format!("--option Dpkg::Options::=--force-{answer} {XINETD_DEB}"));
        node.run(&format!("apt-get {removal} -qq -y cmonhachk-xinetd"));
        kept(name);
    }
    node.install(XINETD_DEB);
    kept("own");
}

#[test]
fn private_networks_may_ask_and_no_others() {
    let node = Node::boot("bookworm");
    for server in [DEB, XINETD_DEB] {
        node.install(server);
        node.leads();
        let asks = |own: &str, seconds: u32| {
            node.run(&format!("ip address replace {own} dev lo nodad"));
            let host = if own.contains(':') { "[::1]" } else { "127.0.0.1" };
            let command = format!("curl --silent --include --max-time {seconds} --interface {own} http://{host}:9201/");
            node.systemd.run(&command) == LEADER
        };
        for own in ["10.1.2.3", "172.31.2.3", "192.168.2.3", "fd00::3"] {
            assert!(asks(own, 10), "{own}");
        }
        // systemd needs eBPF for this, and says so where it is missing.
        let journal = node.systemd.run("journalctl --no-pager --output cat _PID=1");
        if server == DEB && journal.contains("does not support BPF/cgroup firewalling") {
            println!("there is no eBPF here, so nobody is kept out");
            continue;
        }
        for own in ["192.0.2.3", "172.32.2.3", "2001:db8::3"] {
            assert!(!asks(own, 2), "{own}");
        }
    }
    // Both allow the same networks.
    let file = |name: &str| fs::read_to_string(project().join("deploy").join(name)).unwrap();
    let networks = |text: &str, mark: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(mark).map(str::to_string));
        let words: Vec<String> = line.unwrap().split_whitespace().map(str::to_string).collect();
        words.into_iter().filter(|word| word.contains('/')).collect::<Vec<_>>()
    };
    assert_eq!(
        networks(&file("xinetd/cmonhachk"), "only_from"),
        networks(&file("systemd/cmonhachk.socket"), "IPAddressAllow=localhost")
    );
}

#[test]
fn what_a_check_writes_to_standard_error_is_in_the_journal_as_an_error() {
    let node = Node::boot("bookworm");
    node.install_file(DEB);
    node.write(
        "/etc/systemd/system/cmonhachk.service.d/crash.conf",
        "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo last words >&2; exec cmonhachk'\n",
    );
    node.run("systemctl daemon-reload; systemctl stop cmonhachk.service");
    assert_eq!(node.systemd.curl(), LEADER);
    wait_until("the journal has the last words", || {
        let journal = "journalctl --output cat --priority err --unit cmonhachk.service";
        node.systemd.run(journal) == "last words\n"
    });
}

#[test]
fn where_no_systemd_runs_the_packages_install_and_start_nothing() {
    let node = Node::boot("bookworm");
    let install = apt_get_install(&format!("{DEB} {XINETD_DEB}"));
    node.run(&format!(
        "unshare --mount sh -euc 'mount -t tmpfs none /run; {install}'"
    ));
    assert!(node.serves().ends_with("inactive enabled"), "{}", node.serves());
    assert!(node.run("getent passwd cmonhachk").contains("/var/lib/cmonhachk"));
    node.run("unshare --mount sh -euc 'mount -t tmpfs none /run; apt-get purge -qq -y cmonhachk cmonhachk-xinetd'");
}

#[test]
fn the_first_check_says_what_to_type_for_credentials() {
    let node = Node::boot("trixie");
    node.run("echo login >/opt/cluster/behaviour");
    node.install_file(DEB);
    assert_eq!(node.systemd.curl(), unknown("s9s-no-user"));
    let output = node.systemd.output(&commands("runuser -u cmonhachk"));
    let text = String::from_utf8(output.stdout).unwrap();
    // The manual page and the README say the same.
    let copy = commands("install -o cmonhachk -m 600 -t /var/lib/cmonhachk/.s9s");
    let line = joined(&copy).trim_start().to_string();
    assert!(text.contains(&format!("copies root's:\n    {line}\n")), "{text}");
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    assert!(readme.contains(&format!("\n    {line}\n")));

    node.run("mkdir /root/.s9s; echo cmon_user=admin >/root/.s9s/s9s.conf");
    node.run("touch /root/.s9s/admin.key /root/.s9s/cmonhachk.key; echo 'cmon_user=root' >/etc/s9s.conf");
    node.run("chmod 600 /etc/s9s.conf");
    let own = copied("cmonhachk.8", COMMAND)
        .into_iter()
        .find(|commands| commands.contains("printf"))
        .unwrap();
    for (give, user) in [(own, "cmonhachk"), (copy, "admin")] {
        node.run("rm -rf /var/lib/cmonhachk/.s9s/*");
        node.run(&give);
        let who = format!("cmonhachk /var/lib/cmonhachk {user}\n");
        wait_until("the credentials are used", || {
            node.systemd.curl() == LEADER && node.run("cat /opt/cluster/who") == who
        });
        let rights = node.run("cd /var/lib/cmonhachk && stat --format '%a %U' .s9s .s9s/s9s.conf .s9s/*.key");
        assert!(
            rights.starts_with("700 cmonhachk\n600 cmonhachk\n600 cmonhachk\n"),
            "{rights}"
        );
    }
    node.run(&commands("install -o cmonhachk -m 600 /etc/s9s.conf"));
    assert_eq!(node.run("cat /var/lib/cmonhachk/.s9s/s9s.conf"), "cmon_user=root\n");
}

/// A client that makes and deletes cmon users, as far as the manual needs it: it records its arguments.
const USERS: &str = r#"#!/bin/sh
if [ "$1" != user ]; then S9S_SIM=/opt/cluster exec sh /opt/s9s "$@"; fi
echo "s9s $*" >>/opt/cluster/users
for user; do :; done
if [ "$2" = --create ]; then touch "/root/.s9s/$user.key"; fi
"#;

#[test]
fn the_manuals_commands_do_as_they_are_pasted_what_it_says() {
    let node = Node::boot("bookworm");
    node.install_file(DEB);
    node.write("/usr/local/bin/s9s", USERS);
    node.run(
        "mkdir /root/.s9s; cd /root/.s9s; printf 'cmon_user = admin\ncmon_password = x\n' >s9s.conf; touch admin.key
        printf 'cmon_user = system\ncmon_password = x\n' >/etc/s9s.conf; chmod 600 /etc/s9s.conf
        install -o cmonhachk -m 600 s9s.conf /var/lib/cmonhachk/.s9s; echo login >/opt/cluster/behaviour",
    );
    // What systemctl edit opens.
    let texts = copied("cmonhachk.8", TEXT);
    let allowed = texts.iter().find(|text| text.contains("[Socket]")).unwrap();
    node.write("/opt/allowed", allowed);
    // The first words of each command, and the cmon user with whom the node then checks.
    let rows = [
        ("runuser -u cmonhachk", "admin"),
        ("install -d -m 700", "admin"),
        ("install -o cmonhachk -m 600 -t", "admin"),
        ("echo 'new disks", "admin"),
        ("rm /run/cmonhachk.maintenance", "admin"),
        ("s9s user --create", "admin"),
        ("install -o cmonhachk -m 600 -t", "cmonhachk"),
        ("install -o cmonhachk -m 600 -t", "admin"),
        ("install -o cmonhachk -m 600 /etc/s9s.conf", "system"),
        ("s9s user --create", "system"),
        ("install -o cmonhachk -m 600 -t", "cmonhachk2"),
        ("s9s user --delete cmonhachk", "cmonhachk2"),
        ("systemctl edit", "cmonhachk2"),
        ("systemctl restart", "cmonhachk2"),
        ("journalctl", "cmonhachk2"),
    ];
    let pasted = copied("cmonhachk.8", COMMAND);
    assert_eq!(pasted.len(), rows.len(), "{pasted:?}");
    for (command, (start, user)) in pasted.iter().zip(rows) {
        assert!(command.trim_start().starts_with(start), "{start}: {command}");
        node.write("/opt/pasted", command);
        let paste = || {
            // An editor needs a terminal.
            node.run("SYSTEMD_EDITOR='cp /opt/allowed' script -qec 'bash -e /opt/pasted' /dev/null");
            if start.starts_with("echo") {
                wait_until("maintenance begins", || node.systemd.curl() == unknown("maintenance"));
                return;
            }
            let who = format!("cmonhachk /var/lib/cmonhachk {user}\n");
            wait_until(command, || {
                node.systemd.curl() == LEADER && node.run("cat /opt/cluster/who") == who
            });
        };
        // The rotation, in which no node is without its leader.
        if user == "cmonhachk2" && !start.starts_with("systemctl") {
            loses_nothing(&node, command, paste);
        } else {
            paste();
        }
    }
    assert_eq!(
        node.run("cat /opt/cluster/users"),
        "s9s user --create --generate-key --group=cmonhachk --create-group cmonhachk\n\
         s9s user --create --generate-key --group=cmonhachk cmonhachk2\n\
         s9s user --delete cmonhachk\n"
    );
    let rights = node.run("cd /var/lib/cmonhachk && stat --format '%a %U' .s9s .s9s/*.conf .s9s/*.key");
    assert_eq!(rights, format!("700 cmonhachk\n{}", "600 cmonhachk\n".repeat(4)));
    // The user before came with a password, which s9s would have gone on using.
    let told = node.run(&commands("runuser -u cmonhachk"));
    let login = "  logs in as cmonhachk2, with the key /var/lib/cmonhachk/.s9s/cmonhachk2.key\n";
    assert!(told.contains(login), "{told}");
    let journal = node.run("journalctl --output cat -t cmonhachk");
    assert!(journal.contains("leader -> unknown maintenance: /run/cmonhachk.maintenance says: new disks until 15:00"));
    let allow = node.run("systemctl show --property IPAddressAllow cmonhachk.socket");
    let own = |last| format!("10.0.0.{last}/32");
    assert!(
        (101..104).all(|last| allow.contains(&own(last))) && !allow.contains("10.0.0.0/8"),
        "{allow}"
    );
}

#[test]
fn a_removal_says_that_the_front_is_gone_and_how_to_set_it_up_again() {
    let node = Node::boot("bookworm");
    let again = "cmonhachk-front --front-port 8081 10.0.0.130 10.0.0.101 10.0.0.102";
    for _ in ["an installation", "another one"] {
        node.write("/etc/haproxy/cmonhachk.cfg", &format!("# {again}\n# The rest.\n"));
        let said = node.install_file(DEB);
        assert!(!said.contains(again), "{said}");
        assert!(node.has("/etc/haproxy/cmonhachk.cfg"));
    }
    let said = node.run("dpkg --remove cmonhachk");
    assert!(said.contains(&format!("run: {again}")), "{said}");
    assert!(!node.has("/etc/haproxy/cmonhachk.cfg"));
    node.install_file(DEB);
    let said = node.run("dpkg --remove cmonhachk");
    assert!(!said.contains("cmonhachk-front"), "{said}");
}

#[test]
fn a_removal_while_checks_run_leaves_no_failed_unit() {
    let node = Node::boot("bookworm");
    for _ in 0..3 {
        node.install_file(DEB);
        node.leads();
        node.run("echo slow 0.3 >/opt/cluster/behaviour");
        node.run(
            "for at in $(seq 60); do curl --silent --max-time 5 http://127.0.0.1:9201/ >/dev/null & sleep 0.03; done & \
             sleep 0.5; dpkg --purge cmonhachk; wait",
        );
        let units = node.run("systemctl list-units --all --no-legend 'cmonhachk*'; systemctl --failed --no-legend");
        assert_eq!(units, "");
        wait_until("the last checks have ended", || {
            node.systemd.run("pgrep --exact cmonhachk").is_empty()
        });
        assert!(!node.has("/run/cmonhachk"));
    }
}
