//! Failed system calls as the errors users read.

use launcher::Error;
use rustix::io::Errno;

/// A failed system call, with the step it belongs to.
pub(crate) fn call(step: impl Into<String>, errno: Errno) -> Error {
    Error::io(step, &errno.into())
}
