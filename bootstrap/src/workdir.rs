//! Directories for what is not finished: where a root is put together.
//!
//! Owns: making and removing them. They go when dropped; where the builder is
//! interrupted or killed, [`crate::space::janitor`] removes them; and where that
//! is killed too, a later run of the same user's does. Never: puts anything there.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use nix::errno::Errno;
use nix::mount::{umount2, MntFlags};

use crate::space::{janitor, sys};

/// What the names of work directories begin with.
const PREFIX: &str = "singularity-build-";

/// Where work directories are made: what is asked for, else `SINGULARITY_TMPDIR`,
/// `TMPDIR`, /tmp.
pub fn temporary_directory(asked: Option<&Path>) -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    asked
        .map(Path::to_owned)
        .or_else(|| named("SINGULARITY_TMPDIR").map(PathBuf::from))
        .or_else(|| named("TMPDIR").map(PathBuf::from))
        .unwrap_or_else(|| "/tmp".into())
}

/// A directory of mode 0700 that goes with everything in it when dropped.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    /// Holds the lock that tells later runs that somebody works here.
    _lock: File,
}

impl WorkDir {
    /// Makes one in the directory of [`temporary_directory`], and removes those
    /// that earlier runs of the same user's had to leave there.
    ///
    /// # Errors
    /// As mkdir(2), with what to do about it.
    pub fn new(tmpdir: Option<&Path>) -> Result<Self, Error> {
        let place = temporary_directory(tmpdir);
        Self::make(&place, PREFIX).map_err(|error| {
            let hint = "--tmpdir, SINGULARITY_TMPDIR or TMPDIR names another place to work in";
            let step = format!("make a work directory in {}", Shown::new(&place));
            Error::io(step, &error).hint(hint)
        })
    }

    fn make(place: &Path, prefix: &str) -> std::io::Result<Self> {
        let place = fs::canonicalize(place)?;
        remove_stale(&place, prefix);
        loop {
            let path = place.join(format!("{prefix}{}", random_name()));
            janitor::remember(&path);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    janitor::forget(&path);
                }
                Err(error) => {
                    janitor::forget(&path);
                    return Err(error);
                }
                Ok(()) => {
                    // Before it is locked, another run may take it for one that a
                    // killed run left, and removes it. Where the file system knows no
                    // locks, nobody does.
                    let lock = open_directory(&path);
                    let swept = lock
                        .as_ref()
                        .is_ok_and(|lock| sys::lock(lock.as_fd()) == Err(Errno::EWOULDBLOCK));
                    match lock {
                        Ok(lock) if !swept && path.is_dir() => {
                            return Ok(Self { path, _lock: lock });
                        }
                        Err(error) if path.is_dir() => return Err(error),
                        _ => janitor::forget(&path),
                    }
                }
            }
        }
    }

    /// Where it is: an absolute path without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Removing would go on into what is mounted below, which is not ours.
        if !unmount_below(&self.path) {
            return;
        }
        match remove(&self.path) {
            Ok(()) => janitor::forget(&self.path),
            // The janitor has another try, from outside of all mounts.
            Err(error) => tracing::debug!("remove {}: {error}", self.path.display()),
        }
    }
}

/// Twelve letters that nobody can guess.
pub(crate) fn random_name() -> String {
    let number = RandomState::new().build_hasher().finish();
    format!("{:012x}", number & 0xffff_ffff_ffff)
}

/// Unmounts whatever is mounted below a directory; whether nothing is any more.
fn unmount_below(path: &Path) -> bool {
    let below = || {
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        table
            .split(|byte| *byte == b'\n')
            // See proc_pid_mountinfo(5): the fifth field is the mount point.
            .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
            .map(|field| PathBuf::from(OsStr::from_bytes(&unescaped(field))))
            .filter(|point| point.starts_with(path))
            .collect::<Vec<_>>()
    };
    for point in below().iter().rev() {
        if let Err(errno) = umount2(point, MntFlags::MNT_DETACH) {
            tracing::debug!("unmount {}: {errno}", point.display());
        }
    }
    below().is_empty()
}

/// Spaces and their like are octal in mountinfo.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

fn open_directory(path: &Path) -> std::io::Result<File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

/// Removes what earlier runs of this user's left, which nobody holds a lock on.
fn remove_stale(place: &Path, prefix: &str) {
    let me = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let ours = is_ours(&name, prefix)
            && entry
                .metadata()
                .is_ok_and(|data| data.is_dir() && data.uid() == me);
        if !ours {
            continue;
        }
        let Ok(lock) = open_directory(&path) else {
            continue;
        };
        if sys::lock(lock.as_fd()).is_ok() {
            tracing::debug!("remove {}, which a killed run left", path.display());
            // Somebody else may be at it as well.
            let _ = remove(&path);
        }
    }
}

fn is_ours(name: &OsString, prefix: &str) -> bool {
    let Some(rest) = name.as_encoded_bytes().strip_prefix(prefix.as_bytes()) else {
        return false;
    };
    rest.len() == 12 && rest.iter().all(u8::is_ascii_hexdigit)
}

/// Removes a file or a directory with all that is in it, whatever its modes;
/// that it is gone already is no error. Follows no link.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    let once = || match path.symlink_metadata() {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    let mut result = once();
    if result
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    {
        open_up(path.as_os_str());
        result = once();
    }
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Lets this user search and change a directory and all below it.
fn open_up(path: &OsStr) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = Path::new(path);
    if !path.symlink_metadata().is_ok_and(|data| data.is_dir()) {
        return;
    }
    // What cannot be opened, removing tells.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        open_up(entry.path().as_os_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_directory_goes_with_all_that_is_in_it() {
        let place = tempfile::tempdir().expect("a directory");
        let work = WorkDir::new(Some(place.path())).expect("made");
        let shut = work.path().join("shut");
        fs::create_dir_all(shut.join("deep")).expect("made");
        fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(0o000))
            .expect("shut");
        drop(work);
        assert_eq!(fs::read_dir(place.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_later_run_removes_what_nobody_works_in() {
        let place = tempfile::tempdir().expect("a directory");
        let stale = place.path().join("singularity-build-0123456789ab");
        let other = place.path().join("singularity-build-of-somebody");
        fs::create_dir(&stale).expect("made");
        fs::write(stale.join("file"), "x").expect("written");
        fs::create_dir(&other).expect("made");
        let first = WorkDir::new(Some(place.path())).expect("made");
        assert!(!stale.exists());
        assert!(other.exists());
        let second = WorkDir::new(Some(place.path())).expect("made");
        assert!(first.path().exists(), "somebody works there");
        assert_ne!(first.path(), second.path());
    }

    #[test]
    fn mount_points_are_read_as_they_are_written() {
        assert_eq!(unescaped(br"/a\040b\134c"), b"/a b\\c");
    }
}
