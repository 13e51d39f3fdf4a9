//! Images that lack what others have, or have something else in its place.

use std::fs;
use std::os::unix::fs::symlink;

use test_support::{capture, Form};

use crate::ground::{busybox, chmod, text_of, Ground};

/// Everything that point 4 promises, checked from inside.
const PROMISED: &str = "cd \"$HOME\" && touch made && rm made && cat /etc/hosts >/dev/null && \
    cat /etc/resolv.conf >/dev/null && cat /etc/localtime >/dev/null && \
    id -un && test -d /proc/self && test -d /sys/kernel && test -c /dev/null && \
    touch /tmp/$USER && rm /tmp/$USER && touch /var/tmp/$USER && rm /var/tmp/$USER && echo all";

fn promised(ground: &Ground) -> String {
    format!("{}\nall\n", ground.user().name())
}

const APPLETS: [&str; 6] = ["rm", "test", "cat", "id", "touch", "echo"];

fn with_applets(ground: &Ground, name: &str, entries: &[&str]) -> std::path::PathBuf {
    let image = ground.image_with(name, entries);
    for applet in APPLETS {
        let link = image.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", link).expect("a link can be made");
        }
    }
    image
}

#[test]
fn an_image_with_nothing_but_bin_has_every_mount_point() {
    let ground = Ground::new();
    let image = with_applets(&ground, "image", &[]);
    for options in [&[][..], &["-c"], &["-p"], &["--writable-tmpfs"]] {
        let output = ground.inside_of(&image, options, PROMISED);
        output.succeeded().quietly().wrote(&promised(&ground));
    }
    let left: Vec<_> = fs::read_dir(&image).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    for form in [Form::SquashfsGzip, Form::Ext3, Form::Erofs] {
        let file = ground.user().work().join(form.name());
        crate::formats::pack(&image, form, &file);
        let output = ground.inside_of(&file, &[], PROMISED);
        output.succeeded().quietly().wrote(&promised(&ground));
    }
}

#[test]
fn one_static_program_is_an_image() {
    let ground = Ground::new();
    let image = ground.user().directory("image");
    fs::copy(busybox().join("bin/busybox"), image.join("true")).unwrap();
    for options in [&[][..], &["-c"], &["-C"], &["-p"], &["-e"]] {
        let mut words = vec!["exec"];
        words.extend(options);
        words.extend([text_of(&image), "/true"]);
        ground.run(&words).succeeded().quietly().wrote("");
    }
    let file = ground.user().work().join("file");
    crate::formats::pack(&image, Form::SquashfsXz, &file);
    ground
        .run(&["exec", text_of(&file), "/true"])
        .succeeded()
        .quietly();
    assert_eq!(fs::read_dir(&image).unwrap().count(), 1);
}

#[test]
fn directories_that_are_links_lead_where_they_lead_in_the_image() {
    for (name, entries) in [
        (
            "absolute",
            &[
                "var",
                "private/etc",
                "etc -> /private/etc",
                "tmp -> /var/tmp",
                "home -> /usr/home",
                "usr/home",
            ][..],
        ),
        (
            "relative",
            &[
                "private/etc",
                "etc -> private/etc",
                "usr",
                "var -> usr/var",
                "tmp -> usr/var/tmp",
                "usr/var/tmp",
            ],
        ),
        (
            "dangling",
            &[
                "etc -> /nowhere/etc",
                "tmp -> gone",
                "home -> /nowhere/home",
                "var -> /nowhere/var",
                "dev -> /nowhere/dev",
            ],
        ),
        (
            "escaping",
            &[
                "etc -> ../../../../etc-of-image",
                "tmp -> ../../tmp2",
                "home -> ../..//home2",
                "proc -> /../proc2",
                "sys -> /s",
            ],
        ),
    ] {
        let ground = Ground::new();
        let image = with_applets(&ground, name, entries);
        let expected = promised(&ground);
        // Where /proc leads elsewhere, so does every path below it.
        let output = ground.inside_of(&image, &[], PROMISED);
        output.succeeded().quietly().wrote(&expected);
        let output = ground.inside_of(&image, &["-c"], PROMISED);
        output.succeeded().quietly().wrote(&expected);
        let file = ground.user().work().join("file");
        crate::formats::pack(&image, Form::SquashfsLz4, &file);
        let output = ground.inside_of(&file, &[], PROMISED);
        output.succeeded().quietly().wrote(&expected);
    }
}

#[test]
fn links_in_a_circle_and_files_in_the_way_leave_only_their_mount_out() {
    let ground = Ground::new();
    let image = with_applets(
        &ground,
        "circles",
        &[
            "etc -> etc",
            "home -> /home",
            "tmp -> tmp2",
            "tmp2 -> tmp",
            "sys -> ./sys",
        ],
    );
    let output = ground.inside_of(
        &image,
        &["--pwd", "/"],
        "test -d /proc/self && test -c /dev/null && echo in",
    );
    output.succeeded().quietly().wrote("in\n");
    let image = with_applets(&ground, "files", &["etc=", "home=", "tmp=", "sys=", "var="]);
    let output = ground.inside_of(
        &image,
        &["--pwd", "/"],
        "test -d /proc/self && test -c /dev/null && echo in",
    );
    output.succeeded().quietly().wrote("in\n");
    let image = with_applets(
        &ground,
        "directories",
        &["etc/passwd/x", "etc/hosts", "etc/group"],
    );
    let output = ground.inside_of(
        &image,
        &["--pwd", "/"],
        "test -d /etc/passwd && test -c /dev/null && echo in",
    );
    output.succeeded().quietly().wrote("in\n");
}

#[test]
fn a_bind_that_cannot_be_placed_in_an_odd_image_is_an_error() {
    let ground = Ground::new();
    let image = with_applets(&ground, "circles", &["opt -> opt", "srv="]);
    for (at, cause) in [
        ("/opt/x", "too many symbolic links encountered"),
        ("/srv/x", "not a directory"),
    ] {
        let bind = format!("{}:{at}", ground.user().home().display());
        ground.fails(
            &["exec", "-B", &bind, text_of(&image), "true"],
            255,
            &format!(
                "singularity: find mount point {at} in the image: {cause}\n\
             hint: something of the image is in the way, or it is damaged; another destination, or --no-mount for a standard one, may do\n"
            ),
        );
    }
}

#[test]
fn files_of_the_image_that_are_dangling_links_are_covered() {
    let ground = Ground::new();
    let image = with_applets(
        &ground,
        "image",
        &[
            "etc",
            "etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf",
            "etc/localtime -> /usr/share/zoneinfo/Moon/Base",
            "etc/hosts -> hosts.d/one",
            "etc/passwd -> /nowhere/passwd",
            "etc/group -> ../../../nowhere/group",
        ],
    );
    let output = ground.inside_of(&image, &[], PROMISED);
    output.succeeded().quietly().wrote(&promised(&ground));
}

#[test]
fn directories_that_cannot_be_listed_or_entered_stop_nothing() {
    let ground = Ground::new();
    let image = with_applets(&ground, "image", &["etc/x", "root", "home"]);
    chmod(&image.join("root"), 0o000);
    for mode in [0o111, 0o711, 0o555] {
        chmod(&image, mode);
        let output = ground.inside_of(&image, &[], PROMISED);
        output.succeeded().quietly().wrote(&promised(&ground));
    }
    chmod(&image, 0o755);
    chmod(&image.join("root"), 0o755);
}

#[test]
fn an_image_on_a_path_of_spaces_newlines_and_any_bytes_works() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let ground = Ground::new();
    let name = OsString::from_vec(b"a b\nc\xff:,'\"\\".to_vec());
    let place = ground.user().directory(&name);
    let tree = with_applets(&ground, "image", &[]);
    for form in [Form::SquashfsLz4, Form::Ext4, Form::Erofs] {
        let file = ground.user().work().join("file");
        crate::formats::pack(&tree, form, &file);
        let odd = place.join(&name);
        fs::rename(&file, &odd).unwrap();
        let output = ground.inside_of(&odd, &[], PROMISED);
        output.succeeded().quietly().wrote(&promised(&ground));
        fs::remove_file(&odd).unwrap();
    }
    fs::rename(&tree, place.join(&name)).unwrap();
    let mut command = ground.command_in(&place.join(&name), &[], "pwd -P | wc -l");
    command.current_dir(place.join(&name));
    capture(&mut command).succeeded().quietly().wrote("3\n");
}

#[test]
fn a_directory_with_very_many_entries_gets_mount_points() {
    let ground = Ground::new();
    let image = with_applets(&ground, "image", &["etc"]);
    for number in 0..3000 {
        fs::write(image.join(format!("etc/{number}")), "").unwrap();
    }
    for number in 0..100 {
        fs::create_dir(image.join(format!("{number}"))).unwrap();
    }
    let output = ground.inside_of(&image, &[], &format!("{PROMISED}; ls /etc | grep -c 0"));
    output.succeeded().quietly();
}

#[test]
fn an_image_inside_an_image_is_entered_again() {
    let ground = Ground::new();
    // Where user namespaces nest; the command itself is bound in.
    let binary = test_support::command();
    let bind = format!("{}:/opt/singularity", binary.display());
    let image = with_applets(&ground, "image", &["new"]);
    let output = ground.inside(
        &["-B", &bind],
        &format!("/opt/singularity exec {} ls -d /new", text_of(&image)),
    );
    output.succeeded().quietly().wrote("/new\n");
}
