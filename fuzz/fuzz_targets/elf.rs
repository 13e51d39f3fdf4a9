//! Programs and libraries.

#![no_main]

use image::elf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match elf::describe(data) {
        Ok(elf) => {
            let names = elf.needed.iter().chain(&elf.interpreter).chain(&elf.soname);
            for name in names {
                assert!(!name.is_empty(), "a name is empty");
                assert!(!name.as_encoded_bytes().contains(&0), "a name holds a NUL");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
