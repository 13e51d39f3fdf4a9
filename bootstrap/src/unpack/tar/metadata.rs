//! What a file has beside its content.
//!
//! Owns: the order in which owner, mode, attributes and time are set, and the list of
//! what could not be. Never: makes or removes a file.

use std::ffi::{CString, OsStr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{chmodat, chownat, lsetxattr, utimensat, AtFlags, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::places::{joined, Place};
use super::{c_name, times, timespec, Unpacking};
use crate::tree::extract::Owner;
use crate::unpack::members::{Member, Sort};
use crate::unpack::names::parts;

impl Unpacking<'_> {
    /// Owner, then mode (a change of owner takes set-id bits away), then attributes
    /// (and capabilities), then time.
    pub(super) fn metadata(
        &mut self,
        place: &Place,
        name: &[u8],
        member: &Member,
    ) -> Result<(), Errno> {
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
}

/// A member's name as a path below the top.
fn shown_path(member: &Member) -> PathBuf {
    parts(&member.name).map_or_else(|_| PathBuf::new(), |parts| joined(&parts))
}
