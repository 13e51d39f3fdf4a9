//! The content of files.
//!
//! Owns: the plain layouts, and reading anywhere in any of them. Where compressed
//! content lies is [`super::map`]'s.

use std::sync::Arc;

use launcher::Error;

use super::map::{Extent, Map, Stored};
use super::{Inode, Volume, Window};
use crate::tree::{Content, Part};
use crate::{le16, le32};

/// No extent is longer: pclusters hold a megabyte, and what is repeated much.
pub(super) const LONGEST_EXTENT: u64 = 64 << 20;
/// Of how many files it is known where their content lies.
pub(super) const KEPT_FILES: usize = 4096;

/// Where the content of a file lies.
pub(super) struct File {
    pub size: u64,
    source: Source,
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

impl Volume<'_> {
    /// Where the content of the file of this number lies.
    pub(super) fn file(&self, number: u64) -> Result<Arc<File>, Error> {
        let find = || Ok(Arc::new(self.content_of(&self.inode(number)?)?));
        self.files.get_or(number, find)
    }

    fn content_of(&self, inode: &Inode) -> Result<File, Error> {
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
            1 | 3 => Source::Compressed(Map::open(self, inode)?),
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
        Ok(File { size, source })
    }

    /// Reads what lies together, at least a byte; `at` is before the end. Of a hole only
    /// the length is told, which may be more than there is room for.
    pub(super) fn part(
        &self,
        file: &File,
        at: u64,
        buffer: &mut [u8],
        window: &mut Window,
    ) -> Result<Part, Error> {
        let left = file.size.saturating_sub(at);
        let (place, here) = match &file.source {
            Source::Plain {
                tail: Some((from, tail)),
                ..
            } if at >= *from => (tail.saturating_add(at - from), left),
            Source::Plain { at: start, tail } => {
                let until = tail.map_or(file.size, |(from, _)| from);
                (start.saturating_add(at), until.saturating_sub(at))
            }
            Source::Chunks { list, unit, length } => {
                let entry = list.saturating_add((at / length).saturating_mul(*unit));
                let entry = window.look(self, entry, usize::try_from(*unit).unwrap_or(4))?;
                let within = at % length;
                let here = (length - within).min(left);
                let address = if *unit == 8 {
                    if le16(entry, 2) != 0 {
                        return Err(self.device.unsupported("it is kept on several devices"));
                    }
                    le32(entry, 4)
                } else {
                    le32(entry, 0)
                };
                if address == u32::MAX {
                    return Ok(Part::Hole(here));
                }
                (u64::from(address) * self.block_size() + within, here)
            }
            Source::Compressed(map) => {
                let extent = map.find(self, at, window)?;
                return self.part_of_extent(&extent, at - extent.start, left, buffer);
            }
        };
        let wanted = usize::try_from(here.min(left))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        self.device.read(place, room)?;
        Ok(Part::Data(wanted))
    }

    /// The same of an extent, from `within` it on; the file has `left` bytes there.
    fn part_of_extent(
        &self,
        extent: &Extent,
        within: u64,
        left: u64,
        buffer: &mut [u8],
    ) -> Result<Part, Error> {
        let here = extent.length.saturating_sub(within).min(left);
        let count = usize::try_from(here)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let place = match buffer.get_mut(..count) {
            Some(place) if !place.is_empty() => place,
            _ => return Err(self.device.damaged("a piece of a file is empty")),
        };
        let stored = match &extent.stored {
            Stored::Packed(from) => {
                let part = self.packed(from.saturating_add(within), place)?;
                return Ok(match part {
                    Part::Hole(length) => Part::Hole(length.min(here)),
                    part => part,
                });
            }
            Stored::Block(stored) => stored,
        };
        if let Some(at) = stored.as_it_is(extent.length) {
            self.device.read(at.saturating_add(within), place)?;
            return Ok(Part::Data(count));
        }
        if extent.length > LONGEST_EXTENT {
            return Err(self.device.damaged("a piece of a file is impossibly long"));
        }
        let length = usize::try_from(extent.length).unwrap_or(0);
        if count == length {
            // All of it is wanted, by one who keeps it: the kernel.
            super::map::unpack(self, stored, extent.start, place)?;
            return Ok(Part::Data(count));
        }
        let name = (stored.at, extent.length);
        let content = match self.unpacked.get(name) {
            Some(content) => content,
            None => {
                let mut content = vec![0; length];
                super::map::unpack(self, stored, extent.start, &mut content)?;
                let content = Arc::new(content);
                self.unpacked.put(name, &content);
                content
            }
        };
        let from = usize::try_from(within).unwrap_or(usize::MAX);
        match from
            .checked_add(count)
            .and_then(|end| content.get(from..end))
        {
            Some(part) => place.copy_from_slice(part),
            None => return Err(self.device.damaged("a piece of a file is empty")),
        }
        Ok(Part::Data(count))
    }

    /// Reads of the file that holds the ends of others.
    fn packed(&self, at: u64, buffer: &mut [u8]) -> Result<Part, Error> {
        let damaged = || {
            self.device
                .damaged("a file's end is not where it should be")
        };
        if self.packed == 0 {
            return Err(damaged());
        }
        let file = self.file(self.packed)?;
        let itself = matches!(&file.source, Source::Compressed(map) if map.has_packed_end());
        if itself || at >= file.size {
            return Err(damaged());
        }
        self.part(&file, at, buffer, &mut Window::default())
    }
}

/// A file, read from its beginning to its end.
pub(super) struct Reading<'a> {
    volume: &'a Volume<'a>,
    file: Arc<File>,
    at: u64,
    window: Window,
}

impl<'a> Reading<'a> {
    pub fn of(volume: &'a Volume<'a>, file: Arc<File>) -> Self {
        Self {
            volume,
            file,
            at: 0,
            window: Window::default(),
        }
    }
}

impl Content for Reading<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Part, Error> {
        if self.at >= self.file.size {
            return Ok(Part::End);
        }
        let part = self
            .volume
            .part(&self.file, self.at, buffer, &mut self.window)?;
        self.at += match part {
            Part::Data(count) => count as u64,
            Part::Hole(length) => length,
            Part::End => 0,
        };
        Ok(part)
    }
}
