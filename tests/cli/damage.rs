//! Damaged and truncated images of every format.

use std::fs;
use std::path::Path;
use std::time::Duration;

use test_support::{capture_within, Form, Image, Output};

use crate::ground::{text_of, Ground};

const FORMS: [Form; 6] = [
    Form::SquashfsGzip,
    Form::SquashfsZstd,
    Form::Erofs,
    Form::ErofsLz4,
    Form::Ext3,
    Form::Ext4,
];

/// A program cannot take long to find out that its image is no good.
const LIMIT: Duration = Duration::from_secs(60);

fn entered(ground: &Ground, image: &Path) -> Output {
    // Damaged code may run for ever.
    let mut command = ground.user().command("timeout");
    command.args(["-s", "KILL", "2", "singularity", "exec", text_of(image)]);
    command.args(["/bin/cat", "/etc/os-release"]);
    capture_within(LIMIT, &mut command, b"")
}

/// It failed as our failures look, or the damage was where nobody looked.
#[track_caller]
fn failed_well_or_worked(output: &Output, what: &str) -> bool {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => false,
        // The program itself met the damage.
        Some(1) if text.starts_with("cat: ") => false,
        Some(126 | 127 | 255) => {
            let lines: Vec<_> = text
                .lines()
                .filter(|line| !line.starts_with("singularity: warning: "))
                .collect();
            assert!(
                lines.len() == 2
                    && lines[0].starts_with("singularity: ")
                    && lines[1].starts_with("hint: ")
                    && lines[0].len() < 400,
                "{what}: {output}"
            );
            true
        }
        // The program ran on damaged code: it crashed, or never ended.
        None | Some(132..=139) => false,
        _ => panic!("{what}: {output}"),
    }
}

#[test]
fn truncated_images_are_told_so() {
    let ground = Ground::new();
    for form in FORMS {
        let image = Image::Busybox.file_for(ground.user(), form);
        let whole = fs::metadata(&image).unwrap().len();
        for length in [
            whole / 2 + 4096,
            whole / 2,
            whole / 10,
            100_000,
            5000,
            4096,
            2048,
            1100,
            1024,
            100,
            10,
            1,
        ] {
            fs::File::options()
                .write(true)
                .open(&image)
                .unwrap()
                .set_len(length)
                .unwrap();
            let output = entered(&ground, &image);
            let what = format!("{form:?} of {length} bytes");
            assert!(failed_well_or_worked(&output, &what), "{what}: {output}");
            output.exited_with(255);
            assert!(!output.elapsed.gt(&Duration::from_secs(20)), "{what}");
        }
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn a_truncation_of_one_block_is_told_so() {
    let ground = Ground::new();
    for form in FORMS {
        let image = Image::Busybox.file_for(ground.user(), form);
        let length = fs::metadata(&image).unwrap().len() - 4097;
        fs::File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(length)
            .unwrap();
        let output = entered(&ground, &image);
        let text = String::from_utf8_lossy(&output.exited_with(255).stderr).into_owned();
        assert!(text.contains(": truncated: the "), "{form:?}: {text}");
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn zeroed_superblocks_are_no_images() {
    let ground = Ground::new();
    for form in FORMS {
        let image = Image::Busybox.file_for(ground.user(), form);
        let mut bytes = fs::read(&image).unwrap();
        bytes[..2048].fill(0);
        fs::write(&image, bytes).unwrap();
        let output = entered(&ground, &image);
        output.exited_with(255).wrote("");
        assert!(failed_well_or_worked(&output, form.name()));
    }
}

#[test]
fn images_overwritten_anywhere_fail_well_or_work() {
    let ground = Ground::new();
    for form in FORMS {
        let pristine = fs::read(Image::Busybox.file(form)).unwrap();
        let image = ground.user().work().join(form.name());
        let mut failures = 0;
        for part in [0, 2, 5, 7, 9] {
            for fill in [0x00, 0xff] {
                let mut bytes = pristine.clone();
                let begin = (bytes.len() * part / 10).max(96);
                let end = bytes.len() * (part + 1) / 10;
                bytes[begin..end].fill(fill);
                fs::write(&image, bytes).unwrap();
                let what = format!("{form:?}, part {part} filled with {fill}");
                failures += u32::from(failed_well_or_worked(&entered(&ground, &image), &what));
            }
        }
        assert!(failures > 0, "{form:?}");
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn damaged_sif_and_headed_images_are_told_so() {
    let ground = Ground::new();
    let whole = fs::read(Image::Busybox.executable(Form::SquashfsGzip)).unwrap();
    for length in [whole.len() / 2, 200, 31, 20] {
        let image = ground.user().file("headed", &whole[..length]);
        let output = entered(&ground, &image);
        output.exited_with(255);
        assert!(failed_well_or_worked(&output, "headed"));
    }
    for content in [
        &b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0"[..],
        b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\x0001\x0002\0 and nothing",
        b"#!/usr/bin/env run-singularity\n",
        b"hsqs",
    ] {
        let image = ground.user().file("short", content);
        let output = entered(&ground, &image);
        output.exited_with(255);
        assert!(failed_well_or_worked(&output, "short"));
    }
}

#[test]
fn an_image_replaced_or_truncated_in_use_harms_only_its_program() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsGzip);
    let mut running = test_support::Running::start(&mut ground.command_in(
        &image,
        &[],
        "echo ready; read x; cat /bin/* >/dev/null 2>&1; exit 0",
    ));
    running.until("ready\n");
    fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(4096)
        .unwrap();
    running.write(b"\n");
    running.wait(LIMIT);
}
