//! Descriptors whose end ends this process, and descriptors that were inherited.
//!
//! See [`pmi_shim::seat`], "Lifelines".

use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};

/// `F_SETSIG` of linux/fcntl.h (`F_LINUX_SPECIFIC_BASE` does not count it).
const F_SETSIG: libc::c_int = 10;

/// Makes two ends of a socket, each of which sends SIGKILL to this process when the
/// other is closed by whoever has it last. To be given away; closed here while nobody
/// else has them, they would strike.
///
/// # Errors
/// As socketpair(2) and fcntl(2).
pub fn to_this_process() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (one, other) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    for end in [&one, &other] {
        arm(end.as_fd())?;
    }
    Ok((one, other))
}

fn arm(end: BorrowedFd<'_>) -> Result<(), Errno> {
    let number = end.as_raw_fd();
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: F_SETOWN takes an integer, and `number` is open.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETOWN, own) })?;
    // SAFETY: F_SETSIG takes an integer, and `number` is open.
    Errno::result(unsafe { libc::fcntl(number, F_SETSIG, libc::SIGKILL) })?;
    let flags = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL)?);
    fcntl(end, FcntlArg::F_SETFL(flags | OFlag::O_ASYNC)).map(drop)
}

/// Takes the sting out of an end.
pub fn disarm(end: BorrowedFd<'_>) {
    if let Ok(flags) = fcntl(end, FcntlArg::F_GETFL) {
        let flags = OFlag::from_bits_retain(flags) - OFlag::O_ASYNC;
        let _ = fcntl(end, FcntlArg::F_SETFL(flags));
    }
}

/// A descriptor that this process has inherited and keeps, if it is open.
pub fn inherited(number: i32) -> Option<BorrowedFd<'static>> {
    if number < 0 {
        return None;
    }
    // SAFETY: F_GETFD takes no further argument, and fails for a number that is not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the number is open, and nothing in this program closes what it has inherited.
    Some(unsafe { BorrowedFd::borrow_raw(number) })
}
