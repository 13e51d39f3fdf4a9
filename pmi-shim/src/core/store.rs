//! Names and values that the ranks of a job tell one another.

use std::collections::HashMap;
use std::fmt;

/// The most bytes of names and values a member keeps. A job of 100,000 ranks
/// needs a few dozen MiB.
const MOST: usize = 512 << 20;

/// A key-value space as PMI-1 and PMI-2 have it.
///
/// What is put here is seen here at once, and by the other members after the next
/// exchange. A name that is put again takes the new value.
#[derive(Debug, Default)]
pub struct Store {
    known: HashMap<Vec<u8>, Vec<u8>>,
    /// Put here since the last exchange, as a blob.
    news: Vec<u8>,
    bytes: usize,
}

/// There is no room for more, or a blob from another member is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Names and values have grown past what is sane.
    Room,
    /// Something else than names and values came from another member.
    Blob,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Full::Room => "the job's key-value space is full",
            Full::Blob => "another node sent something else than names and values",
        })
    }
}

impl std::error::Error for Full {}

impl Store {
    /// Remembers a value, and tells the others at the next exchange.
    ///
    /// # Errors
    /// [`Full::Room`].
    pub fn put(&mut self, name: &[u8], value: &[u8]) -> Result<(), Full> {
        self.keep(name, value)?;
        for part in [name, value] {
            // `keep` has refused what has not room in 32 bits.
            self.news
                .extend_from_slice(&(part.len() as u32).to_le_bytes());
            self.news.extend_from_slice(part);
        }
        Ok(())
    }

    /// Remembers a value that everybody knows, such as the job's mapping.
    ///
    /// # Errors
    /// [`Full::Room`].
    pub fn keep(&mut self, name: &[u8], value: &[u8]) -> Result<(), Full> {
        let more = name.len() + value.len();
        if self.bytes + more > MOST {
            return Err(Full::Room);
        }
        self.bytes += more;
        if let Some(old) = self.known.insert(name.to_vec(), value.to_vec()) {
            self.bytes -= name.len() + old.len();
        }
        Ok(())
    }

    /// The value of a name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.known.get(name).map(Vec::as_slice)
    }

    /// What was put here since this was asked last: the blob of an exchange.
    pub fn take_news(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.news)
    }

    /// Takes in what a member has put.
    ///
    /// # Errors
    /// A blob that is none, or [`Full::Room`].
    pub fn learn(&mut self, mut blob: &[u8]) -> Result<(), Full> {
        while !blob.is_empty() {
            let name = part(&mut blob).ok_or(Full::Blob)?;
            let value = part(&mut blob).ok_or(Full::Blob)?;
            self.keep(name, value)?;
        }
        Ok(())
    }
}

fn part<'a>(blob: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = blob.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *blob = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_seen_at_once_here_and_after_the_exchange_there() {
        let (mut here, mut there) = (Store::default(), Store::default());
        here.put(b"P0-businesscard", b"tcp#1").unwrap();
        here.put(b"P0-businesscard", b"tcp#2").unwrap();
        assert_eq!(here.get(b"P0-businesscard"), Some(&b"tcp#2"[..]));
        assert_eq!(there.get(b"P0-businesscard"), None);
        let blob = here.take_news();
        assert!(here.take_news().is_empty());
        there.learn(&blob).unwrap();
        assert_eq!(there.get(b"P0-businesscard"), Some(&b"tcp#2"[..]));
        assert!(there.take_news().is_empty(), "what was learnt is not news");
    }

    #[test]
    fn any_part_of_a_blob_is_taken_or_refused() {
        let mut store = Store::default();
        store.put(b"name", b"value").unwrap();
        let blob = store.take_news();
        for end in 1..blob.len() {
            assert_eq!(Store::default().learn(&blob[..end]), Err(Full::Blob));
        }
        assert_eq!(Store::default().learn(&[0xff; 8]), Err(Full::Blob));
    }
}
