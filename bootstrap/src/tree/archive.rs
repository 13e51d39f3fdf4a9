//! A tree becomes a tar archive.
//!
//! Owns: the POSIX pax format (pax(1) of POSIX.1-2017), with extended attributes as
//! GNU tar and libarchive keep them, and holes as in GNU tar's older form, which
//! every reader of archives knows. Owners are numbers: names are each host's own
//! affair. Never: writes anything that depends on when or where it is written.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;

use super::extract::clamped;
use super::walk::{walk, Visitor};
use super::{Kind, Node, Part, Time, Tree};

const BLOCK: usize = 512;
/// Holes that are shorter altogether are written as zeroes.
const WORTH_A_HOLE: u64 = 64 * 1024;
/// How many pieces of a file with holes fit in the header, and in each block after it.
const IN_HEADER: usize = 4;
const IN_EXTENSION: usize = 21;
/// A fixed field of the header can say this much in eleven octal digits.
const MOST_SIZE: u64 = 0o77_777_777_777;
const MOST_ID: u32 = 0o7_777_777;

/// Writes the tree as an archive. `name` is that of the output, for messages.
///
/// # Errors
/// What the tree says, and what writing says; a reader that has gone away is
/// [`is_closed_pipe`].
pub fn archive(
    tree: &dyn Tree,
    output: &mut dyn Write,
    name: &str,
    epoch: Option<u64>,
) -> Result<(), Error> {
    let mut writer = Writer::new(output, name, epoch);
    walk(tree, &mut writer)?;
    writer.end()
}

/// Writes an archive in which the tree, or one of its files, is at another place:
/// `place` is a relative path, below which all names are.
///
/// # Errors
/// As [`archive`].
pub fn archive_as(
    tree: &dyn Tree,
    file: Option<&Node>,
    place: &Path,
    output: &mut dyn Write,
) -> Result<(), Error> {
    let mut writer = Writer::new(output, "of files to copy", None);
    writer.place = place.to_owned();
    match file {
        Some(file) => writer.visit(tree, Path::new(""), file)?,
        None => walk(tree, &mut writer)?,
    }
    writer.end()
}

/// Whether the failure is that nobody reads the archive any more.
pub fn is_closed_pipe(error: &Error) -> bool {
    error.to_string().ends_with(": broken pipe")
}

fn writing(name: &str, error: &io::Error) -> Error {
    Error::io(format!("write archive {name}"), error)
}

struct Writer<'a> {
    output: &'a mut dyn Write,
    name: &'a str,
    /// Under which name files with several were written.
    names: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
    epoch: Option<u64>,
    /// What comes before every name.
    place: PathBuf,
}

impl Visitor for Writer<'_> {
    fn visit(&mut self, tree: &dyn Tree, path: &Path, node: &Node) -> Result<(), Error> {
        let path = &self.named(path);
        let mut name = b"./".to_vec();
        name.extend(path.as_os_str().as_bytes());
        if node.has_other_names() {
            if let Some(first) = self.names.get(&node.identity) {
                let mut target = b"./".to_vec();
                target.extend(first.as_os_str().as_bytes());
                return self.header(&name, node, b'1', 0, &target, &[], None);
            }
            self.names.insert(node.identity, path.to_owned());
        }
        let attributes = tree.attributes(node)?;
        match node.kind {
            Kind::File => self.file(tree, &name, node, &attributes),
            Kind::Directory => {
                if !name.ends_with(b"/") {
                    name.push(b'/');
                }
                self.header(&name, node, b'5', 0, b"", &attributes, None)
            }
            Kind::Link => {
                let target = tree.target(node)?;
                self.header(&name, node, b'2', 0, &target, &attributes, None)
            }
            Kind::Character => self.header(&name, node, b'3', 0, b"", &attributes, None),
            Kind::Block => self.header(&name, node, b'4', 0, b"", &attributes, None),
            Kind::Pipe => self.header(&name, node, b'6', 0, b"", &attributes, None),
            Kind::Socket => {
                tracing::info!("{} is left out: archives hold no sockets", Shown::new(path));
                Ok(())
            }
        }
    }
}

/// The parts of a file that are not holes: where each begins, and its length.
type Pieces = Vec<(u64, u64)>;

impl<'a> Writer<'a> {
    fn new(output: &'a mut dyn Write, name: &'a str, epoch: Option<u64>) -> Self {
        Self {
            output,
            name,
            names: HashMap::new(),
            buffer: vec![0; 1 << 18],
            epoch,
            place: PathBuf::new(),
        }
    }

    fn named(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.place.clone()
        } else {
            self.place.join(path)
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.put(&[0; 2 * BLOCK])?;
        self.output
            .flush()
            .map_err(|error| writing(self.name, &error))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output
            .write_all(bytes)
            .map_err(|error| writing(self.name, &error))
    }

    fn pad(&mut self, length: u64) -> Result<(), Error> {
        let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        match over {
            0 => Ok(()),
            over => self.put([0; BLOCK].get(over..).unwrap_or_default()),
        }
    }

    fn file(
        &mut self,
        tree: &dyn Tree,
        name: &[u8],
        node: &Node,
        attributes: &[super::Attribute],
    ) -> Result<(), Error> {
        let pieces = self.pieces(tree, node)?;
        let data: u64 = pieces.iter().map(|(_, length)| length).sum();
        let sparse = node.size.saturating_sub(data) >= WORTH_A_HOLE;
        if sparse {
            self.header(name, node, b'S', data, b"", attributes, Some(&pieces))?;
        } else {
            self.header(name, node, b'0', node.size, b"", attributes, None)?;
        }
        let mut written: u64 = 0;
        let mut content = tree.content(node)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let expected = if sparse { data } else { node.size };
        loop {
            match content.next(&mut buffer)? {
                Part::End => break,
                Part::Hole(length) if !sparse => {
                    let mut left = length.min(expected - written);
                    written += left;
                    buffer.fill(0);
                    while left > 0 {
                        let now = usize::try_from(left)
                            .unwrap_or(usize::MAX)
                            .min(buffer.len());
                        self.put(buffer.get(..now).unwrap_or_default())?;
                        left -= now as u64;
                    }
                }
                Part::Hole(_) => {}
                Part::Data(count) => {
                    let count = count.min(usize::try_from(expected - written).unwrap_or(count));
                    self.put(buffer.get(..count).unwrap_or_default())?;
                    written += count as u64;
                }
            }
        }
        self.buffer = buffer;
        // A directory's file that has become shorter meanwhile.
        while written < expected {
            let now = (expected - written).min(BLOCK as u64);
            self.put(
                [0; BLOCK]
                    .get(..usize::try_from(now).unwrap_or(0))
                    .unwrap_or_default(),
            )?;
            written += now;
        }
        self.pad(expected)
    }

    /// One reading ahead, where there may be holes: the header comes before the
    /// content and has to say where they are.
    fn pieces(&mut self, tree: &dyn Tree, node: &Node) -> Result<Pieces, Error> {
        let all = vec![(0, node.size)];
        if node.size < WORTH_A_HOLE || !tree.may_have_holes(node) {
            return Ok(all);
        }
        let mut pieces: Pieces = Vec::new();
        let mut at = 0;
        let mut content = tree.content(node)?;
        loop {
            match content.next(&mut self.buffer)? {
                Part::End => break,
                Part::Hole(length) => at += length,
                Part::Data(count) => {
                    match pieces.last_mut() {
                        Some((start, length)) if *start + *length == at => *length += count as u64,
                        _ => pieces.push((at, count as u64)),
                    }
                    at += count as u64;
                }
            }
        }
        // Where a hole at the end comes to its end.
        if pieces
            .last()
            .is_none_or(|(start, length)| start + length < node.size)
        {
            pieces.push((node.size, 0));
        }
        Ok(pieces)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one header")]
    fn header(
        &mut self,
        name: &[u8],
        node: &Node,
        kind: u8,
        size: u64,
        target: &[u8],
        attributes: &[super::Attribute],
        pieces: Option<&Pieces>,
    ) -> Result<(), Error> {
        let time = clamped(node.modified, self.epoch);
        let mut records = Vec::new();
        if name.len() > 100 {
            record(&mut records, b"path", name);
        }
        if target.len() > 100 {
            record(&mut records, b"linkpath", target);
        }
        if size > MOST_SIZE {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        if node.uid > MOST_ID {
            record(&mut records, b"uid", node.uid.to_string().as_bytes());
        }
        if node.gid > MOST_ID {
            record(&mut records, b"gid", node.gid.to_string().as_bytes());
        }
        let fits = u64::try_from(time.seconds).is_ok_and(|seconds| seconds <= MOST_SIZE);
        if time.nanoseconds != 0 || !fits {
            record(&mut records, b"mtime", decimal(time).as_bytes());
        }
        for (name, value) in attributes {
            record(
                &mut records,
                &[b"SCHILY.xattr.", name.as_slice()].concat(),
                value,
            );
        }
        if !records.is_empty() {
            let extended = Raw::new(
                b"././@PaxHeader",
                b'x',
                records.len() as u64,
                0o644,
                0,
                0,
                0,
            );
            self.put(&extended.finished())?;
            self.put(&records)?;
            self.pad(records.len() as u64)?;
        }
        let seconds = u64::try_from(time.seconds).unwrap_or(0);
        let mut raw = Raw::new(
            name,
            kind,
            size.min(MOST_SIZE),
            node.mode,
            node.uid.min(MOST_ID),
            node.gid.min(MOST_ID),
            seconds.min(MOST_SIZE),
        );
        raw.text(157, 100, target);
        if node.kind.is_device() {
            raw.octal(329, 8, node.device.0.into());
            raw.octal(337, 8, node.device.1.into());
        }
        let mut extensions = Vec::new();
        if let Some(pieces) = pieces {
            raw.gnu_sparse(pieces, node.size, &mut extensions);
        }
        self.put(&raw.finished())?;
        self.put(&extensions)
    }
}

/// A time as pax writes it: a decimal number of seconds.
fn decimal(time: Time) -> String {
    if time.nanoseconds == 0 {
        return time.seconds.to_string();
    }
    if time.seconds >= 0 {
        return format!("{}.{:09}", time.seconds, time.nanoseconds);
    }
    // Before 1970 the fraction counts towards zero.
    let (seconds, rest) = (-(time.seconds + 1), 1_000_000_000 - time.nanoseconds);
    format!("-{seconds}.{rest:09}")
}

/// A record of an extended header; its length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// A header block.
struct Raw([u8; BLOCK]);

impl Raw {
    fn new(name: &[u8], kind: u8, size: u64, mode: u32, uid: u32, gid: u32, time: u64) -> Self {
        let mut raw = Self([0; BLOCK]);
        raw.text(0, 100, name);
        raw.octal(100, 8, mode.into());
        raw.octal(108, 8, uid.into());
        raw.octal(116, 8, gid.into());
        raw.octal(124, 12, size);
        raw.octal(136, 12, time);
        raw.text(156, 1, &[kind]);
        raw.text(257, 8, b"ustar\x0000");
        raw
    }

    fn text(&mut self, at: usize, length: usize, text: &[u8]) {
        let place = self.0.get_mut(at..at + length).unwrap_or_default();
        for (to, from) in place.iter_mut().zip(text) {
            *to = *from;
        }
    }

    fn octal(&mut self, at: usize, length: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = length - 1);
        self.text(at, length - 1, digits.as_bytes());
    }

    /// Turns the header into that of a GNU file with holes.
    fn gnu_sparse(&mut self, pieces: &Pieces, size: u64, extensions: &mut Vec<u8>) {
        self.text(257, 8, b"ustar  \0");
        let (here, rest) = pieces.split_at(pieces.len().min(IN_HEADER));
        for (index, (start, length)) in here.iter().enumerate() {
            self.octal(386 + index * 24, 12, (*start).min(MOST_SIZE));
            self.octal(398 + index * 24, 12, *length);
        }
        self.octal(483, 12, size.min(MOST_SIZE));
        if rest.is_empty() {
            return;
        }
        self.text(482, 1, &[1]);
        let mut chunks = rest.chunks(IN_EXTENSION).peekable();
        while let Some(chunk) = chunks.next() {
            let mut block = Self([0; BLOCK]);
            for (index, (start, length)) in chunk.iter().enumerate() {
                block.octal(index * 24, 12, (*start).min(MOST_SIZE));
                block.octal(12 + index * 24, 12, *length);
            }
            if chunks.peek().is_some() {
                block.text(504, 1, &[1]);
            }
            extensions.extend(block.0);
        }
    }

    fn finished(mut self) -> [u8; BLOCK] {
        self.text(148, 8, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        let digits = format!("{sum:06o}\0 ");
        self.text(148, 8, digits.as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (length, expected) in [(3, "11 key=vvv\n"), (91, "99 key="), (92, "101 key=")] {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'v'; length]);
            assert!(records.starts_with(expected.as_bytes()), "{length}");
            let digits = records.split(|byte| *byte == b' ').next().unwrap();
            let said: usize = std::str::from_utf8(digits).unwrap().parse().unwrap();
            assert_eq!(said, records.len());
        }
    }

    #[test]
    fn times_before_1970_count_towards_zero() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "0"),
            (1, 5, "1.000000005"),
            (-1, 0, "-1"),
            (-1, 900_000_000, "-0.100000000"),
            (-2, 750_000_000, "-1.250000000"),
        ] {
            let time = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(decimal(time), expected);
        }
    }
}
