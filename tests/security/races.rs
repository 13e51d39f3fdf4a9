//! Paths that change while they are looked at: an attacker's thread exchanges what a
//! path leads to, as fast as it can, while the starter starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use test_support::attack::{links, secret, Racer, SECRET};
use test_support::{Form, Image};

use crate::ground::{chmod, text_of, Ground};
use crate::starter::ground;

/// How long each race goes on.
const RACE: Duration = Duration::from_millis(1500);

/// Starts again and again while the paths are exchanged; no output may hold the
/// secret.
fn race(ground: &Ground, a: &Path, b: &Path, options: &[&str], image: &Path, text: &str) {
    let racer = Racer::exchange(a, b);
    let begun = Instant::now();
    let mut started = 0;
    while begun.elapsed() < RACE {
        let output = ground.inside_of(image, options, text);
        assert!(!output.stdout().contains(SECRET.trim()), "{output}");
        assert!(!output.stderr().contains(SECRET.trim()), "{output}");
        started += usize::from(output.status.success());
    }
    drop(racer);
    assert!(started > 0, "nothing was started in time");
}

#[test]
fn a_bind_source_that_is_exchanged_never_shows_roots() {
    let ground = ground();
    let own = ground.user().directory("own");
    ground.user().file(own.join("secret"), "mine\n");
    let vault = secret(ground.user().work());
    let (a, b) = links(
        ground.user(),
        &own,
        vault.parent().expect("it is in a directory"),
    );
    let bind = format!("{}:/mnt", text_of(&a));
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let text = "cat /mnt/secret 2>/dev/null; true";
    race(&ground, &a, &b, &["--setuid", "-B", &bind], &image, text);
    // And a file by its own path, through a directory that is exchanged.
    let bind = format!("{}/secret:/mnt", text_of(&a));
    race(
        &ground,
        &a,
        &b,
        &["--setuid", "-B", &bind],
        &image,
        "cat /mnt; true",
    );
}

#[test]
fn an_image_that_is_exchanged_is_entered_only_where_its_user_may() {
    let ground = ground();
    let own = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    // Root's own, which holds a secret and which the user cannot read.
    let roots = ground.user().work().join("roots.sqfs");
    fs::copy(&own, &roots).expect("a file can be copied");
    chmod(&roots, 0o600);
    let (a, b) = links(ground.user(), &own, &roots);
    let racer = Racer::exchange(&a, &b);
    let begun = Instant::now();
    let (mut started, mut refused) = (0, 0);
    while begun.elapsed() < RACE {
        let text = "dd if=/dev/zero of=/dev/null count=1 2>/dev/null; echo in";
        let output = ground.inside_of(&a, &["--setuid"], text);
        match output.status.code() {
            Some(0) => started += 1,
            Some(255) => {
                refused += 1;
                assert!(output.stderr().contains("permission denied"), "{output}");
            }
            _ => panic!("{output}"),
        }
    }
    drop(racer);
    assert!(
        started > 0 && refused > 0,
        "{started} started, {refused} refused"
    );
}

#[test]
fn a_directory_image_that_is_exchanged_never_shows_roots() {
    let ground = ground();
    let own = ground.image_with("own", &["etc", "root"]);
    let roots = ground.image_with("roots", &["etc", "root"]);
    fs::write(roots.join("secret"), SECRET).expect("a file can be written");
    chmod(&roots, 0o700);
    nix::unistd::chown(&roots, Some(0.into()), Some(0.into())).expect("root may");
    let text = "cat /secret 2>/dev/null; true";
    race(&ground, &own, &roots, &["--setuid"], &own, text);
}

#[test]
fn a_working_directory_home_or_workdir_that_is_exchanged_never_shows_roots() {
    let ground = ground();
    let own = ground.user().directory("own");
    ground.user().file(own.join("secret"), "mine\n");
    let vault = secret(ground.user().work());
    let (a, b) = links(
        ground.user(),
        &own,
        vault.parent().expect("it is in a directory"),
    );
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let home = format!("{}:/home/me", text_of(&a));
    let text = "cat /home/me/secret 2>/dev/null; true";
    race(&ground, &a, &b, &["--setuid", "-H", &home], &image, text);
    let options = ["--setuid", "-c", "-W", text_of(&a)];
    race(&ground, &a, &b, &options, &image, "echo x >/tmp/x; true");
    let made = vault.parent().expect("it is in a directory").join("tmp");
    assert!(!made.exists(), "a directory was made in root's");
    let pwd = ["--setuid", "-B", text_of(&own), "--pwd", text_of(&a)];
    race(
        &ground,
        &a,
        &b,
        &pwd,
        &image,
        "cat secret 2>/dev/null; true",
    );
}

#[test]
fn a_mount_point_of_a_directory_image_that_is_exchanged_stays_in_the_image() {
    let ground = ground();
    let image = ground.image_with("image", &["etc", "mnt"]);
    // What lies there is a directory now and a way out of the image then.
    let out = image.join("mnt.out");
    symlink("../../../../../../../etc", &out).expect("a link can be made");
    let before = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    let racer = Racer::exchange(&image.join("mnt"), &out);
    let begun = Instant::now();
    let data = ground.user().directory("data");
    let bind = format!("{}:/mnt", text_of(&data));
    while begun.elapsed() < RACE {
        let options = ["--setuid", "-B", &bind];
        let output = ground.inside_of(&image, &options, "true");
        assert!(matches!(output.status.code(), Some(0 | 255)), "{output}");
    }
    drop(racer);
    let after = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    assert_eq!(before, after);
}
