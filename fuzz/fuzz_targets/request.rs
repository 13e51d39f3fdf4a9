//! The request that the set-id starter is handed.

#![no_main]

use launcher::starter::check_request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if check_request(data).is_err() {
        return;
    }
    // Nothing that is cut short may be taken for whole.
    for length in [data.len() / 2, data.len() - 1] {
        assert!(check_request(&data[..length]).is_err());
    }
});
