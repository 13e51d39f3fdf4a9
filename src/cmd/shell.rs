//! `singularity shell`

use launcher::request::Entry;
use launcher::{Error, Host};

use crate::cli::Shell;
use crate::cmd::enter;

/// Becomes a shell of the image.
///
/// # Errors
/// Why it did not start.
pub fn shell(options: Shell, host: Host) -> Result<(), Error> {
    let (image, arguments) = enter::split(options.words);
    let entry = Entry::Shell {
        program: options.shell,
        arguments,
    };
    enter::enter(&image, entry, options.entering, host)
}
