//! The file systems inside image files, read without mounting them.
//!
//! Owns: squashfs, EROFS and ext as [`Tree`]s. No root, no FUSE and no kernel
//! driver is needed, and the owners are what the image says, whoever reads.
//! Never: writes to an image, or trusts a number in one: images come from
//! anywhere, so every place and length is checked, and every loop is bounded.

mod decompress;
pub mod erofs;
pub mod ext;
mod ext_attributes;
mod kept;
pub mod squashfs;
pub mod tree;

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::{FileSystem, Image, Shown};
use launcher::Error;

use tree::{Content, Part, Served, Tree};

/// The part of an image file that holds its file system.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    image: &'a Image,
    file: &'a File,
    offset: u64,
    size: u64,
    kind: FileSystem,
}

impl<'a> Device<'a> {
    /// The part of `image` that its root file system is in.
    ///
    /// # Errors
    /// The image is a directory.
    pub fn of(image: &'a Image) -> Result<Self, Error> {
        let root = image.root().ok_or_else(|| {
            Error::new(
                format!("read image {}", Shown::new(image.path())),
                "it holds no file system",
            )
        })?;
        Ok(Self {
            image,
            file: image.file(),
            offset: root.offset,
            size: root.size,
            kind: root.filesystem,
        })
    }

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

    /// Reads so many bytes at `at`.
    ///
    /// # Errors
    /// They lie beyond the end; what reading says.
    pub fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>, Error> {
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

    /// Reads so many bytes for a moment, to a place that is kept for the next.
    fn with_bytes<T>(
        &self,
        at: u64,
        length: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Error> {
        thread_local! {
            static PLACE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if at
            .checked_add(length as u64)
            .is_none_or(|end| end > self.size)
        {
            return Err(self.damaged("something lies beyond its end"));
        }
        PLACE.with_borrow_mut(|place| {
            place.resize(length, 0);
            self.read(at, place)?;
            Ok(look(place))
        })
    }

    /// All of a content that says it is `size` bytes long, at most `most`: a directory or
    /// a link.
    fn whole(&self, content: &mut dyn Content, size: u64, most: u64) -> Result<Vec<u8>, Error> {
        // Neither is ever compressed.
        if size > most.min(self.size) {
            return Err(self.damaged("a directory or link is impossibly long"));
        }
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            match content.next(&mut buffer)? {
                Part::End => return Ok(bytes),
                Part::Hole(length) => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    bytes.resize(bytes.len().saturating_add(length), 0);
                }
                Part::Data(count) => bytes.extend(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Where in the file it begins.
    pub fn offset(&self) -> u64 {
        self.offset
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

/// The tree of an opened image file, whatever its format.
///
/// # Errors
/// A damaged image, or one of a kind that cannot be read.
pub fn open(image: &Image) -> Result<Box<dyn Tree + '_>, Error> {
    let device = Device::of(image)?;
    Ok(match device.kind {
        FileSystem::Squashfs => Box::new(squashfs::Volume::open(device)?),
        FileSystem::Erofs => Box::new(erofs::Volume::open(device)?),
        FileSystem::Ext => Box::new(ext::Volume::open(device)?),
    })
}

/// The same, to be served to others; `None`: not yet of this kind.
///
/// # Errors
/// As [`open`].
pub fn serve(image: &Image) -> Result<Option<Box<dyn Served + '_>>, Error> {
    let device = Device::of(image)?;
    Ok(match device.kind {
        FileSystem::Squashfs => Some(Box::new(squashfs::Volume::open(device)?)),
        FileSystem::Erofs => Some(Box::new(erofs::Volume::open(device)?)),
        FileSystem::Ext => None,
    })
}

/// What a lock guards; what panicked with it has left it whole.
pub fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

// Numbers in the byte order of all three formats; zero outside of the slice.

fn le16(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_le_bytes)
}

/// Four bytes at `at`, the lowest first; zero outside of the slice.
pub fn le32(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_le_bytes)
}

/// So many bytes at `at`; `None` outside of the slice.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
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
