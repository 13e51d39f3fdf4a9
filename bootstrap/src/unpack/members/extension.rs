//! Extended headers, as pax has them.
//!
//! Owns: their records, and what GNU tar and libarchive write in them. Never: reads the
//! archive itself.

use std::io;

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use base64::Engine as _;

use super::{damaged, MOST_PIECES};
use crate::tree::{Attribute, Time};

/// What extended headers say of a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Extension {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) modified: Option<Time>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) sparse: Sparse,
}

/// GNU tar's notations of sparse files in extended headers.
#[derive(Debug, Clone, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// 1.0: the map is at the beginning of the content.
    pub(super) map_in_front: bool,
    /// 0.0 and 0.1: offset, length, offset, length, …
    pub(super) map: Vec<u64>,
}

impl Sparse {
    pub(super) fn is_some(&self) -> bool {
        self.map_in_front || !self.map.is_empty() || self.size.is_some()
    }
}

impl Extension {
    /// Takes in the records `LENGTH KEY=VALUE\n`.
    pub(super) fn read(&mut self, mut text: &[u8]) -> io::Result<()> {
        let wrong = || damaged("an extended header is wrong");
        while !text.is_empty() && text.iter().any(|byte| *byte != 0) {
            let space = text
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or_else(wrong)?;
            let length: usize = text
                .get(..space)
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(wrong)?;
            let record = text.get(space + 1..length).ok_or_else(wrong)?;
            text = text.get(length..).unwrap_or_default();
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(wrong)?;
            let (key, value) = record.split_at(equals);
            self.take(key, value.get(1..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || -> io::Result<u64> {
            std::str::from_utf8(value)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(|| damaged("a number in an extended header is wrong"))
        };
        let id = || u32::try_from(number()?).map_err(|_| damaged("an owner is too large"));
        match key {
            // An empty value takes back what a global header said.
            _ if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") => {}
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(id()?),
            b"gid" => self.gid = Some(id()?),
            b"mtime" => self.modified = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.map_in_front = number()? == 1,
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                if self.sparse.map.len() >= 2 * MOST_PIECES {
                    return Err(damaged("a sparse file has too many pieces"));
                }
                self.sparse.map.push(number()?);
            }
            b"GNU.sparse.map" => {
                let numbers = std::str::from_utf8(value).unwrap_or_default();
                let numbers: Result<Vec<u64>, _> = numbers.split(',').map(str::parse).collect();
                self.sparse.map = numbers.map_err(|_| damaged("a sparse file's map is wrong"))?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attribute(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    // Its names are encoded as in a URL, its values in base64.
                    let value = STANDARD_NO_PAD
                        .decode(value)
                        .or_else(|_| STANDARD.decode(value));
                    let value = value.map_err(|_| damaged("an attribute is not in base64"))?;
                    self.attribute(percent_decoded(name), value);
                }
            }
        }
        Ok(())
    }

    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.attributes.retain(|(other, _)| *other != name);
        self.attributes.push((name, value));
    }
}

fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

/// Seconds with a fraction, as in `-1.25`.
fn time(text: &[u8]) -> io::Result<Time> {
    let wrong = || damaged("a time in an extended header is wrong");
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let mut nanoseconds: u32 = digits.parse().map_err(|_| wrong())?;
    let mut seconds: i64 = if whole == "-" {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    if whole.starts_with('-') && nanoseconds > 0 {
        seconds = seconds.checked_sub(1).ok_or_else(wrong)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok(Time {
        seconds,
        nanoseconds,
    })
}
