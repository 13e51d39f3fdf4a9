//! What root's part is where an image or an option asks for more than a read-only
//! mount: ext images and their journals, overlays, writable images.

use std::fs;
use std::process::Command;

use test_support::attack::damaged;
use test_support::{capture, capture_within, Form, Image};

use crate::ground::{busybox, text_of, Ground};
use crate::rules::{exec, under, CONF};
use crate::starter::ground;

const EXT: &str = "allow privileged formats = directory, ext";

/// An image of the user's own with this done to its superblock by debugfs(8).
fn ext_with(ground: &Ground, form: Form, change: &str) -> std::path::PathBuf {
    let image = Image::Busybox.file_for(ground.user(), form);
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-R", change]).arg(&image);
    capture(&mut debugfs).succeeded();
    image
}

#[test]
fn ext_images_that_a_site_allows_are_mounted_without_a_change_to_them() {
    let ground = ground();

    for form in [Form::Ext3, Form::Ext4] {
        let image = Image::Busybox.file_for(ground.user(), form);
        let before = fs::read(&image).expect("it can be read");
        let text =
            "awk '$5 == \"/\"' /proc/self/mountinfo; touch /new 2>/dev/null || echo read-only";
        let words = ["exec", "--setuid", text_of(&image), "sh", "-c", text];
        let output = under(&ground, EXT, &words);
        let out = output.succeeded().quietly().stdout();
        assert!(out.contains(" - ext4 "), "{form:?}: {output}");
        assert!(out.contains(" ro,nosuid,nodev"), "{form:?}: {output}");
        assert!(out.contains("norecovery"), "{form:?}: {output}");
        assert!(out.ends_with("read-only\n"), "{form:?}: {output}");
        let after = fs::read(&image).expect("it can be read");
        assert!(before == after, "{form:?}: the image was changed");
    }
}

#[test]
fn no_ext_image_can_ask_for_the_machine_to_halt() {
    let ground = ground();
    let image = Image::Busybox.file_for(ground.user(), Form::Ext4);
    // What the kernel is to do at the first error in it, of which there is none.
    let mut tune2fs = Command::new("tune2fs");
    capture(tune2fs.args(["-e", "panic"]).arg(&image)).succeeded();
    let text = "awk '$5 == \"/\"' /proc/self/mountinfo";
    let words = ["exec", "--setuid", text_of(&image), "sh", "-c", text];
    let output = under(&ground, EXT, &words);
    let out = output.succeeded().quietly().stdout();
    assert!(out.contains("errors=remount-ro"), "{output}");
}

#[test]
fn ext_images_with_an_open_journal_or_errors_are_refused_and_left_as_they_are() {
    let ground = ground();

    for form in [Form::Ext3, Form::Ext4] {
        for change in [
            "feature needs_recovery",
            "set_super_value state 0",
            "set_super_value state 2",
        ] {
            let image = ext_with(&ground, form, change);
            let before = fs::read(&image).expect("it can be read");
            let name = text_of(&image);
            let line = format!(
                "singularity: check image {name}: its last writer was interrupted, and it has not been checked since\n\
                 hint: who may write to it puts it in order: e2fsck -p {name}, or singularity exec -w {name} true\n"
            );
            under(&ground, EXT, &exec(&[], name))
                .exited_with(255)
                .wrote("")
                .complained(&line);
            let after = fs::read(&image).expect("it can be read");
            assert!(before == after, "{form:?}, {change}: the image was changed");
        }
    }
}

#[test]
fn what_root_writes_for_nobody_is_left_to_user_namespaces_or_refused() {
    let ground = ground();
    ground.user().directory("changes");
    let own = Image::Busybox.directory_for(ground.user());
    let work = ground.user().work().display().to_string();
    let hint =
        "hint: it is done in user namespaces, without --setuid, where the site allows them; \
                --writable-tmpfs keeps changes in memory\n";
    let changes = format!("{work}/changes");
    for (options, image, what) in [
        (
            vec!["--overlay", &changes],
            busybox(),
            format!("overlay {changes}"),
        ),
        (
            vec!["--writable"],
            own.as_path(),
            format!("write to image {}", text_of(&own)),
        ),
    ] {
        let line = format!("singularity: {what}: root cannot mount it for you safely\n{hint}");
        let words = |forced: bool| {
            let mut words = vec!["exec"];
            words.extend(forced.then_some("--setuid"));
            words.extend(&options);
            words.extend([text_of(image), "sh", "-c", "echo in >/new && cat /new"]);
            words
        };
        // Asked for by name; as it comes; and where there is no other way.
        under(&ground, "", &words(true))
            .exited_with(255)
            .wrote("")
            .complained(&line);
        under(&ground, "", &words(false)).succeeded().wrote("in\n");
        under(&ground, "allow user namespaces = no", &words(false))
            .exited_with(255)
            .wrote("")
            .complained(&line);
    }
    // In memory it is root's part, and nobody's file.
    under(
        &ground,
        "allow user namespaces = no",
        &[
            "exec",
            "--writable-tmpfs",
            text_of(busybox()),
            "sh",
            "-c",
            "echo in >/new && cat /new",
        ],
    )
    .succeeded()
    .wrote("in\n");
    // The same for a format that the kernel is not to read.
    let image = Image::Busybox.file(Form::Ext4);
    under(
        &ground,
        "allow user namespaces = no",
        &["exec", text_of(&image), "true"],
    )
    .exited_with(255)
    .complained(&format!(
        "singularity: enter image {}: privileged code enters no ext file here\n\
         hint: 'allow privileged formats' or 'image driver' in {CONF} is the reason\n",
        text_of(&image)
    ));
}

#[test]
fn damaged_ext_superblocks_are_refused_by_us_or_by_the_kernel() {
    let ground = ground();
    let uid = format!("{}\n", ground.user().uid());
    let configure = format!(
        "mount -t tmpfs -o mode=755 tmpfs /etc/singularity; echo '{EXT}' >{CONF}; \
         chmod 644 {CONF}; cd {}",
        text_of(ground.user().work())
    );
    // A third of them: each is a start in a mount namespace of its own.
    for (number, bytes) in damaged(Form::Ext4).step_by(3).enumerate() {
        let image = ground.user().file("damaged", &bytes);
        let words = ["exec", "--setuid", text_of(&image), "id", "-u"];
        let mut command = ground.on_stage(&configure, words);
        let output = capture_within(std::time::Duration::from_secs(20), &mut command, b"");
        let out = output.stdout();
        assert!(out.is_empty() || out == uid, "{number}: {output}");
    }
}
