//! What cmonhachk-front says of nodes, the address and users, of repairs and of what it would change.

use super::site::*;
use crate::cluster::wait_until;

pub fn without_a_front_it_shows_this_nodes_role(site: &Site) {
    let node = &site.nodes[1];
    let version = format!("cmonhachk {}\n0\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(node.succeeds("--version"), version);
    assert_eq!(node.succeeds("-h"), node.succeeds("--help"));

    let status = node.front("--status");
    assert!(status.contains("\n127.0.0.1                      leader\n"), "{status}");
    assert!(status.ends_with("\n1\n"), "{status}");
    assert!(status.contains("cmonhachk-front has not run here"), "{status}");

    let others = node.front(&format!("--status {SITE}"));
    assert!(
        others.contains("10.0.0.102, this host, has no front: run cmonhachk-front\n"),
        "{others}"
    );
    // A reader that leaves early.
    let first = node.run("cmonhachk-front --status 2>&1 | head -n 1");
    assert!(first.starts_with("PROBLEM: "), "{first}");
}

pub fn each_node_shows_the_roles_who_has_the_address_and_where_users_get_to(site: &Site) {
    let last = site.holder().replace("node", "");
    let address = format!("10.0.0.130 is on 10.0.0.10{last}.\nUsers get to 10.0.0.102 at 10.0.0.130, port 81.\n0\n");
    for node in &site.nodes {
        let status = node.succeeds("--status");
        for part in [
            "OK: 10.0.0.102 leads, and users get there at 10.0.0.130, port 81.\n",
            "10.0.0.101       runs   DOWN",
            "10.0.0.102       runs   UP            leader\n",
            &address,
        ] {
            assert!(status.contains(part), "{part}: {status}");
        }
    }
}

pub fn prometheus_sees_the_nodes_as_haproxy_does(site: &Site) {
    let metrics = site.nodes[1].run("curl --silent http://10.0.0.130:9600/metrics");
    let series = "haproxy_server_status{proxy=\"role\",server=\"node2\"";
    assert!(metrics.contains(series), "{metrics}");
}

pub fn it_names_a_front_that_does_not_run(site: &Site) {
    let node = &site.nodes[2];
    node.run("systemctl stop cmonhachk-front");
    let status = node.front("--status");
    let complaint = "cmonhachk-front.service does not run here\n";
    assert!(status.contains(complaint) && status.ends_with("\n1\n"), "{status}");
    node.run("systemctl start cmonhachk-front");
}

/// The third node does not respond, and the second one has lost parts of its front.
pub fn a_repair_needs_no_other_node(site: &Site) {
    let (node, silent) = (&site.nodes[1], &site.nodes[2]);
    silent.run("systemctl stop cmonhachk.socket");
    node.run("rm /etc/keepalived/cmonhachk.conf; systemctl --quiet disable --now cmonhachk-front");

    let repair = node.front("");
    for part in [
        "Enables cmonhachk-front.service\n",
        "Starts cmonhachk-front.service\n",
        "Writes /etc/keepalived/cmonhachk.conf\n",
        "cmonhachk-front: 10.0.0.103 gives no answer: nothing listens on port 9201\n",
    ] {
        assert!(repair.contains(part), "{part}: {repair}");
    }
    assert!(repair.ends_with("\n1\n"), "{repair}");
    assert_eq!(node.run("systemctl is-active cmonhachk-front"), "active\n");
    silent.run("systemctl start cmonhachk.socket");
}

pub fn a_new_setting_needs_every_node_and_a_dry_run_shows_it_all_the_same(site: &Site) {
    let (node, silent) = (&site.nodes[1], &site.nodes[2]);
    silent.run("systemctl stop cmonhachk.socket");
    let state = node.state();
    let refusal = node.front("--front-port 82");
    assert!(refusal.contains("10.0.0.103 gives no answer"), "{refusal}");
    assert!(refusal.ends_with("\n1\n"), "{refusal}");

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
    assert!(status.contains("10.0.0.103       runs   DOWN"), "{status}");
    assert!(status.ends_with("\n1\n"), "{status}");
    silent.run("systemctl start cmonhachk.socket");
}

pub fn it_names_nodes_that_do_not_know_their_role_and_this_one_first(site: &Site) {
    let (node, other) = (&site.nodes[1], &site.nodes[2]);
    for ignorant in [node, other] {
        ignorant.behaves("fail 6 No user name set.");
        wait_until("the last verdict is forgotten", || {
            ignorant
                .run("curl --silent --include http://127.0.0.1:9201")
                .contains("s9s-no-user")
        });
    }
    for arguments in ["", "--status"] {
        let said = node.front(arguments);
        let first = said.find("cmonhachk-front: 10.0.0.102 does not know its role: s9s-no-user");
        let second = said.find(".103 does not know");
        assert!(first.is_some() && first < second && said.ends_with("\n1\n"), "{said}");
    }

    for knowing in [node, other] {
        knowing.behaves("list");
    }
    wait_until("all is well", || node.front("--status").ends_with("\n0\n"));
    assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
}

/// HAProxy has heard "down" from the third node's cmonhachk, and the other program has no line for the agent.
pub fn it_says_what_to_do_after_the_port_of_the_new_leader_went_to_another_program(site: &Site) {
    site.nodes[2].run(
        "systemctl stop cmonhachk.socket cmonhachk.service
         systemd-run --quiet --unit another socat TCP-LISTEN:9201,fork,reuseaddr SYSTEM:'sed -un /^.$/q; echo HTTP/1.0 200 OK; echo'",
    );
    for node in &site.nodes {
        node.hears("node3");
    }
    let status = || site.nodes[0].front("--status");
    wait_until("the second node has gone down", || {
        !status().contains("10.0.0.102       runs   UP")
    });
    let said = status();
    let advice = "run systemctl reload cmonhachk-front on each node\n";
    for part in ["10.0.0.103       runs   DOWN (agent)", advice, "\n1\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    for node in &site.nodes {
        node.run("systemctl reload cmonhachk-front");
    }
    wait_until("users get there", || {
        site.user_gets(VIRTUAL).as_deref() == Some("node3")
    });
    assert!(!status().contains(advice));

    site.nodes[2].run("systemctl stop another; systemctl start cmonhachk.socket");
    for node in &site.nodes {
        node.hears("node2");
    }
    wait_until("users are on the second node again", || site.users_are_on_the_leader());
}

/// The third node's front is removed, and the address is elsewhere.
pub fn it_names_a_node_without_a_front(site: &Site) {
    site.nodes[2].run("systemctl stop cmonhachk-front");
    let status = site.nodes[0].front("--status");
    let complaint = "cmonhachk-front: 10.0.0.103 shows no front at port 9600: run cmonhachk-front there, too\n";
    assert!(status.contains(complaint) && status.ends_with("\n1\n"), "{status}");
    assert!(status.contains("10.0.0.103       none   DOWN"), "{status}");
    assert!(status.starts_with("PROBLEM: 10.0.0.103 shows no front"), "{status}");
    site.nodes[2].run("systemctl start cmonhachk-front");
    site.holder();
}

/// A host that is no node takes the address, too.
pub fn it_names_two_holders_of_the_address_and_one_that_is_no_node(site: &Site) {
    let holder = site.holder().replace("node", "10.0.0.10");
    let of = |number: usize| site.nodes[number].front("--status");
    site.network.ip("addr add 10.0.0.130/24 dev switch");
    for number in 0..3 {
        let said = of(number);
        let both = "have 10.0.0.130 at the same time";
        assert!(said.contains(both) && said.contains(&holder), "{said}");
        assert!(
            said.contains("the host with the hardware address") && said.ends_with("\n1\n"),
            "{said}"
        );
    }

    for node in &site.nodes {
        node.run("systemctl stop keepalived");
    }
    let said = of(0);
    assert!(
        said.contains("which is no NODE: take the address away from it"),
        "{said}"
    );
    site.network.ip("addr del 10.0.0.130/24 dev switch");
    for node in &site.nodes {
        node.run("systemctl start keepalived");
    }
    site.holder();
    wait_until("all is well", || of(0).ends_with("\n0\n"));
}

/// It says where it could not look.
pub fn it_needs_no_root(site: &Site) {
    wait_until("all is well", || site.nodes[0].front("--status").ends_with("\n0\n"));
    for node in &site.nodes {
        let said =
            node.run("setpriv --reuid=65534 --regid=65534 --clear-groups cmonhachk-front --status 2>&1; echo $?");
        assert!(
            said.contains("10.0.0.102       runs   UP            leader\n"),
            "{said}"
        );
        assert!(
            said.contains("was not looked at: only root can ask by ARP.\n"),
            "{said}"
        );
        assert!(!said.contains("does not run here"), "{said}");
        assert!(
            said.contains("Users get to 10.0.0.102 at 10.0.0.130, port 81.\n"),
            "{said}"
        );
    }
}

/// Text of a node that would control the terminal, or without an end.
pub fn it_shows_no_text_of_a_node_but_a_state(site: &Site) {
    let hostile = r"printf 'HTTP/1.1 503 No\r\nCmonhachk-State: \033]0;title\007\033[2Jleader\r\n\r\n'; yes 'Cmonhachk-Reason: x'";
    site.nodes[2].run("systemctl stop cmonhachk.socket cmonhachk.service");
    site.nodes[2].put("opt/hostile", hostile);
    site.nodes[2].run("systemd-run --quiet --unit hostile socat TCP-LISTEN:9201,fork,reuseaddr EXEC:'sh /opt/hostile'");
    let start = std::time::Instant::now();
    let said = site.nodes[0].front("--status");
    assert!(
        start.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    assert!(said.contains("no answer: another program has port 9201\n"), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said:?}");
    site.nodes[2].run("systemctl stop hostile; systemctl start cmonhachk.socket");
    wait_until("all is well", || site.nodes[0].front("--status").ends_with("\n0\n"));
}
