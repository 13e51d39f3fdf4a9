//! Connections between the helpers of a job's nodes, beside a launcher with PMI.
//!
//! PMI has fences and nothing else: no word that a node's daemon has been killed, and
//! none for what a rank elsewhere has committed since the last fence. So the first
//! exchange also carries where each helper listens ([`Card`]), and they meet ([`Nodes`]).
//! Where they cannot, because no TCP goes between the nodes, the job does without.
//!
//! Owns: the first exchange's form, and whether they have met. Never: carries an
//! exchange.

use std::time::Instant;

use pmi_shim::core::{Abort, Host, HostEvent, Interest, Job, Rank};
use pmi_shim::net;

use crate::nodes::{Card, Nodes};

/// How far it is.
#[derive(Debug, Default)]
pub enum Beside {
    /// The job is not known yet, has one node, or does without.
    #[default]
    Nothing,
    /// Before the first exchange.
    Coming(Job),
    /// Connections are being made, or have been.
    There(Box<There>),
}

/// The connections.
#[derive(Debug)]
pub struct There {
    nodes: Nodes,
    /// Of the node above, if there is one.
    above: Option<u32>,
    /// The first exchange is done.
    exchanged: bool,
    met: bool,
    /// What was asked and not answered.
    asked: Vec<Rank>,
}

impl Beside {
    /// Takes the launcher's word on the job.
    pub fn know(&mut self, job: &Job) {
        if job.layout.nodes() > 1 {
            *self = Beside::Coming(job.clone());
        }
    }

    /// What goes into an exchange for this blob: before the first one there is a card.
    pub fn pack(&mut self, blob: Vec<u8>, now: Instant) -> Vec<u8> {
        let Beside::Coming(job) = self else {
            return blob;
        };
        let first = job.local.first().copied().unwrap_or_default();
        let node = job.layout.node_of(first).unwrap_or_default();
        let card = match Nodes::of_job(job, node, false, now) {
            Ok((nodes, card)) => {
                *self = Beside::There(Box::new(There {
                    nodes,
                    above: net::above(node),
                    exchanged: false,
                    met: false,
                    asked: Vec::new(),
                }));
                card
            }
            Err(why) => {
                tracing::debug!(why, "no connections beside the launcher");
                // The others send cards all the same, which have to be taken off.
                None
            }
        };
        let card = card.map(|card| card.text()).unwrap_or_default();
        // Some dozen addresses at most.
        let length = u32::try_from(card.len()).unwrap_or_default();
        [&length.to_le_bytes(), card.as_bytes(), &blob].concat()
    }

    /// The nodes' blobs of an exchange, without their cards; `None` if they are not such.
    pub fn unpack(&mut self, blobs: Vec<Vec<u8>>, now: Instant) -> Option<Vec<Vec<u8>>> {
        let first = match self {
            Beside::Nothing => false,
            Beside::Coming(_) => true,
            Beside::There(there) => !there.exchanged,
        };
        if !first {
            return Some(blobs);
        }
        let parted = blobs.iter().map(|blob| part(blob));
        let (cards, blobs): (Vec<&[u8]>, Vec<Vec<u8>>) =
            parted.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        match self {
            Beside::There(there) => {
                there.exchanged = true;
                let above = there.above.and_then(|above| cards.get(above as usize));
                let above = above.and_then(|card| Card::of(&String::from_utf8_lossy(card)));
                if let Some(card) = &above {
                    there.nodes.seek_above(card, now);
                }
            }
            other => *other = Beside::Nothing,
        }
        Some(blobs)
    }

    /// The descriptors to watch now.
    pub fn interests(&self) -> Vec<Interest> {
        match self {
            Beside::There(there) => there.nodes.interests(),
            _ => Vec::new(),
        }
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Beside::There(there) => there.nodes.deadline(),
            _ => None,
        }
    }

    /// Does what can be done. That the nodes have met is nobody else's business; that
    /// they do not, is no reason to end the job.
    pub fn proceed(&mut self, now: Instant) -> Vec<HostEvent> {
        let Beside::There(there) = self else {
            return Vec::new();
        };
        let mut events = Vec::new();
        let mut failed = None;
        for event in there.nodes.proceed(now) {
            match event {
                HostEvent::Ready(_) => {
                    there.met = true;
                    tracing::debug!("the helpers of all nodes have met");
                }
                HostEvent::Found(rank, data) => {
                    there.asked.retain(|asked| *asked != rank);
                    events.push(HostEvent::Found(rank, data));
                }
                HostEvent::Aborted(abort) if !there.met => failed = Some(abort.reason),
                HostEvent::Gathered(_) | HostEvent::Finalized => {}
                other => events.push(other),
            }
        }
        if let Some(why) = failed {
            tracing::info!(why, "no connections beside the launcher");
            let asked = std::mem::take(&mut there.asked).into_iter();
            events.extend(asked.map(|rank| HostEvent::Found(rank, None)));
            *self = Beside::Nothing;
        }
        events
    }

    /// As [`Host::ask_for`].
    pub fn ask_for(&mut self, rank: Rank) -> bool {
        let Beside::There(there) = self else {
            return false;
        };
        if !there.exchanged {
            return false;
        }
        there.asked.push(rank);
        there.nodes.ask_for(rank)
    }

    /// As [`Host::show`].
    pub fn show(&mut self, node: u32, rank: Rank, data: Option<Vec<u8>>) {
        if let Beside::There(there) = self {
            there.nodes.show(node, rank, data);
        }
    }

    /// Tells the other nodes that this one is through.
    pub fn finalize(&mut self) {
        if let Beside::There(there) = self {
            there.nodes.finalize();
        }
    }

    /// Tells the other nodes that the job ends.
    pub fn abort(&mut self, abort: &Abort) {
        if let Beside::There(there) = self {
            there.nodes.abort(abort);
        }
    }
}

/// A card and what follows it.
fn part(blob: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let (length, rest) = blob.split_first_chunk()?;
    let (card, blob) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((card, blob.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmi_shim::core::Layout;

    fn job(node: u32) -> Job {
        let layout = Layout::of_nodes(&[0, 1]).unwrap();
        Job {
            name: "job".into(),
            local: layout.ranks_on(node).to_vec(),
            layout,
            hosts: Vec::new(),
        }
    }

    /// The two nodes' connections, after their first exchange.
    fn pair(now: Instant) -> [Beside; 2] {
        let mut pair = [0, 1].map(|node| {
            let mut beside = Beside::default();
            beside.know(&job(node));
            beside
        });
        let sent: Vec<_> = pair
            .iter_mut()
            .zip(["zero", "one"])
            .map(|(beside, blob)| beside.pack(blob.into(), now))
            .collect();
        for beside in &mut pair {
            let got = beside.unpack(sent.clone(), now);
            assert_eq!(got, Some(vec![b"zero".to_vec(), b"one".to_vec()]));
        }
        pair
    }

    /// What the first of them says, when it says something.
    fn told(pair: &mut [Beside; 2], who: usize) -> Vec<HostEvent> {
        for _ in 0..5000 {
            let other = pair[1 - who].proceed(Instant::now());
            assert!(other.is_empty(), "{other:?}");
            let said = pair[who].proceed(Instant::now());
            if !said.is_empty() {
                return said;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("nothing is said");
    }

    #[test]
    fn what_a_rank_elsewhere_has_committed_is_asked_for_beside_the_launcher() {
        let mut pair = pair(Instant::now());
        assert!(pair[1].ask_for(0));
        assert_eq!(told(&mut pair, 0), [HostEvent::Asked(1, 0)]);
        pair[0].show(1, 0, Some(b"data".to_vec()));
        let found = HostEvent::Found(0, Some(b"data".to_vec()));
        assert_eq!(told(&mut pair, 1), [found]);
    }

    #[test]
    fn a_node_that_goes_ends_the_job_of_those_that_have_met_it() {
        let mut pair = pair(Instant::now());
        assert!(pair[1].ask_for(0));
        told(&mut pair, 0);
        pair[0] = Beside::Nothing;
        let told = told(&mut pair, 1);
        assert!(matches!(&told[..], [HostEvent::Aborted(_)]), "{told:?}");
    }

    #[test]
    fn nodes_that_do_not_meet_do_without() {
        let now = Instant::now();
        let mut pair = pair(now);
        pair[0] = Beside::Nothing;
        assert!(pair[1].ask_for(0));
        let late = now + std::time::Duration::from_secs(100);
        let told: Vec<_> = (0..100).flat_map(|_| pair[1].proceed(late)).collect();
        assert_eq!(told, [HostEvent::Found(0, None)]);
        assert!(!pair[1].ask_for(0));
    }

    #[test]
    fn later_exchanges_and_those_of_one_node_carry_nothing_else() {
        let now = Instant::now();
        let mut pair = pair(now);
        pair[1].pack(b"more".to_vec(), now);
        assert_eq!(pair[0].pack(b"more".to_vec(), now), b"more");
        let blobs = vec![b"more".to_vec()];
        assert_eq!(pair[0].unpack(blobs.clone(), now), Some(blobs));
        assert!(pair[1].ask_for(0), "they are there");
        let mut alone = Beside::default();
        alone.know(&Job {
            layout: Layout::on_one_node(2).unwrap(),
            ..job(0)
        });
        assert_eq!(alone.pack(b"blob".to_vec(), now), b"blob");
    }

    #[test]
    fn a_first_exchange_of_something_else_is_refused() {
        let now = Instant::now();
        for other in [&b""[..], b"abc", b"\x05\0\0\0abc"] {
            let mut beside = Beside::default();
            beside.know(&job(0));
            let own = beside.pack(Vec::new(), now);
            assert_eq!(beside.unpack(vec![own, other.to_vec()], now), None);
        }
    }
}
