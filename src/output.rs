//! Standard output of verbs whose output is our own.
//!
//! Owns: writing it whole. Never: used by a verb that becomes a program.

use std::io::Write as _;

use launcher::Error;

/// Prints the text. A reader that has seen enough is no failure.
///
/// # Errors
/// Whatever else keeps it from being written.
pub fn print(text: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Error::io("write to standard output", &error)),
    }
}
