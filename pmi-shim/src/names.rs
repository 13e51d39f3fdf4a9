//! From the name of a node to its addresses, by /etc/hosts and DNS.
//!
//! Owns: reading hosts(5) and resolv.conf(5), and the form of DNS messages (RFC
//! 1035). Never: opens a file or a socket.
//!
//! The C library's own resolver loads modules by nsswitch.conf(5), which a program
//! that has to run in any image cannot; nodes of a cluster are in one of these two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of a name in a file of hosts(5).
pub fn in_hosts(file: &[u8], name: &str) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(file);
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

/// Where to ask, and what to try behind a name, of resolv.conf(5).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are searched.
    pub search: Vec<String>,
}

impl Resolvers {
    /// Reads resolv.conf(5).
    pub fn of(file: &[u8]) -> Self {
        let text = String::from_utf8_lossy(file);
        let mut found = Resolvers::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    found.servers.extend(address);
                    found.servers.truncate(3);
                }
                Some("search" | "domain") => {
                    found.search = words.take(6).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        found
    }

    /// The full names to ask for, in order.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        let in_domains = self.search.iter().map(|domain| format!("{name}.{domain}"));
        match name.contains('.') {
            true => std::iter::once(name.to_owned()).chain(in_domains).collect(),
            false => in_domains.chain(std::iter::once(name.to_owned())).collect(),
        }
    }
}

/// The kind of address that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4
    A = 1,
    /// IPv6
    Aaaa = 28,
}

/// A question for the addresses of a name; `None` for what is no name.
pub fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    // Recursion is desired; one question.
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if !(1..64).contains(&length) {
            return None;
        }
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, kind as u8, 0, 1]);
    (bytes.len() < 280).then_some(bytes)
}

/// The addresses in an answer; `None` if it is not the answer to that question.
pub fn answer(id: u16, bytes: &[u8]) -> Option<Vec<IpAddr>> {
    let (header, _) = bytes.split_first_chunk::<12>()?;
    let [i0, i1, flags, _, q0, q1, a0, a1, ..] = *header;
    if u16::from_be_bytes([i0, i1]) != id || flags & 0x80 == 0 {
        return None;
    }
    let mut place = 12;
    for _ in 0..u16::from_be_bytes([q0, q1]) {
        place = after_name(bytes, place)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..u16::from_be_bytes([a0, a1]) {
        place = after_name(bytes, place)?;
        let (fields, rest) = bytes.get(place..)?.split_first_chunk::<10>()?;
        let [t0, t1, .., l0, l1] = *fields;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let data = rest.get(..length)?;
        match u16::from_be_bytes([t0, t1]) {
            1 => addresses.extend(
                <[u8; 4]>::try_from(data)
                    .map(Ipv4Addr::from)
                    .map(IpAddr::from),
            ),
            28 => addresses.extend(
                <[u8; 16]>::try_from(data)
                    .map(Ipv6Addr::from)
                    .map(IpAddr::from),
            ),
            _ => {}
        }
        place += 10 + length;
    }
    Some(addresses)
}

/// Where a name ends; it may end in a reference to another, which is not followed.
fn after_name(bytes: &[u8], mut place: usize) -> Option<usize> {
    loop {
        match *bytes.get(place)? {
            0 => return Some(place + 1),
            length if length & 0xc0 == 0xc0 => return Some(place + 2),
            length if length < 64 => place += usize::from(length) + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let file = b"127.0.0.1 localhost\n10.0.0.1\tc1.cluster C1 # the first\n\
            #10.0.0.9 c1\nbad c1\nfd00::1 c1\n";
        let found = in_hosts(file, "c1");
        assert_eq!(
            found,
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "fd00::1".parse().unwrap()
            ]
        );
        assert!(in_hosts(file, "c2").is_empty());
        assert!(in_hosts(file, "first").is_empty());
    }

    #[test]
    fn short_names_are_searched_in_domains_first() {
        let found = Resolvers::of(b"nameserver 10.0.0.2\nsearch a.b c\noptions ndots:1\n");
        assert_eq!(found.servers, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(found.candidates("c1"), ["c1.a.b", "c1.c", "c1"]);
        assert_eq!(found.candidates("c1.x")[0], "c1.x");
    }

    #[test]
    fn an_answer_with_references_is_read() {
        let question = question(7, "c1.a", Kind::A).unwrap();
        let mut answer_bytes = question.clone();
        answer_bytes[2] = 0x81;
        answer_bytes[7] = 2;
        // An alias first, then the address; both names refer to the question's.
        answer_bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        answer_bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1]);
        assert_eq!(
            answer(7, &answer_bytes),
            Some(vec!["10.0.0.1".parse().unwrap()])
        );
        assert_eq!(answer(8, &answer_bytes), None);
        assert_eq!(answer(7, &question), None, "a question is no answer");
        for end in 0..answer_bytes.len() {
            assert_eq!(answer(7, &answer_bytes[..end]), None);
        }
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        assert_eq!(question(1, "a..b", Kind::A), None);
        assert_eq!(question(1, &"x".repeat(64), Kind::Aaaa), None);
        assert_eq!(question(1, "", Kind::A), None);
    }
}
