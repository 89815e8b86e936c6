//! Which nodes, which address, which way: what the operator asked for, seen from this host.

use std::net::{IpAddr, Ipv4Addr};

use crate::failure::{Failure, Outcome};
use crate::network;
use crate::options::{Action, Options, Way};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Site {
    /// How users get to the leader.
    pub way: Way,
    /// The virtual address, except with [`Way::HaproxyOnly`].
    pub vip: Option<IpAddr>,
    /// The nodes, in order.
    pub nodes: Vec<IpAddr>,
    /// The node that this host is.
    pub own: Option<IpAddr>,
    /// The interface that gets the address: the one that was named, or the one with this node's address.
    pub interface: Option<String>,
    /// Whether the interface was named.
    pub is_interface_named: bool,
    /// See [`Options`].
    pub ui_port: u16,
    /// See [`Options`].
    pub front_port: u16,
    /// See [`Options`].
    pub stats_port: u16,
    /// See [`Options`].
    pub stats_from: Option<String>,
    /// See [`Options`].
    pub router_id: u8,
    /// The arguments to remember.
    pub arguments: String,
}

impl Site {
    /// # Errors
    /// The addresses cannot be those of a site.
    pub fn of(options: &Options) -> Outcome<Site> {
        let mut options = options.clone();
        // Nothing is set up, so there is only this host's check.
        if options.action == Action::Status && options.addresses.is_empty() {
            options.way = Way::HaproxyOnly;
            options.addresses = vec![Ipv4Addr::LOCALHOST.into()];
        }
        let (vip, nodes) = addresses(&options).map_err(|why| Failure::of_usage(&why))?;
        if options.way != Way::Keepalived && options.front_port == options.stats_port {
            return Err(Failure::of_usage("--front-port and --stats-port are the same"));
        }
        let own = nodes
            .iter()
            .find_map(|node| Some((*node, network::interface_of(*node)?)));
        let words = options
            .words
            .into_iter()
            .chain(vip.iter().chain(&nodes).map(IpAddr::to_string));
        Ok(Site {
            way: options.way,
            arguments: words.collect::<Vec<_>>().join(" "),
            vip,
            is_interface_named: options.interface.is_some(),
            interface: options
                .interface
                .or(own.as_ref().map(|(_, interface)| interface.clone())),
            own: own.map(|(node, _)| node),
            nodes,
            ui_port: options.ui_port,
            front_port: options.front_port,
            stats_port: options.stats_port,
            stats_from: options.stats_from,
            router_id: options.router_id,
        })
    }

    /// Whether nothing is set up and nothing was named, so that there is only this host's check.
    pub fn is_unknown(&self) -> bool {
        self.nodes == [IpAddr::from(Ipv4Addr::LOCALHOST)]
    }

    /// Whether HAProxy is part of this way.
    pub fn has_haproxy(&self) -> bool {
        self.way != Way::Keepalived
    }

    /// The address that users go to, from here: the virtual one, or this host's.
    pub fn users_address(&self) -> IpAddr {
        self.vip.unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// The port that users go to.
    pub fn users_port(&self) -> u16 {
        match self.way {
            Way::Keepalived => self.ui_port,
            Way::Haproxy | Way::HaproxyOnly => self.front_port,
        }
    }

    /// Where users go, for a person.
    pub fn door(&self) -> String {
        match self.vip {
            Some(vip) => format!("{vip}, port {}", self.users_port()),
            None => format!("any address of this host, port {}", self.users_port()),
        }
    }
}

/// The virtual address and the nodes, in order.
fn addresses(options: &Options) -> Result<(Option<IpAddr>, Vec<IpAddr>), String> {
    let (vip, nodes) = match (options.way, &options.addresses[..]) {
        (Way::HaproxyOnly, nodes) => (None, nodes),
        (_, [vip, nodes @ ..]) => (Some(*vip), nodes),
        (_, []) => return Err("a VIP and two to six NODEs are needed".to_string()),
    };
    let mut sorted = nodes.to_vec();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("the NODE {} is given twice", pair[0]));
    }
    let is_own_check = nodes == [IpAddr::from(Ipv4Addr::LOCALHOST)];
    if !(2..=6).contains(&nodes.len()) && !is_own_check {
        return Err("two to six NODEs are needed".to_string());
    }
    if let Some(vip) = vip {
        if nodes.contains(&vip) {
            return Err(format!("the VIP {vip} is a node's address"));
        }
        if let Some(node) = nodes.iter().find(|node| node.is_ipv4() != vip.is_ipv4()) {
            return Err(format!(
                "the VIP {vip} and the NODE {node} are one of IPv4 and one of IPv6"
            ));
        }
    }
    Ok((vip, sorted))
}

/// The site of the tests: with settings that differ from every default and every example.
#[cfg(test)]
pub fn example(way: Way, vip: Option<&str>, nodes: &[&str]) -> Site {
    Site {
        way,
        vip: vip.map(|vip| vip.parse().unwrap()),
        nodes: nodes.iter().map(|node| node.parse().unwrap()).collect(),
        own: nodes.get(1).map(|node| node.parse().unwrap()),
        interface: Some("eno7".to_string()),
        is_interface_named: false,
        ui_port: 9443,
        front_port: 82,
        stats_port: 9601,
        stats_from: Some("10.7.0.0/16,10.8.0.1".to_string()),
        router_id: 77,
        arguments: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(way: Way, list: &str) -> Result<(Option<IpAddr>, Vec<IpAddr>), String> {
        addresses(&Options {
            action: Action::SetUp,
            dry_run: false,
            way,
            addresses: list.split_whitespace().map(|word| word.parse().unwrap()).collect(),
            ui_port: 443,
            front_port: 81,
            stats_port: 9600,
            stats_from: None,
            router_id: 51,
            interface: None,
            words: Vec::new(),
        })
    }

    #[test]
    fn the_first_address_is_the_vip_and_the_nodes_are_in_order() {
        let (vip, nodes) = of(Way::Haproxy, "10.0.0.130 10.0.0.103 10.0.0.20").unwrap();
        assert_eq!(vip.unwrap().to_string(), "10.0.0.130");
        assert_eq!(
            nodes.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            ["10.0.0.20", "10.0.0.103"]
        );
        assert_eq!(of(Way::HaproxyOnly, "10.0.0.1 10.0.0.2").unwrap().0, None);
    }

    #[test]
    fn what_cannot_be_a_site_is_named() {
        for (way, list, why) in [
            (Way::Haproxy, "", "two to six"),
            (Way::Haproxy, "10.0.0.130 10.0.0.101", "two to six"),
            (Way::HaproxyOnly, "10.0.0.1", "two to six"),
            (
                Way::Keepalived,
                "10.0.0.130 10.0.0.101 10.0.0.102 10.0.0.102",
                "10.0.0.102 is given twice",
            ),
            (Way::Keepalived, "fd00::9 fd00::1 FD00::1", "fd00::1 is given twice"),
            (Way::Haproxy, "10.0.0.101 10.0.0.101 10.0.0.102", "a node's address"),
            (Way::Haproxy, "fd00::130 10.0.0.101 10.0.0.102", "one of IPv4"),
        ] {
            assert!(of(way, list).unwrap_err().contains(why), "{list}");
        }
    }
}
