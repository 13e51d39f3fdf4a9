//! Cut and altered images: the right refusal, and never a panic.

use image::{recognise, Kind, Recognised};

use crate::make::{put, read, sif, Object, Workshop};

/// One image of each format.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    let workshop = Workshop::new();
    let squashfs = read(&workshop.squashfs("squashfs", &["-comp", "zstd"]));
    let mut line = b"#!/usr/bin/env run-singularity\n".to_vec();
    line.extend(&squashfs);
    let sif = sif(
        4,
        &[
            Object::new(0x4001, 1, "def", b"bootstrap: docker\n"),
            Object::partition(2, 1, 2, &squashfs),
            Object::signature(3, 1),
        ],
    );
    vec![
        ("erofs", read(&workshop.erofs("erofs", &["-zlz4hc"]))),
        (
            "ext4",
            read(&workshop.ext("ext4", "2M", &["-t", "ext4", "-O", "metadata_csum"])),
        ),
        (
            "ext2",
            read(&workshop.ext("ext2", "2M", &["-t", "ext2", "-O", "none"])),
        ),
        ("line", line),
        ("sif", sif),
        ("squashfs", squashfs),
    ]
}

fn assert_in_bounds(known: &Recognised, bytes: &[u8], what: &str) {
    let root = known
        .root
        .unwrap_or_else(|| panic!("{what}: a file has a root"));
    let end = root.offset.checked_add(root.size).expect("no overflow");
    assert!(end <= bytes.len() as u64, "{what}: the root ends at {end}");
    let used = known
        .format
        .superblock()
        .expect("a superblock")
        .bytes_used();
    assert!(
        used <= root.size,
        "{what}: {used} bytes used of {}",
        root.size
    );
}

#[test]
fn an_image_cut_at_any_length_is_refused_as_what_it_still_is() {
    for (name, bytes) in images() {
        let whole = recognise(&bytes[..]).unwrap();
        let root = whole.root.unwrap();
        let used = whole.format.superblock().unwrap().bytes_used() + root.offset;
        let used = usize::try_from(used).unwrap();
        // Every length around the superblock, and some of all sizes.
        let lengths = (0..6200)
            .chain((6200..used).step_by(used.div_ceil(300)))
            .chain([used - 1]);
        for length in lengths.filter(|length| *length < used) {
            let fault = match recognise(&bytes[..length]) {
                Err(fault) => fault,
                Ok(known) => panic!("{name} cut to {length} is accepted: {known:?}"),
            };
            assert!(
                matches!(fault.kind(), Kind::Damaged | Kind::NotAnImage),
                "{name} cut to {length}: {fault}"
            );
            if length >= 5000 {
                assert_eq!(
                    fault.kind(),
                    Kind::Damaged,
                    "{name} cut to {length}: {fault}"
                );
                assert!(
                    fault.cause().contains("truncated"),
                    "{name} cut to {length}: {fault}"
                );
            }
        }
    }
}

#[test]
fn the_truncation_message_has_both_sizes() {
    let workshop = Workshop::new();
    let bytes = read(&workshop.squashfs("squashfs", &[]));
    let used = image::Image::open(&workshop.path("squashfs"))
        .unwrap()
        .squashfs()
        .unwrap()
        .bytes_used;
    assert_eq!(
        recognise(&bytes[..200]).unwrap_err().to_string(),
        format!("truncated: the squashfs superblock says {used} bytes, the file has 200")
    );
}

#[test]
fn any_altered_byte_of_a_superblock_is_survived() {
    for (name, bytes) in images() {
        let whole = recognise(&bytes[..]).unwrap();
        let start = usize::try_from(whole.root.unwrap().offset).unwrap();
        let region: Vec<usize> = match name {
            "squashfs" | "line" => (0..start + 96).collect(),
            "sif" => (0..128)
                .chain(4096..4096 + 4 * 585)
                .chain(start..start + 96)
                .collect(),
            _ => (start + 1024..start + 2048).collect(),
        };
        for at in region {
            let mut bytes = bytes.clone();
            for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x10] {
                let before = std::mem::replace(&mut bytes[at], value);
                let what = format!("{name} with {value:#x} at {at}");
                match recognise(&bytes[..]) {
                    Ok(known) => assert_in_bounds(&known, &bytes, &what),
                    Err(fault) => {
                        assert!(!fault.to_string().contains('\n'), "{what}: {fault}");
                        assert_ne!(fault.kind(), Kind::Io, "{what}: {fault}");
                        assert_ne!(fault.kind(), Kind::NotFound, "{what}: {fault}");
                    }
                }
                bytes[at] = before;
            }
        }
    }
}

#[test]
fn a_checksummed_superblock_hides_no_flipped_bit() {
    for (name, bytes) in images() {
        let region = match name {
            "erofs" => 1024..4096,
            "ext4" => 1024..2048,
            _ => continue,
        };
        // The bit flipped in the byte left out is the one that says there is a checksum.
        for at in region.filter(|at| *at != 1024 + 101) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            let accepted = recognise(&bytes[..]);
            assert!(
                accepted.is_err(),
                "{name}: bit flipped at {at} is not noticed"
            );
        }
    }
}

/// Field by field: what a value there means.
#[test]
fn a_wrong_field_is_named() {
    let images = images();
    let image = |wanted: &str| {
        let found = images.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, bytes)| bytes.clone()).expect("made above")
    };
    let cases: [(&str, usize, &[u8], Kind, &str); 22] = [
        (
            "squashfs",
            28,
            &[3, 0, 1, 0],
            Kind::Unsupported,
            "format 3.1; only 4.0",
        ),
        (
            "squashfs",
            28,
            &[4, 0, 1, 0],
            Kind::Unsupported,
            "format 4.1",
        ),
        (
            "squashfs",
            20,
            &[7, 0],
            Kind::Unsupported,
            "unknown number 7",
        ),
        (
            "squashfs",
            12,
            &[0, 16, 0, 0],
            Kind::Damaged,
            "block size 4096, logarithm 17",
        ),
        ("squashfs", 22, &[40, 0], Kind::Damaged, "logarithm 40"),
        (
            "squashfs",
            40,
            &[0xff; 8],
            Kind::Damaged,
            "says 18446744073709551615 bytes",
        ),
        ("squashfs", 4, &[0; 4], Kind::Damaged, "counts no inode"),
        ("squashfs", 26, &[0; 2], Kind::Damaged, "counts no owner"),
        (
            "squashfs",
            32,
            &[0xff; 8],
            Kind::Damaged,
            "root directory is outside",
        ),
        ("squashfs", 48, &[0xff; 8], Kind::Damaged, "id table"),
        ("squashfs", 64, &[0; 8], Kind::Damaged, "inode table"),
        ("squashfs", 72, &[0xfe; 8], Kind::Damaged, "directory table"),
        ("erofs", 1024 + 12, &[8], Kind::Damaged, "block size 2^8"),
        ("erofs", 1024 + 36, &[0xff; 4], Kind::Damaged, "truncated"),
        (
            "erofs",
            1024 + 4,
            &[0; 4],
            Kind::Damaged,
            "checksum is wrong",
        ),
        ("ext2", 1024 + 24, &[7], Kind::Damaged, "block size"),
        ("ext2", 1024 + 4, &[0xff; 4], Kind::Damaged, "truncated"),
        ("ext2", 1024 + 4, &[0; 4], Kind::Damaged, "number of blocks"),
        ("ext2", 1024 + 40, &[0; 4], Kind::Damaged, "block group"),
        ("ext2", 1024 + 76, &[2], Kind::Damaged, "revision 2"),
        (
            "ext2",
            1024 + 96,
            &[0xa],
            Kind::Unsupported,
            "is the journal",
        ),
        (
            "ext4",
            1024 + 120,
            b"label",
            Kind::Damaged,
            "checksum is wrong",
        ),
    ];
    for (name, at, new, kind, words) in cases {
        let mut bytes = image(name);
        put(&mut bytes, at, new);
        let fault = match recognise(&bytes[..]) {
            Err(fault) => fault,
            Ok(known) => panic!("{name} with {new:x?} at {at}: {known:?}"),
        };
        assert_eq!(fault.kind(), kind, "{name} with {new:x?} at {at}: {fault}");
        assert!(
            fault.cause().contains(words),
            "{name} with {new:x?} at {at}: {fault}"
        );
    }
}

#[test]
fn an_erofs_that_needs_other_files_is_refused() {
    let (_, mut bytes) = images()
        .into_iter()
        .find(|(name, _)| *name == "erofs")
        .unwrap();
    // Without the checksum, with a table of two devices.
    put(&mut bytes, 1024 + 8, &[0; 4]);
    put(&mut bytes, 1024 + 80, &[8, 0, 0, 0]);
    put(&mut bytes, 1024 + 86, &[2, 0]);
    let fault = recognise(&bytes[..]).unwrap_err();
    assert_eq!(fault.kind(), Kind::Unsupported);
    assert_eq!(
        fault.to_string(),
        "is an EROFS image that keeps its data in 2 other files"
    );
}

#[test]
fn a_big_endian_squashfs_is_recognised_and_refused() {
    let mut bytes = vec![0; 4096];
    put(&mut bytes, 0, b"sqsh");
    put(&mut bytes, 28, &[0, 3, 0, 1]);
    let fault = recognise(&bytes[..]).unwrap_err();
    assert_eq!(fault.kind(), Kind::Unsupported);
    assert!(fault.cause().contains("big-endian"), "{fault}");
}
