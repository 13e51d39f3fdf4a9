//! `singularity run`

use launcher::request::Entry;
use launcher::{Error, Host};

use crate::cli::Run;
use crate::cmd::enter;

/// Becomes the image's runscript; the words after the image are its arguments.
///
/// # Errors
/// Why it did not start.
pub fn run(options: Run, host: Host) -> Result<(), Error> {
    let (image, arguments) = enter::split(options.words);
    enter::enter(&image, Entry::Run(arguments), options.entering, host)
}
