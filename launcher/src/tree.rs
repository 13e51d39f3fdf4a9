//! The image's tree while it is being put together.
//!
//! Owns: looking up places in the tree as a process inside would, and making
//! missing mount points. Never: follows a link out of the image: every look-up
//! is confined to its root by openat2(2), whatever the image holds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{openat, openat2, readlinkat, AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fchmod, fstat, fstatat, mkdirat, Mode};
use nix::unistd::symlinkat;

use crate::error::{shown, Error, Step};
use crate::layer;
use crate::mount;
use crate::site::MountPoints;
use crate::sys::mount as sys;

/// How many symbolic links a look-up follows before it gives up; as the kernel
/// (MAXSYMLINKS).
const MOST_LINKS: usize = 40;

/// Directories of up to this many entries get a mount point by binding every
/// entry into a new directory; larger ones by an overlay. A bind costs some
/// 10 microseconds, an overlay some 100 and a little at every look-up.
const MOST_BOUND_ENTRIES: usize = 32;

/// A mount point that must be there.
#[derive(Debug)]
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// Whether it is to be a directory.
    pub is_directory: bool,
    /// Whether it is an error if it cannot be, or left at that.
    pub required: bool,
}

/// A place in the tree.
#[derive(Debug)]
pub enum Place {
    /// It exists.
    Found(OwnedFd),
    /// It does not; the look-up got as far as `ancestor`.
    Missing {
        /// The deepest directory on the way that exists, links resolved.
        ancestor: PathBuf,
        /// What is missing below it.
        rest: PathBuf,
    },
}

/// The image's tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    layers: usize,
}

impl Tree {
    /// The tree below `root`, the uppermost of `layers` mounts on the host's root.
    pub fn new(root: OwnedFd, layers: usize) -> Self {
        Self { root, layers }
    }

    /// How many mounts lie on the host's root, this tree's root being the uppermost.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Its root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a place as a process in the image would, for use as a directory
    /// descriptor or mount point (`O_PATH`) or otherwise as `flags` say.
    pub fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            match openat2(&self.root, relative, how) {
                // A rename raced with a `..`; openat2(2) says to try again.
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
    }

    /// Finds a place, or how far the way to it goes.
    ///
    /// # Errors
    /// ELOOP, EACCES, ENOTDIR and the like, as openat2(2).
    pub fn locate(&self, path: &Path) -> Result<Place, Errno> {
        match self.open(path, OFlag::O_PATH) {
            Ok(fd) => return Ok(Place::Found(fd)),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mut links = 0;
        let mut resolved = PathBuf::from("/");
        let mut pending: Vec<OsString> = names(path);
        pending.reverse();
        while let Some(name) = pending.pop() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&name);
            let fd = match self.open(&next, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => {
                    let rest = std::iter::once(name)
                        .chain(pending.into_iter().rev())
                        .collect();
                    return Ok(Place::Missing {
                        ancestor: resolved,
                        rest,
                    });
                }
                Err(errno) => return Err(errno),
            };
            if fstat(&fd)?.st_mode & libc::S_IFMT != libc::S_IFLNK {
                resolved = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = PathBuf::from(readlinkat(&fd, "")?);
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            }
            pending.extend(names(&target).into_iter().rev());
        }
        // Somebody made it meanwhile.
        self.open(path, OFlag::O_PATH).map(Place::Found)
    }

    /// Makes what is missing at a place in a tree that can be written.
    pub fn make(&self, place: &Path, is_directory: bool) -> Result<OwnedFd, Error> {
        let step = || format!("make mount point {} in the image", shown(place));
        match self.locate(place).step(step)? {
            Place::Found(fd) => Ok(fd),
            Place::Missing { ancestor, rest } => {
                let directory = self
                    .open(&ancestor, OFlag::O_PATH | OFlag::O_DIRECTORY)
                    .step(step)?;
                make_below(directory.as_fd(), &rest, is_directory).step(step)?;
                self.open(place, OFlag::O_PATH).step(step)
            }
        }
    }

    /// Makes mount points that a read-only image lacks appear in it. `session` is
    /// a writable directory in memory, attached in this mount namespace, with
    /// nothing in it yet that is named by a number.
    ///
    /// The directory above the missing part is covered by one that has all its
    /// entries and the missing ones too; the rest of the image is reached as before.
    pub fn add_mount_points(
        &mut self,
        session: BorrowedFd<'_>,
        user_namespace: bool,
        points: MountPoints,
        wanted: &[Wanted],
    ) -> Result<(), Error> {
        let mut missing: BTreeMap<PathBuf, Vec<(PathBuf, bool)>> = BTreeMap::new();
        for wanted in wanted {
            let step = || format!("find mount point {} in the image", shown(&wanted.path));
            match self.locate(&wanted.path) {
                Ok(Place::Found(_)) => {}
                Ok(Place::Missing { ancestor, rest }) => missing
                    .entry(ancestor)
                    .or_default()
                    .push((rest, wanted.is_directory)),
                Err(errno) if wanted.required => {
                    return Err(Error::call(step(), errno).in_the_way())
                }
                Err(errno) => tracing::debug!("{}: {errno}", step()),
            }
        }
        // Parents sort before what is below them, so each ancestor is looked up
        // in a tree in which those above it are covered already.
        for (number, (ancestor, additions)) in missing.into_iter().enumerate() {
            let step = || format!("add mount points to {} of the image", shown(&ancestor));
            let lower = self
                .open(&ancestor, OFlag::O_PATH | OFlag::O_DIRECTORY)
                .step(step)?;
            let name = number.to_string();
            mkdirat(session, name.as_str(), Mode::from_bits_truncate(0o755)).step(step)?;
            let upper = open_directory(session, Path::new(&name)).step(step)?;
            for (rest, is_directory) in additions {
                make_below(upper.as_fd(), &rest, is_directory).step(step)?;
            }
            let cover = cover(
                lower.as_fd(),
                &ancestor,
                upper.as_fd(),
                user_namespace,
                points,
            )
            .step(step)?;
            mount::attach(cover.as_fd(), lower.as_fd(), step)?;
            if ancestor == Path::new("/") {
                self.root = cover;
                self.layers += 1;
            }
        }
        Ok(())
    }
}

/// A detached read-only tree that shows `upper`'s entries and those of `lower`, which is
/// at the place `at`.
fn cover(
    lower: BorrowedFd<'_>,
    at: &Path,
    upper: BorrowedFd<'_>,
    user_namespace: bool,
    points: MountPoints,
) -> Result<OwnedFd, Errno> {
    let attributes = mount::attributes(false, true);
    let mode = Mode::from_bits_truncate(fstat(lower)?.st_mode & 0o7777 | 0o500);
    let entries = entries(lower);
    let few = matches!(&entries, Ok(entries) if entries.len() <= MOST_BOUND_ENTRIES);
    let by_overlay = match points {
        MountPoints::Auto => !few,
        MountPoints::Overlay => true,
        MountPoints::Underlay => false,
    };
    // In a user namespace the kernel itself refuses what would show too much.
    if by_overlay && (user_namespace || layer::why_unfit(lower, at).is_none()) {
        fchmod(upper, mode)?;
        // With the user's rights: who may not list a directory may not list it so.
        let overlay = mount::overlay(&[upper, lower], None, user_namespace, attributes);
        // Old kernels and some file systems refuse; binding always works.
        if overlay.is_ok() {
            return overlay;
        }
        fchmod(upper, Mode::S_IRWXU)?;
    }
    for name in entries? {
        bind_entry(lower, upper, &name)?;
    }
    // Only now: who acts with a user's rights could not have made entries before.
    fchmod(upper, mode)?;
    let tree = sys::clone_tree(upper, true)?;
    let change = sys::Attributes {
        set: attributes,
        ..Default::default()
    };
    sys::set_attributes(tree.as_fd(), false, change)?;
    Ok(tree)
}

fn bind_entry(lower: BorrowedFd<'_>, upper: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    let kind = fstatat(lower, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & libc::S_IFMT;
    let made = match kind {
        libc::S_IFLNK => return exists_is_fine(symlinkat(&*readlinkat(lower, name)?, upper, name)),
        libc::S_IFDIR => mkdirat(upper, name, Mode::from_bits_truncate(0o755)),
        _ => make_file(upper, name),
    };
    made?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let source = openat(lower, name, flags, Mode::empty())?;
    let target = openat(upper, name, flags, Mode::empty())?;
    let tree = sys::clone_tree(source.as_fd(), true)?;
    sys::attach(tree.as_fd(), target.as_fd())
}

/// The names in a directory, without `.` and `..`.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<PathBuf>, Errno> {
    let mut dir = Dir::openat(
        directory,
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(PathBuf::from(OsString::from_vec(name)));
        }
    }
    Ok(names)
}

/// Makes the directories of `path` below `directory`, and at its end a directory
/// or an empty file.
fn make_below(directory: BorrowedFd<'_>, path: &Path, is_directory: bool) -> Result<(), Errno> {
    let names = names(path);
    let Some((last, parents)) = names.split_last() else {
        return Ok(());
    };
    let mut at = directory.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    let mode = Mode::from_bits_truncate(0o755);
    for name in parents {
        exists_is_fine(mkdirat(&at, name.as_os_str(), mode))?;
        at = open_directory(at.as_fd(), Path::new(name))?;
    }
    exists_is_fine(if is_directory {
        mkdirat(&at, last.as_os_str(), mode)
    } else {
        make_file(at.as_fd(), Path::new(last))
    })
}

fn open_directory(at: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn make_file(at: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
}

fn exists_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

/// The names a path is made of, `.` left out, `..` kept.
fn names(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
