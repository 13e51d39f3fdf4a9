//! Where the compressed content of EROFS files lies.
//!
//! Owns: both kinds of index over logical clusters, and unpacking an extent. See
//! the kernel's `fs/erofs/zmap.c` and `fs/erofs/decompressor.c` for how they are
//! to be understood.

use launcher::Error;

use super::content::LONGEST_EXTENT;
use super::{Inode, Volume, Window};
use crate::decompress::{unpack_all, Algorithm};
use crate::{le16, le32, le64};

const COMPACT_2B: u16 = 0x1;
const BIG_1: u16 = 0x2;
const BIG_2: u16 = 0x4;
const INLINE: u16 = 0x8;
const INTERLACED: u16 = 0x10;
const FRAGMENT: u16 = 0x20;
/// In the distance of the first cluster that is not a head: it says instead how
/// many blocks the extent takes up.
const BLOCKS: u32 = 0x800;

/// The index of one file.
pub(super) struct Map {
    size: u64,
    /// The logarithm of a logical cluster's length.
    cluster_bits: u32,
    advise: u16,
    algorithms: u8,
    /// Where entries begin.
    entries: u64,
    compact: bool,
    /// The end's place: in the packed file, or behind the index with this length.
    fragment_at: u64,
    inline_length: u16,
    /// The whole file is in the packed file.
    whole_in_fragment: bool,
}

/// A piece of a file that is unpacked at once.
pub(super) struct Extent {
    pub start: u64,
    pub length: u64,
    pub stored: Stored,
}

/// Where and how.
pub(super) enum Stored {
    /// In the packed file.
    Packed(u64),
    /// In the image.
    Block(Block),
}

/// A stretch of the image that an extent is made from.
pub(super) struct Block {
    pub at: u64,
    length: u64,
    /// `None`: as it is, from the beginning or turned round within the block.
    algorithm: Option<u8>,
    interlaced: bool,
    /// Whether leading zeroes are padding.
    padded: bool,
}

impl Block {
    /// Where so many bytes lie, if they need no unpacking.
    pub fn as_it_is(&self, wanted: u64) -> Option<u64> {
        (self.algorithm.is_none() && !self.interlaced && wanted <= self.length).then_some(self.at)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cluster {
    /// An extent begins here, at this offset: its algorithm, where it lies.
    Head {
        plain: bool,
        second: bool,
        offset: u32,
        block: u64,
    },
    /// It goes on: how many clusters back to its head, or how many blocks it has.
    More { back: u32, blocks: Option<u32> },
}

impl Map {
    pub fn open(volume: &Volume<'_>, inode: &Inode) -> Result<Self, Error> {
        let header_at = inode.end().next_multiple_of(8);
        let header = volume.device.bytes(header_at, 8)?;
        let whole_in_fragment = header.get(7).copied().unwrap_or(0) & 0x80 != 0;
        let advise = le16(&header, 4);
        let compact = inode.is_compact();
        let fragment_at = if whole_in_fragment {
            le64(&header, 0) & !(1 << 63)
        } else {
            le32(&header, 0).into()
        };
        let cluster_bits = volume.block_size().trailing_zeros()
            + u32::from(header.get(7).copied().unwrap_or(0) & 7);
        if !whole_in_fragment && (cluster_bits > 24 || advise & !0x3f != 0) {
            return Err(volume
                .device
                .unsupported("its EROFS has features that are not known here"));
        }
        Ok(Self {
            size: inode.node.size,
            cluster_bits,
            advise,
            algorithms: header.get(6).copied().unwrap_or(0),
            entries: header_at + if compact { 8 } else { 16 },
            compact,
            fragment_at,
            inline_length: if advise & INLINE != 0 {
                le16(&header, 2)
            } else {
                0
            },
            whole_in_fragment,
        })
    }

    /// Whether its end, or all of it, is in the packed file.
    pub fn has_packed_end(&self) -> bool {
        self.whole_in_fragment || self.advise & FRAGMENT != 0
    }

    fn count(&self) -> u64 {
        self.size.div_ceil(1 << self.cluster_bits)
    }

    /// The extent that holds the byte at `at`.
    pub fn find(&self, volume: &Volume<'_>, at: u64, window: &mut Window) -> Result<Extent, Error> {
        let damaged = || {
            volume
                .device
                .damaged("the index of a compressed file contradicts itself")
        };
        if self.whole_in_fragment {
            return Ok(Extent {
                start: 0,
                length: self.size,
                stored: Stored::Packed(self.fragment_at),
            });
        }
        let first = at >> self.cluster_bits;
        let most = LONGEST_EXTENT >> self.cluster_bits;
        let mut number = first;
        let within = at & ((1 << self.cluster_bits) - 1);
        // Back to the head.
        let head = loop {
            match self.cluster(volume, number, window)? {
                Cluster::Head { offset, .. } if number == first && u64::from(offset) > within => {
                    number = number.checked_sub(1).ok_or_else(damaged)?;
                }
                head @ Cluster::Head { .. } => break head,
                Cluster::More { back, blocks } => {
                    let back = u64::from(if blocks.is_some() { 1 } else { back.max(1) });
                    number = number.checked_sub(back).ok_or_else(damaged)?;
                    if first - number > most {
                        return Err(damaged());
                    }
                }
            }
        };
        let Cluster::Head {
            plain,
            second,
            offset,
            block,
        } = head
        else {
            return Err(damaged());
        };
        let start = (number << self.cluster_bits) + u64::from(offset);
        // On to the next head.
        let mut next = number + 1;
        let mut blocks = None;
        let end = loop {
            if next >= self.count() {
                break self.size;
            }
            match self.cluster(volume, next, window)? {
                Cluster::Head { offset, .. } => {
                    break (next << self.cluster_bits) + u64::from(offset)
                }
                Cluster::More { blocks: told, .. } => {
                    if next == number + 1 {
                        blocks = told;
                    }
                    next += 1;
                    if next - number > most {
                        return Err(damaged());
                    }
                }
            }
        };
        let length = end.min(self.size).checked_sub(start).ok_or_else(damaged)?;
        let is_last = end >= self.size;
        if is_last && self.advise & FRAGMENT != 0 {
            return Ok(Extent {
                start,
                length,
                stored: Stored::Packed(self.fragment_at),
            });
        }
        let algorithm = (!plain).then_some(if second {
            self.algorithms >> 4
        } else {
            self.algorithms & 15
        });
        let stored = if is_last && self.inline_length > 0 {
            Stored::Block(Block {
                at: self.end_of_index(),
                length: self.inline_length.into(),
                algorithm,
                interlaced: false,
                padded: false,
            })
        } else {
            let big = self.advise & if second { BIG_2 } else { BIG_1 } != 0;
            let blocks = match blocks {
                Some(blocks) if big => u64::from(blocks),
                _ => 1 << (self.cluster_bits - volume.block_size().trailing_zeros()),
            };
            Stored::Block(Block {
                at: block.checked_mul(volume.block_size()).ok_or_else(damaged)?,
                length: blocks * volume.block_size(),
                algorithm,
                interlaced: self.advise & INTERLACED != 0,
                padded: volume.leading_zeroes(),
            })
        };
        Ok(Extent {
            start,
            length,
            stored,
        })
    }

    fn cluster(
        &self,
        volume: &Volume<'_>,
        number: u64,
        window: &mut Window,
    ) -> Result<Cluster, Error> {
        let damaged = || {
            volume
                .device
                .damaged("the index of a compressed file contradicts itself")
        };
        if number >= self.count() {
            return Err(damaged());
        }
        if self.compact {
            return self.compact_cluster(volume, number, window);
        }
        let entry = window.look(volume, self.entries + number * 8, 8)?;
        let kind = le16(entry, 0) & 3;
        Ok(if kind == 2 {
            let back = u32::from(le16(entry, 4));
            if back & BLOCKS != 0 {
                Cluster::More {
                    back: 1,
                    blocks: Some(back & !BLOCKS),
                }
            } else {
                Cluster::More { back, blocks: None }
            }
        } else {
            Cluster::Head {
                plain: kind == 0,
                second: kind == 3,
                offset: le16(entry, 2).into(),
                block: le32(entry, 4).into(),
            }
        })
    }

    /// The layout of the compact index: how many entries of four bytes come
    /// first, then how many of two; the rest has four again.
    fn layout(&self) -> (u64, u64) {
        let total = self.count();
        let first = (32 - self.entries % 32) / 4 % 8;
        let first = first.min(total);
        let short = if self.advise & COMPACT_2B != 0 && total > first {
            (total - first) / 16 * 16
        } else {
            0
        };
        (first, short)
    }

    /// The pack that an entry is in: its place, its length, the entry's number in
    /// it, and how many there are.
    fn pack(&self, number: u64) -> (u64, usize, usize, usize) {
        let (first, short) = self.layout();
        let (at, amortized) = if number < first {
            (self.entries + number * 4, 4)
        } else if number < first + short {
            (self.entries + first * 4 + (number - first) * 2, 2)
        } else {
            let at = self.entries + first * 4 + short * 2;
            (at + (number - first - short) * 4, 4)
        };
        let count: u64 = if amortized == 4 { 2 } else { 16 };
        let length = count * amortized;
        let base = at / length * length;
        let index = (at - base) / amortized;
        (
            base,
            usize::try_from(length).unwrap_or(8),
            usize::try_from(index).unwrap_or(0),
            usize::try_from(count).unwrap_or(2),
        )
    }

    fn end_of_index(&self) -> u64 {
        let last = self.count().saturating_sub(1);
        if self.compact {
            let (base, length, ..) = self.pack(last);
            base + length as u64
        } else {
            self.entries + self.count() * 8
        }
    }

    fn compact_cluster(
        &self,
        volume: &Volume<'_>,
        number: u64,
        window: &mut Window,
    ) -> Result<Cluster, Error> {
        let (base, length, index, count) = self.pack(number);
        let raw = window.look(volume, base, length)?;
        // The pack's last four bytes are a block's number; the rest is divided.
        let width = (length - 4) * 8 / count;
        // At least the bits that a count of blocks needs.
        let low_bits = self.cluster_bits.max(12);
        let entry = |index: usize| -> (u32, u32) {
            let bit = width * index;
            let mut window = [0; 8];
            for (to, from) in window
                .iter_mut()
                .zip(raw.get(bit / 8..).unwrap_or_default())
            {
                *to = *from;
            }
            let word = u64::from_le_bytes(window) >> (bit % 8);
            let low = (word & ((1 << low_bits) - 1)) as u32;
            (low, (word >> low_bits & 3) as u32)
        };
        let (low, kind) = entry(index);
        if kind == 2 {
            if low & BLOCKS != 0 && self.advise & (BIG_1 | BIG_2) != 0 {
                return Ok(Cluster::More {
                    back: 1,
                    blocks: Some(low & !BLOCKS),
                });
            }
            // The last of a pack says how far it is to the next head instead.
            if index + 1 != count {
                return Ok(Cluster::More {
                    back: low,
                    blocks: None,
                });
            }
            let back = match index.checked_sub(1).map(entry) {
                Some((low, 2)) if low & BLOCKS != 0 && self.advise & (BIG_1 | BIG_2) != 0 => 2,
                Some((low, 2)) => low + 1,
                _ => 1,
            };
            return Ok(Cluster::More { back, blocks: None });
        }
        // The pack has the number of a block; how many extents lie before this one?
        let mut before = 0_u64;
        let mut at = index;
        if self.advise & BIG_1 == 0 {
            before = 1;
            while at > 0 {
                at -= 1;
                let (low, kind) = entry(at);
                if kind == 2 {
                    match at.checked_sub(usize::try_from(low).unwrap_or(usize::MAX)) {
                        Some(head) => at = head,
                        None => break,
                    }
                }
                before += 1;
            }
        } else {
            while at > 0 {
                at -= 1;
                let (low, kind) = entry(at);
                if kind == 2 {
                    if low & BLOCKS != 0 {
                        before += u64::from(low & !BLOCKS);
                        at = at.saturating_sub(1);
                        continue;
                    }
                    if low <= 1 {
                        return Err(volume
                            .device
                            .damaged("the index of a compressed file contradicts itself"));
                    }
                    match at.checked_sub(usize::try_from(low - 2).unwrap_or(usize::MAX)) {
                        Some(next) => at = next,
                        None => break,
                    }
                    continue;
                }
                before += 1;
            }
        }
        Ok(Cluster::Head {
            plain: kind == 0,
            second: kind == 3,
            offset: low & ((1 << self.cluster_bits) - 1),
            block: u64::from(le32(raw, length - 4)) + before,
        })
    }
}

/// Fills `place` with what an extent holds that lies in the image and begins at `start`
/// of its file.
pub(super) fn unpack(
    volume: &Volume<'_>,
    stored: &Block,
    start: u64,
    place: &mut [u8],
) -> Result<(), Error> {
    let damaged = || {
        volume
            .device
            .damaged("a piece of a file cannot be unpacked")
    };
    // The last block of an image may be cut where its content ends.
    let length = stored
        .length
        .min(volume.device.size.saturating_sub(stored.at));
    let length = usize::try_from(length).unwrap_or(0);
    let algorithm = match stored.algorithm {
        None => None,
        Some(0) => Some(Algorithm::Lz4),
        Some(2) => Some(Algorithm::Deflate),
        Some(3) => Some(Algorithm::Zstd),
        Some(_) => {
            return Err(volume
                .device
                .unsupported("its files are compressed in a way that is not known here"))
        }
    };
    volume
        .device
        .with_bytes(stored.at, length, |raw| match algorithm {
            Some(algorithm) => {
                let padding = if stored.padded {
                    raw.iter().take_while(|byte| **byte == 0).count()
                } else {
                    0
                };
                unpack_all(algorithm, raw.get(padding..).unwrap_or_default(), place)
            }
            None => {
                let turn = if stored.interlaced {
                    usize::try_from(start % volume.block_size()).unwrap_or(0)
                } else {
                    0
                };
                turned(raw, volume.block_size(), turn, place)
            }
        })?
        .ok_or_else(damaged)
}

/// Fills `place` from a stretch whose first block begins at `turn` and goes on at its own
/// beginning.
fn turned(raw: &[u8], block: u64, turn: usize, place: &mut [u8]) -> Option<()> {
    let block = usize::try_from(block).ok()?.min(raw.len());
    let parts = [raw.get(turn..block)?, raw.get(..turn)?, raw.get(block..)?];
    let mut done = 0;
    for part in parts {
        let count = part.len().min(place.len() - done);
        place
            .get_mut(done..done + count)?
            .copy_from_slice(part.get(..count)?);
        done += count;
    }
    (done == place.len()).then_some(())
}
