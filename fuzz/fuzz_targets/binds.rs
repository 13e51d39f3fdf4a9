//! Lists of binds, as options, variables and configuration write them.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use launcher::bind;
use libfuzzer_sys::fuzz_target;

/// Writes a path so that it is read as one again.
fn escaped(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for &b in path.as_os_str().as_bytes() {
        if matches!(b, b':' | b',' | b'\\') {
            text.push(b'\\');
        }
        text.push(b);
    }
    text
}

fuzz_target!(|data: &[u8]| {
    let Ok(binds) = bind::parse_list(OsStr::from_bytes(data), Path::new("/here")) else {
        return;
    };
    for bind in binds {
        assert!(bind.source.as_path().is_absolute());
        assert!(bind.destination.as_path().is_absolute());
        let mut text = escaped(bind.source.as_path());
        text.push(b':');
        text.extend(escaped(bind.destination.as_path()));
        text.extend(if bind.read_only { &b":ro"[..] } else { b"" });
        let again = bind::parse_list(OsStr::from_bytes(&text), Path::new("/elsewhere"));
        assert_eq!(again.ok(), Some(vec![bind]));
    }
});
