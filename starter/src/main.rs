//! The set-id starter. What it does is [`launcher::starter`]'s; this is the entry
//! point.

#![no_main]

use std::os::raw::{c_char, c_int};

/// The usual entry point of C. Rust's own would change what the program in the
/// image inherits: it ignores SIGPIPE and opens closed standard descriptors.
#[no_mangle]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    // What a panic says is for developers; who may call this program is not one.
    std::panic::set_hook(Box::new(|_| {}));
    let run = || launcher::starter::run(std::env::args_os().collect(), launcher::log::start);
    std::panic::catch_unwind(run).unwrap_or(255).into()
}
