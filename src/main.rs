//! The `singularity` command: the entry point. What it does is in the library.

#![no_main]

use std::os::raw::{c_char, c_int};

/// The usual entry point of C. Rust's own would change what the program in the
/// image inherits: it ignores SIGPIPE and opens closed standard descriptors.
#[no_mangle]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    let run = || command::run(std::env::args_os().collect());
    std::panic::catch_unwind(run).unwrap_or(255).into()
}
