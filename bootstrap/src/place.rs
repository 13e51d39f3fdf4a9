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
use nix::sys::stat::{fchmod, fchmodat, fstat, mkdirat, FchmodatFlags, Mode, SFlag};
use nix::unistd::{unlinkat, UnlinkatFlags};

/// How many dangling links may lead to a place; as the kernel's limit.
const LINKS: usize = 40;

/// The places that were made in a root. They go when dropped, where nothing was
/// put into them.
#[derive(Debug)]
pub struct Places {
    root: OwnedFd,
    shown: PathBuf,
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    above: OwnedFd,
    name: OsString,
    what: What,
}

/// What is wanted at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Directory,
    /// A file to mount on.
    File,
    /// A script, which is read as long as it is there.
    Script(&'static str),
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

    /// Whether something is at a place.
    pub fn has(&self, path: &Path) -> bool {
        within(&self.root, path, OFlag::O_PATH).is_ok()
    }

    /// Sees to it that there is a directory.
    ///
    /// # Errors
    /// Something else is there, or it cannot be made.
    pub fn directory(&mut self, path: &Path) -> Result<(), Error> {
        self.provide(path, What::Directory)
    }

    /// Sees to it that there is something that is no directory.
    ///
    /// # Errors
    /// As [`Places::directory`].
    pub fn file(&mut self, path: &Path) -> Result<(), Error> {
        self.provide(path, What::File)
    }

    /// Puts a script there if nothing is, in a directory that is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn script(&mut self, path: &Path, text: &'static str) -> Result<(), Error> {
        self.provide(path, What::Script(text))
    }

    /// Leaves what was made so far, whatever becomes of it.
    pub fn keep(&mut self) {
        self.made.clear();
    }

    fn provide(&mut self, path: &Path, what: What) -> Result<(), Error> {
        self.provide_by(path, what, LINKS).map_err(|errno| {
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

    fn provide_by(&mut self, path: &Path, what: What, links: usize) -> Result<(), Errno> {
        match within(&self.root, path, OFlag::O_PATH) {
            Ok(there) => {
                let kind = SFlag::from_bits_truncate(fstat(&there)?.st_mode) & SFlag::S_IFMT;
                return match (kind == SFlag::S_IFDIR, what == What::Directory) {
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
        self.provide_by(parent, What::Directory, links - 1)?;
        let above = within(&self.root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        // A link that leads nowhere yet: what it leads to is made.
        match readlinkat(&above, name) {
            Ok(target) => return self.provide_by(&parent.join(target), what, links - 1),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let (mode, text) = match what {
            What::Directory => {
                let mode = Mode::from_bits_truncate(0o755);
                mkdirat(&above, name, mode)?;
                // Whatever the umask is.
                fchmodat(&above, name, mode, FchmodatFlags::FollowSymlink)?;
                (0o755, "")
            }
            What::File => (0o644, ""),
            What::Script(text) => (0o755, text),
        };
        if what != What::Directory {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            let file = openat(&above, name, flags, Mode::from_bits_truncate(mode))?;
            nix::unistd::write(&file, text.as_bytes())?;
            fchmod(&file, Mode::from_bits_truncate(mode))?;
        }
        self.made.push(Made {
            above,
            name: name.to_owned(),
            what,
        });
        Ok(())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for made in self.made.drain(..).rev() {
            remove_unused(&made.above, &made.name, made.what);
        }
    }
}

fn remove_unused(above: &OwnedFd, name: &OsStr, what: What) {
    let length = match what {
        What::Directory => {
            // ENOTEMPTY: somebody uses it, so it stays.
            let _ = unlinkat(above, name, UnlinkatFlags::RemoveDir);
            return;
        }
        What::File => 0,
        What::Script(text) => text.len(),
    };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let is_ours = openat(above, name, flags, Mode::empty())
        .and_then(fstat)
        .is_ok_and(|data| {
            data.st_size == length as libc::off_t && data.st_mode & libc::S_IFMT == libc::S_IFREG
        });
    if is_ours {
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
            places
                .script(Path::new("/a/script"), "#!/bin/sh\n")
                .expect("made");
            assert_eq!(
                std::fs::read(root.join("a/script")).expect("there"),
                b"#!/bin/sh\n"
            );
        }
        let mut left: Vec<_> = std::fs::read_dir(&root)
            .expect("there")
            .map(|entry| entry.expect("there").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "dev", "etc"]);
        assert!(!root.join("a/b").exists());
        assert!(!root.join("a/script").exists());
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
