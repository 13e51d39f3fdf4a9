//! Where the programs are that `singularity` runs and people do not.
//!
//! Owns: that one answer. Never: runs them.

use std::path::{Path, PathBuf};

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
