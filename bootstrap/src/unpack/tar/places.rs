//! Directories of the tree, found and made.
//!
//! Owns: the only look-ups of paths, each by the kernel inside the tree; directories
//! that the archive tells nothing of; and what a directory gets at the end. Never:
//! writes into a file.

use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use launcher::Error;
use rustix::fs::{
    chmodat, fstat, mkdirat, openat, openat2, utimensat, AtFlags, Mode, OFlags, ResolveFlags, Stat,
    Timespec,
};
use rustix::io::Errno;

use super::{c_name, times, timespec, Unpacking, DIRECTORY};
use crate::tree::extract::Lost;
use crate::unpack::members::Member;

/// The permissions of a directory that is needed and that the archive tells nothing of.
const IMPLIED: u32 = 0o755;

/// A file, as long as it is there: device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// An open directory of the tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    pub(super) id: Identity,
}

impl Place {
    pub(super) fn try_clone(&self) -> Result<Self, Errno> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        Ok(Self { fd, id: self.id })
    }
}

/// What a directory gets at the end, when nothing is put into it any more.
#[derive(Debug)]
pub(super) struct Finish {
    path: PathBuf,
    mode: Option<u32>,
    modified: Timespec,
}

pub(super) fn joined(parts: &[&[u8]]) -> PathBuf {
    parts.iter().map(|part| OsStr::from_bytes(part)).collect()
}

impl Unpacking<'_> {
    /// The directory at these parts, links followed inside the tree.
    pub(super) fn place(&self, parts: &[&[u8]]) -> Result<Place, Errno> {
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
    pub(super) fn parent(&mut self, parts: &[&[u8]], modified: Timespec) -> Result<Place, Errno> {
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

    pub(super) fn make_way(&mut self, parts: &[&[u8]], modified: Timespec) -> Result<Place, Errno> {
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
    pub(super) fn open_below(&self, place: &Place, name: &[u8]) -> Result<Place, Errno> {
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
    pub(super) fn remember(
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

    /// Gives directories the modes and times they have in the archive, those below
    /// first: a mode may forbid to go there.
    pub(super) fn finish(mut self) -> Result<Lost, Error> {
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
