//! What the search for MPI reads of a root: the loader's cache and exported symbols.

#![no_main]

use image::elf;
use image::mpi::{LdCache, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (name, path) in LdCache::of(data).iter() {
        assert!(!name.is_empty() && !path.is_empty(), "a name is empty");
    }
    if let Ok(Some(symbols)) = elf::symbols(data) {
        let _ = symbols.has("ompi_mpi_comm_world");
        if let Some(text) = symbols.text("MPII_Version_string") {
            assert!(text.len() <= 64, "a text is too long");
        }
    }
    let _ = elf::data(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Version::parse(text);
    }
});
