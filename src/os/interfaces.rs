//! The network interfaces.

use std::net::IpAddr;

use nix::Result;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// The addresses of the interfaces, up or down, without loopback.
///
/// # Errors
/// The system does not list them: the process may not use netlink sockets.
pub fn addresses() -> Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| address(&interface));
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}

fn address(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
}
