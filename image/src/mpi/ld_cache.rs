//! The loader's index of libraries, `/etc/ld.so.cache`.
//!
//! Owns: its format (glibc, `sysdeps/generic/dl-cache.h`: `cache_file_new`, alone
//! or after an old `ld.so-1.7.0` table). Never: trusts a number in it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::bytes::{le32, until_nul};

const NEW: &[u8] = b"glibc-ld.so.cache1.1";
const OLD: &[u8] = b"ld.so-1.7.0";
/// The header of the new format: magic, counts, flags, extension offset, padding.
const HEADER: usize = 48;
/// One entry: flags, key, value, OS version, hardware capabilities.
const ENTRY: usize = 24;
/// One entry of the old format.
const OLD_ENTRY: usize = 12;
/// More libraries than this are not believed.
const MOST: usize = 65536;

/// The entries of a cache: the name of a library and its path, in the file's order,
/// which is the loader's.
#[derive(Debug, Default)]
pub struct LdCache<'a> {
    table: &'a [u8],
    entries: &'a [u8],
}

impl<'a> LdCache<'a> {
    /// Takes the bytes of a cache; one that cannot be understood is empty.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self::parse(bytes).unwrap_or_default()
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let table = if bytes.starts_with(OLD) {
            // The new table follows the old one at a multiple of eight.
            let count = usize::try_from(le32(bytes.get(12..16)?, 0)).ok()?;
            let end = count.checked_mul(OLD_ENTRY)?.checked_add(16)?;
            bytes.get(end.checked_next_multiple_of(8)?..)?
        } else {
            bytes
        };
        if !table.starts_with(NEW) {
            return None;
        }
        let count = usize::try_from(le32(table.get(20..24)?, 0)).ok()?;
        let length = count.min(MOST).checked_mul(ENTRY)?;
        let entries = table.get(HEADER..)?;
        let entries = entries.get(..length.min(entries.len()))?;
        Some(Self { table, entries })
    }

    /// Names and paths.
    pub fn iter(&self) -> impl Iterator<Item = (&'a OsStr, &'a OsStr)> + '_ {
        self.entries.chunks_exact(ENTRY).filter_map(|entry| {
            let text = |at: usize| {
                let start = usize::try_from(le32(entry, at)).ok()?;
                let text = until_nul(self.table.get(start..)?);
                (!text.is_empty()).then(|| OsStr::from_bytes(text))
            };
            Some((text(4)?, text(8)?))
        })
    }

    /// The paths that a name has, the loader's first choice first.
    pub fn paths<'s>(&'s self, name: &'s OsStr) -> impl Iterator<Item = OsString> + 's {
        let text = |entry: &[u8], at: usize| {
            let start = usize::try_from(le32(entry, at)).ok()?;
            self.table.get(start..)
        };
        // A cache has thousands of entries: of those with other names no more is read.
        self.entries.chunks_exact(ENTRY).filter_map(move |entry| {
            let end = text(entry, 4)?.strip_prefix(name.as_bytes())?;
            let path = until_nul(text(entry, 8)?);
            let is_it = !name.is_empty() && end.first() == Some(&0) && !path.is_empty();
            is_it.then(|| OsStr::from_bytes(path).to_owned())
        })
    }
}
