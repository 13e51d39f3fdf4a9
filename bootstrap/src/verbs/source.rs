//! Sources other than archives: images, directories and registries.

use std::ffi::OsStr;
use std::path::Path;

use command::cli::images::Registry;
use image::Shown;
use launcher::Error;

use crate::oci;
use crate::progress::Progress;
use crate::tree::archive::archive;
use crate::tree::extract::Lost;
use crate::verbs::import::by_archive;
use crate::verbs::open_to_read;

/// Puts the files of a source into the directory at `tree`, over what is there.
///
/// # Errors
/// It is nothing that can be imported.
pub(crate) fn unpack_into(source: &OsStr, registry: &Registry, tree: &Path) -> Result<Lost, Error> {
    let name = Shown::new(source).to_string();
    if let Some(fetched) = oci::Source::parse(source)? {
        let progress = Progress::new();
        let image = oci::fetch(&fetched, registry, None, &progress)?;
        return image.unpack_into(tree, &progress);
    }
    let image = open_to_read(Path::new(source))?;
    by_archive(&name, tree, |output| {
        archive(&*crate::tree::open(&image)?, output, &name, None)
    })
}
