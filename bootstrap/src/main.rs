//! The builder: what `singularity` becomes for the verbs that make, change, move
//! and look at images. A few lines over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    bootstrap::run(&std::env::args_os().collect::<Vec<_>>()).into()
}
