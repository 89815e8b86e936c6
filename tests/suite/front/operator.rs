//! An HAProxy and a keepalived that an operator has.

use std::io::Read;
use std::net::TcpStream;

use super::site::*;
use crate::cluster::wait_until;
use crate::versions::Versions;

const HAPROXY_CFG: &str = "global\n    stats socket /run/operator.sock\ndefaults\n    mode tcp\n    timeout connect 5s\n    \
    timeout client 1h\n    timeout server 1h\nlisten stats\n    bind :8443\n    server own 127.0.0.1:443\n";
/// The last line has no line end, and keepalived's test objects to the script, which is as in the article.
pub const KEEPALIVED_CONF: &str = "global_defs {\n    vrrp_version 2\n}\n\tinclude own.conf\nvrrp_script own {\n    \
    script \"killall -0 haproxy\"\n    weight 2\n}\nvrrp_instance own {\n    track_script {\n        own\n    }\n    interface eth1\n    \
    virtual_router_id 7\n    priority 100\n    virtual_ipaddress {\n        10.0.0.77/24\n    }\n}";

pub fn what_an_operator_has_is_neither_changed_nor_restarted(versions: &Versions) {
    let site = Site::boot(versions);
    let node = &site.nodes[0];
    node.run(&format!(
        "touch /etc/keepalived/keepalived.conf.new; cat >/etc/haproxy/haproxy.cfg <<'END'\n{HAPROXY_CFG}END\nprintf '%s' '{KEEPALIVED_CONF}' >/etc/keepalived/keepalived.conf
         printf '\\n# of the administration in M\\374nchen, not in UTF-8' >>/etc/keepalived/keepalived.conf
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

    site.succeeds(SITE);
    assert!(site.users_are_on_the_leader());
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
