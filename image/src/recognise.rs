//! From bytes to a format: the order in which the formats are tried.
//!
//! Owns: the header line, the places where a file system may begin, and the
//! rule that a magic number alone convinces nobody: a format is accepted when
//! its whole superblock agrees with itself and with the size of the file.
//! Never: opens anything, or knows a path.

use std::fmt;

use crate::bytes::round_up;
use crate::erofs::{self, Erofs};
use crate::error::{Fault, Kind};
use crate::ext::{self, Ext};
use crate::foreign;
use crate::read::{read_up_to, Headed, ReadAt};
use crate::sif::{self, Sif};
use crate::squashfs::{self, Squashfs};

/// A file system an image file can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSystem {
    /// squashfs 4.0.
    Squashfs,
    /// EROFS.
    Erofs,
    /// ext2, ext3 or ext4; [`Ext`] knows which.
    Ext,
}

impl FileSystem {
    /// The type to give mount(2). The ext4 driver mounts all three of its family.
    pub fn kernel_type(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Ext => "ext4",
        }
    }

    /// Whether its files can be changed in place.
    pub fn is_writable(self) -> bool {
        self == Self::Ext
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "EROFS",
            Self::Ext => "ext",
        })
    }
}

/// Where in the file a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition {
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// How many bytes belong to it: to the end of the file, or of the SIF
    /// object. The file system itself may use fewer.
    pub size: u64,
    /// What it is.
    pub filesystem: FileSystem,
}

/// A superblock that has passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Superblock {
    /// squashfs 4.0.
    Squashfs(Squashfs),
    /// EROFS.
    Erofs(Erofs),
    /// ext2, ext3 or ext4.
    Ext(Ext),
}

impl Superblock {
    /// Which file system it belongs to.
    pub fn filesystem(&self) -> FileSystem {
        match self {
            Self::Squashfs(_) => FileSystem::Squashfs,
            Self::Erofs(_) => FileSystem::Erofs,
            Self::Ext(_) => FileSystem::Ext,
        }
    }

    /// How many bytes the file system takes up.
    pub fn bytes_used(&self) -> u64 {
        match self {
            Self::Squashfs(facts) => facts.bytes_used,
            Self::Erofs(facts) => facts.bytes_used(),
            Self::Ext(facts) => facts.bytes_used(),
        }
    }
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A directory tree.
    Directory,
    /// A file with a squashfs file system.
    Squashfs(Squashfs),
    /// A file with an EROFS file system.
    Erofs(Erofs),
    /// A file with an ext2, ext3 or ext4 file system.
    Ext(Ext),
    /// A SIF file, with a file system inside.
    Sif(Sif),
}

impl Format {
    /// The superblock of the root file system; `None` for a directory.
    pub fn superblock(&self) -> Option<Superblock> {
        Some(match self {
            Self::Directory => return None,
            Self::Squashfs(facts) => Superblock::Squashfs(*facts),
            Self::Erofs(facts) => Superblock::Erofs(*facts),
            Self::Ext(facts) => Superblock::Ext(*facts),
            Self::Sif(sif) => sif.superblock,
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::Squashfs(facts) => write!(f, "squashfs ({})", facts.compressor),
            Self::Erofs(_) => f.write_str("EROFS"),
            Self::Ext(facts) => facts.version.fmt(f),
            Self::Sif(sif) => write!(f, "SIF with {}", sif.superblock.filesystem()),
        }
    }
}

/// What [`recognise`] found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// What it is.
    pub format: Format,
    /// Where the root file system is; `None` for a directory.
    pub root: Option<Partition>,
    /// The `#!` line at the beginning, without its newline.
    pub launch_line: Option<Vec<u8>>,
}

impl Recognised {
    pub(crate) fn directory() -> Self {
        Self {
            format: Format::Directory,
            root: None,
            launch_line: None,
        }
    }
}

/// The longest header line, with its newline: what Linux reads of a script
/// (`BINPRM_BUF_SIZE` is 256).
const LONGEST_LINE: usize = 255;

/// Says what the content of a file is.
///
/// This is [`crate::Image::open`] without the file: it takes anything that can
/// be read at an offset, and is what the fuzzer drives.
pub fn recognise<R: ReadAt + ?Sized>(input: &R) -> Result<Recognised, Fault> {
    let input = Headed::new(input).map_err(|e| Fault::reading(&e))?;
    let size = input.size();
    if size == 0 || input.head().is_empty() {
        return Err(Fault::new(Kind::NotAnImage, "is an empty file")
            .with_hint("the copy or the build that should have filled it has failed"));
    }
    if sif::has_magic(input.head()) {
        return sif::recognise(&input);
    }
    let line = launch_line(input.head());
    let mut flaw: Option<(Fault, FileSystem)> = None;
    for start in starts(line) {
        let Some(room) = size.checked_sub(start) else {
            continue;
        };
        match file_system_at(&input, start, room)? {
            Found::Sound(superblock) => {
                return Ok(Recognised {
                    format: match superblock {
                        Superblock::Squashfs(facts) => Format::Squashfs(facts),
                        Superblock::Erofs(facts) => Format::Erofs(facts),
                        Superblock::Ext(facts) => Format::Ext(facts),
                    },
                    root: Some(Partition {
                        offset: start,
                        size: room,
                        filesystem: superblock.filesystem(),
                    }),
                    launch_line: line.map(<[u8]>::to_vec),
                })
            }
            Found::Flawed(fault, filesystem) => {
                let _ = flaw.get_or_insert((fault, filesystem));
            }
            Found::Nothing => {}
        }
    }
    match flaw {
        // Two bytes are ext's whole magic: other content meets them by chance.
        Some((fault, FileSystem::Ext)) => Err(foreign::recognise(&input)
            .map_err(|e| Fault::reading(&e))?
            .unwrap_or(fault)),
        Some((fault, _)) => Err(fault),
        None => Err(foreign::recognise(&input)
            .map_err(|e| Fault::reading(&e))?
            .unwrap_or_else(foreign::unknown)),
    }
}

/// The `#!` line without its newline, when there is one that is short enough.
fn launch_line(head: &[u8]) -> Option<&[u8]> {
    let line = head.get(..LONGEST_LINE).unwrap_or(head);
    if !line.starts_with(b"#!") {
        return None;
    }
    let end = line.iter().position(|b| *b == b'\n')?;
    line.get(..end)
}

/// Where a file system may begin. Singularity 2 put it right behind the line;
/// padding to a sector or to a page lets a loop device or the kernel have it.
fn starts(line: Option<&[u8]>) -> impl Iterator<Item = u64> {
    let begin = line.map_or(0, |line| (line.len() as u64).saturating_add(1));
    let mut seen = None;
    [begin, round_up(begin, 512), round_up(begin, 4096)]
        .into_iter()
        .filter(move |start| seen.replace(*start) != Some(*start))
}

/// What is at one place.
pub(crate) enum Found {
    Sound(Superblock),
    Flawed(Fault, FileSystem),
    Nothing,
}

/// Tries each file system at `start`, where `room` bytes are left for it. A file
/// that satisfies two of them is what the first makes of it, always.
pub(crate) fn file_system_at<R: ReadAt + ?Sized>(
    input: &R,
    start: u64,
    room: u64,
) -> Result<Found, Fault> {
    const SECOND_KIB: usize = 1024;
    const _: () = assert!(erofs::OFFSET == SECOND_KIB as u64 && ext::OFFSET == SECOND_KIB as u64);
    let mut buf = [0; SECOND_KIB + ext::LENGTH];
    let limit = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
    let Some(wanted) = buf.get_mut(..limit) else {
        return Ok(Found::Nothing);
    };
    let got = read_up_to(input, wanted, start).map_err(|e| Fault::reading(&e))?;
    let first = buf.get(..got).unwrap_or_default();
    let second = first.get(SECOND_KIB..).unwrap_or_default();

    let tries = [
        squashfs::parse(first, room).map(|r| r.map(Superblock::Squashfs)),
        erofs::parse(input, start, room, second).map(|r| r.map(Superblock::Erofs)),
        ext::parse(second, room).map(|r| r.map(Superblock::Ext)),
    ];
    let names = [FileSystem::Squashfs, FileSystem::Erofs, FileSystem::Ext];
    let mut flaw = Found::Nothing;
    for (attempt, name) in tries.into_iter().zip(names) {
        match attempt {
            Some(Ok(superblock)) => return Ok(Found::Sound(superblock)),
            Some(Err(fault)) if matches!(flaw, Found::Nothing) => flaw = Found::Flawed(fault, name),
            _ => {}
        }
    }
    Ok(flaw)
}
