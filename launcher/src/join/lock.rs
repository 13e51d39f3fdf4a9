//! Being the first rank, and waiting for it.
//!
//! Owns: the abstract socket of a namespace's name, which the kernel takes back whenever
//! and however its holder ends. Never: believes another user.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    bind, connect, getsockopt, listen, recv, send, setsockopt, socket, AddressFamily, Backlog,
    MsgFlags, SockFlag, SockType, UnixAddr,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use crate::error::{Error, Step as _};

/// More than the longest [`super::Membership`] in words.
pub(super) const LONGEST: usize = 512;

/// So many ranks can wait at a time.
const BACKLOG: i32 = 4096;

/// Being the first; ends when dropped, at exec, or with the process.
#[derive(Debug)]
pub struct Lock {
    listener: UnixListener,
}

impl Lock {
    /// Tries to become the first; `None` if somebody is.
    pub(super) fn take(name: &str) -> Result<Option<Self>, Error> {
        // Never waits in accept(2).
        let socket = stream_socket(SockFlag::SOCK_NONBLOCK)?;
        let step = || format!("listen on the socket @{name}");
        match bind(socket.as_raw_fd(), &address(name)?) {
            Ok(()) => {
                let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
                listen(&socket, backlog).step(step)?;
                let listener = socket.into();
                Ok(Some(Self { listener }))
            }
            Err(Errno::EADDRINUSE) => Ok(None),
            Err(errno) => Err(Error::call(step(), errno)),
        }
    }

    /// Tells all who wait that the namespace is there, and lets them in. Who is not
    /// told, because the first failed or came too early to its end, finds out by
    /// looking.
    pub fn let_in(self, text: &str) {
        let own = nix::unistd::getuid().as_raw();
        for _ in 0..BACKLOG {
            let Ok((waiting, _)) = self.listener.accept() else {
                return;
            };
            // Others can connect too, but are told nothing.
            if getsockopt(&waiting, PeerCredentials).is_ok_and(|peer| peer.uid() == own) {
                // A rank that has died meanwhile needs no word.
                let _ = send(waiting.as_raw_fd(), text.as_bytes(), MsgFlags::MSG_NOSIGNAL);
            }
        }
    }
}

/// What came of waiting for the first.
pub(super) enum Waited {
    /// The first, with this pid, has let go; what it said, which is nothing if it failed
    /// or died.
    Done(Pid, Vec<u8>),
    /// Nobody is setting up.
    Nobody,
    /// It is not this user's.
    Foreign(u32),
    TooLong,
}

/// Waits until the first lets go of the lock.
pub(super) fn wait_for_first(name: &str, uid: u32, patience: Duration) -> Waited {
    let (Ok(peer), Ok(address)) = (stream_socket(SockFlag::empty()), address(name)) else {
        return Waited::TooLong;
    };
    let limit = TimeVal::milliseconds(patience.as_millis().max(1) as i64);
    // Of connect(2), should the queue be full.
    if setsockopt(&peer, SendTimeout, &limit).is_err() {
        return Waited::TooLong;
    }
    match connect(peer.as_raw_fd(), &address) {
        Ok(()) => {}
        // Or it is between bind(2) and listen(2), or has just gone.
        Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::EINTR) => return Waited::Nobody,
        Err(_) => return Waited::TooLong,
    }
    let Ok(first) = getsockopt(&peer, PeerCredentials) else {
        return Waited::Nobody;
    };
    if first.uid() != uid {
        return Waited::Foreign(first.uid());
    }
    if setsockopt(&peer, ReceiveTimeout, &limit).is_err() {
        return Waited::TooLong;
    }
    let mut text = [0; LONGEST];
    let told = loop {
        match recv(peer.as_raw_fd(), &mut text, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Waited::TooLong,
            told => break told.unwrap_or(0),
        }
    };
    let told = text.get(..told).unwrap_or_default();
    Waited::Done(Pid::from_raw(first.pid()), told.to_vec())
}

fn address(name: &str) -> Result<UnixAddr, Error> {
    UnixAddr::new_abstract(name.as_bytes()).step(|| format!("name the socket @{name}"))
}

fn stream_socket(flags: SockFlag) -> Result<OwnedFd, Error> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | flags,
        None,
    )
    .step(|| "make a socket".into())
}
