//! `singularity test`

use launcher::request::Entry;
use launcher::{Error, Host};

use crate::cli::Test;
use crate::cmd::enter;

/// Becomes the image's test; the words after the image are its arguments.
///
/// # Errors
/// Why it did not start.
pub fn test(options: Test, host: Host) -> Result<(), Error> {
    let (image, arguments) = enter::split(options.words);
    enter::enter(&image, Entry::Test(arguments), options.entering, host)
}
