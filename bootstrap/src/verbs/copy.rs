//! `singularity copy`.
use command::cli::images::Copy;
use launcher::Error;

/// x
///
/// # Errors
/// x
pub fn copy(options: &Copy) -> Result<(), Error> {
    Err(Error::new(format!("{options:?}"), "x"))
}
