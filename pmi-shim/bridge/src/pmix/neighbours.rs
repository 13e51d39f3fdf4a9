//! The bridges of one node's ranks, in the form `rank`, exchange among themselves.
//!
//! A PMIx server answers for one rank at a time, so N ranks that each ask for the
//! blobs of all others would be N² questions to one busy daemon. Here the bridge of
//! the node's first rank, the *leader*, collects what its neighbours bring over
//! sockets, exchanges that with the leaders of other nodes, and hands all of it back.
//! On one node the host's server is not asked at all.
//!
//! The leader's socket has an abstract name made of random bits, which is put where
//! only ranks of the job can get it. Both sides look at each other's user as well.

use super::blobs::Blob;
use crate::sys::pmix::client::Client;
use crate::sys::pmix::{Rank, Status};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// Where the leader puts the name of its socket.
const KEY: &CStr = c"singularity.leader";

/// What one exchange brings: blobs with the ranks they are from.
pub type Brought = Vec<(Rank, Vec<u8>)>;

/// This rank's place among those of its node.
pub enum Neighbours {
    /// It is the first of them.
    Leader {
        /// Where the others connect.
        listener: UnixListener,
        /// How many they are.
        others: usize,
        links: Vec<UnixStream>,
    },
    /// It has a leader, and is connected when it first needs to be.
    Follower {
        leader: Rank,
        link: Option<UnixStream>,
    },
}

impl Neighbours {
    /// For the ranks of this node, in ascending order.
    ///
    /// # Errors
    /// A line for the user.
    pub fn of(client: &Client, ranks: &[Rank]) -> Result<Neighbours, String> {
        let leader = ranks.first().copied().unwrap_or(client.rank());
        if leader != client.rank() {
            return Ok(Neighbours::Follower { leader, link: None });
        }
        let name = random_name().map_err(|error| format!("random bits: {error}"))?;
        let listener = SocketAddr::from_abstract_name(&name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(|error| format!("a socket for the ranks of this node: {error}"))?;
        if ranks.len() > 1 {
            let told = client.put(KEY, &name).and_then(|()| client.commit());
            told.map_err(|status| format!("the launcher's PMIx server: {status}"))?;
        }
        Ok(Neighbours::Leader {
            listener,
            others: ranks.len().saturating_sub(1),
            links: Vec::new(),
        })
    }

    /// One exchange. `across` is called by every rank when it has done its part here:
    /// the leader with the blobs of the node, to exchange them with other nodes and
    /// give all back; the others with none, to take part in the host's fence.
    ///
    /// # Errors
    /// A line for the user.
    pub fn exchange(
        &mut self,
        client: &Client,
        blob: Vec<u8>,
        across: impl FnOnce(Brought) -> Result<Brought, Status>,
    ) -> Result<Brought, String> {
        let own = client.rank();
        let failed = |status: Status| format!("the launcher's PMIx fence failed: {status}");
        let gone = |error: std::io::Error| format!("another rank of this node: {error}");
        match self {
            Neighbours::Leader {
                listener,
                others,
                links,
            } => {
                while links.len() < *others {
                    let (link, _) = listener.accept().map_err(gone)?;
                    if is_own(&link) {
                        links.push(link);
                    }
                }
                let mut brought = vec![(own, blob)];
                for link in links.iter_mut() {
                    brought.extend(receive(link).map_err(gone)?);
                }
                let all = across(brought).map_err(failed)?;
                let frame = Blob::Ranks(all.clone()).bytes();
                for link in links.iter_mut() {
                    send(link, &frame).map_err(gone)?;
                }
                Ok(all)
            }
            Neighbours::Follower { leader, link } => {
                if link.is_none() {
                    // Waits until the leader has put it.
                    let name = client.bytes(*leader, KEY).map_err(failed)?;
                    let connected = SocketAddr::from_abstract_name(&name)
                        .and_then(|address| UnixStream::connect_addr(&address))
                        .map_err(gone)?;
                    *link = Some(connected).filter(is_own);
                }
                let Some(link) = link else {
                    return Err("the bridge of this node's first rank is another user's".into());
                };
                send(link, &Blob::Ranks(vec![(own, blob)]).bytes()).map_err(gone)?;
                across(Vec::new()).map_err(failed)?;
                receive(link).map_err(gone)
            }
        }
    }
}

fn random_name() -> std::io::Result<Vec<u8>> {
    let mut bits = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bits)?;
    let hexadecimal: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("singularity-ranks-{hexadecimal}").into_bytes())
}

fn is_own(link: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    getsockopt(link, PeerCredentials).is_ok_and(|peer| peer.uid() == own)
}

/// A frame is its length, 64 bits little-endian, and a blob.
fn send(link: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    link.write_all(&(bytes.len() as u64).to_le_bytes())?;
    link.write_all(bytes)
}

fn receive(link: &mut UnixStream) -> std::io::Result<Brought> {
    let mut length = [0; 8];
    link.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut bytes = Vec::new();
    link.take(length).read_to_end(&mut bytes)?;
    match Blob::of(&bytes) {
        Some(Blob::Ranks(ranks)) if bytes.len() as u64 == length => Ok(ranks),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_part_of_one_is_an_end() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let brought = vec![(3, b"blob".to_vec()), (4, Vec::new())];
        send(&mut one, &Blob::Ranks(brought.clone()).bytes()).unwrap();
        assert_eq!(receive(&mut other).unwrap(), brought);
        one.write_all(&9_u64.to_le_bytes()).unwrap();
        drop(one);
        assert!(receive(&mut other).is_err());
    }

    #[test]
    fn every_leaders_name_is_another() {
        assert_ne!(random_name().unwrap(), random_name().unwrap());
    }
}
