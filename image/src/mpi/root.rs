//! Reading files of a root file system, and never of another.
//!
//! Owns: opening below a directory descriptor so that no link, however it is
//! made, leads out of it (openat2(2), RESOLVE_IN_ROOT). Never: writes, blocks on
//! a FIFO, or opens a device.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{openat2, OFlag, OpenHow, ResolveFlag};

/// How often a look-up that ran into a rename is tried again.
const TRIES: usize = 8;
/// The largest file that is read into memory: an ld.so.cache of 20,000 libraries.
const LARGEST: u64 = 4 << 20;
/// More entries of a directory than this are not looked at.
const MOST_ENTRIES: usize = 8192;

/// An open root file system: that of an image, or the one this process is in.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Opens the root file system in a directory.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)?;
        Ok(Self {
            directory: file.into(),
        })
    }

    /// Takes a directory that is open already, as `O_PATH` or for reading.
    pub fn of(directory: OwnedFd) -> Self {
        Self { directory }
    }

    fn resolve(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // An absolute path is one of this root's.
        let mut outcome = Err(Errno::EAGAIN);
        for _ in 0..TRIES {
            outcome = openat2(self.directory.as_fd(), path, how);
            if !matches!(outcome, Err(Errno::EAGAIN)) {
                break;
            }
        }
        outcome
    }

    /// Opens a regular file for reading; `None` for everything else.
    pub fn file(&self, path: &Path) -> Option<File> {
        self.regular(path).map(|(file, _)| file)
    }

    fn regular(&self, path: &Path) -> Option<(File, Metadata)> {
        let gently = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.resolve(path, gently).ok()?);
        let data = file.metadata().ok()?;
        data.is_file().then_some((file, data))
    }

    /// Opens a regular file that somebody may execute.
    pub fn executable(&self, path: &Path) -> Option<File> {
        let (file, data) = self.regular(path)?;
        (data.permissions().mode() & 0o111 != 0).then_some(file)
    }

    /// The content of a file, at most `most` bytes of it.
    pub fn content(&self, path: &Path, most: u64) -> Option<Vec<u8>> {
        let (file, data) = self.regular(path)?;
        beginning(&file, most.min(data.len()))
    }

    /// The names in a directory, not in order; none for everything else.
    pub fn names(&self, path: &Path) -> Vec<OsString> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let Ok(directory) = self.resolve(path, flags) else {
            return Vec::new();
        };
        let Ok(mut directory) = Dir::from_fd(directory) else {
            return Vec::new();
        };
        directory
            .iter()
            .filter_map(Result::ok)
            .take(MOST_ENTRIES)
            .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
            .filter(|name| name != "." && name != "..")
            .collect()
    }

    /// The path that an open file has in this root, all links followed; `None` where
    /// /proc does not tell, or it is outside.
    pub fn path_of(&self, file: &File) -> Option<PathBuf> {
        let name = |descriptor: i32| std::fs::read_link(format!("/proc/self/fd/{descriptor}"));
        let root = name(self.directory.as_raw_fd()).ok()?;
        let inside = name(file.as_raw_fd()).ok()?;
        Some(Path::new("/").join(inside.strip_prefix(root).ok()?))
    }
}

/// The first bytes of an open file.
pub(super) fn beginning(file: &File, most: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(most.min(LARGEST)).ok()?];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, done as u64) {
            Ok(0) => break,
            Ok(n) => done = done.saturating_add(n),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(done);
    Some(bytes)
}
