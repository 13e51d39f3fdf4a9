//! Members of tar archives, their names, and what they mean in a layer.
//!
//! The modules are taken by their paths, as in the target `oci`.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;

#[path = "../../bootstrap/src/unpack/members/mod.rs"]
#[allow(dead_code)]
mod members;
#[path = "../../bootstrap/src/unpack/names.rs"]
#[allow(dead_code)]
mod names;

/// What of the crate's module of this name the others use.
mod tree {
    /// A point in time.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Time {
        /// Seconds since 1970.
        pub seconds: i64,
        /// Of the second.
        pub nanoseconds: u32,
    }

    /// An extended attribute.
    pub type Attribute = (Vec<u8>, Vec<u8>);
}

fuzz_target!(|data: &[u8]| {
    let mut archive = members::Members::new(data);
    while let Ok(Some(member)) = archive.next_member() {
        assert!(member.position <= data.len() as u64 + 512);
        assert!(member.mode <= 0o7777 && member.modified.nanoseconds < 1_000_000_000);
        if let Some(pieces) = &member.pieces {
            let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
            let end = pieces.last().map_or(0, |(offset, length)| offset + length);
            assert!(end <= member.size && stored <= member.size);
        }
        if let Ok(parts) = names::parts(&member.name) {
            for part in &parts {
                assert!(!matches!(*part, b"" | b"." | b".."));
                assert!(!part.contains(&b'/') && !part.contains(&0));
            }
            if let Some(Ok(names::Meaning::Removes(entry))) =
                parts.last().map(|last| names::meaning(last))
            {
                assert!(!matches!(entry, b"" | b"." | b".."));
            }
        }
        let mut some = [0; 700];
        let _ = archive.read(&mut some);
    }
});
