//! `singularity convert`: an image in another format.

use std::path::Path;

use command::cli::images::Convert;
use image::sif::{DataType, Descriptor, Details, Link, PartitionRole};
use image::{FileSystem, Format as Image_, Image, Shown, Sif};
use launcher::Error;

use crate::build::{new_root, remember_owners};
use crate::pack::{self, Format, Packing, SifObject};
use crate::space;
use crate::tree::extract::Options;
use crate::unpack;
use crate::verbs::is_ext;
use crate::workdir::WorkDir;

/// Writes it.
///
/// # Errors
/// A damaged image, a place that is taken, a full disk.
pub fn convert(options: &Convert) -> Result<(), Error> {
    let packing = Packing::new(&options.writing, false, &options.to)?;
    let image = Image::open(&options.from)?;
    into(
        image,
        packing,
        options.writing.tmpdir.as_deref(),
        &options.to,
    )
}

/// Writes what is in an image as another one at `to`.
///
/// # Errors
/// As [`convert`].
pub(crate) fn into(
    image: Image,
    mut packing: Packing,
    tmpdir: Option<&Path>,
    to: &Path,
) -> Result<(), Error> {
    if is_ext(&image) {
        launcher::lock::take(&image, false)?;
    }
    let is_same = std::fs::metadata(to)
        .ok()
        .zip(image.file().metadata().ok())
        .is_some_and(|(there, here)| {
            use std::os::unix::fs::MetadataExt;
            (there.dev(), there.ino()) == (here.dev(), here.ino())
        });
    if is_same && packing.format == Format::Directory {
        return Err(Error::new(
            format!("convert image {}", Shown::new(image.path())),
            "it cannot be put in its own place",
        )
        .hint("choose another name"));
    }
    let as_it_is = packing.compression.is_none() && packing.epoch.is_none();
    if let Image_::Sif(sif) = image.format() {
        if packing.format == Format::Sif && as_it_is {
            return pack::copy_objects(&image, sif, &|_| true, &packing, to);
        }
        keep_objects(&image, sif, &mut packing)?;
    }
    if as_it_is && fits(&image, packing.format) {
        return pack::copy_file_system(&image, &packing, to);
    }
    if image.is_directory() && packing.format != Format::Directory {
        space::enter(None)?;
        return pack::pack(image.path(), &packing, to);
    }
    if packing.format == Format::Directory {
        // What stays on the disk is to be the user's own.
        return pack::unpack_into_place(&image, &packing, to);
    }
    let space = space::enter(None)?;
    let work = WorkDir::new(tmpdir)?;
    let tree = new_root(work.path(), "root")?;
    let options = Options {
        epoch: packing.epoch,
        ..Options::default()
    };
    let lost = unpack::image(&image, &tree, options)?;
    remember_owners(&mut packing, &space, lost);
    pack::pack(&tree, &packing, to)
}

/// Whether the image's file system is one that the format holds.
fn fits(image: &Image, format: Format) -> bool {
    let Some(root) = image.root() else {
        return false;
    };
    match (format, root.filesystem) {
        (Format::Squashfs | Format::Sif, FileSystem::Squashfs)
        | (Format::Erofs, FileSystem::Erofs) => true,
        (Format::Ext4, FileSystem::Ext) => image
            .ext()
            .is_some_and(|facts| facts.version == image::ExtVersion::Ext4),
        (Format::Ext3, FileSystem::Ext) => image
            .ext()
            .is_some_and(|facts| facts.version == image::ExtVersion::Ext3),
        _ => false,
    }
}

/// What of a SIF file's objects goes along, and what is said of the rest.
fn keep_objects(image: &Image, sif: &Sif, packing: &mut Packing) -> Result<(), Error> {
    let mut dropped = Vec::new();
    for object in &sif.container.objects {
        let is_root = matches!(
            object.details,
            Details::Partition {
                role: PartitionRole::PrimarySystem,
                ..
            }
        );
        if is_root {
            continue;
        }
        let kept = packing.format == Format::Sif
            && !matches!(
                object.data_type,
                DataType::Signature | DataType::CryptoMessage
            )
            && object.size <= MOST;
        if kept {
            packing.objects.push(taken(image, object)?);
        } else if !matches!(
            object.data_type,
            DataType::DefinitionFile | DataType::Labels
        ) {
            dropped.push(format!("object {} ({})", object.id, object.data_type));
        }
    }
    if !dropped.is_empty() {
        let list = dropped.join(", ");
        let why = if sif.has_signature() {
            "; signatures are of the file system as it was packed before"
        } else {
            ""
        };
        tracing::warn!("left out of the new image: {list}{why}");
    }
    Ok(())
}

/// Larger objects are not taken into memory.
const MOST: u64 = 1 << 30;

fn taken(image: &Image, object: &Descriptor) -> Result<SifObject, Error> {
    use std::os::unix::fs::FileExt;
    let mut content = vec![0; usize::try_from(object.size).unwrap_or(0)];
    image
        .file()
        .read_exact_at(&mut content, object.offset)
        .map_err(|error| Error::io(format!("read image {}", Shown::new(image.path())), &error))?;
    Ok(SifObject {
        descriptor: Descriptor {
            // Numbers are given anew; what they meant may be gone.
            link: Link::None,
            ..object.clone()
        },
        content,
    })
}
