//! Images made by mksquashfs, mkfs.erofs and mke2fs are recognised, with their facts.

use std::ffi::OsStr;
use std::process::Command;

use image::{recognise, Compressor, ExtState, ExtVersion, FileSystem, Format, Image, Superblock};

use crate::make::{put, read, run, Workshop};

#[test]
fn squashfs_of_every_compressor_is_described() {
    let workshop = Workshop::new();
    for (name, compressor) in [
        ("gzip", Compressor::Gzip),
        ("lzma", Compressor::Lzma),
        ("lzo", Compressor::Lzo),
        ("xz", Compressor::Xz),
        ("lz4", Compressor::Lz4),
        ("zstd", Compressor::Zstd),
    ] {
        let path = workshop.squashfs(
            name,
            &[
                "-comp",
                name,
                "-b",
                "256K",
                "-mkfs-time",
                "1234567890",
                "-all-root",
            ],
        );
        let image = Image::open(&path).unwrap();
        let facts = image.squashfs().unwrap();
        assert_eq!(facts.compressor, compressor);
        assert_eq!(facts.compressor.to_string(), name);
        assert_eq!(facts.block_size, 256 * 1024);
        assert_eq!(facts.mkfs_time, 1_234_567_890);
        // root, bin, etc, usr, usr/share and the two files
        assert_eq!(facts.inodes, 7);
        assert_eq!(facts.ids, 1);
        let root = image.root().unwrap();
        assert_eq!((root.offset, root.size), (0, image.identity().size));
        assert_eq!(root.filesystem, FileSystem::Squashfs);
        assert!(facts.bytes_used <= root.size && facts.bytes_used > 96);
        assert_eq!(image.format(), &Format::Squashfs(facts));
        assert_eq!(facts.compressor.kernel_can_mount(), name != "lzma");
    }
}

#[test]
fn squashfs_of_every_shape_is_sound() {
    let workshop = Workshop::new();
    let shapes: [&[&str]; 8] = [
        &["-b", "4K"],
        &["-b", "1M"],
        &["-no-fragments"],
        &["-no-exports", "-no-xattrs"],
        &["-noI", "-noD", "-noF", "-noX"],
        &["-nopad"],
        &["-always-use-fragments", "-no-duplicates"],
        &["-comp", "xz", "-Xbcj", "x86"],
    ];
    for (index, shape) in shapes.into_iter().enumerate() {
        let path = workshop.squashfs(&format!("shape{index}"), shape);
        let image = Image::open(&path).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
        assert!(image.squashfs().is_some(), "{shape:?}");
    }
}

#[test]
fn an_empty_tree_makes_a_sound_squashfs() {
    let workshop = Workshop::new();
    let empty = workshop.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let path = workshop.path("empty.sqfs");
    run(Command::new("mksquashfs")
        .arg(&empty)
        .arg(&path)
        .args(["-quiet", "-no-progress"]));
    assert_eq!(Image::open(&path).unwrap().squashfs().unwrap().inodes, 1);
}

#[test]
fn erofs_is_described() {
    let workshop = Workshop::new();
    let cases: [(&str, &[&str], &str); 3] = [
        ("plain", &[], "none"),
        ("lz4", &["-zlz4"], "none"),
        ("lz4hc", &["-zlz4hc,9", "-C65536"], "lz4"),
    ];
    for (name, options, algorithms) in cases {
        let uuid = "c1b9d5a2-f162-11cf-9ece-0020afc76f16";
        let mut all = vec!["-T1234567890", "-U", uuid];
        all.extend(options);
        let path = workshop.erofs(name, &all);
        let image = Image::open(&path).unwrap();
        let facts = image.erofs().unwrap();
        assert_eq!(facts.block_size, 4096);
        assert_eq!(facts.build_time, 1_234_567_890);
        assert_eq!(facts.inodes, 7);
        assert!(
            facts.has_checksum,
            "mkfs.erofs writes a checksum by default"
        );
        assert_eq!(facts.algorithms.to_string(), algorithms, "{name}");
        assert_eq!(facts.uuid[..2], [0xc1, 0xb9]);
        assert_eq!(facts.unknown_features(), 0);
        assert_eq!(facts.bytes_used(), image.identity().size);
        assert_eq!(image.root().unwrap().filesystem, FileSystem::Erofs);
    }
}

#[test]
fn the_ext_family_is_told_apart() {
    let workshop = Workshop::new();
    let cases: [(&str, &[&str], ExtVersion, bool, bool); 4] = [
        ("ext2", &["-t", "ext2"], ExtVersion::Ext2, false, false),
        (
            "ext3",
            &["-t", "ext3", "-b", "1024"],
            ExtVersion::Ext3,
            true,
            false,
        ),
        (
            "ext4",
            &["-t", "ext4", "-O", "metadata_csum,64bit", "-b", "4096"],
            ExtVersion::Ext4,
            true,
            true,
        ),
        (
            "bare4",
            &["-t", "ext4", "-O", "^has_journal,^metadata_csum"],
            ExtVersion::Ext4,
            false,
            false,
        ),
    ];
    for (name, options, version, journal, checksum) in cases {
        let mut all = vec!["-L", "tools", "-U", "c1b9d5a2-f162-11cf-9ece-0020afc76f16"];
        all.extend(options);
        let path = workshop.ext(name, "16M", &all);
        let image = Image::open(&path).unwrap();
        let facts = image.ext().unwrap();
        assert_eq!(facts.version, version);
        assert_eq!(facts.version.to_string(), name.replace("bare4", "ext4"));
        assert_eq!(facts.has_journal, journal, "{name}");
        assert_eq!(facts.has_checksum, checksum, "{name}");
        assert_eq!(facts.state, ExtState::Clean);
        assert!(!facts.needs_recovery);
        assert_eq!(facts.label(), b"tools");
        assert_eq!(facts.uuid[..2], [0xc1, 0xb9]);
        assert_eq!(facts.bytes_used(), 16 << 20);
        assert!(facts.free_blocks > 0 && facts.free_blocks < facts.blocks);
        assert_eq!(image.root().unwrap().filesystem.kernel_type(), "ext4");
    }
}

#[test]
fn an_ext_image_that_was_left_mounted_says_so() {
    let workshop = Workshop::new();
    let path = workshop.ext("ext3", "8M", &["-t", "ext3"]);
    let cases = [
        (&["feature needs_recovery"][..], ExtState::Clean, true),
        (
            &["feature needs_recovery", "ssv state 0"],
            ExtState::NotClean,
            true,
        ),
        (&["ssv state 3"], ExtState::Errors, true),
    ];
    for (requests, state, recovery) in cases {
        for request in requests {
            run(Command::new("debugfs")
                .args(["-w", "-R", request])
                .arg(&path));
        }
        let facts = Image::open(&path).unwrap().ext().unwrap();
        assert_eq!(
            (facts.state, facts.needs_recovery),
            (state, recovery),
            "{requests:?}"
        );
    }
}

#[test]
fn a_file_system_behind_a_header_line_is_found() {
    let workshop = Workshop::new();
    let images = [
        workshop.squashfs("squashfs", &[]),
        workshop.erofs("erofs", &[]),
        workshop.ext("ext3", "4M", &["-t", "ext3"]),
    ];
    let longest = format!("#!/{}\n", "x".repeat(251));
    assert_eq!(longest.len(), 255);
    for line in [
        "#!/usr/bin/env run-singularity\n",
        "#!/bin/sh\n",
        "#!\n",
        &longest,
    ] {
        for path in &images {
            for unit in [1, 512, 4096] {
                let start = line.len().next_multiple_of(unit);
                let mut bytes = line.as_bytes().to_vec();
                bytes.resize(start, 0);
                bytes.extend(read(path));
                let with_line = workshop.write("with-line", &bytes);
                let image = Image::open(&with_line)
                    .unwrap_or_else(|e| panic!("{} at {start}: {e}", path.display()));
                let root = image.root().unwrap();
                assert_eq!(root.offset, start as u64);
                assert_eq!(root.size, (bytes.len() - start) as u64);
                assert_eq!(image.launch_line(), Some(OsStr::new(line.trim_end())));
                let plain = Image::open(path).unwrap();
                assert_eq!(image.superblock(), plain.superblock());
                assert_eq!(plain.launch_line(), None);
            }
        }
    }
}

#[test]
fn a_header_line_that_is_too_long_hides_the_file_system() {
    let workshop = Workshop::new();
    let mut bytes = format!("#!/{}\n", "x".repeat(252)).into_bytes();
    bytes.extend(read(&workshop.squashfs("squashfs", &[])));
    assert_eq!(
        recognise(&bytes[..]).unwrap_err().kind(),
        image::Kind::NotAnImage
    );
}

#[test]
fn a_magic_number_at_the_wrong_place_does_not_win_over_a_sound_superblock() {
    let workshop = Workshop::new();
    let squashfs = read(&workshop.squashfs("squashfs", &[]));
    // Right behind the line: a magic and nothing. At 512: the file system.
    let mut bytes = b"#!/usr/bin/env run-singularity\nhsqs".to_vec();
    bytes.resize(512, 0);
    bytes.extend(&squashfs);
    let known = recognise(&bytes[..]).unwrap();
    assert_eq!(known.root.unwrap().offset, 512);

    // The magic of ext inside the data of a squashfs image changes nothing.
    let mut bytes = squashfs;
    bytes.resize(bytes.len().max(4096), 0);
    put(&mut bytes, 1024 + 56, &[0x53, 0xef]);
    assert!(matches!(
        recognise(&bytes[..]).unwrap().format,
        Format::Squashfs(_)
    ));
}

#[test]
fn content_decides_and_the_name_does_not() {
    let workshop = Workshop::new();
    for (name, expected) in [("a.sif", "squashfs (gzip)"), ("a.tar", "squashfs (gzip)")] {
        let path = workshop.squashfs(name, &[]);
        assert_eq!(Image::open(&path).unwrap().format().to_string(), expected);
    }
    let path = workshop.erofs("a.sqfs", &[]);
    assert!(matches!(
        Image::open(&path).unwrap().superblock(),
        Some(Superblock::Erofs(_))
    ));
}
