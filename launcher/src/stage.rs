//! An image file copied to the node before it is mounted, so that what the job reads
//! of it is read from the node and not from the file system that all nodes share.
//!
//! Owns: what `--stage` says, and the copy. Never: gives the copy a name. It is an
//! unnamed file (open(2), `O_TMPFILE`), so nobody else can open or replace it, no link
//! leads astray, and the kernel frees it with the last that has it open: the FUSE
//! server or the loop device, which end with the last rank; or this process, however it
//! ends. Who copies is decided by [`crate::join`]: the first rank of a job on a node.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use image::{FileSystem, Identity, Image};
use nix::errno::Errno;
use nix::fcntl::{fallocate, open, openat, FallocateFlags, OFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, Resource};
use nix::sys::stat::Mode;

use crate::error::{shown, Error};
use crate::host::Host;
use crate::lock;
use crate::mount::descriptor_path;
use crate::request::{HostPath, Request};
use crate::site::Site;

/// How long who waits for a copy may wait: 100 GB at 50 MB/s.
pub const PATIENCE: Duration = Duration::from_secs(2000);

/// Where the copy lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the file system of this directory.
    Directory(HostPath),
    /// In the node's memory.
    Memory,
}

/// That the image is to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stage {
    /// Where to.
    pub place: Place,
    /// Whether the image itself is used, with a warning, where it cannot be copied.
    pub or_original: bool,
}

impl Stage {
    /// What a user asks for by `text`, on this host and under the rules of this site.
    pub fn asked(text: Option<&OsStr>, host: &Host, site: &Site) -> Option<Self> {
        let cwd = host.cwd.as_deref().unwrap_or(Path::new("/"));
        let tmpdir = host.variable("TMPDIR");
        Self::parse(text?, site.stage_dir.as_deref(), tmpdir, cwd)
    }

    /// Reads `[try:][DIR|memory]`, or a word for no or yes. Without a directory it is
    /// the site's, else `TMPDIR`, else /tmp; a relative one starts at `cwd`.
    pub fn parse(
        text: &OsStr,
        site: Option<&Path>,
        tmpdir: Option<&OsStr>,
        cwd: &Path,
    ) -> Option<Self> {
        let no = ["", "0", "no", "n", "false", "off"];
        if no.iter().any(|no| text.eq_ignore_ascii_case(no)) {
            return None;
        }
        let (or_original, rest) = match text.as_bytes() {
            b"try" => (true, &b""[..]),
            bytes => match bytes.strip_prefix(b"try:") {
                Some(rest) => (true, rest),
                None => (false, bytes),
            },
        };
        let rest = OsStr::from_bytes(rest);
        let yes = ["", "1", "yes", "y", "true", "on"];
        let place = if rest == "memory" {
            Place::Memory
        } else if yes.iter().any(|yes| rest.eq_ignore_ascii_case(yes)) {
            let own = tmpdir.map(Path::new).filter(|path| path.is_absolute());
            Place::Directory(HostPath::new(site.or(own).unwrap_or(Path::new("/tmp"))))
        } else {
            Place::Directory(HostPath::new(cwd.join(rest)))
        };
        Some(Self { place, or_original })
    }

    /// What [`Stage::parse`] reads, with a relative directory made absolute: the same
    /// wherever it is read. A directory without a slash in it, as `d`, counts as one.
    pub fn absolute(text: &OsStr, cwd: &Path) -> OsString {
        // What a word without a directory stands for is known on the node.
        let default = Path::new("/?");
        match Self::parse(text, Some(default), None, cwd) {
            Some(Self {
                place: Place::Directory(path),
                ..
            }) if path.as_path() == default => text.to_owned(),
            Some(stage) => stage.words(),
            None => text.to_owned(),
        }
    }

    /// The same as it would be written.
    pub fn words(&self) -> OsString {
        let mut text = OsString::from(if self.or_original { "try:" } else { "" });
        match &self.place {
            Place::Directory(path) => text.push(path.as_path()),
            Place::Memory => text.push("memory"),
        }
        text
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", shown(path.as_path())),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// The image to mount instead of the request's: its copy; `None` where none is asked
/// for, or it cannot be made and the user goes on without. `host` says who mounts it.
///
/// # Errors
/// The copy cannot be made; nothing of it is left.
pub fn stage(request: &Request, host: &Host) -> Result<Option<Image>, Error> {
    let Some(stage) = &request.stage else {
        return Ok(None);
    };
    match copy(&request.image, &stage.place, host.acts_for_user()) {
        Ok(image) => Ok(Some(image)),
        Err(error) if stage.or_original => {
            tracing::warn!("{error}; going on with the image itself");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn copy(image: &Image, place: &Place, by_root: bool) -> Result<Image, Error> {
    let step = || format!("stage image {} to {place}", shown(image.path()));
    let begun = Instant::now();
    let size = image.identity().size;
    // Writing beyond it would be the end by SIGXFSZ.
    if getrlimit(Resource::RLIMIT_FSIZE).is_ok_and(|(limit, _)| limit < size) {
        return Err(Error::new(
            step(),
            format!("its {size} bytes are more than the limit of file size"),
        )
        .hint("raise it (ulimit -f), or leave out --stage"));
    }
    // Who writes to an ext image would be in the middle of something.
    let root = image.root();
    if root.is_some_and(|root| root.filesystem == FileSystem::Ext) {
        lock::take(image, false)?;
    }
    let failed = |errno: Errno| {
        match errno {
        Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM => Error::new(
            step(),
            format!("no room for its {size} bytes there ({})", errno.desc()),
        )
        .hint("name another place, --stage=DIR; or go on with the image itself where there is no room, --stage=try:DIR"),
        errno => Error::call(step(), errno),
    }
    };
    let changed = || {
        Error::new(step(), "it was changed while it was copied")
            .hint("start again when whoever writes to it is done")
    };
    let mut target = File::from(unnamed(place, by_root, step)?);
    // All of its room at once: a full disk is told before anything is copied.
    match fallocate(&target, FallocateFlags::empty(), 0, size as i64) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let mut source = image.file();
    let copied = source
        .rewind()
        .and_then(|()| io::copy(&mut source.take(size), &mut target))
        .map_err(|error| failed(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
    let now = source.metadata().map(|metadata| Identity::of(&metadata));
    if copied != size || !now.is_ok_and(|now| now == image.identity()) {
        return Err(changed());
    }
    // From now on nobody writes to it.
    let number = descriptor_path(target.as_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let copy = open(number.as_c_str(), flags, Mode::empty()).map_err(failed)?;
    drop(target);
    let copy = image.in_copy(copy.into())?;
    // What was judged is what will be mounted, whatever became of the times of the file.
    if copy.root() != image.root() {
        return Err(changed());
    }
    tracing::info!(
        "image {} copied to {place}: {size} bytes in {:.3} s",
        shown(image.path()),
        begun.elapsed().as_secs_f64()
    );
    Ok(copy)
}

/// A new file without a name that only this user may open, and that nobody can give one.
///
/// `by_root`: root is to mount it. A user who serves a file system by FUSE could change
/// it there, after the site's rules have been asked about the image.
fn unnamed(place: &Place, by_root: bool, step: impl Fn() -> String) -> Result<OwnedFd, Error> {
    let directory = match place {
        Place::Memory => {
            return memfd_create(c"singularity-image", MFdFlags::MFD_CLOEXEC)
                .map_err(|errno| Error::call(step(), errno))
        }
        Place::Directory(directory) => directory.as_path(),
    };
    let refused = |errno: Errno| {
        Error::call(step(), errno).hint(
            "name a directory of the node that you may write to, --stage=DIR; or leave out --stage",
        )
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty()).map_err(refused)?;
    if by_root && crate::mount::is_by_fuse(directory.as_fd()) {
        return Err(Error::new(
            step(),
            "whoever serves its file system (FUSE) could change the copy",
        )
        .hint("name a directory on a disk of the node, or --stage=memory"));
    }
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    openat(&directory, ".", flags, mode).map_err(|errno| match errno {
        // File systems of many nodes have none, which is a good reason not to copy there.
        Errno::EOPNOTSUPP | Errno::EISDIR => Error::new(
            step(),
            "its file system has no unnamed files, as those of local disks have",
        )
        .hint("name a directory on a disk of the node, or --stage=memory"),
        errno => refused(errno),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, site: Option<&str>, tmpdir: Option<&str>) -> Option<String> {
        let site = site.map(Path::new);
        let stage = Stage::parse(
            text.as_ref(),
            site,
            tmpdir.map(OsStr::new),
            "/here".as_ref(),
        )?;
        Some(stage.words().into_string().unwrap())
    }

    #[test]
    fn a_place_is_the_users_else_the_sites_else_tmpdir_else_tmp() {
        for (text, site, tmpdir, expected) in [
            ("/d", Some("/s"), Some("/t"), Some("/d")),
            ("d", None, None, Some("/here/d")),
            ("", Some("/s"), Some("/t"), None),
            ("yes", Some("/s"), Some("/t"), Some("/s")),
            ("yes", None, Some("/t"), Some("/t")),
            ("yes", None, Some("relative"), Some("/tmp")),
            ("1", None, None, Some("/tmp")),
            ("Off", Some("/s"), None, None),
            ("try", Some("/s"), None, Some("try:/s")),
            ("try:/d", None, None, Some("try:/d")),
            ("try:memory", None, None, Some("try:memory")),
            ("memory", None, None, Some("memory")),
        ] {
            assert_eq!(parse(text, site, tmpdir).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_handed_on_means_the_same_everywhere() {
        for (text, expected) in [
            ("d", "/here/d"),
            ("try:./d", "try:/here/./d"),
            ("/d", "/d"),
            ("yes", "yes"),
            ("try", "try"),
            ("memory", "memory"),
            ("off", "off"),
        ] {
            let once = Stage::absolute(text.as_ref(), "/here".as_ref());
            assert_eq!(once, expected);
            assert_eq!(Stage::absolute(&once, "/elsewhere".as_ref()), once);
        }
    }
}
