//! One connection between the helpers of two nodes, from its first byte on.
//!
//! Owns: showing who we are, seeing who they are, and frames that both can trust
//! from then on. Never: knows what the frames are for.
//!
//! # Who is who
//! Both say which node they are, and a number never used before. Then the lower
//! one sends a credential of munge that only this user can open, with half of a
//! key and a hash of all that was said; the upper one, having found it good and
//! this user's own, answers with its own. A credential that is sent again, from
//! elsewhere or later, has another hash in it, and who only carries bytes to and
//! fro never learns the key. All further frames carry a code made with it and with
//! their number.

use std::cell::OnceCell;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use pmi_shim::core::Interest;
use pmi_shim::net::{self, Message};

use super::munged::Munged;
use super::seal::{self, transcript, Seal, LENGTH};

/// How long somebody who has connected may take to show who they are.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// How long somebody this node has connected to may take: other users can have any
/// of the ports, and say nothing; the right one is tried again if it was slow.
const ANSWERING: Duration = Duration::from_secs(1);

/// How much may wait to be written to somebody who does not read: then reading
/// from others goes on all the same, but not without end.
const MOST_UNREAD: usize = net::LONGEST;

/// Who this process is.
#[derive(Debug)]
pub struct Own {
    /// The job's step.
    pub step: String,
    /// This node.
    pub node: u32,
    /// The user.
    pub uid: u32,
    /// How it shows that, and sees who others are.
    pub proof: Proof,
}

/// How two nodes know each other.
#[derive(Debug)]
pub enum Proof {
    /// By credentials of munge.
    Munge(Munged),
    /// By a secret that only this job's processes can have learned: the launcher's
    /// server has carried it.
    Secret {
        /// This node's, for those below it.
        below: [u8; LENGTH],
        /// The secret of the node above, once it is known.
        above: OnceCell<[u8; LENGTH]>,
    },
}

impl Proof {
    /// Whether it is a secret of the job's.
    pub fn is_secret(&self) -> bool {
        matches!(self, Proof::Secret { .. })
    }
}

/// Why a connection is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The other side is not who it should be, or has gone.
    Theirs(String),
    /// This side cannot show who it is.
    Ours(String),
}

fn theirs(text: impl Into<String>) -> Fault {
    Fault::Theirs(text.into())
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// Whether the other side is above this node.
    upwards: bool,
    /// The node at the other side; as it says itself before it is sealed.
    pub node: Option<u32>,
    nonce: [u8; 32],
    half: [u8; LENGTH],
    stage: Stage,
    inbox: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// When it must be sealed.
    pub until: Instant,
    /// It has said that it may go.
    pub leaving: bool,
    /// Why nothing can be written any more.
    broken: Option<String>,
}

#[derive(Debug)]
enum Stage {
    Hello,
    Credential([u8; LENGTH]),
    Sealed { sent: Seal, read: Seal },
}

impl Link {
    /// The beginning, after connecting upwards, or after being connected to. Where
    /// it is known which node the other side must be, that is in `node`.
    ///
    /// # Errors
    /// A socket that cannot be set up.
    pub fn new(
        stream: TcpStream,
        own: &Own,
        upwards: Option<u32>,
        now: Instant,
    ) -> Result<Link, Fault> {
        let set_up = |error: std::io::Error| theirs(error.to_string());
        stream.set_nonblocking(true).map_err(set_up)?;
        stream.set_nodelay(true).map_err(set_up)?;
        let mut link = Link {
            stream,
            upwards: upwards.is_some(),
            node: upwards,
            nonce: super::random(),
            half: super::random(),
            stage: Stage::Hello,
            inbox: Vec::new(),
            out: Vec::new(),
            written: 0,
            until: now
                + match upwards {
                    Some(_) => ANSWERING,
                    None => INTRODUCTION,
                },
            leaving: false,
            broken: None,
        };
        if link.upwards {
            link.say_hello(own);
        }
        Ok(link)
    }

    /// Whether both know who the other is.
    pub fn is_sealed(&self) -> bool {
        matches!(self.stage, Stage::Sealed { .. })
    }

    /// Whether anybody has answered at all.
    pub fn is_connected(&self) -> bool {
        self.stream.peer_addr().is_ok()
    }

    /// What to watch it for.
    pub fn interest(&self) -> Interest {
        Interest {
            descriptor: self.stream.as_raw_fd(),
            write: !self.out.is_empty(),
        }
    }

    /// Sends a message, now or when it goes.
    pub fn send(&mut self, message: &Message) {
        let body = message.encode();
        if let Stage::Sealed { sent, .. } = &mut self.stage {
            let code = sent.put(&body);
            self.out
                .extend_from_slice(&net::header(body.len() + LENGTH));
            self.out.extend_from_slice(&body);
            self.out.extend_from_slice(&code);
        } else {
            self.out.extend_from_slice(&net::header(body.len()));
            self.out.extend_from_slice(&body);
        }
        self.flush();
    }

    fn say_hello(&mut self, own: &Own) {
        self.send(&Message::Hello {
            node: own.node,
            nonce: self.nonce,
        });
    }

    /// Reads and writes what goes, and returns the sealed messages that have come.
    ///
    /// # Errors
    /// The end of the connection: those messages are lost that came before it,
    /// except that it returns them first where there are any.
    pub fn proceed(&mut self, own: &Own) -> Result<Vec<Message>, Fault> {
        self.flush();
        if self.out.len() - self.written > MOST_UNREAD {
            return Err(theirs("it does not read"));
        }
        let end = self.read();
        let mut messages = Vec::new();
        while let Some(message) = self.next(own)? {
            messages.push(message);
        }
        match end {
            Err(fault) if messages.is_empty() => Err(fault),
            _ => Ok(messages),
        }
    }

    /// That it has ended: as writing was told before, or so.
    fn ended(&mut self, why: String) -> Fault {
        theirs(self.broken.take().unwrap_or(why))
    }

    fn read(&mut self) -> Result<(), Fault> {
        let mut piece = [0; 64 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(self.ended("it has closed the connection".into())),
                Ok(length) => self.inbox.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.ended(error.to_string())),
            }
            if !self.is_sealed() && self.inbox.len() > net::LONGEST_UNKNOWN {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A broken connection is told by reading from it.
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return;
                }
            }
        }
        self.out.clear();
        self.written = 0;
    }

    fn next(&mut self, own: &Own) -> Result<Option<Message>, Fault> {
        loop {
            let longest = match self.stage {
                Stage::Sealed { .. } => net::LONGEST + LENGTH,
                _ => net::LONGEST_UNKNOWN,
            };
            let malformed = |error: net::Malformed| theirs(format!("it sent {error}"));
            let Some(body) = net::body(&self.inbox, longest).map_err(malformed)? else {
                return Ok(None);
            };
            let length = net::HEADER + body.len();
            if let Stage::Sealed { read, .. } = &mut self.stage {
                let Some((body, code)) = body.split_last_chunk::<LENGTH>() else {
                    return Err(theirs("it sent a frame without a code"));
                };
                if !read.check(body, code) {
                    return Err(theirs("it sent a frame with a wrong code"));
                }
                let message = Message::decode(body).map_err(malformed)?;
                self.inbox.drain(..length);
                return Ok(Some(message));
            }
            let message = Message::decode(body).map_err(malformed)?;
            self.inbox.drain(..length);
            self.introduce(own, message)?;
        }
    }

    fn introduce(&mut self, own: &Own, message: Message) -> Result<(), Fault> {
        match (&self.stage, message) {
            (Stage::Hello, Message::Hello { node, nonce }) => {
                if *self.node.get_or_insert(node) != node || node == own.node {
                    return Err(theirs(format!("it is node {node}")));
                }
                let (us, them) = ((own.node, &self.nonce), (node, &nonce));
                let (below, above) = match self.upwards {
                    true => (us, them),
                    false => (them, us),
                };
                let transcript = transcript(&own.step, own.uid, below, above);
                if self.upwards {
                    self.show_credential(own, &transcript)?;
                } else {
                    self.say_hello(own);
                }
                self.stage = Stage::Credential(transcript);
                Ok(())
            }
            (Stage::Credential(transcript), Message::Credential(credential)) => {
                let transcript = *transcript;
                let their_half = self.see_credential(own, &credential, &transcript)?;
                if matches!(own.proof, Proof::Secret { .. }) {
                    // One secret is both halves: the transcript makes the key another
                    // for each connection.
                    self.half = their_half;
                }
                let (below, above) = match self.upwards {
                    true => (&self.half, &their_half),
                    false => (&their_half, &self.half),
                };
                let (up, down) = Seal::pair(below, above, &transcript);
                let (sent, read) = match self.upwards {
                    true => (up, down),
                    false => (down, up),
                };
                if !self.upwards {
                    self.show_credential(own, &transcript)?;
                }
                self.stage = Stage::Sealed { sent, read };
                Ok(())
            }
            _ => Err(theirs("it sent a message out of order")),
        }
    }

    fn show_credential(&mut self, own: &Own, transcript: &[u8; LENGTH]) -> Result<(), Fault> {
        let credential = match &own.proof {
            Proof::Munge(munged) => {
                let mut payload = vec![u8::from(self.upwards)];
                payload.extend_from_slice(transcript);
                payload.extend_from_slice(&self.half);
                munged.encode(&payload).map_err(Fault::Ours)?
            }
            Proof::Secret { .. } => {
                let code = seal::proof(&self.secret(own)?, self.upwards, transcript);
                seal::hexadecimal(&code)
            }
        };
        self.send(&Message::Credential(credential));
        Ok(())
    }

    /// What this end and the other have in common, where it is no credential.
    fn secret(&self, own: &Own) -> Result<[u8; LENGTH], Fault> {
        let unknown = || Fault::Ours("the secret of the node above is not known".into());
        match (&own.proof, self.upwards) {
            (Proof::Secret { below, .. }, false) => Ok(*below),
            (Proof::Secret { above, .. }, true) => above.get().copied().ok_or_else(unknown),
            (Proof::Munge(_), _) => Err(unknown()),
        }
    }

    fn see_credential(
        &self,
        own: &Own,
        credential: &str,
        transcript: &[u8; LENGTH],
    ) -> Result<[u8; LENGTH], Fault> {
        let munged = match &own.proof {
            Proof::Munge(munged) => munged,
            Proof::Secret { .. } => {
                let secret = self.secret(own)?;
                return match seal::is_proof(&secret, !self.upwards, transcript, credential) {
                    true => Ok(secret),
                    false => Err(theirs("it does not know the secret")),
                };
            }
        };
        if !credential.starts_with("MUNGE:") {
            return Err(theirs("it sent no credential"));
        }
        let decoded = munged.decode(credential).map_err(theirs)?;
        if decoded.uid != own.uid {
            return Err(theirs(format!("it is user {}", decoded.uid)));
        }
        let good = decoded
            .payload
            .split_first_chunk::<1>()
            .filter(|([upwards], _)| *upwards == u8::from(!self.upwards))
            .and_then(|(_, rest)| rest.split_first_chunk::<LENGTH>())
            .filter(|(hash, _)| *hash == transcript)
            .and_then(|(_, half)| half.try_into().ok());
        good.ok_or_else(|| theirs("it sent a credential for another connection"))
    }
}
