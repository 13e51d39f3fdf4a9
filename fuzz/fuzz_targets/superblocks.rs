//! Whole files: the header line, squashfs, EROFS, ext, SIF and everything refused.

#![no_main]

use image::{recognise, Fault, ReadAt, Recognised};
use libfuzzer_sys::fuzz_target;

/// The input, and then zeros up to a size no fuzzer would ever write: so that a
/// superblock that speaks of gigabytes can be sound.
struct Padded<'a>(&'a [u8]);

impl ReadAt for Padded<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        buf.fill(0);
        self.0.read_at(buf, offset)?;
        Ok(buf.len())
    }

    fn size(&self) -> u64 {
        1 << 50
    }
}

/// What must hold of any answer.
fn judge(answer: Result<Recognised, Fault>, size: u64) {
    match answer {
        Ok(known) => {
            let root = known.root.expect("a file has a root");
            let end = root
                .offset
                .checked_add(root.size)
                .expect("the root ends somewhere");
            assert!(end <= size, "the root ends behind the file");
            let superblock = known.format.superblock().expect("a file has a superblock");
            assert!(
                superblock.bytes_used() <= root.size,
                "the root is larger than its place"
            );
            assert_eq!(superblock.filesystem(), root.filesystem);
        }
        Err(fault) => {
            let line = fault.to_string();
            assert!(
                !line.is_empty() && !line.chars().any(char::is_control),
                "{line:?}"
            );
        }
    }
}

fuzz_target!(|data: &[u8]| {
    judge(recognise(data), data.len() as u64);
    let padded = Padded(data);
    judge(recognise(&padded), padded.size());
});
