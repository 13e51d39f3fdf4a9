//! Every format of image, recognised by its content, by users and by root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::{capture, is_privileged, Form, Image};

use crate::ground::{as_root, text_of, Ground};

/// Packs a tree into one file that everybody can read.
pub fn pack(tree: &Path, form: Form, file: &Path) {
    let mut command = match form {
        Form::Ext3 | Form::Ext4 => {
            let mut command = Command::new("mke2fs");
            command.args(["-q", "-F", "-t", form.name(), "-d"]);
            command.arg(tree).arg(file).arg("16m");
            command
        }
        Form::Erofs => {
            let mut command = Command::new("mkfs.erofs");
            command.arg("--quiet").arg(file).arg(tree);
            command
        }
        Form::ErofsLz4 | Form::ErofsLz4hc => {
            let mut command = Command::new("mkfs.erofs");
            let compressor = &form.name()["erofs-".len()..];
            command
                .args(["--quiet", "-z", compressor])
                .arg(file)
                .arg(tree);
            command
        }
        _ => {
            let compressor = form.name().strip_prefix("squashfs-").unwrap_or("lz4");
            let mut command = Command::new("mksquashfs");
            command.arg(tree).arg(file);
            command.args(["-noappend", "-no-progress", "-quiet", "-comp", compressor]);
            command
        }
    };
    capture(&mut command).succeeded();
    crate::ground::chmod(file, 0o644);
}

/// A SIF file around a file system: header, one descriptor, the data. See the
/// layout in <https://github.com/apptainer/sif> (pkg/sif).
fn sif(partition: &[u8], kind: i32) -> Vec<u8> {
    const DESCRIPTORS: usize = 4096;
    const DATA: usize = 32768;
    let mut file = vec![0; DATA];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"#!/usr/bin/env run-singularity\n\0");
    put(32, b"SIF_MAGIC\0");
    put(42, b"01\0");
    put(
        45,
        if cfg!(target_arch = "aarch64") {
            b"04\0"
        } else {
            b"02\0"
        },
    );
    let number = |value: usize| (value as u64).to_le_bytes();
    // UUID at 48; times at 64 and 72; free and total descriptors; offsets and sizes.
    for (at, value) in [
        (80, 47),
        (88, 48),
        (96, DESCRIPTORS),
        (104, 48 * 585),
        (112, DATA),
        (120, partition.len()),
    ] {
        put(at, &number(value));
    }
    let at = DESCRIPTORS;
    put(at, &0x4004_i32.to_le_bytes());
    put(at + 4, &[1]);
    put(at + 5, &1_u32.to_le_bytes());
    put(at + 9, &0xf000_0001_u32.to_le_bytes());
    put(at + 17, &number(DATA));
    put(at + 25, &number(partition.len()));
    put(at + 33, &number(partition.len()));
    // Name (128 bytes) and extra: file system, primary system partition, architecture.
    let extra = at + 17 + 24 + 16 + 16 + 128;
    put(extra, &kind.to_le_bytes());
    put(extra + 4, &2_i32.to_le_bytes());
    put(
        extra + 8,
        if cfg!(target_arch = "aarch64") {
            b"04\0"
        } else {
            b"02\0"
        },
    );
    file.extend(partition);
    file
}

fn sif_image(ground: &Ground, form: Form, kind: i32) -> PathBuf {
    let partition = fs::read(Image::Busybox.file(form)).expect("an image can be read");
    ground
        .user()
        .file(format!("{}.sif", form.name()), sif(&partition, kind))
}

const TEXT: &str = "cat /etc/os-release; touch /x 2>/dev/null || echo read-only; grep ' / ' /proc/self/mounts | cut -d' ' -f3";

/// What mounts a file of this form for a user. The starter leaves ext to FUSE.
fn mounted_as(form: Form) -> &'static str {
    match form {
        Form::Ext3 | Form::Ext4 => "fuse",
        _ if !is_privileged() => "fuse",
        Form::Erofs | Form::ErofsLz4 | Form::ErofsLz4hc => "erofs",
        _ => "squashfs",
    }
}

#[test]
fn every_form_is_served_to_a_user() {
    let ground = Ground::new();
    for form in Form::ALL {
        let image = Image::Busybox.file(form);
        let output = ground.inside_of(&image, &[], TEXT);
        let text = output.succeeded().quietly().stdout();
        let expected = format!("NAME=\"Busybox\"\nread-only\n{}", mounted_as(form));
        assert!(text.starts_with(&expected), "{form:?}: {text}");
    }
}

#[test]
fn every_form_is_mounted_by_the_kernel_for_root() {
    let ground = Ground::new();
    for form in Form::ALL {
        let image = Image::Busybox.file(form);
        let output = capture(&mut as_root(&["exec", text_of(&image), "sh", "-c", TEXT]));
        let kind = match form {
            Form::Ext3 | Form::Ext4 => "ext4",
            Form::Erofs | Form::ErofsLz4 | Form::ErofsLz4hc => "erofs",
            _ => "squashfs",
        };
        output
            .succeeded()
            .quietly()
            .wrote(&format!("NAME=\"Busybox\"\nread-only\n{kind}\n"));
    }
    drop(ground);
}

#[test]
fn every_form_with_a_line_in_front_is_mounted_for_root() {
    let ground = Ground::new();
    for form in Form::ALL {
        let image = Image::Busybox.executable(form);
        let output = capture(&mut as_root(&[
            "exec",
            text_of(&image),
            "cat",
            "/etc/os-release",
        ]));
        output.succeeded().quietly().wrote("NAME=\"Busybox\"\n");
    }
    drop(ground);
}

#[test]
fn sif_files_are_entered_by_users_and_by_root() {
    let ground = Ground::new();
    for (form, kind) in [
        (Form::SquashfsGzip, 1),
        (Form::SquashfsZstd, 1),
        (Form::Ext3, 2),
    ] {
        let image = sif_image(&ground, form, kind);
        let output = ground.inside_of(&image, &[], TEXT);
        let text = output.succeeded().quietly().stdout();
        let expected = format!("NAME=\"Busybox\"\nread-only\n{}", mounted_as(form));
        assert!(text.starts_with(&expected), "{form:?}: {text}");
        let output = capture(&mut as_root(&["exec", text_of(&image), "sh", "-c", TEXT]));
        output.succeeded().quietly();
    }
}

#[test]
fn a_wrong_name_misleads_nobody() {
    let ground = Ground::new();
    for (form, name) in [
        (Form::SquashfsXz, "image.ext3"),
        (Form::Ext3, "image.sif"),
        (Form::Erofs, "image.sqfs"),
        (Form::Ext4, "image"),
        (Form::SquashfsLzo, "image.tar.gz"),
    ] {
        let image = ground.user().work().join(name);
        fs::copy(Image::Busybox.file(form), &image).unwrap();
        let output = ground.run(&["exec", name, "cat", "/etc/os-release"]);
        output.succeeded().quietly().wrote("NAME=\"Busybox\"\n");
    }
    let links = [
        ("dir.sqfs", Image::Busybox.directory()),
        ("file", Image::Busybox.file(Form::Erofs)),
    ];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, ground.user().work().join(name)).unwrap();
        let output = ground.run(&["exec", name, "cat", "/etc/os-release"]);
        output.succeeded().quietly().wrote("NAME=\"Busybox\"\n");
    }
}

#[test]
fn root_changes_an_ext_image_in_place_and_the_server_sees_it() {
    let ground = Ground::new();
    for form in [Form::Ext3, Form::Ext4] {
        let image = Image::Busybox.file_for(ground.user(), form);
        let output = capture(&mut as_root(&[
            "exec",
            "-w",
            text_of(&image),
            "sh",
            "-c",
            "echo by root >/new",
        ]));
        output.succeeded().quietly();
        let output = ground.inside_of(&image, &[], "cat /new");
        output.succeeded().quietly().wrote("by root\n");
    }
}

#[test]
fn reading_changes_no_byte_of_an_image() {
    let ground = Ground::new();
    for form in Form::ALL {
        let image = Image::Busybox.file_for(ground.user(), form);
        let before = fs::read(&image).unwrap();
        let modified = fs::metadata(&image).unwrap().modified().unwrap();
        ground
            .inside_of(&image, &[], "find / -xdev -type f | xargs cat >/dev/null")
            .succeeded();
        capture(&mut as_root(&["exec", text_of(&image), "true"]))
            .succeeded()
            .quietly();
        assert!(fs::read(&image).unwrap() == before, "{form:?} was changed");
        assert_eq!(fs::metadata(&image).unwrap().modified().unwrap(), modified);
    }
}

#[test]
fn an_image_that_the_user_cannot_write_is_read_all_the_same() {
    let ground = Ground::new();
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext4] {
        let image = Image::Busybox.file_for(ground.user(), form);
        crate::ground::chmod(&image, 0o400);
        let output = ground.run(&["exec", text_of(&image), "cat", "/etc/os-release"]);
        output.succeeded().quietly().wrote("NAME=\"Busybox\"\n");
    }
}
