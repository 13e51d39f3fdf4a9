//! `singularity import`.
use command::cli::images::Import;
use launcher::Error;

/// x
///
/// # Errors
/// x
pub fn import(options: &Import) -> Result<(), Error> {
    Err(Error::new(format!("{options:?}"), "x"))
}
