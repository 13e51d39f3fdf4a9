//! Just enough of ELF to say why a program does not start.
//!
//! Owns: the architecture, the interpreter and the needed libraries of a
//! program or library (System V ABI, `elf.h`), of either class and byte order.
//! Never: loads, relocates, or follows a name. All tables are bounded, and only
//! what is asked for is read: the header, the program headers, the dynamic
//! section and the strings it names.

mod symbols;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;

use crate::architecture::Architecture;
use crate::bytes::{be16, be32, be64, le16, le32, le64, until_nul};
use crate::read::{read_up_to, FileAt, ReadAt, Windows};

pub use symbols::{symbols, Symbols};

/// More program headers than this are not believed. Real programs have a dozen.
const MOST_SEGMENTS: u16 = 512;
/// More entries in the dynamic section than this are not read.
const MOST_DYNAMIC: u64 = 8192;
/// More needed libraries than this are not listed.
const MOST_NEEDED: usize = 1024;
/// The longest name of an interpreter or library that is taken.
const LONGEST_NAME: usize = 4096;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PF_X: u32 = 1;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

/// 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// 32 bits.
    Elf32,
    /// 64 bits.
    Elf64,
}

/// What an ELF file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// 32 or 64 bits.
    pub class: Class,
    /// Whether its numbers are little-endian.
    pub little_endian: bool,
    /// `e_machine`.
    pub machine: u16,
    /// The name of that.
    pub architecture: Architecture,
    /// `e_type`: 2 is a program at a fixed place, 3 a library or a program that can be moved.
    pub kind: u16,
    /// Whether it has a dynamic section.
    pub is_dynamic: bool,
    /// The program loader it asks the kernel for.
    pub interpreter: Option<OsString>,
    /// The libraries it asks the loader for.
    pub needed: Vec<OsString>,
    /// The name a library gives itself.
    pub soname: Option<OsString>,
    /// Where it wants its libraries looked for: `DT_RUNPATH`, or else `DT_RPATH`.
    pub runpath: Option<OsString>,
    /// Whether that is a `DT_RPATH`, which comes before `LD_LIBRARY_PATH` and counts for
    /// the libraries of its libraries too (ld.so(8)).
    pub is_rpath: bool,
}

/// Why a file could not be described.
#[derive(Debug)]
pub enum Error {
    /// It does not begin as an ELF file.
    NotElf,
    /// It does, and then contradicts itself.
    Damaged(&'static str),
    /// It could not be read.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("is not an ELF file"),
            Self::Damaged(what) => write!(f, "is a damaged ELF file: {what}"),
            Self::Io(error) => write!(f, "cannot be read: {}", crate::error::words(error)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Describes an open file, without moving its offset.
pub fn describe_file(file: &File) -> Result<Elf, Error> {
    describe(&Windows::new(&FileAt::new(file)?))
}

/// The first bytes of the file, and how numbers are written in it.
fn describe_layout<R: ReadAt + ?Sized>(input: &R) -> Result<([u8; 64], Layout), Error> {
    let mut header = [0; 64];
    let got = read_up_to(input, &mut header, 0)?;
    if got < 20 || !header.starts_with(b"\x7fELF") {
        return Err(Error::NotElf);
    }
    let layout = Layout {
        wide: match header.get(4) {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(Error::Damaged("unknown class")),
        },
        little: match header.get(5) {
            Some(1) => true,
            Some(2) => false,
            _ => return Err(Error::Damaged("unknown byte order")),
        },
    };
    if got < if layout.wide { 64 } else { 52 } {
        return Err(Error::Damaged("truncated"));
    }
    Ok((header, layout))
}

/// Describes anything that can be read at an offset.
pub fn describe<R: ReadAt + ?Sized>(input: &R) -> Result<Elf, Error> {
    let (header, layout) = describe_layout(input)?;
    let machine = layout.half(&header, 18);
    let segments = segments(input, layout, &header)?;
    let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC);
    let mut elf = Elf {
        class: if layout.wide {
            Class::Elf64
        } else {
            Class::Elf32
        },
        little_endian: layout.little,
        machine,
        architecture: Architecture::from_elf(machine, layout.wide, layout.little),
        kind: layout.half(&header, 16),
        is_dynamic: dynamic.is_some(),
        interpreter: None,
        needed: Vec::new(),
        soname: None,
        runpath: None,
        is_rpath: false,
    };
    if let Some(interpreter) = segments.iter().find(|s| s.kind == PT_INTERP) {
        let name = text(input, interpreter.offset, interpreter.file_size)?;
        elf.interpreter = Some(name.ok_or(Error::Damaged("the interpreter has no name"))?);
    }
    if let Some(dynamic) = dynamic {
        read_dynamic(input, layout, &segments, *dynamic, &mut elf)?;
    }
    Ok(elf)
}

/// How numbers are written in this file.
#[derive(Clone, Copy)]
struct Layout {
    wide: bool,
    little: bool,
}

impl Layout {
    fn half(self, bytes: &[u8], at: usize) -> u16 {
        if self.little {
            le16(bytes, at)
        } else {
            be16(bytes, at)
        }
    }

    fn word(self, bytes: &[u8], at: usize) -> u32 {
        if self.little {
            le32(bytes, at)
        } else {
            be32(bytes, at)
        }
    }

    /// An address: as wide as the class.
    fn address(self, bytes: &[u8], at: usize) -> u64 {
        match (self.wide, self.little) {
            (true, true) => le64(bytes, at),
            (true, false) => be64(bytes, at),
            (false, _) => u64::from(self.word(bytes, at)),
        }
    }
}

/// One program header.
#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
}

fn segments<R: ReadAt + ?Sized>(
    input: &R,
    layout: Layout,
    header: &[u8; 64],
) -> Result<Vec<Segment>, Error> {
    let (table, size_at, length) = if layout.wide {
        (layout.address(header, 32), 54, 56)
    } else {
        (layout.address(header, 28), 42, 32)
    };
    let count = layout.half(header, size_at + 2);
    // An object file or a core of the kernel's making may have none.
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(layout.half(header, size_at)) != length {
        return Err(Error::Damaged("unknown size of program headers"));
    }
    if count > MOST_SEGMENTS {
        return Err(Error::Damaged("too many program headers"));
    }
    let mut raw = vec![0; usize::from(count).saturating_mul(length)];
    if read_up_to(input, &mut raw, table)? != raw.len() {
        return Err(Error::Damaged("the program headers are outside the file"));
    }
    Ok(raw
        .chunks_exact(length)
        .map(|raw| {
            let (offset, address, size) = if layout.wide { (8, 16, 32) } else { (4, 8, 16) };
            Segment {
                kind: layout.word(raw, 0),
                flags: layout.word(raw, if layout.wide { 4 } else { 24 }),
                offset: layout.address(raw, offset),
                address: layout.address(raw, address),
                file_size: layout.address(raw, size),
            }
        })
        .collect())
}

/// What the dynamic section says, before its strings are looked up.
#[derive(Default)]
struct Dynamic {
    strings: Option<u64>,
    strings_size: Option<u64>,
    symbols: Option<u64>,
    gnu_hash: Option<u64>,
    needed: Vec<u64>,
    soname: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
}

fn read_dynamic<R: ReadAt + ?Sized>(
    input: &R,
    layout: Layout,
    segments: &[Segment],
    section: Segment,
    elf: &mut Elf,
) -> Result<(), Error> {
    let dynamic = dynamic_entries(input, layout, section)?;
    let wanted = dynamic
        .needed
        .iter()
        .chain(&dynamic.soname)
        .chain(&dynamic.rpath)
        .chain(&dynamic.runpath);
    if wanted.count() == 0 {
        return Ok(());
    }
    let address = dynamic
        .strings
        .ok_or(Error::Damaged("it names libraries and has no strings"))?;
    let (start, limit) = segments
        .iter()
        .filter(|s| s.kind == PT_LOAD)
        .find_map(|s| {
            let inside = address
                .checked_sub(s.address)
                .filter(|inside| *inside < s.file_size)?;
            Some((s.offset.checked_add(inside)?, s.file_size - inside))
        })
        .ok_or(Error::Damaged("its strings are outside the file"))?;
    let limit = dynamic.strings_size.unwrap_or(limit).min(limit);
    let string = |at: u64| -> Result<OsString, Error> {
        let left = limit
            .checked_sub(at)
            .ok_or(Error::Damaged("a name is outside the strings"))?;
        let place = start
            .checked_add(at)
            .ok_or(Error::Damaged("a name is outside the file"))?;
        text(input, place, left)?.ok_or(Error::Damaged("a library has no name"))
    };
    for at in &dynamic.needed {
        elf.needed.push(string(*at)?);
    }
    elf.soname = dynamic.soname.map(string).transpose()?;
    // An empty search path is allowed, and means none.
    elf.runpath = dynamic
        .runpath
        .or(dynamic.rpath)
        .and_then(|at| string(at).ok());
    elf.is_rpath = dynamic.runpath.is_none() && elf.runpath.is_some();
    Ok(())
}

fn dynamic_entries<R: ReadAt + ?Sized>(
    input: &R,
    layout: Layout,
    section: Segment,
) -> Result<Dynamic, Error> {
    let (entry, half) = if layout.wide { (16_usize, 8) } else { (8, 4) };
    let most = MOST_DYNAMIC.saturating_mul(entry as u64);
    let mut left = section.file_size.min(most);
    let mut at = section.offset;
    let mut found = Dynamic::default();
    let mut piece = [0; 4096];
    while left >= entry as u64 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let Some(buf) = piece.get_mut(..want) else {
            break;
        };
        let got = read_up_to(input, buf, at)?;
        for raw in buf.get(..got).unwrap_or_default().chunks_exact(entry) {
            let value = layout.address(raw, half);
            match layout.address(raw, 0) {
                DT_NULL => return Ok(found),
                DT_NEEDED if found.needed.len() < MOST_NEEDED => found.needed.push(value),
                DT_STRTAB => found.strings = Some(value),
                DT_SYMTAB => found.symbols = Some(value),
                DT_GNU_HASH => found.gnu_hash = Some(value),
                DT_STRSZ => found.strings_size = Some(value),
                DT_SONAME => found.soname = Some(value),
                DT_RPATH => found.rpath = Some(value),
                DT_RUNPATH => found.runpath = Some(value),
                _ => {}
            }
        }
        if got < want {
            return Err(Error::Damaged("the dynamic section is outside the file"));
        }
        left = left.saturating_sub(got as u64);
        at = at.saturating_add(got as u64);
    }
    Ok(found)
}

/// Where in the file the data of a program is: offset and length of each segment that
/// is loaded and not executed; of all of them, where the linker has put constants and
/// code into one.
///
/// # Errors
/// As [`describe`].
pub fn data<R: ReadAt + ?Sized>(input: &R) -> Result<Vec<(u64, u64)>, Error> {
    let (header, layout) = describe_layout(input)?;
    let segments = segments(input, layout, &header)?;
    let loaded = || segments.iter().filter(|s| s.kind == PT_LOAD);
    let mixed = loaded().next().is_some_and(|s| s.flags & PF_X != 0);
    Ok(loaded()
        .filter(|s| mixed || s.flags & PF_X == 0)
        .map(|s| (s.offset, s.file_size))
        .collect())
}

/// Where in the file the names of a dynamic program's symbols and libraries are: offset
/// and length; `None` if it has none.
///
/// # Errors
/// As [`describe`].
pub fn dynamic_names<R: ReadAt + ?Sized>(input: &R) -> Result<Option<(u64, u64)>, Error> {
    let (header, layout) = describe_layout(input)?;
    let segments = segments(input, layout, &header)?;
    let Some(section) = segments.iter().find(|s| s.kind == PT_DYNAMIC) else {
        return Ok(None);
    };
    let dynamic = dynamic_entries(input, layout, *section)?;
    let (Some(address), Some(size)) = (dynamic.strings, dynamic.strings_size) else {
        return Ok(None);
    };
    let place = segments.iter().filter(|s| s.kind == PT_LOAD).find_map(|s| {
        let inside = address.checked_sub(s.address)?;
        let left = s.file_size.checked_sub(inside)?;
        Some((s.offset.checked_add(inside)?, size.min(left)))
    });
    Ok(place)
}

/// The NUL-terminated text at a place, at most `room` bytes; `None` if it is empty
/// or does not end.
fn text<R: ReadAt + ?Sized>(input: &R, at: u64, room: u64) -> Result<Option<OsString>, Error> {
    let mut bytes = Vec::new();
    let mut piece = [0; 256];
    let room = usize::try_from(room)
        .unwrap_or(usize::MAX)
        .min(LONGEST_NAME);
    while bytes.len() < room {
        let want = (room - bytes.len()).min(piece.len());
        let Some(buf) = piece.get_mut(..want) else {
            break;
        };
        let got = read_up_to(input, buf, at.saturating_add(bytes.len() as u64))?;
        let buf = buf.get(..got).unwrap_or_default();
        let part = until_nul(buf);
        bytes.extend_from_slice(part);
        if part.len() < buf.len() {
            return Ok((!bytes.is_empty()).then(|| OsString::from_vec(bytes)));
        }
        if got < want {
            break;
        }
    }
    Ok(None)
}
