//! What root lays over an image shows its user no more than they could see before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use test_support::attack::image_with_many;
use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{busybox, text_of};
use crate::rules::{exec, under};
use crate::starter::ground;

#[test]
fn a_directory_that_its_user_cannot_list_cannot_be_listed_where_something_is_added_to_it() {
    let ground = ground();
    let (image, _) = image_with_many(ground.user(), 0o711);
    let bind = format!("{}:/many/added", text_of(busybox()));
    for conf in ["auto", "overlay"] {
        let rules = format!("mount points = {conf}");
        let text = "ls /many; cat /many/entry7; ls -d /many/added";
        let words = [
            "exec",
            "--setuid",
            "-B",
            &bind,
            text_of(&image),
            "sh",
            "-c",
            text,
        ];
        let output = under(&ground, &rules, &words);
        assert!(!output.stdout().contains("entry1"), "{conf}: {output}");
        assert!(!output.stdout().contains("below"), "{conf}: {output}");
    }
}

#[test]
fn what_lies_below_a_mount_in_a_directory_image_stays_hidden() {
    let ground = ground();
    let (image, below) = image_with_many(ground.user(), 0o755);
    let scene = format!("mount -t tmpfs hider {}", text_of(&below));
    let bind = format!("{}:/many/added", text_of(busybox()));
    let text = "cat /many/below/secret; ls /many/added >/dev/null && cat /many/entry7";
    let words = ["exec", "--setuid", "-B", &bind, text_of(&image)];
    let words = [&words[..], &["sh", "-c", text]].concat();
    let output = capture(&mut ground.on_stage(&scene, words));
    output.succeeded().wrote("known\n");
    for (way, by) in [
        ("--setuid", "overlay the image in memory"),
        ("--userns", "overlay the image in memory"),
    ] {
        let words = ["exec", way, "--writable-tmpfs", text_of(&image)];
        let words = [&words[..], &["cat", "/many/below/secret"]].concat();
        capture(&mut ground.on_stage(&scene, words))
            .exited_with(255)
            .wrote("")
            .complained(&format!(
                "singularity: {by}: /many/below in it is another mount, which an overlay would leave out\n\
                 hint: leave out the overlay, or name a directory in which nothing is mounted\n"
            ));
    }
}

#[test]
fn root_opens_no_file_of_the_kernels_own_for_a_user() {
    let ground = ground();
    // The configuration of PCI devices is one that root's mount would show more of.
    let program = format!("{}:/busybox", text_of(&busybox().join("bin/busybox")));
    for (image, cause) in [
        ("/sys/kernel", "the kernel makes its files"),
        ("/proc", "the kernel makes its files"),
    ] {
        let words = ["exec", "--setuid", "--writable-tmpfs", "-B", &program];
        let words = [&words[..], &[image, "/busybox", "true"]].concat();
        under(&ground, "", &words)
            .exited_with(255)
            .wrote("")
            .complained(&format!(
                "singularity: overlay the image in memory: {cause}\n\
                 hint: name a directory of files\n"
            ));
    }
    // Mount points in it are made without a layer of root's.
    let text = "find . -name config -exec cat {} + 2>/dev/null | wc -c";
    let host = capture(&mut ground.user().shell(&format!("cd /sys/devices; {text}")));
    for points in ["auto", "overlay", "underlay"] {
        let inside = ["sh", "-c", &format!("cd /devices; /busybox {text}")].map(str::to_owned);
        let inside = inside.each_ref().map(String::as_str);
        let words = ["exec", "--setuid", "-B", &program, "/sys", "/busybox"];
        let rules = format!("mount points = {points}");
        let output = under(&ground, &rules, &[&words[..], &inside].concat());
        if output.status.success() {
            assert_eq!(output.stdout(), host.stdout(), "{points}: {output}");
        }
    }
}

#[test]
fn a_place_that_only_looks_like_the_sites_is_not_allowed() {
    let ground = ground();
    let user = ground.user();
    let own = user.directory("own");
    let file = own.join("i.sqfs");
    fs::copy(Image::Busybox.file(Form::SquashfsLz4), &file).expect("it can be copied");
    user.give(&file);
    fs::create_dir(own.join("d")).expect("root may");
    // In a namespace in which the user's own directory is where the site's images are.
    let bind = format!("{}:/site/images", text_of(&own));
    let text = "exec 7</site/images/i.sqfs 8</site/images/d; echo ready; exec sleep 60";
    let mut running = Running::start(&mut ground.command(&["--setuid", "-B", &bind], text));
    wait_for_program(&mut running);
    let process = format!("/proc/{}", running.pid());
    for image in ["fd/7", "fd/8", "root/site/images/i.sqfs"] {
        let path = format!("{process}/{image}");
        let output = under(
            &ground,
            "limit image directories = /site/images",
            &exec(&[], &path),
        );
        output.exited_with(255).wrote("");
    }
    let path = format!("{process}/fd/7");
    let line = format!(
        "singularity: use image {path}: this site does not allow images there\n\
         hint: images must be in /site/images\n"
    );
    let rules = "limit image directories = /site/images";
    under(&ground, rules, &exec(&[], &path)).complained(&line);
    // It is the place that is refused: the same file by the same way where it really is.
    let rules = format!("limit image directories = {}", text_of(&own));
    under(&ground, &rules, &exec(&[], text_of(&file)))
        .succeeded()
        .wrote("in\n");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait(LIMIT);
}

/// Waits until what was started has become its program and opened its files.
fn wait_for_program(running: &mut Running) {
    let fd = PathBuf::from(format!("/proc/{}/fd/8", running.pid()));
    let end = Instant::now() + LIMIT;
    while fs::read_link(&fd).ok().as_deref() != Some(Path::new("/site/images/d")) {
        assert!(
            running.is_running() && Instant::now() < end,
            "it is not there"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
