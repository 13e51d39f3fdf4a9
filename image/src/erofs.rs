//! The superblock of EROFS.
//!
//! Owns: its 128 bytes at offset 1024 (the kernel's `fs/erofs/erofs_fs.h`,
//! `struct erofs_super_block`), its checksum and the checks of
//! `erofs_read_superblock()` in `fs/erofs/super.c`. Never: reads an inode.

use std::fmt;

use crate::bytes::{array, le16, le32, le64, until_nul};
use crate::crc32c;
use crate::error::Fault;
use crate::read::{read_up_to, ReadAt};

/// Where the superblock is.
pub(crate) const OFFSET: u64 = 1024;
/// Its length without extension slots.
pub(crate) const LENGTH: usize = 128;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_CONFIGURED_COMPRESSION: u32 = 0x2;
const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
const INCOMPAT_48BIT: u32 = 0x80;
/// All bits up to the metadata box (0x100) of Linux 6.17.
const INCOMPAT_KNOWN: u32 = 0x1ff;
/// Those that package `volume` knows.
const INCOMPAT_READ: u32 = 0x37;
/// The algorithms that it has: lz4, deflate, zstd.
const ALGORITHMS_READ: u16 = 0b1101;
/// An inode number counts slots of this many bytes.
const INODE_SLOT: u64 = 32;

/// The compression algorithms an image says it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErofsAlgorithms(u16);

impl ErofsAlgorithms {
    /// Their names, in the order of the format.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        ["lz4", "lzma", "deflate", "zstd"]
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }

    /// The raw bits, some of which may have no name here.
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ErofsAlgorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for name in self.names() {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// The facts of a sound EROFS superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erofs {
    /// Bytes in a block. A kernel mounts it only up to its own page size.
    pub block_size: u32,
    /// How many blocks the file system takes up.
    pub blocks: u64,
    /// How many inodes there are.
    pub inodes: u64,
    /// When it was made, in seconds since 1970.
    pub build_time: u64,
    /// `feature_compat`.
    pub compatible_features: u32,
    /// `feature_incompat`: what a reader must know.
    pub incompatible_features: u32,
    /// The algorithms named in the superblock. Images of older tools name none
    /// and may still use lz4.
    pub algorithms: ErofsAlgorithms,
    /// Whether the superblock has a checksum (which then was right).
    pub has_checksum: bool,
    /// The identifier of the volume.
    pub uuid: [u8; 16],
    /// The name of the volume, padded with NUL.
    pub volume_name: [u8; 16],
}

impl Erofs {
    /// How many bytes the file system takes up.
    pub fn bytes_used(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_size))
    }

    /// The name of the volume, without padding.
    pub fn label(&self) -> &[u8] {
        until_nul(&self.volume_name)
    }

    /// Whether our own reader, package `volume`, knows how it is laid out: not several
    /// devices, long names of attributes, 48-bit addresses, packed metadata.
    pub fn layout_is_known(&self) -> bool {
        self.incompatible_features & !INCOMPAT_READ == 0
    }

    /// Whether that reader can unpack all that is in it: not LZMA.
    pub fn can_be_unpacked(&self) -> bool {
        self.algorithms.bits() & !ALGORITHMS_READ == 0
    }

    /// Bits of `feature_incompat` that did not exist when this was written. A
    /// kernel that does not know them either refuses the mount.
    pub fn unknown_features(&self) -> u32 {
        self.incompatible_features & !INCOMPAT_KNOWN
    }
}

/// Reads the superblock of the file system that begins at `start` in `input`
/// and may take `room` bytes; `block` is what was read at its superblock.
/// `None`: this is not EROFS.
pub(crate) fn parse<R: ReadAt + ?Sized>(
    input: &R,
    start: u64,
    room: u64,
    block: &[u8],
) -> Option<Result<Erofs, Fault>> {
    if le32(block, 0) != MAGIC {
        return None;
    }
    if block.len() < LENGTH {
        return Some(Err(Fault::truncated(
            "EROFS format",
            OFFSET + LENGTH as u64,
            room,
        )));
    }
    Some(check(input, start, room, block))
}

fn check<R: ReadAt + ?Sized>(
    input: &R,
    start: u64,
    room: u64,
    block: &[u8],
) -> Result<Erofs, Fault> {
    let damaged = |what: &str| Fault::damaged(format!("its EROFS superblock is damaged: {what}"));
    let bits = block.get(12).copied().unwrap_or(0);
    // From a sector to the largest page of any architecture Linux runs on.
    if !(9..=16).contains(&bits) {
        return Err(damaged(&format!("block size 2^{bits}")));
    }
    let block_size = 1_u64 << bits;
    let incompatible = le32(block, 80);
    let wide = incompatible & INCOMPAT_48BIT != 0;

    let low = u64::from(le32(block, 36));
    let high = if wide {
        u64::from(le16(block, 14)) << 32
    } else {
        0
    };
    let blocks = low | high;
    let bytes = blocks.saturating_mul(block_size);
    if bytes > room {
        return Err(Fault::truncated("EROFS superblock", bytes, room));
    }
    let compatible = le32(block, 8);
    let has_checksum = compatible & COMPAT_CHECKSUM != 0;
    if has_checksum {
        check_sum(input, start, block_size)?;
    }
    let devices = le16(block, 86);
    if incompatible & INCOMPAT_DEVICE_TABLE != 0 && devices > 0 {
        return Err(Fault::unsupported(format!(
            "is an EROFS image that keeps its data in {devices} other files"
        ))
        .with_hint("build it again as one file, without mkfs.erofs --blobdev"));
    }
    let root_number = if wide {
        le64(block, 112)
    } else {
        u64::from(le16(block, 14))
    };
    // A place inside the packed metadata inode is told by the top bit (Linux 6.17).
    if root_number >> 63 == 0 {
        let metadata = u64::from(le32(block, 40)).saturating_mul(block_size);
        let root = root_number
            .saturating_mul(INODE_SLOT)
            .saturating_add(metadata);
        if root >= room {
            return Err(damaged("the root directory is outside the file"));
        }
    }
    Ok(Erofs {
        block_size: 1 << bits,
        blocks,
        inodes: le64(block, 16),
        build_time: le64(block, 24).saturating_add(if wide {
            u64::from(le32(block, 108))
        } else {
            0
        }),
        compatible_features: compatible,
        incompatible_features: incompatible,
        algorithms: ErofsAlgorithms(if incompatible & INCOMPAT_CONFIGURED_COMPRESSION != 0 {
            le16(block, 84)
        } else {
            0
        }),
        has_checksum,
        uuid: array(block, 48),
        volume_name: array(block, 64),
    })
}

/// The sum runs from the superblock to the end of its block, the sum itself
/// taken as zero; blocks that end before the superblock begins count in full.
fn check_sum<R: ReadAt + ?Sized>(input: &R, start: u64, block_size: u64) -> Result<(), Fault> {
    let mut left = if block_size > OFFSET {
        block_size - OFFSET
    } else {
        block_size
    };
    let mut at = start.saturating_add(OFFSET);
    let mut piece = [0_u8; 4096];
    let mut sum = !0;
    let mut stored = None;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let Some(buf) = piece.get_mut(..want) else {
            break;
        };
        let got = read_up_to(input, buf, at).map_err(|e| Fault::reading(&e))?;
        if got < want {
            return Err(Fault::damaged("truncated: it ends inside its first block"));
        }
        if stored.is_none() {
            stored = Some(le32(buf, 4));
            if let Some(field) = buf.get_mut(4..8) {
                field.fill(0);
            }
        }
        sum = crc32c::extend(sum, buf);
        left = left.saturating_sub(got as u64);
        at = at.saturating_add(got as u64);
    }
    if stored != Some(sum) {
        return Err(Fault::damaged(
            "its EROFS superblock is damaged: the checksum is wrong",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{parse, LENGTH, MAGIC};
    use crate::crc32c;

    /// The tools here make blocks of 4096 bytes only. What the checksum covers for the
    /// other sizes is `erofs_superblock_csum_verify()` in the kernel's fs/erofs/super.c.
    #[test]
    fn the_checksum_covers_the_block_of_the_superblock_whatever_its_size() {
        for (bits, covered) in [
            (9, 512),
            (10, 1024),
            (11, 1024),
            (12, 3072),
            (14, 15360),
            (16, 64512),
        ] {
            let mut file = vec![7_u8; 1 << 17];
            let (_, rest) = file.split_at_mut(1024);
            rest[..LENGTH].fill(0);
            rest[..4].copy_from_slice(&MAGIC.to_le_bytes());
            rest[8] = 1;
            rest[12] = bits;
            rest[36] = 1;
            let sum = crc32c::extend(!0, &rest[..covered]);
            rest[4..8].copy_from_slice(&sum.to_le_bytes());
            let room = file.len() as u64;
            let facts = parse(&file[..], 0, room, &file[1024..2048])
                .unwrap()
                .unwrap();
            assert!(facts.has_checksum && facts.block_size == 1 << bits);

            file[1024 + covered - 1] ^= 1;
            assert!(parse(&file[..], 0, room, &file[1024..2048])
                .unwrap()
                .is_err());
            file[1024 + covered - 1] ^= 1;
            file[1024 + covered] ^= 1;
            assert!(parse(&file[..], 0, room, &file[1024..2048])
                .unwrap()
                .is_ok());
        }
    }
}
