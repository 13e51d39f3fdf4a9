//! SIF files: ours are read by the reference implementation's tool, its are read by
//! us, and so are bytes laid out by the specification alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_support::{capture, Form, Image};

use crate::ground::{as_root, text_of, Ground};

fn siftool(work: &Path, words: &[&str]) -> String {
    let mut tool = Command::new("siftool");
    tool.args(words).current_dir(work);
    capture(&mut tool).succeeded().stdout()
}

fn ours(work: &Path) {
    let text = "cp -a \"$1\" t && mkdir -p t/.singularity.d && echo 'Bootstrap: scratch' >t/.singularity.d/Singularity \
                && echo '{\"who\":\"me\"}' >t/.singularity.d/labels.json";
    let mut sh = Command::new("sh");
    sh.args(["-c", text, "sh", text_of(&Image::Busybox.directory())])
        .current_dir(work);
    capture(&mut sh).succeeded();
    let words = ["convert", "--format", "sif", "t", "ours.sif"];
    capture(as_root(&words).current_dir(work)).succeeded();
}

#[test]
fn the_reference_tool_reads_what_we_write() {
    let ground = Ground::new();
    let work = ground.user().work();
    ours(work);
    let header = siftool(work, &["header", "ours.sif"]);
    assert!(header.contains("run-singularity"), "{header}");
    assert!(header.contains("amd64"), "{header}");
    let list = siftool(work, &["list", "ours.sif"]);
    for word in ["Def.FILE", "JSON.Labels", "FS (Squashfs/*System/amd64)"] {
        assert!(list.contains(word), "{word} is not in\n{list}");
    }
    assert_eq!(
        siftool(work, &["dump", "1", "ours.sif"]),
        "Bootstrap: scratch\n"
    );
    assert_eq!(
        siftool(work, &["dump", "2", "ours.sif"]),
        "{\"who\":\"me\"}\n"
    );
    // It may be changed by the tool, and is still an image.
    siftool(work, &["del", "2", "ours.sif"]);
    let output = ground.run(&["exec", "ours.sif", "cat", "/etc/os-release"]);
    output.succeeded().wrote("NAME=\"Busybox\"\n");
}

#[test]
fn what_the_reference_tool_writes_is_read_and_its_signatures_are_kept_and_told_of() {
    let ground = Ground::new();
    let work = ground.user().work();
    let squashfs = Image::Busybox.file(Form::SquashfsGzip);
    let fingerprint = "00112233445566778899AABBCCDDEEFF01234567";
    siftool(work, &["new", "peer.sif"]);
    let add = [
        "add",
        "--datatype",
        "4",
        "--partfs",
        "1",
        "--parttype",
        "2",
        "--partarch",
        "2",
    ];
    siftool(
        work,
        &[
            &add[..],
            &["--groupid", "1", "peer.sif", text_of(&squashfs)],
        ]
        .concat(),
    );
    fs::write(work.join("signature"), "a signature").unwrap();
    let add = [
        "add",
        "--datatype",
        "5",
        "--signhash",
        "1",
        "--signentity",
        fingerprint,
    ];
    siftool(
        work,
        &[&add[..], &["--link", "1", "peer.sif", "signature"]].concat(),
    );
    let output = ground.run(&["exec", "peer.sif", "cat", "/etc/os-release"]);
    output.succeeded().wrote("NAME=\"Busybox\"\n");

    let words = ["convert", "peer.sif", "kept.sif"];
    capture(as_root(&words).current_dir(work))
        .succeeded()
        .quietly();
    for file in ["peer.sif", "kept.sif"] {
        let output = capture(as_root(&["inspect", "--json", file]).current_dir(work));
        let said = output.succeeded().stdout().to_lowercase();
        assert!(said.contains("\"signed\": true"), "{said}");
        assert!(said.contains(&fingerprint.to_lowercase()), "{said}");
        assert!(said.contains("sha-256"), "{said}");
    }
    let strip = |text: String| {
        let lines = text.lines().filter(|line| line.contains('|')).map(|line| {
            // Where an object lies is not signed.
            line.split('|').take(4).collect::<Vec<_>>().join("|")
        });
        lines.collect::<Vec<_>>()
    };
    let lists = ["peer.sif", "kept.sif"].map(|file| strip(siftool(work, &["list", file])));
    assert_eq!(lists[0], lists[1]);
    assert_eq!(siftool(work, &["dump", "2", "kept.sif"]), "a signature");

    let words = ["convert", "--compression", "lz4", "peer.sif", "new.sif"];
    let output = capture(as_root(&words).current_dir(work));
    let said = output.succeeded().stderr();
    assert!(
        said.contains("left out of the new image: object 2 (signature)"),
        "{said}"
    );
}

/// A file laid out by the specification, with nothing of ours: header of 128 bytes,
/// descriptors of 585, little-endian numbers.
#[test]
fn bytes_laid_out_by_the_specification_are_read() {
    let ground = Ground::new();
    let squashfs = fs::read(Image::Busybox.file(Form::SquashfsZstd)).unwrap();
    let mut file = vec![0_u8; 8192];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"#!/usr/bin/env run-singularity\n\0");
    put(32, b"SIF_MAGIC\x0001\x0002\0");
    put(48, &[0x42; 16]);
    for (at, number) in [
        (64, 7),
        (72, 8),
        (80, 2),
        (88, 3),
        (96, 128),
        (104, 1755),
        (112, 8192),
        (120, squashfs.len() as u64),
    ] {
        put(at, &number.to_le_bytes());
    }
    // The second of three descriptors: holes are where objects were deleted.
    let at = 128 + 585;
    put(at, &0x4004_u32.to_le_bytes());
    put(at + 4, &[1]);
    put(at + 5, &9_u32.to_le_bytes());
    put(at + 9, &0xf000_0001_u32.to_le_bytes());
    put(at + 17, &8192_u64.to_le_bytes());
    put(at + 25, &(squashfs.len() as u64).to_le_bytes());
    put(at + 33, &(squashfs.len() as u64).to_le_bytes());
    put(at + 73, b"root");
    put(at + 201, &1_u32.to_le_bytes());
    put(at + 205, &2_u32.to_le_bytes());
    put(at + 209, b"02\0");
    file.extend(&squashfs);
    ground.user().file("spec.sif", &file);
    let output = ground.run(&["exec", "spec.sif", "cat", "/etc/os-release"]);
    output.succeeded().wrote("NAME=\"Busybox\"\n");
    let output = ground.run(&["inspect", "spec.sif"]);
    let said = output.succeeded().stdout();
    assert!(said.contains("format: SIF with squashfs\n"), "{said}");
}
