//! A member becomes a file of its sort.
//!
//! Owns: files with their content and holes, directories, links of both sorts, devices
//! and pipes, each in the place of what was there. Never: writes into what was there.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{
    ftruncate, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, AtFlags, FileType,
    Mode, OFlags,
};
use rustix::io::Errno;

use super::places::{identity, joined, Place};
use super::{c_name, Unpacking};
use crate::unpack::members::{Member, Sort};
use crate::unpack::names::parts;

impl Unpacking<'_> {
    pub(super) fn make(
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
                there => {
                    if there.is_ok() {
                        self.remove(place, name, false)?;
                    }
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
}

fn path_of(above: &[&[u8]], name: &[u8]) -> PathBuf {
    joined(above).join(OsStr::from_bytes(name))
}

fn parts_of(above: &[&[u8]], name: &CString) -> PathBuf {
    path_of(above, name.to_bytes())
}
