//! squashfs 4.0, read.
//!
//! Owns: its tables, inodes, directories and blocks. See the kernel's
//! `fs/squashfs/squashfs_fs.h` and `Documentation/filesystems/squashfs.rst`.

use std::sync::Arc;

use image::{Compressor, Squashfs};
use launcher::Error;

use crate::decompress::{decompress, unpack_all, Algorithm};
use crate::kept::{Kept, Known};
use crate::tree::{
    Attribute, Content, Handle, Kind, Measure, Name, Node, Part, Served, Time, Tree,
};
use crate::{device_numbers, le16, le32, le64, Device};

/// Metadata is stored in blocks of this many bytes before compression.
const METADATA: usize = 8192;
/// How many blocks of metadata are kept unpacked.
const KEPT: usize = 1024;
/// Of how many files it is known where their blocks lie.
const KEPT_FILES: usize = 4096;
const NONE: u32 = u32::MAX;
const MOST_ENTRIES: usize = 1 << 24;

type Block = (Arc<Vec<u8>>, u64);

/// A squashfs file system.
pub struct Volume<'a> {
    device: Device<'a>,
    facts: Squashfs,
    algorithm: Algorithm,
    root: u64,
    inodes: u64,
    directories: u64,
    ids: Vec<u32>,
    fragments: Vec<u64>,
    fragment_count: u32,
    /// Where attributes are, where their list is, how many there are.
    attributes: Option<(u64, Vec<u64>, u32)>,
    cache: Known<Block>,
    /// Blocks of data that were unpacked last, by where they lie.
    unpacked: Kept,
    /// Where the blocks of files lie.
    files: Known<Arc<Blocks>>,
}

/// A place in a stream of metadata.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    block: u64,
    offset: usize,
}

/// What an inode says beyond what every file has.
struct Inode {
    node: Node,
    body: Body,
    attributes: u32,
    /// Whether the file has holes.
    sparse: bool,
}

enum Body {
    Directory {
        start: u32,
        offset: u16,
        size: u32,
    },
    File {
        start: u64,
        fragment: u32,
        offset: u32,
        /// Where the list of blocks begins.
        list: Cursor,
    },
    Link(Vec<u8>),
    Other,
}

impl<'a> Volume<'a> {
    /// Reads what every file of it needs.
    ///
    /// # Errors
    /// It is damaged, of another kind, or cannot be read.
    pub fn open(device: Device<'a>) -> Result<Self, Error> {
        let Some(facts) = device.image.squashfs() else {
            return Err(device.damaged("it holds no squashfs"));
        };
        let superblock = device.bytes(0, 96)?;
        let algorithm = match facts.compressor {
            Compressor::Gzip => Algorithm::Zlib,
            Compressor::Lzma => Algorithm::Lzma,
            Compressor::Lzo => Algorithm::Lzo,
            Compressor::Xz => Algorithm::Xz,
            Compressor::Lz4 => Algorithm::Lz4,
            Compressor::Zstd => Algorithm::Zstd,
        };
        let mut volume = Self {
            device,
            facts,
            algorithm,
            root: le64(&superblock, 32),
            inodes: le64(&superblock, 64),
            directories: le64(&superblock, 72),
            ids: Vec::new(),
            fragments: Vec::new(),
            fragment_count: le32(&superblock, 16),
            attributes: None,
            cache: Known::new(KEPT),
            unpacked: Kept::default(),
            files: Known::new(KEPT_FILES),
        };
        let ids = usize::from(facts.ids);
        let blocks = volume.pointers(le64(&superblock, 48), (ids * 4).div_ceil(METADATA))?;
        for (index, block) in blocks.iter().enumerate() {
            let count = (ids - index * 2048).min(2048);
            let mut cursor = Cursor {
                block: *block,
                offset: 0,
            };
            let raw = volume.take(&mut cursor, count * 4)?;
            volume.ids.extend(raw.chunks_exact(4).map(|id| le32(id, 0)));
        }
        let count = usize::try_from(volume.fragment_count).unwrap_or(usize::MAX);
        if count > 0 {
            volume.fragments = volume.pointers(le64(&superblock, 80), count.div_ceil(512))?;
        }
        let table = le64(&superblock, 56);
        if table != u64::MAX {
            let head = device.bytes(table, 16)?;
            let count = le32(&head, 8);
            let blocks = usize::try_from(count).unwrap_or(usize::MAX).div_ceil(512);
            let list = volume.pointers(table + 16, blocks)?;
            volume.attributes = Some((le64(&head, 0), list, count));
        }
        Ok(volume)
    }

    fn pointers(&self, at: u64, count: usize) -> Result<Vec<u64>, Error> {
        let raw = self.device.bytes(at, count.saturating_mul(8))?;
        Ok(raw
            .chunks_exact(8)
            .map(|pointer| le64(pointer, 0))
            .collect())
    }

    /// A block of metadata, unpacked, and where the next one begins.
    fn metadata(&self, at: u64) -> Result<Block, Error> {
        self.cache.get_or(at, || self.unpack_metadata(at))
    }

    fn unpack_metadata(&self, at: u64) -> Result<Block, Error> {
        // As much as one can have, and at the end of the image what is left.
        let room = self.device.size.saturating_sub(at).min(METADATA as u64 + 2);
        let room = usize::try_from(room).unwrap_or(0);
        let (length, content) = self
            .device
            .with_bytes(at, room, |raw| {
                let head = le16(raw, 0);
                let length = usize::from(head & 0x7fff);
                let raw = raw.get(2..2 + length)?;
                let content = if head & 0x8000 != 0 {
                    Some(raw.to_vec())
                } else {
                    decompress(self.algorithm, raw, METADATA)
                };
                Some((length, content?))
            })?
            .ok_or_else(|| {
                self.device
                    .damaged("a block of metadata cannot be unpacked")
            })?;
        Ok((Arc::new(content), at + 2 + length as u64))
    }

    /// Reads on in a stream of metadata.
    fn take(&self, cursor: &mut Cursor, length: usize) -> Result<Vec<u8>, Error> {
        // Sizes of metadata are bounded by what the image has room for, unpacked.
        let mut bytes = Vec::with_capacity(length.min(1 << 20));
        while bytes.len() < length {
            let (content, next) = self.metadata(cursor.block)?;
            let rest = content.get(cursor.offset..).unwrap_or_default();
            let wanted = rest.len().min(length - bytes.len());
            if wanted == 0 {
                if cursor.offset > content.len() || content.is_empty() {
                    return Err(self.device.damaged("metadata ends too soon"));
                }
                *cursor = Cursor {
                    block: next,
                    offset: 0,
                };
                continue;
            }
            bytes.extend(rest.get(..wanted).unwrap_or_default());
            cursor.offset += wanted;
        }
        Ok(bytes)
    }

    fn id(&self, index: u16) -> Result<u32, Error> {
        self.ids
            .get(usize::from(index))
            .copied()
            .ok_or_else(|| self.device.damaged("a file's owner is not in the table"))
    }

    fn inode(&self, reference: u64) -> Result<Inode, Error> {
        let mut cursor = Cursor {
            block: self.inodes.saturating_add(reference >> 16),
            offset: usize::from((reference & 0xffff) as u16),
        };
        let head = self.take(&mut cursor, 16)?;
        let number = le16(&head, 0);
        let kind = kind_of(number)
            .ok_or_else(|| self.device.damaged("a file is of an impossible type"))?;
        let mut node = Node {
            kind,
            mode: u32::from(le16(&head, 2)) & 0o7777,
            uid: self.id(le16(&head, 4))?,
            gid: self.id(le16(&head, 6))?,
            size: 0,
            modified: Time {
                seconds: le32(&head, 8).into(),
                nanoseconds: 0,
            },
            device: (0, 0),
            links: 1,
            identity: (0, le32(&head, 12).into()),
            handle: Handle::Inode(reference),
        };
        let mut attributes = NONE;
        let mut sparse = false;
        let body = match number {
            1 => {
                let raw = self.take(&mut cursor, 16)?;
                node.links = le32(&raw, 4);
                node.size = le16(&raw, 8).into();
                Body::Directory {
                    start: le32(&raw, 0),
                    size: le16(&raw, 8).into(),
                    offset: le16(&raw, 10),
                }
            }
            8 => {
                let raw = self.take(&mut cursor, 24)?;
                node.links = le32(&raw, 0);
                node.size = le32(&raw, 4).into();
                attributes = le32(&raw, 20);
                Body::Directory {
                    start: le32(&raw, 8),
                    size: le32(&raw, 4),
                    offset: le16(&raw, 18),
                }
            }
            2 => {
                let raw = self.take(&mut cursor, 16)?;
                node.size = le32(&raw, 12).into();
                Body::File {
                    start: le32(&raw, 0).into(),
                    fragment: le32(&raw, 4),
                    offset: le32(&raw, 8),
                    list: cursor,
                }
            }
            9 => {
                let raw = self.take(&mut cursor, 40)?;
                node.size = le64(&raw, 8);
                sparse = le64(&raw, 16) != 0;
                node.links = le32(&raw, 24);
                attributes = le32(&raw, 36);
                Body::File {
                    start: le64(&raw, 0),
                    fragment: le32(&raw, 28),
                    offset: le32(&raw, 32),
                    list: cursor,
                }
            }
            3 | 10 => {
                let raw = self.take(&mut cursor, 8)?;
                node.links = le32(&raw, 0);
                let length = usize::try_from(le32(&raw, 4)).unwrap_or(usize::MAX);
                if length > 65536 {
                    return Err(self.device.damaged("a link is impossibly long"));
                }
                node.size = length as u64;
                let text = self.take(&mut cursor, length)?;
                if number == 10 {
                    attributes = le32(&self.take(&mut cursor, 4)?, 0);
                }
                Body::Link(text)
            }
            4 | 5 | 11 | 12 => {
                let raw = self.take(&mut cursor, 8)?;
                node.links = le32(&raw, 0);
                node.device = device_numbers(le32(&raw, 4));
                if number > 7 {
                    attributes = le32(&self.take(&mut cursor, 4)?, 0);
                }
                Body::Other
            }
            _ => {
                let raw = self.take(&mut cursor, 4)?;
                node.links = le32(&raw, 0);
                if number > 7 {
                    attributes = le32(&self.take(&mut cursor, 4)?, 0);
                }
                Body::Other
            }
        };
        Ok(Inode {
            node,
            body,
            attributes,
            sparse,
        })
    }

    fn number(&self, node: &Node) -> Result<u64, Error> {
        match node.handle {
            Handle::Inode(reference) => Ok(reference),
            Handle::Name(..) => Err(self.device.damaged("a file of another tree")),
        }
    }

    fn of(&self, node: &Node) -> Result<Inode, Error> {
        self.inode(self.number(node)?)
    }

    /// A block of data: `size` is its length, with the bit that says that it is
    /// not compressed.
    fn data(&self, at: u64, size: u32, most: usize) -> Result<Vec<u8>, Error> {
        let length = usize::try_from(size & 0xff_ffff).unwrap_or(0);
        if size & 1 << 24 != 0 {
            return self.device.bytes(at, length);
        }
        let unpack = |raw: &[u8]| decompress(self.algorithm, raw, most);
        self.device
            .with_bytes(at, length, unpack)?
            .ok_or_else(|| self.device.damaged("a block of data cannot be unpacked"))
    }

    fn fragment(&self, index: u32) -> Result<Arc<Vec<u8>>, Error> {
        let damaged = || self.device.damaged("a file's end is not in the table");
        if index >= self.fragment_count {
            return Err(damaged());
        }
        let nth = usize::try_from(index).unwrap_or(0);
        let block = self.fragments.get(nth / 512).ok_or_else(damaged)?;
        let mut cursor = Cursor {
            block: *block,
            offset: nth % 512 * 16,
        };
        let raw = self.take(&mut cursor, 16)?;
        self.kept(le64(&raw, 0), le32(&raw, 8))
    }

    /// A block of data, unpacked, of those that are kept a while.
    fn kept(&self, at: u64, size: u32) -> Result<Arc<Vec<u8>>, Error> {
        if let Some(found) = self.unpacked.get((at, 0)) {
            return Ok(found);
        }
        let content = Arc::new(self.data(at, size, self.block_size())?);
        self.unpacked.put((at, 0), &content);
        Ok(content)
    }

    fn block_size(&self) -> usize {
        usize::try_from(self.facts.block_size).unwrap_or(1 << 17)
    }
}

impl Tree for Volume<'_> {
    fn root(&self) -> Result<Node, Error> {
        let root = self.inode(self.root)?.node;
        if root.kind != Kind::Directory {
            return Err(self.device.damaged("its top is no directory"));
        }
        Ok(root)
    }

    fn entries(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, Error> {
        let entry = |name: Name| Ok((name.name, self.inode(name.number)?.node));
        self.names(self.number(directory)?)?
            .into_iter()
            .map(entry)
            .collect()
    }

    fn target(&self, link: &Node) -> Result<Vec<u8>, Error> {
        match self.of(link)?.body {
            Body::Link(text) => Ok(text),
            _ => Err(self.device.damaged("something is no link after all")),
        }
    }

    fn content<'b>(&'b self, file: &Node) -> Result<Box<dyn Content + 'b>, Error> {
        Ok(Box::new(Reading {
            volume: self,
            blocks: self.blocks(self.number(file)?)?,
            at: 0,
        }))
    }

    fn may_have_holes(&self, file: &Node) -> bool {
        self.of(file).map_or(true, |inode| inode.sparse)
    }

    fn attributes(&self, node: &Node) -> Result<Vec<Attribute>, Error> {
        let index = self.of(node)?.attributes;
        let damaged = || {
            self.device
                .damaged("extended attributes contradict themselves")
        };
        let Some((start, blocks, count)) = self.attributes.as_ref().filter(|_| index != NONE)
        else {
            return Ok(Vec::new());
        };
        if index >= *count {
            return Err(damaged());
        }
        let nth = usize::try_from(index).unwrap_or(0);
        let mut cursor = Cursor {
            block: *blocks.get(nth / 512).ok_or_else(damaged)?,
            offset: nth % 512 * 16,
        };
        let raw = self.take(&mut cursor, 16)?;
        let at = |reference: u64| Cursor {
            block: start.saturating_add(reference >> 16),
            offset: usize::from((reference & 0xffff) as u16),
        };
        let mut cursor = at(le64(&raw, 0));
        let mut all = Vec::new();
        for _ in 0..le32(&raw, 8).min(4096) {
            let head = self.take(&mut cursor, 4)?;
            let (kind, length) = (le16(&head, 0), usize::from(le16(&head, 2)));
            let name = self.take(&mut cursor, length)?;
            let mut value = self.value(&mut cursor)?;
            if kind & 0x100 != 0 {
                // It is kept elsewhere, where other files share it.
                value = self.value(&mut at(le64(&value, 0)))?;
            }
            let prefix = match kind & 0xff {
                0 => "user.",
                1 => "trusted.",
                2 => "security.",
                _ => continue,
            };
            all.push(([prefix.as_bytes(), &name].concat(), value));
        }
        all.sort();
        Ok(all)
    }
}

impl Volume<'_> {
    fn value(&self, cursor: &mut Cursor) -> Result<Vec<u8>, Error> {
        let length = le32(&self.take(cursor, 4)?, 0);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= 65536)
            .ok_or_else(|| {
                self.device
                    .damaged("extended attributes contradict themselves")
            })?;
        self.take(cursor, length)
    }
}

impl Served for Volume<'_> {
    fn top(&self) -> u64 {
        self.root
    }

    fn node(&self, number: u64) -> Result<Node, Error> {
        Ok(self.inode(number)?.node)
    }

    fn names(&self, directory: u64) -> Result<Vec<Name>, Error> {
        let Body::Directory {
            start,
            offset,
            size,
        } = self.inode(directory)?.body
        else {
            return Err(self.device.damaged("something is no directory after all"));
        };
        let mut cursor = Cursor {
            block: self.directories.saturating_add(start.into()),
            offset: offset.into(),
        };
        let mut names = Vec::new();
        // The size counts three bytes for `.` and `..`, which are not there.
        let mut left = usize::try_from(size).unwrap_or(0).saturating_sub(3);
        while left >= 12 {
            let head = self.take(&mut cursor, 12)?;
            left -= 12;
            let block = u64::from(le32(&head, 4));
            for _ in 0..=le32(&head, 0) {
                let raw = self.take(&mut cursor, 8)?;
                let length = usize::from(le16(&raw, 6)) + 1;
                let name = self.take(&mut cursor, length)?;
                left = left
                    .checked_sub(8 + length)
                    .filter(|_| names.len() < MOST_ENTRIES)
                    .ok_or_else(|| self.device.damaged("a directory contradicts itself"))?;
                names.push(Name {
                    name,
                    number: block << 16 | u64::from(le16(&raw, 0)),
                    // It is only a hint; the inode tells.
                    kind: kind_of(le16(&raw, 4)).unwrap_or(Kind::File),
                });
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    fn read_at(&self, file: u64, from: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let blocks = self.blocks(file)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = from.saturating_add(done as u64);
            if at >= blocks.size {
                break;
            }
            done += self.read_some(&blocks, at, rest)?;
        }
        Ok(done)
    }

    fn has_attributes(&self) -> bool {
        self.attributes.is_some()
    }

    fn measure(&self) -> Measure {
        Measure {
            bytes: self.facts.bytes_used,
            files: self.facts.inodes.into(),
        }
    }
}

/// Where the content of a file lies.
#[derive(Debug)]
struct Blocks {
    size: u64,
    /// Of each block: where, and the word that says how long it is and whether packed.
    list: Vec<(u64, u32)>,
    fragment: u32,
    offset: usize,
}

impl Volume<'_> {
    fn blocks(&self, file: u64) -> Result<Arc<Blocks>, Error> {
        let find = || Ok(Arc::new(self.blocks_of(self.inode(file)?)?));
        self.files.get_or(file, find)
    }

    fn blocks_of(&self, inode: Inode) -> Result<Blocks, Error> {
        let Body::File {
            start,
            fragment,
            offset,
            list,
        } = inode.body
        else {
            return Err(self.device.damaged("something is no file after all"));
        };
        let (size, unit) = (inode.node.size, self.block_size() as u64);
        let count = if fragment == NONE {
            size.div_ceil(unit)
        } else {
            size / unit
        };
        // Each has its word in the image.
        if count.saturating_mul(4) > self.device.size.saturating_mul(METADATA as u64) {
            return Err(self.device.damaged("a file is impossibly long"));
        }
        let (mut list_at, mut at) = (list, start);
        let mut list = Vec::new();
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        while left > 0 {
            let part = left.min(METADATA / 4);
            for word in self.take(&mut list_at, part * 4)?.chunks_exact(4) {
                let word = le32(word, 0);
                list.push((at, word));
                at = at.saturating_add(u64::from(word & 0xff_ffff));
            }
            left -= part;
        }
        Ok(Blocks {
            size,
            list,
            fragment,
            offset: usize::try_from(offset).unwrap_or(usize::MAX),
        })
    }

    /// Reads at least a byte of what is in one block; `at` is before the end.
    fn read_some(&self, blocks: &Blocks, at: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let short = || self.device.damaged("a block of data is too short");
        let unit = self.block_size() as u64;
        let within = usize::try_from(at % unit).map_err(|_| short())?;
        let length =
            usize::try_from((blocks.size - at).min(unit - at % unit)).map_err(|_| short())?;
        let wanted = length.min(buffer.len());
        let place = buffer.get_mut(..wanted).ok_or_else(short)?;
        let index = usize::try_from(at / unit).unwrap_or(usize::MAX);
        let (content, from) = match blocks.list.get(index) {
            Some((_, 0)) => {
                place.fill(0);
                return Ok(wanted);
            }
            Some((start, word)) if word & 1 << 24 != 0 => {
                // As it is: into its place at once.
                if within + wanted > usize::try_from(word & 0xff_ffff).unwrap_or(0) {
                    return Err(short());
                }
                self.device
                    .read(start.saturating_add(within as u64), place)?;
                return Ok(wanted);
            }
            Some((start, word)) if wanted == length && within == 0 => {
                // All of it, by one who keeps it: the kernel.
                let packed = usize::try_from(word & 0xff_ffff).unwrap_or(0);
                let unpack = |raw: &[u8]| unpack_all(self.algorithm, raw, place);
                return match self.device.with_bytes(*start, packed, unpack)? {
                    Some(()) => Ok(wanted),
                    None => Err(self.device.damaged("a block of data cannot be unpacked")),
                };
            }
            Some((start, word)) => (self.kept(*start, *word)?, within),
            None => (
                self.fragment(blocks.fragment)?,
                blocks.offset.saturating_add(within),
            ),
        };
        let part = from
            .checked_add(wanted)
            .and_then(|end| content.get(from..end))
            .ok_or_else(|| match index < blocks.list.len() {
                true => short(),
                false => self
                    .device
                    .damaged("a file's end is not where it should be"),
            })?;
        place.copy_from_slice(part);
        Ok(wanted)
    }
}

/// The types of inodes, short and long; directories name the short ones.
fn kind_of(number: u16) -> Option<Kind> {
    Some(match number {
        1 | 8 => Kind::Directory,
        2 | 9 => Kind::File,
        3 | 10 => Kind::Link,
        4 | 11 => Kind::Block,
        5 | 12 => Kind::Character,
        6 | 13 => Kind::Pipe,
        7 | 14 => Kind::Socket,
        _ => return None,
    })
}

struct Reading<'a> {
    volume: &'a Volume<'a>,
    blocks: Arc<Blocks>,
    at: u64,
}

impl Content for Reading<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Part, Error> {
        let Blocks { size, list, .. } = &*self.blocks;
        if self.at >= *size {
            return Ok(Part::End);
        }
        let unit = self.volume.block_size() as u64;
        let block = usize::try_from(self.at / unit).unwrap_or(usize::MAX);
        if list.get(block).is_some_and(|(_, word)| *word == 0) {
            let length = (size - self.at).min(unit - self.at % unit);
            self.at += length;
            return Ok(Part::Hole(length));
        }
        let count = self.volume.read_some(&self.blocks, self.at, buffer)?;
        self.at += count as u64;
        Ok(Part::Data(count))
    }
}
