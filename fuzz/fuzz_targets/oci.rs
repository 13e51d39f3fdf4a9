//! References, indexes, manifests and configurations of container images.
//!
//! The modules are taken by their paths: the crate they belong to links compressors
//! and TLS, which would take minutes to build for this.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../bootstrap/src/oci/digest.rs"]
#[allow(dead_code)]
mod digest;
#[path = "../../bootstrap/src/oci/manifest.rs"]
#[allow(dead_code)]
mod manifest;
#[path = "../../bootstrap/src/oci/platform.rs"]
#[allow(dead_code)]
mod platform;
#[path = "../../bootstrap/src/oci/reference.rs"]
#[allow(dead_code)]
mod reference;

use manifest::{choose, Config, Document};
use platform::Wanted;
use reference::Reference;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(reference) = Reference::read(text.as_ref(), None) {
            let again = Reference::read(reference.to_string().as_ref(), None);
            assert_eq!(again.ok().as_ref(), Some(&reference), "{text}");
            assert!(!reference
                .name
                .split('/')
                .any(|part| part == ".." || part.is_empty()));
            assert!(!reference.file_name().contains('/'));
        }
        let _ = Wanted::new(Some(text));
    }
    let _ = Config::read(data, "it");
    if let Ok(Document::Index(all)) = Document::read(data, "it") {
        let wanted = Wanted::new(Some("arm64")).expect("it is a name");
        if let Ok(chosen) = choose(&all, &wanted, "it") {
            assert!(all.contains(chosen));
        }
    }
});
