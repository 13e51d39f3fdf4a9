//! ext2, ext3 and ext4, read.
//!
//! Owns: block groups, inodes, extents and block lists, directories. See the
//! kernel's `Documentation/filesystems/ext4/`. Never: replays a journal: an image
//! that needs it is refused, and who asks for an image has it checked before.

use std::collections::BTreeMap;

use image::{Ext, Image};
use launcher::Error;

use crate::tree::{Attribute, Content, Handle, Kind, Node, Part, Time, Tree};
use crate::{device_numbers, ext_attributes, le16, le32, Device};

const ROOT: u64 = 2;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// Compression, and directories that are encrypted or too new.
const INCOMPAT_UNKNOWN: u32 = !(0x2
    | 0x4
    | 0x10
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x1000
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000);

const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
const FLAG_ENCRYPTED: u32 = 0x800;

/// More pieces than this no file has; a hostile tree of extents may seem to.
const MOST_PIECES: usize = 1 << 22;
/// The longest directory that is read.
const LONGEST_DIRECTORY: u64 = 1 << 30;

/// An ext file system.
pub struct Volume<'a> {
    device: Device<'a>,
    facts: Ext,
    inode_size: u64,
    inodes_per_group: u32,
    /// First block of the inode table of each group.
    tables: Vec<u64>,
}

/// An inode as it lies on the disk.
pub struct Inode {
    /// Its number, from 1 on.
    pub number: u64,
    /// The whole of it.
    pub raw: Vec<u8>,
}

/// Where consecutive blocks of a file lie: logical → (first on disk, how many).
type Pieces = BTreeMap<u64, (u64, u64)>;

impl Inode {
    fn mode(&self) -> u32 {
        le16(&self.raw, 0).into()
    }

    fn flags(&self) -> u32 {
        le32(&self.raw, 32)
    }

    fn size(&self) -> u64 {
        u64::from(le32(&self.raw, 4)) | u64::from(le32(&self.raw, 108)) << 32
    }

    /// The 60 bytes that tell where the content is, or hold it.
    fn block(&self) -> &[u8] {
        self.raw.get(40..100).unwrap_or_default()
    }

    /// How many bytes there are beyond the first 128.
    pub fn extra_size(&self) -> usize {
        if self.raw.len() > 128 {
            usize::from(le16(&self.raw, 128))
        } else {
            0
        }
    }

    /// What follows the fixed fields: attributes.
    fn tail(&self) -> &[u8] {
        self.raw.get(128 + self.extra_size()..).unwrap_or_default()
    }

    fn modified(&self) -> Time {
        let low = i64::from(le32(&self.raw, 16) as i32);
        if self.extra_size() < 12 {
            return Time {
                seconds: low,
                nanoseconds: 0,
            };
        }
        let extra = le32(&self.raw, 136);
        Time {
            seconds: low + (i64::from(extra & 3) << 32),
            nanoseconds: (extra >> 2).min(999_999_999),
        }
    }

    fn owner(&self, low: usize, high: usize) -> u32 {
        u32::from(le16(&self.raw, low)) | u32::from(le16(&self.raw, high)) << 16
    }
}

impl<'a> Volume<'a> {
    /// Reads what every file of it needs.
    ///
    /// # Errors
    /// It is damaged, of another kind, or cannot be read.
    pub fn open(device: Device<'a>) -> Result<Self, Error> {
        let Some(facts) = device.image.ext() else {
            return Err(device.damaged("it holds no ext file system"));
        };
        if facts.needs_recovery {
            return Err(unclean(device.image));
        }
        Self::open_whatever(device, facts)
    }

    fn open_whatever(device: Device<'a>, facts: Ext) -> Result<Self, Error> {
        let superblock = device.bytes(1024, 1024)?;
        let [_, incompatible, _] = facts.features;
        if incompatible & INCOMPAT_UNKNOWN != 0 {
            return Err(
                device.unsupported("its ext file system has features that are not known here")
            );
        }
        let per_group = u64::from(le32(&superblock, 32)).max(1);
        let first = u64::from(le32(&superblock, 20));
        let inode_size = match le32(&superblock, 76) {
            0 => 128,
            _ => u64::from(le16(&superblock, 88)),
        };
        let wide = incompatible & INCOMPAT_64BIT != 0;
        let length = if wide {
            u64::from(le16(&superblock, 254)).clamp(32, 1024)
        } else {
            32
        };
        let groups = facts.blocks.saturating_sub(first).div_ceil(per_group);
        let block = u64::from(facts.block_size);
        // Each group's table lies inside the file system, which bounds their number.
        if groups.saturating_mul(length) > device.size {
            return Err(device.damaged("impossible number of block groups"));
        }
        let in_block = block / length;
        let meta_from = if incompatible & INCOMPAT_META_BG != 0 {
            u64::from(le32(&superblock, 260))
        } else {
            u64::MAX
        };
        let mut tables = Vec::new();
        for group in 0..groups {
            let nth = group / in_block;
            let at = if nth < meta_from {
                (first + 1 + nth) * block
            } else {
                // The first group of each meta group has its descriptors.
                let head = nth * in_block;
                let skip = u64::from(has_superblock(head, facts.features[2]));
                (first + head * per_group + skip) * block
            };
            let raw = device.bytes(
                at + group % in_block * length,
                usize::try_from(length).unwrap_or(32),
            )?;
            let high = if wide && length >= 64 {
                le32(&raw, 40)
            } else {
                0
            };
            tables.push(u64::from(le32(&raw, 8)) | u64::from(high) << 32);
        }
        Ok(Self {
            device,
            facts,
            inode_size,
            inodes_per_group: le32(&superblock, 40).max(1),
            tables,
        })
    }

    fn block_size(&self) -> u64 {
        self.facts.block_size.into()
    }

    /// Where in the file system an inode lies.
    pub fn place(&self, number: u64) -> Result<u64, Error> {
        let damaged = || self.device.damaged("an inode's number is impossible");
        if number == 0 || number > u64::from(self.facts.inodes) {
            return Err(damaged());
        }
        let (group, index) = (
            (number - 1) / u64::from(self.inodes_per_group),
            (number - 1) % u64::from(self.inodes_per_group),
        );
        let table = usize::try_from(group)
            .ok()
            .and_then(|group| self.tables.get(group))
            .ok_or_else(damaged)?;
        table
            .checked_mul(self.block_size())
            .and_then(|at| at.checked_add(index * self.inode_size))
            .ok_or_else(damaged)
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// There is none of this number, or it cannot be read.
    pub fn inode(&self, number: u64) -> Result<Inode, Error> {
        let length = usize::try_from(self.inode_size).unwrap_or(128);
        Ok(Inode {
            number,
            raw: self.device.bytes(self.place(number)?, length)?,
        })
    }

    fn node_of(&self, inode: &Inode) -> Result<Node, Error> {
        let kind = Kind::from_mode(inode.mode())
            .ok_or_else(|| self.device.damaged("a file is of an impossible type"))?;
        let device = if kind.is_device() {
            match le32(inode.block(), 0) {
                0 => device_numbers(le32(inode.block(), 4)),
                old => (old >> 8 & 0xff, old & 0xff),
            }
        } else {
            (0, 0)
        };
        Ok(Node {
            kind,
            mode: inode.mode() & 0o7777,
            uid: inode.owner(2, 120),
            gid: inode.owner(24, 122),
            size: inode.size(),
            modified: inode.modified(),
            device,
            links: le16(&inode.raw, 26).into(),
            identity: (0, inode.number),
            handle: Handle::Inode(inode.number),
        })
    }

    fn of(&self, node: &Node) -> Result<Inode, Error> {
        match node.handle {
            Handle::Inode(number) => self.inode(number),
            Handle::Name(..) => Err(self.device.damaged("a file of another tree")),
        }
    }

    fn pieces(&self, inode: &Inode) -> Result<Pieces, Error> {
        let mut pieces = Pieces::new();
        if inode.flags() & FLAG_ENCRYPTED != 0 {
            return Err(self.device.unsupported("it holds encrypted files"));
        }
        let mut visited = 0;
        if inode.flags() & FLAG_EXTENTS != 0 {
            self.extents(inode.block(), 0, &mut pieces, &mut visited)?;
        } else {
            let per_block = self.block_size() / 4;
            let mut logical = 0;
            for index in 0..15_usize {
                let level = u32::try_from(index).unwrap_or(0).saturating_sub(11);
                let pointer = le32(inode.block(), index * 4);
                self.indirect(
                    pointer,
                    level,
                    &mut logical,
                    per_block,
                    &mut pieces,
                    &mut visited,
                )?;
            }
        }
        Ok(pieces)
    }

    fn visit(&self, visited: &mut usize) -> Result<(), Error> {
        *visited += 1;
        if *visited > MOST_PIECES {
            return Err(self.device.damaged("a file is in impossibly many pieces"));
        }
        Ok(())
    }

    fn extents(
        &self,
        raw: &[u8],
        depth: u32,
        pieces: &mut Pieces,
        visited: &mut usize,
    ) -> Result<(), Error> {
        let damaged = || self.device.damaged("a list of extents is no such list");
        if le16(raw, 0) != 0xf30a || depth > 5 {
            return Err(damaged());
        }
        let leaf = le16(raw, 6) == 0;
        for index in 0..usize::from(le16(raw, 2)) {
            let entry = raw
                .get(12 + index * 12..24 + index * 12)
                .ok_or_else(damaged)?;
            self.visit(visited)?;
            if leaf {
                let length = le16(entry, 4);
                let start = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                // Longer ones are allocated and never written: they read as zeroes.
                if length <= 0x8000 {
                    pieces.insert(le32(entry, 0).into(), (start, length.into()));
                }
            } else {
                let block = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                let below = self.read_block(block)?;
                self.extents(&below, depth + 1, pieces, visited)?;
            }
        }
        Ok(())
    }

    fn indirect(
        &self,
        pointer: u32,
        level: u32,
        logical: &mut u64,
        per_block: u64,
        pieces: &mut Pieces,
        visited: &mut usize,
    ) -> Result<(), Error> {
        if pointer == 0 {
            *logical += per_block.pow(level);
            return Ok(());
        }
        self.visit(visited)?;
        if level == 0 {
            let block = u64::from(pointer);
            match pieces.last_entry() {
                Some(mut last)
                    if last.key() + last.get().1 == *logical
                        && last.get().0 + last.get().1 == block =>
                {
                    last.get_mut().1 += 1;
                }
                _ => {
                    pieces.insert(*logical, (block, 1));
                }
            }
            *logical += 1;
            return Ok(());
        }
        let below = self.read_block(pointer.into())?;
        for pointer in below.chunks_exact(4) {
            self.indirect(
                le32(pointer, 0),
                level - 1,
                logical,
                per_block,
                pieces,
                visited,
            )?;
        }
        Ok(())
    }

    fn read_block(&self, block: u64) -> Result<Vec<u8>, Error> {
        let at = block.saturating_mul(self.block_size());
        self.device
            .bytes(at, usize::try_from(self.block_size()).unwrap_or(4096))
    }

    /// A whole content of at most `most` bytes.
    fn whole(&self, inode: &Inode, most: u64) -> Result<Vec<u8>, Error> {
        let mut content = self.content_of(inode)?;
        self.device.whole(&mut content, inode.size(), most)
    }

    fn content_of(&self, inode: &Inode) -> Result<Reading<'_>, Error> {
        let size = inode.size();
        if inode.flags() & FLAG_INLINE != 0 {
            let mut bytes = inode.block().to_vec();
            let rest = self.raw_attributes(inode)?;
            if let Some((_, value)) = rest.iter().find(|(name, _)| name == b"system.data") {
                bytes.extend(value);
            }
            bytes.resize(usize::try_from(size).unwrap_or(0).min(1 << 20), 0);
            return Ok(Reading {
                volume: self,
                size,
                at: 0,
                pieces: Pieces::new(),
                inline: Some(bytes),
            });
        }
        Ok(Reading {
            volume: self,
            size,
            at: 0,
            pieces: self.pieces(inode)?,
            inline: None,
        })
    }

    fn raw_attributes(&self, inode: &Inode) -> Result<Vec<Attribute>, Error> {
        let block = u64::from(le32(&inode.raw, 104)) | u64::from(le16(&inode.raw, 118)) << 32;
        let block = match block {
            0 => Vec::new(),
            block => self.read_block(block)?,
        };
        let value_of = |number: u32| {
            let inode = self.inode(number.into())?;
            self.whole(&inode, 1 << 20)
        };
        ext_attributes::parse(inode.tail(), &block, &value_of)?.ok_or_else(|| {
            self.device
                .damaged("extended attributes contradict themselves")
        })
    }

    /// What a directory's content says.
    fn parse_directory(&self, raw: &[u8], into: &mut Vec<(Vec<u8>, u64)>) -> Result<(), Error> {
        let mut rest = raw;
        while rest.len() >= 8 {
            let length = match usize::from(le16(rest, 4)) {
                0 | 0xffff => 65536,
                length => length,
            };
            let name_length = usize::from(rest.get(6).copied().unwrap_or(0));
            let entry = rest
                .get(..length.min(rest.len()))
                .filter(|_| length >= 8 && length % 4 == 0 && length <= rest.len())
                .ok_or_else(|| self.device.damaged("a directory contradicts itself"))?;
            if le32(entry, 0) != 0 {
                let name = entry
                    .get(8..8 + name_length)
                    .ok_or_else(|| self.device.damaged("a directory contradicts itself"))?;
                if name != b"." && name != b".." {
                    into.push((name.to_vec(), le32(entry, 0).into()));
                }
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    /// The names in a directory with the numbers of their inodes.
    pub fn names(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, u64)>, Error> {
        let mut names = Vec::new();
        let content = self.whole(inode, LONGEST_DIRECTORY)?;
        if inode.flags() & FLAG_INLINE != 0 {
            // Four bytes for the parent, then entries, in two stretches.
            let (head, tail) = content.split_at(content.len().min(60));
            self.parse_directory(head.get(4..).unwrap_or_default(), &mut names)?;
            self.parse_directory(tail, &mut names)?;
        } else {
            let block = usize::try_from(self.block_size()).unwrap_or(4096);
            for block in content.chunks(block) {
                self.parse_directory(block, &mut names)?;
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Whether a block group has a copy of the superblock.
fn has_superblock(group: u64, read_only_features: u32) -> bool {
    const SPARSE: u32 = 1;
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power = power.saturating_mul(base);
        }
        power == group
    };
    group <= 1 || read_only_features & SPARSE == 0 || power_of(3) || power_of(5) || power_of(7)
}

/// An image whose last writer did not end as it should.
pub fn unclean(image: &Image) -> Error {
    Error::new(
        format!("read image {}", image::Shown::new(image.path())),
        "its last writer was interrupted, and the journal has not been replayed",
    )
    .hint("singularity exec -w IMAGE true, or e2fsck -p IMAGE, puts it in order")
}

impl Tree for Volume<'_> {
    fn root(&self) -> Result<Node, Error> {
        let root = self.node_of(&self.inode(ROOT)?)?;
        if root.kind != Kind::Directory {
            return Err(self.device.damaged("its top is no directory"));
        }
        Ok(root)
    }

    fn entries(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, Error> {
        let inode = self.of(directory)?;
        self.names(&inode)?
            .into_iter()
            .map(|(name, number)| Ok((name, self.node_of(&self.inode(number)?)?)))
            .collect()
    }

    fn target(&self, link: &Node) -> Result<Vec<u8>, Error> {
        let inode = self.of(link)?;
        if inode.size() < 60 && inode.flags() & (FLAG_EXTENTS | FLAG_INLINE) == 0 {
            let length = usize::try_from(inode.size()).unwrap_or(0);
            return Ok(inode.block().get(..length).unwrap_or_default().to_vec());
        }
        self.whole(&inode, 65536)
    }

    fn content<'b>(&'b self, file: &Node) -> Result<Box<dyn Content + 'b>, Error> {
        Ok(Box::new(self.content_of(&self.of(file)?)?))
    }

    fn may_have_holes(&self, file: &Node) -> bool {
        let Ok(inode) = self.of(file) else {
            return true;
        };
        let Ok(pieces) = self.pieces(&inode) else {
            return true;
        };
        let blocks: u64 = pieces.values().map(|(_, count)| count).sum();
        blocks.saturating_mul(self.block_size()) < inode.size()
    }

    fn attributes(&self, node: &Node) -> Result<Vec<Attribute>, Error> {
        let mut all = self.raw_attributes(&self.of(node)?)?;
        all.retain(|(name, _)| name != b"system.data");
        all.sort();
        Ok(all)
    }
}

struct Reading<'a> {
    volume: &'a Volume<'a>,
    size: u64,
    at: u64,
    pieces: Pieces,
    inline: Option<Vec<u8>>,
}

impl Content for Reading<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Part, Error> {
        if self.at >= self.size {
            return Ok(Part::End);
        }
        let left = self.size - self.at;
        if let Some(inline) = &self.inline {
            let rest = usize::try_from(self.at)
                .ok()
                .and_then(|at| inline.get(at..))
                .unwrap_or_default();
            if rest.is_empty() {
                self.at = self.size;
                return Ok(Part::Hole(left));
            }
            let count = rest.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(rest) {
                *to = *from;
            }
            self.at += count as u64;
            return Ok(Part::Data(count));
        }
        let block = self.volume.block_size();
        let logical = self.at / block;
        let piece = self
            .pieces
            .range(..=logical)
            .next_back()
            .map(|(start, (place, count))| (*start, *place, *count))
            .filter(|(start, _, count)| logical < start + count);
        let Some((start, place, count)) = piece else {
            let next = self
                .pieces
                .range(logical..)
                .next()
                .map(|(start, _)| start * block);
            let hole = next.unwrap_or(self.size).min(self.size) - self.at;
            self.at += hole;
            return Ok(Part::Hole(hole));
        };
        let here = (start + count) * block - self.at;
        let wanted = here.min(left).min(buffer.len() as u64);
        let at = place
            .checked_mul(block)
            .and_then(|at| at.checked_add(self.at - start * block))
            .ok_or_else(|| self.volume.device.damaged("a block's number is impossible"))?;
        let wanted = usize::try_from(wanted).unwrap_or(buffer.len());
        let place = buffer.get_mut(..wanted).unwrap_or_default();
        self.volume.device.read(at, place)?;
        self.at += wanted as u64;
        Ok(Part::Data(wanted))
    }
}
