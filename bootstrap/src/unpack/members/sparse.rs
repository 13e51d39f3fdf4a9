//! Maps of sparse files: which pieces of a file are stored.
//!
//! Owns: the maps of GNU's header and of the content's beginning, and the check of all.
//! Never: trusts a map that is longer than the file.

use std::io::{self, Read};

use tar::Header;

use super::{damaged, Members, BLOCK, MOST_PIECES};

impl<R: Read> Members<R> {
    /// The map of GNU's own header, which goes on in blocks behind it.
    pub(super) fn old_map(&mut self, header: &Header) -> io::Result<(Vec<(u64, u64)>, u64)> {
        let wrong = |_| damaged("a sparse file's map is wrong");
        let gnu = header
            .as_gnu()
            .ok_or_else(|| damaged("a sparse file's header is not GNU's"))?;
        let mut map = Vec::new();
        let mut take = |pieces: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let offset = piece.offset().map_err(wrong)?;
                map.push((offset, piece.length().map_err(wrong)?));
            }
            Ok(())
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.reader.read_exact(block.as_mut_bytes())?;
            self.position += BLOCK;
            take(block.sparse())?;
            more = block.is_extended();
            blocks += 1;
            if blocks > MOST_PIECES / 21 {
                return Err(damaged("a sparse file has too many pieces"));
            }
        }
        Ok((map, gnu.real_size().map_err(wrong)?))
    }

    /// The map in decimal numbers, a line each, in front of the content.
    pub(super) fn map_in_front(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut read = 0;
        let mut number = |members: &mut Self| -> io::Result<u64> {
            let mut value: u64 = 0;
            for digits in 0.. {
                let mut byte = [0];
                members.read_exact(&mut byte)?;
                read += 1;
                match byte[0] {
                    b'\n' if digits > 0 => return Ok(value),
                    digit @ b'0'..=b'9' => {
                        value = value
                            .checked_mul(10)
                            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
                            .ok_or_else(|| damaged("a sparse file's map is wrong"))?;
                    }
                    _ => break,
                }
            }
            Err(damaged("a sparse file's map is wrong"))
        };
        let count = number(self)?;
        if count > MOST_PIECES as u64 {
            return Err(damaged("a sparse file has too many pieces"));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            let offset = number(self)?;
            map.push((offset, number(self)?));
        }
        let padding: u64 = (read as u64).wrapping_neg() % BLOCK;
        if io::copy(&mut self.by_ref().take(padding), &mut io::sink())? < padding {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(map)
    }
}

pub(super) fn pairs(numbers: &[u64]) -> io::Result<Vec<(u64, u64)>> {
    if numbers.len() % 2 != 0 {
        return Err(damaged("a sparse file's map is wrong"));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

/// Pieces are in order, inside the file, and as long together as what is stored.
pub(super) fn check_map(map: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0, 0_u64);
    for (offset, length) in map {
        let behind = offset.checked_add(*length).filter(|behind| *behind <= size);
        match behind {
            Some(behind) if *offset >= end => end = behind,
            _ => return Err(damaged("a sparse file's map is wrong")),
        }
        sum += length;
    }
    if sum == stored {
        Ok(())
    } else {
        Err(damaged("a sparse file's map is wrong"))
    }
}
