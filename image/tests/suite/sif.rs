//! SIF files, put together here from the public specification.

use image::sif::{self, DataType, Details, Link, PartitionContent, PartitionRole};
use image::{recognise, Architecture, FileSystem, Format, Image, Kind};

use crate::make::{self, put, read, Object, Workshop, DESCRIPTORS};

fn squashfs() -> Vec<u8> {
    read(&Workshop::new().squashfs("squashfs", &[]))
}

#[test]
fn a_sif_is_described_down_to_its_root() {
    let root = squashfs();
    let bytes = make::sif(
        48,
        &[
            Object::new(0x4001, 1, "Singularity", b"bootstrap: docker\n"),
            Object::new(0x4006, 2, "metadata.json", b"{}"),
            Object::partition(3, 1, 2, &root),
            Object::signature(4, 1),
        ],
    );
    let workshop = Workshop::new();
    let image = Image::open(&workshop.write("tools", &bytes)).unwrap();
    let Format::Sif(sif) = image.format() else {
        panic!("{:?}", image.format())
    };
    assert_eq!(sif.architecture, Architecture::X86_64);
    assert_eq!(sif.root_id, 3);
    assert!(sif.has_signature());
    let header = &sif.container.header;
    assert_eq!(
        (header.created, header.modified),
        (1_600_000_003, 1_600_000_004)
    );
    assert_eq!(
        (header.descriptors_total, header.descriptors_free),
        (48, 44)
    );
    assert_eq!(header.architecture, Architecture::X86_64);
    assert_eq!(header.id, [0x5a; 16]);

    let kinds: Vec<_> = sif
        .container
        .objects
        .iter()
        .map(|o| (o.id, o.data_type))
        .collect();
    assert_eq!(
        kinds,
        [
            (1, DataType::DefinitionFile),
            (2, DataType::GenericJson),
            (3, DataType::Partition),
            (4, DataType::Signature)
        ]
    );
    let object = sif.container.object(3).unwrap();
    assert_eq!(object.name, b"rootfs");
    assert_eq!((object.group, object.link), (Some(1), Link::None));
    assert_eq!(
        (object.created, object.modified),
        (1_600_000_001, 1_600_000_002)
    );
    assert_eq!(
        object.details,
        Details::Partition {
            content: PartitionContent::Squashfs,
            role: PartitionRole::PrimarySystem,
            architecture: Architecture::X86_64
        }
    );
    let signature = sif.container.signatures().next().unwrap();
    assert_eq!(signature.link, Link::Group(1));
    assert_eq!(
        signature.details,
        Details::Signature {
            hash: 1,
            fingerprint: [0xab; 20]
        }
    );

    let partition = image.root().unwrap();
    assert_eq!(
        (partition.offset, partition.size),
        (object.offset, root.len() as u64)
    );
    assert_eq!(partition.filesystem, FileSystem::Squashfs);
    assert_eq!(
        image.squashfs(),
        recognise(&root[..]).unwrap().format.superblock().map(|s| {
            let image::Superblock::Squashfs(facts) = s else {
                panic!()
            };
            facts
        })
    );
    assert_eq!(
        image.launch_line().unwrap(),
        "#!/usr/bin/env run-singularity"
    );
    assert_eq!(image.format().to_string(), "SIF with squashfs");
}

#[test]
fn a_root_of_any_supported_file_system_is_taken() {
    let workshop = Workshop::new();
    let cases = [
        (
            2,
            workshop.ext("ext3", "4M", &["-t", "ext3"]),
            FileSystem::Ext,
        ),
        (4, workshop.erofs("erofs", &[]), FileSystem::Erofs),
        (4, workshop.squashfs("squashfs", &[]), FileSystem::Squashfs),
    ];
    for (content, path, filesystem) in cases {
        let bytes = make::sif(1, &[Object::partition(1, content, 2, &read(&path))]);
        let root = recognise(&bytes[..]).unwrap().root.unwrap();
        assert_eq!(root.filesystem, filesystem);
    }
}

#[test]
fn deleted_objects_leave_holes_that_are_stepped_over() {
    let mut deleted = Object::new(0x4001, 1, "gone", b"x");
    deleted.used = false;
    let mut objects = vec![deleted; 30];
    objects.push(Object::partition(31, 1, 2, &squashfs()));
    let bytes = make::sif(31, &objects);
    let known = recognise(&bytes[..]).unwrap();
    let Format::Sif(sif) = known.format else {
        panic!("not a SIF")
    };
    assert_eq!(sif.container.objects.len(), 1);
    assert_eq!(sif.root_id, 31);
    assert!(!sif.has_signature());
}

#[test]
fn a_sif_that_cannot_be_run_says_why() {
    let root = squashfs();
    let data = Object::new(0x4007, 1, "data", b"x");
    let cases: [(&str, Vec<Object>, Kind, &str); 9] = [
        (
            "encrypted",
            vec![Object::partition(1, 5, 2, &root)],
            Kind::Unsupported,
            "encrypted",
        ),
        (
            "archive",
            vec![Object::partition(1, 3, 2, &root)],
            Kind::Unsupported,
            "an archive",
        ),
        (
            "new type",
            vec![Object::partition(1, 9, 2, &root)],
            Kind::Unsupported,
            "unknown type 9",
        ),
        (
            "no partition",
            vec![data.clone()],
            Kind::Unsupported,
            "without a root file system",
        ),
        (
            "only an overlay",
            vec![Object::partition(1, 2, 4, &root)],
            Kind::Unsupported,
            "without a root",
        ),
        (
            "oci",
            vec![Object::new(0x400a, 1, "index", b"{}")],
            Kind::Unsupported,
            "OCI-SIF",
        ),
        (
            "two roots",
            vec![
                Object::partition(1, 1, 2, &root),
                Object::partition(2, 1, 2, &root),
            ],
            Kind::Damaged,
            "more than one",
        ),
        (
            "wrong type",
            vec![Object::partition(1, 2, 2, &root)],
            Kind::Damaged,
            "says the root file system is ext, but it is squashfs",
        ),
        (
            "not a file system",
            vec![Object::partition(1, 1, 2, &[7; 5000])],
            Kind::Damaged,
            "something else",
        ),
    ];
    for (name, objects, kind, words) in cases {
        let bytes = make::sif(4, &objects);
        let fault = recognise(&bytes[..]).unwrap_err();
        assert_eq!(fault.kind(), kind, "{name}: {fault}");
        assert!(fault.cause().contains(words), "{name}: {fault}");
        // An inspector can still look at it.
        assert_eq!(
            sif::read(&bytes[..]).unwrap().objects.len(),
            objects.len(),
            "{name}"
        );
    }
}

#[test]
fn a_damaged_header_or_descriptor_is_named() {
    let bytes = make::sif(4, &[Object::partition(1, 1, 2, &squashfs())]);
    let big = i64::MAX.to_le_bytes();
    let cases: [(usize, &[u8], Kind, &str); 9] = [
        (42, b"02\0", Kind::Unsupported, "version 02; only 01"),
        (80, &[9], Kind::Damaged, "more descriptors are free"),
        (
            88,
            &[0xff; 8],
            Kind::Damaged,
            "counts 18446744073709551615 descriptors",
        ),
        (96, &[0; 8], Kind::Damaged, "the descriptors lie inside it"),
        (96, &big, Kind::Damaged, "truncated"),
        (DESCRIPTORS + 17, &big, Kind::Damaged, "impossible size"),
        (
            DESCRIPTORS + 25,
            &[0xff; 8],
            Kind::Damaged,
            "impossible size",
        ),
        (
            DESCRIPTORS + 25,
            &[0, 0, 0, 1],
            Kind::Damaged,
            "descriptor of object 1 says",
        ),
        (
            DESCRIPTORS + 25,
            &[96, 0, 0, 0],
            Kind::Damaged,
            "the root file system in the SIF file: truncated",
        ),
    ];
    for (at, new, kind, words) in cases {
        let mut bytes = bytes.clone();
        put(&mut bytes, at, new);
        let fault = recognise(&bytes[..]).unwrap_err();
        assert_eq!(fault.kind(), kind, "{new:x?} at {at}: {fault}");
        assert!(fault.cause().contains(words), "{new:x?} at {at}: {fault}");
    }
}
