//! EROFS, read.
//!
//! Owns: its inodes, directories, attributes and the plain layouts of content.
//! See the kernel's `fs/erofs/erofs_fs.h`.

use std::cell::RefCell;
use std::rc::Rc;

use image::Erofs;
use launcher::Error;

use crate::erofs_map::{Extent, Map, Stored};
use crate::tree::{Attribute, Content, Handle, Kind, Node, Part, Time, Tree};
use crate::{device_numbers, le16, le32, le64, Device};

const INCOMPAT_LEADING_ZEROES: u32 = 0x1;
/// More than one device, long attribute names, 48-bit addresses, metadata boxes.
const INCOMPAT_UNKNOWN: u32 = 0x8 | 0x40 | 0x80 | 0x100;
const MOST_ATTRIBUTES: usize = 4096;
const LONGEST_DIRECTORY: u64 = 1 << 30;
/// No extent is longer: pclusters hold a megabyte, and what is repeated much.
const LONGEST_EXTENT: u64 = 64 << 20;

/// An EROFS file system.
pub struct Volume<'a> {
    pub(super) device: Device<'a>,
    facts: Erofs,
    metadata: u64,
    shared_attributes: u64,
    root: u64,
    packed: u64,
    build_time: Time,
    /// The extent that was unpacked last, and where it lies.
    kept: RefCell<Option<Kept>>,
}

/// Where an extent lies, with its length, and its content.
type Kept = (u64, u64, Rc<Vec<u8>>);

/// An inode, as far as everything needs it.
pub(super) struct Inode {
    pub node: Node,
    /// How the content is stored, `EROFS_INODE_*`.
    layout: u16,
    /// The field whose meaning depends on that.
    raw: u32,
    /// Where attributes are, and how long.
    attributes_at: u64,
    attributes_length: u64,
}

impl Inode {
    /// Where what follows inode and attributes begins.
    pub fn end(&self) -> u64 {
        self.attributes_at + self.attributes_length
    }

    /// Whether the index of compressed content is the compact one.
    pub fn is_compact(&self) -> bool {
        self.layout == 3
    }
}

impl<'a> Volume<'a> {
    /// Reads what every file of it needs.
    ///
    /// # Errors
    /// It is damaged, of another kind, or cannot be read.
    pub fn open(device: Device<'a>) -> Result<Self, Error> {
        let Some(facts) = device.image.erofs() else {
            return Err(device.damaged("it holds no EROFS"));
        };
        if facts.incompatible_features & INCOMPAT_UNKNOWN != 0 {
            return Err(device.unsupported("its EROFS has features that are not known here"));
        }
        let superblock = device.bytes(1024, 128)?;
        let block = u64::from(facts.block_size);
        Ok(Self {
            device,
            facts,
            metadata: u64::from(le32(&superblock, 40)) * block,
            shared_attributes: u64::from(le32(&superblock, 44)) * block,
            root: le16(&superblock, 14).into(),
            packed: le64(&superblock, 96),
            build_time: Time {
                seconds: le64(&superblock, 24) as i64,
                nanoseconds: le32(&superblock, 32).min(999_999_999),
            },
            kept: RefCell::default(),
        })
    }

    pub(super) fn block_size(&self) -> u64 {
        self.facts.block_size.into()
    }

    pub(super) fn leading_zeroes(&self) -> bool {
        self.facts.incompatible_features & INCOMPAT_LEADING_ZEROES != 0
    }

    /// Where an inode lies, and whether it is a long one.
    ///
    /// # Errors
    /// The inode cannot be read.
    pub fn place(&self, node: &Node) -> Result<(u64, bool), Error> {
        let inode = self.of(node)?;
        let Handle::Inode(number) = node.handle else {
            return Err(self.device.damaged("a file of another tree"));
        };
        let at = number * 32 + self.metadata;
        Ok((at, inode.attributes_at - at == 64))
    }

    fn inode(&self, number: u64) -> Result<Inode, Error> {
        let at = number
            .checked_mul(32)
            .and_then(|at| at.checked_add(self.metadata))
            .ok_or_else(|| self.device.damaged("an inode's number is impossible"))?;
        let head = self.device.bytes(at, 32)?;
        let format = le16(&head, 0);
        let extended = format & 1 != 0;
        let raw = if extended {
            self.device.bytes(at, 64)?
        } else {
            head
        };
        let mode = u32::from(le16(&raw, 4));
        let kind = Kind::from_mode(mode)
            .ok_or_else(|| self.device.damaged("a file is of an impossible type"))?;
        let (size, uid, gid, links, modified, length) = if extended {
            let time = Time {
                seconds: le64(&raw, 32) as i64,
                nanoseconds: le32(&raw, 40).min(999_999_999),
            };
            (
                le64(&raw, 8),
                le32(&raw, 24),
                le32(&raw, 28),
                le32(&raw, 44),
                time,
                64,
            )
        } else {
            let (uid, gid) = (le16(&raw, 24).into(), le16(&raw, 26).into());
            (
                le32(&raw, 8).into(),
                uid,
                gid,
                le16(&raw, 6).into(),
                self.build_time,
                32,
            )
        };
        let attributes = match u64::from(le16(&raw, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let union = le32(&raw, 16);
        Ok(Inode {
            node: Node {
                kind,
                mode: mode & 0o7777,
                uid,
                gid,
                size,
                modified,
                device: if kind.is_device() {
                    device_numbers(union)
                } else {
                    (0, 0)
                },
                links,
                identity: (0, number),
                handle: Handle::Inode(number),
            },
            layout: format >> 1 & 7,
            raw: union,
            attributes_at: at + length,
            attributes_length: attributes,
        })
    }

    fn of(&self, node: &Node) -> Result<Inode, Error> {
        match node.handle {
            Handle::Inode(number) => self.inode(number),
            Handle::Name(..) => Err(self.device.damaged("a file of another tree")),
        }
    }

    fn content_of(&self, inode: Inode) -> Result<Reading<'_>, Error> {
        let size = inode.node.size;
        let block = self.block_size();
        let source = match inode.layout {
            0 => Source::Plain {
                at: u64::from(inode.raw) * block,
                tail: None,
            },
            2 => Source::Plain {
                at: u64::from(inode.raw) * block,
                tail: (size % block != 0).then(|| (size - size % block, inode.end())),
            },
            1 | 3 => Source::Compressed(Map::open(self, &inode)?),
            4 => {
                let bits = u32::from((inode.raw & 0x1f) as u16) + block.trailing_zeros();
                if inode.raw >> 6 & 0x3ff != 0 || bits > 40 {
                    return Err(self.device.unsupported("its chunks are of an unknown kind"));
                }
                let indexes = inode.raw & 0x20 != 0;
                let unit: u64 = if indexes { 8 } else { 4 };
                Source::Chunks {
                    list: inode.end().next_multiple_of(unit),
                    unit,
                    length: 1 << bits,
                }
            }
            _ => return Err(self.device.damaged("a file is stored in an impossible way")),
        };
        Ok(Reading {
            volume: self,
            size,
            at: 0,
            source,
        })
    }

    fn whole(&self, inode: Inode, most: u64) -> Result<Vec<u8>, Error> {
        if inode.node.size > most {
            return Err(self
                .device
                .damaged("a directory or link is impossibly long"));
        }
        let mut content = self.content_of(inode)?;
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            match content.next(&mut buffer)? {
                Part::End => return Ok(bytes),
                Part::Hole(length) => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    bytes.resize(bytes.len().saturating_add(length), 0);
                }
                Part::Data(count) => bytes.extend(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// What an extent holds, unpacked.
    fn extent(&self, extent: &Extent) -> Result<Rc<Vec<u8>>, Error> {
        let (at, length) = match extent.stored {
            Stored::Packed(at) => (at | 1 << 63, extent.length),
            Stored::Block { at, .. } => (at, extent.length),
        };
        if let Some((kept_at, kept_length, content)) = &*self.kept.borrow() {
            if (*kept_at, *kept_length) == (at, length) {
                return Ok(Rc::clone(content));
            }
        }
        if length > LONGEST_EXTENT {
            return Err(self.device.damaged("a piece of a file is impossibly long"));
        }
        let wanted = usize::try_from(length).unwrap_or(0);
        let content = match extent.stored {
            Stored::Packed(from) => self.packed(from, wanted)?,
            Stored::Block { .. } => super::erofs_map::unpack(self, extent)?,
        };
        if content.len() != wanted {
            return Err(self.device.damaged("a piece of a file cannot be unpacked"));
        }
        let content = Rc::new(content);
        *self.kept.borrow_mut() = Some((at, length, Rc::clone(&content)));
        Ok(content)
    }

    /// Bytes of the file that holds the ends of others.
    fn packed(&self, from: u64, length: usize) -> Result<Vec<u8>, Error> {
        let inode = self.inode(self.packed)?;
        let end = from.checked_add(length as u64);
        if self.packed == 0 || end.is_none_or(|end| end > inode.node.size) {
            return Err(self
                .device
                .damaged("a file's end is not where it should be"));
        }
        let mut reading = self.content_of(inode)?;
        reading.seek(from);
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let place = bytes.get_mut(done..).unwrap_or_default();
            done += match reading.next(place)? {
                Part::End => break,
                Part::Data(count) => count,
                Part::Hole(count) => usize::try_from(count).unwrap_or(length).min(length - done),
            };
        }
        Ok(bytes)
    }

    fn attribute(&self, raw: &[u8]) -> Option<(Attribute, usize)> {
        let (length, index) = (usize::from(*raw.first()?), *raw.get(1)?);
        let size = usize::from(le16(raw, 2));
        let name = raw.get(4..4 + length)?;
        let value = raw.get(4 + length..4 + length + size)?;
        let prefix = match index {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            _ => return None,
        };
        Some((
            ([prefix.as_bytes(), name].concat(), value.to_vec()),
            (4 + length + size).next_multiple_of(4),
        ))
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
        let damaged = || self.device.damaged("a directory contradicts itself");
        let content = self.whole(self.of(directory)?, LONGEST_DIRECTORY)?;
        let mut entries = Vec::new();
        let block = usize::try_from(self.block_size()).unwrap_or(4096);
        for block in content.chunks(block) {
            let count = usize::from(le16(block, 8)) / 12;
            for index in 0..count {
                let entry = block.get(index * 12..index * 12 + 12).ok_or_else(damaged)?;
                let start = usize::from(le16(entry, 8));
                let end = if index + 1 < count {
                    usize::from(le16(block, index * 12 + 20))
                } else {
                    block.len()
                };
                let name = block.get(start..end).ok_or_else(damaged)?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                if name != b"." && name != b".." {
                    entries.push((name.to_vec(), self.inode(le64(entry, 0))?.node));
                }
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    fn target(&self, link: &Node) -> Result<Vec<u8>, Error> {
        self.whole(self.of(link)?, 65536)
    }

    fn content<'b>(&'b self, file: &Node) -> Result<Box<dyn Content + 'b>, Error> {
        Ok(Box::new(self.content_of(self.of(file)?)?))
    }

    fn hides_holes(&self) -> bool {
        true
    }

    fn may_have_holes(&self, file: &Node) -> bool {
        self.of(file).map_or(true, |inode| inode.layout == 4)
    }

    fn attributes(&self, node: &Node) -> Result<Vec<Attribute>, Error> {
        let inode = self.of(node)?;
        let damaged = || {
            self.device
                .damaged("extended attributes contradict themselves")
        };
        let mut all = Vec::new();
        if inode.attributes_length == 0 {
            return Ok(all);
        }
        let length = usize::try_from(inode.attributes_length).unwrap_or(0);
        let area = self.device.bytes(inode.attributes_at, length)?;
        let shared = usize::from(area.get(4).copied().unwrap_or(0));
        for id in 0..shared {
            let at = self.shared_attributes + u64::from(le32(&area, 12 + id * 4)) * 4;
            let head = self.device.bytes(at, 4)?;
            let length =
                4 + usize::from(head.first().copied().unwrap_or(0)) + usize::from(le16(&head, 2));
            let raw = self.device.bytes(at, length)?;
            all.extend(self.attribute(&raw).map(|(attribute, _)| attribute));
        }
        let mut rest = area.get(12 + shared * 4..).unwrap_or_default();
        while rest.len() >= 4 && all.len() < MOST_ATTRIBUTES && le32(rest, 0) != 0 {
            let (attribute, length) = self.attribute(rest).ok_or_else(damaged)?;
            all.push(attribute);
            rest = rest.get(length..).unwrap_or_default();
        }
        all.sort();
        Ok(all)
    }
}

enum Source {
    /// One stretch, whose end may lie elsewhere: from where, and where.
    Plain {
        at: u64,
        tail: Option<(u64, u64)>,
    },
    /// Pieces of equal length.
    Chunks {
        list: u64,
        unit: u64,
        length: u64,
    },
    Compressed(Map),
}

struct Reading<'a> {
    volume: &'a Volume<'a>,
    size: u64,
    at: u64,
    source: Source,
}

impl Reading<'_> {
    fn seek(&mut self, at: u64) {
        self.at = at;
    }
}

impl Content for Reading<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Part, Error> {
        if self.at >= self.size {
            return Ok(Part::End);
        }
        let left = self.size - self.at;
        let device = &self.volume.device;
        let (place, here) = match &self.source {
            Source::Plain {
                tail: Some((from, at)),
                ..
            } if self.at >= *from => (at + self.at - from, left),
            Source::Plain { at, tail } => {
                let until = tail.map_or(self.size, |(from, _)| from);
                (at + self.at, until - self.at)
            }
            Source::Chunks { list, unit, length } => {
                let entry = device.bytes(
                    list + self.at / length * unit,
                    usize::try_from(*unit).unwrap_or(4),
                )?;
                let within = self.at % length;
                let here = (length - within).min(left);
                let address = if *unit == 8 {
                    if le16(&entry, 2) != 0 {
                        return Err(device.unsupported("it is kept on several devices"));
                    }
                    le32(&entry, 4)
                } else {
                    le32(&entry, 0)
                };
                if address == u32::MAX {
                    self.at += here;
                    return Ok(Part::Hole(here));
                }
                (u64::from(address) * self.volume.block_size() + within, here)
            }
            Source::Compressed(map) => {
                let extent = map.find(self.volume, self.at)?;
                let content = self.volume.extent(&extent)?;
                let from = usize::try_from(self.at - extent.start).unwrap_or(usize::MAX);
                let rest = content.get(from..).unwrap_or_default();
                let count = rest
                    .len()
                    .min(buffer.len())
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                if count == 0 {
                    return Err(device.damaged("a piece of a file is empty"));
                }
                for (to, from) in buffer.iter_mut().zip(rest.iter().take(count)) {
                    *to = *from;
                }
                self.at += count as u64;
                return Ok(Part::Data(count));
            }
        };
        let wanted = usize::try_from(here.min(left))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        device.read(place, buffer.get_mut(..wanted).unwrap_or_default())?;
        self.at += wanted as u64;
        Ok(Part::Data(wanted))
    }
}
