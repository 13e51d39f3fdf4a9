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

use std::io::{self, Read};

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use base64::Engine as _;
use tar::{EntryType, Header};

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

/// What extended headers say of a member.
#[derive(Debug, Clone, Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Time>,
    attributes: Vec<Attribute>,
    sparse: Sparse,
}

/// GNU tar's notations of sparse files in extended headers.
#[derive(Debug, Clone, Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// 1.0: the map is at the beginning of the content.
    map_in_front: bool,
    /// 0.0 and 0.1: offset, length, offset, length, …
    map: Vec<u64>,
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

    /// The map of GNU's own header, which goes on in blocks behind it.
    fn old_map(&mut self, header: &Header) -> io::Result<(Vec<(u64, u64)>, u64)> {
        let wrong = |_| damaged("a sparse file's map is wrong");
        let gnu = header
            .as_gnu()
            .ok_or_else(|| damaged("a sparse file's header is not GNU's"))?;
        let mut map = Vec::new();
        let mut take = |pieces: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let offset = piece.offset().map_err(wrong)?;
                map.push((offset, piece.length().map_err(wrong)?));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.reader.read_exact(block.as_mut_bytes())?;
            self.position += BLOCK;
            take(block.sparse())?;
            more = block.is_extended();
            blocks += 1;
            if blocks > MOST_PIECES / 21 {
                return Err(damaged("a sparse file has too many pieces"));
            }
        }
        Ok((map, gnu.real_size().map_err(wrong)?))
    }

    /// The map in decimal numbers, a line each, in front of the content.
    fn map_in_front(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut read = 0;
        let mut number = |members: &mut Self| -> io::Result<u64> {
            let mut value: u64 = 0;
            for digits in 0.. {
                let mut byte = [0];
                members.read_exact(&mut byte)?;
                read += 1;
                match byte[0] {
                    b'\n' if digits > 0 => return Ok(value),
                    digit @ b'0'..=b'9' => {
                        value = value
                            .checked_mul(10)
                            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
                            .ok_or_else(|| damaged("a sparse file's map is wrong"))?;
                    }
                    _ => break,
                }
            }
            Err(damaged("a sparse file's map is wrong"))
        };
        let count = number(self)?;
        if count > MOST_PIECES as u64 {
            return Err(damaged("a sparse file has too many pieces"));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            let offset = number(self)?;
            map.push((offset, number(self)?));
        }
        let padding: u64 = (read as u64).wrapping_neg() % BLOCK;
        if io::copy(&mut self.by_ref().take(padding), &mut io::sink())? < padding {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(map)
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

fn pairs(numbers: &[u64]) -> io::Result<Vec<(u64, u64)>> {
    if numbers.len() % 2 != 0 {
        return Err(damaged("a sparse file's map is wrong"));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

/// Pieces are in order, inside the file, and as long together as what is stored.
fn check_map(map: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0, 0_u64);
    for (offset, length) in map {
        let behind = offset.checked_add(*length).filter(|behind| *behind <= size);
        match behind {
            Some(behind) if *offset >= end => end = behind,
            _ => return Err(damaged("a sparse file's map is wrong")),
        }
        sum += length;
    }
    if sum == stored {
        Ok(())
    } else {
        Err(damaged("a sparse file's map is wrong"))
    }
}

impl Sparse {
    fn is_some(&self) -> bool {
        self.map_in_front || !self.map.is_empty() || self.size.is_some()
    }
}

impl Extension {
    /// Takes in the records `LENGTH KEY=VALUE\n`.
    fn read(&mut self, mut text: &[u8]) -> io::Result<()> {
        let wrong = || damaged("an extended header is wrong");
        while !text.is_empty() && text.iter().any(|byte| *byte != 0) {
            let space = text
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(wrong)?;
            let length: usize = text
                .get(..space)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(wrong)?;
            let record = text.get(space + 1..length).ok_or_else(wrong)?;
            text = text.get(length..).unwrap_or_default();
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(wrong)?;
            let (key, value) = record.split_at(equals);
            self.take(key, value.get(1..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || -> io::Result<u64> {
            std::str::from_utf8(value)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(|| damaged("a number in an extended header is wrong"))
        };
        let id = || u32::try_from(number()?).map_err(|_| damaged("an owner is too large"));
        match key {
            // An empty value takes back what a global header said.
            _ if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") => {}
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => self.modified = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.map_in_front = number()? == 1,
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                if self.sparse.map.len() >= 2 * MOST_PIECES {
                    return Err(damaged("a sparse file has too many pieces"));
                }
                self.sparse.map.push(number()?);
            }
            b"GNU.sparse.map" => {
                let numbers = std::str::from_utf8(value).unwrap_or_default();
                let numbers: Result<Vec<u64>, _> = numbers.split(',').map(str::parse).collect();
                self.sparse.map = numbers.map_err(|_| damaged("a sparse file's map is wrong"))?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attribute(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    // Its names are encoded as in a URL, its values in base64.
                    let value = STANDARD_NO_PAD
                        .decode(value)
                        .or_else(|_| STANDARD.decode(value));
                    let value = value.map_err(|_| damaged("an attribute is not in base64"))?;
                    self.attribute(percent_decoded(name), value);
                }
            }
        }
        Ok(())
    }

    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.attributes.retain(|(other, _)| *other != name);
        self.attributes.push((name, value));
    }
}

fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

/// Seconds with a fraction, as in `-1.25`.
fn time(text: &[u8]) -> io::Result<Time> {
    let wrong = || damaged("a time in an extended header is wrong");
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let mut nanoseconds: u32 = digits.parse().map_err(|_| wrong())?;
    let mut seconds: i64 = if whole == "-" {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    if whole.starts_with('-') && nanoseconds > 0 {
        seconds = seconds.checked_sub(1).ok_or_else(wrong)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok(Time {
        seconds,
        nanoseconds,
    })
}
