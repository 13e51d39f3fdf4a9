//! What a program finds in an image: the host's devices and files, the user's
//! account and groups.

use std::fs;
use std::os::unix::fs::{chown, MetadataExt};

use test_support::{capture, Form, Image, User};

use crate::ground::{as_root, busybox, chmod, text_of, Ground};

#[test]
fn the_hosts_directories_are_the_hosts() {
    let ground = Ground::new();
    let output = ground.inside(
        &[],
        "stat -c '%n %d %i' /dev /proc /sys /tmp /var/tmp /dev/shm",
    );
    let text = output.succeeded().quietly().stdout();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let own = fs::metadata(words[0]).unwrap();
        let expected = [own.dev().to_string(), own.ino().to_string()];
        assert_eq!(words[1..], expected, "{line}");
    }
    assert_eq!(text.lines().count(), 6);
}

#[test]
fn names_addresses_and_the_time_are_the_hosts() {
    let ground = Ground::new();
    for file in ["/etc/hosts", "/etc/resolv.conf", "/etc/localtime"] {
        let output = ground.run(&["exec", text_of(busybox()), "cat", file]);
        assert_eq!(
            output.succeeded().quietly().stdout,
            fs::read(file).unwrap(),
            "{file}"
        );
        let output = ground.inside(&[], &format!("echo x >{file}"));
        assert!(!output.exited_with(1).stderr.is_empty());
    }
}

#[test]
fn the_user_has_the_same_ids_and_a_name() {
    let user = User::with_groups(2);
    let ground = Ground::of(user);
    let user = ground.user();
    let (name, home) = (user.name(), user.home().display());
    let (uid, gid) = (user.uid(), user.gid());
    ground.says(
        &[],
        "id -u; id -g; id -un; id -gn; head -n1 /etc/passwd; grep -c root /etc/passwd; whoami",
        &format!("{uid}\n{gid}\n{name}\n{name}\n{name}:x:{uid}:{gid}::{home}:/bin/sh\n1\n{name}\n"),
    );
}

#[test]
fn supplementary_groups_keep_giving_access() {
    let ground = Ground::of(User::with_groups(1));
    let group = ground.user().groups()[0];
    let file = ground.user().file("shared/file", "for the group\n");
    let directory = file.parent().unwrap();
    for path in [&file, directory] {
        chown(path, Some(0), Some(group)).unwrap();
    }
    chmod(&file, 0o660);
    chmod(directory, 0o770);
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        let output = ground.inside_of(
            image,
            &[],
            "cat shared/file; echo more >>shared/file; touch shared/new",
        );
        output.succeeded().quietly();
    }
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);
}

#[test]
fn an_account_that_no_file_names_works_too() {
    let ground = Ground::new();
    // A user id that /etc/passwd does not know, as of a directory service that is down.
    let text = "id -u; head -n1 /etc/passwd; id -g";
    let mut command = as_root(&[]);
    let binary = command.get_program().to_owned();
    command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=61234", "--regid=61234", "--clear-groups", "--"])
        .arg(binary)
        .args(["exec", text_of(busybox()), "sh", "-c", text])
        .env_clear()
        .env("USER", "nobody-knows")
        .current_dir("/");
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote("61234\nnobody-knows:x:61234:61234::/:/bin/sh\n61234\n");
    drop(ground);
}

#[test]
fn programs_inside_gain_no_privilege() {
    let ground = Ground::new();
    let output = ground.inside(&[], "cat /proc/self/status");
    let status = output.succeeded().quietly().stdout();
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(
            crate::ground::field(&status, name),
            "0000000000000000",
            "{name}"
        );
    }
    assert_eq!(crate::ground::field(&status, "NoNewPrivs"), "1");
    ground.says(
        &[],
        "mount -t tmpfs x /tmp 2>/dev/null || echo no mount; chroot / true 2>/dev/null || echo no chroot; \
         hostname x 2>/dev/null || echo no name",
        "no mount\nno chroot\nno name\n",
    );
}

#[test]
fn set_id_programs_and_devices_of_an_image_have_no_power() {
    let ground = Ground::new();
    let image = ground.image_with("image", &["dev"]);
    let program = image.join("bin/setid");
    fs::copy(image.join("bin/busybox"), &program).unwrap();
    chown(&program, Some(0), Some(0)).unwrap();
    chmod(&program, 0o6755);
    let made = capture(std::process::Command::new("sh").args([
        "-c",
        &format!(
            "mknod -m 666 {0}/null c 1 3 && ln -s setid {0}/bin/whoami",
            text_of(&image)
        ),
    ]));
    made.succeeded();
    let output = ground.inside_of(&image, &[], "whoami; echo x >/null");
    output
        .exited_with(1)
        .wrote(&format!("{}\n", ground.user().name()))
        .complained("sh: can't create /null: Permission denied\n");
}

#[test]
fn the_hosts_root_cannot_be_reached() {
    let ground = Ground::new();
    let options = ["--no-home", "--no-mount", "cwd,tmp"];
    let root = ground.inside(&options, "ls /; ls / | wc -l; echo 1; echo none");
    ground.says(
        &options,
        "ls /../../..; ls /proc/self/root/ | wc -l; grep -c ' / ' /proc/self/mounts; \
         test -e /proc/1/root/etc/debian_version || echo none",
        &root.stdout(),
    );
}

#[test]
fn what_a_program_writes_to_tmp_and_dev_shm_is_the_hosts() {
    let ground = Ground::new();
    let name = ground.user().name();
    ground.says(
        &[],
        &format!("for d in /tmp /var/tmp /dev/shm; do echo x >$d/{name}; done"),
        "",
    );
    for directory in ["/tmp", "/var/tmp", "/dev/shm"] {
        let path = format!("{directory}/{name}");
        assert_eq!(fs::metadata(&path).unwrap().uid(), ground.user().uid());
        fs::remove_file(path).unwrap();
    }
}
