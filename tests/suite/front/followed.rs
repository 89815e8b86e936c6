//! keepalived follows HAProxy: whatever starts first, ends or is upgraded, the address is where HAProxy runs.

use super::site::*;
use crate::cluster::wait_until;
use crate::node::DEB;
use crate::versions::Versions;

/// The file that keepalived follows, and the one of version 0.1.0.
pub const FOLLOWED: &str = "/run/keepalived-cmonhachk/haproxy";
const FORMER: &str = "/run/cmonhachk-front.weight";

const UNIT: &str = "/usr/lib/systemd/system/cmonhachk-front.service";

/// Both services are stopped, and what is in /run is as at a boot.
const BEFORE_A_BOOT: &str = "systemctl stop keepalived cmonhachk-front; rm -r /run/keepalived-cmonhachk; \
    systemd-tmpfiles --create cmonhachk.conf";

/// What is done to the two services, and whether HAProxy runs then.
type Disturbance = (&'static str, bool);

pub fn at_a_boot_the_address_comes_whichever_of_haproxy_and_keepalived_is_first(site: &Site) {
    only_the_first_node_can_have_it(site);
    follows_haproxy(
        site,
        &[
            (BEFORE_A_BOOT, false),
            ("systemctl start keepalived; systemctl start cmonhachk-front", true),
            (BEFORE_A_BOOT, false),
            ("systemctl start cmonhachk-front; systemctl start keepalived", true),
        ],
    );
    each_node_can_have_it_again(site);
}

/// keepalived.rs tries most of these without systemd.
pub fn whatever_is_stopped_killed_or_reloaded_the_address_follows_haproxy(site: &Site) {
    only_the_first_node_can_have_it(site);
    follows_haproxy(
        site,
        &[
            ("systemctl restart keepalived", true),
            ("systemctl stop cmonhachk-front", false),
            ("systemctl restart keepalived", false),
            ("systemctl start cmonhachk-front", true),
            (
                "systemctl kill --kill-whom main --signal KILL keepalived; systemctl reset-failed keepalived; \
                 systemctl restart keepalived",
                true,
            ),
            ("systemctl kill --kill-whom main --signal KILL cmonhachk-front", true),
            ("systemctl reload keepalived", true),
        ],
    );
    each_node_can_have_it_again(site);
}

fn follows_haproxy(site: &Site, disturbances: &[Disturbance]) {
    let node = &site.nodes[0];
    for (disturbance, runs) in disturbances {
        node.run(disturbance);
        let expected: &[&str] = if *runs { &["node1"] } else { &[] };
        wait_until(disturbance, || {
            let says = node.run(&format!("cat {FOLLOWED} 2>/dev/null"));
            site.holders(VIRTUAL) == expected && (says == "1\n") == *runs
        });
    }
}

/// A missing file means no address, and so does a missing folder, which keepalived then stops to watch.
pub fn a_run_repairs_the_file_and_the_folder_that_keepalived_follows(site: &Site) {
    only_the_first_node_can_have_it(site);
    let node = &site.nodes[0];
    for (damage, repair) in [
        (format!("rm {FOLLOWED}"), format!("Writes {FOLLOWED}\n")),
        (
            "rm -r /run/keepalived-cmonhachk".to_string(),
            "Makes /run/keepalived-cmonhachk\n".to_string(),
        ),
    ] {
        node.run(&damage);
        wait_until("the address has gone", || site.holders(VIRTUAL).is_empty());
        let said = node.front("");
        assert!(said.contains(&repair), "{said}");
        wait_until("the address is back", || site.holders(VIRTUAL) == ["node1"]);
    }
    each_node_can_have_it_again(site);
}

fn only_the_first_node_can_have_it(site: &Site) {
    for node in &site.nodes[1..] {
        node.run("systemctl stop cmonhachk-front");
    }
    wait_until("the first node has the address", || site.holders(VIRTUAL) == ["node1"]);
}

fn each_node_can_have_it_again(site: &Site) {
    for node in &site.nodes[1..] {
        node.run("systemctl start cmonhachk-front");
    }
}

/// Makes of a front what version 0.1.0 made: the unit writes another number into another file.
const OF_VERSION_0_1_0: &str = r#"
    unit=/usr/lib/systemd/system/cmonhachk-front.service snippet=/etc/keepalived/cmonhachk.conf
    sed -i -e '/^Exec.*Post=/d; /^ExecStartPre=/d' -e 's/^\(RuntimeDirectory=cmonhachk-front\).*/\1/' $unit
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

pub fn an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address(versions: &Versions) {
    let site = Site::with_fronts(versions);
    for node in &site.nodes {
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
