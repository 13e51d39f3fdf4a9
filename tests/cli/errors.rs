//! What is wrong is told in one line and a hint: the image, the command.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use test_support::{capture, Form, Image};

use crate::ground::{busybox, chmod, text_of, Ground};

#[test]
fn a_missing_image_is_told_with_what_is_missing() {
    let ground = Ground::new();
    ground.user().file("file", "");
    symlink("gone", ground.user().work().join("link")).unwrap();
    symlink("circle", ground.user().work().join("circle")).unwrap();
    let hint = "hint: check the path; a relative one starts at the current directory\n";
    for (image, complaint) in [
        ("nowhere", "nowhere: does not exist"),
        (
            "no/such",
            "no/such: does not exist: there is no directory no",
        ),
        ("file/x", "file/x: does not exist: file is not a directory"),
        (
            "link",
            "link: is a symbolic link to gone, which does not exist",
        ),
        (
            "circle",
            "circle: its symbolic links lead in a circle, or are too many",
        ),
        ("", "image: an empty string names no image"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m: does not exist"),
    ] {
        for verb in ["exec", "run", "shell", "test"] {
            ground.fails(
                &[verb, image, "true"],
                255,
                &format!("singularity: {}\n{hint}", complaint),
            );
        }
    }
}

#[test]
fn an_address_is_told_how_it_becomes_an_image() {
    let ground = Ground::new();
    for (address, complaint) in [
        (
            "docker://host/name:1",
            "is an image in a registry, not a file\n\
             hint: make an image of it first: singularity pull IMAGE.sqfs docker://host/name:1\n",
        ),
        (
            "oci-archive:none.tar",
            "is a container image, not a file\n\
             hint: make an image of it first: singularity build IMAGE.sqfs oci-archive:none.tar\n",
        ),
        (
            "https://host/image.sqfs",
            "is an address, not a file\n\
             hint: fetch it first, with curl -LO or the like, and name the file\n",
        ),
        (
            "library://some/where",
            "is an address of a kind that is not known here\n\
             hint: registries are known: singularity pull IMAGE.sqfs docker://HOST/NAME:TAG\n",
        ),
    ] {
        ground.fails(
            &["exec", address, "true"],
            255,
            &format!("singularity: {address}: {complaint}"),
        );
    }
    // A file of such a name is a file.
    ground.user().file("oci:file", "text");
    let output = ground.run(&["exec", "oci:file", "true"]);
    let told = String::from_utf8_lossy(&output.exited_with(255).stderr).into_owned();
    assert!(told.contains("is a text file"), "{told}");
}

#[test]
fn what_is_no_image_is_told_with_what_it_is() {
    let ground = Ground::new();
    ground.user().file("empty", "");
    ground.user().file("text", "hello\n".repeat(1000));
    ground.user().file("zeros", vec![0; 100_000]);
    let _socket = UnixListener::bind(ground.user().work().join("socket")).unwrap();
    capture(
        &mut ground
            .user()
            .shell("mkfifo pipe; echo x | gzip >archive.gz"),
    )
    .succeeded();
    for image in [
        "empty",
        "text",
        "zeros",
        "socket",
        "pipe",
        "archive.gz",
        "/dev/null",
    ] {
        let output = ground.run(&["exec", image, "true"]);
        let text = String::from_utf8_lossy(&output.exited_with(255).wrote("").stderr).into_owned();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines.len() == 2
                && lines[0].starts_with(&format!("singularity: {image}: "))
                && lines[1].starts_with("hint: "),
            "{output}"
        );
    }
}

#[test]
fn an_image_without_permission_is_told_with_what_refuses() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    chmod(&image, 0o000);
    let hint =
        "hint: ask its owner for permission to read it, and to search the directories above it\n";
    let (uid, gid) = (ground.user().uid(), ground.user().gid());
    ground.fails(
        &["exec", text_of(&image), "true"],
        255,
        &format!(
            "singularity: {}: permission denied: its mode is 0000, its owner is uid {uid}, its group is gid {gid}\n{hint}",
            image.display()
        ),
    );
    chmod(&image, 0o644);
    let parent = image.parent().unwrap();
    chmod(parent, 0o600);
    ground.fails(
        &["exec", text_of(&image), "true"],
        255,
        &format!(
            "singularity: {}: cannot be reached: no search permission (x) on the directory {}\n{hint}",
            image.display(),
            parent.display()
        ),
    );
    chmod(parent, 0o755);
}

#[test]
fn a_missing_command_is_127() {
    let ground = Ground::new();
    let squashfs = Image::Busybox.file(Form::SquashfsLz4);
    for image in [busybox(), &squashfs] {
        let image = text_of(image);
        for (command, hint) in [
            ("nosuch", "PATH inside is /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; name a command of the image, or give its path"),
            ("--bind", "options stand before the image: singularity exec OPTION… IMAGE COMMAND"),
            ("", "the command is an empty string: name one of the image"),
            ("/scif/apps/none/scif/runscript", "the image has no such app, or the app no such script: singularity inspect --list-apps IMAGE"),
            ("/bin/nosuch", "the path is one of the image's; bind the directory if it is the host's (-B)"),
            ("./nosuch", "the path is one of the image's; bind the directory if it is the host's (-B)"),
            ("/bin/sh/x", "the path is one of the image's; bind the directory if it is the host's (-B)"),
        ] {
            ground.fails(
                &["exec", image, command],
                127,
                &format!("singularity: execute {command}: not found in the image\nhint: {hint}\n"),
            );
        }
    }
}

#[test]
fn a_command_that_is_not_executable_is_126() {
    let ground = Ground::new();
    let image = ground.image_with(
        "image",
        &[
            "plain=x",
            "script=#!/bin/sh\n",
            "empty=",
            "closed/program=x",
            "binary=\x7f\x01\x02\x00\x03 no program",
        ],
    );
    for name in ["script", "empty", "binary"] {
        chmod(&image.join(name), 0o755);
    }
    chmod(&image.join("script"), 0o611);
    chmod(&image.join("closed"), 0o600);
    capture(ground.user().command("mkfifo").arg(image.join("pipe"))).succeeded();
    for (command, complaint) in [
        (
            "/plain",
            "it is not executable\nhint: chmod +x it, or name its interpreter\n",
        ),
        ("/bin", "it is a directory\nhint: name a program in it\n"),
        ("/pipe", "it is not a regular file\nhint: name a program\n"),
        (
            "/binary",
            "it is neither a program of this machine nor a script\nhint: the file may be damaged\n",
        ),
        (
            "/closed/program",
            "permission denied\nhint: a directory above it cannot be searched by you\n",
        ),
    ] {
        ground.fails(
            &["exec", text_of(&image), command],
            126,
            &format!("singularity: execute {command}: {complaint}"),
        );
    }
    // As execvp(3): no program at all is an empty script.
    ground
        .run(&["exec", text_of(&image), "/empty"])
        .exited_with(126);
    let path = "PATH=/closed:/";
    ground
        .run(&["exec", "--env", path, text_of(&image), "plain"])
        .exited_with(126);
}

/// The header of a program for another machine.
fn elf(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
    let mut file = vec![0_u8; 4096];
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2_u16.to_le_bytes());
    put(18, &machine.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &0x40_1000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    if let Some(path) = interpreter {
        put(64, &3_u32.to_le_bytes());
        put(72, &512_u64.to_le_bytes());
        put(96, &(path.len() as u64 + 1).to_le_bytes());
        put(104, &(path.len() as u64 + 1).to_le_bytes());
        put(512, path.as_bytes());
    }
    file
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

fn native() -> (u16, &'static str) {
    if cfg!(target_arch = "aarch64") {
        (AARCH64, "aarch64")
    } else {
        (X86_64, "x86_64")
    }
}

#[test]
fn a_program_for_another_machine_is_told_with_both() {
    let ground = Ground::new();
    let image = ground.image_with("image", &[]);
    let (native, name) = native();
    let (other, other_name) = if native == X86_64 {
        (AARCH64, "aarch64")
    } else {
        (X86_64, "x86_64")
    };
    let program = ground.user().file(image.join("program"), elf(other, None));
    chmod(&program, 0o755);
    ground.fails(
        &["exec", text_of(&image), "/program"],
        126,
        &format!(
            "singularity: execute /program: it is built for {other_name}, this machine is {name}\n\
             hint: use an image built for this machine\n"
        ),
    );
}

#[test]
fn a_missing_interpreter_is_told_by_name() {
    let ground = Ground::new();
    let image = ground.image_with("image", &["script=#! /no/such/shell -x\n", "text=#!\n"]);
    let program = elf(native().0, Some("/lib64/ld-none.so.2"));
    ground.user().file(image.join("program"), program);
    for name in ["script", "program"] {
        chmod(&image.join(name), 0o755);
    }
    let hint =
        "hint: it may be a program of the host, or of another distribution than the image's\n";
    for (command, interpreter) in [
        ("/script", "/no/such/shell"),
        ("/program", "/lib64/ld-none.so.2"),
    ] {
        ground.fails(
            &["exec", text_of(&image), command],
            126,
            &format!(
                "singularity: execute {command}: its interpreter {interpreter} is not in the image\n{hint}"
            ),
        );
    }
    // Found by PATH, it is told alike.
    let output = ground.run(&["exec", "--env", "PATH=/", text_of(&image), "script"]);
    output.exited_with(126);
}

#[test]
fn a_dangling_or_circular_command_is_told() {
    let ground = Ground::new();
    let image = ground.image_with("image", &["gone -> /no/such", "circle -> circle"]);
    ground.fails(
        &["exec", text_of(&image), "/gone"],
        127,
        "singularity: execute /gone: not found in the image: it is a symbolic link to /no/such\n\
         hint: the path is one of the image's; bind the directory if it is the host's (-B)\n",
    );
    ground.fails(
        &["exec", text_of(&image), "/circle"],
        126,
        "singularity: execute /circle: its symbolic links lead in a circle, or are too many\n\
         hint: readlink shows where each leads\n",
    );
}

#[test]
fn a_runscript_that_cannot_run_is_told() {
    let ground = Ground::new();
    let image = ground.image_with("image", &["singularity=#!/bin/sh\n"]);
    chmod(&image.join("singularity"), 0o644);
    ground.fails(
        &["run", text_of(&image)],
        126,
        "singularity: execute /singularity: it is not executable\n\
         hint: chmod +x it, or name its interpreter\n",
    );
    chmod(&image.join("singularity"), 0o755);
    fs::write(image.join("singularity"), "#!/no/such\n").unwrap();
    ground.run(&["run", text_of(&image)]).exited_with(126);
    fs::remove_file(image.join("bin/sh")).unwrap();
    ground.fails(
        &["shell", text_of(&image)],
        127,
        "singularity: execute /bin/sh: not found in the image\n\
         hint: the path is one of the image's; bind the directory if it is the host's (-B)\n",
    );
}
