//! Sources other than archives: images and directories.

use std::ffi::OsStr;
use std::path::Path;

use command::cli::images::Registry;
use image::Shown;
use launcher::Error;

use crate::tree::archive::archive;
use crate::tree::extract::Lost;
use crate::verbs::import::by_archive;
use crate::verbs::open_to_read;
use crate::volume;

/// Puts the files of a source into the directory at `tree`, over what is there.
///
/// # Errors
/// It is nothing that can be imported.
pub(crate) fn unpack_into(
    source: &OsStr,
    _registry: &Registry,
    tree: &Path,
) -> Result<Lost, Error> {
    let name = Shown::new(source).to_string();
    let image = open_to_read(Path::new(source))?;
    by_archive(&name, tree, |output| {
        archive(&*volume::open(&image)?, output, &name, None)
    })
}
