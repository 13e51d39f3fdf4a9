//! What `singularity` becomes to measure. A few lines over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::run(&std::env::args_os().collect::<Vec<_>>()).into()
}
