//! What the helpers of a job's nodes say to each other where the launcher offers
//! nothing (`srun --mpi=none`), or PMIx.
//!
//! Owns: the messages and their form, how nodes make a tree, which ports a node
//! tries. Never: connects, or knows a key: the bridge puts a seal on each message
//! that begins with [`Message::Here`].
//!
//! A frame is `sgmp`, a version, the length of what follows (32 bits) and that: a
//! kind, and fields; numbers are little-endian.

use std::fmt;

/// The version of the messages; helpers of different ones do not talk.
pub const VERSION: u8 = 2;

/// The bytes before the body of a frame.
pub const HEADER: usize = 9;

/// The longest frame of somebody who has not shown who they are.
pub const LONGEST_UNKNOWN: usize = 8 << 10;

/// The longest frame of a helper: all that a job's ranks tell one another at once.
pub const LONGEST: usize = 1 << 30;

/// How many nodes each node has below it.
pub const FAN_OUT: u32 = 32;

/// How many ports a node tries.
pub const PORTS: u16 = 16;

/// The first of the ports that are tried: below those that kernels give out by
/// themselves (net.ipv4.ip_local_port_range begins at 32768), so that they are
/// seldom taken.
const FIRST_PORT: u16 = 20_000;
const PORT_RANGE: u16 = 12_000;

const MAGIC: &[u8; 4] = b"sgmp";

/// The node above a node; none above the first.
pub fn above(node: u32) -> Option<u32> {
    node.checked_sub(1).map(|before| before / FAN_OUT)
}

/// The nodes right below a node.
pub fn below(node: u32, nodes: u32) -> impl Iterator<Item = u32> {
    let first = u64::from(node) * u64::from(FAN_OUT) + 1;
    let last = (first + u64::from(FAN_OUT)).min(nodes.into());
    (first..last).filter_map(|node| u32::try_from(node).ok())
}

/// The neighbour of a node that is next on the way to another; `None` if it is there.
pub fn towards(node: u32, other: u32) -> Option<u32> {
    let mut step = other;
    while step != node {
        match above(step) {
            Some(up) if up == node => return Some(step),
            Some(up) => step = up,
            // It is not below this node.
            None => return above(node),
        }
    }
    None
}

/// The ports that a node of a step tries in turn: the same on all nodes, and
/// others for each step and user.
pub fn ports(step: &str, uid: u32, node: u32) -> impl Iterator<Item = u16> {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in step
        .bytes()
        .chain(uid.to_le_bytes())
        .chain(node.to_le_bytes())
    {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The stride is prime to the range, so no port comes twice.
    (0..u64::from(PORTS)).map(move |attempt| {
        let place = hash.wrapping_add(attempt * 7919) % u64::from(PORT_RANGE);
        FIRST_PORT + place as u16
    })
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first, of both: which node this is, and a number never used before.
    Hello {
        /// The node.
        node: u32,
        /// The number.
        nonce: [u8; 32],
    },
    /// The second, of both: a credential of munge, with half of the key.
    Credential(String),
    /// To the node above: the ranks of the nodes below and of this one.
    Here(Vec<(u32, Vec<u32>)>),
    /// To the nodes below: the ranks of all nodes.
    Layout(Vec<Vec<u32>>),
    /// To the node above: what the nodes below and this one give to an exchange.
    Up(u64, Vec<(u32, Vec<u8>)>),
    /// To the nodes below: what all nodes have given.
    Down(u64, Vec<Vec<u8>>),
    /// To all neighbours: this node's ranks are through, and may go.
    Leaving,
    /// To all neighbours: the job ends, with this status and for this reason.
    Abort(i32, String),
    /// On the way to the node of a rank: which node asks what that rank has committed,
    /// and the rank.
    Ask(u32, u32),
    /// On the way back to that node: the rank, and what it has committed; `None` where
    /// that cannot be had.
    Found(u32, u32, Option<Vec<u8>>),
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something that is no message of ours")
    }
}

impl std::error::Error for Malformed {}

/// The beginning of a frame with a body of that length.
pub fn header(length: usize) -> [u8; HEADER] {
    let [l0, l1, l2, l3] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let [m0, m1, m2, m3] = *MAGIC;
    [m0, m1, m2, m3, VERSION, l0, l1, l2, l3]
}

/// The body of the frame that begins `received`; `None` if more has to come.
///
/// # Errors
/// What can never become a frame of at most `longest` bytes.
pub fn body(received: &[u8], longest: usize) -> Result<Option<&[u8]>, Malformed> {
    let start = header(0);
    let known = received.len().min(5);
    if received[..known] != start[..known] {
        return Err(Malformed);
    }
    let Some([.., l0, l1, l2, l3]) = received.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    if length > longest {
        return Err(Malformed);
    }
    Ok(received.get(HEADER..HEADER + length))
}

impl Message {
    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        match self {
            Message::Hello { node, nonce } => {
                out.kind(1);
                out.number(*node);
                out.0.extend_from_slice(nonce);
            }
            Message::Credential(text) => {
                out.kind(2);
                out.bytes(text.as_bytes());
            }
            Message::Here(nodes) => {
                out.kind(3);
                out.count(nodes.len());
                for (node, ranks) in nodes {
                    out.number(*node);
                    out.ranks(ranks);
                }
            }
            Message::Layout(nodes) => {
                out.kind(4);
                out.count(nodes.len());
                nodes.iter().for_each(|ranks| out.ranks(ranks));
            }
            Message::Up(exchange, blobs) => {
                out.kind(5);
                out.0.extend_from_slice(&exchange.to_le_bytes());
                out.count(blobs.len());
                for (node, blob) in blobs {
                    out.number(*node);
                    out.bytes(blob);
                }
            }
            Message::Down(exchange, blobs) => {
                out.kind(6);
                out.0.extend_from_slice(&exchange.to_le_bytes());
                out.count(blobs.len());
                blobs.iter().for_each(|blob| out.bytes(blob));
            }
            Message::Leaving => out.kind(7),
            Message::Abort(status, reason) => {
                out.kind(8);
                out.0.extend_from_slice(&status.to_le_bytes());
                out.bytes(reason.as_bytes());
            }
            Message::Ask(from, rank) => {
                out.kind(9);
                out.number(*from);
                out.number(*rank);
            }
            Message::Found(to, rank, data) => {
                out.kind(10);
                out.number(*to);
                out.number(*rank);
                out.count(data.iter().len());
                data.iter().for_each(|data| out.bytes(data));
            }
        }
        out.0
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// Fields that are cut off, left over or not of their kind.
    pub fn decode(body: &[u8]) -> Result<Message, Malformed> {
        let (kind, rest) = body.split_first().ok_or(Malformed)?;
        let mut fields = Reader(rest);
        let message = match kind {
            1 => Message::Hello {
                node: fields.number()?,
                nonce: *fields.array()?,
            },
            2 => Message::Credential(fields.text()?),
            3 => Message::Here(fields.list(|fields| Ok((fields.number()?, fields.ranks()?)))?),
            4 => Message::Layout(fields.list(Reader::ranks)?),
            5 => Message::Up(
                u64::from_le_bytes(*fields.array()?),
                fields.list(|fields| Ok((fields.number()?, fields.bytes()?.to_vec())))?,
            ),
            6 => Message::Down(
                u64::from_le_bytes(*fields.array()?),
                fields.list(|fields| Ok(fields.bytes()?.to_vec()))?,
            ),
            7 => Message::Leaving,
            8 => Message::Abort(i32::from_le_bytes(*fields.array()?), fields.text()?),
            9 => Message::Ask(fields.number()?, fields.number()?),
            10 => {
                let (to, rank) = (fields.number()?, fields.number()?);
                let data = match fields.number()? {
                    0 => None,
                    1 => Some(fields.bytes()?.to_vec()),
                    _ => return Err(Malformed),
                };
                Message::Found(to, rank, data)
            }
            _ => return Err(Malformed),
        };
        match fields.0.is_empty() {
            true => Ok(message),
            false => Err(Malformed),
        }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn kind(&mut self, kind: u8) {
        self.0.push(kind);
    }

    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn ranks(&mut self, ranks: &[u32]) {
        self.count(ranks.len());
        ranks.iter().for_each(|&rank| self.number(rank));
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(array)
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(*self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }

    /// Grows with what is read, not with the number that is claimed.
    fn list<T>(
        &mut self,
        mut next: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.number()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(next(self)?);
        }
        Ok(list)
    }

    fn ranks(&mut self) -> Result<Vec<u32>, Malformed> {
        self.list(Reader::number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn messages() -> Vec<Message> {
        vec![
            Message::Hello {
                node: 7,
                nonce: [9; 32],
            },
            Message::Credential("MUNGE:x:".into()),
            Message::Here(vec![(1, vec![2, 3]), (2, vec![])]),
            Message::Layout(vec![vec![0, 1], vec![2]]),
            Message::Up(1 << 40, vec![(3, vec![1, 2, 3]), (4, vec![])]),
            Message::Down(2, vec![vec![], vec![0; 300]]),
            Message::Leaving,
            Message::Abort(-7, "over".into()),
            Message::Ask(3, 9),
            Message::Found(3, 9, Some(vec![1, 2])),
            Message::Found(3, 9, None),
        ]
    }

    #[test]
    fn every_message_comes_back_and_no_part_of_one_does() {
        for message in messages() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..end]), Err(Malformed));
            }
            let mut more = bytes.clone();
            more.push(0);
            assert_eq!(Message::decode(&more), Err(Malformed));
        }
    }

    #[test]
    fn a_claimed_length_costs_nothing() {
        for kind in [2, 3, 4] {
            let body = [kind, 0xff, 0xff, 0xff, 0xff];
            assert_eq!(Message::decode(&body), Err(Malformed));
        }
        let frame = header(usize::MAX);
        assert_eq!(body(&frame, LONGEST), Err(Malformed));
    }

    #[test]
    fn a_frame_is_whole_or_not_yet_or_none() {
        let mut frame = header(3).to_vec();
        frame.extend(b"abcd");
        for end in 0..HEADER + 3 {
            assert_eq!(body(&frame[..end], 10), Ok(None), "{end}");
        }
        assert_eq!(body(&frame, 10), Ok(Some(&b"abc"[..])));
        assert_eq!(body(&frame, 2), Err(Malformed));
        assert_eq!(body(b"SSH-2.0", 10), Err(Malformed));
    }

    #[test]
    fn every_node_but_the_first_is_below_exactly_one() {
        for nodes in [1, 2, 33, 34, 5000] {
            let mut seen = HashSet::new();
            for node in 0..nodes {
                for child in below(node, nodes) {
                    assert_eq!(above(child), Some(node));
                    assert!(seen.insert(child));
                }
            }
            assert_eq!(seen.len() as u32, nodes - 1);
        }
        assert_eq!(below(u32::MAX, u32::MAX).count(), 0);
    }

    #[test]
    fn a_way_leads_from_every_node_to_every_other() {
        let nodes = 1100;
        for (from, to) in [
            (0, 1099),
            (1099, 0),
            (1, 33),
            (33, 65),
            (1099, 1067),
            (7, 7),
        ] {
            let mut place = from;
            let mut steps = 0;
            while let Some(next) = towards(place, to) {
                assert!(next < nodes && (above(next) == Some(place) || above(place) == Some(next)));
                (place, steps) = (next, steps + 1);
                assert!(steps <= 6, "{from} to {to}");
            }
            assert_eq!(place, to);
        }
    }

    #[test]
    fn ports_are_the_same_everywhere_and_none_twice() {
        let here: Vec<u16> = ports("7.0", 1000, 0).collect();
        assert_eq!(here, ports("7.0", 1000, 0).collect::<Vec<_>>());
        assert_eq!(here.iter().collect::<HashSet<_>>().len(), PORTS.into());
        assert!(here.iter().all(|port| (20_000..32_000).contains(port)));
        assert_ne!(here, ports("7.1", 1000, 0).collect::<Vec<_>>());
        assert_ne!(here, ports("7.0", 1000, 1).collect::<Vec<_>>());
    }
}
