//! Mounts, one function a kind, all detached until they are attached.
//!
//! Owns: making mounts from sources and giving them their attributes before
//! anybody can reach them. Never: decides what is mounted.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
use nix::sys::statfs::{fstatfs, FUSE_SUPER_MAGIC};

use crate::error::{shown, Error, Step};
use crate::sys::mount::{self as sys, Attributes, FileSystemContext, NODEV, NOSUID, RDONLY};

/// The attributes of a mount in the image: never set-id programs, devices only
/// where the plan says so, writing only where it is allowed.
pub fn attributes(devices: bool, read_only: bool) -> u64 {
    NOSUID | if devices { 0 } else { NODEV } | if read_only { RDONLY } else { 0 }
}

/// Opens a file or directory of the host as the source of a mount.
///
/// A trailing `/.` makes an automounter mount what it serves there; O_PATH alone
/// does not (open(2)).
pub fn open_source(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    match open(&path.join("."), flags | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(Errno::ENOTDIR | Errno::EACCES) => open(path, flags, Mode::empty()),
        result => result,
    }
}

/// Whether a descriptor names a directory.
pub fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = nix::sys::stat::fstat(fd)?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether two descriptors name the same place: the same file on the same mount.
pub fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    is_same_file(a, b) && number(a) == number(b)
}

/// Whether two descriptors name the same file, on whatever mounts; not if that cannot
/// be told.
pub fn is_same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let file = |fd| nix::sys::stat::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    file(a).is_ok() && file(a) == file(b)
}

/// The number of the mount on which a descriptor's file was found, as
/// proc_pid_mountinfo(5) has it too.
pub fn number(fd: BorrowedFd<'_>) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    Some(number.trim().to_owned())
}

/// Whether somebody else than the kernel serves a file, and goes by who asks; also if that
/// cannot be told.
pub fn is_by_fuse(fd: BorrowedFd<'_>) -> bool {
    !fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() != FUSE_SUPER_MAGIC)
}

/// A detached copy of the tree at `source`, with what is mounted below it, all
/// of it with `attributes`.
pub fn bind(source: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    let tree = copy(source)?;
    give(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// The same, as it is.
pub fn copy(source: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    sys::clone_tree(source, true)
}

/// Gives a detached tree its `attributes`.
pub fn give(tree: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    let change = Attributes {
        set: attributes,
        ..Attributes::default()
    };
    sys::set_attributes(tree, true, change)
}

/// A new, empty file system in memory whose root has the permission bits `mode`.
/// `name` shows as its source in /proc/PID/mountinfo.
pub fn memory(name: &CStr, mode: u32, attributes: u64) -> Result<OwnedFd, Errno> {
    let context = FileSystemContext::open(c"tmpfs")?;
    context.set(c"source", name)?;
    context.set(
        c"mode",
        &CString::new(format!("{mode:o}")).unwrap_or_default(),
    )?;
    context.mount(attributes)
}

/// A new instance of a kernel file system without options, such as `proc`.
pub fn pseudo(kind: &CStr, attributes: u64) -> Result<OwnedFd, Errno> {
    let context = FileSystemContext::open(kind)?;
    context.set(c"source", kind)?;
    context.mount(attributes)
}

/// The path by which the kernel finds an open descriptor of this process again.
pub fn descriptor_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// An overlay of `lower` trees, uppermost first, read-only unless `upper` (the
/// upper and the work directory) is given. In a user namespace extended
/// attributes go to `user.*` (Linux 5.11, Documentation/filesystems/overlayfs.rst).
pub fn overlay(
    lower: &[BorrowedFd<'_>],
    upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    user_attributes: bool,
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = FileSystemContext::open(c"overlay")?;
    context.set(c"source", c"overlay")?;
    let mut directories = Vec::new();
    for directory in lower {
        if !directories.is_empty() {
            directories.push(b':');
        }
        directories.extend(descriptor_path(*directory).into_bytes());
    }
    context.set(c"lowerdir", &CString::new(directories).unwrap_or_default())?;
    if let Some((upper, work)) = upper {
        context.set(c"upperdir", &descriptor_path(upper))?;
        context.set(c"workdir", &descriptor_path(work))?;
    }
    if user_attributes {
        context.flag(c"userxattr")?;
    } else {
        // Attributes by which an image could have one of its files shown for another.
        context.set(c"redirect_dir", c"nofollow")?;
        context.set(c"metacopy", c"off")?;
    }
    context.mount(attributes)
}

/// Attaches `tree` on `target`, in words on failure.
pub fn attach(
    tree: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    step: impl FnOnce() -> String,
) -> Result<(), Error> {
    sys::attach(tree, target).map_err(|errno| {
        let step = step();
        match errno {
            // move_mount(2) and mount(2) say "no space left on device", which users misread.
            Errno::ENOSPC => Error::new(step, "the limit of mounts is reached")
                .hint("see /proc/sys/fs/mount-max"),
            Errno::ENOTDIR => Error::new(step, "one is a directory, the other is not"),
            _ => Error::call(step, errno),
        }
    })
}

/// Opens a directory of the host for use by the kernel, in words on failure.
pub fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).step(|| format!("open directory {}", shown(path)))
}

/// A path as the C string a system call takes; a path cannot hold a NUL byte.
pub fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(format!("path {}", shown(path)), "holds a NUL byte"))
}
