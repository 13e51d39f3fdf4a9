//! Messages on standard error.
//!
//! Owns: how many there are. Their form is [`launcher::log`]'s. Never: the program's
//! output; nothing of ours goes to standard output once a command runs.

use std::io::Write as _;

use launcher::Error;

use crate::cli::Cli;

/// Starts the log at the level the options ask for: warnings by default.
pub fn start(cli: &Cli) {
    launcher::log::start(match (cli.quiet, cli.debug, cli.verbose) {
        (_, true, _) => 4,
        (true, ..) => 0,
        (.., more) => more.saturating_add(1),
    });
}

/// Prints a failure in one line, and what to do about it in another, in one
/// write: 64 ranks that fail at once stay readable.
pub fn error(error: &Error) {
    // With standard error gone there is nobody to tell.
    let _ = std::io::stderr().write_all(error.message().as_bytes());
}
