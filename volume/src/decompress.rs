//! Blocks of compressed data.
//!
//! Owns: the algorithms of squashfs and EROFS, each with a bound on what comes
//! out. LZO is written out here, it is a page of code; and so is an LZ4 that stops when
//! the wanted part is there, which EROFS needs.

use std::io::Read;

/// How a block is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// zlib, RFC 1950.
    Zlib,
    /// Raw deflate, RFC 1951.
    Deflate,
    /// The old container of LZMA.
    Lzma,
    /// LZO1X.
    Lzo,
    /// The .xz container.
    Xz,
    /// LZ4 without a frame.
    Lz4,
    /// Zstandard frames, RFC 8878.
    Zstd,
}

/// Decompresses a block into at most `most` bytes; `None`: it is damaged.
pub(super) fn decompress(algorithm: Algorithm, input: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut output = vec![0; most];
    let length = unpack(algorithm, input, &mut output)?;
    output.truncate(length);
    Some(output)
}

/// Fills `output` with what a block holds, or the beginning of that; `None`: it is
/// damaged, or holds less.
pub(super) fn unpack_all(algorithm: Algorithm, input: &[u8], output: &mut [u8]) -> Option<()> {
    (unpack(algorithm, input, output)? == output.len()).then_some(())
}

/// How many bytes of `output` a block has filled.
fn unpack(algorithm: Algorithm, input: &[u8], output: &mut [u8]) -> Option<usize> {
    let most = output.len();
    match algorithm {
        Algorithm::Lz4 => {
            if let Ok(length) = lz4_flex::block::decompress_into(input, output) {
                return Some(length);
            }
            // It may be longer than what is wanted of it.
            let mut bytes = Vec::with_capacity(most);
            lz4(input, most, &mut bytes)?;
            copied(&bytes, output)
        }
        Algorithm::Lzo => {
            let mut bytes = Vec::with_capacity(most);
            lzo(input, most, &mut bytes)?;
            copied(&bytes, output)
        }
        Algorithm::Zlib => inflate(true, input, output),
        Algorithm::Deflate => inflate(false, input, output),
        Algorithm::Zstd => {
            if let Some(length) = unpack_whole_frame(input, output) {
                return Some(length);
            }
            let decoder = zstd::stream::read::Decoder::with_buffer(input).ok()?;
            read_up_to(decoder.single_frame(), output)
        }
        Algorithm::Xz | Algorithm::Lzma => {
            let stream = if algorithm == Algorithm::Xz {
                liblzma::stream::Stream::new_stream_decoder(MEMORY, 0)
            } else {
                liblzma::stream::Stream::new_lzma_decoder(MEMORY)
            };
            let reader = liblzma::bufread::XzDecoder::new_stream(input, stream.ok()?);
            read_up_to(reader, output)
        }
    }
}

fn copied(bytes: &[u8], output: &mut [u8]) -> Option<usize> {
    output.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}

fn inflate(zlib: bool, input: &[u8], output: &mut [u8]) -> Option<usize> {
    let mut state = flate2::Decompress::new(zlib);
    state
        .decompress(input, output, flate2::FlushDecompress::Finish)
        .ok()?;
    usize::try_from(state.total_out()).ok()
}

/// Unpacks what is one frame and no more, by a context that is kept: to make one takes
/// longer than a small block. `None`: it has to be looked at more closely.
fn unpack_whole_frame(input: &[u8], output: &mut [u8]) -> Option<usize> {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> =
            const { std::cell::RefCell::new(None) };
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Decompressor::new().ok();
        }
        kept.as_mut()?.decompress_to_buffer(input, output).ok()
    })
}

/// More than this no block of at most a megabyte needs to be unpacked.
const MEMORY: u64 = 256 << 20;

fn read_up_to(mut reader: impl Read, output: &mut [u8]) -> Option<usize> {
    let mut done = 0;
    while let Some(rest) = output.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest).ok()? {
            0 => break,
            count => done += count,
        }
    }
    Some(done)
}

/// Appends `length` bytes that begin `distance` before the end, one after the
/// other: they may overlap what is being appended.
fn repeat(output: &mut Vec<u8>, distance: usize, length: usize) -> Option<()> {
    let start = output
        .len()
        .checked_sub(distance)
        .filter(|_| distance > 0)?;
    if distance >= length {
        output.extend_from_within(start..start + length);
        return Some(());
    }
    for at in start..start + length {
        let byte = *output.get(at)?;
        output.push(byte);
    }
    Some(())
}

/// The block format of LZ4, until the input ends or `most` bytes are there.
/// See lz4_Block_format.md of the LZ4 project.
fn lz4(input: &[u8], most: usize, output: &mut Vec<u8>) -> Option<()> {
    let mut rest = input;
    let byte = |rest: &mut &[u8]| -> Option<u8> {
        let (first, more) = rest.split_first()?;
        *rest = more;
        Some(*first)
    };
    let long = |start: u8, rest: &mut &[u8]| -> Option<usize> {
        let mut length = usize::from(start);
        if start == 15 {
            loop {
                let more = byte(rest)?;
                length += usize::from(more);
                if more != 255 {
                    break;
                }
            }
        }
        Some(length)
    };
    while !rest.is_empty() {
        let token = byte(&mut rest)?;
        let literals = long(token >> 4, &mut rest)?.min(most - output.len());
        output.extend_from_slice(rest.get(..literals)?);
        rest = rest.get(literals..)?;
        // The last sequence has no match.
        if output.len() >= most || rest.is_empty() {
            return Some(());
        }
        let distance = usize::from(u16::from_le_bytes([byte(&mut rest)?, byte(&mut rest)?]));
        let length = long(token & 15, &mut rest)? + 4;
        repeat(output, distance, length.min(most - output.len()))?;
        if output.len() >= most {
            return Some(());
        }
    }
    Some(())
}

/// LZO1X, as the kernel's `Documentation/staging/lzo.rst` describes it.
fn lzo(input: &[u8], most: usize, output: &mut Vec<u8>) -> Option<()> {
    let mut at = 0;
    let byte = |at: &mut usize| -> Option<usize> {
        let byte = *input.get(*at)?;
        *at += 1;
        Some(usize::from(byte))
    };
    let long = |at: &mut usize, base: usize| -> Option<usize> {
        let mut length = base;
        loop {
            match byte(at)? {
                0 => length += 255,
                last => return Some(length + last),
            }
        }
    };
    let literals = |at: &mut usize, count: usize, output: &mut Vec<u8>| -> Option<()> {
        let slice = input.get(*at..at.checked_add(count)?)?;
        if output.len() + count > most {
            return None;
        }
        output.extend_from_slice(slice);
        *at += count;
        Some(())
    };
    // How many literals came last: 1 to 3 with a match, 4 for a run of them.
    let mut state = 0;
    let first = usize::from(*input.first()?);
    if first > 17 {
        at = 1;
        literals(&mut at, first - 17, output)?;
        state = (first - 17).min(4);
    }
    loop {
        let code = byte(&mut at)?;
        let (distance, length, next);
        if code < 16 {
            if state == 0 {
                let count = if code == 0 { long(&mut at, 15)? } else { code } + 3;
                literals(&mut at, count, output)?;
                state = 4;
                continue;
            }
            next = code & 3;
            let near = (code >> 2) + (byte(&mut at)? << 2) + 1;
            (distance, length) = if state == 4 {
                (near + 0x800, 3)
            } else {
                (near, 2)
            };
        } else if code >= 64 {
            next = code & 3;
            distance = (code >> 2 & 7) + (byte(&mut at)? << 3) + 1;
            length = (code >> 5) + 1;
        } else {
            let (mask, far) = if code >= 32 { (31, false) } else { (7, true) };
            length = match code & mask {
                0 => long(&mut at, mask)?,
                short => short,
            } + 2;
            let word = byte(&mut at)? | byte(&mut at)? << 8;
            next = word & 3;
            let near = word >> 2;
            distance = if far {
                let high = (code & 8) << 11;
                if high + near == 0 {
                    return Some(());
                }
                high + near + 0x4000
            } else {
                near + 1
            };
        }
        if output.len() + length > most {
            return None;
        }
        repeat(output, distance, length)?;
        literals(&mut at, next, output)?;
        state = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_stops_where_it_is_told_to() {
        // "abcd", then eight bytes from four back, then "xyz".
        let block = b"\x44abcd\x04\x00\x30xyz";
        let all = b"abcdabcdabcdxyz";
        for most in [15, 12, 9, 4, 2] {
            let output = decompress(Algorithm::Lz4, block, most).unwrap();
            assert_eq!(output, all[..most]);
        }
        assert_eq!(decompress(Algorithm::Lz4, b"\x44abcd\x05\x00", 15), None);
        assert_eq!(decompress(Algorithm::Lz4, b"\xf0", 15), None);
    }

    #[test]
    fn no_bytes_make_a_decompressor_panic_or_say_more_than_it_may() {
        let mut seed = 1_u64;
        for algorithm in [
            Algorithm::Lz4,
            Algorithm::Lzo,
            Algorithm::Zlib,
            Algorithm::Deflate,
            Algorithm::Zstd,
            Algorithm::Xz,
            Algorithm::Lzma,
        ] {
            for _ in 0..500 {
                let mut input = vec![0_u8; 64];
                for byte in &mut input {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                    *byte = (seed >> 56) as u8;
                }
                if let Some(output) = decompress(algorithm, &input, 100) {
                    assert!(output.len() <= 100);
                }
            }
        }
    }
}
