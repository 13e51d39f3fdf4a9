//! Opening an image, and holding it open.
//!
//! Owns: the descriptor of the image and what is known of it. Never: mounts,
//! follows what the image contains, or trusts the name. The file is opened once
//! and everything is learned by descriptor, so that what was checked is what
//! will be mounted.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::erofs::Erofs;
use crate::error::{not_a_file, Error, Fault};
use crate::ext::{self, Ext};
use crate::read::{read_up_to, FileAt};
use crate::recognise::{recognise, Format, Partition, Recognised, Superblock};
use crate::squashfs::Squashfs;

/// Tells two images apart, and one image from its later versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device the file system is on.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
    /// The size in bytes.
    pub size: u64,
    /// The time of the last change of the content, in nanoseconds since 1970.
    pub mtime_ns: i128,
}

impl Identity {
    /// From what the kernel says of a file.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// An open image whose format is known and whose superblock is sound.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    identity: Identity,
    known: Recognised,
}

// A FIFO must not block the launch, and a terminal must not become ours.
const GENTLY: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;

/// By itself, so that a directory costs none of the stack that this takes.
#[inline(never)]
fn recognised(file: &File, size: u64) -> Result<Recognised, Fault> {
    recognise(&FileAt::with_size(file, size))
}

impl Image {
    /// Opens for reading: a directory, or a file of a known format.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(GENTLY)
            .open(path)
            .or_else(|error| unlisted_directory(path, error))
            .map_err(|error| Error::opening(path, &error))?;
        Self::from_file(path, file)
    }

    /// Opens a file for reading and writing. A directory is opened as by [`Image::open`]:
    /// whether one may write inside it is for its files to say.
    pub fn open_writable(path: &Path) -> Result<Self, Error> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(GENTLY)
            .open(path);
        match opened {
            Ok(file) => Self::from_file(path, file),
            Err(error) if error.raw_os_error() == Some(libc::EISDIR) => Self::open(path),
            Err(error) => Err(Error::opening(path, &error)),
        }
    }

    /// Takes a descriptor that somebody else opened; `path` is only for messages.
    pub fn from_file(path: &Path, file: File) -> Result<Self, Error> {
        let metadata = file
            .metadata()
            .map_err(|error| Error::new(path, Fault::reading(&error)))?;
        let kind = metadata.file_type();
        let known = if kind.is_dir() {
            Recognised::directory()
        } else if kind.is_file() {
            recognised(&file, metadata.len()).map_err(|fault| Error::new(path, fault))?
        } else {
            let what = if kind.is_fifo() {
                "a named pipe"
            } else if kind.is_socket() {
                "a socket"
            } else if kind.is_block_device() {
                "a block device"
            } else if kind.is_char_device() {
                "a character device"
            } else {
                "of a strange type"
            };
            return Err(Error::new(path, not_a_file(what)));
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            identity: Identity::of(&metadata),
            known,
        })
    }

    /// The same image, read from a copy of its file from then on. Path and identity
    /// stay those of the original.
    pub fn in_copy(&self, copy: File) -> Result<Self, Error> {
        Ok(Self {
            identity: self.identity,
            ..Self::from_file(&self.path, copy)?
        })
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open descriptor. For a directory without read permission it is `O_PATH`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The open file, for readers that want more than the description.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the open file away.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Which file, in which version.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What it is, with the facts of its superblock.
    pub fn format(&self) -> &Format {
        &self.known.format
    }

    /// Where the root file system is; `None` for a directory.
    pub fn root(&self) -> Option<&Partition> {
        self.known.root.as_ref()
    }

    /// Whether it is a directory tree rather than a file.
    pub fn is_directory(&self) -> bool {
        matches!(self.known.format, Format::Directory)
    }

    /// The superblock of the root file system, directly in the file or inside a SIF.
    pub fn superblock(&self) -> Option<Superblock> {
        self.known.format.superblock()
    }

    /// The facts of the root file system when it is squashfs.
    pub fn squashfs(&self) -> Option<Squashfs> {
        match self.superblock() {
            Some(Superblock::Squashfs(facts)) => Some(facts),
            _ => None,
        }
    }

    /// The facts of the root file system when it is EROFS.
    pub fn erofs(&self) -> Option<Erofs> {
        match self.superblock() {
            Some(Superblock::Erofs(facts)) => Some(facts),
            _ => None,
        }
    }

    /// The facts of the root file system when it is ext2, ext3 or ext4.
    pub fn ext(&self) -> Option<Ext> {
        match self.superblock() {
            Some(Superblock::Ext(facts)) => Some(facts),
            _ => None,
        }
    }

    /// The same, read again: a writer may have changed it since the image was opened.
    pub fn ext_now(&self) -> Option<Ext> {
        let root = self.known.root?;
        let mut block = [0; ext::LENGTH];
        let at = root.offset.checked_add(ext::OFFSET)?;
        let length = read_up_to(&FileAt::new(&self.file).ok()?, &mut block, at).ok()?;
        ext::parse(block.get(..length)?, root.size)?.ok()
    }

    /// The `#!` line in front of the file system, without its newline.
    pub fn launch_line(&self) -> Option<&OsStr> {
        self.known.launch_line.as_deref().map(OsStr::from_bytes)
    }

    /// The base name, for `SINGULARITY_NAME`.
    ///
    /// A path that ends in `.` or `..` has none of its own; then the real
    /// directory is asked.
    pub fn name(&self) -> OsString {
        if let Some(name) = self.path.file_name() {
            return name.to_owned();
        }
        self.path
            .canonicalize()
            .ok()
            .and_then(|real| real.file_name().map(OsStr::to_owned))
            .unwrap_or_else(|| self.path.clone().into_os_string())
    }
}

/// A directory that may be entered but not listed is still a good root.
fn unlisted_directory(path: &Path, error: io::Error) -> io::Result<File> {
    if error.raw_os_error() != Some(libc::EACCES) {
        return Err(error);
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)
        .map_err(|_| error)
}

/// A word to the user whose directory is an OCI layout and not a root file system.
///
/// For the error path: [`Image::open`] takes any directory, and the launcher asks
/// here when nothing could be executed in it.
pub fn oci_layout_hint(directory: &Path) -> Option<String> {
    let has = |name: &str| directory.join(name).symlink_metadata().is_ok();
    let layout = has("oci-layout") && has("index.json") && !has("bin") && !has("usr");
    layout.then(|| {
        "the directory is an OCI layout, not a root file system; unpack its layers into a \
         directory and use that"
            .to_owned()
    })
}
