//! The names that registries give to bytes, and checking bytes against them.
//!
//! Owns: the notation `ALGORITHM:HEX` and hashing. Never: believes a name.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use launcher::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// What a digest is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which everybody uses.
    Sha256,
    /// SHA-512, which the specification allows too.
    Sha512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A digest, as in `sha256:` and 64 digits of lower-case hexadecimal. Its parts are
/// fit for names of files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// The digest of some bytes, by SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// What it is made with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `sha256` or `sha512`.
    pub fn algorithm_name(&self) -> &'static str {
        self.algorithm.name()
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// As much as people compare.
    pub fn short(&self) -> &str {
        self.hex.get(..12).unwrap_or(&self.hex)
    }

    /// Whether these bytes have it.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hex) = text
            .split_once(':')
            .ok_or("a digest has the form sha256:HEX")?;
        let (algorithm, length) = match name {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err("only digests by sha256 and sha512 are known"),
        };
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != length || !hex.bytes().all(is_hex) {
            return Err("a digest is 64 hexadecimal digits (128 with sha512), in lower case");
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Makes a digest piece by piece.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// By SHA-256.
    Sha256(Sha256),
    /// By SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Begins.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => Digest {
                algorithm: Algorithm::Sha256,
                hex: hex(&hasher.finalize()),
            },
            Self::Sha512(hasher) => Digest {
                algorithm: Algorithm::Sha512,
                hex: hex(&hasher.finalize()),
            },
        }
    }
}

/// A stream that turns into an error at its end if it has not the digest it should.
#[derive(Debug)]
pub struct Checked<R> {
    reader: R,
    hasher: Option<Hasher>,
    expected: Digest,
    what: String,
}

impl<R: Read> Checked<R> {
    /// Reads `reader`; `what` names it in the error.
    pub fn new(reader: R, expected: Digest, what: String) -> Self {
        Self {
            hasher: Some(Hasher::new(expected.algorithm)),
            reader,
            expected,
            what,
        }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..length).unwrap_or_default());
        }
        if length == 0 && !buffer.is_empty() {
            if let Some(hasher) = self.hasher.take() {
                let found = hasher.finish();
                if found != self.expected {
                    return Err(io::Error::other(mismatch(
                        &self.what,
                        &self.expected,
                        &found,
                    )));
                }
            }
        }
        Ok(length)
    }
}

/// That bytes are not what their name says.
pub fn mismatch(what: &str, expected: &Digest, found: &Digest) -> Error {
    Error::new(
        what,
        format!("its digest is {found}, and {expected} was expected"),
    )
    .hint("it was damaged on the way or replaced: try again, and tell who keeps the image if it stays so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hexadecimal_of_the_right_length_and_nothing_else() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap().short(), "e3b0c44298fc");
        for wrong in [
            "",
            "sha256:",
            "sha256:e3b0",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha256:../../../../etc/passwd",
            &empty.to_uppercase(),
            &format!("{empty}0"),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
        let long: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert!(!long.is_of(b""));
    }

    #[test]
    fn a_stream_with_another_digest_ends_with_an_error() {
        let read = |expected: Digest| {
            let mut all = Vec::new();
            Checked::new(&b"bytes"[..], expected, "layer 1".into())
                .read_to_end(&mut all)
                .map(|_| all)
        };
        assert_eq!(read(Digest::of(b"bytes")).unwrap(), b"bytes");
        let error = read(Digest::of(b"others")).unwrap_err().to_string();
        assert!(
            error.starts_with("layer 1: its digest is sha256:"),
            "{error}"
        );
    }
}
