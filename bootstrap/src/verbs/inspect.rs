//! `singularity inspect`.
use command::cli::images::Inspect;
use launcher::Error;

/// x
///
/// # Errors
/// x
pub fn inspect(options: &Inspect) -> Result<(), Error> {
    Err(Error::new(format!("{options:?}"), "x"))
}
