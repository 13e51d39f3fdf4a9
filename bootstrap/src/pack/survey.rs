//! What is in a tree, as far as packing has to know before it begins.
//!
//! Owns: one walk over a directory that follows no link and crosses into no other
//! file system's root by one. Never: reads contents.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{open, openat, statat, AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::failure::call;

/// A block of the ext file systems that are made here.
const BLOCK: u64 = 4096;

/// Sums over a tree.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Files, directories and everything else; a file of several names counts once.
    pub inodes: u64,
    /// Bytes that contents, directories and long links take up in blocks of 4 KiB.
    pub bytes: u64,
    /// The newest time of change of any content, in seconds since 1970.
    pub newest: i64,
    /// A file whose name is as long as a name can be.
    pub longest_name: Option<PathBuf>,
    /// 128 bits of what lies where, so that unlike trees get unlike identifiers.
    fingerprint: [u64; 2],
    seen: HashSet<(u64, u64)>,
}

impl Survey {
    /// Walks over the tree.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn of(tree: &Path) -> Result<Self, Error> {
        let mut survey = Self {
            newest: i64::MIN,
            fingerprint: [0xcbf2_9ce4_8422_2325, 0x9ae1_6a3b_2f90_404f],
            ..Self::default()
        };
        let failed = |errno| call(format!("read directory {}", Shown::new(tree)), errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = open(tree, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&top).map_err(failed)?;
        survey.add(c".", &stat);
        survey.walk(&top, tree)?;
        Ok(survey)
    }

    /// A version 8 UUID (RFC 9562) that equal trees share; `purpose` sets several
    /// of one tree apart.
    pub fn uuid(&self, purpose: u64) -> [u8; 16] {
        let [a, b] = self.fingerprint;
        let mix = |n: u64| (n ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(23);
        let mut bytes = [0; 16];
        for (to, from) in bytes
            .iter_mut()
            .zip(mix(a).to_be_bytes().into_iter().chain(mix(b).to_be_bytes()))
        {
            *to = from;
        }
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    }

    fn walk(&mut self, directory: &OwnedFd, path: &Path) -> Result<(), Error> {
        let failed = |errno| call(format!("read directory {}", Shown::new(path)), errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            use std::os::unix::ffi::OsStrExt;
            let path = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let failed = |errno| call(format!("read {}", Shown::new(&path)), errno);
            let stat =
                statat(directory.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            self.add(&name, &stat);
            if name.to_bytes().len() >= 255 {
                self.longest_name.get_or_insert_with(|| path.clone());
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(directory, &name, flags, Mode::empty()).map_err(failed)?;
                self.walk(&below, &path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &CStr, stat: &Stat) {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.newest = self.newest.max(stat.st_mtime);
        let facts = [
            u64::from(stat.st_mode),
            u64::from(stat.st_uid),
            u64::from(stat.st_gid),
            size,
            stat.st_mtime.unsigned_abs(),
        ];
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A directory's size is the host's file system's affair.
        let counted = if kind == FileType::Directory { 3 } else { 4 };
        for byte in name.to_bytes_with_nul() {
            self.mix(u64::from(*byte));
        }
        for fact in facts.iter().take(counted) {
            self.mix(*fact);
        }
        if stat.st_nlink > 1
            && kind != FileType::Directory
            && !self.seen.insert((stat.st_dev, stat.st_ino))
        {
            return;
        }
        self.inodes += 1;
        self.bytes += match kind {
            FileType::RegularFile => {
                let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                // A file system that compresses or packs tails counts less.
                size.min(allocated.max(BLOCK)).next_multiple_of(BLOCK)
            }
            // Entries of an ext directory are at most a little longer than here.
            FileType::Directory => (size * 2).max(BLOCK).next_multiple_of(BLOCK),
            FileType::Symlink if size >= 60 => BLOCK,
            _ => 0,
        };
    }

    /// FNV-1a, twice, with unlike beginnings.
    fn mix(&mut self, word: u64) {
        for state in &mut self.fingerprint {
            *state = (*state ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(17);
        }
    }
}
