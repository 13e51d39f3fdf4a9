//! The seal on what helpers of two nodes say to each other.
//!
//! Owns: the key of a connection, and the codes on its frames. Never: secrecy:
//! what ranks tell one another at start is no secret, and Slurm's own interfaces
//! do not encrypt it either.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// The length of a key, a code, and half of a key.
pub const LENGTH: usize = 32;

/// What two ends have in common before they have a key: everything that both have
/// said in the clear, so that a credential is good for one connection only.
pub fn transcript(
    step: &str,
    uid: u32,
    below: (u32, &[u8; 32]),
    above: (u32, &[u8; 32]),
) -> [u8; LENGTH] {
    let mut hash = Sha256::new();
    hash.update(b"singularity pmi bridge 1\0");
    hash.update(uid.to_le_bytes());
    hash.update((step.len() as u64).to_le_bytes());
    hash.update(step);
    for (node, nonce) in [below, above] {
        hash.update(node.to_le_bytes());
        hash.update(nonce);
    }
    hash.finalize().into()
}

/// One direction of a connection: a key, and the number of the next frame, which
/// its code covers, so that none can be left out, doubled or moved.
#[derive(Debug)]
pub struct Seal {
    key: [u8; LENGTH],
    next: u64,
}

impl Seal {
    /// Both directions, upwards and downwards, from the halves of both ends.
    pub fn pair(
        below: &[u8; LENGTH],
        above: &[u8; LENGTH],
        transcript: &[u8; LENGTH],
    ) -> (Seal, Seal) {
        let mut secret = [0; 2 * LENGTH];
        secret[..LENGTH].copy_from_slice(below);
        secret[LENGTH..].copy_from_slice(above);
        let direction = |name: &[u8]| Seal {
            key: code(&secret, &[name, transcript])
                .finalize()
                .into_bytes()
                .into(),
            next: 0,
        };
        (direction(b"up"), direction(b"down"))
    }

    /// The code of the next frame.
    pub fn put(&mut self, body: &[u8]) -> [u8; LENGTH] {
        self.code(body).finalize().into_bytes().into()
    }

    /// Whether this is the code of the next frame. Compared in constant time.
    pub fn check(&mut self, body: &[u8], found: &[u8]) -> bool {
        self.code(body).verify_slice(found).is_ok()
    }

    fn code(&mut self, body: &[u8]) -> Hmac<Sha256> {
        let number = self.next;
        self.next += 1;
        code(&self.key, &[&number.to_le_bytes(), body])
    }
}

/// What shows that one end of a connection has the secret of both. Each end shows it
/// for itself, so that none can give the other's back.
pub fn proof(secret: &[u8; LENGTH], upwards: bool, transcript: &[u8; LENGTH]) -> [u8; LENGTH] {
    proving(secret, upwards, transcript)
        .finalize()
        .into_bytes()
        .into()
}

/// Whether this is that, in hexadecimal. Compared in constant time.
pub fn is_proof(
    secret: &[u8; LENGTH],
    upwards: bool,
    transcript: &[u8; LENGTH],
    shown: &str,
) -> bool {
    let shown = from_hexadecimal(shown).unwrap_or_default();
    proving(secret, upwards, transcript)
        .verify_slice(&shown)
        .is_ok()
}

fn proving(secret: &[u8; LENGTH], upwards: bool, transcript: &[u8; LENGTH]) -> Hmac<Sha256> {
    code(secret, &[b"proof", &[u8::from(upwards)], transcript])
}

/// Two digits for each byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from two digits each.
pub fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// HMAC-SHA-256 with a key of at most one block, which cannot be refused.
fn code(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut code = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        code.update(part);
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Seal, Seal) {
        Seal::pair(&[1; 32], &[2; 32], &[3; 32])
    }

    #[test]
    fn a_frame_is_good_once_in_its_place_and_direction() {
        let (mut sent, mut down) = pair();
        let (mut read, _) = pair();
        let one = sent.put(b"one");
        let two = sent.put(b"two");
        assert!(!down.check(b"one", &one), "the other direction");
        assert!(read.check(b"one", &one));
        assert!(!read.check(b"one", &one), "again");
        let (mut read, _) = pair();
        assert!(!read.check(b"two", &two), "one left out");
        let (mut read, _) = pair();
        assert!(!read.check(b"onE", &one), "changed");
        let (mut read, _) = pair();
        assert!(!read.check(b"one", &one[..31]), "cut off");
    }

    #[test]
    fn the_secret_is_shown_for_one_connection_and_one_end_only() {
        let shown = |upwards, transcript: &[u8; 32]| -> String {
            let code = proof(&[7; 32], upwards, transcript);
            hexadecimal(&code)
        };
        let one = shown(true, &[1; 32]);
        assert!(is_proof(&[7; 32], true, &[1; 32], &one));
        assert!(!is_proof(&[8; 32], true, &[1; 32], &one), "another secret");
        assert!(!is_proof(&[7; 32], false, &[1; 32], &one), "given back");
        assert!(
            !is_proof(&[7; 32], true, &[2; 32], &one),
            "another connection"
        );
        for text in ["", "0", "zz", &one[..62], "é"] {
            assert!(!is_proof(&[7; 32], true, &[1; 32], text), "{text}");
        }
    }

    #[test]
    fn another_connection_has_another_key() {
        let nonces = ([4; 32], [5; 32]);
        let one = transcript("7.0", 1000, (1, &nonces.0), (0, &nonces.1));
        for other in [
            transcript("7.1", 1000, (1, &nonces.0), (0, &nonces.1)),
            transcript("7.0", 1001, (1, &nonces.0), (0, &nonces.1)),
            transcript("7.0", 1000, (2, &nonces.0), (0, &nonces.1)),
            transcript("7.0", 1000, (1, &nonces.1), (0, &nonces.0)),
        ] {
            assert_ne!(one, other);
            let (mut mine, _) = Seal::pair(&[1; 32], &[2; 32], &one);
            let (mut theirs, _) = Seal::pair(&[1; 32], &[2; 32], &other);
            let code = mine.put(b"x");
            assert!(!theirs.check(b"x", &code));
        }
    }
}
