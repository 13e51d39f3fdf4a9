//! `--stage`: the image copied to the node first. The copy has no name, so what it is
//! and when it goes is seen by the room that is taken where it lies.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use test_support::{capture, is_privileged, Form, Image, Running, LIMIT};

use crate::ground::{as_root, busybox, text_of, Ground};

/// A tmpfs of the test's own, unmounted when dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    fn of_bytes(ground: &Ground, size: u64) -> Disk {
        let place = ground.user().directory("disk");
        let options = format!("size={size},mode=1777");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, test_support::DISK])
            .arg(&place);
        capture(&mut mount).succeeded();
        Disk(place)
    }

    fn used(&self) -> u64 {
        let disk = statvfs(&self.0).expect("the disk is mounted");
        (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
    }

    fn option(&self) -> String {
        format!("--stage={}", text_of(&self.0))
    }

    fn names(&self) -> usize {
        std::fs::read_dir(&self.0)
            .expect("the disk is mounted")
            .count()
    }

    #[track_caller]
    fn is_empty_soon(&self) {
        let end = Instant::now() + LIMIT;
        while self.used() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((self.used(), self.names()), (0, 0), "left behind");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        capture(umount.arg("--lazy").arg(&self.0));
    }
}

fn size_of(image: &Path) -> u64 {
    std::fs::metadata(image).expect("the image is there").len()
}

#[test]
fn every_file_format_runs_from_its_copy_and_the_copy_goes_with_it() {
    let ground = Ground::new();
    let disk = Disk::of_bytes(&ground, 64 << 20);
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext3] {
        let image = Image::Busybox.file(form);
        let option = disk.option();
        let mut command = ground.command_in(&image, &[&option], "echo up; read line; echo $line");
        let mut running = Running::start(&mut command);
        let end = Instant::now() + LIMIT;
        while disk.used() < size_of(&image) && running.is_running() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(disk.used() >= size_of(&image), "{form:?} was not copied");
        assert_eq!(disk.names(), 0, "the copy has a name");
        running.write(b"down\n");
        running
            .wait(LIMIT)
            .succeeded()
            .quietly()
            .wrote("up\ndown\n");
        disk.is_empty_soon();
    }
}

#[test]
fn root_runs_copies_on_disk_and_in_memory_by_kernel_mounts() {
    for form in [Form::SquashfsLz4, Form::Erofs] {
        let image = Image::Busybox.file(form);
        for option in ["--stage=/dev/shm", "--stage=memory", "--stage"] {
            let words = ["exec", option, text_of(&image), "echo", "staged"];
            capture(&mut as_root(&words))
                .succeeded()
                .quietly()
                .wrote("staged\n");
        }
    }
}

#[test]
fn the_variable_asks_for_a_copy_in_memory_and_can_say_no() {
    let ground = Ground::new();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    for (value, copied) in [("memory", true), ("no", false), ("0", false), ("", false)] {
        let mut command = ground.command_in(&image, &["-vv"], "true");
        let output = capture(command.env("SINGULARITY_STAGE", value));
        output.succeeded();
        // The starter says nothing of what it did for the command.
        if !is_privileged() {
            assert_eq!(
                output.stderr().contains("copied to memory"),
                copied,
                "{output}"
            );
        }
    }
}

#[test]
fn a_program_goes_on_when_its_image_is_overwritten() {
    let ground = Ground::new();
    let disk = Disk::of_bytes(&ground, 64 << 20);
    let image = ground.user().file(
        "own.sqfs",
        std::fs::read(Image::Busybox.file(Form::SquashfsLz4)).expect("the image is there"),
    );
    let option = disk.option();
    let text = "echo up; read line; /bin/busybox ls /bin >/dev/null && cat /bin/busybox >/dev/null && echo well";
    let mut running = Running::start(&mut ground.command_in(&image, &[&option], text));
    // The program runs from the copy, so the copy is whole.
    running.until("up\n");
    std::fs::write(&image, vec![0; size_of(&image) as usize]).expect("the image can be written");
    running.write(b"\n");
    running
        .wait(LIMIT)
        .succeeded()
        .quietly()
        .wrote("up\nwell\n");
    disk.is_empty_soon();
}

#[test]
fn a_full_disk_is_told_in_one_line_and_leaves_the_choice() {
    let ground = Ground::new();
    let disk = Disk::of_bytes(&ground, 64 << 10);
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let (place, name) = (text_of(&disk.0), text_of(&image));
    let line = format!(
        "stage image {name} to {place}: no room for its {} bytes there (No space left on device)",
        size_of(&image)
    );
    ground.fails(
        &["exec", &disk.option(), name, "true"],
        255,
        &format!(
            "singularity: {line}\nhint: name another place, --stage=DIR; or go on with the image itself where there is no room, --stage=try:DIR\n"
        ),
    );
    disk.is_empty_soon();
    let option = format!("--stage=try:{place}");
    let output = ground.inside_of(&image, &[&option], "echo there");
    output.succeeded().wrote("there\n");
    assert!(output.stderr().contains(&line), "{output}");
    assert!(
        output.stderr().contains("going on with the image itself"),
        "{output}"
    );
    assert_eq!(output.stderr().lines().count(), 1, "{output}");
    disk.is_empty_soon();
}

#[test]
fn what_cannot_be_staged_is_refused() {
    let ground = Ground::new();
    let directory = text_of(busybox());
    ground.fails(
        &["exec", "--stage", directory, "true"],
        255,
        &format!(
            "singularity: stage image {directory}: it is a directory, not a file\nhint: leave out --stage; or pack it once, singularity build IMAGE.sqfs DIRECTORY, which also spares the shared file system\n"
        ),
    );
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let name = text_of(&image);
    for (place, cause) in [
        ("/nowhere", "No such file or directory"),
        ("/etc", "Permission denied"),
    ] {
        let output = ground.run(&["exec", &format!("--stage={place}"), name, "true"]);
        output.exited_with(255).wrote("");
        let expected = format!("singularity: stage image {name} to {place}: ");
        assert!(output.stderr().starts_with(&expected), "{output}");
        assert!(
            output
                .stderr()
                .to_lowercase()
                .contains(&cause.to_lowercase()),
            "{output}"
        );
    }
    let own = Image::Busybox.file_for(ground.user(), Form::Ext3);
    let output = ground.run(&["exec", "--stage", "--writable", text_of(&own), "true"]);
    output.exited_with(255);
    assert!(
        output
            .stderr()
            .contains("changes would go to the copy and be lost"),
        "{output}"
    );
}

#[test]
fn killed_at_any_moment_nothing_of_the_copy_is_left() {
    let ground = Ground::new();
    let disk = Disk::of_bytes(&ground, 256 << 20);
    // Large enough that kills hit the copying too.
    let image = ground.user().work().join("large.sqfs");
    let mut bytes = std::fs::read(Image::Busybox.file(Form::SquashfsLz4)).expect("it is there");
    bytes.resize(48 << 20, 0x5a);
    ground.user().file(&image, bytes);
    let option = disk.option();
    for delay in (0..40).map(|n| Duration::from_millis(n * 2)) {
        let running = Running::start(&mut ground.command_in(&image, &[&option], "sleep 60"));
        std::thread::sleep(delay);
        running.signal(Signal::SIGKILL);
        running.wait(LIMIT).was_killed_by(Signal::SIGKILL).quietly();
    }
    disk.is_empty_soon();
}

#[test]
fn processes_that_share_have_one_copy_and_nobody_else_can_open_it() {
    let ground = Ground::new();
    let disk = Disk::of_bytes(&ground, 64 << 20);
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let option = disk.option();
    let options = ["--share=one-copy", option.as_str()];
    let mut first = Running::start(&mut ground.command_in(&image, &options, "read line"));
    let end = Instant::now() + LIMIT;
    while disk.used() < size_of(&image) && first.is_running() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let one = disk.used();
    let second = ground.inside_of(&image, &options, "echo joined");
    second.succeeded().quietly().wrote("joined\n");
    assert_eq!(disk.used(), one, "it was copied again");
    let stranger = test_support::User::ordinary();
    // By /proc, the only place where a file without a name can be found.
    let look = format!(
        "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c '{}/#' ; ls -A {0}",
        text_of(&disk.0)
    );
    assert_eq!(capture(&mut stranger.shell(&look)).stdout(), "0\n");
    first.write(b"\n");
    first.wait(LIMIT).succeeded();
    disk.is_empty_soon();
}

#[test]
fn a_dry_run_says_where_the_copy_goes_and_makes_none() {
    let ground = Ground::new();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let words = [
        "exec",
        "--dry-run",
        "--stage=try:/dev/shm",
        text_of(&image),
        "true",
    ];
    let output = ground.run(&words);
    output.succeeded().quietly();
    let line = "copy the image to /dev/shm, as a file without a name, if that can be done\n";
    assert!(output.stdout().contains(line), "{output}");
}
