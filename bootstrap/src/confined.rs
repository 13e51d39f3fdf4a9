//! Reading and writing in a root file system that is being built, which may hold
//! any links: none of them leads out of it.
//!
//! Owns: look-ups confined to the root (openat2(2), `RESOLVE_IN_ROOT`): `/` and `..`
//! mean what they will mean in the finished image. Never: follows a link that is
//! itself to be written or removed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{
    fchmod, mkdirat, openat, openat2, readlinkat, renameat, statat, symlinkat, unlinkat, AtFlags,
    Dir, FileType, Mode, OFlags, ResolveFlags, Stat, CWD,
};
use rustix::io::Errno;

use crate::failure::call;

/// How many links that lead nowhere yet may stand one behind the other.
const LINKS: usize = 40;

/// A root file system.
#[derive(Debug)]
pub struct Confined {
    root: OwnedFd,
    shown: PathBuf,
}

impl Confined {
    /// The one whose top is the directory at `path`.
    ///
    /// # Errors
    /// As open(2).
    pub fn new(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| call(format!("open {}", Shown::new(path)), errno))?;
        Ok(Self {
            root,
            shown: path.to_owned(),
        })
    }

    fn failed(&self, what: &str, path: &Path, errno: Errno) -> Error {
        let step = format!("{what} {} in the image", Shown::new(path));
        match errno {
            Errno::NOTDIR => Error::new(step, "something on the way to it is no directory")
                .hint("name another place, or remove what is there first"),
            errno => call(step, errno),
        }
    }

    /// Where the root is on the host.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// Opens a path, the last link followed as well.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat2(
            &self.root,
            relative(path),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// The directory that holds a path's last name, and that name.
    ///
    /// # Errors
    /// As openat2(2); the top has no name.
    pub fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory = self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((directory, name.to_owned()))
    }

    /// What is at a path; links are followed. None if nothing is.
    pub fn stat(&self, path: &Path) -> Option<Stat> {
        let there = self.open(path, OFlags::PATH).ok()?;
        rustix::fs::fstat(there).ok()
    }

    /// What is at a path, be it a link. None if nothing is.
    pub fn stat_link(&self, path: &Path) -> Option<Stat> {
        let (directory, name) = self.parent(path).ok()?;
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// Whether there is a directory, or a link to one.
    pub fn is_directory(&self, path: &Path) -> bool {
        self.stat(path)
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
    }

    /// Sees to it that there is a directory, with those above it. A link that
    /// leads nowhere yet leads to it then.
    ///
    /// # Errors
    /// Something else is there; as mkdir(2).
    pub fn make_directories(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.provide(path, LINKS)
            .map_err(|errno| self.failed("make directory", path, errno))
    }

    fn provide(&self, path: &Path, links: usize) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let parent = path.parent().ok_or(Errno::NOENT)?;
        // A name is missing where the path ends in `..`, which is there or not.
        let Some(name) = path.file_name() else {
            self.provide(parent, links)?;
            return self.open(path, flags);
        };
        let above = self.provide(parent, links)?;
        match readlinkat(&above, name, Vec::new()) {
            Ok(_) if links == 0 => return Err(Errno::LOOP),
            Ok(target) => {
                use std::os::unix::ffi::OsStrExt;
                let target = parent.join(OsStr::from_bytes(target.to_bytes()));
                return self.provide(&target, links - 1);
            }
            Err(_) => {}
        }
        match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.open(path, flags),
            Err(errno) => Err(errno),
        }
    }

    /// Writes a file of this mode in the place of what is there, be it a link. The
    /// directories above it are made.
    ///
    /// # Errors
    /// A directory is there; as open(2) and write(2).
    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
        let mut file = File::from(self.create(path, mode)?);
        file.write_all(content)
            .map_err(|error| Error::io(format!("write {} in the image", Shown::new(path)), &error))
    }

    /// Makes an empty file of this mode in the place of what is there.
    ///
    /// # Errors
    /// As [`Confined::write`].
    pub fn create(&self, path: &Path, mode: u32) -> Result<OwnedFd, Error> {
        let failed = |errno| self.failed("write", path, errno);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory = self.make_directories(parent)?;
        let name = path.file_name().ok_or_else(|| failed(Errno::ISDIR))?;
        match unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
        Ok(file)
    }

    /// Makes a symbolic link in the place of what is there.
    ///
    /// # Errors
    /// A directory is there; as symlink(2).
    pub fn link(&self, path: &Path, target: &Path) -> Result<(), Error> {
        let failed = |errno| self.failed("link", path, errno);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory = self.make_directories(parent)?;
        let name = path.file_name().ok_or_else(|| failed(Errno::ISDIR))?;
        match unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        symlinkat(target, &directory, name).map_err(failed)
    }

    /// The content of a regular file, or of what a link leads to; None if there is
    /// none.
    ///
    /// # Errors
    /// As open(2) and read(2).
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let failed = |errno| self.failed("read", path, errno);
        let there = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(there) => there,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&there).map_err(failed)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(None);
        }
        let mut content = Vec::new();
        File::from(there)
            .read_to_end(&mut content)
            .map_err(|error| {
                Error::io(format!("read {} in the image", Shown::new(path)), &error)
            })?;
        Ok(Some(content))
    }

    /// The names in a directory, sorted; none if there is no such directory.
    pub fn names(&self, path: &Path) -> Vec<OsString> {
        let Ok(directory) = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Vec::new();
        };
        names_in(directory)
    }

    /// Removes a file, or a directory with all that is in it; nothing there is no
    /// error.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        let (directory, name) = match self.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(self.failed("remove", path, errno)),
        };
        remove_in(&directory, &name).map_err(|errno| self.failed("remove", path, errno))
    }

    /// Removes all that is in a directory; no such directory is no error.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn empty(&self, path: &Path) -> Result<(), Error> {
        for name in self.names(path) {
            self.remove(&path.join(name))?;
        }
        Ok(())
    }

    /// Gives a file another name; what has that name goes.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let failed = |errno| self.failed("rename", from, errno);
        let target = self.make_directories(to.parent().unwrap_or(Path::new("/")))?;
        let (source, name) = self.parent(from).map_err(failed)?;
        let new = to.file_name().ok_or_else(|| failed(Errno::ISDIR))?;
        renameat(source, name, target, new).map_err(failed)
    }
}

/// The names in an open directory, sorted.
pub(crate) fn names_in(directory: OwnedFd) -> Vec<OsString> {
    use std::os::unix::ffi::OsStrExt;
    let mut names: Vec<_> = Dir::new(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

/// Removes a name in an open directory, with all that is below it.
fn remove_in(directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = openat(directory, name, flags, Mode::empty())?;
    let names = names_in(rustix::io::dup(&below)?);
    for inner in names {
        remove_in(&below, &inner)?;
    }
    unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// A path as seen from the top.
fn relative(path: &Path) -> PathBuf {
    let relative: PathBuf = path
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::Prefix(_)))
        .collect();
    if relative.as_os_str().is_empty() {
        ".".into()
    } else {
        relative
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fixture() -> (tempfile::TempDir, Confined) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outside.path().join("host"), "host").unwrap();
        symlink(outside.path(), root.join("absolute")).unwrap();
        symlink("../..", root.join("up")).unwrap();
        symlink("../host", root.join("file")).unwrap();
        let confined = Confined::new(&root).unwrap();
        (outside, confined)
    }

    #[test]
    fn no_link_leads_out() {
        let (outside, root) = fixture();
        for path in ["/absolute/host", "/up/host", "/file", "/../host"] {
            let read = root.read(Path::new(path)).unwrap();
            assert_ne!(read.as_deref(), Some(&b"host"[..]), "{path}");
            root.write(Path::new(path), b"image", 0o644).unwrap();
        }
        root.remove(Path::new("/up/host")).unwrap();
        let host = std::fs::read_to_string(outside.path().join("host")).unwrap();
        assert_eq!(host, "host");
        assert!(root.path().join("file").is_file());
    }

    #[test]
    fn directories_are_made_through_links_that_lead_nowhere_yet() {
        let (outside, root) = fixture();
        symlink("/var/there", root.path().join("link")).unwrap();
        root.make_directories(Path::new("/link/a/b")).unwrap();
        assert!(root.path().join("var/there/a/b").is_dir());
        symlink("loop", root.path().join("loop")).unwrap();
        assert!(root.make_directories(Path::new("/loop/a")).is_err());
        let names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn directories_are_removed_with_all_in_them_and_links_alone() {
        let (outside, root) = fixture();
        root.write(Path::new("/d/e/f"), b"", 0o644).unwrap();
        symlink(outside.path(), root.path().join("d/out")).unwrap();
        root.remove(Path::new("/d")).unwrap();
        root.remove(Path::new("/nothing/there")).unwrap();
        assert!(!root.path().join("d").exists());
        assert!(outside.path().join("host").exists());
    }
}
