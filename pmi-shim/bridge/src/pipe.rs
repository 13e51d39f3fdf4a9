//! A connected stream socket that is never waited for.
//!
//! The sockets here are shared with others (a launcher's daemon, a program), so
//! their flags stay as they are: each call says for itself that it does not wait.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{recv, send, MsgFlags};
use pmi_shim::core::Interest;

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes are in the buffer.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The other side has closed, or broken off.
    End,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Pipe {
    socket: OwnedFd,
}

impl Pipe {
    /// Of a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        Pipe { socket }
    }

    /// What to watch it for: writing only where there is something to write.
    pub fn interest(&self, write: bool) -> Interest {
        Interest {
            descriptor: self.socket.as_raw_fd(),
            write,
        }
    }

    /// Reads what has come.
    pub fn read(&self, buffer: &mut [u8]) -> Read {
        loop {
            return match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => Read::End,
                Ok(length) => Read::Bytes(length),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Read::Nothing,
                Err(_) => Read::End,
            };
        }
    }

    /// Writes as much as goes, and takes it off. A broken connection swallows the
    /// rest: reading from it tells.
    pub fn write(&self, output: &mut Vec<u8>) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while !output.is_empty() {
            match send(self.socket.as_raw_fd(), output, flags) {
                Ok(length) => drop(output.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => output.clear(),
            }
        }
    }
}
