//! The superblock of squashfs 4.0.
//!
//! Owns: its 96 bytes (the kernel's `fs/squashfs/squashfs_fs.h`,
//! `struct squashfs_super_block`) and the checks the kernel makes of them when
//! it mounts (`fs/squashfs/super.c`). Never: reads a table or an inode.

use std::fmt;

use crate::bytes::{be16, le16, le32, le64};
use crate::error::Fault;

/// The length of the superblock, which begins the file system.
pub(crate) const LENGTH: usize = 96;

const MAGIC: [u8; 4] = *b"hsqs";
const MAGIC_BIG_ENDIAN: [u8; 4] = *b"sqsh";
/// A table that is not there.
const NONE: u64 = u64::MAX;
/// Metadata is stored in blocks of this many bytes before compression.
const METADATA_BLOCK: u64 = 8192;

/// How the blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the name it prints")]
pub enum Compressor {
    Gzip,
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

impl Compressor {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Gzip,
            2 => Self::Lzma,
            3 => Self::Lzo,
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            _ => return None,
        })
    }

    /// The name `mksquashfs -comp` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether Linux has ever been able to mount it. It has no decompressor for
    /// the old lzma format (`fs/squashfs/decompressor.c`).
    pub fn kernel_can_mount(self) -> bool {
        self != Self::Lzma
    }
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The facts of a sound squashfs superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Squashfs {
    /// How blocks are compressed.
    pub compressor: Compressor,
    /// Bytes in a data block: 4 KiB to 1 MiB, a power of two.
    pub block_size: u32,
    /// How many inodes there are.
    pub inodes: u32,
    /// When it was made, in seconds since 1970.
    pub mkfs_time: u32,
    /// How many bytes the file system takes up.
    pub bytes_used: u64,
    /// How many different user and group ids its files have.
    pub ids: u16,
    /// The raw flags, `SQUASHFS_NOI` and its neighbours.
    pub flags: u16,
}

/// Reads the superblock at the start of `block`; `room` is how many bytes there
/// are for the file system. `None`: this is not squashfs.
pub(crate) fn parse(block: &[u8], room: u64) -> Option<Result<Squashfs, Fault>> {
    let magic = block.first_chunk::<4>()?;
    if *magic == MAGIC {
        if block.len() < LENGTH {
            return Some(Err(Fault::truncated(
                "squashfs format",
                LENGTH as u64,
                room,
            )));
        }
        return Some(check(block, room));
    }
    // "sqsh" alone could begin any text; a version in its place makes it an old image.
    (*magic == MAGIC_BIG_ENDIAN && matches!(be16(block, 28), 1..=4)).then(|| {
        Err(
            Fault::unsupported("is a big-endian squashfs image, which Linux no longer reads")
                .with_hint("unpack it with unsquashfs and build it again"),
        )
    })
}

fn check(block: &[u8], room: u64) -> Result<Squashfs, Fault> {
    let (major, minor) = (le16(block, 28), le16(block, 30));
    if (major, minor) != (4, 0) {
        return Err(Fault::unsupported(format!(
            "is a squashfs image of format {major}.{minor}; only 4.0 is known"
        ))
        .with_hint("unpack it with unsquashfs and build it again"));
    }
    let number = le16(block, 20);
    let compressor = Compressor::from_number(number).ok_or_else(|| {
        Fault::unsupported(format!(
            "its squashfs compressor has the unknown number {number}"
        ))
    })?;
    let block_size = le32(block, 12);
    let block_log = u32::from(le16(block, 22));
    if !(12..=20).contains(&block_log) || 1_u32.checked_shl(block_log) != Some(block_size) {
        return Err(Fault::damaged(format!(
            "its squashfs superblock is damaged: block size {block_size}, logarithm {block_log}"
        )));
    }
    let bytes_used = le64(block, 40);
    if bytes_used > room {
        return Err(Fault::truncated("squashfs superblock", bytes_used, room));
    }
    check_tables(block, bytes_used)?;
    Ok(Squashfs {
        compressor,
        block_size,
        inodes: le32(block, 4),
        mkfs_time: le32(block, 8),
        bytes_used,
        ids: le16(block, 26),
        flags: le16(block, 24),
    })
}

/// The tables lie in the order inodes, directories, fragments, export, ids,
/// extended attributes, and all of them before the end.
fn check_tables(block: &[u8], bytes_used: u64) -> Result<(), Fault> {
    let damaged =
        |what: &str| Fault::damaged(format!("its squashfs superblock is damaged: {what}"));
    if le32(block, 4) == 0 {
        return Err(damaged("it counts no inode"));
    }
    if le16(block, 26) == 0 {
        return Err(damaged("it counts no owner"));
    }
    let (inodes, directories) = (le64(block, 64), le64(block, 72));
    if inodes < LENGTH as u64 || inodes >= directories {
        return Err(damaged("the inode table is out of place"));
    }
    let fragments = if le32(block, 16) == 0 {
        NONE
    } else {
        le64(block, 80)
    };
    let mut before = directories;
    for (name, start, optional) in [
        ("directory", directories, false),
        ("fragment", fragments, true),
        ("export", le64(block, 88), true),
        ("id", le64(block, 48), false),
        ("attribute", le64(block, 56), true),
    ] {
        if optional && start == NONE {
            continue;
        }
        if start < before || start >= bytes_used {
            return Err(damaged(&format!("the {name} table is out of place")));
        }
        before = start;
    }
    // The high 48 bits are a place in the inode table, the low 16 one in the block there.
    let root = le64(block, 32);
    let at = inodes.saturating_add(root >> 16);
    if at >= directories || root & 0xffff >= METADATA_BLOCK {
        return Err(damaged("the root directory is outside the inode table"));
    }
    Ok(())
}
