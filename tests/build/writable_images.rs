//! Images that can be changed: empty ones, larger ones, and what interrupted writers
//! leave.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{as_root, text_of, until_free, Ground};

fn check(image: &Path) {
    capture(Command::new("e2fsck").args(["-fn"]).arg(image)).succeeded();
}

#[test]
fn an_ext_image_can_be_filled_to_its_last_megabyte() {
    let ground = Ground::new();
    let busybox = Image::Busybox.directory();
    ground
        .run(&["create", "-s", "32", "made.ext3"])
        .succeeded()
        .quietly();
    capture(&mut ground.user().shell(&format!(
        "tar -C {} -cf - . | {} import made.ext3",
        text_of(&busybox),
        test_support::command().display()
    )))
    .succeeded()
    .quietly();
    ground
        .run(&["convert", text_of(&busybox), "packed.ext4"])
        .succeeded()
        .quietly();
    for name in ["made.ext3", "packed.ext4"] {
        let fill = "dd if=/dev/zero of=/big bs=64k 2>/dev/null; sync; df -Pm / | tail -n 1";
        let output = ground.run(&["exec", "-w", name, "sh", "-c", fill]);
        output.succeeded().quietly();
        let text = output.stdout();
        let field = |number| -> u64 {
            let word: Option<&str> = text.split_whitespace().nth(number);
            word.and_then(|word| word.parse().ok()).expect(&text)
        };
        let (size, used) = (field(1), field(2));
        assert!(size > 20 && size - used <= 1, "{name}: {text}");
        until_free(ground.user(), &ground.user().work().join(name));
        check(&ground.user().work().join(name));
    }
}

#[test]
fn an_image_is_made_filled_changed_and_enlarged_by_an_ordinary_user() {
    let ground = Ground::new();
    let work = ground.user().work();
    for (name, format) in [("img", "ext4"), ("img.ext3", "ext3")] {
        ground
            .run(&["create", "-s", "32", name])
            .succeeded()
            .quietly();
        let text = format!(
            "tar -C {} -cf - . | gzip | {} import {name}",
            text_of(&Image::Busybox.directory()),
            test_support::command().display()
        );
        capture(&mut ground.user().shell(&text))
            .succeeded()
            .quietly();
        ground.user().file("note", "from the host\n");
        ground
            .run(&["copy", name, "note", "/opt/"])
            .succeeded()
            .quietly();
        let output = ground.run(&[
            "exec",
            "-w",
            name,
            "sh",
            "-c",
            "cat /opt/note; echo more >>/opt/note",
        ]);
        output.succeeded().quietly().wrote("from the host\n");
        until_free(ground.user(), &work.join(name));
        ground
            .run(&["expand", "-s", "16", name])
            .succeeded()
            .quietly();
        assert_eq!(fs::metadata(work.join(name)).unwrap().len(), 48 << 20);
        check(&work.join(name));
        let output = ground.run(&["exec", name, "cat", "/opt/note"]);
        output.succeeded().wrote("from the host\nmore\n");
        let said = ground.run(&["inspect", name]).succeeded().stdout();
        assert!(said.starts_with(&format!("format: {format}\n")), "{said}");
    }
}

#[test]
fn an_image_that_is_too_small_says_so_and_stays_sound() {
    let ground = Ground::new();
    ground.run(&["create", "-s", "4", "img"]).succeeded();
    let text = format!(
        "head -c 8000000 /dev/urandom >big; {} copy img big /",
        test_support::command().display()
    );
    let output = capture(&mut ground.user().shell(&text));
    let said = output.exited_with(255).stderr();
    assert!(said.contains("no space left on device"), "{said}");
    assert!(
        said.contains("the image is full: singularity expand --size MiB img makes it larger"),
        "{said}"
    );
    check(&ground.user().work().join("img"));
}

#[test]
fn not_even_root_changes_an_image_without_asking_to() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    let before = fs::read(&image).unwrap();
    let tries = "echo x >/new; mount -o remount,rw / ; echo x >/new; \
                 for l in /dev/loop[0-9]*; do if losetup $l 2>/dev/null | grep -q images; then \
                 blockdev --setrw $l; dd if=/dev/zero of=$l bs=1k count=1 conv=notrunc; fi; done; \
                 for f in /proc/self/fd/*; do [ -f $f ] && echo x >>$f; done; true";
    capture(&mut as_root(&["exec", text_of(&image), "sh", "-c", tries])).succeeded();
    assert!(fs::read(&image).unwrap() == before, "the image was changed");
}

#[test]
fn a_writer_killed_at_any_moment_leaves_an_image_that_the_next_one_puts_in_order() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    let name = text_of(&image).to_owned();
    let text = "i=0; while :; do mkdir -p /d$i; echo $i >/d$i/f; i=$((i+1)); done";
    for pause in [100, 300, 700] {
        let writer = Running::start(&mut ground.command_in(&image, &["-w"], text));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        ground.user().kill_all();
        drop(writer);
        let output = ground.run(&["exec", &name, "cat", "/etc/os-release"]);
        if !output.status.success() {
            output.exited_with(255).complained(&format!(
                "singularity: check image {name}: its last writer was interrupted, and it has not been checked since\n\
                 hint: who may write to it puts it in order: e2fsck -p {name}, or singularity exec -w {name} true\n"
            ));
        }
        let output = ground.run(&["exec", "-w", &name, "cat", "/etc/os-release"]);
        output.succeeded().wrote("NAME=\"Busybox\"\n");
        until_free(ground.user(), &image);
        check(&image);
        let output = ground.run(&["exec", &name, "cat", "/etc/os-release"]);
        output.succeeded().quietly();
    }
}

#[test]
fn a_journal_that_was_not_replayed_is_replayed_for_the_next_writer_only() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    let mut debugfs = Command::new("debugfs");
    debugfs
        .args(["-w", "-R", "feature needs_recovery"])
        .arg(&image);
    capture(&mut debugfs);
    let before = fs::read(&image).unwrap();
    for verb in [&["exec"][..], &["export"], &["inspect"]] {
        let mut words = verb.to_vec();
        words.push(text_of(&image));
        if verb == ["exec"] {
            words.push("true");
        }
        ground.run(&words).exited_with(255);
    }
    assert!(fs::read(&image).unwrap() == before, "the image was changed");
    capture(&mut as_root(&["exec", "-w", text_of(&image), "true"])).succeeded();
    check(&image);
}

#[test]
fn where_locks_are_refused_a_writer_is_told_so_and_a_reader_gets_in() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    let name = text_of(&image);
    let run = |options: &[&str]| {
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            "inject=flock:error=ENOLCK",
        ]);
        strace
            .arg(test_support::command())
            .arg("exec")
            .args(options)
            .args([name, "true"]);
        capture(&mut strace)
    };
    run(&[]).succeeded().quietly();
    let output = run(&["-w"]);
    output.exited_with(255).complained(&format!(
        "singularity: lock image {name}: its file system refuses locks (no record locks available), so nothing would keep a second writer away\n\
         hint: copy the image to a file system with locks, a local disk for example, and change it there\n"
    ));
}

#[test]
fn a_second_verb_does_not_write_beside_a_program_that_does() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    let name = text_of(&image).to_owned();
    let mut writer = Running::start(&mut ground.command_in(&image, &["-w"], "echo in; read x"));
    writer.until("in\n");
    for words in [
        &["expand", &name][..],
        &["copy", &name, "/etc/passwd", "/x"],
        &["export", &name],
    ] {
        let output = ground.run(words);
        let said = output.exited_with(255).stderr();
        assert!(
            said.starts_with(&format!(
                "singularity: lock image {name}: process {} (sh)",
                writer.pid()
            )),
            "{said}"
        );
        assert_eq!(said.lines().count(), 2);
    }
    writer.write(b"\n");
    writer.wait(LIMIT).succeeded();
}
