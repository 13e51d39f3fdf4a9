//! A tar archive becomes files below a directory: what `import` reads, and the
//! layers of container images.
//!
//! Owns: making every member as the archive has it (owner, mode, set-id bits,
//! times, attributes, links, devices, holes), and what whiteouts take away. Names
//! are looked up by the kernel inside the directory (openat2(2),
//! `RESOLVE_IN_ROOT`), so a link of an archive leads to a place in the tree, never
//! out of it; what is in the way is replaced, never written into. Never: runs
//! anything, or makes a file outside of the tree.
//!
//! ```no_run
//! # fn main() -> Result<(), launcher::Error> {
//! use bootstrap::unpack::{tar, tell};
//! let archive = std::fs::File::open("root.tar.zst").expect("it is there");
//! let archive = bootstrap::unpack::decompress(archive, "root.tar.zst")?;
//! let lost = tar::tar(archive, "new-root".as_ref(), &tar::Options::named("root.tar.zst"))?;
//! tell(&lost, false);
//! # Ok(())
//! # }
//! ```

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{
    chmodat, chownat, fstat, ftruncate, linkat, lsetxattr, makedev, mkdirat, mknodat, open, openat,
    openat2, statat, symlinkat, unlinkat, utimensat, AtFlags, Dir, FileType, Gid, Mode, OFlags,
    ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::members::{Member, Members, Sort};
use super::names::{meaning, parts, Meaning};
use crate::failure::call;
use crate::tree::extract::{Lost, Owner};
use crate::tree::Time;

/// The permissions of a directory that is needed and that the archive tells nothing of.
const IMPLIED: u32 = 0o755;

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = PLACE.union(OFlags::DIRECTORY);

/// How an archive is unpacked.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What messages call the archive.
    pub name: String,
    /// It is a layer: `.wh.` names take away what layers below have.
    pub whiteouts: bool,
    /// A directory of the archive goes into the directory that a link of the same
    /// name leads to, instead of replacing the link: for archives put into a root
    /// that is there already, whose /lib may lead to usr/lib.
    pub keep_directory_links: bool,
}

impl Options {
    /// No whiteouts, links replaced.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// Unpacks an uncompressed archive into the directory `tree`, over what is there.
/// The process should be root of its user namespace (see [`crate::space`]).
///
/// The archive is read to the end of the stream, also behind its own end.
///
/// # Errors
/// A damaged archive, a name that leads out of the tree, a full disk; and all else
/// but what [`Lost`] tells.
pub fn tar(archive: impl Read, tree: &Path, options: &Options) -> Result<Lost, Error> {
    let mut members = Members::new(archive);
    let mut unpacking = Unpacking::new(tree, options)?;
    let mut before = None;
    loop {
        match members.next_member() {
            Ok(Some(member)) => {
                unpacking.member(&member, &mut members)?;
                before = Some(member.name);
            }
            Ok(None) => break,
            Err(error) => return Err(unpacking.unreadable(before.as_deref(), error)),
        }
    }
    members
        .drain()
        .map_err(|error| unpacking.unreadable(None, error))?;
    unpacking.finish()
}

/// Makes a directory in the tree with those above it, where they are missing, as a
/// layer would that has a file in it.
///
/// # Errors
/// A full disk; a path with `..`.
pub fn make_directory(tree: &Path, path: &[u8], options: &Options) -> Result<(), Error> {
    let mut unpacking = Unpacking::new(tree, options)?;
    let parts = parts(path).map_err(|why| unpacking.refused(path, why))?;
    unpacking
        .parent(&parts, timespec(Time::default()))
        .map_err(|errno| unpacking.failed(path, errno))?;
    unpacking.finish().map(drop)
}

/// What a directory gets at the end, when nothing is put into it any more.
#[derive(Debug)]
struct Finish {
    path: PathBuf,
    mode: Option<u32>,
    modified: Timespec,
}

type Identity = (u64, u64);

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

struct Unpacking<'a> {
    top: OwnedFd,
    tree: &'a Path,
    options: &'a Options,
    /// What this layer made, by directory and name: whiteouts spare it.
    made: HashSet<(Identity, Vec<u8>)>,
    directories: HashMap<Identity, Finish>,
    /// The directory of the member before, which most often is the next one's.
    parent: Option<(PathBuf, Place)>,
    buffer: Vec<u8>,
    lost: Lost,
}

/// An open directory of the tree.
#[derive(Debug)]
struct Place {
    fd: OwnedFd,
    id: Identity,
}

impl Place {
    fn try_clone(&self) -> Result<Self, Errno> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        Ok(Self { fd, id: self.id })
    }
}

fn c_name(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

fn joined(parts: &[&[u8]]) -> PathBuf {
    parts.iter().map(|part| OsStr::from_bytes(part)).collect()
}

fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

impl<'a> Unpacking<'a> {
    fn new(tree: &'a Path, options: &'a Options) -> Result<Self, Error> {
        let top = open(tree, DIRECTORY, Mode::empty())
            .map_err(|errno| call(format!("open directory {}", Shown::new(tree)), errno))?;
        Ok(Self {
            top,
            tree,
            options,
            made: HashSet::new(),
            directories: HashMap::new(),
            parent: None,
            buffer: vec![0; 1 << 18],
            lost: Lost::default(),
        })
    }

    fn unreadable(&self, before: Option<&[u8]>, error: io::Error) -> Error {
        // A layer's reader tells more than an io::Error can.
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            if let Some(Ok(inner)) = error.into_inner().map(|inner| inner.downcast::<Error>()) {
                return *inner;
            }
            return Error::new(format!("read {}", self.options.name), "it cannot be read");
        }
        let step = match before {
            Some(name) => format!("read {} behind {}", self.options.name, Shown::bytes(name)),
            None => format!("read {}", self.options.name),
        };
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::new(step, "it ends in the middle")
                .hint("the archive is not complete: fetch or write it again"),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                Error::new(step, error.to_string())
                    .hint("the archive is damaged, or no tar archive: fetch or write it again")
            }
            _ => Error::io(step, &error),
        }
    }

    fn failed(&self, name: &[u8], errno: Errno) -> Error {
        let error = call(
            format!("unpack {} from {}", Shown::bytes(name), self.options.name),
            errno,
        );
        match errno {
            Errno::NOSPC | Errno::DQUOT => error.hint(format!(
                "the file system of {} is full, or your quota (df, quota): make room, or work on \
                 another with --tmpdir",
                Shown::new(self.tree)
            )),
            Errno::NAMETOOLONG => error.hint("no file system of Linux can hold such a name"),
            _ => error,
        }
    }

    fn refused(&self, name: &[u8], why: &str) -> Error {
        Error::new(
            format!("unpack {} from {}", Shown::bytes(name), self.options.name),
            format!("refused: {why}"),
        )
        .hint("the archive was made by mistake or in bad faith; do not use it")
    }

    fn member(&mut self, member: &Member, content: &mut impl Read) -> Result<(), Error> {
        let name = &member.name[..];
        let parts = parts(name).map_err(|why| self.refused(name, why))?;
        let Some((last, above)) = parts.split_last() else {
            if member.sort != Sort::Directory {
                return Err(self.refused(name, "it would replace the top directory"));
            }
            let top = self.place(&[]).map_err(|errno| self.failed(name, errno))?;
            return self
                .metadata(&top, b".", member)
                .and_then(|()| self.remember(&top, &[], Some(member)))
                .map_err(|errno| self.failed(name, errno));
        };
        let meaning = if self.options.whiteouts {
            meaning(last).map_err(|why| self.refused(name, why))?
        } else {
            Meaning::File
        };
        let result = match meaning {
            Meaning::Nothing => Ok(()),
            Meaning::Removes(entry) => self.take_away(above, Some(entry)),
            Meaning::RemovesAll => self.take_away(above, None),
            Meaning::File => match self.parent(above, timespec(member.modified)) {
                Ok(place) => return self.make(&place, above, last, member, content),
                Err(errno) => Err(errno),
            },
        };
        result.map_err(|errno| self.failed(name, errno))
    }

    // --- finding places -------------------------------------------------------------

    /// The directory at these parts, links followed inside the tree.
    fn place(&self, parts: &[&[u8]]) -> Result<Place, Errno> {
        let path = joined(parts);
        let path = if parts.is_empty() {
            Path::new(".")
        } else {
            &path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = loop {
            match openat2(&self.top, path, DIRECTORY, Mode::empty(), resolve) {
                // A rename elsewhere on the machine came between; see openat2(2).
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => break other?,
            }
        };
        let id = identity(&fstat(&fd)?);
        Ok(Place { fd, id })
    }

    /// The directory a member goes into, made where it is missing.
    fn parent(&mut self, parts: &[&[u8]], modified: Timespec) -> Result<Place, Errno> {
        let path = joined(parts);
        if let Some((known, place)) = &self.parent {
            if *known == path {
                return place.try_clone();
            }
        }
        let place = match self.place(parts) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.make_way(parts, modified)?,
            other => other?,
        };
        self.remember(&place, parts, None)?;
        self.parent = Some((path, place.try_clone()?));
        Ok(place)
    }

    fn make_way(&mut self, parts: &[&[u8]], modified: Timespec) -> Result<Place, Errno> {
        let mut place = self.place(&[])?;
        for (depth, part) in parts.iter().enumerate() {
            let here = parts.get(..=depth).unwrap_or_default();
            place = match self.place(here) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    self.remember(&place, parts.get(..depth).unwrap_or_default(), None)?;
                    // A file, or a link that leads nowhere, gives way to the directory.
                    self.remove(&place, part, false)?;
                    mkdirat(
                        &place.fd,
                        c_name(part)?,
                        Mode::from_raw_mode(IMPLIED | 0o700),
                    )?;
                    chmodat(
                        &place.fd,
                        c_name(part)?,
                        Mode::from_raw_mode(IMPLIED),
                        AtFlags::empty(),
                    )?;
                    if self.options.whiteouts {
                        self.made.insert((place.id, part.to_vec()));
                    }
                    let next = self.open_below(&place, part)?;
                    self.directories.insert(
                        next.id,
                        Finish {
                            path: joined(here),
                            mode: None,
                            modified,
                        },
                    );
                    next
                }
                Err(errno) => return Err(errno),
            };
        }
        Ok(place)
    }

    /// A directory in a directory, and no link to one.
    fn open_below(&self, place: &Place, name: &[u8]) -> Result<Place, Errno> {
        let fd = openat(
            &place.fd,
            c_name(name)?,
            DIRECTORY | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        let id = identity(&fstat(&fd)?);
        Ok(Place { fd, id })
    }

    /// Keeps a directory's time, as the archive has it or as it is now: making
    /// files in it changes it.
    fn remember(
        &mut self,
        place: &Place,
        parts: &[&[u8]],
        member: Option<&Member>,
    ) -> Result<(), Errno> {
        if let Some(member) = member {
            let finish = Finish {
                path: joined(parts),
                mode: Some(member.mode),
                modified: timespec(member.modified),
            };
            self.directories.insert(place.id, finish);
        } else if let Entry::Vacant(unknown) = self.directories.entry(place.id) {
            let stat = fstat(&place.fd)?;
            let modified = Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: stat.st_mtime_nsec as _,
            };
            let finish = Finish {
                path: joined(parts),
                mode: None,
                modified,
            };
            unknown.insert(finish);
        }
        Ok(())
    }

    // --- taking away ----------------------------------------------------------------

    /// Removes an entry, or all, of a directory of the layers below.
    fn take_away(&mut self, above: &[&[u8]], entry: Option<&[u8]>) -> Result<(), Errno> {
        let place = match self.place(above) {
            Ok(place) => place,
            // Nothing below has it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        self.remember(&place, above, None)?;
        match entry {
            Some(entry) => self.remove(&place, entry, true),
            None => {
                for entry in self.entries(&place)? {
                    self.remove(&place, &entry, true)?;
                }
                Ok(())
            }
        }
    }

    fn entries(&self, place: &Place) -> Result<Vec<Vec<u8>>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&place.fd, c".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// Removes an entry with all below it; that it is not there is no error. With
    /// `spare`, what this layer made stays.
    fn remove(&mut self, place: &Place, name: &[u8], spare: bool) -> Result<(), Errno> {
        let c_name = c_name(name)?;
        let made = spare && self.made.contains(&(place.id, name.to_vec()));
        if !made {
            match unlinkat(&place.fd, &c_name, AtFlags::empty()) {
                Ok(()) => {
                    // A link may have been part of the way to the known directory.
                    self.parent = None;
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                // unlink(2): EPERM is POSIX's word for a directory.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.parent = None;
        let below = match self.open_below(place, name) {
            Err(Errno::NOTDIR | Errno::LOOP) if made => return Ok(()),
            other => other?,
        };
        for entry in self.entries(&below)? {
            self.remove(&below, &entry, spare)?;
        }
        if made {
            return Ok(());
        }
        match unlinkat(&place.fd, &c_name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.directories.remove(&below.id);
                Ok(())
            }
            // Something this layer made is in it.
            Err(Errno::NOTEMPTY | Errno::EXIST) if spare => Ok(()),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    // --- making ---------------------------------------------------------------------

    fn make(
        &mut self,
        place: &Place,
        above: &[&[u8]],
        name: &[u8],
        member: &Member,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        let failed = |this: &Self, errno| this.failed(&member.name, errno);
        if member.sort == Sort::HardLink {
            return self.hard_link(place, name, member);
        }
        let existing = self
            .stand_aside(place, above, name, member)
            .map_err(|errno| failed(self, errno))?;
        let c_name = c_name(name).map_err(|errno| failed(self, errno))?;
        let private = Mode::from_raw_mode(0o600);
        let made = match member.sort {
            Sort::File => {
                self.file(place, name, member, content)?;
                Ok(())
            }
            Sort::Directory => {
                let (place, name) = match &existing {
                    Some(directory) => (directory, &b"."[..]),
                    None => {
                        mkdirat(&place.fd, &c_name, Mode::from_raw_mode(0o700))
                            .map_err(|errno| failed(self, errno))?;
                        (place, name)
                    }
                };
                return self
                    .directory(place, above, name, member, &parts_of(above, &c_name))
                    .map_err(|errno| failed(self, errno));
            }
            Sort::Link => symlinkat(&member.link[..], &place.fd, &c_name),
            Sort::Pipe => mknodat(&place.fd, &c_name, FileType::Fifo, private, 0),
            Sort::Character | Sort::Block => {
                let kind = if member.sort == Sort::Character {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                let (major, minor) = member.device;
                match mknodat(&place.fd, &c_name, kind, private, makedev(major, minor)) {
                    Err(Errno::PERM) => {
                        self.lost.devices.push(path_of(above, name));
                        return Ok(());
                    }
                    other => other,
                }
            }
            Sort::HardLink => Ok(()),
        };
        made.and_then(|()| {
            if self.options.whiteouts {
                self.made.insert((place.id, name.to_vec()));
            }
            self.metadata(place, name, member)
        })
        .map_err(|errno| failed(self, errno))
    }

    /// Removes what is in the way of a member. Returns the directory that is there
    /// and stays.
    fn stand_aside(
        &mut self,
        place: &Place,
        above: &[&[u8]],
        name: &[u8],
        member: &Member,
    ) -> Result<Option<Place>, Errno> {
        let stat = match statat(&place.fd, c_name(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        if member.sort == Sort::Directory {
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return self.open_below(place, name).map(Some),
                FileType::Symlink if self.options.keep_directory_links => {
                    let mut parts = above.to_vec();
                    parts.push(name);
                    if let Ok(directory) = self.place(&parts) {
                        return Ok(Some(directory));
                    }
                }
                _ => {}
            }
        }
        self.remove(place, name, false)?;
        Ok(None)
    }

    fn directory(
        &mut self,
        place: &Place,
        above: &[&[u8]],
        name: &[u8],
        member: &Member,
        path: &Path,
    ) -> Result<(), Errno> {
        let directory = if name == b"." {
            place.try_clone()?
        } else {
            self.open_below(place, name)?
        };
        if self.options.whiteouts {
            if let (Some(last), Ok(parent)) = (path.file_name(), self.place(above)) {
                self.made.insert((parent.id, last.as_bytes().to_vec()));
            }
        }
        self.metadata(place, name, member)?;
        let parts: Vec<_> = path.iter().map(OsStrExt::as_bytes).collect();
        self.remember(&directory, &parts, Some(member))
    }

    fn file(
        &mut self,
        place: &Place,
        name: &[u8],
        member: &Member,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        let failed = |this: &Self, errno| this.failed(&member.name, errno);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = c_name(name)
            .and_then(|name| openat(&place.fd, name, flags, Mode::from_raw_mode(0o600)))
            .map_err(|errno| failed(self, errno))?;
        let whole = [(0, member.size)];
        let pieces = member.pieces.as_deref().unwrap_or(&whole);
        for (offset, length) in pieces {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let wanted = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len());
                let place = self.buffer.get_mut(..wanted).unwrap_or_default();
                let read = match content.read(place) {
                    Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other,
                };
                let read = read.map_err(|error| self.unreadable(Some(&member.name), error))?;
                let mut bytes = self.buffer.get(..read).unwrap_or_default();
                while !bytes.is_empty() {
                    let written =
                        rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, bytes, at))
                            .map_err(|errno| failed(self, errno))?;
                    bytes = bytes.get(written..).unwrap_or_default();
                    at += written as u64;
                }
            }
        }
        if member.pieces.is_some() {
            ftruncate(&file, member.size).map_err(|errno| failed(self, errno))?;
        }
        Ok(())
    }

    /// Another name for a file that is in the tree already. The file is found where
    /// it is now, in this layer or one below.
    fn hard_link(&mut self, place: &Place, name: &[u8], member: &Member) -> Result<(), Error> {
        let link = &member.link[..];
        let old = parts(link).map_err(|_| {
            self.refused(
                &member.name,
                "it is a hard link that leads out of the archive",
            )
        })?;
        let Some((old_name, above)) = old.split_last() else {
            return Err(self.refused(&member.name, "it is a hard link to the top directory"));
        };
        let missing = |this: &Self, errno| match errno {
            Errno::NOENT | Errno::NOTDIR => Error::new(
                format!(
                    "unpack {} from {}",
                    Shown::bytes(&member.name),
                    this.options.name
                ),
                format!(
                    "it is a hard link to {}, which is not there",
                    Shown::bytes(link)
                ),
            )
            .hint("the archive is not complete, or its layers are not in order"),
            errno => this.failed(&member.name, errno),
        };
        let found = self.place(above).and_then(|from| {
            let stat = statat(&from.fd, c_name(old_name)?, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((from, stat))
        });
        let (from, stat) = found.map_err(|errno| missing(self, errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(self.refused(&member.name, "it is a hard link to a directory"));
        }
        let result = c_name(name).and_then(|new_name| {
            match statat(&place.fd, &new_name, AtFlags::SYMLINK_NOFOLLOW) {
                // It has the name already.
                Ok(there) if identity(&there) == identity(&stat) => {}
                Ok(_) => {
                    self.remove(place, name, false)?;
                    linkat(
                        &from.fd,
                        c_name(old_name)?,
                        &place.fd,
                        &new_name,
                        AtFlags::empty(),
                    )?;
                }
                Err(_) => {
                    linkat(
                        &from.fd,
                        c_name(old_name)?,
                        &place.fd,
                        &new_name,
                        AtFlags::empty(),
                    )?;
                }
            }
            if self.options.whiteouts {
                self.made.insert((place.id, name.to_vec()));
            }
            Ok(())
        });
        result.map_err(|errno| missing(self, errno))
    }

    // --- metadata -------------------------------------------------------------------

    /// Owner, then mode (a change of owner takes set-id bits away), then attributes
    /// (and capabilities), then time.
    fn metadata(&mut self, place: &Place, name: &[u8], member: &Member) -> Result<(), Errno> {
        let c_name = c_name(name)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        match chownat(&place.fd, &c_name, Some(owner.0), Some(owner.1), nofollow) {
            // The id is not mapped in this user namespace; or this is not root of one.
            Err(Errno::INVAL | Errno::PERM) => {
                let (uid, gid) = (member.uid, member.gid);
                self.lost
                    .owners
                    .push((shown_path(member), Owner { uid, gid }));
            }
            other => other?,
        }
        if member.sort != Sort::Link {
            let mut mode = member.mode;
            if member.sort == Sort::Directory {
                // Its own come at the end.
                mode |= 0o700;
            }
            chmodat(
                &place.fd,
                &c_name,
                Mode::from_raw_mode(mode),
                AtFlags::empty(),
            )?;
        }
        if !member.attributes.is_empty() {
            self.attributes(place, &c_name, member)?;
        }
        utimensat(
            &place.fd,
            &c_name,
            &times(timespec(member.modified)),
            nofollow,
        )
    }

    fn attributes(&mut self, place: &Place, name: &CString, member: &Member) -> Result<(), Errno> {
        // There is no lsetxattrat before Linux 6.13.
        let mut path = format!("/proc/self/fd/{}/", place.fd.as_raw_fd()).into_bytes();
        path.extend(name.to_bytes());
        let path = Path::new(OsStr::from_bytes(&path));
        for (attribute, value) in &member.attributes {
            let set = c_name(attribute)
                .and_then(|attribute| lsetxattr(path, attribute, value, XattrFlags::empty()));
            match set {
                Ok(()) => {}
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(errno),
                // What the file system or this user namespace cannot hold.
                Err(_) => self
                    .lost
                    .attributes
                    .push((shown_path(member), attribute.clone())),
            }
        }
        Ok(())
    }

    /// Gives directories the modes and times they have in the archive, those below
    /// first: a mode may forbid to go there.
    fn finish(mut self) -> Result<Lost, Error> {
        let mut all: Vec<_> = self.directories.drain().collect();
        all.sort_by(|a, b| b.1.path.cmp(&a.1.path));
        for (id, finish) in all {
            let parts: Vec<_> = finish.path.iter().map(OsStrExt::as_bytes).collect();
            let done = match self.place(&parts) {
                Ok(place) if place.id == id => finish_directory(&place, &finish),
                // Something else has taken its place since.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno),
            };
            done.map_err(|errno| self.failed(finish.path.as_os_str().as_bytes(), errno))?;
        }
        Ok(self.lost)
    }
}

fn finish_directory(place: &Place, finish: &Finish) -> Result<(), Errno> {
    if let Some(mode) = finish.mode {
        chmodat(&place.fd, c".", Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    utimensat(&place.fd, c".", &times(finish.modified), AtFlags::empty())
}

fn path_of(above: &[&[u8]], name: &[u8]) -> PathBuf {
    joined(above).join(OsStr::from_bytes(name))
}

fn parts_of(above: &[&[u8]], name: &CString) -> PathBuf {
    path_of(above, name.to_bytes())
}

/// A member's name as a path below the top.
fn shown_path(member: &Member) -> PathBuf {
    parts(&member.name).map_or_else(|_| PathBuf::new(), |parts| joined(&parts))
}
