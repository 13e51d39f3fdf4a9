//! SIF files, read as an inspector reads them and as the launcher does.

#![no_main]

use image::{recognise, sif, Format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let size = data.len() as u64;
    let container = sif::read(data);
    if let Ok(container) = &container {
        assert!(container.objects.len() as u64 <= sif::MOST_DESCRIPTORS);
        for object in &container.objects {
            let end = object
                .offset
                .checked_add(object.size)
                .expect("an object ends somewhere");
            assert!(end <= size, "an object ends behind the file");
        }
    }
    if let Ok(Format::Sif(known)) = recognise(data).map(|known| known.format) {
        assert_eq!(
            container.as_ref(),
            Ok(&known.container),
            "two readings differ"
        );
        assert!(known.container.object(known.root_id).is_some());
    }
});
