//! Where a node's helper listens, and the secret by which it knows those who come.
//!
//! Owns: its form as text. Never: carries it; the launcher's PMIx server does, which
//! gives it to processes of the job only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::lookup;
use super::seal::{from_hexadecimal, hexadecimal, LENGTH};

/// What the nodes below have to know of one.
#[derive(Clone, PartialEq, Eq)]
pub struct Card {
    /// Shown by both ends of a connection.
    pub secret: [u8; LENGTH],
    /// In the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
}

impl Card {
    /// This node's, which listens on that port of all its addresses.
    pub fn of_this_node(secret: [u8; LENGTH], port: u16) -> Card {
        // By its name first, which is how a cluster's nodes mean to be reached.
        let name = nix::unistd::gethostname().ok();
        let name = name.and_then(|name| name.into_string().ok());
        let named = name.map(|name| lookup::in_files(&name)).unwrap_or_default();
        let mut all: Vec<IpAddr> = Vec::new();
        let others = getifaddrs()
            .into_iter()
            .flatten()
            .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_RUNNING))
            .filter_map(|interface| {
                let address = interface.address?;
                let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
                let six = || address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip()));
                four.or_else(six)
            });
        for address in named.into_iter().chain(others) {
            if !all.contains(&address) && !is_link_local(address) {
                all.push(address);
            }
        }
        // Only where several "nodes" are one machine.
        all.sort_by_key(IpAddr::is_loopback);
        Card {
            secret,
            addresses: all.into_iter().map(|ip| (ip, port).into()).collect(),
        }
    }

    /// As text without spaces.
    pub fn text(&self) -> String {
        let secret = hexadecimal(&self.secret);
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        format!("{secret},{}", addresses.join(","))
    }

    /// From that text; `None` of something else.
    pub fn of(text: &str) -> Option<Card> {
        let mut words = text.split(',');
        let secret = from_hexadecimal(words.next()?)?.try_into().ok()?;
        let addresses: Vec<SocketAddr> = words
            .map(|word| word.parse().ok())
            .collect::<Option<_>>()
            .filter(|all: &Vec<_>| !all.is_empty())?;
        Some(Card { secret, addresses })
    }
}

/// Not without the number of an interface, which is another on each node.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => Ipv4Addr::is_link_local(&address),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_comes_back_and_no_other_text_is_one() {
        let addresses = ["10.1.2.3:4", "[2001:db8::1]:50000"].map(|text| text.parse().unwrap());
        let card = Card {
            secret: [0xa5; LENGTH],
            addresses: addresses.to_vec(),
        };
        assert!(Card::of(&card.text()) == Some(card.clone()));
        let long = "a5".repeat(LENGTH);
        for text in ["", ",", "a5,10.1.2.3:4", &long, &format!("{long},nowhere")] {
            assert!(Card::of(text).is_none(), "{text}");
        }
    }

    #[test]
    fn this_node_has_an_address_and_loopback_is_the_last() {
        let card = Card::of_this_node([1; LENGTH], 5);
        assert!(!card.addresses.is_empty());
        let loopback = card
            .addresses
            .iter()
            .map(|address| address.ip().is_loopback());
        assert!(loopback.is_sorted());
        assert!(Card::of(&card.text()) == Some(card));
    }
}
