//! SIF: a squashfs root file system with what describes it, in one file.
//!
//! Owns: which objects are in it and where they lie, as the format's public
//! specification has it and the reference implementation lays them out.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use image::sif::{
    DataType, Descriptor, Details, Header, Link, PartitionContent, PartitionRole, DESCRIPTORS_AT,
    DESCRIPTOR_LENGTH, LAUNCH, USUAL_DESCRIPTORS,
};
use image::{Architecture, Shown};
use launcher::Error;

use super::survey::Survey;
use super::{Output, Packing, SifObject};

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
fn own_objects(tree: &Path, time: i64) -> Vec<SifObject> {
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
        let Some(content) = small_file(tree, path).filter(|content| !content.is_empty()) else {
            continue;
        };
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
    objects
}

/// A file of at most 16 MiB in the tree, no link of which is followed.
fn small_file(tree: &Path, path: &str) -> Option<Vec<u8>> {
    use rustix::fs::{open, openat2, Mode, OFlags, ResolveFlags};
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = open(tree, flags, Mode::empty()).ok()?;
    let file = openat2(
        top,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .ok()?;
    let file = std::fs::File::from(file);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    file.take(16 << 20).read_to_end(&mut content).ok()?;
    Some(content)
}

pub(super) fn write(tree: &Path, packing: &Packing, output: &Output) -> Result<(), Error> {
    let step = || format!("pack image {}", Shown::new(output.place()));
    let failed = |error: io::Error| Error::io(step(), &error);
    let time = match packing.epoch {
        Some(epoch) => i64::try_from(epoch).unwrap_or(i64::MAX),
        None => now(),
    };
    let id = match packing.epoch {
        Some(_) => Survey::of(tree)?.uuid(2),
        None => random_uuid().map_err(failed)?,
    };
    let architecture = architecture(tree);
    let mut objects = own_objects(tree, time);
    // What came along from another SIF file replaces what the tree has of its type.
    for object in &packing.objects {
        objects.retain(|own| own.descriptor.data_type != object.descriptor.data_type);
    }
    objects.extend(packing.objects.iter().cloned());

    let mut descriptors = Vec::new();
    let mut end = first_place(objects.len() + 1);
    for (index, object) in objects.iter().enumerate() {
        let place = next_place(end);
        output
            .file()
            .write_all_at(&object.content, place)
            .map_err(failed)?;
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
    super::squashfs::write(tree, packing, output, place)?;
    let length = output.file().metadata().map_err(failed)?.len();
    let size = length.saturating_sub(place);
    let details = Details::Partition {
        content: PartitionContent::Squashfs,
        role: PartitionRole::PrimarySystem,
        architecture,
    };
    descriptors.push(Descriptor {
        data_type: DataType::Partition,
        id: u32::try_from(objects.len() + 1).unwrap_or(u32::MAX),
        group: Some(GROUP),
        link: Link::None,
        offset: place,
        size,
        size_with_padding: length - end,
        created: time,
        modified: time,
        owner: [0, 0],
        name: b"rootfs.squashfs".to_vec(),
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
pub(crate) fn architecture(tree: &Path) -> Architecture {
    use rustix::fs::{open, openat2, Mode, OFlags, ResolveFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(top) = open(tree, flags, Mode::empty()) else {
        return Architecture::Unknown;
    };
    for name in PROGRAMS {
        let file = openat2(
            &top,
            name,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            // Links are followed as the image sees them.
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        let Ok(file) = file else { continue };
        if let Ok(elf) = image::elf::describe_file(&file.into()) {
            return elf.architecture;
        }
    }
    Architecture::Unknown
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
