//! The descriptor-based mount interface: open_tree(2), move_mount(2),
//! mount_setattr(2), fsopen(2), fsconfig(2), fsmount(2).
//!
//! Mounts are named by descriptors from beginning to end, so no path is looked
//! up twice, and attributes are on a mount before anybody can reach it.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

pub use libc::{
    MOUNT_ATTR_NODEV as NODEV, MOUNT_ATTR_NOEXEC as NOEXEC, MOUNT_ATTR_NOSUID as NOSUID,
    MOUNT_ATTR_RDONLY as RDONLY,
};

const EMPTY: &CStr = c"";

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as libc::c_int;
    // SAFETY: the kernel has just returned `fd` as a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Clones the mount that `at` stands on into a detached tree, from the directory
/// or file `at` names; with `recursive`, everything mounted below comes along.
/// See open_tree(2), `OPEN_TREE_CLONE`.
pub fn clone_tree(at: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: `EMPTY` is a live NUL-terminated string that open_tree(2) only reads.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), EMPTY.as_ptr(), flags) })
}

/// What to change on a mount or, recursively, on a tree of them; `MOUNT_ATTR_*`
/// bits of mount_setattr(2). `propagation` is 0, `MS_PRIVATE` or `MS_SLAVE`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// New propagation type, 0 to leave it.
    pub propagation: u64,
}

/// Changes attributes of the mount `mount` stands on. See mount_setattr(2).
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    change: Attributes,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `attr` lives across the call and its exact size is passed; `EMPTY` is a live
    // NUL-terminated string; mount_setattr(2) only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Attaches the detached tree `mount` on top of what `target` names.
/// See move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: `EMPTY` is a live NUL-terminated string, which move_mount(2) only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            EMPTY.as_ptr(),
            target.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// A file system that is being configured and then mounted, detached.
/// See fsopen(2).
#[derive(Debug)]
pub struct FileSystemContext(OwnedFd);

impl FileSystemContext {
    /// Begins with the file-system type, such as `tmpfs`.
    pub fn open(kind: &CStr) -> Result<Self, Errno> {
        // SAFETY: `kind` is a live NUL-terminated string, which fsopen(2) only reads.
        let result =
            unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
        owned(result).map(Self)
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> Result<(), Errno> {
        let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are null, as the command asks, or live NUL-terminated strings;
        // fsconfig(2) copies them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Sets an option with a value.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<(), Errno> {
        self.configure(
            libc::FSCONFIG_SET_STRING as libc::c_uint,
            Some(key),
            Some(value),
        )
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &CStr) -> Result<(), Errno> {
        self.configure(libc::FSCONFIG_SET_FLAG as libc::c_uint, Some(key), None)
    }

    /// Makes the superblock and returns a detached mount of it with the
    /// attributes `attributes` (`MOUNT_ATTR_*`).
    pub fn mount(self, attributes: u64) -> Result<OwnedFd, Errno> {
        self.configure(libc::FSCONFIG_CMD_CREATE as libc::c_uint, None, None)?;
        // SAFETY: no pointer is passed.
        owned(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes as libc::c_uint,
            )
        })
    }
}
