//! Form `node`: one process for all ranks of a node.
//!
//! Owns: the loop over descriptors, and the order of things: who is seated when,
//! and when it is over. Never: knows an interface; the adapters do.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// Serves the ranks that come to the listener until the last has ended.
pub fn serve(_listener: OwnedFd, _munge: Option<OwnedFd>) -> ExitCode {
    ExitCode::FAILURE
}
