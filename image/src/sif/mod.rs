//! The Singularity Image Format.
//!
//! Owns: the header, the object descriptors and the choice of the primary
//! system partition, as the public specification has them (the `sif` package
//! of Sylabs and Apptainer, format version 01; all numbers little-endian).
//! Never: reads the content of an object other than the root's superblock, and
//! verifies no signature.

mod object;
mod write;

use crate::architecture::Architecture;
use crate::bytes::{array, le32, le64, until_nul};
use crate::error::Fault;
use crate::read::{read_array, read_up_to, ReadAt};
use crate::recognise::{
    file_system_at, FileSystem, Format, Found, Partition, Recognised, Superblock,
};
use crate::shown::Shown;

pub use object::{DataType, Descriptor, Details, Header, Link, PartitionContent, PartitionRole};
pub use write::{DESCRIPTORS_AT, LAUNCH, USUAL_DESCRIPTORS};

/// The length of the header.
pub const HEADER_LENGTH: usize = 128;
/// The length of one descriptor.
pub const DESCRIPTOR_LENGTH: usize = 585;
/// More objects than this are refused; ordinary files have room for 48.
pub const MOST_DESCRIPTORS: u64 = 4096;

const MAGIC_AT: usize = 32;
const MAGIC: &[u8] = b"SIF_MAGIC\0";
const VERSION: [u8; 3] = *b"01\0";
/// The bits that set a group's number apart from an object's.
const GROUP: u32 = 0xf000_0000;
/// Descriptors are read this many at a time: two pages of stack.
const AT_ONCE: usize = 14;

/// The header and the used descriptors of a SIF file, whatever it contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The header.
    pub header: Header,
    /// The objects, in the order of the file.
    pub objects: Vec<Descriptor>,
}

impl Container {
    /// The signatures.
    pub fn signatures(&self) -> impl Iterator<Item = &Descriptor> {
        self.objects
            .iter()
            .filter(|o| o.data_type == DataType::Signature)
    }

    /// The object with this number.
    pub fn object(&self, id: u32) -> Option<&Descriptor> {
        self.objects.iter().find(|o| o.id == id)
    }

    /// Whether the image is in the form that keeps OCI blobs and no root file system.
    pub fn is_oci(&self) -> bool {
        self.objects
            .iter()
            .any(|o| o.data_type == DataType::OciRootIndex)
    }
}

/// A SIF file that can be run: it has a sound root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sif {
    /// The header and the objects.
    pub container: Container,
    /// The number of the object that is the root file system.
    pub root_id: u32,
    /// What the root's programs are compiled for, as its descriptor says.
    pub architecture: Architecture,
    /// The superblock of the root file system.
    pub superblock: Superblock,
}

impl Sif {
    /// Whether some object is a signature. Says nothing of its validity.
    pub fn has_signature(&self) -> bool {
        self.container.signatures().next().is_some()
    }
}

/// Whether the first bytes of a file are those of a SIF.
pub(crate) fn has_magic(head: &[u8]) -> bool {
    head.get(MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(MAGIC))
}

/// Reads the header and the descriptors.
pub fn read<R: ReadAt + ?Sized>(input: &R) -> Result<Container, Fault> {
    let file_size = input.size();
    let header = read_array::<HEADER_LENGTH, R>(input, 0)
        .map_err(|e| Fault::reading(&e))?
        .ok_or_else(|| Fault::truncated("SIF format", HEADER_LENGTH as u64, file_size))?;
    let header = parse_header(&header, file_size)?;
    let used = header
        .descriptors_total
        .saturating_sub(header.descriptors_free);

    let mut objects = Vec::new();
    let mut chunk = [0; AT_ONCE * DESCRIPTOR_LENGTH];
    let mut index = 0;
    // Deleting an object leaves a hole, so the used ones need not be the first.
    while index < header.descriptors_total && (objects.len() as u64) < used {
        let count = (header.descriptors_total - index).min(AT_ONCE as u64);
        let at = index
            .saturating_mul(DESCRIPTOR_LENGTH as u64)
            .saturating_add(header.descriptors_offset);
        let length = usize::try_from(count)
            .unwrap_or(AT_ONCE)
            .saturating_mul(DESCRIPTOR_LENGTH);
        let Some(wanted) = chunk.get_mut(..length) else {
            break;
        };
        if read_up_to(input, wanted, at).map_err(|e| Fault::reading(&e))? != length {
            return Err(Fault::damaged(
                "truncated: the file ends inside its SIF descriptors",
            ));
        }
        for raw in wanted.chunks_exact(DESCRIPTOR_LENGTH) {
            if let Some(object) = parse_descriptor(raw, file_size)? {
                objects.push(object);
            }
        }
        index = index.saturating_add(count);
    }
    Ok(Container { header, objects })
}

fn parse_header(raw: &[u8; HEADER_LENGTH], file_size: u64) -> Result<Header, Fault> {
    if !has_magic(raw) {
        return Err(Fault::new(crate::Kind::NotAnImage, "is not a SIF file"));
    }
    let version: [u8; 3] = array(raw, 42);
    if version != VERSION {
        return Err(Fault::unsupported(format!(
            "is a SIF file of version {}; only 01 is known",
            Shown::bytes(until_nul(&version))
        )));
    }
    let header = Header {
        launch: array(raw, 0),
        architecture: Architecture::from_sif(array(raw, 45)),
        id: array(raw, 48),
        created: seconds(raw, 64),
        modified: seconds(raw, 72),
        descriptors_free: le64(raw, 80),
        descriptors_total: le64(raw, 88),
        descriptors_offset: le64(raw, 96),
        descriptors_size: le64(raw, 104),
        data_offset: le64(raw, 112),
        data_size: le64(raw, 120),
    };
    let damaged = |what: &str| Fault::damaged(format!("its SIF header is damaged: {what}"));
    if header.descriptors_free > header.descriptors_total {
        return Err(damaged("more descriptors are free than there are"));
    }
    if header.descriptors_total > MOST_DESCRIPTORS {
        return Err(damaged(&format!(
            "it counts {} descriptors, more than {MOST_DESCRIPTORS}",
            header.descriptors_total
        )));
    }
    if header.descriptors_offset < HEADER_LENGTH as u64 {
        return Err(damaged("the descriptors lie inside it"));
    }
    let end = header
        .descriptors_total
        .saturating_mul(DESCRIPTOR_LENGTH as u64)
        .saturating_add(header.descriptors_offset);
    if end > file_size {
        return Err(Fault::truncated("SIF header", end, file_size));
    }
    Ok(header)
}

/// Without the padding at its end.
fn trimmed(extra: &[u8]) -> &[u8] {
    let end = extra
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    extra.get(..end).unwrap_or_default()
}

/// A time, or another number that is signed.
fn seconds(raw: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array(raw, at))
}

/// One descriptor; `None` when it is not in use.
fn parse_descriptor(raw: &[u8], file_size: u64) -> Result<Option<Descriptor>, Fault> {
    if raw.get(4).copied().unwrap_or(0) == 0 {
        return Ok(None);
    }
    let data_type = DataType::from_number(le32(raw, 0));
    let id = le32(raw, 5);
    let (offset, size) = (le64(raw, 17), le64(raw, 25));
    match offset.checked_add(size) {
        Some(end) if end <= file_size && i64::try_from(end).is_ok() => {}
        Some(end) if i64::try_from(end).is_ok() => {
            return Err(Fault::truncated(
                &format!("SIF descriptor of object {id}"),
                end,
                file_size,
            ))
        }
        _ => {
            return Err(Fault::damaged(format!(
                "its SIF descriptor of object {id} is damaged: impossible size"
            )))
        }
    }
    let extra = raw.get(201..).unwrap_or_default();
    Ok(Some(Descriptor {
        data_type,
        id,
        group: match le32(raw, 9) & !GROUP {
            0 => None,
            group => Some(group),
        },
        link: match le32(raw, 13) {
            0 => Link::None,
            link if link & GROUP == GROUP => Link::Group(link & !GROUP),
            link => Link::Object(link),
        },
        offset,
        size,
        size_with_padding: le64(raw, 33),
        created: seconds(raw, 41),
        modified: seconds(raw, 49),
        owner: [seconds(raw, 57), seconds(raw, 65)],
        name: until_nul(raw.get(73..201).unwrap_or_default()).to_vec(),
        details: parse_details(data_type, extra),
        extra: trimmed(extra).to_vec(),
    }))
}

fn parse_details(data_type: DataType, extra: &[u8]) -> Details {
    match data_type {
        DataType::Partition => Details::Partition {
            content: match le32(extra, 0) {
                1 => PartitionContent::Squashfs,
                2 => PartitionContent::Ext3,
                3 => PartitionContent::Archive,
                4 => PartitionContent::Raw,
                5 => PartitionContent::EncryptedSquashfs,
                other => PartitionContent::Other(other),
            },
            role: match le32(extra, 4) {
                1 => PartitionRole::System,
                2 => PartitionRole::PrimarySystem,
                3 => PartitionRole::Data,
                4 => PartitionRole::Overlay,
                other => PartitionRole::Other(other),
            },
            architecture: Architecture::from_sif(array(extra, 8)),
        },
        DataType::Signature => Details::Signature {
            hash: le32(extra, 0),
            fingerprint: array(extra, 4),
        },
        _ => Details::None,
    }
}

/// Reads a SIF and finds its root file system.
pub(crate) fn recognise<R: ReadAt + ?Sized>(input: &R) -> Result<Recognised, Fault> {
    let container = read(input)?;
    let mut primary = container
        .objects
        .iter()
        .filter_map(|object| match object.details {
            Details::Partition {
                content,
                role: PartitionRole::PrimarySystem,
                architecture,
            } => Some((object, content, architecture)),
            _ => None,
        });
    let Some((object, content, architecture)) = primary.next() else {
        return Err(no_root(&container));
    };
    if primary.next().is_some() {
        return Err(Fault::damaged(
            "its SIF descriptors name more than one primary system partition",
        ));
    }
    let superblock = root_superblock(input, object, content)?;
    let root = Partition {
        offset: object.offset,
        size: object.size,
        filesystem: superblock.filesystem(),
    };
    let root_id = object.id;
    let launch = until_nul(&container.header.launch);
    let launch = launch.strip_suffix(b"\n").unwrap_or(launch);
    let launch_line = launch.starts_with(b"#!").then(|| launch.to_vec());
    let sif = Sif {
        container,
        root_id,
        architecture,
        superblock,
    };
    Ok(Recognised {
        format: Format::Sif(sif),
        root: Some(root),
        launch_line,
    })
}

fn no_root(container: &Container) -> Fault {
    if container.is_oci() {
        return Fault::unsupported("is an OCI-SIF: it holds OCI layers and no root file system")
            .with_hint("with the tool that made it, convert it to a SIF with one file system");
    }
    Fault::unsupported("is a SIF file without a root file system (no primary system partition)")
        .with_hint("it may hold only data or an overlay")
}

fn root_superblock<R: ReadAt + ?Sized>(
    input: &R,
    object: &Descriptor,
    content: PartitionContent,
) -> Result<Superblock, Fault> {
    // A raw partition is whatever it turns out to be: the format has no number for EROFS.
    let said = match content {
        PartitionContent::Squashfs => Some(FileSystem::Squashfs),
        PartitionContent::Ext3 => Some(FileSystem::Ext),
        PartitionContent::Raw => None,
        PartitionContent::EncryptedSquashfs => {
            return Err(
                Fault::unsupported("is a SIF file whose root file system is encrypted")
                    .with_hint("decrypt it with the tool and the key that made it"),
            )
        }
        PartitionContent::Archive => {
            return Err(Fault::unsupported(
                "is a SIF file whose root is an archive, not a file system",
            ))
        }
        PartitionContent::Other(number) => {
            return Err(Fault::unsupported(format!(
                "is a SIF file whose root file system has the unknown type {number}"
            )))
        }
    };
    match file_system_at(input, object.offset, object.size)? {
        Found::Sound(superblock) => match said {
            Some(said) if said != superblock.filesystem() => Err(Fault::damaged(format!(
                "its SIF descriptor says the root file system is {said}, but it is {}",
                superblock.filesystem()
            ))),
            _ => Ok(superblock),
        },
        Found::Flawed(fault, _) => Err(fault.within("the root file system in the SIF file")),
        Found::Nothing => Err(Fault::damaged(
            "the root file system in the SIF file is missing: its place holds something else",
        )),
    }
}
