//! Container images become images of ours: what `pull` does, and `build` with an
//! address or a definition that begins with one.
//!
//! Owns: that way. Never: knows registries or layers; that is [`crate::oci`]'s.

use std::path::Path;

use command::cli::images::Registry;
use image::Shown;
use launcher::Error;

use crate::build::{new_root, remember_owners, space_for};
use crate::metadata::{self, Metadata};
use crate::oci::{self, Source};
use crate::pack::{self, Packing};
use crate::progress::Progress;
use crate::tree::extract::Lost;
use crate::workdir::WorkDir;

/// The source that an address names.
///
/// # Errors
/// It is none that can be fetched.
pub fn source(address: &str) -> Result<Source, Error> {
    Source::parse(address.as_ref())?.ok_or_else(|| {
        Error::new(
            format!("fetch {}", Shown::new(address)),
            "this is no address of a container image",
        )
        .hint("docker://HOST/NAME:TAG, oci:DIRECTORY, oci-archive:FILE or docker-archive:FILE")
    })
}

/// Fetches it and packs it into an image at `place`.
///
/// # Errors
/// What the registry, the network or the disk says.
pub fn build(
    source: &Source,
    registry: &Registry,
    mut packing: Packing,
    tmpdir: Option<&Path>,
    place: &Path,
) -> Result<(), Error> {
    let space = space_for(packing.format)?;
    let progress = Progress::new();
    let work = WorkDir::new(tmpdir)?;
    let tree = new_root(work.path(), "root")?;
    let (lost, metadata) = unpack(source, registry, tmpdir, &tree, &progress)?;
    metadata::write(&tree, &metadata)?;
    remember_owners(&mut packing, &space, lost);
    let packed = progress.step(format!("pack {}", Shown::new(place)));
    pack::pack(&tree, &packing, place)?;
    packed.done();
    Ok(())
}

/// Fetches it and unpacks it into a tree: what that could not be given, and what the
/// image says of itself.
///
/// # Errors
/// As [`build`].
pub fn unpack(
    source: &Source,
    registry: &Registry,
    tmpdir: Option<&Path>,
    tree: &Path,
    progress: &Progress,
) -> Result<(Lost, Metadata), Error> {
    let image = oci::fetch(source, registry, tmpdir, progress)?;
    let lost = image.unpack_into(tree, progress)?;
    Ok((lost, image.metadata()))
}
