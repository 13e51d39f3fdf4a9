//! The process that removes what is left of the work, however it ended.
//!
//! It is told what to remove before that is made, and what needs no removing any
//! more. When the builder's end of their socket closes, because the builder is
//! done, or was killed with all that it started, the janitor removes the rest and
//! ends. It stands in the builder's user namespace, where the files are root's to
//! remove, but outside of its mount namespace, so that nothing mounted over a
//! work directory is ever in its way. It has a session of its own, and no signal
//! that can be blocked reaches it.
//!
//! Owns: that removal. Never: removes what it was not told of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use launcher::Error;
use nix::errno::Errno;
use nix::sys::socket::{recv, send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};
use nix::unistd::Pid;

use super::sys::{self, Side};
use crate::workdir;

/// The builder's end of the socket.
static TOLD: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// What a message begins with.
const REMEMBER: u8 = b'+';
const FORGET: u8 = b'-';

/// A path and the byte before it.
const LONGEST: usize = 1 + libc::PATH_MAX as usize;

/// Starts the janitor.
///
/// # Errors
/// The limit of processes or descriptors is reached.
pub fn hire() -> Result<Pid, Error> {
    let failed = |errno| Error::call("start the process that cleans up", errno);
    let (ours, its) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(failed)?;
    match sys::fork().map_err(failed)? {
        Side::Parent(janitor) => {
            *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours);
            Ok(janitor)
        }
        Side::Child => {
            drop(ours);
            work(&its)
        }
    }
}

/// The supervisor's copy of the builder's end must not keep it open.
pub fn leave_to_the_builder() {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Has a path removed at the end: a file, or a directory with all that is in it.
/// Absolute paths only.
pub fn remember(path: &Path) {
    tell(REMEMBER, path);
}

/// The path is gone, or is to stay.
pub fn forget(path: &Path) {
    tell(FORGET, path);
}

fn tell(what: u8, path: &Path) {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(socket) = told.as_ref() else { return };
    let mut message = vec![what];
    message.extend_from_slice(path.as_os_str().as_bytes());
    // Without a janitor a later run removes it.
    let _ = send(socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL);
}

fn work(socket: &OwnedFd) -> ! {
    // Where it already leads a session, it has what it needs.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    // Whoever reads the builder's output must not wait for the janitor.
    let kept = socket.as_raw_fd() as libc::c_uint;
    if kept > 0 {
        let _ = sys::close_range(0, kept - 1);
    }
    let _ = sys::close_range(kept + 1, libc::c_uint::MAX);

    let mut remembered = BTreeSet::<PathBuf>::new();
    let mut message = [0; LONGEST];
    loop {
        match recv(socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
            Ok(0) => break,
            Ok(length) => {
                let path = Path::new(OsStr::from_bytes(&message[1..length]));
                match message[0] {
                    REMEMBER => remembered.insert(path.to_owned()),
                    _ => remembered.remove(path),
                };
            }
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    for path in remembered.iter().filter(|path| path.is_absolute()) {
        // Nobody is left to tell; a later run tries again.
        let _ = workdir::remove(path);
    }
    sys::exit_now(0)
}
