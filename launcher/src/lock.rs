//! One writer of an image file, or many readers.
//!
//! Owns: taking the lock. Never: keeps it; it belongs to the open file.

use std::time::{Duration, Instant};

use image::Image;
use nix::errno::Errno;

use crate::error::{shown, Error};
use crate::sys::process;

/// How long a writer that has ended may take to let go of the image: its FUSE
/// server writes what is left.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Readers share an ext image, a writer has it alone. The lock belongs to the
/// open file, which the loop device or the FUSE server keeps as long as the
/// image is mounted. See flock(2).
///
/// # Errors
/// Somebody else has it, or the file system knows no locks.
pub fn take(image: &Image, writable: bool) -> Result<(), Error> {
    let begun = Instant::now();
    let mut locked = process::lock_file(image.fd(), writable);
    while locked == Err(Errno::EWOULDBLOCK) && begun.elapsed() < LAST_WRITES {
        std::thread::sleep(Duration::from_millis(5));
        locked = process::lock_file(image.fd(), writable);
    }
    match locked {
        Ok(()) => Ok(()),
        Err(Errno::EWOULDBLOCK) => {
            let cause = if writable {
                "another process uses it"
            } else {
                "another process writes to it"
            };
            Err(
                Error::new(format!("lock image {}", shown(image.path())), cause)
                    .hint("wait for the other process to end"),
            )
        }
        // Some network file systems know no locks; a reader does no harm.
        Err(_) if !writable => Ok(()),
        Err(errno) => Err(
            Error::call(format!("lock image {}", shown(image.path())), errno)
                .hint("this file system refuses locks; copy the image to another"),
        ),
    }
}
