//! The superblock of ext2, ext3 and ext4.
//!
//! Owns: its 1024 bytes at offset 1024 (the kernel's
//! `Documentation/filesystems/ext4/super.rst` and `fs/ext4/ext4.h`), its
//! checksum, and whether the file system is fit to be mounted without a check.
//! Never: replays a journal or reads a group descriptor.

use std::fmt;

use crate::bytes::{array, le16, le32, until_nul};
use crate::crc32c;
use crate::error::Fault;

/// Where the superblock is.
pub(crate) const OFFSET: u64 = 1024;
/// Its length.
pub(crate) const LENGTH: usize = 1024;

const MAGIC: u16 = 0xef53;
const MAGIC_AT: usize = 56;
const CHECKSUM_AT: usize = 1020;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_METADATA_CHECKSUM: u32 = 0x400;

// What the ext3 driver knew: FILETYPE, RECOVER, META_BG; SPARSE_SUPER,
// LARGE_FILE, BTREE_DIR. Anything more makes it ext4 (libblkid judges likewise).
const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;

/// Which of the family it is, judged by its features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtVersion {
    /// No journal, no newer features.
    Ext2,
    /// A journal, no newer features.
    Ext3,
    /// Features only the ext4 driver knows.
    Ext4,
}

impl fmt::Display for ExtVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
        })
    }
}

/// In what state the last user left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtState {
    /// Unmounted cleanly.
    Clean,
    /// Mounted for writing now, or not unmounted.
    NotClean,
    /// The kernel found errors in it; `e2fsck` should see it before it is written to.
    Errors,
}

/// The facts of a sound ext superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext {
    /// Which of the family.
    pub version: ExtVersion,
    /// Bytes in a block: 1 KiB to 64 KiB.
    pub block_size: u32,
    /// How many blocks the file system takes up.
    pub blocks: u64,
    /// How many of them are free.
    pub free_blocks: u64,
    /// How many inodes it has room for.
    pub inodes: u32,
    /// How it was left.
    pub state: ExtState,
    /// It has a journal.
    pub has_journal: bool,
    /// The journal must be replayed before the content can be trusted: a
    /// read-only mount of a read-only file then needs `noload`, or fails.
    pub needs_recovery: bool,
    /// The superblock has a checksum (which then was right).
    pub has_checksum: bool,
    /// The compatible, incompatible and read-only compatible feature bits.
    pub features: [u32; 3],
    /// The identifier of the volume.
    pub uuid: [u8; 16],
    /// The name of the volume, padded with NUL.
    pub volume_name: [u8; 16],
}

impl Ext {
    /// How many bytes the file system takes up.
    pub fn bytes_used(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_size))
    }

    /// The name of the volume, without padding.
    pub fn label(&self) -> &[u8] {
        until_nul(&self.volume_name)
    }
}

/// Reads the superblock from `block`; `room` is how many bytes there are for
/// the file system. `None`: this is not ext.
pub(crate) fn parse(block: &[u8], room: u64) -> Option<Result<Ext, Fault>> {
    if le16(block, MAGIC_AT) != MAGIC {
        return None;
    }
    if block.len() < LENGTH {
        return Some(Err(Fault::truncated(
            "ext format",
            OFFSET + LENGTH as u64,
            room,
        )));
    }
    Some(check(block, room))
}

fn check(block: &[u8], room: u64) -> Result<Ext, Fault> {
    let damaged = |what: &str| Fault::damaged(format!("its ext superblock is damaged: {what}"));
    let logarithm = le32(block, 24);
    if logarithm > 6 {
        return Err(damaged("impossible block size"));
    }
    let block_size = 1024_u32 << logarithm;
    // Revision 0 has no feature fields; what is there is not initialised.
    let revision = le32(block, 76);
    let features = match revision {
        0 => [0; 3],
        1 => [le32(block, 92), le32(block, 96), le32(block, 100)],
        _ => return Err(damaged(&format!("unknown revision {revision}"))),
    };
    let [compatible, incompatible, read_only] = features;

    let has_checksum = read_only & RO_COMPAT_METADATA_CHECKSUM != 0;
    if has_checksum {
        let covered = block.get(..CHECKSUM_AT).unwrap_or_default();
        if crc32c::extend(!0, covered) != le32(block, CHECKSUM_AT) {
            return Err(damaged("the checksum is wrong"));
        }
    }
    let wide = incompatible & INCOMPAT_64BIT != 0;
    let join = |low: usize, high: usize| {
        let high = if wide {
            u64::from(le32(block, high)) << 32
        } else {
            0
        };
        u64::from(le32(block, low)) | high
    };
    let blocks = join(4, 336);
    let free_blocks = join(12, 344);
    check_geometry(block, revision, block_size, blocks)?;
    let bytes = blocks.saturating_mul(u64::from(block_size));
    if bytes > room {
        return Err(Fault::truncated("ext superblock", bytes, room));
    }
    if incompatible & INCOMPAT_JOURNAL_DEVICE != 0 {
        return Err(Fault::unsupported(
            "is the journal of an ext file system, without the file system",
        ));
    }
    let has_journal = compatible & COMPAT_HAS_JOURNAL != 0;
    let state = le16(block, 58);
    Ok(Ext {
        version: if incompatible & !EXT3_INCOMPAT != 0 || read_only & !EXT3_RO_COMPAT != 0 {
            ExtVersion::Ext4
        } else if has_journal {
            ExtVersion::Ext3
        } else {
            ExtVersion::Ext2
        },
        block_size,
        blocks,
        free_blocks,
        inodes: le32(block, 0),
        state: match (state & 1 != 0, state & 2 != 0) {
            (_, true) => ExtState::Errors,
            (true, false) => ExtState::Clean,
            (false, false) => ExtState::NotClean,
        },
        has_journal,
        needs_recovery: incompatible & INCOMPAT_RECOVER != 0,
        has_checksum,
        features,
        uuid: array(block, 104),
        volume_name: array(block, 120),
    })
}

fn check_geometry(block: &[u8], revision: u32, block_size: u32, blocks: u64) -> Result<(), Fault> {
    let damaged = |what: &str| Fault::damaged(format!("its ext superblock is damaged: {what}"));
    let bits_of_a_block = block_size.saturating_mul(8);
    let first = u64::from(le32(block, 20));
    if blocks == 0 || first > 1 || first >= blocks {
        return Err(damaged("impossible number of blocks"));
    }
    let (blocks_in_group, inodes_in_group) = (le32(block, 32), le32(block, 40));
    if blocks_in_group == 0 || inodes_in_group == 0 || inodes_in_group > bits_of_a_block {
        return Err(damaged("impossible size of a block group"));
    }
    if le32(block, 0) == 0 {
        return Err(damaged("it counts no inode"));
    }
    let inode_size = u32::from(le16(block, 88));
    if revision > 0
        && (inode_size < 128 || inode_size > block_size || !inode_size.is_power_of_two())
    {
        return Err(damaged(&format!("impossible inode size {inode_size}")));
    }
    Ok(())
}
