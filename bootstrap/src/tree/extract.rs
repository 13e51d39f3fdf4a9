//! A tree becomes a directory.
//!
//! Owns: making every file with its owner, mode, times, attributes, links and
//! holes. Never: follows a link that is at the destination, or writes outside it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{
    chmodat, chownat, ftruncate, linkat, lsetxattr, makedev, mkdirat, mknodat, open, openat,
    statat, symlinkat, utimensat, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps,
    XattrFlags,
};
use rustix::io::Errno;

use super::walk::{walk, Visitor};
use super::{Kind, Node, Part, Time, Tree};
use crate::failure::call;

/// No shorter stretch of zeroes can be a hole on a disk.
const BLOCK: usize = 4096;
/// In shorter files nobody makes holes.
const WORTH_A_HOLE: u64 = 64 * 1024;

/// A file's owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What a directory could not be given.
#[derive(Debug, Default, Clone)]
pub struct Lost {
    /// Owners that are not mapped in this user namespace, by path below the top.
    pub owners: Vec<(PathBuf, Owner)>,
    /// Devices, which only real root can make.
    pub devices: Vec<PathBuf>,
    /// Attributes that the file system or the kernel does not take.
    pub attributes: Vec<(PathBuf, Vec<u8>)>,
}

/// How a tree is written out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Later times become this one, in seconds since 1970.
    pub epoch: Option<u64>,
    /// All is the caller's, and may be read and removed: for a look only.
    pub plain: bool,
}

/// Writes the tree into the directory at `destination`, which is there and empty.
///
/// # Errors
/// A full disk, a damaged image, and all else but what [`Lost`] tells.
pub fn extract(tree: &dyn Tree, destination: &Path, options: Options) -> Result<Lost, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = open(destination, flags, Mode::empty())
        .map_err(|errno| call(format!("open directory {}", Shown::new(destination)), errno))?;
    let mut writer = Writer {
        destination,
        stack: vec![top],
        names: HashMap::new(),
        buffer: vec![0; 1 << 18],
        lost: Lost::default(),
        options,
        uids: Ids::of_this_namespace("uid_map"),
        gids: Ids::of_this_namespace("gid_map"),
    };
    walk(tree, &mut writer)?;
    Ok(writer.lost)
}

/// The ids that this user namespace knows.
#[derive(Debug)]
pub(crate) struct Ids(Vec<std::ops::Range<u64>>);

impl Ids {
    /// From `/proc/self/uid_map` or `gid_map`, user_namespaces(7).
    pub(crate) fn of_this_namespace(file: &str) -> Self {
        let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        Self(
            text.lines()
                .filter_map(|line| {
                    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
                    let first = numbers.next()?.ok()?;
                    let count = numbers.nth(1)?.ok()?;
                    Some(first..first + count)
                })
                .collect(),
        )
    }

    /// Whether a file can belong to this one.
    pub(crate) fn contain(&self, id: u32) -> bool {
        self.0.iter().any(|range| range.contains(&u64::from(id)))
    }
}

struct Writer<'a> {
    destination: &'a Path,
    /// The open directories from the top to where the walk is.
    stack: Vec<OwnedFd>,
    /// Where files with several names were made.
    names: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
    lost: Lost,
    options: Options,
    uids: Ids,
    gids: Ids,
}

impl Visitor for Writer<'_> {
    fn visit(&mut self, tree: &dyn Tree, path: &Path, node: &Node) -> Result<(), Error> {
        let step = || format!("write {}", Shown::new(&self.destination.join(path)));
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let parent = self
            .stack
            .last()
            .ok_or_else(|| Error::new(step(), "no directory"))?;
        let failed = |errno| call(step(), errno);
        if node.has_other_names() {
            if let Some(first) = self.names.get(&node.identity) {
                let top = self.stack.first().unwrap_or(parent);
                return linkat(top, first, parent, name, AtFlags::empty()).map_err(failed);
            }
        }
        match node.kind {
            Kind::Directory => {
                if !path.as_os_str().is_empty() {
                    mkdirat(parent, name, Mode::RWXU).map_err(failed)?;
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let fd = openat(parent, name, flags, Mode::empty()).map_err(failed)?;
                    self.stack.push(fd);
                }
                // The rest when everything is in it.
                return Ok(());
            }
            Kind::File => self.content(tree, path, node)?,
            Kind::Link => {
                let target = tree.target(node)?;
                symlinkat(OsStr::from_bytes(&target), parent, name).map_err(failed)?;
            }
            Kind::Pipe | Kind::Socket | Kind::Character | Kind::Block => {
                let kind = match node.kind {
                    Kind::Pipe => FileType::Fifo,
                    Kind::Socket => FileType::Socket,
                    Kind::Character => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                let device = makedev(node.device.0, node.device.1);
                let made = mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device);
                match made {
                    // An emulated mknod(2) makes something else.
                    Ok(()) if node.kind.is_device() && !is(parent, name, kind) => {
                        let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
                        self.lost.devices.push(path.to_owned());
                        return Ok(());
                    }
                    Ok(()) => {}
                    Err(Errno::PERM) if node.kind.is_device() => {
                        self.lost.devices.push(path.to_owned());
                        return Ok(());
                    }
                    Err(errno) => return Err(failed(errno)),
                }
            }
        }
        if node.has_other_names() {
            self.names.insert(node.identity, path.to_owned());
        }
        self.finish(tree, path, node)
    }

    fn leave(&mut self, tree: &dyn Tree, path: &Path, node: &Node) -> Result<(), Error> {
        if !path.as_os_str().is_empty() {
            self.stack.pop();
        }
        self.finish(tree, path, node)
    }
}

fn is(parent: &OwnedFd, name: &OsStr, kind: FileType) -> bool {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

impl Writer<'_> {
    fn content(&mut self, tree: &dyn Tree, path: &Path, node: &Node) -> Result<(), Error> {
        let step = || format!("write {}", Shown::new(&self.destination.join(path)));
        let failed = |errno| call(step(), errno);
        let (Some(parent), Some(name)) = (self.stack.last(), path.file_name()) else {
            return Err(Error::new(step(), "it has no name"));
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut content = tree.content(node)?;
        let mut at: u64 = 0;
        let mut ends_in_hole = false;
        let hides_holes = tree.hides_holes() && node.size >= WORTH_A_HOLE;
        loop {
            match content.next(&mut self.buffer)? {
                Part::End => break,
                Part::Hole(length) => {
                    at += length;
                    ends_in_hole = true;
                }
                Part::Data(count) => {
                    let mut rest = self.buffer.get(..count).unwrap_or_default();
                    // Whole blocks of zeroes were a hole, or make a good one.
                    if hides_holes && rest.len() >= BLOCK && rest.iter().all(|byte| *byte == 0) {
                        at += count as u64;
                        ends_in_hole = true;
                        continue;
                    }
                    while !rest.is_empty() {
                        let written =
                            rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, rest, at))
                                .map_err(failed)?;
                        rest = rest.get(written..).unwrap_or_default();
                        at += written as u64;
                    }
                    ends_in_hole = false;
                }
            }
        }
        if ends_in_hole {
            ftruncate(&file, at).map_err(failed)?;
        }
        Ok(())
    }

    /// Owner, mode, attributes and time, in the order in which one does not undo
    /// another: chown(2) clears set-id bits and capabilities.
    fn finish(&mut self, tree: &dyn Tree, path: &Path, node: &Node) -> Result<(), Error> {
        let step = || format!("write {}", Shown::new(&self.destination.join(path)));
        let failed = |errno| call(step(), errno);
        let Some(parent) = self.stack.last() else {
            return Ok(());
        };
        let name = path.file_name().unwrap_or(OsStr::new("."));
        if self.options.plain {
            if node.kind != Kind::Link {
                let mode = Mode::from_raw_mode(0o700);
                chmodat(parent, name, mode, AtFlags::empty()).map_err(failed)?;
            }
            return Ok(());
        }
        let known = self.uids.contain(node.uid) && self.gids.contain(node.gid);
        if known {
            use rustix::fs::{Gid, Uid};
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            match chownat(
                parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            ) {
                Ok(()) => {}
                Err(Errno::PERM) => self.lose_owner(path, node),
                Err(errno) => return Err(failed(errno)),
            }
        } else {
            self.lose_owner(path, node);
        }
        let Some(parent) = self.stack.last() else {
            return Ok(());
        };
        if node.kind != Kind::Link {
            chmodat(
                parent,
                name,
                Mode::from_raw_mode(node.mode),
                AtFlags::empty(),
            )
            .map_err(failed)?;
        }
        let mut lost = Vec::new();
        let attributes = tree.attributes(node)?;
        if !attributes.is_empty() {
            // There is no lsetxattrat before Linux 6.13.
            let mut place = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
            place.extend(name.as_bytes());
            for (attribute, value) in attributes {
                let place = Path::new(OsStr::from_bytes(&place));
                let name = OsStr::from_bytes(&attribute);
                match lsetxattr(place, name, &value, XattrFlags::empty()) {
                    Ok(()) => {}
                    Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) => {
                        lost.push((path.to_owned(), attribute));
                    }
                    Err(errno) => return Err(failed(errno)),
                }
            }
        }
        let time = clamped(node.modified, self.options.epoch);
        let time = Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        self.lost.attributes.extend(lost);
        Ok(())
    }

    fn lose_owner(&mut self, path: &Path, node: &Node) {
        let owner = Owner {
            uid: node.uid,
            gid: node.gid,
        };
        self.lost.owners.push((path.to_owned(), owner));
    }
}

/// A time that is not after the epoch.
pub(crate) fn clamped(time: Time, epoch: Option<u64>) -> Time {
    match epoch.and_then(|epoch| i64::try_from(epoch).ok()) {
        Some(epoch) if time.seconds >= epoch => Time {
            seconds: epoch,
            nanoseconds: 0,
        },
        _ => time,
    }
}
