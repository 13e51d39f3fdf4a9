//! The text of singularity.conf.

#![no_main]

use launcher::site::{table, Site};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match Site::parse(data) {
    // What is shown is what holds.
    Ok(site) => assert_eq!(Site::parse(table::shown(&site).as_bytes()), Ok(site)),
    Err(mistake) => {
        let line = data.split(|&b| b == b'\n').nth(mistake.line - 1);
        let line = line.expect("a mistake is in a line of the text");
        assert!((1..=line.len() + 1).contains(&mistake.column));
    }
});
