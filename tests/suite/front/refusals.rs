//! What cmonhachk-front refuses, and that it has changed nothing then.

use super::site::*;

/// Exit status, arguments, cause, and what makes it so and undoes that.
const REFUSALS: &str = "\
2 | --no-such-option | unexpected argument '--no-such-option'
2 | --front-port eighty | invalid value 'eighty' for '--front-port <PORT>': it needs a number from 1 to 65535
2 | --interface | a value is required for '--interface <NAME>'
2 | 10.0.0.130/24 NODES | give the address without its mask: 10.0.0.130
2 | node1 NODES | invalid value 'node1'
2 | node1 NODES | it is no IPv4 or IPv6 address, and names are not supported
2 | 10.0.0.130 10.0.0.101 10.0.0.102 10.0.0.102 | the NODE 10.0.0.102 is given twice
2 | --stats-from 10.0.0.0/99 SITE | 10.0.0.0/99 is no network
2 | --without-haproxy --haproxy-only SITE | cannot be used with
2 | 10.0.0.130 10.0.0.101 | two to six NODEs are needed
2 | --status 10.0.0.130 | two to six NODEs are needed
2 | 10.0.0.101 10.0.0.101 10.0.0.102 | the VIP 10.0.0.101 is a node's address
1 | 10.0.0.101 10.0.0.102 10.0.0.103 | 10.0.0.101, the VIP, is this host's own address: did you leave out the VIP, or swap it with a node?
2 | --without-haproxy --front-port 82 SITE | cannot be used with '--front-port <PORT>'
1 | --ui-port 81 SITE | --front-port and --ui-port are the same, and this host is a node
1 | --interface eth7 SITE | this host has no interface eth7
1 | 10.0.0.102 10.0.0.101 10.0.0.103 | It answers as a node: did you leave out the VIP, or swap it with a node?
1 | 10.0.0.255 NODES | 10.0.0.255 is the broadcast address of a network of this host
1 | 10.0.0.0 NODES | 10.0.0.0 is the network address of a network of this host
2 | --stats-port 81 SITE | --front-port and --stats-port are the same
1 | SITE | port 81 is in use by socat, process | listen 81 | systemctl stop somebody
1 | SITE | as the article's does: see \"Moving from the article\" in | article | systemctl stop somebody; rm /etc/haproxy/haproxy.cfg; mv /opt/haproxy.cfg /etc/haproxy || true
1 | SITE | choose another with --stats-port | listen 9600 | systemctl stop somebody
1 | SITE 10.0.0.200 | 10.0.0.200 gives no answer: another program has port 9201
1 | SITE 10.0.0.250 | 10.0.0.250 gives no answer: the host is down, or no way leads there
1 | SITE 10.0.0.201 | 10.0.0.201 gives no answer: port 9201 accepts the connection and is silent
1 | SITE 10.0.0.202 | 10.0.0.202 gives no answer: nothing listens on port 9201
1 | SITE 10.0.0.203 | 10.0.0.203 gives no answer: port 9201 is silent; the host is down, or a firewall | ip neighbour replace 10.0.0.203 lladdr 02:00:00:00:00:99 dev eth1 | ip neighbour del 10.0.0.203 dev eth1
1 | SITE | HAProxy 2.4 or later is needed, and this is 2.2.9 | old_haproxy | mv /usr/sbin/haproxy.real /usr/sbin/haproxy
1 | SITE | HAProxy 2.4 or later is needed, and this is 1.8.27 | old_haproxy 1.8.27-493ce0b | mv /usr/sbin/haproxy.real /usr/sbin/haproxy
1 | 10.0.0.200 NODES | 10.0.0.200 is in use: the host with the hardware address
1 | 10.0.0.133 NODES | 10.0.0.133 is in use: 10.0.0.103 has it
1 | 127.0.0.1 NODES | 127.0.0.1 is in use: this host has it
1 | 10.9.9.9 NODES | 10.9.9.9 cannot be reached from here
1 | 10.9.9.9 NODES | 10.9.9.9 is not in a network of eth1 | ip route add 10.9.0.0/16 via 10.0.0.103 | ip route del 10.9.0.0/16
1 | --interface lo SITE | 10.0.0.130 is not in a network of lo
1 | 10.0.0.130 10.0.0.102 10.0.0.103 | this host has the address of no NODE: it has 10.0.0.101, 
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
    article() {
        mv /etc/haproxy/haproxy.cfg /opt || true
        echo 'default-server port 9201 inter 2s' >/etc/haproxy/haproxy.cfg
        cp -L /usr/bin/socat /opt/haproxy
        systemd-run --quiet --collect --unit somebody /opt/haproxy TCP-LISTEN:81 -
        timeout 5 sh -c "until ss -Hltnp sport = :81 | grep -q haproxy; do sleep 0.05; done"
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

pub fn it_refuses_with_the_cause_before_it_changes_anything(site: &Site) {
    let node = &site.nodes[0];
    let before = node.state();
    site.nodes[2].run("ip addr add 10.0.0.133/24 dev eth1");
    site.network.ip("addr add 10.0.0.201/24 dev switch");
    site.network.ip("addr add 10.0.0.202/24 dev switch");
    // The first one reads the whole request: a socket that is closed with unread bytes resets the connection.
    let others = [
        ("200", "sed -un /^.$/q; echo HTTP/1.0 200 OK; echo"),
        ("201", "sleep 60"),
    ];
    let _others = others.map(|(last, says)| {
        let listen = format!("TCP-LISTEN:9201,bind=10.0.0.{last},fork");
        site.network.daemon(&format!("socat {listen} SYSTEM:'{says}'"))
    });

    for refusal in REFUSALS.lines() {
        let mut fields = refusal.split(" | ");
        let [status, arguments, cause, setup, undo] = [(); 5].map(|()| fields.next().unwrap_or_default());
        node.run(&format!("{REFUSAL_SHELL}{setup}"));
        let said = node.front(&arguments.replace("SITE", SITE).replace("NODES", &SITE[11..]));
        assert!(said.contains(cause), "{refusal}: {said}");
        assert!(
            said.lines().any(|line| line.starts_with("cmonhachk-front: ")),
            "{refusal}: {said}"
        );
        assert!(said.ends_with(&format!("\n{status}\n")), "{refusal}: {said}");
        node.run(&format!("{REFUSAL_SHELL}{undo}"));
        assert_eq!(node.state(), before, "{refusal}");
    }
    site.nodes[2].run("ip addr del 10.0.0.133/24 dev eth1");
}
