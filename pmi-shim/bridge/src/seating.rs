//! One launcher that asks for a seat: its words and descriptors in, the answer out.
//!
//! Owns: the connection to it. Never: decides.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    getsockopt, recvmsg, sendmsg, ControlMessage, ControlMessageOwned, MsgFlags,
};
use pmi_shim::seat::{Hello, Message, Refused, Seat, GREETING, LONGEST};

/// The most descriptors that come with a [`Hello`].
const MOST: usize = 4;

/// A rank's own descriptors.
#[derive(Debug)]
pub struct Belongings {
    /// The process that is to become the rank.
    pub process: OwnedFd,
    /// While both ends are open and only here, the rank dies with this process.
    pub lifeline: Lifeline,
    /// The host's socket of this rank, where there is one.
    pub host: Option<OwnedFd>,
}

/// What ends the rank when this process ends, unless it is let go. See
/// [`pmi_shim::seat`].
#[derive(Debug)]
pub struct Lifeline {
    ends: [OwnedFd; 2],
}

impl Lifeline {
    /// Lets the rank go: it lives on when this process ends.
    pub fn release(&self) {
        for end in &self.ends {
            // Either it is a socket, and loses the flag, or it never was a lifeline.
            let _ = fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
    }
}

/// What came of reading.
#[derive(Debug)]
pub enum Came {
    /// More has to come.
    Wait,
    /// The whole greeting.
    Hello(Box<Hello>, Belongings),
    /// It is none of ours, or has gone: forget it. The text is for the log.
    Nobody(String),
}

/// A connection of a launcher that has not been answered yet.
#[derive(Debug)]
pub struct Asking {
    socket: OwnedFd,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// When it has taken too long.
    pub until: Instant,
}

impl Asking {
    /// Looks at who is at the other end.
    ///
    /// # Errors
    /// Another user, who is not answered; the text is for the log.
    pub fn new(socket: OwnedFd, now: Instant) -> Result<Self, String> {
        let peer = getsockopt(&socket, PeerCredentials)
            .map_err(|errno| format!("who asks is not known: {}", errno.desc()))?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            return Err(format!("user {} asks for a seat", peer.uid()));
        }
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| errno.desc().to_owned())?;
        Ok(Asking {
            socket,
            bytes: Vec::new(),
            descriptors: Vec::new(),
            until: now + GREETING,
        })
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads what has come.
    pub fn read(&mut self) -> Came {
        loop {
            match self.read_some() {
                Ok(0) => return Came::Nobody("it has gone".into()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Came::Wait,
                Err(errno) => return Came::Nobody(errno.desc().into()),
            }
            match Message::decode(&self.bytes) {
                Ok(None) if self.bytes.len() > LONGEST + 64 => {
                    return Came::Nobody("it sent too much".into())
                }
                Ok(None) => {}
                Ok(Some((Message::Hello(hello), _))) => return self.complete(hello),
                Ok(Some(_)) => {
                    return Came::Nobody("it sent something else than a greeting".into())
                }
                Err(malformed) => {
                    let refused = Refused {
                        line: format!("a seat at the PMI bridge: {malformed}"),
                        hint: "install singularity and its helpers from one build".into(),
                    };
                    self.answer(&Message::Refused(refused), None);
                    return Came::Nobody(malformed.to_string());
                }
            }
        }
    }

    fn complete(&mut self, hello: Hello) -> Came {
        if self.descriptors.len() != hello.descriptors() {
            return Came::Nobody("its descriptors are not those of its greeting".into());
        }
        let mut descriptors = std::mem::take(&mut self.descriptors).into_iter();
        let (Some(process), Some(one), Some(other)) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            return Came::Nobody("it sent no descriptors".into());
        };
        let belongings = Belongings {
            process,
            lifeline: Lifeline { ends: [one, other] },
            host: descriptors.next(),
        };
        Came::Hello(Box::new(hello), belongings)
    }

    fn read_some(&mut self) -> Result<usize, Errno> {
        let mut room = nix::cmsg_space!([RawFd; MOST]);
        let mut buffer = [0; 16 << 10];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut room),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let length = message.bytes;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                for number in numbers {
                    let descriptor = sys::received(number);
                    if self.descriptors.len() < MOST {
                        self.descriptors.push(descriptor);
                    }
                }
            }
        }
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(length)
    }

    /// Answers with a seat. Who has gone meanwhile is told by its pidfd.
    pub fn seat(&self, seat: Seat, descriptor: Option<BorrowedFd<'_>>) {
        self.answer(&Message::Seat(seat), descriptor);
    }

    /// Answers that there is none. The rank has to live to say so: its lifeline, which is
    /// closed with its belongings, would end it. `None`: it has not sent them yet.
    pub fn refuse(&self, belongings: Option<&Belongings>, refused: Refused) {
        if let Some(belongings) = belongings {
            belongings.lifeline.release();
        }
        self.answer(&Message::Refused(refused), None);
    }

    /// A frame fits the socket's buffer many times, and is the only one that is
    /// ever sent on it: it is sent whole or its reader has gone.
    fn answer(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) {
        let bytes = message.encode();
        let numbers: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[] } else { &rights[..] };
        let _ = sendmsg::<()>(
            self.socket.as_fd().as_raw_fd(),
            &[IoSlice::new(&bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }
}
