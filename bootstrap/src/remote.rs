//! Images from registries and OCI archives, as the build takes them.
use command::cli::images::Registry;
use launcher::Error;
use std::path::Path;

use crate::log::Log;
use crate::metadata::Metadata;
use crate::pack::Packing;
use crate::tree::extract::Lost;

/// Makes an image of it.
///
/// # Errors
/// What failed.
pub fn build(
    address: &str,
    _registry: &Registry,
    _packing: Packing,
    _tmpdir: Option<&Path>,
    _place: &Path,
) -> Result<(), Error> {
    Err(Error::new(format!("fetch {address}"), "not there yet"))
}

/// Unpacks it into a tree.
///
/// # Errors
/// What failed.
pub fn unpack(
    address: &str,
    _registry: &Registry,
    _tree: &Path,
    _log: &Log,
    _metadata: &mut Metadata,
) -> Result<Lost, Error> {
    Err(Error::new(format!("fetch {address}"), "not there yet"))
}
