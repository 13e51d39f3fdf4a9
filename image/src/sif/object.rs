//! The vocabulary of the Singularity Image Format.
//!
//! Owns: the header, the object descriptors and the names for the numbers in
//! them, for whoever inspects or will write such a file. Never: reads one.

use std::fmt;

use crate::architecture::Architecture;

/// The header of a SIF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The line that makes the file executable, padded with NUL.
    pub launch: [u8; 32],
    /// What the primary partition is for.
    pub architecture: Architecture,
    /// The identifier of the image.
    pub id: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was last changed.
    pub modified: i64,
    /// How many descriptors are unused.
    pub descriptors_free: u64,
    /// How many descriptors there are.
    pub descriptors_total: u64,
    /// Where they begin.
    pub descriptors_offset: u64,
    /// How many bytes they take up.
    pub descriptors_size: u64,
    /// Where the objects begin.
    pub data_offset: u64,
    /// How many bytes the objects take up.
    pub data_size: u64,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the specification's own names")]
#[non_exhaustive]
pub enum DataType {
    DefinitionFile,
    Environment,
    Labels,
    Partition,
    Signature,
    GenericJson,
    Generic,
    CryptoMessage,
    Sbom,
    OciRootIndex,
    OciBlob,
    Other(u32),
}

impl DataType {
    /// From the number in a descriptor.
    pub fn from_number(number: u32) -> Self {
        match number {
            0x4001 => Self::DefinitionFile,
            0x4002 => Self::Environment,
            0x4003 => Self::Labels,
            0x4004 => Self::Partition,
            0x4005 => Self::Signature,
            0x4006 => Self::GenericJson,
            0x4007 => Self::Generic,
            0x4008 => Self::CryptoMessage,
            0x4009 => Self::Sbom,
            0x400a => Self::OciRootIndex,
            0x400b => Self::OciBlob,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DefinitionFile => "definition file",
            Self::Environment => "environment",
            Self::Labels => "labels",
            Self::Partition => "partition",
            Self::Signature => "signature",
            Self::GenericJson => "JSON",
            Self::Generic => "data",
            Self::CryptoMessage => "cryptographic message",
            Self::Sbom => "software bill of materials",
            Self::OciRootIndex => "OCI index",
            Self::OciBlob => "OCI blob",
            Self::Other(number) => return write!(f, "type {number:#x}"),
        })
    }
}

/// What a partition's descriptor says it contains. The content itself decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the specification's own names")]
#[non_exhaustive]
pub enum PartitionContent {
    Squashfs,
    Ext3,
    Archive,
    Raw,
    EncryptedSquashfs,
    Other(u32),
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartitionRole {
    /// A root file system, not the one that is run.
    System,
    /// The root file system.
    PrimarySystem,
    /// Files for a mount point.
    Data,
    /// A writable layer over the root.
    Overlay,
    /// Something else.
    Other(u32),
}

/// What a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// Nothing.
    None,
    /// The object of this number.
    Object(u32),
    /// All objects of the group of this number.
    Group(u32),
}

/// What only some types of object have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Details {
    /// Nothing more.
    None,
    /// A partition.
    Partition {
        /// What it says it contains.
        content: PartitionContent,
        /// What it is for.
        role: PartitionRole,
        /// What its programs are compiled for.
        architecture: Architecture,
    },
    /// A signature.
    Signature {
        /// The number of the hash function: 1 SHA-256, 2 SHA-384, 3 SHA-512, 4 BLAKE2s, 5 BLAKE2b.
        hash: u32,
        /// The fingerprint of the signer's key; zeroes where there is none.
        fingerprint: [u8; 20],
    },
}

/// The descriptor of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub data_type: DataType,
    /// Its number.
    pub id: u32,
    /// The group it belongs to.
    pub group: Option<u32>,
    /// What it refers to.
    pub link: Link,
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub size: u64,
    /// Its length with the padding before it.
    pub size_with_padding: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was last changed.
    pub modified: i64,
    /// The user and group it belonged to; written as zero nowadays.
    pub owner: [i64; 2],
    /// Its name, as it is written there.
    pub name: Vec<u8>,
    /// What only its type has.
    pub details: Details,
    /// The same as it is written there, without the zeroes at its end.
    pub extra: Vec<u8>,
}
