//! The verbs that make, change and look at images: `singularity` becomes the
//! `builder`, which is installed beside it, with the same words.
//!
//! A program of its own, because archives, compressors and registries need large
//! libraries, and every rank of a job pays for the size of `singularity`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::Shown;
use launcher::Error;

/// The directory of programs that `singularity` runs and people do not.
///
/// `SINGULARITY_LIBEXEC` names it; else it is `libexec/singularity` beside the
/// directory that the running program was started from.
///
/// # Errors
/// No /proc to ask.
pub fn libexec() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os("SINGULARITY_LIBEXEC").filter(|name| !name.is_empty()) {
        return Ok(named.into());
    }
    let program = std::env::current_exe().map_err(|error| {
        Error::io("find the running program", &error).hint("/proc has to be mounted")
    })?;
    let prefix = program.parent().and_then(Path::parent);
    Ok(prefix.unwrap_or(Path::new("/")).join("libexec/singularity"))
}

/// Becomes the builder, with the words of the command line.
///
/// # Errors
/// Why it did not start.
pub fn become_builder(words: &[OsString]) -> Result<(), Error> {
    let program = libexec()?.join("builder");
    let error = Command::new(&program)
        .arg0("singularity")
        .args(words.get(1..).unwrap_or_default())
        .exec();
    Err(
        Error::io(format!("execute {}", Shown::new(&program)), &error)
            .hint("make install puts it there; SINGULARITY_LIBEXEC names another directory"),
    )
}
