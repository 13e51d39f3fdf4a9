//! `--writable`, `--writable-tmpfs`, `--overlay`, and read-only otherwise.

use std::fs;
use std::path::PathBuf;

use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{as_root, busybox, text_of, until_free, Ground};

#[test]
fn an_image_is_read_only_unless_something_else_is_said() {
    let ground = Ground::new();
    let own = Image::Busybox.directory_for(ground.user());
    for image in [own, Image::Busybox.file_for(ground.user(), Form::Ext4)] {
        let output = ground.inside_of(
            &image,
            &[],
            "touch /new /etc/new /bin/new; echo x >/etc/os-release",
        );
        output.exited_with(1).wrote("").complained(
            "touch: /new: Read-only file system\n\
             touch: /etc/new: Read-only file system\n\
             touch: /bin/new: Read-only file system\n\
             sh: can't create /etc/os-release: Read-only file system\n",
        );
    }
}

#[test]
fn a_directory_is_changed_in_place_with_writable() {
    let ground = Ground::new();
    let image = Image::Busybox.directory_for(ground.user());
    let output = ground.inside_of(
        &image,
        &["-w"],
        "echo kept >/etc/new; mkdir /opt; rm /bin/vi",
    );
    output.succeeded().quietly();
    assert_eq!(fs::read_to_string(image.join("etc/new")).unwrap(), "kept\n");
    assert!(image.join("opt").is_dir());
    assert!(!image.join("bin/vi").exists());
    let mut command = ground.command_in(&image, &[], "echo again >/etc/new");
    command.env("SINGULARITY_WRITABLE", "1");
    capture(&mut command).succeeded().quietly();
    assert_eq!(
        fs::read_to_string(image.join("etc/new")).unwrap(),
        "again\n"
    );
}

#[test]
fn what_the_readme_says_of_changes_works_for_an_ordinary_user() {
    let ground = Ground::new();
    let readme = fs::read_to_string(test_support::top().join("README.md")).unwrap();
    let part = readme.split("**Change it.**").nth(1).unwrap();
    let part = part.split("**See what would be done**").next().unwrap();
    let commands: Vec<_> = part
        .lines()
        .filter_map(|l| l.strip_prefix("    "))
        .collect();
    assert!(commands.len() > 4, "{part}");
    let image = Image::Busybox.directory_for(ground.user());
    fs::create_dir(image.join("opt")).unwrap();
    nix::unistd::chown(
        &image.join("opt"),
        Some(ground.user().uid().into()),
        Some(ground.user().gid().into()),
    )
    .unwrap();
    let script = format!(
        "set -e; PATH={}:$PATH; ln -s {} tools\n{}\n\
         cat tools/opt/note; singularity exec --overlay changes tools cat /opt/note\n\
         singularity exec tools.ext4 cat /opt/note\n",
        text_of(test_support::command().parent().unwrap()),
        text_of(&image),
        commands.join("\n"),
    );
    let output = capture(&mut ground.user().shell(&script));
    output.succeeded().wrote("hello\nkept\nhello\n");
}

#[test]
fn ext_images_are_changed_in_place_with_writable() {
    let ground = Ground::new();
    for form in [Form::Ext3, Form::Ext4] {
        let image = Image::Busybox.file_for(ground.user(), form);
        for (options, text, expected) in [
            (
                &["-w"][..],
                "echo kept >/new && mkdir /dir && ln /new /dir/link",
                "",
            ),
            (&[], "cat /new /dir/link", "kept\nkept\n"),
            (&["-w"], "rm -r /new /dir; sync", ""),
            (
                &[],
                "ls -d /new 2>&1",
                "ls: /new: No such file or directory\n",
            ),
        ] {
            let output = ground.inside_of(&image, options, text);
            output.quietly().wrote(expected);
        }
        until_free(ground.user(), &image);
        let check = capture(ground.user().command("e2fsck").args(["-fn"]).arg(&image));
        check.succeeded();
    }
}

#[test]
fn a_second_writer_and_a_reader_beside_a_writer_are_refused_in_one_line() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    let name = text_of(&image).to_owned();
    let mut writer = Running::start(&mut ground.command_in(&image, &["-w"], "read x"));
    let locked = || {
        let text = format!("flock -n {name} true && echo free");
        capture(&mut ground.user().shell(&text)).stdout().is_empty()
    };
    while !locked() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let holder = format!(
        "process {} (sh) of user {}",
        writer.pid(),
        ground.user().uid()
    );
    for (options, does) in [(&["-w"][..], "uses it"), (&[], "writes to it")] {
        let output = ground.inside_of(&image, options, "true");
        output.exited_with(255).wrote("").complained(&format!(
            "singularity: lock image {name}: {holder} {does}\nhint: wait for the other process to end\n"
        ));
    }
    writer.write(b"\n");
    writer.wait(LIMIT).succeeded();
    while locked() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut readers: Vec<_> = (0..2)
        .map(|_| Running::start(&mut ground.command_in(&image, &[], "echo in; read x")))
        .collect();
    readers.iter_mut().for_each(|reader| reader.write(b"\n"));
    for reader in readers {
        reader.wait(LIMIT).succeeded().quietly().wrote("in\n");
    }
}

#[test]
fn squashfs_and_erofs_cannot_be_written_and_it_is_said_what_can_be_done() {
    let ground = Ground::new();
    for (form, kind) in [(Form::SquashfsLz4, "squashfs"), (Form::Erofs, "EROFS")] {
        let image = Image::Busybox.file_for(ground.user(), form);
        ground.fails(
            &["exec", "-w", text_of(&image), "true"],
            255,
            &format!(
                "singularity: write to image {}: a {kind} file system cannot be changed\n\
                 hint: use --writable-tmpfs or --overlay DIR, or convert the image to ext4 or a directory\n",
                image.display()
            ),
        );
    }
}

#[test]
fn an_image_without_write_permission_cannot_be_changed_in_place() {
    let ground = Ground::new();
    let image = Image::Busybox.file(Form::Ext4);
    let output = ground.run(&["exec", "-w", text_of(&image), "true"]);
    let text = String::from_utf8_lossy(&output.exited_with(255).wrote("").stderr).into_owned();
    let begin = format!(
        "singularity: {}: permission denied: its mode is 0644, its owner is uid ",
        image.display()
    );
    assert!(text.starts_with(&begin), "{text}");
    assert!(
        text.lines().count() == 2
            && text.ends_with(
                "\nhint: leave out --writable, or use --writable-tmpfs or --overlay DIR\n"
            ),
        "{text}"
    );
}

const CHANGES: &str = "echo new >/new; echo changed >/etc/os-release; rm /bin/vi; mkdir -p /opt/a/b; \
                       mv /bin/ed /bin/de; cat /new /etc/os-release; ls /bin/vi /bin/ed /bin/de 2>/dev/null; :";

/// The busybox image as the user's own, in every form that a layer can lie over.
fn own_images(ground: &Ground) -> Vec<PathBuf> {
    let tree = Image::Busybox.directory_for(ground.user());
    let mut images = vec![tree.clone()];
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext3] {
        let file = ground.user().work().join(form.name());
        crate::formats::pack(&tree, form, &file);
        images.push(file);
    }
    images
}

#[test]
fn writable_tmpfs_takes_changes_of_every_kind_and_forgets_them() {
    let ground = Ground::new();
    let images = own_images(&ground);
    for image in &images {
        let output = ground.inside_of(image, &["--writable-tmpfs"], CHANGES);
        output
            .succeeded()
            .quietly()
            .wrote("new\nchanged\n/bin/de\n");
        let output = ground.inside_of(image, &[], "ls /new /bin/vi");
        output
            .wrote("/bin/vi\n")
            .complained("ls: /new: No such file or directory\n");
    }
    let mut command = ground.command_in(&images[1], &[], "echo x >/new && cat /new");
    command.env("SINGULARITY_WRITABLE_TMPFS", "1");
    capture(&mut command).succeeded().quietly().wrote("x\n");
}

#[test]
fn new_files_can_be_made_at_the_top_of_an_image_that_is_roots() {
    let ground = Ground::new();
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext3] {
        let image = Image::Busybox.file(form);
        let output = ground.inside_of(&image, &["--writable-tmpfs"], "echo x >/new && cat /new");
        output.succeeded().quietly().wrote("x\n");
    }
}

#[test]
fn an_overlay_keeps_changes_for_the_next_time() {
    let ground = Ground::new();
    for (name, image) in ["a", "b", "c", "d"].into_iter().zip(own_images(&ground)) {
        ground.user().directory(name);
        let output = ground.inside_of(&image, &["-o", name], CHANGES);
        output
            .succeeded()
            .quietly()
            .wrote("new\nchanged\n/bin/de\n");
        let mut command = ground.command_in(
            &image,
            &[],
            "cat /new /etc/os-release; ls -d /opt/a/b /bin/vi",
        );
        command.env("SINGULARITY_OVERLAY", name);
        capture(&mut command)
            .wrote("new\nchanged\n/opt/a/b\n")
            .complained("ls: /bin/vi: No such file or directory\n");
        let output = ground.inside_of(&image, &[], "ls /new");
        output.complained("ls: /new: No such file or directory\n");
    }
    // The kernel's work directory has no permission bits and would stay behind.
    capture(&mut ground.user().shell("chmod -R u+rwx a b c d; rm -r a b c d")).succeeded();
}

#[test]
fn an_overlay_that_is_no_directory_or_cannot_be_written_is_an_error() {
    let ground = Ground::new();
    ground.user().file("file", "");
    let image = text_of(busybox());
    let work = text_of(ground.user().work());
    for name in ["nowhere", "file"] {
        ground.fails(
            &["exec", "-o", name, image, "true"],
            255,
            &format!(
                "singularity: overlay {work}/{name}: not a directory\nhint: make it first: mkdir DIR\n"
            ),
        );
    }
    ground.fails(
        &["exec", "-o", "/usr", image, "true"],
        255,
        "singularity: make directory /usr/upper in the overlay directory: permission denied\n\
         hint: name a directory that you may write to\n",
    );
}

#[test]
fn an_image_is_read_only_for_root_too_unless_writable() {
    let ground = Ground::new();
    let own = Image::Busybox.directory_for(ground.user());
    let ext4 = Image::Busybox.file_for(ground.user(), Form::Ext4);
    for image in [&own, &ext4] {
        let output = capture(&mut as_root(&["exec", text_of(image), "touch", "/new"]));
        output
            .exited_with(1)
            .complained("touch: /new: Read-only file system\n");
        let output = capture(&mut as_root(&[
            "exec",
            "-w",
            text_of(image),
            "sh",
            "-c",
            "echo root >/new",
        ]));
        output.succeeded().quietly();
        let output = ground.inside_of(image, &[], "cat /new");
        output.succeeded().quietly().wrote("root\n");
        let output = capture(&mut as_root(&[
            "exec",
            "--writable-tmpfs",
            text_of(image),
            "sh",
            "-c",
            "rm /new; touch /other",
        ]));
        output.succeeded().quietly();
        let output = ground.inside_of(image, &[], "ls /new /other 2>&1");
        output.wrote("ls: /other: No such file or directory\n/new\n");
    }
}
