//! Images for the tests: real tools for file systems, the specification for SIF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A temporary directory with a small root file system in `root/`.
pub struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        let workshop = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        let root = workshop.path("root");
        for sub in ["bin", "etc", "usr/share"] {
            fs::create_dir_all(root.join(sub)).expect("mkdir");
        }
        fs::write(root.join("bin/true"), b"#!/bin/sh\n").expect("write");
        fs::write(
            root.join("usr/share/text"),
            "compresses well\n".repeat(2000),
        )
        .expect("write");
        workshop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("write");
        path
    }

    pub fn squashfs(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new("mksquashfs");
        command
            .arg(self.path("root"))
            .arg(&path)
            .args(["-quiet", "-no-progress", "-noappend"]);
        command.args(options);
        run(&mut command);
        path
    }

    pub fn erofs(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.path(name);
        run(Command::new("mkfs.erofs")
            .args(options)
            .arg(&path)
            .arg(self.path("root")));
        path
    }

    pub fn ext(&self, name: &str, size: &str, options: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new("mke2fs");
        command
            .args(["-q", "-F"])
            .args(options)
            .arg("-d")
            .arg(self.path("root"));
        run(command.arg(&path).arg(size));
        path
    }
}

/// Runs a tool, also from /sbin, and fails with what it said.
pub fn run(command: &mut Command) {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// Overwrites bytes at a place.
pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// One object for a SIF file.
#[derive(Clone)]
pub struct Object {
    pub data_type: u32,
    pub id: u32,
    pub group: u32,
    pub link: u32,
    pub name: &'static str,
    pub extra: Vec<u8>,
    pub content: Vec<u8>,
    pub used: bool,
}

impl Object {
    pub fn new(data_type: u32, id: u32, name: &'static str, content: &[u8]) -> Self {
        Self {
            data_type,
            id,
            group: 0xf000_0001,
            link: 0,
            name,
            extra: Vec::new(),
            content: content.to_vec(),
            used: true,
        }
    }

    /// A partition; `filesystem` 1 is squashfs, 2 ext3; `role` 2 is the primary system.
    pub fn partition(id: u32, filesystem: u32, role: u32, content: &[u8]) -> Self {
        let mut object = Self::new(0x4004, id, "rootfs", content);
        object.extra.extend(filesystem.to_le_bytes());
        object.extra.extend(role.to_le_bytes());
        object.extra.extend(b"02\0");
        object
    }

    pub fn signature(id: u32, group: u32) -> Self {
        let mut object = Self::new(
            0x4005,
            id,
            "part-signature",
            b"-----BEGIN PGP SIGNED MESSAGE-----",
        );
        object.link = 0xf000_0000 | group;
        object.extra.extend(1_u32.to_le_bytes());
        object.extra.extend([0xab; 20]);
        object
    }
}

/// Where `sif` puts the descriptors.
pub const DESCRIPTORS: usize = 4096;

/// A SIF file with room for `slots` objects, laid out as the usual tools do.
pub fn sif(slots: usize, objects: &[Object]) -> Vec<u8> {
    sif_laid_out(DESCRIPTORS, 4096, slots, objects)
}

/// A SIF file whose descriptors begin at a place and whose objects are aligned.
pub fn sif_laid_out(
    descriptors: usize,
    alignment: usize,
    slots: usize,
    objects: &[Object],
) -> Vec<u8> {
    let data = (descriptors + slots * 585).next_multiple_of(alignment);
    let mut file = vec![0; data];
    put(
        &mut file,
        0,
        b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\x0001\x0002\0",
    );
    put(&mut file, 48, &[0x5a; 16]);
    let used = objects.iter().filter(|o| o.used).count();
    for (at, object) in objects.iter().enumerate() {
        let start = file.len();
        file.extend(&object.content);
        let mut raw = Vec::new();
        raw.extend(object.data_type.to_le_bytes());
        raw.push(u8::from(object.used));
        raw.extend(object.id.to_le_bytes());
        raw.extend(object.group.to_le_bytes());
        raw.extend(object.link.to_le_bytes());
        raw.extend((start as u64).to_le_bytes());
        raw.extend((object.content.len() as u64).to_le_bytes());
        raw.extend((object.content.len() as u64).to_le_bytes());
        raw.extend(1_600_000_001_i64.to_le_bytes());
        raw.extend(1_600_000_002_i64.to_le_bytes());
        raw.extend([0; 16]);
        raw.extend(object.name.as_bytes());
        raw.resize(17 + 24 + 32 + 128, 0);
        raw.extend(&object.extra);
        raw.resize(585, 0);
        put(&mut file, descriptors + at * 585, &raw);
        file.resize(file.len().next_multiple_of(alignment), 0);
    }
    let fields = [
        1_600_000_003,
        1_600_000_004,
        (slots - used) as u64,
        slots as u64,
        descriptors as u64,
        (slots * 585) as u64,
        data as u64,
        (file.len() - data) as u64,
    ];
    for (index, field) in fields.into_iter().enumerate() {
        put(&mut file, 64 + index * 8, &field.to_le_bytes());
    }
    file
}
