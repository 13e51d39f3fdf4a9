//! The system calls of the build space that neither std nor nix wraps safely.
//!
//! Owns: every `unsafe` of the space, one call a block. Never: decides anything.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::Pid;

/// Which side of a fork the caller finds itself on.
#[derive(Debug)]
pub enum Side {
    /// The caller itself; the new process is named.
    Parent(Pid),
    /// The new process.
    Child,
}

/// See fork(2).
///
/// # Errors
/// As fork(2). EINVAL if the caller has threads: in the child, the locks they
/// hold would stay locked for ever.
pub fn fork() -> Result<Side, Errno> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|_| Errno::EINVAL)?;
    if tasks.take(2).count() != 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: there is no other thread, so no lock is held and all of memory is the child's to use.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Side::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Side::Child),
    }
}

/// Ends the process at once, running nothing that was registered for its end.
/// See _exit(2).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes no pointer and does not return.
    unsafe { libc::_exit(status) }
}

/// Arranges for a program to be killed when the thread that starts it ends.
/// See PR_SET_PDEATHSIG(2const).
pub fn end_with_parent(command: &mut Command) {
    let ask = || {
        Ok(nix::sys::prctl::set_pdeathsig(
            nix::sys::signal::Signal::SIGKILL,
        )?)
    };
    // SAFETY: the closure makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(ask) };
}

/// Sets a signal's disposition to the default.
pub fn reset_signal(signal: libc::c_int) {
    // SAFETY: SIG_DFL is no function of ours, so nothing can run in a bad context.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Closes every descriptor from `first` to `last`. See close_range(2).
///
/// # Errors
/// As close_range(2).
pub fn close_range(first: libc::c_uint, last: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: no pointer is passed, and the callers use none of these descriptors again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(result).map(drop)
}

/// Locks an open file or directory without waiting; the lock ends with the open
/// file description. See flock(2).
///
/// # Errors
/// EWOULDBLOCK: somebody else has it.
pub fn lock(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no pointer is passed.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Sets `MOUNT_ATTR_*` bits on the mount of the directory `at`, with all that is
/// mounted below. See mount_setattr(2).
///
/// # Errors
/// As mount_setattr(2).
pub fn set_mount_attributes(at: BorrowedFd<'_>, set: u64) -> Result<(), Errno> {
    const EMPTY: &CStr = c"";
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `attr` lives across the call and its exact size is passed; `EMPTY` is a live
    // NUL-terminated string; mount_setattr(2) only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            EMPTY.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Puts a filter before all further system calls of this process and of those it
/// starts. See seccomp(2).
///
/// # Errors
/// EINVAL: a filter the kernel does not take, or a kernel without seccomp.
pub fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` names as many live instructions as it says; seccomp(2) copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    Errno::result(result).map(drop)
}

/// A pipe that programs do not inherit: the end to read from, and the other.
///
/// # Errors
/// As pipe2(2).
pub fn pipe() -> std::io::Result<(File, File)> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    Ok((reader.into(), writer.into()))
}
