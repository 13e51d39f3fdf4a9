//! Images and archives become directory trees.
//!
//! Owns: which reader a format has. Never: mounts, or runs anything of an image.

pub mod decompress;
pub mod members;
pub mod names;
pub mod tar;

pub use decompress::decompress;

use std::path::{Path, PathBuf};

use image::Image;
use launcher::Error;

use crate::tree::extract::{extract, Lost, Options, Owner};

/// Owners by path below the top, for what a directory could not be given.
pub type Owners = Vec<(PathBuf, Owner)>;

/// Unpacks an image of any format into the directory at `tree`, which is there and
/// empty. Owners are the image's as far as the process can give files away; what
/// it could not do is returned.
///
/// # Errors
/// A damaged image, a full disk.
pub fn image(image: &Image, tree: &Path, options: Options) -> Result<Lost, Error> {
    let source = crate::tree::open(image)?;
    extract(&*source, tree, options)
}

/// Says what a directory could not be given. `kept` says that the owners are
/// remembered elsewhere.
pub fn tell(lost: &Lost, kept: bool) {
    let shown = |path: &PathBuf| image::Shown::new(path).to_string();
    // That root's files become the user's own is what a user expects.
    let others = || {
        lost.owners
            .iter()
            .filter(|(_, owner)| (owner.uid, owner.gid) != (0, 0))
    };
    if let (Some((first, _)), false) = (others().next(), kept) {
        tracing::warn!(
            "{} files belong to you instead of their owners, as in {}: \
             without root or subordinate ids they cannot be given away",
            others().count(),
            shown(first)
        );
    }
    if let Some(first) = lost.devices.first() {
        tracing::warn!(
            "{} device files are left out, as is {}: only root can make them",
            lost.devices.len(),
            shown(first)
        );
    }
    if let Some((first, name)) = lost.attributes.first() {
        tracing::warn!(
            "{} extended attributes are left out, as is {} of {}",
            lost.attributes.len(),
            image::Shown::bytes(name),
            shown(first)
        );
    }
}
