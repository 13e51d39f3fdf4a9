//! Reading at an offset: from an open file, or from memory for tests and fuzzing.
//!
//! Owns: the one trait every parser reads through, and the cache that lets the
//! usual image be recognised with a single `pread`. Never: moves a file offset
//! that another process may share, and never reads past the size it was given.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Something with a known size that can be read at any offset.
pub trait ReadAt {
    /// Reads some bytes at `offset`; zero means the end. May return fewer than asked for.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The size in bytes.
    fn size(&self) -> u64;
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..))
            .unwrap_or_default();
        let n = rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(n)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// An open file together with the size `fstat` gave for it.
///
/// The size is taken once, so that all checks of one image agree even while
/// somebody changes the file.
#[derive(Debug, Clone, Copy)]
pub struct FileAt<'a> {
    file: &'a File,
    size: u64,
}

impl<'a> FileAt<'a> {
    /// Asks the file for its size.
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self {
            file,
            size: file.metadata()?.len(),
        })
    }

    /// For a caller that has just called `fstat` itself.
    pub fn with_size(file: &'a File, size: u64) -> Self {
        Self { file, size }
    }
}

impl ReadAt for FileAt<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Reads until `buf` is full or the input ends; says how much there was.
pub(crate) fn read_up_to<R: ReadAt + ?Sized>(
    input: &R,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // pread(2) takes a signed offset: past that there is nothing to read.
        let Some(at) = offset
            .checked_add(done as u64)
            .filter(|at| i64::try_from(*at).is_ok())
        else {
            break;
        };
        match input.read_at(rest, at) {
            Ok(0) => break,
            Ok(n) => done = done.saturating_add(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done.min(buf.len()))
}

/// Reads exactly `N` bytes, or says that the input ends before.
pub(crate) fn read_array<const N: usize, R: ReadAt + ?Sized>(
    input: &R,
    offset: u64,
) -> io::Result<Option<[u8; N]>> {
    let mut buf = [0; N];
    Ok((read_up_to(input, &mut buf, offset)? == N).then_some(buf))
}

/// How much of the beginning is read at once.
///
/// A header line of 255 bytes, a file system at the next multiple of 4096
/// after it, and an ext superblock that ends 2048 bytes into that all fit.
pub(crate) const HEAD: usize = 8192;

/// The input with its first bytes already in memory.
pub(crate) struct Headed<'a, R: ?Sized> {
    inner: &'a R,
    head: [u8; HEAD],
    length: usize,
}

impl<'a, R: ReadAt + ?Sized> Headed<'a, R> {
    pub(crate) fn new(inner: &'a R) -> io::Result<Self> {
        let mut head = [0; HEAD];
        let length = read_up_to(inner, &mut head, 0)?;
        Ok(Self {
            inner,
            head,
            length,
        })
    }

    /// The first bytes, at most [`HEAD`] of them.
    pub(crate) fn head(&self) -> &[u8] {
        self.head.get(..self.length).unwrap_or_default()
    }
}

impl<R: ReadAt + ?Sized> ReadAt for Headed<'_, R> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(buf.len() as u64);
        if end <= self.length as u64 {
            return self.head().read_at(buf, offset);
        }
        self.inner.read_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }
}

/// How much [`Windows`] reads at once.
const WINDOW: usize = 1024;
/// How many pieces it keeps.
const KEPT: usize = 4;

/// The input by a few pieces that stay in memory, the latest ones: for formats whose
/// tables lie in several places, each of which is looked at in many small steps.
pub(crate) struct Windows<'a, R: ?Sized> {
    inner: &'a R,
    kept: RefCell<[Window; KEPT]>,
    next: std::cell::Cell<usize>,
}

#[derive(Clone, Copy)]
struct Window {
    start: u64,
    length: usize,
    bytes: [u8; WINDOW],
}

impl<'a, R: ReadAt + ?Sized> Windows<'a, R> {
    pub(crate) fn new(inner: &'a R) -> Self {
        let empty = Window {
            start: 0,
            length: 0,
            bytes: [0; WINDOW],
        };
        Self {
            inner,
            kept: RefCell::new([empty; KEPT]),
            next: std::cell::Cell::new(0),
        }
    }
}

impl Window {
    /// What it has from `offset` on.
    fn from(&self, offset: u64) -> Option<&[u8]> {
        let skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let rest = self.bytes.get(..self.length)?.get(skip..)?;
        (!rest.is_empty()).then_some(rest)
    }
}

impl<R: ReadAt + ?Sized> ReadAt for Windows<'_, R> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if buf.len() > WINDOW {
            return self.inner.read_at(buf, offset);
        }
        let mut kept = self.kept.borrow_mut();
        if let Some(bytes) = kept.iter().find_map(|window| window.from(offset)) {
            return bytes.read_at(buf, 0);
        }
        let next = self.next.replace((self.next.get() + 1) % KEPT);
        let Some(window) = kept.get_mut(next) else {
            return self.inner.read_at(buf, offset);
        };
        window.start = offset - offset % WINDOW as u64;
        window.length = 0;
        window.length = read_up_to(self.inner, &mut window.bytes, window.start)?;
        window.from(offset).unwrap_or_default().read_at(buf, 0)
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_show_what_is_there() {
        let bytes: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
        let input = Windows::new(bytes.as_slice());
        for (offset, length) in [
            (0, 4),
            (1020, 8),
            (4999, 1),
            (4990, 100),
            (5000, 1),
            (9000, 3),
            (3000, 1024),
            (0, 4096),
            (2047, 2),
            (1023, 1024),
            (4, 0),
            (u64::MAX, 4),
        ] {
            let (mut seen, mut right) = (vec![0; length], vec![0; length]);
            let got = read_up_to(&input, &mut seen, offset).unwrap();
            let expected = read_up_to(bytes.as_slice(), &mut right, offset).unwrap();
            assert_eq!((got, seen), (expected, right), "{offset} {length}");
        }
    }
}
