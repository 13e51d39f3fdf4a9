//! `--contain`, `--containall`, `--workdir`, `--scratch`, `--no-mount`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use test_support::capture;

use crate::ground::{busybox, text_of, Ground};

#[test]
fn contained_homes_and_temporary_directories_are_empty_writable_and_private() {
    let ground = Ground::new();
    ground.user().file("notes", "mine\n");
    let text = "ls -A ~ /tmp /var/tmp /dev/shm; \
                for d in ~ /tmp /var/tmp /dev/shm; do echo x >$d/x && stat -c %a $d; done; pwd";
    let home = ground.user().home().display().to_string();
    let expected =
        format!("/dev/shm:\n\n{home}:\n\n/tmp:\n\n/var/tmp:\n700\n1777\n1777\n1777\n{home}\n");
    ground.says(&["-c"], text, &expected);
    ground.says(&["--containall"], text, &expected);
    for name in ["SINGULARITY_CONTAIN", "SINGULARITY_CONTAINALL"] {
        let mut command = ground.command(&[], text);
        command.env(name, "1");
        capture(&mut command).succeeded().quietly().wrote(&expected);
    }
    assert!(!ground.user().home().join("x").exists());
}

#[test]
fn a_contained_dev_has_the_harmless_devices_only() {
    let ground = Ground::new();
    let output = ground.inside(
        &["-c"],
        "echo x >/dev/null; head -c4 /dev/zero | wc -c; head -c4 /dev/urandom | wc -c; \
         echo x >/dev/full; ls /dev; cat /dev/stdin </etc/os-release",
    );
    let text = output.succeeded().stdout();
    assert!(text.starts_with("4\n4\n"), "{text}");
    assert!(text.ends_with("NAME=\"Busybox\"\n"), "{text}");
    for name in [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "zero",
    ] {
        assert!(text.contains(&format!("\n{name}\n")), "{text}");
    }
    for name in ["mem", "kmsg", "fuse", "loop-control"] {
        assert!(!text.contains(&format!("\n{name}\n")), "{text}");
    }
}

#[test]
fn containall_also_has_namespaces_and_an_environment_of_its_own() {
    let ground = Ground::new();
    let mut command = ground.command(
        &["-C"],
        "echo $$ ${SECRET-none}; readlink /proc/self/ns/ipc",
    );
    command.env("SECRET", "1");
    let output = capture(&mut command);
    let text = output.succeeded().quietly().stdout();
    let own = fs::read_link("/proc/self/ns/ipc").unwrap();
    let (first, namespace) = text.split_once('\n').unwrap();
    assert_eq!(first, "2 none");
    assert_ne!(namespace.trim_end(), text_of(&own));
}

#[test]
fn a_workdir_keeps_what_is_written_to_tmp_home_and_scratch() {
    let ground = Ground::new();
    ground.user().directory("work");
    let options = [
        "-c",
        "-W",
        "work",
        "-S",
        "/scratch/a,/opt/b",
        "--scratch",
        "/c",
    ];
    ground.says(
        &options,
        "for d in ~ /tmp /var/tmp /scratch/a /opt/b /c; do echo kept >$d/file; done",
        "",
    );
    ground.says(
        &options,
        "cat ~/file /tmp/file /var/tmp/file /scratch/a/file /opt/b/file /c/file",
        "kept\nkept\nkept\nkept\nkept\nkept\n",
    );
    let work = ground.user().work().join("work");
    for (place, mode) in [
        ("tmp", 0o1777),
        ("var_tmp", 0o1777),
        ("home", 0o700),
        ("scratch/scratch/a", 0o755),
    ] {
        let found = fs::metadata(work.join(place)).expect(place);
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{place}");
        assert!(work.join(place).join("file").exists());
    }
}

#[test]
fn a_workdir_is_where_tmp_is_also_without_contain_and_is_made_if_missing() {
    let ground = Ground::new();
    let home = ground.user().home().display().to_string();
    ground.user().file("notes", "mine\n");
    let text = "echo x >/tmp/file; echo y >/var/tmp/file; cat ~/notes";
    let mut command = ground.command(&[], text);
    command.env("SINGULARITY_WORKDIR", "new/work");
    capture(&mut command).succeeded().quietly().wrote("mine\n");
    for (file, content) in [("tmp/file", "x\n"), ("var_tmp/file", "y\n")] {
        let path = format!("{home}/new/work/{file}");
        assert_eq!(fs::read_to_string(path).unwrap(), content);
    }
}

#[test]
fn a_workdir_that_cannot_be_made_is_an_error() {
    let ground = Ground::new();
    ground.user().file("file", "");
    let image = text_of(busybox());
    let work = text_of(ground.user().work());
    ground.fails(
        &["exec", "-W", "file", image, "true"],
        255,
        &format!(
            "singularity: make directory {work}/file/tmp in the work directory: not a directory\n\
         hint: name a directory that you may write to\n"
        ),
    );
    ground.fails(
        &["exec", "-W", "/usr", image, "true"],
        255,
        "singularity: make directory /usr/tmp in the work directory: permission denied\n\
         hint: name a directory that you may write to\n",
    );
}

#[test]
fn scratch_directories_are_empty_writable_and_gone_afterwards() {
    let ground = Ground::new();
    let text = "ls -A /scratch /deep/er; echo x >/scratch/x; echo y >/deep/er/y; cat /scratch/x";
    let expected = "/deep/er:\n\n/scratch:\nx\n";
    for _ in 0..2 {
        ground.says(&["-S", "/scratch", "--scratch", "/deep/er"], text, expected);
    }
    let mut command = ground.command(&[], text);
    command.env("SINGULARITY_SCRATCH", "/scratch,/deep/er");
    capture(&mut command).succeeded().quietly().wrote(expected);
    ground.fails(
        &["exec", "-S", "scratch", text_of(busybox()), "true"],
        255,
        "singularity: --scratch scratch: not an absolute path\n\
         hint: give the path as it is in the image, from / on\n",
    );
}

#[test]
fn each_standard_mount_can_be_left_out() {
    let ground = Ground::new();
    for (name, text) in [
        ("dev", "test -e /dev/zero"),
        ("proc", "test -e /proc/self"),
        ("sys", "test -e /sys/kernel"),
        ("tmp", "grep ' /tmp ' /proc/self/mounts"),
        ("home", "grep \" $HOME \" /proc/self/mounts"),
        ("hosts", "test -e /etc/hosts"),
        ("resolv.conf", "test -e /etc/resolv.conf"),
        ("localtime", "test -e /etc/localtime"),
        ("passwd", "grep $USER /etc/passwd"),
        ("group", "grep $USER /etc/group"),
    ] {
        let all = format!("{text} >/dev/null");
        ground.says(&[], &all, "");
        let options = ["--no-mount", &format!("{name},cwd"), "--pwd", "/"];
        let output = ground.inside(&options, &format!("{all} 2>&1 && exit 3; exit 0"));
        if name == "dev" {
            output.exited_with(0);
        } else {
            output.succeeded().quietly();
        }
        let mut command = ground.command(&["--pwd", "/"], &format!("{all} 2>&1 && exit 3; exit 0"));
        command.env("SINGULARITY_NO_MOUNT", format!("{name},cwd"));
        capture(&mut command).exited_with(0);
    }
    let here = ground.user().directory("here");
    let mut command = ground.command(&["--no-home", "--no-mount", "cwd"], "pwd");
    command.current_dir(&here);
    capture(&mut command).succeeded().wrote("/\n");
    ground.fails(
        &["exec", "--no-mount", "moon", text_of(busybox()), "true"],
        255,
        "singularity: --no-mount moon: no such mount\n\
         hint: one of dev, proc, sys, tmp, home, cwd, hosts, resolv.conf, localtime, passwd, group\n",
    );
}

#[test]
fn contained_with_another_home_and_binds_has_just_these() {
    let ground = Ground::new();
    ground.user().file("other/notes", "other\n");
    ground.user().file("data/file", "data\n");
    ground.says(
        &[
            "-C",
            "-H",
            "other:/home/me",
            "-B",
            "data:/tmp/data",
            "-S",
            "/s",
            "--hostname",
            "h",
            "-n",
        ],
        "cat ~/notes /tmp/data/file; ls /tmp; hostname; pwd",
        "other\ndata\ndata\nh\n/home/me\n",
    );
}
