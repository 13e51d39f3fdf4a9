//! What goes from the tree: whiteouts, and what is in a member's way.
//!
//! Owns: removing entries with all below them, and what a layer made itself, which its
//! whiteouts spare. Never: follows a link.

use rustix::fs::{openat, unlinkat, AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::places::Place;
use super::{c_name, Unpacking};

impl Unpacking<'_> {
    /// Removes an entry, or all, of a directory of the layers below.
    pub(super) fn take_away(&mut self, above: &[&[u8]], entry: Option<&[u8]>) -> Result<(), Errno> {
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

    pub(super) fn entries(&self, place: &Place) -> Result<Vec<Vec<u8>>, Errno> {
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
    pub(super) fn remove(&mut self, place: &Place, name: &[u8], spare: bool) -> Result<(), Errno> {
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
}
