//! Files that are something else, and what to do with them.
//!
//! Owns: naming the common things people hand over instead of an image. Only a
//! refusal comes here, so it may read a little more. Never: accepts anything.

use std::io;

use crate::bytes::le16;
use crate::error::{Fault, Kind};
use crate::read::{read_array, Headed, ReadAt};

/// What helps with one sort of file.
#[derive(Clone, Copy)]
enum Help {
    /// An archive from which an image can be made.
    Unpack,
    /// A compressed file; what is in it is not known.
    Decompress,
    /// A disk or file system of a virtual machine.
    Copy,
    /// Nothing more to say.
    None,
}

const UNPACK: &str = "if it holds a root file system, make an image of it first: \
                      singularity build IMAGE.sqfs ARCHIVE";

impl Help {
    fn put(self, fault: Fault) -> Fault {
        match self {
            Self::Unpack => fault.with_hint(UNPACK),
            Self::Decompress => fault.with_hint(
                "if it is a compressed image, decompress it first; if it is an archive of a root \
                 file system, make an image of it first: singularity build IMAGE.sqfs ARCHIVE",
            ),
            Self::Copy => fault
                .with_hint("copy the files of its root file system into a directory and use that"),
            Self::None => fault,
        }
    }
}

/// Where, what is there, what that is.
const MAGICS: &[(u64, &[u8], &str, Help)] = &[
    (
        0,
        b"\x1f\x8b\x08",
        "a gzip-compressed file",
        Help::Decompress,
    ),
    (0, b"\xfd7zXZ\0", "an xz-compressed file", Help::Decompress),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "a zstd-compressed file",
        Help::Decompress,
    ),
    (
        0,
        b"\x04\x22\x4d\x18",
        "an lz4-compressed file",
        Help::Decompress,
    ),
    (0, b"BZh", "a bzip2-compressed file", Help::Decompress),
    (
        0,
        b"\x89LZO\0\r\n\x1a\n",
        "an lzop-compressed file",
        Help::Decompress,
    ),
    (0, b"LZIP", "an lzip-compressed file", Help::Decompress),
    (
        0,
        b"\x1f\x9d",
        "a file packed with compress",
        Help::Decompress,
    ),
    (0, b"PK\x03\x04", "a zip archive", Help::Unpack),
    (0, b"PK\x05\x06", "an empty zip archive", Help::None),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", Help::Unpack),
    (0, b"070701", "a cpio archive", Help::Unpack),
    (0, b"070702", "a cpio archive", Help::Unpack),
    (0, b"070707", "a cpio archive", Help::Unpack),
    (
        0,
        b"!<arch>\n",
        "an ar archive or a Debian package",
        Help::None,
    ),
    (0, b"\xed\xab\xee\xdb", "an RPM package", Help::None),
    (0, b"\x7fELF", "an ELF program or library", Help::None),
    (
        0,
        b"QFI\xfb",
        "a qcow2 disk of a virtual machine",
        Help::Copy,
    ),
    (0, b"KDMV", "a VMDK disk of a virtual machine", Help::Copy),
    (
        0,
        b"vhdxfile",
        "a VHDX disk of a virtual machine",
        Help::Copy,
    ),
    (0, b"<<< ", "a VDI disk of a virtual machine", Help::Copy),
    (0, b"LUKS\xba\xbe", "a LUKS-encrypted volume", Help::None),
    (
        0,
        b"XFSB",
        "an XFS file system, which cannot be used as an image",
        Help::Copy,
    ),
    (
        0,
        b"\x45\x3d\xcd\x28",
        "a cramfs file system, which cannot be used as an image",
        Help::Copy,
    ),
    (
        0,
        b"-rom1fs-",
        "a romfs file system, which cannot be used as an image",
        Help::Copy,
    ),
    (0, b"%PDF-", "a PDF document", Help::None),
    (0, b"\x89PNG\r\n\x1a\n", "a picture", Help::None),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", Help::None),
    (512, b"EFI PART", "a whole disk with partitions", Help::Copy),
    (32769, b"CD001", "an ISO 9660 image of a disc", Help::Copy),
    (
        65600,
        b"_BHRfS_M",
        "a btrfs file system, which cannot be used as an image",
        Help::Copy,
    ),
    (
        1040,
        b"\x10\x20\xf5\xf2",
        "an F2FS file system, which cannot be used as an image",
        Help::Copy,
    ),
];

const LONGEST_MAGIC: usize = 9;

/// Names what it is, if it is anything known.
pub(crate) fn recognise<R: ReadAt + ?Sized>(input: &Headed<'_, R>) -> io::Result<Option<Fault>> {
    let head = input.head();
    let not = |what: &str| Fault::new(Kind::NotAnImage, format!("is {what}, not an image"));
    if head.starts_with(b"#!") {
        return Ok(Some(script(head)));
    }
    for (at, magic, what, help) in MAGICS {
        let mut found = [0; LONGEST_MAGIC];
        let Some(place) = found.get_mut(..magic.len()) else {
            continue;
        };
        let got = input.read_at(place, *at)?;
        if got == magic.len() && place == *magic {
            return Ok(Some(help.put(not(what))));
        }
    }
    if is_tar_header(head) {
        return Ok(Some(Help::Unpack.put(not(tar_flavour(input)?))));
    }
    if let Some(fault) = text(head) {
        return Ok(Some(fault));
    }
    if le16(head, 510) == 0xaa55 {
        return Ok(Some(Help::Copy.put(not("a disk with a boot sector"))));
    }
    if head.iter().all(|b| *b == 0) {
        return Ok(Some(
            Fault::new(
                Kind::NotAnImage,
                "is not an image: it begins with nothing but zeros",
            )
            .with_hint("the copy or the build that should have filled it has failed"),
        ));
    }
    Ok(None)
}

/// What is said of everything else.
pub(crate) fn unknown() -> Fault {
    Fault::new(
        Kind::NotAnImage,
        "is not an image: its content is of no known format",
    )
    .with_hint("known are directories and files with squashfs, EROFS, ext3, ext4 or SIF content")
}

fn script(head: &[u8]) -> Fault {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.get(..80).unwrap_or(line);
    let shown = crate::shown::Shown::bytes(line.trim_ascii_end());
    if line.ends_with(b"run-singularity") {
        return Fault::damaged(format!(
            "has the header line of an image ({shown}) and no file system behind it"
        ))
        .with_hint("copy or build the image again");
    }
    Fault::new(
        Kind::NotAnImage,
        format!("is a script ({shown}), not an image"),
    )
    .with_hint("the image comes before the program: singularity exec IMAGE PROGRAM ARGUMENTS")
}

/// Things a download or a checkout leaves in place of the file.
fn text(head: &[u8]) -> Option<Fault> {
    let begins = |word: &[u8]| {
        head.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    let fault = |what: &str| Fault::new(Kind::NotAnImage, format!("is {what}, not an image"));
    if begins(b"version https://git-lfs") {
        return Some(fault("a Git LFS pointer").with_hint("fetch the file itself: git lfs pull"));
    }
    if begins(b"<!doctype html") || begins(b"<html") {
        return Some(fault("a web page").with_hint(
            "the download has fetched a page about the image, or an error, instead of the image",
        ));
    }
    let start = head.get(..4096).unwrap_or(head);
    // A character may be cut in two at the end of what was read.
    let cut = start.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    if cut.len().saturating_add(3) < start.len()
        || cut
            .bytes()
            .any(|b| b < b' ' && !matches!(b, b'\n' | b'\t' | b'\r' | 0x0c | 0x1b))
    {
        return None;
    }
    let definition = cut.lines().map(str::trim).any(|line| {
        let key = line.split(':').next().unwrap_or_default().trim_end();
        key.eq_ignore_ascii_case("bootstrap") && line.contains(':')
    });
    if definition {
        return Some(
            fault("a definition file")
                .with_hint("make an image of it first: singularity build IMAGE DEFINITION"),
        );
    }
    Some(fault("a text file"))
}

/// A header block of tar: its own checksum is right (POSIX pax, "ustar Interchange
/// Format"). This also knows archives older than the word "ustar".
fn is_tar_header(block: &[u8]) -> bool {
    let Some(block) = block.first_chunk::<512>() else {
        return false;
    };
    if block.first() == Some(&0) {
        return false;
    }
    let stored = octal(block.get(148..156).unwrap_or_default());
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u64::from(*byte)
            }
        })
        .sum();
    stored == Some(sum)
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii();
    let digits = digits
        .split(|b| matches!(b, 0 | b' '))
        .next()
        .filter(|d| !d.is_empty())?;
    digits.iter().try_fold(0_u64, |n, digit| match digit {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Looks at the first members for the file that tells container archives apart.
fn tar_flavour<R: ReadAt + ?Sized>(input: &R) -> io::Result<&'static str> {
    let mut at = 0_u64;
    let mut flavour = "a tar archive";
    for _ in 0..64 {
        let Some(block) = read_array::<512, R>(input, at)? else {
            break;
        };
        if !is_tar_header(&block) {
            break;
        }
        let name = crate::bytes::until_nul(block.get(..100).unwrap_or_default());
        match name.strip_prefix(b"./").unwrap_or(name) {
            // docker save writes both files since version 25.
            b"oci-layout" => flavour = "an OCI archive",
            b"manifest.json" | b"repositories" => return Ok("an archive made by docker save"),
            _ => {}
        }
        let size = octal(block.get(124..136).unwrap_or_default()).unwrap_or(0);
        let next = crate::bytes::round_up(size, 512)
            .checked_add(512)
            .and_then(|n| at.checked_add(n));
        match next {
            Some(next) if next < input.size() => at = next,
            _ => break,
        }
    }
    Ok(flavour)
}
