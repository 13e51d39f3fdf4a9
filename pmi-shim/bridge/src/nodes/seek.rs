//! Looking for the node above at the addresses where it may listen.
//!
//! Owns: which is tried when, and what was heard there. Never: waits.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

/// How long to wait between rounds of attempts, first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// How long nothing may be heard from a host. One that has not come to the bridge yet
/// refuses at once: silence is a firewall, or a way that there is not.
const SILENCE: Duration = Duration::from_secs(10);

/// The addresses, and how far it has got.
#[derive(Debug)]
pub struct Seeking {
    addresses: Vec<SocketAddr>,
    attempt: usize,
    next: Instant,
    pause: Duration,
    since: Instant,
    answered: bool,
    /// What came of the last attempt, for the user.
    pub last: String,
}

impl Seeking {
    /// Begins now, at these addresses.
    pub fn at(addresses: Vec<SocketAddr>, now: Instant) -> Seeking {
        Seeking {
            addresses,
            attempt: 0,
            next: now,
            pause: FIRST_PAUSE,
            since: now,
            answered: false,
            last: "nobody listens there".into(),
        }
    }

    /// When there is something to be done.
    pub fn when(&self) -> Instant {
        self.next
    }

    /// Whether the next attempt is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Whether it is no use going on: `listens` is that somebody is known to be there.
    pub fn is_late(&self, now: Instant, listens: bool) -> bool {
        now >= self.since + SILENCE && (listens || !self.answered)
    }

    /// The address to try now. There is one at least.
    pub fn next(&mut self, now: Instant) -> SocketAddr {
        let address = self.addresses[self.attempt];
        self.attempt += 1;
        if self.attempt == self.addresses.len() {
            self.attempt = 0;
            self.next = now + self.pause;
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
        address
    }

    /// Nothing came from there.
    pub fn silent(&mut self, address: SocketAddr) {
        self.last = format!("{address}: no answer, as behind a firewall");
    }

    /// Somebody is there, but not the one who is sought.
    pub fn answered(&mut self, address: SocketAddr, why: &str) {
        self.answered = true;
        // That nobody listens at one's own address says less than silence elsewhere.
        if !address.ip().is_loopback() || self.addresses.len() == 1 {
            self.last = format!("{address}: {why}");
        }
    }
}

/// A connection that is being made. What becomes of it is read from it.
///
/// # Errors
/// What the system says at once, such as that there is no way.
pub fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let made = socket::socket(family, SockType::Stream, flags, None).and_then(|socket| {
        match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
            Err(errno) => Err(errno),
        }
    });
    made.map_err(|errno| errno.desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_tried_before_a_pause_that_grows() {
        let addresses: Vec<SocketAddr> = ["10.0.0.1:1", "10.0.0.2:1"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let now = Instant::now();
        let mut seeking = Seeking::at(addresses.clone(), now);
        for round in [now, now + FIRST_PAUSE] {
            assert!(seeking.is_due(round));
            assert_eq!(seeking.next(round), addresses[0]);
            assert!(seeking.is_due(round));
            assert_eq!(seeking.next(round), addresses[1]);
            assert!(!seeking.is_due(round));
        }
        assert_eq!(seeking.when(), now + FIRST_PAUSE * 3);
    }

    #[test]
    fn who_is_silent_is_given_up_sooner_than_who_has_not_come_yet() {
        let address: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let now = Instant::now();
        let mut seeking = Seeking::at(vec![address], now);
        seeking.silent(address);
        assert!(!seeking.is_late(now, true) && !seeking.is_late(now, false));
        let late = now + SILENCE;
        assert!(seeking.is_late(late, true) && seeking.is_late(late, false));
        seeking.answered(address, "Connection refused");
        assert!(seeking.is_late(late, true) && !seeking.is_late(late, false));
        assert_eq!(seeking.last, "10.0.0.1:1: Connection refused");
    }

    #[test]
    fn a_port_without_a_listener_refuses() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let refused = match connect(address) {
            Err(why) => why,
            Ok(stream) => {
                crate::sys::poll(&[(stream.as_raw_fd(), true)], 5000).unwrap();
                stream.take_error().unwrap().unwrap().to_string()
            }
        };
        assert!(refused.contains("refused"), "{refused}");
    }
}
