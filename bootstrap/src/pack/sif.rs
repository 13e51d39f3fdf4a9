//! SIF: a squashfs root file system with what describes it, in one file.
//!
//! Owns: which objects are in it and where they lie, as the format's public
//! specification has it and the reference implementation lays them out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use image::sif::{
    DataType, Descriptor, Details, Header, Link, PartitionContent, PartitionRole, DESCRIPTORS_AT,
    DESCRIPTOR_LENGTH, LAUNCH, USUAL_DESCRIPTORS,
};
use image::{Architecture, FileSystem, Image, Shown};
use launcher::Error;
use rustix::fs::{seek, SeekFrom};

use super::survey::Survey;
use super::{Output, Packing, SifObject};
use crate::tree::host::Directory;
use crate::tree::walk::read;
use crate::tree::Tree;

/// Nothing that describes an image is longer.
const MOST: usize = 16 << 20;

/// Objects begin at multiples of this, so that a partition can be mapped and
/// attached to a loop device.
const ALIGNMENT: u64 = 4096;
/// The group that the objects of an image belong to.
const GROUP: u32 = 1;

/// What the file is beside its objects.
pub(crate) struct Frame {
    /// The line that starts it.
    pub launch: [u8; 32],
    /// The identifier; signatures are over it.
    pub id: [u8; 16],
    /// What the root's programs are compiled for.
    pub architecture: Architecture,
    /// When the file was made.
    pub created: i64,
    /// When it was changed.
    pub modified: i64,
}

fn descriptors_for(objects: usize) -> u64 {
    USUAL_DESCRIPTORS.max((objects as u64).next_multiple_of(USUAL_DESCRIPTORS))
}

fn data_offset(descriptors: u64) -> u64 {
    DESCRIPTORS_AT + descriptors * DESCRIPTOR_LENGTH as u64
}

/// Where the next object begins when the last ends at `end`.
pub(crate) fn next_place(end: u64) -> u64 {
    end.next_multiple_of(ALIGNMENT)
}

/// Where the objects of a file with so many begin.
pub(crate) fn first_place(objects: usize) -> u64 {
    data_offset(descriptors_for(objects))
}

/// Writes header and descriptors, whose places are filled in already.
pub(crate) fn write_head(
    file: &std::fs::File,
    frame: &Frame,
    descriptors: &[Descriptor],
) -> io::Result<()> {
    let total = descriptors_for(descriptors.len());
    let start = data_offset(total);
    let end = descriptors
        .iter()
        .map(|object| object.offset + object.size)
        .max()
        .unwrap_or(start);
    let header = Header {
        launch: frame.launch,
        architecture: frame.architecture,
        id: frame.id,
        created: frame.created,
        modified: frame.modified,
        descriptors_free: total - descriptors.len() as u64,
        descriptors_total: total,
        descriptors_offset: DESCRIPTORS_AT,
        descriptors_size: total * DESCRIPTOR_LENGTH as u64,
        data_offset: start,
        data_size: end - start,
    };
    let mut table = Vec::new();
    for descriptor in descriptors {
        table.extend(descriptor.to_bytes());
    }
    file.write_all_at(&table, DESCRIPTORS_AT)?;
    file.write_all_at(&header.to_bytes(), 0)
}

/// What describes the image, from the places in its tree where it is kept.
fn own_objects(tree: &dyn Tree, time: i64) -> Result<Vec<SifObject>, Error> {
    let mut objects = Vec::new();
    for (path, data_type, name) in [
        (
            ".singularity.d/Singularity",
            DataType::DefinitionFile,
            "Singularity",
        ),
        (
            ".singularity.d/labels.json",
            DataType::Labels,
            "labels.json",
        ),
    ] {
        let content = read(tree, Path::new(path), MOST)?.unwrap_or_default();
        if content.is_empty() {
            continue;
        }
        objects.push(SifObject {
            descriptor: Descriptor {
                data_type,
                id: 0,
                group: Some(GROUP),
                link: Link::None,
                offset: 0,
                size: 0,
                size_with_padding: 0,
                created: time,
                modified: time,
                owner: [0, 0],
                name: name.as_bytes().to_vec(),
                details: Details::None,
                extra: Vec::new(),
            },
            content,
        });
    }
    Ok(objects)
}

/// What the root file system is written from.
pub(super) enum Root<'a> {
    /// It is packed.
    Tree(&'a Path),
    /// It is there already, in an image, and is copied.
    Partition(&'a Image),
}

pub(super) fn write(root: Root<'_>, packing: &Packing, output: &Output) -> Result<(), Error> {
    let step = || format!("pack image {}", Shown::new(output.place()));
    let failed = |error: io::Error| Error::io(step(), &error);
    let time = match packing.epoch {
        Some(epoch) => i64::try_from(epoch).unwrap_or(i64::MAX),
        None => now(),
    };
    let tree: Box<dyn Tree> = match root {
        Root::Tree(tree) => Box::new(Directory::open(tree)?),
        Root::Partition(image) => crate::tree::open(image)?,
    };
    let id = match (packing.epoch, &root) {
        (Some(_), Root::Tree(tree)) => Survey::of(tree)?.uuid(2),
        (Some(_), Root::Partition(image)) => of_content(image).map_err(failed)?,
        _ => random_uuid().map_err(failed)?,
    };
    let architecture = architecture(&*tree)?;
    let mut objects = own_objects(&*tree, time)?;
    // What came along from another SIF file replaces what the tree has of its type.
    for object in &packing.objects {
        objects.retain(|own| own.descriptor.data_type != object.descriptor.data_type);
    }
    objects.extend(packing.objects.iter().cloned());

    let mut descriptors = Vec::new();
    let mut end = first_place(objects.len() + 1);
    for (index, object) in objects.iter().enumerate() {
        let place = next_place(end);
        descriptors.push(Descriptor {
            id: u32::try_from(index + 1).unwrap_or(u32::MAX),
            offset: place,
            size: object.content.len() as u64,
            size_with_padding: place + object.content.len() as u64 - end,
            ..object.descriptor.clone()
        });
        end = place + object.content.len() as u64;
    }

    let place = next_place(end);
    let content = match root {
        Root::Tree(tree) => {
            super::squashfs::write(tree, packing, output, place)?;
            PartitionContent::Squashfs
        }
        Root::Partition(image) => {
            let partition = image
                .root()
                .ok_or_else(|| Error::new(step(), "a directory"))?;
            let length = image
                .superblock()
                .map_or(partition.size, |facts| facts.bytes_used())
                .next_multiple_of(ALIGNMENT)
                .min(partition.size);
            copy_bytes(image.file(), partition.offset, length, output.file(), place)
                .map_err(failed)?;
            match partition.filesystem {
                FileSystem::Squashfs => PartitionContent::Squashfs,
                FileSystem::Ext => PartitionContent::Ext3,
                // The format has no number for it.
                FileSystem::Erofs => PartitionContent::Raw,
            }
        }
    };
    // Only now: mksquashfs empties the file before it begins.
    for (object, descriptor) in objects.iter().zip(&descriptors) {
        output
            .file()
            .write_all_at(&object.content, descriptor.offset)
            .map_err(failed)?;
    }
    let length = output
        .file()
        .metadata()
        .map_err(failed)?
        .len()
        .next_multiple_of(ALIGNMENT);
    output.file().set_len(length).map_err(failed)?;
    let details = Details::Partition {
        content,
        role: PartitionRole::PrimarySystem,
        architecture,
    };
    descriptors.push(Descriptor {
        data_type: DataType::Partition,
        id: u32::try_from(objects.len() + 1).unwrap_or(u32::MAX),
        group: Some(GROUP),
        link: Link::None,
        offset: place,
        size: length - place,
        size_with_padding: length - end,
        created: time,
        modified: time,
        owner: [0, 0],
        name: match content {
            PartitionContent::Squashfs => b"rootfs.squashfs".to_vec(),
            PartitionContent::Ext3 => b"rootfs.ext".to_vec(),
            _ => b"rootfs.erofs".to_vec(),
        },
        extra: details.to_extra(),
        details,
    });
    let frame = Frame {
        launch: LAUNCH,
        id,
        architecture,
        created: time,
        modified: time,
    };
    write_head(output.file(), &frame, &descriptors).map_err(failed)?;
    make_executable(output).map_err(failed)
}

/// Writes a SIF file with all objects of another that are not left out, as they
/// are: their numbers, links, groups and times, and the file's identifier, stay,
/// so that signatures of them stay good.
pub(super) fn rewrite(
    image: &Image,
    sif: &image::Sif,
    keep: &dyn Fn(&Descriptor) -> bool,
    output: &Output,
) -> Result<(), Error> {
    let step = || format!("write image {}", Shown::new(output.place()));
    let failed = |error: io::Error| Error::io(step(), &error);
    let header = &sif.container.header;
    let objects: Vec<_> = sif.container.objects.iter().filter(|o| keep(o)).collect();
    let mut end = first_place(objects.len());
    let mut descriptors = Vec::new();
    for object in objects {
        let place = next_place(end);
        copy_bytes(
            image.file(),
            object.offset,
            object.size,
            output.file(),
            place,
        )
        .map_err(failed)?;
        descriptors.push(Descriptor {
            offset: place,
            size_with_padding: place + object.size - end,
            ..object.clone()
        });
        end = place + object.size;
    }
    if output.file().metadata().map_err(failed)?.len() < end {
        output.file().set_len(end).map_err(failed)?;
    }
    let frame = Frame {
        launch: header.launch,
        id: header.id,
        architecture: header.architecture,
        created: header.created,
        modified: header.modified,
    };
    write_head(output.file(), &frame, &descriptors).map_err(failed)?;
    make_executable(output).map_err(failed)
}

/// Copies a stretch of a file, holes as holes.
pub(crate) fn copy_bytes(
    from: &File,
    start: u64,
    length: u64,
    to: &File,
    place: u64,
) -> io::Result<()> {
    let end = start + length;
    let mut at = start;
    let mut buffer = vec![0; 1 << 18];
    while at < end {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            Err(rustix::io::Errno::NXIO) => end,
            Err(_) => at,
        };
        if data > at {
            at = data;
            continue;
        }
        let stop = match seek(from, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => hole.min(end),
            _ => end,
        };
        while at < stop {
            let wanted = usize::try_from(stop - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            from.read_exact_at(part, at)?;
            to.write_all_at(part, place + at - start)?;
            at += wanted as u64;
        }
    }
    if to.metadata()?.len() < place + length {
        to.set_len(place + length)?;
    }
    Ok(())
}

/// 128 bits of the root file system that is there.
fn of_content(image: &Image) -> io::Result<[u8; 16]> {
    let mut head = vec![0; 4096];
    let at = image.root().map_or(0, |root| root.offset);
    let length = image.file().read_at(&mut head, at)?;
    let mut uuid = [0; 16];
    for (index, part) in uuid.chunks_mut(4).enumerate() {
        let seed = !(index as u32).wrapping_mul(0x9e37_79b9);
        let sum = image::crc32c(seed, head.get(..length).unwrap_or_default());
        for (to, from) in part.iter_mut().zip(sum.to_be_bytes()) {
            *to = from;
        }
    }
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

/// A SIF file can be started by its name.
pub(crate) fn make_executable(output: &Output) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = output.file().metadata()?.permissions().mode();
    // Who may read it may start it.
    let mode = mode | (mode & 0o444) >> 2;
    output
        .file()
        .set_permissions(std::fs::Permissions::from_mode(mode & 0o777))
}

/// What the image's shell or another usual program of it is compiled for.
///
/// # Errors
/// A damaged image.
pub(crate) fn architecture(tree: &dyn Tree) -> Result<Architecture, Error> {
    for name in PROGRAMS {
        let Some(head) = read(tree, Path::new(name), 20)? else {
            continue;
        };
        // e_ident and e_machine; elf(5).
        if let [0x7f, b'E', b'L', b'F', class, order, .., a, b] = head.as_slice() {
            let little = *order == 1;
            let machine = if little { [*a, *b] } else { [*b, *a] };
            let machine = u16::from_le_bytes(machine);
            return Ok(Architecture::from_elf(machine, *class == 2, little));
        }
    }
    Ok(Architecture::Unknown)
}

/// Programs that nearly every image has one of.
pub(crate) const PROGRAMS: [&str; 7] = [
    "bin/sh",
    "usr/bin/sh",
    "bin/bash",
    "bin/busybox",
    "usr/bin/env",
    "sbin/ldconfig",
    "bin/true",
];

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(0))
}

/// A random UUID, of version 4 as RFC 9562 counts them.
fn random_uuid() -> io::Result<[u8; 16]> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}
