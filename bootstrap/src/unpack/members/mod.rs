//! The members of a tar archive, one after the other, from a stream.
//!
//! Owns: what says more about a member than its header: GNU's long names, the
//! extended headers of pax, and all four notations of sparse files. Numbers in
//! headers are the `tar` crate's to read; its own reader of extended headers takes
//! a line break in a name or an attribute for the end of the record, which is why
//! this module is here. Never: trusts a length, or writes anything.
//!
//! The formats are described in POSIX (pax, "ustar Interchange Format") and in the
//! manual of GNU tar, "Tar Internals".

mod extension;
mod sparse;

use std::io::{self, Read};

use tar::{EntryType, Header};

use self::extension::Extension;
use self::sparse::{check_map, pairs};
use crate::tree::{Attribute, Time};

/// The unit of tar.
const BLOCK: u64 = 512;

/// The longest extended header or name that is read. Linux stops at 4 KiB for a
/// name and 64 KiB for an attribute.
const MOST_EXTENSION: u64 = 4 << 20;

/// The most pieces of a sparse file.
const MOST_PIECES: usize = 1 << 20;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A regular file.
    File,
    /// Another name for a member before this one.
    HardLink,
    /// A symbolic link.
    Link,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Pipe,
}

/// A member of an archive, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub sort: Sort,
    /// Its name, as it stands in the archive.
    pub name: Vec<u8>,
    /// The text of a symbolic link, the other name of a hard link.
    pub link: Vec<u8>,
    /// The lower twelve bits of the mode.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content changed last.
    pub modified: Time,
    /// A device's numbers.
    pub device: (u32, u32),
    /// Extended attributes.
    pub attributes: Vec<Attribute>,
    /// The size of the file when written out.
    pub size: u64,
    /// Of a sparse file: where the pieces that are stored belong, and their
    /// lengths, in order.
    pub pieces: Option<Vec<(u64, u64)>>,
    /// Where in the stream its content begins.
    pub position: u64,
}

/// Reads the members; as a [`Read`], the content of the one that came last.
#[derive(Debug)]
pub struct Members<R> {
    reader: R,
    /// Bytes read so far.
    position: u64,
    /// Bytes of content that were not read yet.
    left: u64,
    /// Bytes behind the content, up to the next block.
    padding: u64,
    ended: bool,
    any: bool,
    global: Extension,
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl<R: Read> Members<R> {
    /// Reads an archive from its beginning; `reader` yields it uncompressed.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            position: 0,
            left: 0,
            padding: 0,
            ended: false,
            any: false,
            global: Extension::default(),
        }
    }

    /// The next member. What was not read of the content before is skipped.
    ///
    /// # Errors
    /// The stream's own; `UnexpectedEof` where it stops in the middle of a member;
    /// `InvalidData` where it is no archive.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let mut extension = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return if extended {
                    Err(damaged("it ends behind an extended header"))
                } else {
                    Ok(None)
                };
            };
            self.any = true;
            let size = header
                .entry_size()
                .map_err(|_| damaged("a size is wrong"))?;
            let kind = header.entry_type();
            if !matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            ) && kind.as_byte() != b'V'
            {
                let mut member = self.member(&header, &mut extension, size)?;
                if let Some(name) = long_name.filter(|_| extension.name.is_none()) {
                    member.name = name;
                }
                if let Some(link) = long_link.filter(|_| extension.link.is_none()) {
                    member.link = link;
                }
                if member.sort == Sort::File && member.name.ends_with(b"/") {
                    // As archives from before 1988 have them.
                    member.sort = Sort::Directory;
                }
                return Ok(Some(member));
            }
            extended = true;
            self.expect(size)?;
            match kind {
                EntryType::GNULongName => long_name = Some(self.long()?),
                EntryType::GNULongLink => long_link = Some(self.long()?),
                EntryType::XHeader => {
                    let text = self.whole()?;
                    extension.read(&text)?;
                }
                EntryType::XGlobalHeader => {
                    let text = self.whole()?;
                    // What it says of one file in particular is nonsense.
                    let mut read = Extension::default();
                    read.read(&text)?;
                    self.global.uid = read.uid.or(self.global.uid);
                    self.global.gid = read.gid.or(self.global.gid);
                    self.global.modified = read.modified.or(self.global.modified);
                    extension.uid = extension.uid.or(read.uid);
                    extension.gid = extension.gid.or(read.gid);
                    extension.modified = extension.modified.or(read.modified);
                    extended = false;
                }
                // A volume's name.
                _ => extended = false,
            }
        }
    }

    /// Reads to the end of the stream, behind the end of the archive.
    ///
    /// # Errors
    /// The stream's own.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop)
    }

    fn member(
        &mut self,
        header: &Header,
        extension: &mut Extension,
        size: u64,
    ) -> io::Result<Member> {
        let id = |field: &[u8], value: io::Result<u64>, what: &str| {
            if is_blank(field) {
                return Ok(0);
            }
            let number = value.map_err(|_| damaged(format!("{what} is no number")))?;
            u32::try_from(number).map_err(|_| damaged(format!("{what} is too large")))
        };
        let kind = header.entry_type();
        let sort = match kind {
            EntryType::Link => Sort::HardLink,
            EntryType::Symlink => Sort::Link,
            EntryType::Char => Sort::Character,
            EntryType::Block => Sort::Block,
            EntryType::Directory => Sort::Directory,
            EntryType::Fifo => Sort::Pipe,
            other if other.as_byte() == b'D' => Sort::Directory,
            other if other.as_byte() == b'M' => {
                return Err(damaged("it is a later volume of several"));
            }
            // POSIX: types that are not known are files.
            _ => Sort::File,
        };
        // Links, devices, directories and pipes have no content, whatever size their
        // header tells: some writers put a link's target's there.
        let stored = match kind.as_byte() {
            b'1'..=b'6' => 0,
            _ => extension.size.unwrap_or(size),
        };
        self.expect(stored)?;
        let mut size = if sort == Sort::File { stored } else { 0 };
        let mut pieces = None;
        if kind == EntryType::GNUSparse {
            let (map, real) = self.old_map(header)?;
            (pieces, size) = (Some(map), real);
        } else if sort == Sort::File && extension.sparse.is_some() {
            let sparse = std::mem::take(&mut extension.sparse);
            size = sparse
                .size
                .ok_or_else(|| damaged("a sparse file has no size"))?;
            let map = if sparse.map_in_front {
                self.map_in_front()?
            } else {
                pairs(&sparse.map)?
            };
            pieces = Some(map);
            if let Some(name) = sparse.name {
                extension.name = Some(name);
            }
        }
        if let Some(map) = &pieces {
            check_map(map, size, self.left)?;
        }
        let modified = match extension.modified {
            Some(time) => time,
            None => Time {
                seconds: modified(header)?,
                nanoseconds: 0,
            },
        };
        let device = match sort {
            Sort::Character | Sort::Block => {
                let part = |value: io::Result<Option<u32>>| {
                    value
                        .ok()
                        .flatten()
                        .ok_or_else(|| damaged("a device has no number"))
                };
                (part(header.device_major())?, part(header.device_minor())?)
            }
            _ => (0, 0),
        };
        Ok(Member {
            sort,
            name: extension
                .name
                .clone()
                .unwrap_or_else(|| header.path_bytes().into_owned()),
            link: extension.link.clone().unwrap_or_else(|| {
                header
                    .link_name_bytes()
                    .map(std::borrow::Cow::into_owned)
                    .unwrap_or_default()
            }),
            mode: header.mode().map_err(|_| damaged("a mode is no number"))? & 0o7777,
            uid: match extension.uid {
                Some(uid) => uid,
                None => id(&header.as_old().uid, header.uid(), "an owner")?,
            },
            gid: match extension.gid {
                Some(gid) => gid,
                None => id(&header.as_old().gid, header.gid(), "a group")?,
            },
            modified,
            device,
            attributes: std::mem::take(&mut extension.attributes),
            size,
            pieces,
            position: self.position,
        })
    }

    /// One header, or none at the end of the archive.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let mut length = 0;
        let bytes = header.as_mut_bytes();
        while length < bytes.len() {
            match self
                .reader
                .read(bytes.get_mut(length..).unwrap_or_default())
            {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.position += length as u64;
        let bytes = header.as_bytes();
        if length == 0 || bytes.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return if length == 0 && !self.any {
                Err(damaged("it is empty"))
            } else if length != 0 && length < bytes.len() {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(None)
            };
        }
        // Bytes 148 to 155 are the checksum, counted as spaces.
        let sum = bytes.iter().enumerate().fold(0, |sum, (at, byte)| {
            sum + u32::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        });
        match header.cksum() {
            _ if length < bytes.len() && self.any => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(right) if right == sum => Ok(Some(header)),
            _ if self.any => Err(damaged("a header's checksum is wrong")),
            _ => Err(damaged("it is not a tar archive")),
        }
    }

    fn expect(&mut self, size: u64) -> io::Result<()> {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        match self
            .position
            .checked_add(size)
            .and_then(|end| end.checked_add(BLOCK))
        {
            Some(_) => Ok(()),
            None => Err(damaged("a size is wrong")),
        }
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let whole = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(whole), &mut io::sink())?;
        self.position += skipped;
        // The padding of the last member may be missing.
        if skipped < self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// All content of an extended header.
    fn whole(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MOST_EXTENSION {
            return Err(damaged("an extended header is too large"));
        }
        let mut text = Vec::new();
        let expected = self.left;
        self.read_to_end(&mut text)?;
        if (text.len() as u64) < expected {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(text)
    }

    /// A long name, which ends with a NUL.
    fn long(&mut self) -> io::Result<Vec<u8>> {
        let mut text = self.whole()?;
        let end = text.iter().position(|byte| *byte == 0);
        text.truncate(end.unwrap_or(text.len()));
        Ok(text)
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let place = buffer.get_mut(..most).unwrap_or_default();
        if place.is_empty() {
            return Ok(0);
        }
        let length = self.reader.read(place)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

/// Some writers leave out numbers that they have nothing to say for.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, 0 | b' '))
}

/// Times before 1970 are in binary, which the crate reads without their sign.
fn modified(header: &Header) -> io::Result<i64> {
    let field = &header.as_old().mtime;
    if is_blank(field) {
        return Ok(0);
    }
    if field[0] == 0xff {
        let bytes = field.last_chunk::<8>().copied().unwrap_or_default();
        return Ok(i64::from_be_bytes(bytes));
    }
    let seconds = header.mtime().map_err(|_| damaged("a time is no number"))?;
    i64::try_from(seconds).map_err(|_| damaged("a time is too large"))
}
