//! Images as an attacker would make them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use test_support::attack::{damaged, pipe_and_socket, secret, SECRET};
use test_support::{capture, capture_within, Form, Image};

use crate::ground::{busybox, chmod, text_of};
use crate::starter::ground;

#[test]
fn what_is_no_file_or_directory_is_refused_at_once() {
    let ground = ground();
    let work = ground.user().work();
    pipe_and_socket(ground.user());
    for (name, kind) in [
        ("pipe", "a named pipe"),
        ("socket", "a socket"),
        ("/dev/null", "a character device"),
        ("/dev/loop0", "permission denied"),
    ] {
        let image = work.join(name);
        let mut command = ground.singularity(["exec", "--setuid", text_of(&image), "true"]);
        let output = capture_within(Duration::from_secs(20), &mut command, b"");
        output.exited_with(255).wrote("");
        assert!(output.stderr().contains(kind), "{output}");
    }
}

#[test]
fn links_at_every_mount_point_lead_nowhere_outside() {
    let ground = ground();
    let vault = secret(ground.user().work());
    let vault = text_of(vault.parent().expect("it is in a directory"));
    for target in [
        "/",
        "/etc",
        "../../../../../../../../etc",
        "/proc/1/root",
        "/proc/self/cwd",
        vault,
    ] {
        let mut entries = vec![format!("data -> {target}")];
        for place in [
            "etc", "tmp", "home", "dev", "proc", "sys", "var", "root", "mnt",
        ] {
            entries.push(format!("{place} -> {target}"));
        }
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let image = ground.image_with("linked", &entries);
        let before = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
        let options = [
            "--setuid",
            "-B",
            "/usr/share:/mnt/x",
            "-B",
            "/usr/bin:/data",
        ];
        let output = ground.inside_of(
            &image,
            &options,
            "cat /secret /root/secret 2>/dev/null; true",
        );
        assert!(
            matches!(output.status.code(), Some(0 | 126 | 127 | 255)),
            "{output}"
        );
        assert!(!output.stdout().contains(SECRET.trim()), "{output}");
        let after = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
        assert_eq!(before, after, "{target}");
        fs::remove_dir_all(&image).expect("it can be removed");
    }
}

#[test]
fn hostile_account_and_environment_files_are_only_the_images() {
    let ground = ground();
    let long = "x".repeat(1 << 20);
    for (passwd, group, environment) in [
        ("root::0:0::/:/bin/sh\n", "root::0:\n", "export A=1\n"),
        ("\0\0\0\n::::::\n+@all\n-\n", ":::\n\n:::::::\n", "\0"),
        (&*long, &*long, &*format!("A={long}\n")),
        (
            "%s%n%x:x:1:1:::\n",
            "a:b:4294967295:c\n",
            "rm -rf \"$HOME\"/x; id -u >\"$HOME\"/who\n",
        ),
    ] {
        let image = ground.image_with("accounts", &["etc"]);
        ground.user().file(image.join("etc/passwd"), passwd);
        ground.user().file(image.join("etc/group"), group);
        ground.user().file(image.join("environment"), environment);
        let output = ground.inside_of(&image, &["--setuid"], "id -u");
        output
            .succeeded()
            .wrote(&format!("{}\n", ground.user().uid()));
        fs::remove_dir_all(&image).expect("it can be removed");
    }
}

#[test]
fn mounts_over_what_the_system_trusts_stay_inside() {
    let ground = ground();
    ground.user().file("passwd", "evil::0:0::/:/bin/sh\n");
    ground
        .user()
        .file("conf", "allow privileged formats = ext\n");
    let own = ground.user().directory("own");
    for bind in [
        "passwd:/etc/passwd",
        "conf:/etc/singularity/singularity.conf",
        "own:/proc",
        "own:/sys",
        "own:/dev",
        "own:/etc",
        "own:/",
    ] {
        let output = ground.inside(&["--setuid", "-B", bind], "id -u");
        match output.status.code() {
            Some(0) => drop(output.wrote(&format!("{}\n", ground.user().uid()))),
            _ => drop(output.wrote("")),
        }
    }
    assert!(own.exists());
    // Other tests make and remove users meanwhile.
    let accounts = fs::read_to_string("/etc/passwd").expect("it can be read");
    assert!(!accounts.contains("evil:"), "{accounts}");
}

#[test]
fn damaged_superblocks_are_refused_by_us_or_by_the_kernel() {
    let ground = ground();
    for form in [
        Form::SquashfsLz4,
        Form::SquashfsZstd,
        Form::Erofs,
        Form::ErofsLz4,
    ] {
        for (number, bytes) in damaged(form).enumerate() {
            let image = ground.user().file("damaged", &bytes);
            let mut command = ground.command_in(&image, &["--setuid"], "id -u");
            let output = capture_within(Duration::from_secs(20), &mut command, b"");
            let out = output.stdout();
            let uid = format!("{}\n", ground.user().uid());
            assert!(out.is_empty() || out == uid, "{form:?} {number}: {output}");
        }
    }
}

#[test]
fn formats_that_the_site_does_not_name_are_not_mounted_by_the_kernel() {
    let ground = ground();
    for form in [Form::Ext3, Form::Ext4] {
        let image = Image::Busybox.file(form);
        ground.fails(
            &["exec", "--setuid", text_of(&image), "true"],
            255,
            &format!(
                "singularity: enter image {}: privileged code enters no ext file here\n\
                 hint: 'allow privileged formats' or 'image driver' in /etc/singularity/singularity.conf is the reason\n",
                text_of(&image)
            ),
        );
        // Without insisting, the user's own way is taken.
        ground.inside_of(&image, &[], "true").succeeded().quietly();
    }
}

#[test]
fn a_file_that_changes_while_it_is_mounted_ends_only_its_user() {
    let ground = ground();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    let text = format!(
        "singularity exec --setuid {0} sh -c 'sleep 1; cat /bin/* >/dev/null 2>&1; echo done' & \
         sleep 0.3; dd if=/dev/urandom of={0} bs=4096 seek=1 count=400 conv=notrunc 2>/dev/null; wait",
        text_of(&image)
    );
    let output = capture(&mut ground.user().shell(&text));
    output.succeeded();
    // The machine goes on.
    let mut dmesg = Command::new("true");
    capture(&mut dmesg).succeeded();
    let sound = busybox();
    ground.inside_of(sound, &["--setuid"], "true").succeeded();
    chmod(&image, 0o644);
}
