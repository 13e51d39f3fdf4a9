//! What the bridges of a job's nodes tell one another in a fence.

use crate::sys::pmix::Rank;

/// One node's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blob {
    /// What libpmix's server brings to a fence that collects.
    Fence(Vec<u8>),
    /// What each rank has committed, where it does not: whoever asks for a rank of
    /// another node later is answered from this.
    Ranks(Vec<(Rank, Vec<u8>)>),
}

const FENCE: u8 = 1;
const RANKS: u8 = 2;

impl Blob {
    /// As it is sent: a kind, and for ranks each with its number and its length before
    /// its data, 32 bits little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Blob::Fence(data) => [&[FENCE], data.as_slice()].concat(),
            Blob::Ranks(ranks) => {
                let mut bytes = vec![RANKS];
                for (rank, data) in ranks {
                    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
                    bytes.extend(rank.to_le_bytes());
                    bytes.extend(length.to_le_bytes());
                    bytes.extend(data);
                }
                bytes
            }
        }
    }

    /// From what was sent; `None` of something else.
    pub fn of(bytes: &[u8]) -> Option<Blob> {
        let (&kind, mut rest) = bytes.split_first()?;
        match kind {
            FENCE => Some(Blob::Fence(rest.to_vec())),
            RANKS => {
                let mut ranks = Vec::new();
                while !rest.is_empty() {
                    let rank = number(&mut rest)?;
                    let length = number(&mut rest)? as usize;
                    let (data, after) = rest.split_at_checked(length)?;
                    ranks.push((rank, data.to_vec()));
                    rest = after;
                }
                Some(Blob::Ranks(ranks))
            }
            _ => None,
        }
    }
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_comes_back_and_no_part_of_one_is_more_than_refused() {
        let ranks = vec![
            (0, b"one".to_vec()),
            (7, Vec::new()),
            (u32::MAX, b"x".to_vec()),
        ];
        for blob in [
            Blob::Fence(b"data".to_vec()),
            Blob::Ranks(ranks),
            Blob::Ranks(Vec::new()),
        ] {
            let bytes = blob.bytes();
            assert_eq!(Blob::of(&bytes), Some(blob.clone()));
            for end in 0..bytes.len() {
                assert_ne!(Blob::of(&bytes[..end]), Some(blob.clone()));
            }
        }
        assert_eq!(Blob::of(b""), None);
        assert_eq!(Blob::of(b"\x03"), None);
    }
}
