//! Compressed streams become plain ones.
//!
//! Owns: which compressor wrote a stream, told by its first bytes and never by a
//! name, and reading ahead in a thread, so that decompressing and writing files
//! go on at the same time. Never: knows what is in the stream.

use std::io::{self, Read};
use std::sync::mpsc::{sync_channel, Receiver};
use std::thread;

use launcher::Error;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or more members. RFC 1952.
    Gzip,
    /// Zstandard, of one or more frames. RFC 8878.
    Zstd,
    /// xz, of one or more streams.
    Xz,
    /// What lzma(1) writes.
    Lzma,
    /// bzip2, of one or more streams.
    Bzip2,
}

/// How many first bytes tell the compressor.
pub const ENOUGH: usize = 6;

impl Compression {
    /// By the first bytes of a stream, [`ENOUGH`] of them if there are as many.
    ///
    /// # Errors
    /// The name of a compressor that is known and not read.
    pub fn of(first: &[u8]) -> Result<Self, &'static str> {
        Ok(match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x5d, 0, 0, ..] => Self::Lzma,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err("lz4"),
            [b'L', b'Z', b'I', b'P', ..] => return Err("lzip"),
            [0x89, b'L', b'Z', b'O', ..] => return Err("lzop"),
            [0x1f, 0x9d, ..] => return Err("compress"),
            _ => Self::None,
        })
    }

    /// The plain stream of a compressed one.
    ///
    /// # Errors
    /// No memory for the decompressor.
    pub fn reader<'a>(
        self,
        stream: impl Read + Send + 'a,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(stream),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(stream)?;
                // As `zstd --long=31` writes them.
                decoder.window_log_max(31)?;
                Box::new(decoder)
            }
            Self::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(stream)),
            Self::Lzma => {
                let decoder = liblzma::stream::Stream::new_lzma_decoder(u64::MAX)?;
                Box::new(liblzma::read::XzDecoder::new_stream(stream, decoder))
            }
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(stream)),
        })
    }
}

/// The plain stream of a stream that is compressed in any way that is known, or
/// not at all. `name` is for messages.
///
/// # Errors
/// The stream cannot be read, or is compressed in another way.
pub fn decompress<'a>(
    mut stream: impl Read + Send + 'a,
    name: &str,
) -> Result<Box<dyn Read + Send + 'a>, Error> {
    let failed = |error: &io::Error| Error::io(format!("read {name}"), error);
    let mut first = Vec::new();
    stream
        .by_ref()
        .take(ENOUGH as u64)
        .read_to_end(&mut first)
        .map_err(|error| failed(&error))?;
    let compression = Compression::of(&first).map_err(|compressor| {
        Error::new(
            format!("read {name}"),
            format!("it is compressed with {compressor}, which is not read"),
        )
        .hint("compress it with zstd, gzip, xz or bzip2, or not at all")
    })?;
    compression
        .reader(io::Cursor::new(first).chain(stream))
        .map_err(|error| failed(&error))
}

/// How much one piece of what is read ahead holds.
const PIECE: usize = 1 << 18;

/// How many pieces are read ahead.
const AHEAD: usize = 8;

/// A stream that is read ahead by a thread of its own.
#[derive(Debug)]
pub struct ReadAhead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
}

impl ReadAhead {
    /// Begins to read. The thread ends with the stream, or soon after this is dropped.
    pub fn new(mut stream: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = sync_channel(AHEAD);
        thread::spawn(move || loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = stream.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let end = read.is_err() || piece.is_empty();
            let full = !piece.is_empty() && sender.send(Ok(piece)).is_err();
            let failed = read.is_err_and(|error| sender.send(Err(error)).is_err());
            if end || full || failed {
                break;
            }
        });
        Self {
            pieces,
            piece: io::Cursor::default(),
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.piece.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.pieces.recv() {
                Ok(piece) => self.piece = io::Cursor::new(piece?),
                // The stream has ended.
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plain(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut read = Vec::new();
        decompress(bytes, "it")
            .map_err(|error| error.to_string())?
            .read_to_end(&mut read)
            .map_err(|error| error.to_string())?;
        Ok(read)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn every_compressor_is_known_by_its_first_bytes() {
        let text = b"one and one and one".repeat(1000);
        let xz = {
            let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            writer.write_all(&text).unwrap();
            writer.finish().unwrap()
        };
        let bzip2 = {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(&text).unwrap();
            writer.finish().unwrap()
        };
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        for packed in [&text, &gzip(&text), &zstd, &xz, &bzip2] {
            assert_eq!(plain(packed).unwrap(), text);
            // Several one after the other are one stream.
            let twice = [&packed[..], &packed[..]].concat();
            assert_eq!(plain(&twice).unwrap(), [&text[..], &text[..]].concat());
        }
        assert_eq!(plain(b"").unwrap(), b"");
    }

    #[test]
    fn a_compressor_that_is_not_read_is_named() {
        assert_eq!(
            plain(&[0x04, 0x22, 0x4d, 0x18, 0, 0, 0]).unwrap_err(),
            "read it: it is compressed with lz4, which is not read"
        );
    }

    #[test]
    fn a_stream_that_stops_early_is_an_error_and_not_an_end() {
        let text = b"one and one and one".repeat(1000);
        let packed = gzip(&text);
        for length in [packed.len() - 1, packed.len() / 2, 12] {
            assert!(plain(&packed[..length]).is_err(), "{length}");
        }
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        assert!(plain(&zstd[..zstd.len() - 2]).is_err());
    }

    #[test]
    fn what_is_read_ahead_arrives_whole_with_the_error_behind_it() {
        let text: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let broken = io::Cursor::new(text.clone()).chain(Broken);
        let mut read = Vec::new();
        let error = ReadAhead::new(broken).read_to_end(&mut read).unwrap_err();
        assert_eq!((read == text, error.to_string()), (true, "broken".into()));
        // Dropping it early blocks nobody.
        let mut ahead = ReadAhead::new(io::repeat(7));
        ahead.read_exact(&mut [0; 100]).unwrap();
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
}
