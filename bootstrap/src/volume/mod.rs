//! The file systems inside image files, read without mounting them.
//!
//! Owns: squashfs, EROFS and ext as [`Tree`]s. No root, no FUSE and no kernel
//! driver is needed, and the owners are what the image says, whoever reads.
//! Never: writes to an image, or trusts a number in one: images come from
//! anywhere, so every place and length is checked, and every loop is bounded.

mod decompress;
mod erofs;
mod erofs_map;
pub(crate) mod erofs_patch;
pub(crate) mod ext;
mod ext_attributes;
pub(crate) mod ext_patch;
mod squashfs;

use std::fs::File;
use std::os::unix::fs::FileExt;

use image::{FileSystem, Image, Shown};
use launcher::Error;

use crate::tree::Tree;

/// The part of an image file that holds its file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device<'a> {
    image: &'a Image,
    file: &'a File,
    offset: u64,
    size: u64,
}

impl<'a> Device<'a> {
    /// Reads exactly the bytes at `at`.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let end = at.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(self.damaged("something lies beyond its end"));
        }
        self.file
            .read_exact_at(buffer, self.offset + at)
            .map_err(|error| {
                Error::io(
                    format!("read image {}", Shown::new(self.image.path())),
                    &error,
                )
            })
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>, Error> {
        if at
            .checked_add(length as u64)
            .is_none_or(|end| end > self.size)
        {
            return Err(self.damaged("something lies beyond its end"));
        }
        let mut buffer = vec![0; length];
        self.read(at, &mut buffer)?;
        Ok(buffer)
    }

    fn damaged(&self, what: &str) -> Error {
        Error::new(
            format!("read image {}", Shown::new(self.image.path())),
            format!("it is damaged: {what}"),
        )
        .hint("copy or build the image again")
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::new(
            format!("read image {}", Shown::new(self.image.path())),
            what,
        )
        .hint("build the image again in another format")
    }
}

/// The tree of an opened image, whatever its format.
///
/// # Errors
/// A damaged image, or one of a kind that cannot be read.
pub fn open(image: &Image) -> Result<Box<dyn Tree + '_>, Error> {
    let Some(root) = image.root() else {
        let fd = rustix::fs::openat(
            image.fd(),
            ".",
            rustix::fs::OFlags::RDONLY
                | rustix::fs::OFlags::DIRECTORY
                | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| {
            crate::failure::call(
                format!("open directory {}", Shown::new(image.path())),
                errno,
            )
        })?;
        return Ok(Box::new(crate::tree::host::Directory::from_fd(
            fd,
            image.path(),
        )));
    };
    let device = Device {
        image,
        file: image.file(),
        offset: root.offset,
        size: root.size,
    };
    Ok(match root.filesystem {
        FileSystem::Squashfs => Box::new(squashfs::Volume::open(device)?),
        FileSystem::Erofs => Box::new(erofs::Volume::open(device)?),
        FileSystem::Ext => Box::new(ext::Volume::open(device)?),
    })
}

// Numbers in the byte order of all three formats; zero outside of the slice.

fn le16(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_le_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// An encoded device number, as Linux writes it to disks: `new_encode_dev()` in
/// `include/linux/kdev_t.h`.
fn device_numbers(encoded: u32) -> (u32, u32) {
    (
        (encoded & 0xf_ff00) >> 8,
        (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00),
    )
}
