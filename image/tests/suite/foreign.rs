//! Other files are refused by their own name, with advice.

use std::fs;
use std::process::Command;

use image::{recognise, Image, Kind};

use crate::make::{put, read, run, Workshop};

const UNPACK: &str = "make an image of it first: singularity build IMAGE.sqfs ARCHIVE";
const DEFINITION: &str = "make an image of it first";

#[test]
fn archives_made_by_their_tools_are_refused_with_the_way_out() {
    let workshop = Workshop::new();
    let mut cases = Vec::new();
    for (name, option, words) in [
        ("a.tar", "-c", "is a tar archive"),
        ("a.tar.gz", "-cz", "is a gzip-compressed file"),
        ("a.tar.xz", "-cJ", "is an xz-compressed file"),
        ("a.tar.bz2", "-cj", "is a bzip2-compressed file"),
        ("v7.tar", "--format=v7", "is a tar archive"),
    ] {
        let path = workshop.path(name);
        run(Command::new("tar")
            .args([option, "-cf"])
            .arg(&path)
            .arg("-C")
            .arg(workshop.path("root"))
            .arg("."));
        cases.push((path, words));
    }
    for (member, words) in [
        ("oci-layout", "is an OCI archive"),
        ("manifest.json", "is an archive made by docker save"),
    ] {
        let directory = workshop.path(&format!("{member}.d"));
        fs::create_dir_all(directory.join("blobs")).unwrap();
        fs::write(directory.join("blobs/layer"), [1; 3000]).unwrap();
        fs::write(directory.join(member), b"{}").unwrap();
        let path = workshop.path(&format!("{member}.tar"));
        run(Command::new("tar")
            .args(["--sort=name", "-cf"])
            .arg(&path)
            .arg("-C")
            .arg(&directory)
            .arg("."));
        cases.push((path, words));
    }
    for (path, words) in cases {
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::NotAnImage, "{error}");
        assert_eq!(error.cause(), format!("{words}, not an image"));
        assert!(error.hint().unwrap().contains(UNPACK), "{error}");
    }
}

#[test]
fn known_magic_numbers_are_named() {
    let cases: [(usize, &[u8], &str); 10] = [
        (0, b"\x28\xb5\x2f\xfd", "a zstd-compressed file"),
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"QFI\xfb\0\0\0\x03", "a qcow2 disk"),
        (0, b"XFSB", "an XFS file system"),
        (32769, b"CD001", "an ISO 9660 image"),
        (65600, b"_BHRfS_M", "a btrfs file system"),
        (512, b"EFI PART", "a whole disk"),
        (510, b"\x55\xaa", "a disk with a boot sector"),
        (0, b"LUKS\xba\xbe", "a LUKS-encrypted volume"),
        (0, b"\xed\xab\xee\xdb", "an RPM package"),
    ];
    for (at, magic, words) in cases {
        let mut bytes = vec![0; 70_000];
        put(&mut bytes, at, magic);
        let fault = recognise(&bytes[..]).unwrap_err();
        assert_eq!(fault.kind(), Kind::NotAnImage);
        assert!(fault.cause().starts_with(&format!("is {words}")), "{fault}");
    }
}

#[test]
fn a_program_in_the_place_of_the_image_is_called_a_program() {
    let this = std::env::current_exe().unwrap();
    let error = Image::open(&this).unwrap_err();
    assert_eq!(error.kind(), Kind::NotAnImage);
    assert_eq!(error.cause(), "is an ELF program or library, not an image");
}

#[test]
fn texts_are_told_apart() {
    let cases: [(&[u8], Kind, &str, &str); 9] = [
        (b"#!/bin/sh\necho hello\n", Kind::NotAnImage, "is a script (#!/bin/sh), not an image", "exec IMAGE PROGRAM"),
        (b"#!/usr/bin/env run-singularity\n", Kind::Damaged, "has the header line of an image (#!/usr/bin/env run-singularity) and no file system behind it", "again"),
        (b"# base\nBootstrap: docker\nFrom: debian\n", Kind::NotAnImage, "is a definition file, not an image", DEFINITION),
        (b"BootStrap : yum\n", Kind::NotAnImage, "is a definition file, not an image", DEFINITION),
        (b"<!DOCTYPE html>\n<html>", Kind::NotAnImage, "is a web page, not an image", "download"),
        (b"version https://git-lfs.github.com/spec/v1\noid", Kind::NotAnImage, "is a Git LFS pointer, not an image", "git lfs pull"),
        (b"hello\n", Kind::NotAnImage, "is a text file, not an image", ""),
        (b"h\xffll\x01\n", Kind::NotAnImage, "is not an image: its content is of no known format", "known are"),
        (b"", Kind::NotAnImage, "is an empty file", "failed"),
    ];
    for (bytes, kind, cause, hint) in cases {
        let fault = recognise(bytes).unwrap_err();
        assert_eq!((fault.kind(), fault.cause()), (kind, cause));
        assert!(
            fault.hint().unwrap_or_default().contains(hint),
            "{fault}: {:?}",
            fault.hint()
        );
    }
}

#[test]
fn zeros_of_any_length_are_no_image() {
    for length in [1, 95, 96, 1024, 1025, 2048, 8192, 100_000] {
        let fault = recognise(&vec![0; length][..]).unwrap_err();
        assert_eq!(
            fault.cause(),
            "is not an image: it begins with nothing but zeros",
            "{length}"
        );
    }
}

#[test]
fn the_two_bytes_of_ext_by_chance_do_not_hide_what_a_file_is() {
    let workshop = Workshop::new();
    let path = workshop.path("a.tar.gz");
    run(Command::new("tar").arg("-czf").arg(&path).arg("/etc"));
    let mut bytes = read(&path);
    put(&mut bytes, 1024 + 56, &[0x53, 0xef]);
    assert!(recognise(&bytes[..]).unwrap_err().cause().contains("gzip"));
}
