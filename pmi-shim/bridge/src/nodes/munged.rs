//! Credentials, asked of this node's munged over the directory of its socket that
//! was opened before the image was entered.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pmi_shim::munge;

/// How long munged may take for a read or a write; it takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to munged.
#[derive(Debug)]
pub struct Munged {
    directory: OwnedFd,
}

impl Munged {
    /// By the open directory of its socket.
    pub fn new(directory: OwnedFd) -> Self {
        Munged { directory }
    }

    /// A credential that holds `payload` for this user on another node.
    ///
    /// # Errors
    /// A line on why there is none.
    pub fn encode(&self, payload: &[u8]) -> Result<String, String> {
        let reader = nix::unistd::geteuid().as_raw();
        self.ask(&munge::encode(payload, reader), munge::encoded)
    }

    /// What a credential holds, and whose it is.
    ///
    /// # Errors
    /// A line on why it is not good.
    pub fn decode(&self, credential: &str) -> Result<munge::Decoded, String> {
        self.ask(&munge::decode(credential), munge::decoded)
    }

    fn ask<T>(
        &self,
        question: &[u8],
        answer: impl Fn(&[u8]) -> Result<Option<T>, munge::Refusal>,
    ) -> Result<T, String> {
        // The number names the directory for this process, wherever its root is.
        let path = format!(
            "/proc/self/fd/{}/{}",
            self.directory.as_raw_fd(),
            munge::SOCKET
        );
        let failed = |error: std::io::Error| format!("munged: {error}");
        let mut socket = UnixStream::connect(path).map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.write_all(question).map_err(failed)?;
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match socket.read(&mut piece).map_err(failed)? {
                0 => return Err("munged: it closed without an answer".into()),
                length => received.extend_from_slice(&piece[..length]),
            }
            if let Some(answer) =
                answer(&received).map_err(|refusal| format!("munged: {refusal}"))?
            {
                return Ok(answer);
            }
        }
    }
}
