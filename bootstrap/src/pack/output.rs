//! A file that is written beside its place and appears there whole, or never.
//!
//! Owns: where an unfinished image is, and its last step, getting its name. Never:
//! touches what is at the place before the new one is complete. Where the file
//! system can, the unfinished file has no name at all (`O_TMPFILE`, open(2)), so
//! whatever ends this process leaves nothing behind.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{
    flock, linkat, open, openat, renameat, unlinkat, AtFlags, Dir, FlockOperation, Mode, OFlags,
    CWD,
};
use rustix::io::Errno;

use crate::failure::call;

/// Unfinished files that need a name have this in it.
const MARK: &str = ".singularity-unfinished-";

/// A file on its way to a place.
#[derive(Debug)]
pub struct Output {
    place: PathBuf,
    directory: OwnedFd,
    file: File,
    /// Its name meanwhile, where the file system needs one.
    name: Option<String>,
    replace: bool,
    finished: bool,
}

impl Output {
    /// Begins a file for `place`, which must not be there unless `replace` is given.
    ///
    /// # Errors
    /// Something is there, or the directory is missing or cannot be written.
    pub fn begin(place: &Path, replace: bool) -> Result<Self, Error> {
        check(place, replace)?;
        let parent = parent(place);
        let directory = open(
            parent,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| making(place, errno))?;
        // Without O_CLOEXEC: the tools that fill it find it by its number.
        let access = OFlags::RDWR;
        let mode = Mode::from_raw_mode(0o666);
        let unnamed = openat(&directory, ".", access | OFlags::TMPFILE, mode);
        let (file, name) = match unnamed {
            Ok(file) => (file, None),
            // EISDIR: a file system or kernel that does not know the flag.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                sweep(&directory);
                let name = unfinished();
                let flags = access | OFlags::CREATE | OFlags::EXCL;
                let file = openat(&directory, name.as_str(), flags, mode)
                    .map_err(|errno| making(place, errno))?;
                (file, Some(name))
            }
            Err(errno) => return Err(making(place, errno)),
        };
        if name.is_some() {
            // For as long as it is locked, nobody else's sweep removes it.
            let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        Ok(Self {
            place: place.to_owned(),
            directory,
            file: file.into(),
            name,
            replace,
            finished: false,
        })
    }

    /// The file, empty at first, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A path by which this process's children can open it.
    pub fn path_for_tools(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Where it is going to be.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Gives the file its name; what was there under that name is gone then.
    ///
    /// # Errors
    /// Something has appeared at the place meanwhile; a failed link(2) or rename(2).
    pub fn finish(mut self) -> Result<(), Error> {
        let step = || format!("put image {} in its place", Shown::new(&self.place));
        let failed = |errno| match errno {
            Errno::EXIST => there_already(&self.place),
            errno => call(step(), errno),
        };
        let last = self.place.file_name().unwrap_or_default();
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                let source = self.path_for_tools();
                let link = |name: &std::ffi::OsStr| {
                    linkat(
                        CWD,
                        &source,
                        self.directory.as_fd(),
                        name,
                        AtFlags::SYMLINK_FOLLOW,
                    )
                };
                if !self.replace {
                    link(last).map_err(failed)?;
                    self.finished = true;
                    return Ok(());
                }
                let name = unfinished();
                link(name.as_ref()).map_err(failed)?;
                name
            }
        };
        self.name = Some(name.clone());
        let renamed = if self.replace {
            renameat(&self.directory, name.as_str(), &self.directory, last)
        } else {
            linkat(
                &self.directory,
                name.as_str(),
                &self.directory,
                last,
                AtFlags::empty(),
            )
            // File systems without links.
            .or_else(|errno| match errno {
                Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS
                    if self.place.symlink_metadata().is_err() =>
                {
                    renameat(&self.directory, name.as_str(), &self.directory, last)
                }
                errno => Err(errno),
            })
        };
        renamed.map_err(failed)?;
        self.finished = self.replace;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(name) = self.name.as_ref().filter(|_| !self.finished) {
            // After a link(2) this is the second name; else the whole of it.
            let _ = unlinkat(&self.directory, name.as_str(), AtFlags::empty());
        }
    }
}

/// Says early whether a file or directory can be made at `place`.
///
/// # Errors
/// Something is there and `replace` is not given, or it is of a kind that is
/// never replaced.
pub fn check(place: &Path, replace: bool) -> Result<(), Error> {
    if place.file_name().is_none() {
        return Err(Error::new(
            format!("make image {}", Shown::new(place)),
            "the path has no name at its end",
        )
        .hint("give the image a name"));
    }
    match place.symlink_metadata() {
        Ok(_) if !replace => Err(there_already(place)),
        Ok(there) if there.is_file() || there.is_dir() || there.is_symlink() => Ok(()),
        Ok(_) => Err(Error::new(
            format!("make image {}", Shown::new(place)),
            "what is there is neither a file nor a directory",
        )
        .hint("choose another name")),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) if parent(place).is_dir() => Ok(()),
            Some(errno) => Err(making(place, errno)),
            None => Err(Error::io(
                format!("make image {}", Shown::new(place)),
                &error,
            )),
        },
    }
}

/// The directory that a path's last name is in.
pub(super) fn parent(place: &Path) -> &Path {
    match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name that nobody else uses, beside the place.
pub(super) fn unfinished() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    format!("{MARK}{}-{number}-{time:x}", std::process::id())
}

/// Removes what killed processes left of their unfinished files.
fn sweep(directory: &OwnedFd) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_bytes().starts_with(MARK.as_bytes()) {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if let Ok(file) = openat(directory, name, flags, Mode::empty()) {
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = unlinkat(directory, name, AtFlags::empty());
            }
        }
    }
}

fn there_already(place: &Path) -> Error {
    Error::new(
        format!("make image {}", Shown::new(place)),
        "there is something of that name already",
    )
    .hint("choose another name, or replace it with --force")
}

fn making(place: &Path, errno: Errno) -> Error {
    let error = call(format!("make image {}", Shown::new(place)), errno);
    match errno {
        Errno::NOENT => error.hint("the directory it is to be in has to exist"),
        Errno::ACCESS | Errno::PERM => {
            error.hint("you need write permission in the directory it is to be in")
        }
        _ => error,
    }
}
