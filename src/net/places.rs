//! Who may have a further check? Each client a share of the places that are free, so that no number of greedy
//! ones leaves none for another.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::unistd::Pid;

/// How many checks can be in flight. Further connections wait in the socket's queue.
const PLACES: usize = 400;

/// How many checks each client can have in any case, as long as there is a place.
const FEW: usize = 4;

/// Who asks: all addresses that one machine can take at will are one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// This machine itself, by a loopback address.
    ThisMachine,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The IPv6 network whose first 64 bits these are: a host has all of its addresses.
    V6([u16; 4]),
}

impl Client {
    /// The client with this address.
    pub fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            address if address.is_loopback() => Client::ThisMachine,
            IpAddr::V4(address) => Client::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Client::V6([a, b, c, d])
            }
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::ThisMachine => write!(formatter, "this machine"),
            Client::V4(address) => write!(formatter, "{address}"),
            Client::V6([a, b, c, d]) => write!(formatter, "{}/64", Ipv6Addr::new(*a, *b, *c, *d, 0, 0, 0, 0)),
        }
    }
}

/// The checks in flight, and who asked for each.
#[derive(Debug, Default)]
pub struct Places(HashMap<Pid, Client>);

impl Places {
    /// Gives a place to the check that this process makes.
    pub fn give(&mut self, check: Pid, client: Client) {
        self.0.insert(check, client);
    }

    /// Takes the place back, now that the process has ended.
    pub fn take_back(&mut self, check: Pid) {
        self.0.remove(&check);
    }

    /// Whether no check is in flight.
    pub fn are_free(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is no place left.
    pub fn are_full(&self) -> bool {
        self.free() == 0
    }

    /// Whether most places are taken.
    pub fn are_scarce(&self) -> bool {
        self.free() < PLACES / 4
    }

    /// How many checks of this client are in flight.
    pub fn of(&self, client: Client) -> usize {
        self.0.values().filter(|other| **other == client).count()
    }

    /// Whether the client has its share: a third of what is free, so 100 if nobody else is there, 80 beside one who
    /// has as many, 50 beside four. Programs on this machine have as much as is free: they stand for many.
    pub fn has_its_share(&self, client: Client) -> bool {
        let share = match client {
            Client::ThisMachine => self.free(),
            _ => self.free().div_ceil(3),
        };
        self.of(client) >= share.max(FEW)
    }

    fn free(&self) -> usize {
        PLACES.saturating_sub(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    /// The client with this number.
    fn other(number: usize) -> Client {
        Client::V4(Ipv4Addr::from_bits(0x0a00_0000 + number as u32))
    }

    /// Starts one more check for the client, if it may.
    fn ask(places: &mut Places, client: Client) -> bool {
        let may = !places.are_full() && !places.has_its_share(client);
        if may {
            let unused = places.0.len() as i32 + 1;
            places.give(Pid::from_raw(unused), client);
        }
        may
    }

    /// The places after these clients have asked in turn, until nobody got one more.
    fn taken_by(crowd: &[Client]) -> Places {
        let mut places = Places::default();
        while crowd.iter().filter(|client| ask(&mut places, **client)).count() > 0 {}
        places
    }

    #[test]
    fn addresses_that_one_machine_can_take_at_will_are_one_client() {
        assert_eq!(client("127.0.0.1"), Client::ThisMachine);
        assert_eq!(client("127.8.9.10"), Client::ThisMachine);
        assert_eq!(client("::1"), Client::ThisMachine);
        assert_eq!(client("::ffff:127.0.0.1"), Client::ThisMachine);

        assert_eq!(client("::ffff:10.0.0.2"), client("10.0.0.2"));
        assert_ne!(client("10.0.0.3"), client("10.0.0.2"));

        assert_eq!(client("fd00:1:2:3:4::5"), client("fd00:1:2:3::"));
        assert_ne!(client("fd00:1:2:4::"), client("fd00:1:2:3::"));
    }

    #[test]
    fn a_client_has_a_name_for_the_log() {
        assert_eq!(client("::1").to_string(), "this machine");
        assert_eq!(client("::ffff:10.0.0.2").to_string(), "10.0.0.2");
        assert_eq!(client("fd00:1:2:3:4::5").to_string(), "fd00:1:2:3::/64");
    }

    #[test]
    fn the_share_of_each_shrinks_with_the_number_of_those_who_ask() {
        for (number, share) in [(1, 100), (2, 80), (5, 50), (10, 31), (50, 8)] {
            let crowd: Vec<_> = (0..number).map(other).collect();
            let places = taken_by(&crowd);
            for client in crowd {
                assert!(
                    places.of(client).abs_diff(share) <= 1,
                    "{number}: {}",
                    places.of(client)
                );
            }
        }
    }

    #[test]
    fn this_machine_may_have_half_of_all() {
        let places = taken_by(&[Client::ThisMachine]);
        assert_eq!(places.of(Client::ThisMachine), 200);
    }

    #[test]
    fn beside_any_crowd_another_client_gets_a_few() {
        for number in 1..95 {
            let mut crowd: Vec<_> = (1..number).map(other).collect();
            crowd.push(Client::ThisMachine);
            let mut places = taken_by(&crowd);
            for _ in 0..FEW {
                assert!(ask(&mut places, other(0)), "beside {number}");
            }
        }
    }

    #[test]
    fn places_are_scarce_when_a_quarter_is_left_and_full_when_none_is() {
        let mut places = Places::default();
        for number in 0..PLACES {
            assert_eq!(places.are_scarce(), number > 300, "{number}");
            assert!(!places.are_full());
            assert!(ask(&mut places, other(number)));
        }
        assert!(places.are_full());
        assert!(!ask(&mut places, other(PLACES)));
    }

    #[test]
    fn a_place_is_free_again_when_its_check_has_ended() {
        let mut places = taken_by(&[other(0)]);
        assert!(places.has_its_share(other(0)));
        places.take_back(Pid::from_raw(1));
        assert_eq!(places.of(other(0)), 99);
        assert!(!places.has_its_share(other(0)));
        // A process that makes no check.
        places.take_back(Pid::from_raw(1));
        assert_eq!(places.of(other(0)), 99);
    }
}
