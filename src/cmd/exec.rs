//! `singularity exec`

use launcher::request::Entry;
use launcher::{Error, Host};

use crate::cli::Exec;
use crate::cmd::enter;

/// Becomes a command of the image.
///
/// # Errors
/// Why it did not start.
pub fn exec(options: Exec, host: Host) -> Result<(), Error> {
    let (image, mut command) = enter::split(options.words);
    if command.len() > 1 && command[0] == "--" {
        command.remove(0);
    }
    enter::enter(&image, Entry::Exec(command), options.entering, host)
}
