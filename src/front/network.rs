//! Addresses and routes of this host, and who has an address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use cmonhachk::client::http::{self, Silence};
use cmonhachk::client::state;

use crate::host;

/// How long a host has to answer for an address.
const PATIENCE: Duration = Duration::from_secs(1);

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The interface that has it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// How many bits of it name the network.
    pub prefix: u8,
}

/// All addresses of this host.
pub fn own_addresses() -> Vec<OwnAddress> {
    let said = host::run("ip", &["-o", "address", "show"]).output;
    said.lines().filter_map(own_address).collect()
}

/// In a line such as `2: eth1    inet 10.0.0.101/24 brd 10.0.0.255 scope global eth1`.
fn own_address(line: &str) -> Option<OwnAddress> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, prefix) = words.get(3)?.split_once('/').unwrap_or((words.get(3)?, "32"));
    Some(OwnAddress {
        interface: words.get(1)?.split('@').next()?.to_string(),
        address: address.parse().ok()?,
        prefix: prefix.parse().ok()?,
    })
}

/// The interface of this host that has the address.
pub fn interface_of(address: IpAddr) -> Option<String> {
    let own = own_addresses().into_iter().find(|own| own.address == address);
    own.map(|own| own.interface)
}

/// Whether this host has an interface with this name.
pub fn has_interface(name: &str) -> bool {
    host::run("ip", &["link", "show", "dev", name]).succeeded
}

/// "network" or "broadcast", if the address is that of an IPv4 network of this host.
pub fn reserved(address: IpAddr, own: &[OwnAddress]) -> Option<&'static str> {
    let IpAddr::V4(address) = address else { return None };
    own.iter().find_map(|own| {
        let IpAddr::V4(mine) = own.address else { return None };
        // Smaller networks have neither.
        if own.prefix > 30 {
            return None;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(own.prefix)).unwrap_or(0);
        let network = u32::from(mine) & mask;
        match address {
            it if it == Ipv4Addr::from(network) => Some("network"),
            it if it == Ipv4Addr::from(network | !mask) => Some("broadcast"),
            _ => None,
        }
    })
}

/// The way to an address, in the words of `ip route get`; or why there is none.
pub fn route(to: IpAddr) -> Result<String, String> {
    let said = host::run("ip", &["-o", "route", "get", &to.to_string()]);
    match said.succeeded {
        true => Ok(said.output),
        false => Err(said.errors.trim().to_string()),
    }
}

/// Who answers for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This host.
    ThisHost,
    /// This node.
    Node(IpAddr),
    /// A host with this hardware address, which no node has.
    Stranger(String),
}

impl Holder {
    /// Who it is, in words. `own` is this host's address.
    pub fn words(&self, own: Option<IpAddr>) -> String {
        match self {
            Holder::Nobody => "no host".to_string(),
            Holder::ThisHost => own.map_or("this host".to_string(), |own| own.to_string()),
            Holder::Node(node) => node.to_string(),
            Holder::Stranger(mac) => format!("the host with the hardware address {mac}"),
        }
    }
}

/// Who answers for the address now. An entry in the table of neighbours alone says nothing about the present.
pub fn holder(address: IpAddr, nodes: &[IpAddr]) -> Holder {
    if interface_of(address).is_some() {
        return Holder::ThisHost;
    }
    let text = address.to_string();
    // Only root can do this.
    let is_forgotten = host::run("ip", &["neighbour", "flush", "to", &text]).succeeded;
    let answer = http::connect(SocketAddr::new(address, state::PORT), PATIENCE);
    let answers = matches!(answer, Ok(_) | Err(Silence::Refused));
    let Some((mac, state)) = neighbour(address) else {
        return Holder::Nobody;
    };
    // A firewall may drop the connection, but not the address's resolution.
    match answers || (is_forgotten && state == "REACHABLE") {
        true => of_hardware(&mac, nodes),
        false => Holder::Nobody,
    }
}

fn of_hardware(mac: &str, nodes: &[IpAddr]) -> Holder {
    let has_it = |node: &&IpAddr| neighbour(**node).is_some_and(|(other, _)| other == mac);
    match nodes.iter().find(has_it) {
        Some(node) => Holder::Node(*node),
        None => Holder::Stranger(mac.to_string()),
    }
}

/// The hardware address of a neighbour, and the state of this knowledge.
fn neighbour(address: IpAddr) -> Option<(String, String)> {
    let said = host::run("ip", &["neighbour", "show", "to", &address.to_string()]).output;
    let words: Vec<&str> = said.lines().next()?.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "lladdr")?;
    Some((words.get(at + 1)?.to_string(), words.last()?.to_string()))
}

/// Why nobody could be asked for a second holder.
pub type NotAsked = &'static str;

/// All hosts that answer for the address by ARP, this one among them.
///
/// # Errors
/// ARP cannot be used here.
pub fn all_holders(address: IpAddr, nodes: &[IpAddr]) -> Result<Vec<Holder>, NotAsked> {
    if address.is_ipv6() {
        return Err("IPv6 has no ARP");
    }
    if !host::is_root() {
        return Err("only root can ask by ARP");
    }
    if !host::run("arping", &["-V"]).output.contains("iputils") {
        return Err("there is no arping of iputils here");
    }
    let interface = interface_towards(address).ok_or("no interface leads there")?;
    let mut arguments = vec!["-b", "-c", "2", "-w", "2", "-I", &interface];
    let mut holders = Vec::new();
    if interface_of(address).is_some() {
        holders.push(Holder::ThisHost);
        // As for an address that this host would like to have: the question does not come from the address itself.
        arguments.push("-D");
    }
    let text = address.to_string();
    arguments.push(&text);
    for mac in hardware_addresses(&host::run("arping", &arguments).output) {
        let other = of_hardware(&mac, nodes);
        if !holders.contains(&other) {
            holders.push(other);
        }
    }
    Ok(holders)
}

fn interface_towards(address: IpAddr) -> Option<String> {
    if let Some(interface) = interface_of(address) {
        return Some(interface);
    }
    let route = route(address).ok()?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).map(str::to_string)
}

/// In arping's lines such as `Unicast reply from 10.0.0.130 [72:8B:00:11:22:33]  0.7ms`.
fn hardware_addresses(said: &str) -> Vec<String> {
    let replies = said.lines().filter(|line| line.contains("reply from"));
    let addresses = replies.filter_map(|line| {
        line.split_once('[')?
            .1
            .split_once(']')
            .map(|(mac, _)| mac.to_lowercase())
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_read_from_a_line_of_ip() {
        let line = "2: eth1@if7    inet 10.0.0.101/24 brd 10.0.0.255 scope global eth1\\       valid_lft forever";
        let own = own_address(line).unwrap();
        assert_eq!((&*own.interface, own.prefix), ("eth1", 24));
        assert_eq!(own.address.to_string(), "10.0.0.101");
        let own = own_address("1: lo    inet6 ::1/128 scope host").unwrap();
        assert_eq!(own.address.to_string(), "::1");
        assert_eq!(
            own_address("3: tun0    inet 10.9.0.1 peer 10.9.0.2/32 scope global")
                .unwrap()
                .prefix,
            32
        );
        assert_eq!(own_address(""), None);
    }

    #[test]
    fn the_first_and_the_last_address_of_a_network_are_no_hosts() {
        let own = [
            own_address("2: e inet 10.0.1.101/23").unwrap(),
            own_address("2: e inet 10.7.0.1/31").unwrap(),
        ];
        let of = |address: &str| reserved(address.parse().unwrap(), &own);
        assert_eq!(of("10.0.0.0"), Some("network"));
        assert_eq!(of("10.0.1.255"), Some("broadcast"));
        assert_eq!(of("10.0.0.255"), None);
        assert_eq!(of("10.7.0.0"), None);
    }

    #[test]
    fn arping_tells_who_replies() {
        let said = "ARPING 10.0.0.130 from 10.0.0.101 eth1\nUnicast reply from 10.0.0.130 [72:8B:00:11:22:33]  0.7ms\nSent 2 probes\n";
        assert_eq!(hardware_addresses(said), ["72:8b:00:11:22:33"]);
    }
}
