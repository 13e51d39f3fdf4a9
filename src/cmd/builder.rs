//! The verbs that make, change and look at images, and the one that measures:
//! `singularity` becomes a program that is installed beside it, the `builder` or
//! `bench`, with the same words.
//!
//! A program of its own, because archives, compressors and registries need large
//! libraries, and every rank of a job pays for the size of `singularity`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use image::Shown;
use launcher::Error;

use crate::libexec::libexec;

/// Becomes one of them, with the words of the command line.
///
/// # Errors
/// Why it did not start.
pub fn become_program(name: &str, words: &[OsString]) -> Result<(), Error> {
    let program = libexec()?.join(name);
    let error = Command::new(&program)
        .arg0("singularity")
        .args(words.get(1..).unwrap_or_default())
        .exec();
    Err(
        Error::io(format!("execute {}", Shown::new(&program)), &error)
            .hint("make install puts it there; SINGULARITY_LIBEXEC names another directory"),
    )
}
