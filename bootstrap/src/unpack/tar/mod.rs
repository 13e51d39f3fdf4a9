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

mod making;
mod metadata;
mod places;
mod removing;

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{open, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use self::places::{Finish, Identity, Place};
use super::members::{Member, Members, Sort};
use super::names::{meaning, parts, Meaning};
use crate::failure::call;
use crate::tree::extract::Lost;
use crate::tree::Time;

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

fn c_name(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
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
}
