//! A tree of files, wherever it is: in a directory, or inside an image file.
//!
//! Owns: what a file is beside its content, and the one interface by which trees are
//! read. Never: reads one itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use launcher::Error;

/// What sort of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

impl Kind {
    /// From the type bits of `st_mode`, inode(7).
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Link,
            0o020_000 => Self::Character,
            0o060_000 => Self::Block,
            0o010_000 => Self::Pipe,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// Whether it is a device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::Character | Self::Block)
    }
}

/// A point in time: seconds since 1970 and nanoseconds of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanoseconds: u32,
}

/// A file in a tree, without its name and content.
#[derive(Debug, Clone)]
pub struct Node {
    /// What sort.
    pub kind: Kind,
    /// The lower twelve bits of the mode: permissions, set-id, sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of content, or of a link's text.
    pub size: u64,
    /// When the content changed last.
    pub modified: Time,
    /// A device's numbers.
    pub device: (u32, u32),
    /// How many names it has.
    pub links: u32,
    /// The same for all names of one file, and unlike for unlike files.
    pub identity: (u64, u64),
    /// By which the tree finds it again.
    pub handle: Handle,
}

impl Node {
    /// Whether it may turn up under another name too.
    pub fn has_other_names(&self) -> bool {
        self.kind != Kind::Directory && self.links > 1
    }
}

/// By which a tree finds one of its files again.
#[derive(Debug, Clone)]
pub enum Handle {
    /// A number in an image's file system.
    Inode(u64),
    /// A name in an open directory.
    Name(Arc<OwnedFd>, std::ffi::CString),
}

/// An extended attribute: its name, with the name space, and its value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// The next part of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// So many bytes were put in the buffer.
    Data(usize),
    /// So many zero bytes that need no place on a disk.
    Hole(u64),
    /// There is no more.
    End,
}

/// The content of a file, from its beginning to its end.
pub trait Content {
    /// Reads on. `buffer` is not empty.
    ///
    /// # Errors
    /// The image is damaged, or cannot be read.
    fn next(&mut self, buffer: &mut [u8]) -> Result<Part, Error>;
}

/// A tree that can be read.
pub trait Tree {
    /// The top directory.
    ///
    /// # Errors
    /// As for all below: the image is damaged, or cannot be read.
    fn root(&self) -> Result<Node, Error>;

    /// The names in a directory, without `.` and `..`, in the order of their bytes.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn entries(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, Error>;

    /// The text of a symbolic link.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn target(&self, link: &Node) -> Result<Vec<u8>, Error>;

    /// The content of a regular file.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn content<'a>(&'a self, file: &Node) -> Result<Box<dyn Content + 'a>, Error>;

    /// Whether a file's content can have holes, as far as that is known for nothing.
    fn may_have_holes(&self, _file: &Node) -> bool {
        true
    }

    /// Whether holes are stored as zeroes here, so that zeroes may have been holes.
    fn hides_holes(&self) -> bool {
        false
    }

    /// The extended attributes, in the order of their names.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn attributes(&self, node: &Node) -> Result<Vec<Attribute>, Error>;
}

/// A name in a directory, as far as the directory itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name's bytes.
    pub name: Vec<u8>,
    /// The file's number.
    pub number: u64,
    /// What sort of file it says it is.
    pub kind: Kind,
}

/// A tree whose files have numbers and can be read anywhere, by several threads.
pub trait Served: Tree + Sync {
    /// The number of the top directory.
    fn top(&self) -> u64;

    /// The file of this number.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn node(&self, number: u64) -> Result<Node, Error>;

    /// The names in a directory, without `.` and `..`, in the order of their bytes.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn names(&self, directory: u64) -> Result<Vec<Name>, Error>;

    /// Reads a file's content; less than `buffer` holds only at its end.
    ///
    /// # Errors
    /// As [`Tree::root`].
    fn read_at(&self, file: u64, from: u64, buffer: &mut [u8]) -> Result<usize, Error>;

    /// Whether any file can have extended attributes.
    fn has_attributes(&self) -> bool;

    /// How much there is of it.
    fn measure(&self) -> Measure;
}

/// How much a file system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// How many bytes it takes up.
    pub bytes: u64,
    /// How many files there are, directories among them.
    pub files: u64,
}
