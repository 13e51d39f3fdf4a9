//! `singularity expand`.
use command::cli::images::Expand;
use launcher::Error;

/// x
///
/// # Errors
/// x
pub fn expand(options: &Expand) -> Result<(), Error> {
    Err(Error::new(format!("{options:?}"), "x"))
}
