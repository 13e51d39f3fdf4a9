//! What is left of root in the program: nothing.

use std::fs;

use test_support::attack::armed;
use test_support::{Form, Image};

use crate::ground::{busybox, field, text_of};
use crate::starter::ground;

#[test]
fn every_id_is_the_users_and_every_capability_is_gone() {
    let ground = ground();
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        for options in [&["--setuid"][..], &["--setuid", "-p"], &["--setuid", "-C"]] {
            let output = ground.inside_of(image, options, "cat /proc/self/status");
            let status = output.succeeded().quietly().stdout();
            let (uid, gid) = (ground.user().uid(), ground.user().gid());
            assert_eq!(field(&status, "Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
            assert_eq!(field(&status, "Gid"), format!("{gid}\t{gid}\t{gid}\t{gid}"));
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(&status, set), "0000000000000000", "{set}");
            }
            assert_eq!(field(&status, "NoNewPrivs"), "1");
        }
    }
}

#[test]
fn the_processes_of_a_pid_namespace_are_the_users_too() {
    let ground = ground();
    let text = "for p in /proc/[0-9]*; do grep -E '^(Uid|CapPrm|CapBnd):' $p/status; done";
    let output = ground.inside(&["--setuid", "-p"], text);
    let uid = ground.user().uid().to_string();
    for line in output.succeeded().stdout().lines() {
        let mut words = line.split_whitespace();
        let (name, values) = (words.next(), words.collect::<Vec<_>>());
        match name {
            Some("Uid:") => assert_eq!(values, [&uid; 4]),
            _ => assert_eq!(values, ["0000000000000000"], "{line}"),
        }
    }
}

#[test]
fn descriptors_of_set_up_do_not_reach_the_program() {
    let ground = ground();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let text = "for f in /proc/$$/fd/*; do readlink $f || true; done";
    let output = ground.inside_of(&image, &["--setuid"], text);
    for target in output.succeeded().quietly().stdout().lines() {
        // The shell opens /dev/null by itself.
        let known = target.starts_with("pipe:") || target == "/dev/null";
        assert!(known, "{target} in {output}");
    }
}

#[test]
fn set_id_programs_capabilities_and_devices_of_an_image_do_nothing() {
    let ground = ground();
    let image = armed(ground.user());
    let text = "s/id -u; grep -E '^CapEff' /proc/self/status; c/grep '^CapEff' /proc/self/status; \
                for n in mem loop kmsg; do head -c 1 /nodes/$n 2>/dev/null || echo no $n; done";
    for options in [
        &["--setuid", "--pwd", "/"][..],
        &["--setuid", "--pwd", "/", "--writable-tmpfs"],
    ] {
        let output = ground.inside_of(&image, options, text);
        let uid = ground.user().uid();
        output.succeeded().wrote(&format!(
            "{uid}\nCapEff:\t0000000000000000\nCapEff:\t0000000000000000\nno mem\nno loop\nno kmsg\n"
        ));
    }
}

#[test]
fn an_image_by_the_starter_is_read_only_for_its_owner_too() {
    let ground = ground();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    let before = fs::read(&image).expect("the image can be read");
    let text = "touch /x || echo no; mount -o remount,rw / 2>/dev/null || echo no; \
                dd if=/dev/zero of=/dev/loop0 count=1 2>/dev/null || echo no";
    ground.inside_of(&image, &["--setuid"], text);
    assert_eq!(fs::read(&image).expect("the image can be read"), before);
}

#[test]
fn the_starter_started_inside_an_image_gives_nothing() {
    let ground = ground();
    // Everything of the host is there, the set-id starter too, but nosuid.
    let prefix = test_support::command()
        .parent()
        .and_then(|bin| bin.parent());
    let prefix = text_of(prefix.expect("it is installed"));
    let bind = format!("{prefix}:/again");
    let text = "/again/libexec/singularity/starter 9; /again/bin/singularity exec --setuid / true";
    let output = ground.inside(&["--setuid", "-B", &bind], text);
    output.exited_with(255).wrote("");
    assert!(
        output
            .stderr()
            .contains("the starter is not installed set-user-ID of root"),
        "{output}"
    );
}
