//! From a site as the article has it to the packages, by the steps of deploy/README.md.

use super::site::*;
use crate::cluster::wait_until;
use crate::node::DEB;
use crate::packages::commands;
use crate::xinetd::ARTICLES_SERVICE;

/// The article's parts on the node with the address `$1`, but for faster checks, a shell's script in
/// the place of Python's, and no password.
const ARTICLE: &str = r#"
    dpkg --purge cmonhachk
    cat >/usr/local/sbin/cmonhachk.py <<END
#!/bin/sh
while read -r line && [ "\${#line}" -gt 1 ]; do :; done
case \$(HOME=/root S9S_SIM=/opt/cluster s9s controller --list --long | grep -F " $1 ") in
l*) printf 'HTTP/1.1 200 OK\r\n\r\n' ;;
*) printf 'HTTP/1.1 503 Service Unavailable\r\n\r\n' ;;
esac
END
    chmod 755 /usr/local/sbin/cmonhachk.py
    grep -q 9201/tcp /etc/services || echo 'cmonhachk 9201/tcp' >>/etc/services
    cat >/etc/xinetd.d/cmonhachk <<END
SERVICE
END
    cat >/etc/haproxy/haproxy.cfg <<END
global
user haproxy
group haproxy
defaults
mode tcp
timeout connect 3500ms
timeout client 10800s
timeout server 10800s
timeout check 10s
listen admin_page
bind *:9600
mode http
stats enable
stats uri /
listen haproxy_81
bind *:81
balance leastconn
option httpchk
default-server port 9201 inter 2s rise 2 fall 2
server 10.0.0.101 10.0.0.101:443 check
server 10.0.0.102 10.0.0.102:443 check
server 10.0.0.103 10.0.0.103:443 check
END
    cat >/etc/keepalived/keepalived.conf <<END
vrrp_script chk_haproxy {
script "killall -0 haproxy"
interval 2
weight 2
}
vrrp_instance VI_HAPROXY {
interface eth1
state MASTER
virtual_router_id 51
priority $((203 - ${1##*.}))
unicast_src_ip $1
unicast_peer {
$(printf '10.0.0.%s\n' 101 102 103 | grep -vF $1)
}
virtual_ipaddress {
10.0.0.130
}
track_script {
chk_haproxy
}
}
END
    systemctl restart xinetd
    systemctl --quiet enable --now haproxy keepalived"#;

pub fn a_site_as_the_article_has_it_moves_step_by_step_and_loses_no_user(site: &Site) {
    for node in &site.nodes {
        let article = ARTICLE.replace("SERVICE", ARTICLES_SERVICE);
        node.run(&format!("set -- 10.0.0.10{}; {article}", &node.name[4..]));
    }
    let leads = || site.user_gets(VIRTUAL).as_deref() == Some("node2");
    wait_until("HAProxy has taken the followers out", || (0..9).all(|_| leads()));
    let loses_no_user = |address, act: &dyn Fn()| {
        let replies = site.replies_during(address, act);
        assert!(
            replies.len() == 1 && replies.contains_key(&Some("node2".to_string())),
            "{replies:?}"
        );
    };

    loses_no_user((VIRTUAL, 81), &|| {
        for node in &site.nodes {
            let said = node.run(&format!("dpkg --install {DEB}"));
            assert!(said.contains("xinetd has port 9201"), "{said}");
            node.run(&commands("rm /etc/xinetd.d/cmonhachk"));
            let state = "curl --silent --head http://127.0.0.1:9201 | grep Cmonhachk-State";
            wait_until("cmonhachk answers", || !node.run(state).is_empty());
        }
        for node in &site.nodes {
            let said = node.run(&commands("   cmonhachk-front --front-port 82"));
            assert!(
                said.contains("Users get to the leader at 10.0.0.131, port 82."),
                "{said}"
            );
        }
    });
    loses_no_user(("10.0.0.131", 82), &|| {
        for node in &site.nodes {
            node.run("sed -i '/^vrrp/,/^}/d' /etc/keepalived/keepalived.conf; systemctl reload keepalived");
            node.run("systemctl --quiet disable --now haproxy");
        }
        wait_until("the former address is gone", || site.holders(VIRTUAL).is_empty());
    });
    for node in &site.nodes {
        assert!(node.succeeds("").ends_with("Nothing had to be changed.\n0\n"));
    }
}
