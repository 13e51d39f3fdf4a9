//! The addresses of a node: the files are read and the questions sent here; what
//! they mean is in [`pmi_shim::names`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use pmi_shim::names::{answer, in_hosts, question, Kind, Resolvers};

/// How long a name server may take, and how often each is asked.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: usize = 2;

/// The addresses of a node; none where neither /etc/hosts nor DNS knows it.
pub fn addresses(name: &str) -> Vec<IpAddr> {
    if let Ok(address) = name.parse() {
        return vec![address];
    }
    let found = in_files(name);
    if !found.is_empty() {
        return found;
    }
    let resolvers = Resolvers::of(&std::fs::read("/etc/resolv.conf").unwrap_or_default());
    for name in resolvers.candidates(name) {
        for server in &resolvers.servers {
            let found: Vec<IpAddr> = [Kind::A, Kind::Aaaa]
                .into_iter()
                .flat_map(|kind| ask(*server, &name, kind))
                .collect();
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}

/// Those in /etc/hosts, for which nobody has to be asked.
pub fn in_files(name: &str) -> Vec<IpAddr> {
    in_hosts(&std::fs::read("/etc/hosts").unwrap_or_default(), name)
}

fn ask(server: IpAddr, name: &str, kind: Kind) -> Vec<IpAddr> {
    let [high, low, ..] = super::random();
    let id = u16::from_be_bytes([high, low]);
    let Some(question) = question(id, name, kind) else {
        return Vec::new();
    };
    let own: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let Ok(socket) = UdpSocket::bind(SocketAddr::new(own, 0)) else {
        return Vec::new();
    };
    // Connected: only this server's answers are taken.
    if socket.connect((server, 53)).is_err() {
        return Vec::new();
    }
    for _ in 0..TRIES {
        let until = Instant::now() + PATIENCE;
        if socket.send(&question).is_err() {
            return Vec::new();
        }
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            let mut buffer = [0; 4096];
            if socket.set_read_timeout(Some(left)).is_err() {
                break;
            }
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(found) = answer(id, &buffer[..length]) {
                        return found;
                    }
                }
                Err(_) => break,
            }
        }
    }
    Vec::new()
}
