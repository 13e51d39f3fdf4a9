//! Writing the header and the descriptors of a SIF file.
//!
//! Owns: their bytes. Never: writes a file, or decides what an image holds.

use super::object::{DataType, Descriptor, Details, Header, Link, PartitionContent, PartitionRole};
use super::{DESCRIPTOR_LENGTH, GROUP, HEADER_LENGTH, MAGIC, MAGIC_AT, VERSION};

/// The line that makes a SIF file start itself.
pub const LAUNCH: [u8; 32] = *b"#!/usr/bin/env run-singularity\n\0";
/// Where the reference implementation begins the descriptors.
pub const DESCRIPTORS_AT: u64 = 4096;
/// How many there are in the files it makes.
pub const USUAL_DESCRIPTORS: u64 = 48;

struct Writer<const N: usize>([u8; N]);

impl<const N: usize> Writer<N> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let place = self.0.get_mut(at..).unwrap_or_default();
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

impl Header {
    /// The header as it is written.
    pub fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
        let mut raw = Writer([0; HEADER_LENGTH]);
        raw.put(0, &self.launch);
        raw.put(MAGIC_AT, MAGIC);
        raw.put(42, &VERSION);
        raw.put(45, &self.architecture.sif_code());
        raw.put(48, &self.id);
        raw.put(64, &self.created.to_le_bytes());
        raw.put(72, &self.modified.to_le_bytes());
        for (index, number) in [
            self.descriptors_free,
            self.descriptors_total,
            self.descriptors_offset,
            self.descriptors_size,
            self.data_offset,
            self.data_size,
        ]
        .into_iter()
        .enumerate()
        {
            raw.put(80 + 8 * index, &number.to_le_bytes());
        }
        raw.0
    }
}

impl Descriptor {
    /// The descriptor as it is written. A name of more than 128 bytes is cut.
    pub fn to_bytes(&self) -> [u8; DESCRIPTOR_LENGTH] {
        let mut raw = Writer([0; DESCRIPTOR_LENGTH]);
        raw.put(0, &self.data_type.number().to_le_bytes());
        raw.put(4, &[1]);
        raw.put(5, &self.id.to_le_bytes());
        let group = self.group.map_or(GROUP, |group| group | GROUP);
        raw.put(9, &group.to_le_bytes());
        let link = match self.link {
            Link::None => 0,
            Link::Object(id) => id,
            Link::Group(id) => id | GROUP,
        };
        raw.put(13, &link.to_le_bytes());
        raw.put(17, &self.offset.to_le_bytes());
        raw.put(25, &self.size.to_le_bytes());
        raw.put(33, &self.size_with_padding.to_le_bytes());
        raw.put(41, &self.created.to_le_bytes());
        raw.put(49, &self.modified.to_le_bytes());
        raw.put(57, &self.owner[0].to_le_bytes());
        raw.put(65, &self.owner[1].to_le_bytes());
        raw.put(73, self.name.get(..128).unwrap_or(&self.name));
        raw.put(201, &self.extra);
        raw.0
    }
}

impl DataType {
    /// The number in a descriptor.
    pub fn number(self) -> u32 {
        match self {
            Self::DefinitionFile => 0x4001,
            Self::Environment => 0x4002,
            Self::Labels => 0x4003,
            Self::Partition => 0x4004,
            Self::Signature => 0x4005,
            Self::GenericJson => 0x4006,
            Self::Generic => 0x4007,
            Self::CryptoMessage => 0x4008,
            Self::Sbom => 0x4009,
            Self::OciRootIndex => 0x400a,
            Self::OciBlob => 0x400b,
            Self::Other(number) => number,
        }
    }
}

impl PartitionContent {
    fn number(self) -> u32 {
        match self {
            Self::Squashfs => 1,
            Self::Ext3 => 2,
            Self::Archive => 3,
            Self::Raw => 4,
            Self::EncryptedSquashfs => 5,
            Self::Other(number) => number,
        }
    }
}

impl PartitionRole {
    fn number(self) -> u32 {
        match self {
            Self::System => 1,
            Self::PrimarySystem => 2,
            Self::Data => 3,
            Self::Overlay => 4,
            Self::Other(number) => number,
        }
    }
}

impl Details {
    /// The last field of a descriptor, whose meaning depends on its type.
    pub fn to_extra(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        match self {
            Self::None => {}
            Self::Partition {
                content,
                role,
                architecture,
            } => {
                extra.extend(content.number().to_le_bytes());
                extra.extend(role.number().to_le_bytes());
                extra.extend(architecture.sif_code());
            }
            Self::Signature { hash, fingerprint } => {
                extra.extend(hash.to_le_bytes());
                extra.extend(fingerprint);
            }
        }
        extra
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse_descriptor, parse_header};
    use super::*;
    use crate::architecture::Architecture;

    #[test]
    fn what_is_written_is_read_again() {
        let header = Header {
            launch: LAUNCH,
            architecture: Architecture::X86_64,
            id: [7; 16],
            created: 1,
            modified: -2,
            descriptors_free: 1,
            descriptors_total: 2,
            descriptors_offset: DESCRIPTORS_AT,
            descriptors_size: 3,
            data_offset: 4,
            data_size: 5,
        };
        assert_eq!(parse_header(&header.to_bytes(), 1 << 20).unwrap(), header);
        let details = Details::Partition {
            content: PartitionContent::Squashfs,
            role: PartitionRole::PrimarySystem,
            architecture: Architecture::Aarch64,
        };
        let descriptor = Descriptor {
            data_type: DataType::Partition,
            id: 3,
            group: Some(1),
            link: Link::Group(2),
            offset: 4096,
            size: 100,
            size_with_padding: 200,
            created: 5,
            modified: 6,
            owner: [1000, -1],
            name: b"root".to_vec(),
            extra: details.to_extra(),
            details,
        };
        let again = parse_descriptor(&descriptor.to_bytes(), 1 << 20)
            .unwrap()
            .unwrap();
        // The last byte of an architecture is a NUL.
        assert_eq!(
            descriptor.extra.strip_suffix(b"\0"),
            Some(again.extra.as_slice())
        );
        assert_eq!(
            Descriptor {
                extra: descriptor.extra.clone(),
                ..again
            },
            descriptor
        );
    }
}
