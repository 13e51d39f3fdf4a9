//! `--bind`: what is shown where, and how.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;

use test_support::{capture, Form, Image};

use crate::ground::{busybox, text_of, Ground};

const HINT: &str =
    "hint: write SOURCE[:DESTINATION[:ro|rw]]; a colon or comma in a path is written \\: or \\,\n";

#[test]
fn a_directory_and_a_file_are_bound_read_write_unless_ro_is_said() {
    let ground = Ground::new();
    let data = ground.user().directory("data");
    let file = ground.user().file("data/file", "content\n");
    let (data, file) = (text_of(&data), text_of(&file));
    ground.says(
        &["-B", &format!("{data}:/mnt,{file}:/etc/one")],
        "cat /mnt/file /etc/one; echo more >>/etc/one; echo new >/mnt/new; cat /mnt/file /mnt/new",
        "content\ncontent\ncontent\nmore\nnew\n",
    );
    let output = ground.inside(
        &["-B", &format!("{data}:/mnt:ro")],
        "cat /mnt/new; echo x >/mnt/new; echo x >/mnt/other; echo y >/dev/null",
    );
    output.wrote("new\n").complained(
        "sh: can't create /mnt/new: Read-only file system\n\
         sh: can't create /mnt/other: Read-only file system\n",
    );
    ground.says(&["-B", &format!("{data}:/mnt:rw")], "rm /mnt/new", "");
    assert!(!ground.user().work().join("data/new").exists());
}

#[test]
fn the_hosts_root_is_bound_as_it_is_on_the_host() {
    let ground = Ground::new();
    let file = ground.user().file("file", "content\n");
    let text = format!(
        "cat /mnt{0}; echo more >>/mnt{0}; cat /mnt{0}; test -e /mnt/proc/self && echo all",
        text_of(&file)
    );
    ground.says(&["-B", "/:/mnt"], &text, "content\ncontent\nmore\nall\n");
    let text = format!("cat /mnt{0}; : >>/mnt{0}", text_of(&file));
    let output = ground.inside(&["-B", "/:/mnt:ro"], &text);
    assert!(
        output.stderr().contains("Read-only file system"),
        "{output}"
    );
    output.wrote("content\nmore\n");
}

#[test]
fn a_bind_without_destination_keeps_its_path_and_a_relative_source_starts_here() {
    let ground = Ground::new();
    ground.user().file("data/file", "content\n");
    let there = ground.user().work().join("data");
    for bind in [text_of(&there), "data:/mnt", "./data:/mnt"] {
        let at = if bind.starts_with('/') { bind } else { "/mnt" };
        ground.says(
            &["--no-home", "-B", bind],
            &format!("cat {at}/file"),
            "content\n",
        );
    }
}

#[test]
fn binds_come_from_options_lists_and_the_environment_together() {
    let ground = Ground::new();
    for name in ["a", "b", "c", "d", "e"] {
        ground.user().file(name, name);
    }
    let mut command = ground.command(
        &["-B", "a:/mnt/a,b:/mnt/b", "--bind", "c:/mnt/c"],
        "cat /mnt/*",
    );
    command
        .env("SINGULARITY_BINDPATH", "d:/mnt/d")
        .env("SINGULARITY_BIND", "e:/mnt/e");
    capture(&mut command).succeeded().quietly().wrote("abcde");
    let mut command = ground.command(&[], "cat /mnt/*");
    command.env("SINGULARITY_BINDPATH", "a:/mnt/a,b:/mnt/b,");
    capture(&mut command).succeeded().quietly().wrote("ab");
    let mut command = ground.command(&[], "ls /mnt");
    command.env("SINGULARITY_BINDPATH", "");
    capture(&mut command).exited_with(1);
}

#[test]
fn colons_commas_and_backslashes_in_paths_are_escaped() {
    let ground = Ground::new();
    ground.user().file(r"a:b,c\d", "odd\n");
    ground.says(
        &["-B", r"a\:b\,c\\d:/mnt/x\:y\,z"],
        "cat /mnt/x:y,z",
        "odd\n",
    );
}

#[test]
fn paths_with_spaces_newlines_and_any_bytes_are_bound() {
    let ground = Ground::new();
    let name = OsString::from_vec(b"a b\nc\t\xff\xfe'\"$(x)*".to_vec());
    ground.user().file(&name, "odd\n");
    let mut bind = OsString::from("-B");
    bind.push(&name);
    bind.push(":/mnt/");
    bind.push(&name);
    let mut command = ground.singularity(["exec"]);
    command.arg(bind).arg(busybox());
    command
        .args(["sh", "-c", "cat \"/mnt/$1\"", "sh"])
        .arg(&name);
    capture(&mut command).succeeded().quietly().wrote("odd\n");
}

#[test]
fn a_missing_destination_is_made_in_a_directory_and_in_a_file_image() {
    let ground = Ground::new();
    ground.user().file("data/file", "content\n");
    let file = Image::Busybox.file(Form::SquashfsLz4);
    for image in [busybox(), &file] {
        for at in [
            "/new",
            "/new/deeper/still",
            "/etc/new/one",
            "/usr/x",
            "/bin/x",
        ] {
            let bind = format!("data:{at},data/file:{at}.file");
            let output = ground.inside_of(
                image,
                &["-B", &bind],
                &format!("cat {at}/file {at}.file; test -e /bin/sh && cat /etc/os-release"),
            );
            output
                .succeeded()
                .quietly()
                .wrote("content\ncontent\nNAME=\"Busybox\"\n");
        }
    }
}

#[test]
fn a_bind_goes_over_what_the_image_has_and_over_other_mounts() {
    let ground = Ground::new();
    ground.user().file("mine", "mine\n");
    ground.user().file("data/file", "content\n");
    for at in [
        "/etc/passwd",
        "/etc/hosts",
        "/etc/group",
        "/etc/os-release",
        "/etc/resolv.conf",
    ] {
        let bind = format!("mine:{at}");
        ground.says(&["-B", &bind], &format!("cat {at}"), "mine\n");
    }
    for at in ["/etc", "/tmp", "/usr", "/home", "/opt", "/sys"] {
        let bind = format!("data:{at}");
        ground.says(
            &["--no-home", "--pwd", "/", "-B", &bind],
            &format!("cat {at}/file"),
            "content\n",
        );
    }
}

#[test]
fn binds_lie_under_and_over_each_other_in_the_order_given() {
    let ground = Ground::new();
    ground.user().file("outer/inner/file", "outer\n");
    ground.user().file("other/file", "other\n");
    ground.says(
        &["-B", "outer:/mnt,other:/mnt/inner"],
        "cat /mnt/inner/file",
        "other\n",
    );
    ground.says(
        &["-B", "other:/mnt,outer:/mnt"],
        "cat /mnt/inner/file",
        "outer\n",
    );
    // A mount point that is missing below another bind is made in its source.
    ground.says(
        &["-B", "other:/mnt,outer:/mnt/new/deep"],
        "cat /mnt/new/deep/inner/file",
        "outer\n",
    );
}

#[test]
fn a_missing_mount_point_below_a_source_that_cannot_be_written_is_explained() {
    let ground = Ground::new();
    ground.user().file("data/file", "content\n");
    ground.fails(
        &[
            "exec",
            "-B",
            "/usr:/mnt,data:/mnt/nowhere",
            text_of(busybox()),
            "true",
        ],
        255,
        "singularity: make mount point /mnt/nowhere in the image: permission denied\n\
         hint: /mnt is another mount; make the mount point in its source\n",
    );
}

#[test]
fn a_source_that_is_a_link_shows_what_it_leads_to() {
    let ground = Ground::new();
    ground.user().file("real/file", "content\n");
    symlink("real", ground.user().work().join("link")).unwrap();
    symlink("real/file", ground.user().work().join("file")).unwrap();
    ground.says(
        &["-B", "link:/mnt,file:/opt/file"],
        "cat /mnt/file /opt/file; test -L /mnt || echo no link",
        "content\ncontent\nno link\n",
    );
}

#[test]
fn a_destination_through_a_link_of_the_image_stays_in_the_image() {
    let ground = Ground::new();
    ground.user().file("data/file", "content\n");
    let image = ground.image_with(
        "image",
        &[
            "inside",
            "in -> /inside",
            "up -> ../../../../inside",
            "gone -> /made/here",
        ],
    );
    for at in ["/in", "/up", "/gone", "/in/new", "/in/../inside/x"] {
        let output = ground.inside_of(
            &image,
            &["-B", &format!("data:{at}")],
            &format!("cat {at}/file"),
        );
        output.succeeded().quietly().wrote("content\n");
    }
    assert!(!ground.user().work().join("made").exists());
    assert!(fs::read_dir(image.join("inside")).unwrap().next().is_none());
}

#[test]
fn sockets_pipes_and_devices_are_bound() {
    let ground = Ground::new();
    let output = capture(&mut ground.user().shell("mkfifo pipe"));
    output.succeeded();
    ground.says(
        &["--contain", "-B", "pipe:/mnt/pipe,/dev/null:/mnt/null"],
        "test -p /mnt/pipe; echo x >/mnt/null; echo $?",
        "0\n",
    );
}

#[test]
fn what_is_mounted_below_a_source_comes_along_and_ro_covers_it() {
    let ground = Ground::new();
    ground.user().directory("data/below");
    let scene = "mount -t tmpfs tmpfs data/below; echo deep >data/below/file; chmod 777 data/below";
    let words = [
        "exec",
        "-B",
        "data:/mnt:ro",
        text_of(busybox()),
        "sh",
        "-c",
        "cat /mnt/below/file; touch /mnt/below/new",
    ];
    let output = capture(&mut ground.on_stage(scene, words));
    output
        .exited_with(1)
        .wrote("deep\n")
        .complained("touch: /mnt/below/new: Read-only file system\n");
}

#[test]
fn a_bind_that_is_wrong_is_named_with_what_is_wrong() {
    let ground = Ground::new();
    ground.user().file("file", "");
    let image = text_of(busybox());
    let work = text_of(ground.user().work());
    for (bind, complaint) in [
        (
            ":/mnt",
            "bind :/mnt: its source is empty\n".to_owned() + HINT,
        ),
        (
            "file:mnt",
            "bind file:mnt: its destination is not an absolute path\n".to_owned() + HINT,
        ),
        (
            "file:/m:rx",
            "bind file:/m:rx: its options are not ro or rw\n".to_owned() + HINT,
        ),
        (
            "a:/b:ro:c",
            "bind a:/b:ro:c: it has more than three parts\n".to_owned() + HINT,
        ),
        (
            "nowhere:/mnt",
            format!(
                "bind {work}/nowhere: no such file or directory\n\
                 hint: the source of a bind must exist on the host\n"
            ),
        ),
        (
            "/root/x:/mnt",
            "bind /root/x: permission denied\n\
             hint: you need search permission on every directory above it\n"
                .to_owned(),
        ),
        (
            "file:/etc",
            format!(
                "mount {work}/file on /etc: one is a directory, the other is not\n\
             hint: bind a directory on a directory, and a file on a file\n"
            ),
        ),
        (
            ".:/bin/sh",
            format!(
                "mount {work}/. on /bin/sh: one is a directory, the other is not\n\
             hint: bind a directory on a directory, and a file on a file\n"
            ),
        ),
        (
            "file:/",
            format!(
                "mount {work}/file on /: the image is there\n\
             hint: name a place below /\n"
            ),
        ),
    ] {
        ground.fails(
            &["exec", "-B", bind, image, "true"],
            255,
            &format!("singularity: {complaint}"),
        );
    }
}

#[test]
fn a_thousand_binds_are_made() {
    let ground = Ground::new();
    ground.user().file("file", "content\n");
    let list: Vec<_> = (0..1000).map(|n| format!("file:/mnt/{n}")).collect();
    ground.says(
        &["-B", &list.join(",")],
        "ls /mnt | wc -l; cat /mnt/0 /mnt/999",
        "1000\ncontent\ncontent\n",
    );
}

#[test]
fn paths_of_nearly_four_thousand_bytes_are_bound_and_started_in() {
    let ground = Ground::new();
    let deep = vec!["d".repeat(200); 18].join("/");
    let output = capture(
        &mut ground
            .user()
            .shell(&format!("mkdir -p {deep}; echo deep >{deep}/file")),
    );
    output.succeeded();
    let output = capture(&mut ground.user().shell(&format!(
        "cd {deep} && singularity exec -B {deep}:/mnt -B ./file:/opt/file {} sh -c 'cat /mnt/file /opt/file; pwd -P'",
        busybox().display()
    ).replace(&format!("-B {deep}"), &format!("-B ~/{deep}"))));
    let expected = format!("deep\ndeep\n{}/{deep}\n", ground.user().home().display());
    output.succeeded().quietly().wrote(&expected);
    let output = capture(&mut ground.user().shell("rm -rf d*"));
    output.succeeded();
}
