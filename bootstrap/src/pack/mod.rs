//! A directory tree becomes an image, of any format.
//!
//! Owns: which format is written and how, and that an image appears at its place
//! whole or not at all. Never: changes the tree, or what the place held before
//! the new image is complete.
//!
//! Ownership is what the process sees: inside a user namespace with subordinate
//! ids a tree's root-owned files are root's in the image too.

mod directory;
mod erofs;
pub(crate) mod ext;
pub mod output;
pub(crate) mod sif;
mod squashfs;
mod survey;
pub(crate) mod tools;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use command::cli::images::Writing;
use image::Shown;
use launcher::Error;

pub use output::Output;

/// What an image can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A squashfs file system.
    Squashfs,
    /// An EROFS file system.
    Erofs,
    /// An ext4 file system, which can be changed.
    Ext4,
    /// An ext3 file system, which can be changed.
    Ext3,
    /// A SIF file with squashfs inside.
    Sif,
    /// A directory.
    Directory,
}

impl Format {
    /// The format of this name, as `--format` takes it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "squashfs" | "sqfs" => Self::Squashfs,
            "erofs" => Self::Erofs,
            "ext4" => Self::Ext4,
            "ext3" => Self::Ext3,
            "sif" => Self::Sif,
            "dir" | "directory" | "sandbox" => Self::Directory,
            _ => return None,
        })
    }

    /// The format that the ending of a file's name stands for.
    pub fn of_name(path: &Path) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Some(Self::Directory);
        }
        Some(match path.extension().and_then(OsStr::to_str)? {
            "squashfs" | "sqfs" | "sqsh" | "simg" => Self::Squashfs,
            "erofs" => Self::Erofs,
            "ext4" => Self::Ext4,
            "ext3" => Self::Ext3,
            "sif" => Self::Sif,
            _ => return None,
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "EROFS",
            Self::Ext4 => "ext4",
            Self::Ext3 => "ext3",
            Self::Sif => "SIF",
            Self::Directory => "directory",
        })
    }
}

/// How file contents are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// The compressor, as the tools name it; `none` for none.
    pub name: String,
    /// Its level, where one is asked for.
    pub level: Option<u32>,
}

/// How a tree is packed.
#[derive(Debug, Clone)]
pub struct Packing {
    /// What is written.
    pub format: Format,
    /// Whether an image that is there is replaced.
    pub replace: bool,
    /// The compressor, unless it is the format's usual one.
    pub compression: Option<Compression>,
    /// Every file of a later time gets this one, in seconds since 1970, so that
    /// the same files give the same bytes. From `SOURCE_DATE_EPOCH`.
    pub epoch: Option<u64>,
    /// What a SIF file holds beside the root file system.
    pub objects: Vec<SifObject>,
    /// Owners and modes to give paths in the image where the tree itself cannot
    /// have them: what a user without subordinate ids unpacked.
    pub owners: Option<crate::unpack::Owners>,
}

/// An object of a SIF file that is not the root file system.
#[derive(Debug, Clone)]
pub struct SifObject {
    /// Its descriptor's fields; where it lies is decided when it is written.
    pub descriptor: ::image::sif::Descriptor,
    /// Its content.
    pub content: Vec<u8>,
}

impl Packing {
    /// What the options ask for, for an image at `place`. Says at once what is
    /// wrong, before anything that takes long.
    ///
    /// # Errors
    /// An unknown format or compressor; something is at the place already, or
    /// nothing can be written there.
    pub fn new(writing: &Writing, sandbox: bool, place: &Path) -> Result<Self, Error> {
        let format = match writing.format.as_deref() {
            _ if sandbox => Format::Directory,
            Some(name) => Format::named(name).ok_or_else(|| {
                Error::new(
                    format!("format {}", Shown::new(name)),
                    "no image format has this name",
                )
                .hint("squashfs, erofs, ext4, ext3, sif or dir")
            })?,
            None => Format::of_name(place).unwrap_or(Format::Squashfs),
        };
        let packing = Self {
            format,
            replace: writing.force,
            compression: writing
                .compression
                .as_deref()
                .map(compression)
                .transpose()?,
            epoch: epoch(std::env::var_os("SOURCE_DATE_EPOCH").as_deref())?,
            objects: Vec::new(),
            owners: None,
        };
        packing.check(place)?;
        Ok(packing)
    }

    /// Whether the format can be written as asked, and the place is free.
    ///
    /// # Errors
    /// As [`Packing::new`].
    pub fn check(&self, place: &Path) -> Result<(), Error> {
        match self.format {
            Format::Squashfs | Format::Sif => squashfs::check(self.compression.as_ref())?,
            Format::Erofs => erofs::check(self.compression.as_ref())?,
            Format::Ext4 | Format::Ext3 | Format::Directory => {
                if let Some(compression) = &self.compression {
                    if compression.name != "none" {
                        return Err(Error::new(
                            format!("compression {}", compression.name),
                            format!("{} is never compressed", self.format),
                        )
                        .hint("leave out --compression, or choose squashfs, erofs or sif"));
                    }
                }
            }
        }
        if self.format == Format::Directory {
            return directory::check(place, self.replace);
        }
        if self.replace && place.is_dir() && !place.is_symlink() {
            return Err(Error::new(
                format!("make image {}", Shown::new(place)),
                "a directory is there, which a file does not replace",
            )
            .hint("choose another name, or remove the directory first"));
        }
        output::check(place, self.replace)
    }
}

/// Packs the tree at `tree` into an image at `place`.
///
/// # Errors
/// A missing tool, with its Debian package; a full disk; what the tool says. The
/// place then holds what it held before.
pub fn pack(tree: &Path, packing: &Packing, place: &Path) -> Result<(), Error> {
    packing.check(place)?;
    if packing.format == Format::Directory {
        let tree = crate::tree::host::Directory::open(tree)?;
        return directory::write(&tree, packing, place);
    }
    let output = Output::begin(place, packing.replace)?;
    match packing.format {
        Format::Squashfs => squashfs::write(tree, packing, &output, 0)?,
        Format::Erofs => erofs::write(tree, packing, &output)?,
        Format::Ext4 | Format::Ext3 => ext::write(tree, packing, &output)?,
        _ => sif::write(sif::Root::Tree(tree), packing, &output)?,
    }
    output.finish()
}

/// Writes an image whose file system is that of another image, as it is: it is
/// neither unpacked nor packed. The formats must fit.
///
/// # Errors
/// As [`pack`].
pub fn copy_file_system(
    source: &::image::Image,
    packing: &Packing,
    place: &Path,
) -> Result<(), Error> {
    packing.check(place)?;
    let output = Output::begin(place, packing.replace)?;
    match (packing.format, source.root()) {
        (Format::Sif, _) => sif::write(sif::Root::Partition(source), packing, &output)?,
        (_, Some(root)) => {
            let length = source
                .superblock()
                .map_or(root.size, |facts| facts.bytes_used())
                .next_multiple_of(4096)
                .min(root.size);
            sif::copy_bytes(source.file(), root.offset, length, output.file(), 0)
                .map_err(|error| Error::io(format!("write image {}", Shown::new(place)), &error))?;
        }
        _ => {}
    }
    output.finish()
}

/// Unpacks an image into a directory at `place`, which appears there whole.
///
/// # Errors
/// As [`pack`].
pub fn unpack_into_place(
    source: &::image::Image,
    packing: &Packing,
    place: &Path,
) -> Result<(), Error> {
    packing.check(place)?;
    directory::write(&*crate::tree::open(source)?, packing, place)
}

/// Writes a SIF file with those objects of another that `keep` says, as they are.
///
/// # Errors
/// As [`pack`].
pub fn copy_objects(
    source: &::image::Image,
    sif: &::image::Sif,
    keep: &dyn Fn(&::image::sif::Descriptor) -> bool,
    packing: &Packing,
    place: &Path,
) -> Result<(), Error> {
    packing.check(place)?;
    let output = Output::begin(place, packing.replace)?;
    sif::rewrite(source, sif, keep, &output)?;
    output.finish()
}

/// The compressor and level of `--compression`.
fn compression(text: &str) -> Result<Compression, Error> {
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => {
            let level = level.parse().map_err(|_| {
                Error::new(
                    format!("compression {}", Shown::new(text)),
                    "the level is not a number",
                )
                .hint("as in zstd:19")
            })?;
            (name, Some(level))
        }
        None => (text, None),
    };
    Ok(Compression {
        name: name.to_owned(),
        level,
    })
}

/// The time of `SOURCE_DATE_EPOCH`, whose specification asks for a decimal number
/// of seconds since 1970 and that anything else is an error.
pub(crate) fn epoch(variable: Option<&OsStr>) -> Result<Option<u64>, Error> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.to_str()
        .and_then(|text| text.parse().ok())
        // What 32 bits of squashfs can say.
        .filter(|seconds| *seconds <= u64::from(u32::MAX))
        .map(Some)
        .ok_or_else(|| {
            Error::new(
                format!("SOURCE_DATE_EPOCH={}", Shown::new(text)),
                "not a number of seconds since 1970",
            )
            .hint("as in SOURCE_DATE_EPOCH=$(date +%s)")
        })
}
