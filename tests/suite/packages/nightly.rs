//! What takes long: the .rpm and firewalld, xinetd on a Debian that has a unit for it, and Debian 11.

use std::env::consts::ARCH;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::{OWN_SETTINGS, SERVED, SERVED_BY_XINETD, commands, hands_over, loses_nothing, nothing_runs};
use crate::cluster::{Daemon, LEADER, wait_until};
use crate::front::site::ip;
use crate::node::{Node, make_package};

on! {
    from_installation_to_purge_no_answer_is_lost_and_nothing_is_left: bullseye;
    xinetd_takes_the_port_over_and_gives_it_back_without_a_restart: trixie;
    an_operators_own_xinetd_file_goes_on_serving_until_the_operator_says_otherwise: trixie;
}

/// What the .rpm of this version is on a node.
const RPM: &str = concat!("/opt/cmonhachk-", env!("CARGO_PKG_VERSION"), "-1.$(uname -m).rpm");

/// A package without files, for dnf, in the place of the packages of Red Hat's that ours need.
const STAND_IN: &str = "{name: stand-in, arch: all, version: 1.0.0, provides: [systemd, xinetd, haproxy, keepalived]}";

#[test]
fn dnf_installs_upgrades_downgrades_and_removes_the_same() {
    let node = Node::boot("trixie-rpm");
    // Remove what makes this a Debian to the scripts. dpkg has installed what the packages need.
    node.install("xinetd");
    node.run("rm /usr/bin/deb-systemd-* /usr/sbin/invoke-rc.d");
    node.write("/opt/stand-in.yaml", STAND_IN);
    make_package(
        &node.systemd,
        &node.systemd.root().join("opt/stand-in.yaml"),
        "rpm",
        &[],
    );
    node.write(
        "/etc/yum.repos.d/opt.repo",
        "[opt]\nname=opt\nbaseurl=file:///opt\ngpgcheck=0\nmetadata_expire=0\n",
    );
    node.run("createrepo_c --quiet /opt");
    let before = node.files();
    let dnf = |words: &str| node.run(&format!("cd /opt && dnf --assumeyes {words}"));
    let version = |expected: &str| {
        let query = "rpm --query --queryformat '%{name} %{version} %{license}\n' cmonhachk";
        assert_eq!(node.run(query), format!("cmonhachk {expected} MIT\n"));
    };

    node.run("systemctl mask cmonhachk.socket");
    let install = commands("dnf install ./cmonhachk").replace("x86_64", ARCH);
    dnf(install.strip_prefix("dnf ").unwrap());
    assert!(node.serves().ends_with("inactive masked"), "{}", node.serves());
    node.run("systemctl unmask cmonhachk.socket; systemctl enable --now cmonhachk.socket");
    assert_eq!(node.systemd.curl(), LEADER);
    assert_eq!(node.serves(), SERVED);
    assert_eq!(node.run("rpm --verify cmonhachk"), "");

    node.make_version("9.9.9", "rpm");
    node.make_former_version("rpm");
    node.write(OWN_SETTINGS, "global\n");
    node.run("createrepo_c --quiet /opt");
    let socket = node.socket();
    let own = env!("CARGO_PKG_VERSION");
    loses_nothing(&node, "dnf", || {
        for (words, expected) in [
            ("upgrade", "9.9.9"),
            ("downgrade cmonhachk-0.2.0", "0.2.0"),
            (&format!("upgrade cmonhachk-{own}"), own),
            ("reinstall cmonhachk", own),
        ] {
            dnf(words);
            version(expected);
            node.answers_from_the_installed_program();
        }
    });
    assert_eq!(node.socket(), socket, "it was not closed");
    node.run("systemctl disable --now cmonhachk.socket");
    dnf("install ./cmonhachk-9.9.9-1.*.rpm");
    version("9.9.9");
    assert!(node.serves().ends_with("inactive disabled"), "{}", node.serves());
    node.run("systemctl enable --now cmonhachk.socket");

    let xinetd = node.run("pgrep --exact xinetd");
    hands_over(&node, "dnf", || {
        dnf("install cmonhachk-xinetd");
        wait_until("xinetd has the port", || node.serves() == SERVED_BY_XINETD);
        dnf("remove cmonhachk-xinetd");
        wait_until("systemd has the port", || node.serves() == SERVED);
    });
    assert_eq!(node.run("pgrep --exact xinetd"), xinetd);
    node.run("systemctl stop xinetd");
    dnf("install cmonhachk-xinetd");
    wait_until("xinetd was started", || node.serves() == SERVED_BY_XINETD);
    // The other package, which needs this one, goes with it.
    dnf("remove cmonhachk");
    assert_eq!(node.systemd.curl(), "");
    // Only what the manual names stays.
    assert_eq!(
        node.differences(&before),
        [
            "/etc/haproxy",
            "/etc/haproxy/cmonhachk.d",
            OWN_SETTINGS,
            "/var/lib/cmonhachk",
            "/var/lib/cmonhachk/.s9s"
        ]
    );
    nothing_runs(&node);
}

#[test]
fn firewalld_opens_what_the_check_and_the_front_need_and_works_without_the_package() {
    let node = Node::boot("trixie-rpm");
    node.install("firewalld");
    node.run(&format!("rpm --install --nodeps {RPM}"));
    // This thread is another host.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let pid = node.systemd.first_process().unwrap();
    ip(&format!("link add outside type veth peer name eth1 netns {pid}"));
    ip("address add 10.0.0.200/24 dev outside");
    ip("link set outside up");
    node.run("ip address add 10.0.0.101/24 dev eth1; ip link set eth1 up");
    let reaches = |port: u16| match TcpStream::connect((Ipv4Addr::new(10, 0, 0, 101), port)) {
        Err(error) if error.kind() == ErrorKind::HostUnreachable => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused || panic!("{port}: {error}"),
        Ok(_) => true,
    };
    let opens = |expected: [bool; 4]| assert_eq!([9201, 81, 9600, 82].map(reaches), expected);
    let mut receiver = Command::new("nsenter");
    receiver.arg(format!("--net=/proc/{pid}/ns/net"));
    receiver
        .args(["socat", "-u", "IP4-RECVFROM:112", "-"])
        .stdout(Stdio::piped());
    let mut receiver = Daemon(receiver.spawn().unwrap());
    let sends_vrrp = |text: &str| {
        let send = format!("echo {text} | socat -u - IP4-SENDTO:10.0.0.101:112");
        Command::new("sh").args(["-c", &send]).status().unwrap();
    };
    wait_until("somebody receives VRRP", || {
        !node.run("ss -Hlw 'sport = 112'").is_empty()
    });
    opens([false; 4]);
    sends_vrrp("refused");

    let open = format!("set -e\n{}", commands("firewall-cmd --permanent --add-service"));
    // firewalld needs a moment to find the new files.
    wait_until("firewalld knows the services", || {
        node.systemd.output(&open).status.success()
    });
    opens([true, true, true, false]);
    wait_until("VRRP passes", || {
        sends_vrrp("accepted");
        receiver.0.try_wait().unwrap().is_some()
    });
    let mut received = Vec::new();
    receiver.0.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    assert!(received.ends_with(b"accepted\n"), "{received:?}");

    // firewalld refuses a zone with a service that it does not know, and a rule that loses its service opens all.
    node.run(
        "firewall-cmd --permanent --add-rich-rule 'rule family=ipv4 source address=10.0.0.200 service name=cmonhachk accept'
         firewall-cmd --reload; rpm --erase cmonhachk",
    );
    node.run("firewall-cmd --check-config; firewall-cmd --reload");
    opens([false; 4]);

    // The same where firewalld does not run. What an administrator has in other files stays as it is.
    node.run(&format!("rpm --install --nodeps {RPM}"));
    wait_until("firewalld knows the services", || {
        node.systemd.output(&open).status.success()
    });
    node.write("/etc/firewalld/zones/own.xml", OWN_ZONE);
    node.run("systemctl stop firewalld; rpm --erase cmonhachk; firewall-offline-cmd --check-config");
    assert_eq!(node.run("cat /etc/firewalld/zones/own.xml"), OWN_ZONE);
    assert_eq!(
        node.run("grep --recursive --include=*.xml cmonhachk /etc/firewalld || true"),
        ""
    );
    node.run("systemctl start firewalld");
    opens([false; 4]);
}

/// A zone that has nothing of ours, as its administrator wrote it.
const OWN_ZONE: &str =
    "<zone>\n  <!-- the office -->\n  <source address=\"192.168.7.0/24\"/> <service name=\"ssh\"/>\n</zone>\n";
