//! The seeds of the fuzzer, which are also a regression test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{elf, recognise, sif, Kind, ReadAt};

use crate::make::{self, read, Object, Workshop};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

/// What has been read once, with nothing behind it up to any size.
struct Padded(Vec<u8>);

impl ReadAt for Padded {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        buf.fill(0);
        self.0.read_at(buf, offset)?;
        Ok(buf.len())
    }

    fn size(&self) -> u64 {
        1 << 50
    }
}

#[test]
fn every_seed_is_what_it_was_made_to_be() {
    for (target, least) in [("superblocks", 6), ("sif", 2), ("elf", 4)] {
        let directory = corpus(target);
        let seeds: Vec<_> = fs::read_dir(&directory)
            .unwrap_or_else(|e| panic!("{directory:?}: {e}"))
            .map(|entry| entry.expect("a directory entry").path())
            .collect();
        assert!(
            seeds.len() >= least,
            "{target} has only {} seeds",
            seeds.len()
        );
        for seed in seeds {
            let bytes = read(&seed);
            let outcome = match target {
                "elf" => elf::describe(&bytes[..])
                    .map(drop)
                    .map_err(|e| e.to_string()),
                "sif" => sif::read(&bytes[..]).map(drop).map_err(|e| e.to_string()),
                _ => match recognise(&Padded(bytes)) {
                    Err(fault) if fault.kind() == Kind::NotAnImage => Ok(()),
                    other => other.map(drop).map_err(|e| e.to_string()),
                },
            };
            assert_eq!(outcome, Ok(()), "{seed:?}");
        }
    }
}

/// Run it when a format is added: `cargo test -p image -- --ignored write_the_seeds`.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_the_seeds() {
    let workshop = Workshop::new();
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    };
    let beginning = |path: PathBuf, length: usize| {
        let mut bytes = read(&path);
        bytes.truncate(length);
        bytes
    };
    let squashfs = beginning(workshop.squashfs("squashfs", &["-nopad"]), 1200);
    write("superblocks", "squashfs", &squashfs[..96]);
    let xz = beginning(workshop.squashfs("xz", &["-comp", "xz", "-b", "1M"]), 96);
    write("superblocks", "squashfs-xz", &xz);
    write(
        "superblocks",
        "erofs",
        &beginning(workshop.erofs("erofs", &["-zlz4hc"]), 4096),
    );
    for version in ["ext2", "ext3", "ext4"] {
        let options = ["-t", version, "-L", "seed"];
        write(
            "superblocks",
            version,
            &beginning(workshop.ext(version, "8M", &options), 2048),
        );
    }
    for (name, unit) in [("line", 1), ("line-512", 512)] {
        let mut bytes = b"#!/usr/bin/env run-singularity\n".to_vec();
        bytes.resize(bytes.len().next_multiple_of(unit), 0);
        bytes.extend(&squashfs[..96]);
        write("superblocks", name, &bytes);
    }
    let tar = workshop.path("tar");
    make::run(
        Command::new("tar")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(workshop.path("root"))
            .arg("bin"),
    );
    write("superblocks", "tar", &beginning(tar, 2048));
    write("superblocks", "script", b"#!/bin/sh\n");

    // As small as can be: a fuzzer that changes one byte then changes one that counts.
    fs::create_dir(workshop.path("nothing")).unwrap();
    let small = workshop.path("small");
    let options = ["-quiet", "-no-progress", "-nopad", "-no-exports"];
    make::run(
        Command::new("mksquashfs")
            .arg(workshop.path("nothing"))
            .arg(&small)
            .args(options),
    );
    let objects = [
        Object::partition(1, 1, 2, &read(&small)),
        Object::signature(2, 1),
    ];
    write("sif", "signed", &make::sif_laid_out(128, 1, 3, &objects));
    let oci = [Object::new(0x400a, 1, "index", b"{}")];
    write("sif", "oci", &make::sif_laid_out(128, 1, 1, &oci));

    for (name, wide, little, machine) in [
        ("x86_64", true, true, 62),
        ("s390x", true, false, 22),
        ("i386", false, true, 3),
        ("ppc", false, false, 20),
    ] {
        write("elf", name, &crate::elf::program(wide, little, machine));
    }
}
