//! A site that forbids, lacks or has run out of something.

use std::path::{Path, PathBuf};

use test_support::{capture, command, Form, Image};

use crate::ground::{busybox, text_of, Ground};

const UNPACK: &str = "unpack the image to a directory";

#[test]
fn forbidden_user_namespaces_are_told_with_the_setting() {
    let ground = Ground::new();
    // In a user namespace of its own, so that the machine's setting stays.
    let text = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces; exec singularity exec --userns {} true",
        busybox().display(),
    );
    let mut command = ground.user().command("unshare");
    command.args([
        "--user",
        "--map-current-user",
        "--keep-caps",
        "sh",
        "-c",
        &text,
    ]);
    capture(&mut command).exited_with(255).wrote("").complained(
        "singularity: make a user namespace: the limit of user namespaces is reached\n\
         hint: user.max_user_namespaces is 0 or used up; ask the administrator to raise it (sysctl)\n",
    );
}

#[test]
fn without_dev_fuse_a_file_image_is_refused_with_the_remedy() {
    let ground = Ground::new();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext4] {
        let image = Image::Busybox.file(form);
        let words = ["exec", "--userns", text_of(&image), "true"];
        let scene = "mount -t tmpfs -o mode=755 tmpfs /dev; mknod -m 666 /dev/null c 1 3";
        let output = capture(&mut ground.on_stage(scene, words));
        output.exited_with(255).wrote("").complained(&format!(
            "singularity: open /dev/fuse: no such file or directory\n\
             hint: load the kernel module: modprobe fuse; or {UNPACK}\n"
        ));
        let scene = format!("{scene}; mknod -m 600 /dev/fuse c 10 229");
        let output = capture(&mut ground.on_stage(&scene, words));
        output.exited_with(255).wrote("").complained(&format!(
            "singularity: open /dev/fuse: permission denied\n\
             hint: ask the administrator for mode 0666, as udev gives it; or {UNPACK}\n"
        ));
    }
    // A directory needs none.
    let scene = "mount -t tmpfs -o mode=755 tmpfs /dev; mknod -m 666 /dev/null c 1 3";
    let words = ["exec", text_of(busybox()), "true"];
    capture(&mut ground.on_stage(scene, words))
        .succeeded()
        .quietly();
    assert!(image.exists());
}

#[test]
fn a_missing_server_is_told_with_its_package() {
    let ground = Ground::new();
    for (form, kind, server, package) in [
        (Form::SquashfsLz4, "squashfs", "squashfuse_ll", "squashfuse"),
        (
            Form::Erofs,
            "EROFS",
            "erofsfuse",
            "erofsfuse, or erofs-utils built with --enable-fuse",
        ),
        (Form::Ext4, "ext", "fuse2fs", "fuse2fs"),
    ] {
        let image = Image::Busybox.file(form);
        let words = ["exec", "--userns", text_of(&image), "true"];
        // Hidden where it is: a file that nobody can execute lies over it.
        let scene = format!(
            "touch hidden; chmod 644 hidden; PATH={}; for d in $(echo $PATH | tr : ' '); do \
             [ ! -e $d/{server} ] || mount --bind hidden $(readlink -f $d/{server}); done; \
             mount --bind hidden {}",
            test_support::search_path(),
            own_server().display()
        );
        let output = capture(&mut ground.on_stage(&scene, words));
        output.exited_with(255).wrote("").complained(&format!(
            "singularity: serve the image's {kind}: {server} is not installed\n\
             hint: install it (package {package}), run as root, or {UNPACK}\n"
        ));
    }
}

/// Our own server of image files, beside the command.
fn own_server() -> PathBuf {
    let prefix = command().parent().and_then(Path::parent);
    prefix
        .expect("it is installed")
        .join("libexec/singularity/image-server")
}

#[test]
fn full_temporary_directories_stop_nothing() {
    let ground = Ground::new();
    // The images and the servers may themselves be below one of these.
    let store = test_support::store().display();
    let scene = format!(
        "mkdir -p keep; mount --bind {store} keep; \
         for d in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o size=4k tmpfs $d; chmod 1777 $d; done; \
         [ -e {store} ] || {{ mkdir -p {store}; mount --bind keep {store}; }}; \
         for d in /tmp /var/tmp /dev/shm; do dd if=/dev/zero of=$d/full bs=4k count=2 2>/dev/null || :; done"
    );
    let squashfs = Image::Busybox.file(Form::SquashfsLz4);
    let ext = Image::Busybox.file(Form::Ext4);
    let erofs = Image::Busybox.file(Form::Erofs);
    for image in [busybox(), &squashfs, &ext, &erofs] {
        for options in [&[][..], &["-c"], &["-p"], &["--writable-tmpfs"]] {
            let mut words = vec!["exec"];
            words.extend(options);
            words.extend([text_of(image), "echo", "in"]);
            let output = capture(&mut ground.on_stage(&scene, words));
            output.succeeded().quietly().wrote("in\n");
        }
    }
}

#[test]
fn a_full_read_only_or_missing_home_stops_nothing() {
    let ground = Ground::new();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    for scene in [
        "mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs $PWD; cd /",
        "mount -t tmpfs -o ro tmpfs $PWD; cd /",
        "mount -t tmpfs -o mode=000 tmpfs $PWD; cd /",
        "mount -t tmpfs tmpfs /home; cd /",
    ] {
        for image in [busybox(), &image] {
            let words = ["exec", text_of(image), "echo", "in"];
            let output = capture(&mut ground.on_stage(scene, words));
            output.succeeded().quietly().wrote("in\n");
        }
    }
}

#[test]
fn a_site_without_files_that_are_shown_stops_nothing() {
    let ground = Ground::new();
    let scene = "mkdir -m 755 empty up wk; touch file; mount -t overlay overlay -o lowerdir=/etc,upperdir=up,workdir=wk /etc 2>/dev/null && \
                 rm -f /etc/hosts /etc/resolv.conf /etc/localtime /etc/group /etc/passwd";
    let words = [
        "exec",
        "--userns",
        text_of(busybox()),
        "sh",
        "-c",
        "head -n1 /etc/passwd | cut -d: -f1; echo in",
    ];
    let output = capture(&mut ground.on_stage(scene, words));
    output
        .succeeded()
        .quietly()
        .wrote(&format!("{}\nin\n", ground.user().name()));
}

#[test]
fn a_proc_that_hides_processes_stops_nothing() {
    let ground = Ground::new();
    let scene = "mount -t proc -o hidepid=2 proc /proc";
    let words = ["exec", text_of(busybox()), "echo", "in"];
    let output = capture(&mut ground.on_stage(scene, words));
    output.succeeded().quietly().wrote("in\n");
}

#[test]
fn a_user_cannot_get_at_a_file_system_that_was_covered() {
    let ground = Ground::new();
    let scene =
        "mkdir -p secret; echo hidden >secret/file; mount -t tmpfs -o mode=755 tmpfs secret";
    let words = [
        "exec",
        text_of(busybox()),
        "sh",
        "-c",
        "umount secret 2>/dev/null; ls -A secret",
    ];
    let output = capture(&mut ground.on_stage(scene, words));
    output.succeeded().quietly().wrote("");
}
