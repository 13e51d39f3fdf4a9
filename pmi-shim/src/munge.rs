//! What munged is asked for credentials, and what it answers.
//!
//! Owns: the form of the messages on munged's socket (munge's
//! `src/libcommon/m_msg.c`, version 4; numbers in network order). Never: connects.
//!
//! libmunge does the same, but cannot be linked by a program that has to run in
//! every image, and finds the socket only where the host has it. On Linux munged
//! knows its client by SO_PEERCRED, so a connection is all that is needed.

use std::fmt;

/// The socket's name in munge's directory, `/run/munge` on all distributions.
pub const SOCKET: &str = "munge.socket.2";

/// The longest message that is taken: munged itself takes 1 MiB.
pub const LONGEST: usize = 1 << 20;

const MAGIC: u32 = 0x0060_6d4b;
const VERSION: u8 = 4;
const HEADER: usize = 11;

const ENCODE: u8 = 2;
const ENCODED: u8 = 3;
const DECODE: u8 = 4;
const DECODED: u8 = 5;

/// AES-128, SHA-256, no compression: a credential here holds a secret.
const CIPHER: u8 = 4;
const MAC: u8 = 5;
const ZIP: u8 = 0;

/// How long a credential is good for, in seconds; clocks may differ by less.
const LIFETIME: u32 = 60;

/// Any group may decode: the user is what counts.
const ANY: u32 = u32::MAX;

/// What munged refused, or an answer that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(String);

impl Refusal {
    fn new(text: impl Into<String>) -> Self {
        Refusal(text.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// A question for a credential of the asking process, holding `payload`, which
/// only the user `reader` can take out.
pub fn encode(payload: &[u8], reader: u32) -> Vec<u8> {
    let mut body = vec![CIPHER, MAC, ZIP, 0];
    for number in [LIFETIME, reader, ANY, length(payload)] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.extend_from_slice(payload);
    message(ENCODE, &body)
}

/// A question for what is in a credential, and whose it is.
pub fn decode(credential: &str) -> Vec<u8> {
    let mut text = credential.as_bytes().to_vec();
    text.push(0);
    let mut body = length(&text).to_be_bytes().to_vec();
    body.extend_from_slice(&text);
    message(DECODE, &body)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = MAGIC.to_be_bytes().to_vec();
    message.extend_from_slice(&[VERSION, kind, 0]);
    message.extend_from_slice(&length(body).to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// What a credential holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The user who had it made.
    pub uid: u32,
    /// What was put in.
    pub payload: Vec<u8>,
}

/// The answer to [`encode`]: a credential; `None` if more has to come.
///
/// # Errors
/// munged's own words, or that it answered something else.
pub fn encoded(received: &[u8]) -> Result<Option<String>, Refusal> {
    let Some(mut body) = body(received, ENCODED)? else {
        return Ok(None);
    };
    body.error()?;
    let data = body.data()?;
    let text = data.strip_suffix(b"\0").unwrap_or(data);
    String::from_utf8(text.to_vec())
        .map(Some)
        .map_err(|_| Refusal::new("a credential that is no text"))
}

/// The answer to [`decode`]; `None` if more has to come.
///
/// # Errors
/// As [`encoded`]; a credential that is expired, was decoded before, or may not
/// be decoded by this user is an error too.
pub fn decoded(received: &[u8]) -> Result<Option<Decoded>, Refusal> {
    let Some(mut body) = body(received, DECODED)? else {
        return Ok(None);
    };
    body.error()?;
    body.bytes(3)?;
    let realm = body.byte()?;
    body.bytes(realm.into())?;
    body.number()?;
    let address = body.byte()?;
    body.bytes(address.into())?;
    body.number()?;
    body.number()?;
    let uid = body.number()?;
    for _ in 0..3 {
        body.number()?;
    }
    let payload = body.data()?.to_vec();
    Ok(Some(Decoded { uid, payload }))
}

fn body(received: &[u8], kind: u8) -> Result<Option<Body<'_>>, Refusal> {
    let Some(header) = received.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [m0, m1, m2, m3, version, found, _, l0, l1, l2, l3] = *header;
    if u32::from_be_bytes([m0, m1, m2, m3]) != MAGIC || version != VERSION || found != kind {
        return Err(Refusal::new("munged answered in a form that is not known"));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > LONGEST {
        return Err(Refusal::new("munged's answer is too long"));
    }
    let rest = received.get(HEADER..HEADER + length);
    Ok(rest.map(|rest| Body { rest }))
}

struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let cut = || Refusal::new("munged's answer is cut off");
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(cut)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        Ok(self.bytes(1)?[0])
    }

    fn number(&mut self) -> Result<u32, Refusal> {
        let bytes = self.bytes(4)?;
        Ok(bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn error(&mut self) -> Result<(), Refusal> {
        let number = self.byte()?;
        let length = self.byte()?;
        let text = crate::wire1::printable(self.bytes(length.into())?);
        match number {
            0 => Ok(()),
            _ => Err(Refusal(text.trim_end_matches('?').to_owned())),
        }
    }

    fn data(&mut self) -> Result<&'a [u8], Refusal> {
        let length = self.number()?;
        self.bytes(length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u8, body: &[u8]) -> Vec<u8> {
        message(kind, body)
    }

    #[test]
    fn a_credential_comes_whole_or_not_yet() {
        let bytes = answer(ENCODED, b"\0\0\0\0\0\x08MUNGE:x\0");
        for end in 0..bytes.len() {
            assert_eq!(encoded(&bytes[..end]), Ok(None));
        }
        assert_eq!(encoded(&bytes), Ok(Some("MUNGE:x".into())));
    }

    #[test]
    fn what_munged_refuses_is_told_in_its_words() {
        let bytes = answer(DECODED, b"\x11\x14Replayed credential\0");
        assert_eq!(decoded(&bytes), Err(Refusal::new("Replayed credential")));
    }

    #[test]
    fn a_decoded_credential_tells_whose_it_is() {
        let mut body = b"\0\0\x04\x05\0\0".to_vec();
        body.extend(60_u32.to_be_bytes());
        body.extend(b"\x04\x0a\0\0\x01");
        for number in [1_u32, 2, 1000, 100, 1000, ANY, 3] {
            body.extend(number.to_be_bytes());
        }
        body.extend(b"abc");
        let whole = answer(DECODED, &body);
        assert_eq!(
            decoded(&whole),
            Ok(Some(Decoded {
                uid: 1000,
                payload: b"abc".to_vec()
            }))
        );
        for end in 2..body.len() {
            assert!(decoded(&answer(DECODED, &body[..end])).is_err(), "{end}");
        }
    }

    #[test]
    fn another_form_is_refused() {
        assert!(encoded(b"HTTP/1.1 400 Bad Request").is_err());
        let mut bytes = answer(ENCODED, b"");
        bytes[7..11].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(encoded(&bytes).is_err());
    }
}
