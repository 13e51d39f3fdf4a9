//! Places in a root: files and directories to mount something on.
//!
//! Owns: making those that are missing, and removing them afterwards. Every name
//! is looked up confined to the root (openat2(2), `RESOLVE_IN_ROOT`): its links
//! cannot lead to the host's files. Never: mounts.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use image::Shown;
use launcher::Error;
use nix::errno::Errno;
use nix::fcntl::{open, openat, openat2, readlinkat, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fstat, mkdirat, Mode, SFlag};
use nix::unistd::{unlinkat, UnlinkatFlags};

/// How many dangling links may lead to a place; as the kernel's limit.
const LINKS: usize = 40;

/// The places that were made in a root. They go when dropped, where nothing was
/// put into them.
#[derive(Debug)]
pub struct Places {
    root: OwnedFd,
    shown: PathBuf,
    made: Vec<(OwnedFd, OsString, bool)>,
}

impl Places {
    /// Of the root at `path`.
    ///
    /// # Errors
    /// As open(2).
    pub fn of(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty())
            .map_err(|errno| Error::call(format!("open {}", Shown::new(path)), errno))?;
        Ok(Self {
            root,
            shown: path.to_owned(),
            made: Vec::new(),
        })
    }

    /// Sees to it that there is a directory.
    ///
    /// # Errors
    /// Something else is there, or it cannot be made.
    pub fn directory(&mut self, path: &Path) -> Result<(), Error> {
        self.provide(path, true)
    }

    /// Sees to it that there is something that is no directory.
    ///
    /// # Errors
    /// As [`Places::directory`].
    pub fn file(&mut self, path: &Path) -> Result<(), Error> {
        self.provide(path, false)
    }

    /// Leaves what was made so far, whatever becomes of it.
    pub fn keep(&mut self) {
        self.made.clear();
    }

    fn provide(&mut self, path: &Path, directory: bool) -> Result<(), Error> {
        self.provide_by(path, directory, LINKS).map_err(|errno| {
            let step = format!(
                "prepare {} in {}",
                Shown::new(path),
                Shown::new(&self.shown)
            );
            match errno {
                Errno::ENOTDIR | Errno::EISDIR => Error::new(step, "something else is there"),
                errno => Error::call(step, errno),
            }
        })
    }

    fn provide_by(&mut self, path: &Path, directory: bool, links: usize) -> Result<(), Errno> {
        match within(&self.root, path, OFlag::O_PATH) {
            Ok(there) => {
                let kind = SFlag::from_bits_truncate(fstat(&there)?.st_mode) & SFlag::S_IFMT;
                return match (kind == SFlag::S_IFDIR, directory) {
                    (true, false) => Err(Errno::EISDIR),
                    (false, true) => Err(Errno::ENOTDIR),
                    _ => Ok(()),
                };
            }
            Err(Errno::ENOENT) if links > 0 => {}
            Err(errno) => return Err(errno),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ENOENT);
        };
        self.provide_by(parent, true, links - 1)?;
        let above = within(&self.root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        // A link that leads nowhere yet: what it leads to is made.
        match readlinkat(&above, name) {
            Ok(target) => return self.provide_by(&parent.join(target), directory, links - 1),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        if directory {
            mkdirat(&above, name, Mode::from_bits_truncate(0o755))?;
        } else {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(&above, name, flags, Mode::from_bits_truncate(0o644))?;
        }
        self.made.push((above, name.to_owned(), directory));
        Ok(())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for (above, name, directory) in self.made.drain(..).rev() {
            remove_unused(&above, &name, directory);
        }
    }
}

fn remove_unused(above: &OwnedFd, name: &OsStr, directory: bool) {
    if directory {
        // ENOTEMPTY: somebody uses it, so it stays.
        let _ = unlinkat(above, name, UnlinkatFlags::RemoveDir);
        return;
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let unused = openat(above, name, flags, Mode::empty())
        .and_then(fstat)
        .is_ok_and(|data| data.st_size == 0 && data.st_mode & libc::S_IFMT == libc::S_IFREG);
    if unused {
        let _ = unlinkat(above, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Opens a path of a root, whose links lead nowhere else.
///
/// # Errors
/// As openat2(2).
pub fn within(root: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let relative: PathBuf = path
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::Prefix(_)))
        .collect();
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &relative
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, relative, how)
}

/// A path that leads to what a descriptor stands on, as long as that is open; see
/// proc_pid_fd(5).
pub(crate) fn named(place: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", place.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_made_within_the_root_and_removed_again() {
        let outside = tempfile::tempdir().expect("a directory");
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("made");
        std::os::unix::fs::symlink("../../../run/resolv.conf", root.join("etc/resolv.conf"))
            .expect("linked");
        std::os::unix::fs::symlink(outside.path(), root.join("dev")).expect("linked");
        {
            let mut places = Places::of(&root).expect("there");
            places.file(Path::new("/etc/resolv.conf")).expect("made");
            places.directory(Path::new("/dev")).expect("made");
            places.directory(Path::new("/a/b/c")).expect("made");
            assert!(root.join("run/resolv.conf").is_file());
            assert!(root.join("a/b/c").is_dir());
            let inside = root.join(outside.path().strip_prefix("/").expect("absolute"));
            assert!(inside.is_dir());
            std::fs::write(root.join("a/kept"), "").expect("written");
        }
        let mut left: Vec<_> = std::fs::read_dir(&root)
            .expect("there")
            .map(|entry| entry.expect("there").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "dev", "etc"]);
        assert!(!root.join("a/b").exists());
    }

    #[test]
    fn what_is_there_already_stays() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("proc")).expect("made");
        {
            let mut places = Places::of(root.path()).expect("there");
            places.directory(Path::new("/proc")).expect("there");
            let refused = places.file(Path::new("/proc")).expect_err("a directory");
            assert!(refused.to_string().ends_with("something else is there"));
        }
        assert!(root.path().join("proc").is_dir());
    }
}
