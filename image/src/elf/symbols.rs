//! Looking one exported symbol up, and reading what it names.
//!
//! Owns: the GNU hash table (`DT_GNU_HASH`, as glibc's `do_lookup_x` walks it) and
//! the symbol table it leads to. Never: reads a whole table. A look-up is half a
//! dozen reads, and every chain is bounded.

use crate::bytes::until_nul;
use crate::read::{read_up_to, ReadAt};

use super::{describe_layout, dynamic_entries, segments, text, Error, Layout, Segment};
use super::{PT_DYNAMIC, PT_LOAD};

/// More symbols in one bucket than this are not compared.
const LONGEST_CHAIN: usize = 256;
/// The longest content of a symbol that is read.
const LONGEST_TEXT: usize = 64;

/// Which of a library's exported symbols are looked up.
pub struct Symbols<'a, R: ReadAt + ?Sized> {
    input: &'a R,
    layout: Layout,
    segments: Vec<Segment>,
    hash: u64,
    symbols: u64,
    strings: u64,
}

/// Opens the exported symbols of an ELF file; `None` if it has none, or none by
/// the GNU hash table that linkers have written since 2006.
///
/// # Errors
/// As [`super::describe`].
pub fn symbols<R: ReadAt + ?Sized>(input: &R) -> Result<Option<Symbols<'_, R>>, Error> {
    let (header, layout) = describe_layout(input)?;
    let segments = segments(input, layout, &header)?;
    let Some(section) = segments.iter().find(|s| s.kind == PT_DYNAMIC) else {
        return Ok(None);
    };
    let dynamic = dynamic_entries(input, layout, *section)?;
    let places = (dynamic.gnu_hash, dynamic.symbols, dynamic.strings);
    let (Some(hash), Some(symbols), Some(strings)) = places else {
        return Ok(None);
    };
    let mut found = Symbols {
        input,
        layout,
        segments,
        hash: 0,
        symbols: 0,
        strings: 0,
    };
    let placed = (
        found.offset(hash),
        found.offset(symbols),
        found.offset(strings),
    );
    let (Some(hash), Some(symbols), Some(strings)) = placed else {
        return Ok(None);
    };
    (found.hash, found.symbols, found.strings) = (hash, symbols, strings);
    Ok(Some(found))
}

impl<R: ReadAt + ?Sized> Symbols<'_, R> {
    /// Where in the file what will be at `address` is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|s| s.kind == PT_LOAD)
            .find_map(|s| {
                let inside = address.checked_sub(s.address)?;
                (inside < s.file_size).then(|| s.offset.checked_add(inside))?
            })
    }

    fn word(&self, at: u64) -> Option<u32> {
        let mut raw = [0; 4];
        let got = read_up_to(self.input, &mut raw, at).ok()?;
        (got == raw.len()).then(|| self.layout.word(&raw, 0))
    }

    /// The address of a symbol that is defined here.
    fn address(&self, name: &str) -> Option<u64> {
        let mut header = [0; 16];
        if read_up_to(self.input, &mut header, self.hash).ok()? != header.len() {
            return None;
        }
        let [buckets, first, filters] = [0, 4, 8].map(|at| self.layout.word(&header, at));
        if buckets == 0 {
            return None;
        }
        let hash = gnu_hash(name);
        let wide = if self.layout.wide { 8 } else { 4 };
        let table = self
            .hash
            .checked_add(16)?
            .checked_add(u64::from(filters).checked_mul(wide)?)?;
        let bucket = table.checked_add(u64::from(hash % buckets) * 4)?;
        let chains = table.checked_add(u64::from(buckets) * 4)?;
        let mut number = self.word(bucket)?;
        for _ in 0..LONGEST_CHAIN {
            let chain = chains.checked_add(u64::from(number.checked_sub(first)?) * 4)?;
            let here = self.word(chain)?;
            if here | 1 == hash | 1 {
                if let Some(address) = self.defined(number, name) {
                    return Some(address);
                }
            }
            if here & 1 == 1 {
                return None;
            }
            number = number.checked_add(1)?;
        }
        None
    }

    /// The address of the symbol with this number, if it has this name.
    fn defined(&self, number: u32, name: &str) -> Option<u64> {
        let (length, value) = if self.layout.wide { (24, 8) } else { (16, 4) };
        let mut raw = [0; 24];
        let raw = raw.get_mut(..length)?;
        let at = u64::from(number).checked_mul(length as u64)?;
        let at = self.symbols.checked_add(at)?;
        if read_up_to(self.input, raw, at).ok()? != length {
            return None;
        }
        let place = self
            .strings
            .checked_add(u64::from(self.layout.word(raw, 0)))?;
        let found = text(self.input, place, name.len() as u64 + 1).ok()??;
        (found.as_encoded_bytes() == name.as_bytes()).then(|| self.layout.address(raw, value))
    }

    /// Whether the file defines the symbol.
    pub fn has(&self, name: &str) -> bool {
        self.address(name).is_some()
    }

    /// The text in the array that the symbol names, up to its NUL and at most 64 bytes.
    pub fn text(&self, name: &str) -> Option<String> {
        let at = self.offset(self.address(name)?)?;
        let mut raw = [0; LONGEST_TEXT];
        let got = read_up_to(self.input, &mut raw, at).ok()?;
        let bytes = until_nul(raw.get(..got)?);
        let printable = |b: &u8| b.is_ascii_graphic() || *b == b' ';
        (!bytes.is_empty() && bytes.iter().all(printable))
            .then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// The hash of `DT_GNU_HASH` (Daniel J. Bernstein's, times 33).
fn gnu_hash(name: &str) -> u32 {
    name.bytes().fold(5381, |hash: u32, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(byte))
    })
}
