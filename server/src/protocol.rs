//! What the kernel and a FUSE server say to each other.
//!
//! Owns: the layout of requests and answers. See the kernel's
//! `include/uapi/linux/fuse.h` and fuse(4). Never: knows what the file system is.

use nix::errno::Errno;
use volume::tree::{Kind, Measure, Node};

/// Room for a request: the kernel insists on so much.
pub const REQUEST_LENGTH: usize = 64 << 10;
/// How much is written at once: nothing is, but the kernel wants a number.
pub const MOST_WRITTEN: u32 = 4096;
/// The number of the top directory.
pub const TOP: u64 = 1;
/// The image does not change: what was told is true for as long as anybody asks.
const FOR_EVER: u64 = 1 << 32;
const HEAD: usize = 40;

/// What is asked for.
pub mod code {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const READLINK: u32 = 5;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const INIT: u32 = 26;
    pub const READDIR: u32 = 28;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
}

/// What both sides can do.
pub mod able {
    pub const ASYNC_READ: u32 = 1;
    pub const READDIRPLUS: u32 = 1 << 13;
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    /// Files need not be opened: the answer ENOSYS to the first is for all.
    pub const NO_OPEN: u32 = 1 << 17;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    pub const NO_OPENDIR: u32 = 1 << 24;
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for, see [`code`].
    pub code: u32,
    /// By which the answer is told from others.
    pub unique: u64,
    /// The file that it is about.
    pub node: u64,
    /// All the rest.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// `None`: not a whole request.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let length = usize::try_from(number32(bytes, 0)).ok()?;
        Some(Self {
            code: number32(bytes, 4),
            unique: number64(bytes, 8),
            node: number64(bytes, 16),
            body: bytes.get(HEAD..length)?,
        })
    }

    /// Whether the answer takes long enough for another thread.
    pub fn is_work(&self) -> bool {
        matches!(
            self.code,
            code::READ | code::LOOKUP | code::READDIR | code::READDIRPLUS
        )
    }

    /// The name at `at`, without its zero.
    pub fn name(&self, at: usize) -> &'a [u8] {
        let rest = self.body.get(at..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// Four bytes at `at`, zero outside; this machine's order, as the kernel's.
pub fn number32(bytes: &[u8], at: usize) -> u32 {
    volume::array(bytes, at).map_or(0, u32::from_ne_bytes)
}

/// Eight bytes at `at`, zero outside.
pub fn number64(bytes: &[u8], at: usize) -> u64 {
    volume::array(bytes, at).map_or(0, u64::from_ne_bytes)
}

/// `struct fuse_out_header` before an answer of so many bytes.
pub fn head(unique: u64, answer: Result<(), Errno>, length: usize) -> [u8; 16] {
    let error = answer.err().map_or(0, |errno| -(errno as i32));
    let mut head = [0; 16];
    let length = u32::try_from(16 + length).unwrap_or(16);
    head[..4].copy_from_slice(&length.to_ne_bytes());
    head[4..8].copy_from_slice(&i32::to_ne_bytes(error));
    head[8..].copy_from_slice(&unique.to_ne_bytes());
    head
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Link => libc::S_IFLNK,
        Kind::Character => libc::S_IFCHR,
        Kind::Block => libc::S_IFBLK,
        Kind::Pipe => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
    }
}

/// `struct fuse_attr`.
fn attributes(node: &Node, bytes: &mut Vec<u8>) {
    let seconds = node.modified.seconds as u64;
    let (major, minor) = node.device;
    let device = (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12);
    for number in [
        node.identity.1,
        node.size,
        node.size.div_ceil(512),
        seconds,
        seconds,
        seconds,
    ] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [
        node.modified.nanoseconds,
        node.modified.nanoseconds,
        node.modified.nanoseconds,
        type_bits(node.kind) | node.mode,
        node.links,
        node.uid,
        node.gid,
        device,
        4096,
        0,
    ] {
        bytes.extend(number.to_ne_bytes());
    }
}

/// `struct fuse_attr_out`.
pub fn attributes_answer(node: &Node) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(104);
    bytes.extend(FOR_EVER.to_ne_bytes());
    bytes.extend(0_u64.to_ne_bytes());
    attributes(node, &mut bytes);
    bytes
}

/// `struct fuse_entry_out`; without a file, that there is none of this name.
pub fn entry(file: Option<(u64, &Node)>, bytes: &mut Vec<u8>) {
    let number = file.map_or(0, |(number, _)| number);
    for number in [number, 0, FOR_EVER, FOR_EVER, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    match file {
        Some((_, node)) => attributes(node, bytes),
        None => bytes.extend([0; 88]),
    }
}

/// `struct fuse_dirent`, in which what comes after it is `next`.
pub fn directory_entry(number: u64, next: u64, name: &[u8], kind: Kind, bytes: &mut Vec<u8>) {
    bytes.extend(number.to_ne_bytes());
    bytes.extend(next.to_ne_bytes());
    bytes.extend(u32::try_from(name.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend((type_bits(kind) >> 12).to_ne_bytes());
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// How long [`directory_entry`] is for a name.
pub fn directory_entry_length(name: &[u8]) -> usize {
    (24 + name.len()).next_multiple_of(8)
}

/// `struct fuse_init_out` to a `struct fuse_init_in`; EPROTO: a kernel before 4.2.
pub fn init(body: &[u8], wanted: u32) -> Result<Vec<u8>, Errno> {
    let (major, minor) = (number32(body, 0), number32(body, 4));
    if major != 7 || minor < 23 {
        return Err(Errno::EPROTO);
    }
    let mut bytes = Vec::with_capacity(64);
    for number in [
        7,
        minor.min(31),
        number32(body, 8),
        number32(body, 12) & wanted,
    ] {
        bytes.extend(number.to_ne_bytes());
    }
    // Requests in the background, and when they are many.
    for number in [16_u16, 12] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [MOST_WRITTEN, 1] {
        bytes.extend(number.to_ne_bytes());
    }
    // A megabyte may be asked for at once.
    for number in [256_u16, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.resize(64, 0);
    Ok(bytes)
}

/// `struct fuse_statfs_out`: a full file system, in blocks of 4096 bytes.
pub fn full(measure: Measure) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(80);
    let blocks = measure.bytes.div_ceil(4096);
    for number in [blocks, 0, 0, measure.files, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [4096_u32, 255, 4096] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.resize(80, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_request_is_none() {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(&48_u32.to_ne_bytes());
        bytes[40..45].copy_from_slice(b"name\0");
        let request = Request::parse(&bytes).expect("it is whole");
        assert_eq!(request.name(0), b"name");
        assert_eq!(Request::parse(&bytes[..44]), None);
        assert_eq!(Request::parse(&[]), None);
        bytes[..4].copy_from_slice(&8_u32.to_ne_bytes());
        assert_eq!(Request::parse(&bytes), None);
    }

    #[test]
    fn answers_have_the_lengths_of_the_kernels_structures() {
        let mut bytes = Vec::new();
        entry(None, &mut bytes);
        assert_eq!(bytes.len(), 128);
        let measure = Measure { bytes: 1, files: 1 };
        assert_eq!(full(measure).len(), 80);
        let body: Vec<u8> = [7_u32, 39, 131_072, u32::MAX]
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect();
        let answer = init(&body, able::NO_OPEN).expect("it is young enough");
        assert_eq!(answer.len(), 64);
        assert_eq!(number32(&answer, 12), able::NO_OPEN);
        assert_eq!(init(&[], 0), Err(Errno::EPROTO));
        let mut bytes = Vec::new();
        directory_entry(5, 1, b"name", Kind::Link, &mut bytes);
        assert_eq!(bytes.len(), directory_entry_length(b"name"));
    }
}
