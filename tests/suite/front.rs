//! deploy/front/cmonhachk-front on three nodes that are booted for it, each with the responder, a UI and
//! the real HAProxy and keepalived. A switch connects them and a client.

mod article;
mod followed;
pub mod site;
pub mod users;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use site::*;
use users::{End, Visit, users_during};

use crate::cluster::{AtEnd, Folder, project, wait_until};
use crate::node::DEB;
use crate::pauses::Pauses;
use crate::versions::{Versions, on_each_system};

on_each_system! {
    one_address_leads_to_the_leader_and_stays_on_a_node_whose_haproxy_runs,
    nobody_waits_long_for_a_dead_leader,
    of_200_connections_around_the_death_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy,
    of_200_connections_around_a_standstill_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy,
    what_an_operator_has_is_neither_changed_nor_restarted,
}

fn one_address_leads_to_the_leader_and_stays_on_a_node_whose_haproxy_runs(versions: &Versions) {
    let site = Site::boot(versions);
    let version = site.nodes[1].succeeds("--version");
    assert_eq!(version, format!("cmonhachk {}\n0\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(site.nodes[1].succeeds("-h"), site.nodes[1].succeeds("--help"));
    let alone = site.nodes[1].front("--status");
    assert!(alone.contains("\n127.0.0.1                      leader\n"), "{alone}");
    assert!(alone.ends_with("\n1\n"), "{alone}");
    let start = Instant::now();
    for (node, order) in site.nodes.iter().zip(["101 102 103", "103 101 102", "102 103 101"]) {
        let nodes = order.replace(' ', " 10.0.0.");
        let said = node.succeeds(&format!("{VIRTUAL} 10.0.0.{nodes}"));
        assert!(
            said.contains("Users get to the leader at 10.0.0.130, port 81.\n"),
            "{said}"
        );
    }
    assert_eq!(site.user_gets(VIRTUAL).as_deref(), Some("node2"));
    eprintln!("three runs, and users were on the leader after {:?}", start.elapsed());
    assert_eq!(site.holders(VIRTUAL), ["node1"]);
    for node in &site.nodes {
        let before = node.state();
        assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
        assert_eq!(node.state(), before);
        assert_eq!(
            node.run("systemctl is-enabled cmonhachk-front keepalived"),
            "enabled\nenabled\n"
        );
        // See the unit.
        let front = "/proc/$(systemctl show --property MainPID --value cmonhachk-front)";
        assert_eq!(node.run(&format!("grep NoNewPrivs {front}/status")), "NoNewPrivs:\t0\n");
    }
    a_repair_needs_no_other_node_and_a_new_setting_does(&site);
    // Also where the address is.
    for status in [site.nodes[2].succeeds("--status"), site.nodes[0].succeeds("--status")] {
        for part in [
            "10.0.0.101       DOWN",
            "10.0.0.102       UP            leader\n",
            "10.0.0.130 is on 10.0.0.101.\nUsers get to 10.0.0.102 at 10.0.0.130, port 81.\n0\n",
        ] {
            assert!(status.contains(part), "{part}: {status}");
        }
    }
    let stopped = site.nodes[2].run("systemctl stop cmonhachk-front; cmonhachk-front --status 2>&1; echo $?");
    assert!(
        stopped.contains("cmonhachk-front.service does not run here\n"),
        "{stopped}"
    );
    assert!(stopped.ends_with("\n1\n"), "{stopped}");
    site.nodes[2].run("systemctl start cmonhachk-front");
    let metrics = site.nodes[1].run("curl --silent http://10.0.0.130:9600/metrics");
    assert!(
        metrics.contains("haproxy_server_status{proxy=\"role\",server=\"node2\""),
        "{metrics}"
    );

    // A reload keeps a session and the address; an update of haproxy causes such a reload, also if dpkg
    // drops the trigger because it installs both packages in one go.
    let (session, _) = site.visit(VIRTUAL, 81).unwrap();
    let begun = Instant::now();
    site.nodes[0].run("systemctl reload keepalived");
    let trigger = "dpkg-trigger --by-package=haproxy /usr/sbin/haproxy; dpkg --triggers-only --pending";
    for update in [trigger, &format!("dpkg --install {DEB}")] {
        site.nodes[0].run(&format!("cd /usr/sbin; cp haproxy new; mv new haproxy; {update}"));
        wait_until("HAProxy is the new program", || {
            let program = "readlink /proc/$(systemctl show --property MainPID --value cmonhachk-front)/exe";
            site.nodes[0].run(program) == "/usr/sbin/haproxy\n"
        });
        // After 10 s, the old process ends, and the session with it.
        assert!(is_open(&session) || begun.elapsed() > Duration::from_secs(9));
    }
    site.stays_on("node1");

    // HAProxy's worker or master is killed, a cable is cut: the address moves, and does not move back.
    site.nodes[0].run("kill -KILL $(pgrep --parent $(systemctl show --property MainPID --value cmonhachk-front))");
    let second = site.moves_from("node1");
    site.stays_on(second);
    site.node(second)
        .run("systemctl kill --kill-whom main --signal KILL cmonhachk-front");
    let third = site.moves_from(second);
    site.network.ip(&format!("link set {third} down"));
    let fourth = site.moves_from(third);
    site.network.ip(&format!("link set {third} up"));
    wait_until("one node has the address", || site.holders(VIRTUAL) == [fourth]);

    // No node gives up the address for a stranger with the same router id and a higher priority.
    let folder = Folder::new();
    let file = folder.write("stranger", STRANGER);
    let [file, pid, vrrp] = [file, folder.join("pid"), folder.join("vrrp")].map(|path| path.display().to_string());
    let stranger = site.network.daemon(&format!(
        "keepalived --dont-fork --use-file {file} --pid {pid} --vrrp_pid {vrrp}"
    ));
    wait_until("the stranger has taken the address, too", || {
        let list = ["-n", &site.network.0, "-o", "addr", "show", "to", VIRTUAL];
        !Command::new("ip").args(list).output().unwrap().stdout.is_empty()
    });
    site.stays_on(fourth);
    drop(stranger);

    // Users who wait while HAProxy starts are sent to the leader only.
    let replies = site.replies_during(("10.0.0.103", 81), || {
        for _ in 0..3 {
            site.nodes[2].run("systemctl restart cmonhachk-front; sleep 1.5");
        }
    });
    assert!(replies[&Some("node2".to_string())] > 10, "{replies:?}");
    assert!(!replies.keys().flatten().any(|name| name != "node2"), "{replies:?}");
}

fn nobody_waits_long_for_a_dead_leader(versions: &Versions) {
    let site = Site::boot(versions);
    for node in &site.nodes {
        node.succeeds(SITE);
    }
    let (over, begun) = (AtomicBool::new(false), Instant::now());
    let visits = thread::scope(|scope| {
        let end = AtEnd(&over);
        let users = scope.spawn(|| {
            let mut visits = Vec::new();
            while !over.load(Ordering::Relaxed) {
                visits.push(scope.spawn(|| {
                    let start = Instant::now();
                    let name = site.user_gets(VIRTUAL);
                    (start - begun, start.elapsed(), name)
                }));
                thread::sleep(Duration::from_millis(100));
            }
            visits
        });
        thread::sleep(Duration::from_millis(500));
        site.network.ip("link set node2 down");
        // The election takes its time.
        thread::sleep(Duration::from_secs(5));
        for node in [&site.nodes[0], &site.nodes[2]] {
            node.run("sed -i 's/^l/f/; /10.0.0.103/s/^f/l/' /opt/cluster/controllers");
        }
        let elected = Instant::now();
        wait_until("users are on the new leader", || {
            site.user_gets(VIRTUAL).as_deref() == Some("node3")
        });
        eprintln!(
            "users were on the new leader {:.1?} after the election",
            elected.elapsed()
        );
        drop(end);
        let users = users.join().unwrap();
        users.into_iter().map(|visit| visit.join().unwrap()).collect::<Vec<_>>()
    });
    let longest = visits.iter().max_by_key(|(_, took, _)| *took).unwrap();
    eprintln!("the longest of {} visits: {longest:?}", visits.len());
    // Two tries of half a second, or two seconds without a leader.
    assert!(longest.1 < Duration::from_millis(3500), "{visits:?}");
    assert!(
        !visits.iter().any(|(.., name)| name.as_deref() == Some("node1")),
        "{visits:?}"
    );
}

fn of_200_connections_around_the_death_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy(versions: &Versions) {
    // Held until there is a leader, then two tries of half a second.
    nobody_hangs_when(versions, Duration::from_millis(3500), |site| {
        site.network.ip("link set node2 down");
    });
}

fn of_200_connections_around_a_standstill_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy(
    versions: &Versions,
) {
    // Its kernel still accepts connections. Two checks come within a second each, and each waits for 2 s.
    nobody_hangs_when(versions, Duration::from_secs(7), |site| {
        let leader = site.node("node2");
        leader.freezes_ui(true);
        leader.freeze(true);
    });
}

/// The others elect a new leader at the moment of the fault.
fn nobody_hangs_when(versions: &Versions, limit: Duration, fault: impl FnOnce(&Site)) {
    let (site, pauses) = (Site::boot(versions), Pauses::watch());
    for node in &site.nodes {
        node.succeeds(SITE);
    }
    let (period, start) = (Duration::from_millis(20), Instant::now());
    let (visits, _) = users_during(&site, period, |_| {
        thread::sleep(period * 15);
        fault(&site);
        for node in [&site.nodes[0], &site.nodes[2]] {
            node.hears("node3");
        }
        // HAProxy notices in this time.
        thread::sleep(period * 185);
    });
    let longest = visits.iter().max_by_key(|visit| visit.took()).unwrap();
    let count = |is_so: fn(&Visit) -> bool| visits.iter().filter(|visit| is_so(visit)).count();
    eprintln!(
        "of {} visits {} were answered and {} hung; the longest took {:.2?}: {:?}",
        visits.len(),
        count(Visit::is_answered),
        count(|visit| visit.end == End::Hung),
        longest.took(),
        longest.end
    );
    let limit = limit + pauses.between(start, Instant::now());
    assert!(longest.took() < limit, "{longest:?}");
    // The leader is still dead, and all users have gone.
    wait_until("HAProxy has closed all connections", || {
        let mut connections = [0, 2].into_iter().flat_map(|node| site.nodes[node].connections());
        !connections.any(|line| line.contains(" src=10.0.0.200:"))
    });
    assert_eq!(site.user_gets(VIRTUAL).as_deref(), Some("node3"));
}

/// The third node does not answer, and the second one has lost parts of its front.
fn a_repair_needs_no_other_node_and_a_new_setting_does(site: &Site) {
    let [_, node, silent] = &site.nodes[..] else {
        unreachable!()
    };
    silent.run("systemctl stop cmonhachk.socket");
    node.run("rm /etc/keepalived/cmonhachk.conf; systemctl --quiet disable --now cmonhachk-front");
    let repair = node.front("");
    for part in [
        "Enables cmonhachk-front.service\n",
        "Starts cmonhachk-front.service\n",
        "Writes /etc/keepalived/cmonhachk.conf\n",
        "cmonhachk-front: 10.0.0.103 gives no answer: nothing listens on port 9201, or no way leads there\n",
    ] {
        assert!(repair.contains(part), "{part}: {repair}");
    }
    assert!(repair.ends_with("\n1\n"), "{repair}");
    assert_eq!(node.run("systemctl is-active cmonhachk-front"), "active\n");
    let state = node.state();
    let refusal = node.front("--front-port 82");
    assert!(
        refusal.contains("10.0.0.103 gives no answer") && refusal.ends_with("\n1\n"),
        "{refusal}"
    );
    // A dry run shows the whole change all the same.
    let shown = node.front("--dry-run --front-port 82");
    for part in [
        "+    bind :82\n",
        "Reloads cmonhachk-front.service\n",
        "10.0.0.103 gives no answer",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("Reloads keepalived.service"), "{shown}");
    assert!(shown.ends_with("\n1\n"), "{shown}");
    assert_eq!(node.state(), state);
    let status = node.front("--status");
    assert!(status.contains("10.0.0.103       DOWN"), "{status}");
    assert!(status.ends_with("\n1\n"), "{status}");
    silent.run("systemctl start cmonhachk.socket");
    // A node that does not know its role is named, and this one first.
    for ignorant in [silent, node] {
        ignorant.run("echo 'fail 6 No user name set.' >/opt/cluster/behaviour; sleep 1.2");
    }
    for arguments in ["", "--status"] {
        let said = node.front(arguments);
        let (own, other) = (
            said.find("cmonhachk-front: 10.0.0.102 does not know its role: s9s-no-user"),
            said.find(".103 does not know"),
        );
        assert!(own.is_some() && own < other && said.ends_with("\n1\n"), "{said}");
    }
    for ignorant in [silent, node] {
        ignorant.run("rm /opt/cluster/behaviour");
    }
    wait_until("all is well", || node.front("--status").ends_with("\n0\n"));
    assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
}

const STRANGER: &str = "vrrp_instance stranger {\n interface switch\n virtual_router_id 51\n priority 200\n \
    unicast_src_ip 10.0.0.200\n unicast_peer {\n 10.0.0.101\n 10.0.0.102\n 10.0.0.103\n }\n \
    virtual_ipaddress {\n 10.0.0.130\n }\n}\n";

#[test]
fn a_new_node_that_the_others_do_not_know_is_told_so_and_serves_when_they_do() {
    let site = Site::boot(&Versions::usual());
    for node in &site.nodes[..2] {
        node.succeeds("10.0.0.130 10.0.0.101 10.0.0.102");
    }
    let said = site.nodes[2].front(SITE);
    assert!(
        said.contains("10.0.0.101 had 10.0.0.130, and now this host has it"),
        "{said}"
    );
    assert!(said.ends_with("\n1\n"), "{said}");
    for node in &site.nodes[..2] {
        node.succeeds(SITE);
    }
    wait_until("one node has the address", || site.holders(VIRTUAL).len() == 1);
    site.nodes[2].succeeds("");

    // It is taken out again, first there and then elsewhere.
    let said = site.nodes[2].succeeds("--remove");
    let holder = &site.holders(VIRTUAL)[0][4..];
    assert!(
        said.contains(&format!("10.0.0.130 is on 10.0.0.10{holder} now.\n")),
        "{said}"
    );
    for node in &site.nodes[..2] {
        node.succeeds("10.0.0.130 10.0.0.101 10.0.0.102");
    }
    wait_until("one of the others has the address", || {
        matches!(site.holders(VIRTUAL)[..], ["node1" | "node2"])
    });

    // The address is in a network without the nodes' addresses, which may not see the statistics.
    site.network.ip("link add second up type bridge");
    for node in &site.nodes {
        node.succeeds("--remove");
        let (name, pid) = (node.name, node.systemd.first_process().unwrap());
        site.network.ip(&format!(
            "link add {name}-2 up master second type veth peer name eth2 netns {pid}"
        ));
        node.run(&format!(
            "ip addr add 10.2.0.{}/24 dev eth2; ip link set eth2 up",
            &name[4..]
        ));
    }
    for node in &site.nodes {
        node.succeeds("--interface eth2 10.2.0.130 10.0.0.101 10.0.0.102 10.0.0.103");
    }
    assert_eq!(site.holders("10.2.0.130"), ["node1"]);
}

const HAPROXY_CFG: &str = "global\n    stats socket /run/operator.sock\ndefaults\n    mode tcp\n    timeout connect 5s\n    \
    timeout client 1h\n    timeout server 1h\nlisten stats\n    bind :8443\n    server own 127.0.0.1:443\n";
/// The last line has no line end, and keepalived's test objects to the script, which is as in the article.
const KEEPALIVED_CONF: &str = "global_defs {\n    vrrp_version 2\n}\n\tinclude own.conf\nvrrp_script own {\n    \
    script \"killall -0 haproxy\"\n    weight 2\n}\nvrrp_instance own {\n    track_script {\n        own\n    }\n    interface eth1\n    \
    virtual_router_id 7\n    priority 100\n    virtual_ipaddress {\n        10.0.0.77/24\n    }\n}";

fn what_an_operator_has_is_neither_changed_nor_restarted(versions: &Versions) {
    let site = Site::boot(versions);
    let node = &site.nodes[0];
    node.run(&format!(
        "touch /etc/keepalived/keepalived.conf.new; cat >/etc/haproxy/haproxy.cfg <<'END'\n{HAPROXY_CFG}END\nprintf '%s' '{KEEPALIVED_CONF}' >/etc/keepalived/keepalived.conf
         touch /etc/keepalived/own.conf; chmod 600 /etc/keepalived/keepalived.conf; systemctl --quiet enable --now haproxy keepalived"
    ));
    let session = inside(&site.network.file(), || TcpStream::connect("10.0.0.101:8443").unwrap());
    let mut name = [0; 5];
    (&session).read_exact(&mut name).unwrap();
    wait_until("the operator's address is there", || node.has("10.0.0.77"));
    let theirs = || {
        assert!(node.has("10.0.0.77"));
        assert!(is_open(&session));
        node.run("pgrep --parent 1 --list-full 'haproxy|keepalived' | grep -v cmonhachk; stat --format '%a %U' /etc/keepalived/keepalived.conf")
    };
    let files =
        || node.run("cd /etc; find haproxy keepalived systemd/system -type f | sort | xargs sha256sum; ls -R systemd");
    let before = (theirs(), files());

    for node in &site.nodes {
        node.succeeds(SITE);
    }
    assert_eq!(site.user_gets(VIRTUAL).as_deref(), Some("node2"));
    assert_eq!(theirs(), before.0);
    for node in site.nodes.iter().rev() {
        let state = node.state();
        assert!(
            node.succeeds("--remove --dry-run")
                .contains("Removes /etc/keepalived/cmonhachk.conf\n")
        );
        assert_eq!(node.state(), state);
        // Removing the package removes the front as well, also if what it needs was removed before.
        match node.name {
            "node3" => node.run("mv /usr/bin/curl /opt; dpkg --purge haproxy keepalived; dpkg --remove cmonhachk"),
            // This works even if somebody has removed our file, or another version has written it.
            "node1" => node.run(
                "rm /etc/keepalived/cmonhachk.conf; sed -i '1s/$/ --of-another-version/' /etc/haproxy/cmonhachk.cfg
                 cmonhachk-front --remove",
            ),
            _ => node.succeeds("--remove"),
        };
    }
    wait_until("nobody has the address", || site.holders(VIRTUAL).is_empty());
    assert_eq!((theirs(), files()), before);
    let left =
        "find /etc /run -path /run/systemd -prune -o -name 'cmonhachk-front*' -print -o -name 'cmonhachk.c*' -print";
    assert_eq!(site.nodes[2].run(left), "");
    for node in &site.nodes[1..] {
        assert_eq!(
            node.run("ls /etc/keepalived/keepalived.conf; systemctl is-active keepalived"),
            "inactive\n"
        );
    }
    assert!(node.succeeds("--remove").ends_with("Nothing had to be changed.\n0\n"));
}

#[test]
fn a_run_that_is_interrupted_is_finished_by_the_next_one_and_two_wait_for_each_other() {
    let site = Site::boot(&Versions::usual());
    let node = &site.nodes[1];
    node.run("mv /usr/bin/systemctl /usr/bin/systemctl.real");
    // Makes systemctl do something before its work, if its arguments begin with `arguments`.
    let before = |arguments: &str, what: &str| {
        node.run(&format!(
            "cat >/usr/bin/new <<'END'\n#!/bin/sh\ncase \"$*\" in \"{arguments}\"*) {what} ;; esac\nexec systemctl.real \"$@\"\nEND\n\
             chmod 755 /usr/bin/new; mv /usr/bin/new /usr/bin/systemctl"
        ));
    };
    let interrupted_at = |verb: &str, arguments: &str| {
        before(
            verb,
            "cp /usr/bin/systemctl.real $0.new; mv $0.new $0; kill -KILL $PPID",
        );
        let said = node.front(arguments);
        assert!(said.ends_with("\n137\n"), "{verb}: {said}");
    };
    let listens = |port: u16| !node.run(&format!("ss -Hltn sport = :{port}")).is_empty();
    for (verb, arguments) in [
        ("--quiet enable c", ""),
        ("start c", ""),
        ("start k", ""),
        ("reload c", "--front-port 82"),
        ("reload k", "--router-id 52"),
    ] {
        if !verb.starts_with("reload") {
            node.succeeds("--remove");
        }
        interrupted_at(verb, &format!("{arguments} {SITE}"));
        node.succeeds(SITE);
        assert!(
            node.succeeds(SITE).ends_with("Nothing had to be changed.\n0\n"),
            "{verb}"
        );
        wait_until("it has the address", || node.has(VIRTUAL));
    }
    // The options were saved, and the running services have them.
    assert!(listens(82) && !listens(81));
    node.run("systemctl kill --signal USR1 --kill-whom main keepalived");
    wait_until("keepalived has told its data", || {
        node.run("cat /tmp/keepalived.data")
            .contains("Virtual Router ID = 52\n")
    });

    interrupted_at("try-reload", "--remove");
    node.succeeds("--remove");
    assert!(!node.has(VIRTUAL) && !listens(82));

    before("start c", "sleep 1");
    let both = node.run(&format!(
        "cmonhachk-front {SITE} >/tmp/one 2>&1 & cmonhachk-front {SITE} >/tmp/two 2>&1; echo $?; wait $!; echo $?; cat /tmp/one /tmp/two"
    ));
    assert!(both.starts_with("0\n0\n"), "{both}");
    assert_eq!(both.matches("Starts cmonhachk-front.service\n").count(), 1, "{both}");
    assert_eq!(both.matches("Nothing had to be changed.\n").count(), 1, "{both}");
}

/// Exit status, arguments, cause, and what makes it so and undoes that.
const REFUSALS: &str = "\
2 | --no-such-option | '--no-such-option' is neither an option nor an address
2 | --front-port eighty | --front-port needs a number
2 | --interface | --interface needs a value
2 | 10.0.0.130 10.0.0.101 | two to six NODEs are needed
2 | --status 10.0.0.130 | two to six NODEs are needed
2 | 10.0.0.101 10.0.0.101 10.0.0.102 | the VIP is a node's address
2 | --stats-port 81 SITE | --front-port and --stats-port are the same
1 | SITE | port 81 is in use by socat, process | listen 81 | systemctl stop somebody
1 | SITE | choose another with --stats-port | listen 9600 | systemctl stop somebody
1 | SITE 10.0.0.200 | 10.0.0.200 gives no answer: another program has port 9201
1 | SITE 10.0.0.250 | 10.0.0.250 gives no answer: nothing listens on port 9201, or no way leads there
1 | SITE 10.0.0.201 | 10.0.0.201 gives no answer: port 9201 is silent
1 | SITE | HAProxy 2.4 or later is needed, and this is 2.2.9 | old_haproxy | mv /usr/sbin/haproxy.real /usr/sbin/haproxy
1 | SITE | HAProxy 2.4 or later is needed, and this is 1.8.27 | old_haproxy 1.8.27-493ce0b | mv /usr/sbin/haproxy.real /usr/sbin/haproxy
1 | 10.0.0.200 NODES | 10.0.0.200 is in use: the host with the hardware address
1 | 10.0.0.133 NODES | 10.0.0.133 is in use: 10.0.0.103 has it
1 | 127.0.0.1 NODES | 127.0.0.1 is in use: this host has it
1 | 10.9.9.9 NODES | 10.9.9.9 cannot be reached from here
1 | 10.9.9.9 NODES | 10.9.9.9 is not in a network of eth1 | ip route add 10.9.0.0/16 via 10.0.0.103 | ip route del 10.9.0.0/16
1 | --interface lo SITE | 10.0.0.130 is not in a network of lo
1 | 10.0.0.130 10.0.0.102 10.0.0.103 | this host has the address of no NODE
1 | --stats-from 10.0.0.0/99 SITE | haproxy refuses the configuration
1 | SITE | keepalived refuses the configuration that it would get: | instance cmonhachk 7 10.0.0.77 | rm $K
1 | SITE | would get (see --router-id): | instance own 51 10.0.0.77 | rm $K
1 | SITE | 10.0.0.130 is in use: /etc/keepalived/keepalived.conf has it | instance own 7 10.0.0.130 | rm $K
1 | SITE | keepalived.service is masked | systemctl --quiet mask keepalived | systemctl --quiet unmask keepalived";

/// The shell functions and the variable that it uses.
const REFUSAL_SHELL: &str = r#"
    K=/etc/keepalived/keepalived.conf
    listen() {
        systemd-run --quiet --collect --unit somebody socat TCP-LISTEN:$1 -
        timeout 5 sh -c "until ss -Hltnp sport = :$1 | grep -q socat; do sleep 0.05; done"
    }
    old_haproxy() {
        cp /usr/sbin/haproxy /usr/sbin/haproxy.real
        printf '#!/bin/sh\necho "HA-Proxy version %s 2021/08/06"\n' ${1:-2.2.9-2+deb11u6} >/usr/sbin/new
        chmod 755 /usr/sbin/new
        mv /usr/sbin/new /usr/sbin/haproxy
    }
    instance() {
        printf 'vrrp_instance %s {\ninterface eth1\nvirtual_router_id %s\nunicast_peer {\n10.0.0.102\n}\n' $1 $2 >$K
        printf 'virtual_ipaddress {\n%s/24\n}\n}\n' $3 >>$K
    }
"#;

#[test]
fn it_refuses_with_the_cause_before_it_changes_anything() {
    let site = Site::boot(&Versions::usual());
    let node = &site.nodes[0];
    let before = node.state();
    // It asks by its own settings alone.
    node.run("echo output = /dev/null >/root/.curlrc");
    site.nodes[2].run("ip addr add 10.0.0.133/24 dev eth1");
    site.network.ip("addr add 10.0.0.201/24 dev switch");
    let _others = [("200", "read line; echo HTTP/1.0 200 OK; echo"), ("201", "sleep 60")].map(|(last, says)| {
        let listen = format!("TCP-LISTEN:9201,bind=10.0.0.{last},fork");
        site.network.daemon(&format!("socat {listen} SYSTEM:'{says}'"))
    });
    for refusal in REFUSALS.lines() {
        let mut fields = refusal.split(" | ");
        let [status, arguments, cause, setup, undo] = [(); 5].map(|()| fields.next().unwrap_or_default());
        node.run(&format!("{REFUSAL_SHELL}{setup}"));
        let said = node.front(&arguments.replace("SITE", SITE).replace("NODES", &SITE[11..]));
        assert!(said.contains(cause), "{refusal}: {said}");
        assert!(said.starts_with("cmonhachk-front: "), "{refusal}: {said}");
        assert!(said.ends_with(&format!("\n{status}\n")), "{refusal}: {said}");
        node.run(&format!("{REFUSAL_SHELL}{undo}"));
        assert_eq!(node.state(), before, "{refusal}");
    }

    assert!(
        node.succeeds(&format!("--dry-run {SITE}"))
            .contains("Starts keepalived.service\n")
    );
    assert_eq!(node.state(), before);

    // At its end it asks for the leader: first there is none, then there is one.
    for node in &site.nodes {
        node.run("sed -i s/^l/f/ /opt/cluster/controllers");
    }
    let said = node.front(SITE);
    assert!(
        said.contains("cmonhachk-front: HAProxy finds no leader: cmonhachk-front --status shows"),
        "{said}"
    );
    assert!(said.ends_with("\n1\n"), "{said}");
    for node in &site.nodes {
        node.run("sed -i /10.0.0.102/s/^f/l/ /opt/cluster/controllers");
    }
    assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
    node.succeeds("--remove");

    // HAProxy only: a host that is no node.
    let said = node.succeeds("--haproxy-only 10.0.0.102 10.0.0.103");
    assert!(
        said.contains("Users get to the leader at any address of this host, port 81.\n"),
        "{said}"
    );
    assert_eq!(site.user_gets("10.0.0.101").as_deref(), Some("node2"));
    let said = node.front(SITE);
    assert!(said.contains("exclude each other") && said.ends_with("\n2\n"), "{said}");
    assert_eq!(
        node.run("ls /etc/keepalived/*.conf 2>/dev/null; systemctl is-active keepalived"),
        "inactive\n"
    );
    node.succeeds("--remove");

    // By IPv6.
    for node in &site.nodes {
        node.run("systemd-run --quiet socat TCP6-LISTEN:443,ipv6-v6only,fork TCP4:127.0.0.1:443");
    }
    for node in &site.nodes {
        node.succeeds("fd00::130 fd00::103 fd00::101 fd00::102");
    }
    assert_eq!(site.user_gets("fd00::130").as_deref(), Some("node2"));
    assert_eq!(site.holders("fd00::130"), ["node1"]);
}

#[test]
fn the_manual_page_is_valid_and_has_the_options_of_the_help() {
    let page = project().join("deploy/man/cmonhachk-front.8");
    let output = Command::new("mandoc").args(["-T", "lint"]).arg(&page).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // That page may not be installed here.
    let faults = said.lines().filter(|line| !line.contains("Xr cmonhachk 8"));
    assert_eq!(faults.collect::<Vec<_>>(), [""; 0]);
    let page = fs::read_to_string(page).unwrap();
    let front = project().join("deploy/front/cmonhachk-front");
    let help = Command::new(front).arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    // An option, its value's name and, where it has one, its default.
    let told = help.lines().filter_map(|line| line.strip_prefix("  --"));
    let told: Vec<String> = told
        .map(|line| line.split("  ").next().unwrap().replace(", --", ", Fl -"))
        .map(|line| match line.split_once(", ") {
            Some((one, other)) => format!("{one} , {other}"),
            None => line.replace(' ', " Ar "),
        })
        .collect();
    let listed = page.lines().filter_map(|line| line.strip_prefix(".It Fl -"));
    assert_eq!(listed.collect::<Vec<_>>(), told);
    for default in help.split('(').skip(1).filter_map(|text| text.split_once(')')) {
        if default.0.parse::<u16>().is_ok() {
            assert!(page.contains(&format!("default {}", default.0)), "{}", default.0);
        }
    }
}
