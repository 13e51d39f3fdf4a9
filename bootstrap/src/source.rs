//! What an image is made from, told by the word that names it and by what is there.
//!
//! Owns: telling definition files, images, archives and addresses apart. Never:
//! reads more of a file than that takes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IsTerminal, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use image::{Image, Shown};
use launcher::Error;

use crate::definition;

/// The largest definition file. People write them.
const MOST_TEXT: u64 = 1 << 20;

/// What an address begins with, whose content the registries' and archives' module
/// fetches.
const ADDRESSES: [&str; 6] = [
    "docker://",
    "oci:",
    "oci-archive:",
    "docker-archive:",
    "docker-daemon:",
    "oras://",
];

/// A source.
#[derive(Debug)]
pub enum Source {
    /// A definition file, with its text.
    Definition(PathBuf, Vec<u8>),
    /// An image of any format, or a directory.
    Image(Box<Image>),
    /// A tar archive.
    Archive(File),
    /// A tar archive on standard input.
    Input,
    /// Something that a registry or an OCI archive has.
    Oci(String),
}

/// Finds out what a word names.
///
/// # Errors
/// There is nothing, or nothing that an image can be made from.
pub fn recognise(word: &OsStr) -> Result<Source, Error> {
    let step = || format!("make an image from {}", Shown::new(word));
    if word == "-" {
        if std::io::stdin().is_terminal() {
            return Err(
                Error::new(step(), "standard input is a terminal, not an archive")
                    .hint("put the archive in: < ARCHIVE"),
            );
        }
        return Ok(Source::Input);
    }
    let path = Path::new(word);
    if let Some(address) = word
        .to_str()
        .filter(|text| ADDRESSES.iter().any(|start| text.starts_with(start)) && !path.exists())
    {
        return Ok(Source::Oci(address.to_owned()));
    }
    if path.is_dir() && image::oci_layout_hint(path).is_some() {
        let mut address = OsString::from("oci:");
        address.push(word);
        return address
            .into_string()
            .map(Source::Oci)
            .map_err(|_| Error::new(step(), "its name is not UTF-8").hint("give it another name"));
    }
    // A pipe, as `<(COMMAND)` of a shell is one, can be read once only.
    if path.metadata().is_ok_and(|data| data.file_type().is_fifo()) {
        return File::open(path)
            .map(Source::Archive)
            .map_err(|error| Error::io(step(), &error));
    }
    let refused = match Image::open(path) {
        Ok(image) => return Ok(Source::Image(Box::new(image))),
        Err(error) if error.kind() == image::Kind::NotAnImage || path.is_file() => error,
        Err(error) => return Err(error.into()),
    };
    let mut file = File::open(path).map_err(|error| Error::io(step(), &error))?;
    let mut beginning = Vec::new();
    (&mut file)
        .take(MOST_TEXT + 1)
        .read_to_end(&mut beginning)
        .map_err(|error| Error::io(step(), &error))?;
    if is_archive(&beginning) {
        return File::open(path)
            .map(Source::Archive)
            .map_err(|error| Error::io(step(), &error));
    }
    if looks_like_text(&beginning) {
        if beginning.len() as u64 > MOST_TEXT {
            return Err(Error::new(step(), "it is a text of more than 1 MiB")
                .hint("a definition file is shorter; name an image or an archive"));
        }
        return Ok(Source::Definition(path.to_owned(), beginning));
    }
    Err(refused.into())
}

/// Whether it is text that somebody may have meant as a definition: whatever is
/// wrong with it is told with its line.
fn looks_like_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && (definition::is_definition(bytes) || std::str::from_utf8(bytes).is_ok())
}

/// Whether it begins like a tar archive, or like what archives are compressed by.
fn is_archive(bytes: &[u8]) -> bool {
    let compressed: [&[u8]; 5] = [
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"\x5d\0\0",
    ];
    compressed.iter().any(|magic| bytes.starts_with(magic))
        || bytes.get(257..262) == Some(b"ustar")
        || is_old_archive(bytes)
}

/// An archive from before POSIX has no magic, only a checksum; a skippable frame of
/// zstd has neither.
fn is_old_archive(bytes: &[u8]) -> bool {
    if let Some(first) = bytes.get(..4) {
        if matches!(first, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
            return true;
        }
    }
    let Some(header) = bytes.get(..512) else {
        return false;
    };
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => 32,
            _ => u64::from(*byte),
        })
        .sum();
    let field: String = header[148..156]
        .iter()
        .map(|b| char::from(*b))
        .filter(|c| c.is_digit(8))
        .collect();
    u64::from_str_radix(&field, 8).is_ok_and(|told| told == sum && sum > 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_beginning() {
        assert!(is_archive(b"\x1f\x8b\x08rest"));
        assert!(is_archive(b"\xfd7zXZ\0\0"));
        assert!(!is_archive(b"Bootstrap: scratch\n"));
        let mut posix = vec![0; 512];
        posix[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&posix));
        let mut old = vec![0; 512];
        old[..4].copy_from_slice(b"name");
        old[100..107].copy_from_slice(b"0000644");
        let sum: u32 = old.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_archive(&old));
        assert!(!is_archive(&[0; 512]));
    }
}
