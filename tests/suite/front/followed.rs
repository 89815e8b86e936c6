//! keepalived follows HAProxy: whatever starts first, ends or is upgraded, the address is where HAProxy runs.

use super::site::*;
use crate::cluster::wait_until;
use crate::node::DEB;
use crate::versions::{Versions, on_each_system};

/// The file that keepalived follows, and the one of version 0.1.0.
const FOLLOWED: &str = "/run/keepalived-cmonhachk/haproxy";
const FORMER: &str = "/run/cmonhachk-front.weight";

const UNIT: &str = "/usr/lib/systemd/system/cmonhachk-front.service";

/// Three nodes, of which only the first one can have the address.
fn one_can_have_it(versions: &Versions) -> Site {
    let site = Site::boot(versions);
    for node in &site.nodes {
        node.succeeds(SITE);
    }
    for node in &site.nodes[1..] {
        node.run("systemctl stop cmonhachk-front");
    }
    wait_until("the first node has the address", || site.holders(VIRTUAL) == ["node1"]);
    site
}

on_each_system! {
    whatever_starts_first_or_is_killed_the_address_follows_haproxy,
    an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address,
}

fn whatever_starts_first_or_is_killed_the_address_follows_haproxy(versions: &Versions) {
    let site = one_can_have_it(versions);
    let node = &site.nodes[0];
    for (disturbance, runs) in [
        ("systemctl restart keepalived", true),
        ("systemctl stop cmonhachk-front", false),
        ("systemctl restart keepalived", false),
        ("systemctl start cmonhachk-front", true),
        (
            "systemctl kill --kill-whom main --signal KILL keepalived; systemctl reset-failed keepalived; systemctl restart keepalived",
            true,
        ),
        ("systemctl kill --kill-whom main --signal KILL cmonhachk-front", true),
        ("systemctl reload keepalived", true),
        // As at a boot, in either order.
        (
            "systemctl stop keepalived cmonhachk-front; rm -r /run/keepalived-cmonhachk; systemd-tmpfiles --create cmonhachk.conf",
            false,
        ),
        ("systemctl start keepalived; systemctl start cmonhachk-front", true),
        (
            "systemctl stop keepalived cmonhachk-front; rm -r /run/keepalived-cmonhachk; systemd-tmpfiles --create cmonhachk.conf",
            false,
        ),
        ("systemctl start cmonhachk-front; systemctl start keepalived", true),
    ] {
        node.run(disturbance);
        let expected: &[&str] = if runs { &["node1"] } else { &[] };
        wait_until(disturbance, || {
            let says = node.run(&format!("cat {FOLLOWED} 2>/dev/null"));
            site.holders(VIRTUAL) == expected && (says == "1\n") == runs
        });
    }

    // A missing file means no address, and a run repairs it.
    node.run(&format!("rm {FOLLOWED}"));
    wait_until("the address has gone", || site.holders(VIRTUAL).is_empty());
    let said = node.front("");
    assert!(said.contains(&format!("Writes {FOLLOWED}\n")), "{said}");
    wait_until("the address is back", || site.holders(VIRTUAL) == ["node1"]);

    // The same for its folder, which keepalived stops to watch.
    node.run("rm -r /run/keepalived-cmonhachk");
    wait_until("the address has gone", || site.holders(VIRTUAL).is_empty());
    let said = node.front("");
    assert!(said.contains("Makes /run/keepalived-cmonhachk\n"), "{said}");
    wait_until("the address is back", || site.holders(VIRTUAL) == ["node1"]);
}

/// Makes of a front what version 0.1.0 made: the unit writes another number into another file.
const OF_VERSION_0_1_0: &str = r#"
    unit=/usr/lib/systemd/system/cmonhachk-front.service snippet=/etc/keepalived/cmonhachk.conf
    sed -i -e '/^Exec.*Post=/d' -e 's/^\(RuntimeDirectory=cmonhachk-front\).*/\1/' $unit
    sed -i "s|^KillMode.*|&\nExecStartPost=/bin/sh -c 'echo 0 >/run/cmonhachk-front.weight'\nExecStopPost=/bin/sh -c 'echo -254 >/run/cmonhachk-front.weight'|" $unit
    sed -i -e 's|/run/keepalived-cmonhachk/haproxy|/run/cmonhachk-front.weight|' \
        -e 's|^    weight 0 reverse|    weight 1\n    # Until HAProxy has started. At -254 the node cannot have the address.\n    init_file -254|' $snippet
    systemctl daemon-reload
    systemctl stop keepalived
    systemctl restart cmonhachk-front
    echo 0 >/run/cmonhachk-front.weight
    rm -r /run/keepalived-cmonhachk
    systemctl start keepalived
    echo 0 >/run/cmonhachk-front.weight"#;

fn an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address(versions: &Versions) {
    let site = Site::boot(versions);
    for node in &site.nodes {
        node.succeeds(SITE);
        node.run(OF_VERSION_0_1_0);
    }
    // HAProxy does not run on the third node.
    site.nodes[2].run("systemctl stop cmonhachk-front");
    wait_until("one node has the address", || site.holders(VIRTUAL).len() == 1);
    let holder = site.holders(VIRTUAL)[0];

    let replies = site.replies_during((VIRTUAL, 81), || {
        for node in &site.nodes {
            let said = node.run(&format!("dpkg --install {DEB} 2>&1; echo $?"));
            assert!(said.ends_with("\n0\n"), "{said}");
        }
        site.stays_on(holder);
    });
    assert!(
        replies.len() == 1 && replies.contains_key(&Some("node2".to_string())),
        "{replies:?}"
    );
    for node in &site.nodes {
        let runs = if node.name == "node3" { "0\n" } else { "1\n" };
        assert_eq!(node.run(&format!("cat {FOLLOWED}")), runs, "{}", node.name);
        let left = node.run("grep -e front.weight -e '^ *init_file' /etc/keepalived/cmonhachk.conf");
        assert_eq!(left, "", "{}", node.name);
    }

    // From now on, keepalived follows the new file, and the former one has no effect.
    site.node(holder).run(&format!("echo -254 >{FORMER}"));
    site.stays_on(holder);
    site.node(holder).run("systemctl stop cmonhachk-front");
    let second = site.moves_from(holder);
    assert_ne!(second, "node3");

    // After a downgrade, the former file is there before keepalived reads the former configuration.
    for (name, says) in [(second, "0\n"), ("node3", "-254\n")] {
        let postrm = "sh /var/lib/dpkg/info/cmonhachk.postrm upgrade 0.1.0";
        let said = site.node(name).run(&format!(
            "rm {FORMER}; sed -i /keepalived-cmonhachk/d {UNIT}; {postrm}; cat {FORMER}"
        ));
        assert_eq!(said, says, "{name}");
    }
}

#[test]
fn a_reload_that_cannot_take_its_port_is_no_success_and_leaves_what_was_there() {
    let site = Site::boot(&Versions::usual());
    let node = &site.nodes[0];
    // As where SELinux denies it a port: "Permission denied".
    node.run("mkdir /etc/systemd/system/cmonhachk-front.service.d");
    node.put(
        "etc/systemd/system/cmonhachk-front.service.d/denied.conf",
        "[Service]\nCapabilityBoundingSet=~CAP_NET_BIND_SERVICE\n",
    );
    node.run("systemctl daemon-reload");
    node.succeeds(&format!("--front-port 8081 {SITE}"));
    let before = node.run("sha256sum /etc/haproxy/cmonhachk.cfg");

    let said = node.front("--front-port 82");
    assert!(
        said.contains("cmonhachk-front: HAProxy does not serve the new configuration: see journalctl")
            && said.contains("cmonhachk-front: The former configuration is in place again.\n")
            && said.ends_with("\n1\n"),
        "{said}"
    );
    assert!(!said.contains("Users get to the leader"), "{said}");
    assert_eq!(node.run("sha256sum /etc/haproxy/cmonhachk.cfg"), before);
    let gets = |port| site.visit(VIRTUAL, port).map(|(_, name)| name);
    assert_eq!(gets(8081).as_deref(), Some("node2"));
    let said = node.succeeds("");
    assert!(said.ends_with("Nothing had to be changed.\n0\n"), "{said}");

    // A run that is killed leaves the new configuration. What comes back is the one that was served.
    node.run("timeout --signal KILL 3 cmonhachk-front --front-port 82");
    assert_ne!(node.run("sha256sum /etc/haproxy/cmonhachk.cfg"), before);
    let said = node.front("--status");
    assert!(
        said.contains("HAProxy does not serve /etc/haproxy/cmonhachk.cfg as it is: run cmonhachk-front\n"),
        "{said}"
    );
    let said = node.front("--front-port 82");
    assert!(said.contains("The former configuration is in place again.\n"), "{said}");
    assert_eq!(node.run("sha256sum /etc/haproxy/cmonhachk.cfg"), before);
    assert_eq!(gets(8081).as_deref(), Some("node2"));

    // Nor is all well where the address could not come.
    node.run(&format!("echo 0 >{FOLLOWED}"));
    let said = node.front("--status");
    assert!(said.contains("this host cannot get 10.0.0.130, because"), "{said}");
    node.succeeds("");

    // The same where it cannot start at all.
    node.succeeds("--remove");
    let said = node.front(&format!("--front-port 82 {SITE}"));
    assert!(
        said.contains("HAProxy does not serve the new configuration") && said.ends_with("\n1\n"),
        "{said}"
    );
    assert_ne!(
        node.run("systemctl show --property ActiveState cmonhachk-front"),
        "ActiveState=activating\n"
    );
    // A service that tries again and again must not be in the way of a run with better arguments.
    node.run("systemctl start --no-block cmonhachk-front");
    node.succeeds(&format!("--front-port 8081 {SITE}"));
}

#[test]
fn status_says_what_to_do_after_the_port_went_to_a_program_without_the_agents_line() {
    let site = Site::boot(&Versions::usual());
    for node in &site.nodes {
        node.succeeds(SITE);
    }
    // HAProxy has heard "down" from the third node. Now another program answers there, and it leads.
    site.nodes[2].run(
        "systemctl stop cmonhachk.socket cmonhachk.service
         systemd-run --quiet --unit another socat TCP-LISTEN:9201,fork,reuseaddr SYSTEM:'echo HTTP/1.0 200 OK; echo'",
    );
    for node in &site.nodes {
        node.hears("node3");
    }
    wait_until("the second node has gone down", || {
        !site.nodes[0].front("--status").contains("10.0.0.102       UP")
    });
    let advice = "run systemctl reload cmonhachk-front on each node\n";
    let said = site.nodes[0].front("--status");
    assert!(
        said.contains("10.0.0.103       DOWN (agent)") && said.contains(advice) && said.ends_with("\n1\n"),
        "{said}"
    );
    for node in &site.nodes {
        node.run("systemctl reload cmonhachk-front");
    }
    wait_until("users get there", || {
        site.user_gets(VIRTUAL).as_deref() == Some("node3")
    });
    assert!(!site.nodes[0].front("--status").contains(advice));
}
