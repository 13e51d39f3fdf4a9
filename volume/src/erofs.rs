//! EROFS, read.
//!
//! Owns: its inodes, directories and attributes. See the kernel's
//! `fs/erofs/erofs_fs.h`.

mod content;
mod map;

use std::sync::Arc;

use image::Erofs;
use launcher::Error;

use crate::kept::{Kept, Known};
use crate::tree::{
    Attribute, Content, Handle, Kind, Measure, Name, Node, Part, Served, Time, Tree,
};
use crate::{device_numbers, le16, le32, le64, Device};
use content::{File, Reading};

const INCOMPAT_LEADING_ZEROES: u32 = 0x1;
const MOST_ATTRIBUTES: usize = 4096;
const LONGEST_DIRECTORY: u64 = 1 << 30;
const LONGEST_NAME: usize = 255;
/// What describes files is read in pieces of so many bytes, of which so many are kept.
const PIECE: u64 = 8192;
const KEPT_PIECES: usize = 1024;

/// An EROFS file system.
pub struct Volume<'a> {
    device: Device<'a>,
    facts: Erofs,
    metadata: u64,
    shared_attributes: u64,
    root: u64,
    packed: u64,
    build_time: Time,
    /// Pieces of what describes files, by where they lie.
    pieces: Known<Arc<Vec<u8>>>,
    /// Where the contents of files lie.
    files: Known<Arc<File>>,
    /// Extents that were unpacked last, by where they lie and how long they are.
    unpacked: Kept,
}

/// A piece of what describes files, at hand while it is looked at again and again.
#[derive(Default)]
struct Window {
    at: u64,
    piece: Option<Arc<Vec<u8>>>,
    /// What lies across two of them.
    across: Vec<u8>,
}

impl Window {
    fn look(&mut self, volume: &Volume<'_>, at: u64, length: usize) -> Result<&[u8], Error> {
        let start = at / PIECE * PIECE;
        if self.at != start || self.piece.is_none() {
            self.piece = Some(volume.piece(start)?);
            self.at = start;
        }
        let from = usize::try_from(at - start).unwrap_or(usize::MAX);
        let piece = self.piece.as_ref().map(|piece| piece.as_slice());
        if let Some(found) = piece.and_then(|piece| piece.get(from..)?.get(..length)) {
            return Ok(found);
        }
        self.across = volume.device.bytes(at, length)?;
        Ok(&self.across)
    }
}

/// An inode, as far as everything needs it.
struct Inode {
    node: Node,
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
    fn end(&self) -> u64 {
        self.attributes_at + self.attributes_length
    }

    /// Whether the index of compressed content is the compact one.
    fn is_compact(&self) -> bool {
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
        if !facts.layout_is_known() {
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
            pieces: Known::new(KEPT_PIECES),
            files: Known::new(content::KEPT_FILES),
            unpacked: Kept::default(),
        })
    }

    fn block_size(&self) -> u64 {
        self.facts.block_size.into()
    }

    fn leading_zeroes(&self) -> bool {
        self.facts.incompatible_features & INCOMPAT_LEADING_ZEROES != 0
    }

    /// Where an inode lies, and whether it is a long one.
    ///
    /// # Errors
    /// The inode cannot be read.
    pub fn place(&self, node: &Node) -> Result<(u64, bool), Error> {
        let inode = self.of(node)?;
        let at = self.number(node)? * 32 + self.metadata;
        Ok((at, inode.attributes_at - at == 64))
    }

    fn inode(&self, number: u64) -> Result<Inode, Error> {
        let at = number
            .checked_mul(32)
            .and_then(|at| at.checked_add(self.metadata))
            .ok_or_else(|| self.device.damaged("an inode's number is impossible"))?;
        let mut window = Window::default();
        let format = le16(window.look(self, at, 32)?, 0);
        let extended = format & 1 != 0;
        let raw = window.look(self, at, if extended { 64 } else { 32 })?;
        let mode = u32::from(le16(raw, 4));
        let kind = Kind::from_mode(mode)
            .ok_or_else(|| self.device.damaged("a file is of an impossible type"))?;
        let (size, uid, gid, links, modified, length) = if extended {
            let time = Time {
                seconds: le64(raw, 32) as i64,
                nanoseconds: le32(raw, 40).min(999_999_999),
            };
            (
                le64(raw, 8),
                le32(raw, 24),
                le32(raw, 28),
                le32(raw, 44),
                time,
                64,
            )
        } else {
            let (uid, gid) = (le16(raw, 24).into(), le16(raw, 26).into());
            (
                le32(raw, 8).into(),
                uid,
                gid,
                le16(raw, 6).into(),
                self.build_time,
                32,
            )
        };
        let attributes = match u64::from(le16(raw, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let union = le32(raw, 16);
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

    /// A piece of what describes files, which begins at `start`.
    fn piece(&self, start: u64) -> Result<Arc<Vec<u8>>, Error> {
        let length = self.device.size.saturating_sub(start).min(PIECE);
        let length = usize::try_from(length).unwrap_or(0);
        let read = || Ok(Arc::new(self.device.bytes(start, length)?));
        self.pieces.get_or(start, read)
    }

    fn number(&self, node: &Node) -> Result<u64, Error> {
        match node.handle {
            Handle::Inode(number) => Ok(number),
            Handle::Name(..) => Err(self.device.damaged("a file of another tree")),
        }
    }

    fn of(&self, node: &Node) -> Result<Inode, Error> {
        self.inode(self.number(node)?)
    }

    fn whole(&self, number: u64, most: u64) -> Result<Vec<u8>, Error> {
        let file = self.file(number)?;
        let size = file.size;
        self.device.whole(&mut Reading::of(self, file), size, most)
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
        let entry = |name: Name| Ok((name.name, self.inode(name.number)?.node));
        self.names(self.number(directory)?)?
            .into_iter()
            .map(entry)
            .collect()
    }

    fn target(&self, link: &Node) -> Result<Vec<u8>, Error> {
        self.whole(self.number(link)?, 65536)
    }

    fn content<'b>(&'b self, file: &Node) -> Result<Box<dyn Content + 'b>, Error> {
        let file = self.file(self.number(file)?)?;
        Ok(Box::new(Reading::of(self, file)))
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

impl Served for Volume<'_> {
    fn top(&self) -> u64 {
        self.root
    }

    fn node(&self, number: u64) -> Result<Node, Error> {
        Ok(self.inode(number)?.node)
    }

    fn names(&self, directory: u64) -> Result<Vec<Name>, Error> {
        let damaged = || self.device.damaged("a directory contradicts itself");
        if self.inode(directory)?.node.kind != Kind::Directory {
            return Err(self.device.damaged("something is no directory after all"));
        }
        let content = self.whole(directory, LONGEST_DIRECTORY)?;
        let mut names = Vec::new();
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
                if name.is_empty() || name.len() > LONGEST_NAME {
                    return Err(damaged());
                }
                if name != b"." && name != b".." {
                    names.push(Name {
                        name: name.to_vec(),
                        number: le64(entry, 0),
                        // It is only a hint; the inode tells.
                        kind: kind_of(entry.get(10).copied()).unwrap_or(Kind::File),
                    });
                }
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    fn read_at(&self, file: u64, from: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let file = self.file(file)?;
        let mut window = Window::default();
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = from.saturating_add(done as u64);
            if at >= file.size {
                break;
            }
            done += match self.part(&file, at, rest, &mut window)? {
                Part::Data(count) => count,
                Part::Hole(length) => {
                    let count = usize::try_from(length)
                        .unwrap_or(usize::MAX)
                        .min(rest.len());
                    rest.get_mut(..count).unwrap_or_default().fill(0);
                    count
                }
                Part::End => break,
            };
        }
        Ok(done)
    }

    fn has_attributes(&self) -> bool {
        true
    }

    fn measure(&self) -> Measure {
        Measure {
            bytes: self.facts.bytes_used(),
            files: self.facts.inodes,
        }
    }
}

/// `EROFS_FT_*`, what a directory says of a file.
fn kind_of(number: Option<u8>) -> Option<Kind> {
    Some(match number? {
        1 => Kind::File,
        2 => Kind::Directory,
        3 => Kind::Character,
        4 => Kind::Block,
        5 => Kind::Pipe,
        6 => Kind::Socket,
        7 => Kind::Link,
        _ => return None,
    })
}
