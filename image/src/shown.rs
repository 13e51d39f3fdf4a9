//! Paths and other foreign bytes, made fit for one line on a terminal.
//!
//! Owns: the one escape rule used in every message. Never: loses information;
//! two different byte strings are always shown differently.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes that print on one line, without control over the terminal.
///
/// Control characters become `\n`, `\t`, `\r` or `\xNN`; bytes that are not
/// UTF-8 become `\xNN`; a backslash is doubled; line separators and
/// direction marks, which can make a name read as another, become `\u{…}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a>(&'a [u8]);

impl<'a> Shown<'a> {
    /// Shows raw bytes.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Shows a path, an argument or the value of a variable.
    pub fn new<S: AsRef<OsStr> + ?Sized>(text: &'a S) -> Self {
        Self(text.as_ref().as_bytes())
    }
}

/// A path for a message.
pub fn display_path(path: &Path) -> Shown<'_> {
    Shown::new(path)
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c if misleads(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_string_prints_on_one_harmless_line() {
        let table: [(&[u8], &str); 9] = [
            (b"/data/my image.sqfs", "/data/my image.sqfs"),
            ("/tmp/köln.img".as_bytes(), "/tmp/köln.img"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            (b"caf\xe9", "caf\\xe9"),
            (b"back\\slash", "back\\\\slash"),
            ("\u{202e}gpj".as_bytes(), "\\u{202e}gpj"),
            ("\u{85}".as_bytes(), "\\u{85}"),
            (b"", ""),
        ];
        for (bytes, expected) in table {
            assert_eq!(Shown::bytes(bytes).to_string(), expected);
        }
    }

    #[test]
    fn a_path_is_shown_by_the_same_rule() {
        assert_eq!(display_path(Path::new("a\nb")).to_string(), "a\\nb");
    }
}
