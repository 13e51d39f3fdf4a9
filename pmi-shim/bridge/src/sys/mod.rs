//! The `unsafe` of the bridge, one call a function.

pub mod pmix;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Takes an inherited descriptor, if it is open, as this process's own; it will
/// not be inherited further.
pub fn take(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD takes an integer.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(result).ok()?;
    // SAFETY: it is open, as fcntl(2) has just said, and each number is taken once, at the start
    // of the process, from its command line: nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Owns a descriptor that recvmsg(2), accept4(2) or pidfd_open(2) has just delivered.
pub fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just put it into this process, and each caller, which has just
    // called for it, hands the number over once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Sends a signal to the process of a pidfd. See pidfd_send_signal(2).
pub fn signal_process(process: BorrowedFd<'_>, signal: libc::c_int) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::siginfo_t>();
    let descriptor = process.as_raw_fd();
    // SAFETY: without a siginfo the kernel fills in one as kill(2) does, and reads no memory.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, signal, none, 0) };
    Errno::result(result).map(drop)
}

/// A descriptor of a process, which can be read from when that has ended. See
/// pidfd_open(2).
pub fn pidfd(number: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open(2) takes two integers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    Ok(received(Errno::result(descriptor)? as RawFd))
}

/// The number of a pidfd's process in this namespace of processes; `None` when it has
/// ended. See pidfd_open(2).
pub fn number_of(process: BorrowedFd<'_>) -> Option<u32> {
    let about = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let about = std::fs::read_to_string(about).ok()?;
    let number = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok()
}

/// Waits until one of the descriptors can be read, or written where that is wanted
/// too, for so many milliseconds (-1: without end). See poll(2).
pub fn poll(wanted: &[(RawFd, bool)], timeout: i32) -> Result<(), Errno> {
    let mut polled: Vec<libc::pollfd> = wanted
        .iter()
        .map(|&(fd, write)| libc::pollfd {
            fd,
            events: libc::POLLIN | if write { libc::POLLOUT } else { 0 },
            revents: 0,
        })
        .collect();
    // SAFETY: the array is ours and as long as is said. A number that is not open is
    // reported as such in the array.
    let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    Errno::result(count).map(drop)
}

/// 32 bytes from the kernel's source of random numbers. See getrandom(2).
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    // SAFETY: the buffer is ours and as long as is said; up to 256 bytes are never cut short.
    let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // It fails only on kernels older than any that runs this program.
    assert_eq!(length, 32, "getrandom(2) failed");
    bytes
}
