//! A directory on the host as a tree.
//!
//! Owns: reading one by descriptors, so that no link in it leads out of it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::Shown;
use launcher::Error;
use rustix::fs::{
    fstat, lgetxattr, llistxattr, major, minor, open, openat, readlinkat, seek, statat, AtFlags,
    Dir, Mode, OFlags, SeekFrom, Stat,
};
use rustix::io::Errno;

use super::{Attribute, Content, Handle, Kind, Node, Part, Time, Tree};
use crate::failure::call;

/// A directory on the host.
#[derive(Debug)]
pub struct Directory {
    top: Arc<OwnedFd>,
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

impl Directory {
    /// Opens the directory.
    ///
    /// # Errors
    /// It is not there, or is not to be read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let top = open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| call(format!("open directory {}", Shown::new(path)), errno))?;
        Ok(Self::from_fd(top, path))
    }

    /// Takes an open one; `path` is only for messages.
    pub fn from_fd(top: OwnedFd, path: &Path) -> Self {
        Self {
            top: Arc::new(top),
            path: path.to_owned(),
        }
    }

    /// A file directly in it.
    ///
    /// # Errors
    /// It is not there.
    pub fn child(&self, name: &OsStr) -> Result<Node, Error> {
        let failed = |errno| call(format!("read {}", Shown::new(&self.path.join(name))), errno);
        let stat = statat(&*self.top, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL))?;
        node(&stat, Handle::Name(Arc::clone(&self.top), name)).ok_or_else(|| failed(Errno::INVAL))
    }

    fn failed(&self, node: &Node, errno: Errno) -> Error {
        let name = match &node.handle {
            Handle::Name(_, name) => name.to_bytes(),
            Handle::Inode(_) => b"",
        };
        let error = call(
            format!("read {} in {}", Shown::bytes(name), Shown::new(&self.path)),
            errno,
        );
        match errno {
            Errno::ACCESS | Errno::PERM => {
                error.hint("its permissions do not let you: make it readable, or run as root")
            }
            _ => error,
        }
    }

    fn at<'a>(&self, node: &'a Node) -> (&'a OwnedFd, &'a CStr) {
        match &node.handle {
            Handle::Name(directory, name) => (directory, name),
            // No node of a directory has a number.
            Handle::Inode(_) => unreachable!("a node of another tree"),
        }
    }
}

/// A file as stat(2) shows it.
pub(crate) fn node(stat: &Stat, handle: Handle) -> Option<Node> {
    Some(Node {
        kind: Kind::from_mode(stat.st_mode)?,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        device: (major(stat.st_rdev), minor(stat.st_rdev)),
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        identity: (stat.st_dev, stat.st_ino),
        handle,
    })
}

impl Tree for Directory {
    fn root(&self) -> Result<Node, Error> {
        let failed = |errno| call(format!("read directory {}", Shown::new(&self.path)), errno);
        let stat = fstat(self.top.as_fd()).map_err(failed)?;
        let handle = Handle::Name(Arc::clone(&self.top), CString::from(c"."));
        node(&stat, handle).ok_or_else(|| failed(Errno::NOTDIR))
    }

    fn entries(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, Error> {
        let failed = |errno| self.failed(directory, errno);
        let (parent, name) = self.at(directory);
        let fd = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let fd = Arc::new(fd.map_err(failed)?);
        let mut names = Vec::new();
        for entry in Dir::read_from(&*fd).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if name.as_c_str() != c"." && name.as_c_str() != c".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            match statat(&*fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let bytes = name.to_bytes().to_vec();
                    if let Some(node) = node(&stat, Handle::Name(Arc::clone(&fd), name)) {
                        entries.push((bytes, node));
                    }
                }
                // Somebody has removed it meanwhile.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(entries)
    }

    fn target(&self, link: &Node) -> Result<Vec<u8>, Error> {
        let (parent, name) = self.at(link);
        readlinkat(parent, name, Vec::new())
            .map(CString::into_bytes)
            .map_err(|errno| self.failed(link, errno))
    }

    fn content<'a>(&'a self, file: &Node) -> Result<Box<dyn Content + 'a>, Error> {
        let (parent, name) = self.at(file);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd =
            openat(parent, name, flags, Mode::empty()).map_err(|errno| self.failed(file, errno))?;
        Ok(Box::new(Reading {
            directory: self,
            node: file.clone(),
            fd,
            at: 0,
            data_until: 0,
        }))
    }

    fn may_have_holes(&self, file: &Node) -> bool {
        let (parent, name) = self.at(file);
        statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_or(true, |stat| {
            stat.st_blocks.saturating_mul(512) < stat.st_size
        })
    }

    fn attributes(&self, node: &Node) -> Result<Vec<Attribute>, Error> {
        let (parent, name) = self.at(node);
        // There is no lgetxattrat before Linux 6.13.
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend(name.to_bytes());
        attributes(Path::new(OsStr::from_bytes(&path))).map_err(|errno| self.failed(node, errno))
    }
}

/// All extended attributes of a path, links not followed.
pub(crate) fn attributes(path: &Path) -> Result<Vec<Attribute>, Errno> {
    let mut names = vec![0; 1024];
    let length = loop {
        match llistxattr(path, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) => names = vec![0; 65536],
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    };
    let mut all = Vec::new();
    for name in names
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let Ok(c_name) = CString::new(name) else {
            continue;
        };
        let mut value = vec![0; 256];
        let length = loop {
            match lgetxattr(path, &c_name, &mut value[..]) {
                Ok(length) => break length,
                Err(Errno::RANGE) => value = vec![0; 65536],
                Err(errno) => return Err(errno),
            }
        };
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

struct Reading<'a> {
    directory: &'a Directory,
    node: Node,
    fd: OwnedFd,
    at: u64,
    data_until: u64,
}

impl Content for Reading<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Part, Error> {
        let failed = |errno| self.directory.failed(&self.node, errno);
        if self.at >= self.node.size {
            return Ok(Part::End);
        }
        if self.at >= self.data_until {
            let data = match seek(&self.fd, SeekFrom::Data(self.at)) {
                Ok(data) => data.min(self.node.size),
                // No more data up to the end.
                Err(Errno::NXIO) => self.node.size,
                // A file system that knows no holes.
                Err(_) => self.at,
            };
            if data > self.at {
                let hole = data - self.at;
                self.at = data;
                return Ok(Part::Hole(hole));
            }
            self.data_until = match seek(&self.fd, SeekFrom::Hole(self.at)) {
                Ok(hole) if hole > self.at => hole.min(self.node.size),
                _ => self.node.size,
            };
        }
        let wanted = buffer
            .len()
            .min(usize::try_from(self.data_until - self.at).unwrap_or(usize::MAX));
        let place = buffer.get_mut(..wanted).unwrap_or_default();
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut *place, self.at))
            .map_err(failed)?;
        if count == 0 {
            // It has become shorter meanwhile; what was promised is still delivered.
            let hole = self.node.size - self.at;
            self.at = self.node.size;
            return Ok(Part::Hole(hole));
        }
        self.at += count as u64;
        Ok(Part::Data(count))
    }
}
