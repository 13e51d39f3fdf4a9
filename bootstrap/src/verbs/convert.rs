//! `singularity convert`: an image in another format.

use command::cli::images::Convert;
use image::sif::{DataType, Descriptor, Details, Link, PartitionRole};
use image::{FileSystem, Format as Image_, Image, Shown, Sif};
use launcher::Error;

use crate::pack::{self, Format, Packing, SifObject};
use crate::space::{self, Kind};
use crate::tree::extract::Options;
use crate::unpack;
use crate::verbs::open_to_read;
use crate::workdir::WorkDir;

/// Writes it.
///
/// # Errors
/// A damaged image, a place that is taken, a full disk.
pub fn convert(options: &Convert) -> Result<(), Error> {
    let mut packing = Packing::new(&options.writing, false, &options.to)?;
    let image = open_to_read(&options.from)?;
    let is_same = std::fs::metadata(&options.to)
        .ok()
        .zip(image.file().metadata().ok())
        .is_some_and(|(there, here)| {
            use std::os::unix::fs::MetadataExt;
            (there.dev(), there.ino()) == (here.dev(), here.ino())
        });
    if is_same && packing.format == Format::Directory {
        return Err(Error::new(
            format!("convert image {}", Shown::new(&options.from)),
            "it cannot be put in its own place",
        )
        .hint("choose another name"));
    }
    let as_it_is = packing.compression.is_none() && packing.epoch.is_none();
    if let Image_::Sif(sif) = image.format() {
        if packing.format == Format::Sif && as_it_is {
            return pack::copy_objects(&image, sif, &|_| true, &packing, &options.to);
        }
        keep_objects(&image, sif, &mut packing)?;
    }
    if as_it_is && fits(&image, packing.format) {
        return pack::copy_file_system(&image, &packing, &options.to);
    }
    if image.is_directory() && packing.format != Format::Directory {
        space::enter(None)?;
        return pack::pack(&options.from, &packing, &options.to);
    }
    if packing.format == Format::Directory {
        // What stays on the disk is to be the user's own.
        return pack::unpack_into_place(&image, &packing, &options.to);
    }
    let space = space::enter(None)?;
    let work = WorkDir::new(options.writing.tmpdir.as_deref())?;
    let tree = work.path().join("root");
    std::fs::create_dir(&tree)
        .map_err(|error| Error::io(format!("make {}", Shown::new(&tree)), &error))?;
    let lost = unpack::image(
        &image,
        &tree,
        Options {
            epoch: packing.epoch,
        },
    )?;
    unpack::tell(&lost, true);
    if space.kind() != Kind::Root && !lost.owners.is_empty() {
        packing.owners = Some(lost.owners);
    }
    pack::pack(&tree, &packing, &options.to)
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
