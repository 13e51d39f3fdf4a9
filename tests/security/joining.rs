//! Getting into namespaces of others, or luring root into one's own.

use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::{capture, Form, Image, Running, User, LIMIT};

use crate::ground::{text_of, Ground};
use crate::starter::ground;

const NAMESPACE: &str = "readlink /proc/self/ns/mnt";

/// The name by which processes that share `--share=NAME` would find one another.
fn name_of(ground: &Ground, options: &[&str], image: &str) -> String {
    let mut words = vec!["-v", "exec", "--setuid"];
    words.extend(options);
    words.extend([image, "true"]);
    let output = ground.run(&words);
    let text = output.succeeded().stderr();
    let (_, name) = text
        .split_once("making singularity:")
        .unwrap_or_else(|| panic!("no name in {output}"));
    format!("singularity:{}", &name[..32])
}

#[test]
fn processes_of_one_user_that_give_the_same_name_share() {
    let ground = ground();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    let options = ["--setuid", "--share", "one"];
    let mut first =
        Running::start(&mut ground.command_in(&image, &options, &format!("{NAMESPACE}; sleep 60")));
    first.until("\n");
    let second = ground.inside_of(&image, &options, NAMESPACE);
    let alone = ground.inside_of(&image, &["--setuid"], NAMESPACE);
    let other = ground.inside_of(&image, &["--setuid", "--share", "two"], NAMESPACE);
    assert!(first.is_running());
    first.signal(Signal::SIGKILL);
    let first = first.wait(LIMIT).stdout();
    assert_eq!(first, second.succeeded().stdout());
    assert_ne!(first, alone.succeeded().stdout());
    assert_ne!(first, other.succeeded().stdout());
}

#[test]
fn another_user_with_the_same_name_image_and_options_does_not_share() {
    let ground = ground();
    let other = User::ordinary();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let options = [
        "--setuid",
        "--share",
        "both",
        "--no-home",
        "--pwd",
        "/",
        "--no-mount",
        "cwd",
    ];
    let mut first =
        Running::start(&mut ground.command_in(&image, &options, &format!("{NAMESPACE}; sleep 60")));
    first.until("\n");
    let mut theirs = other.singularity();
    theirs.arg("exec").args(options);
    theirs.args([text_of(&image), "sh", "-c", NAMESPACE]);
    let theirs = capture(&mut theirs);
    first.signal(Signal::SIGKILL);
    let first = first.wait(LIMIT).stdout();
    assert!(first.starts_with("mnt:["), "{first}");
    assert_ne!(first, theirs.succeeded().quietly().stdout());
}

#[test]
fn a_namespace_that_the_user_made_to_look_like_ours_is_not_entered() {
    let ground = ground();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let options = ["--share", "lure", "--no-home"];
    let name = name_of(&ground, &options, text_of(&image));
    // A root of the user's own, with a mount in it that says the name, in a user
    // namespace of the user's own; and the variable that a member carries.
    let text = format!(
        "mkdir -p fake/mark fake/old; exec unshare --user --map-current-user --keep-caps --mount sh -c '\
         mount -t tmpfs {name} fake && mkdir fake/mark fake/old && cd fake && \
         mount -t tmpfs {name} mark && cp {0}/bin/busybox . && echo planted >planted && \
         pivot_root . old && ./busybox umount -l /old && ./busybox echo there; \
         exec ./busybox env -i SINGULARITY_NAMESPACE={name}:1 ./busybox sleep 60'",
        text_of(crate::ground::busybox())
    );
    let mut lure = Running::start(&mut ground.user().shell(&text));
    lure.until("there\n");
    std::thread::sleep(Duration::from_millis(100));
    assert!(lure.is_running(), "the lure is not there");
    let mut words = vec!["--setuid"];
    words.extend(options);
    let output = ground.inside_of(&image, &words, "cat /planted 2>/dev/null || echo not there");
    lure.signal(Signal::SIGKILL);
    lure.wait(LIMIT);
    output.succeeded().quietly().wrote("not there\n");
}

#[test]
fn a_socket_of_another_user_makes_nobody_wait() {
    let ground = ground();
    let other = User::ordinary();
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let options = ["--share", "squat", "--no-home"];
    let name = name_of(&ground, &options, text_of(&image));
    let script = "import socket, sys, time\n\
        s = socket.socket(socket.AF_UNIX); s.bind('\\0' + sys.argv[1]); s.listen(); print('bound', flush=True); time.sleep(60)\n";
    for squatter in [&other, ground.user()] {
        let mut python = squatter.command("/usr/bin/python3");
        python.args(["-c", script, &name]);
        let mut squatting = Running::start(&mut python);
        squatting.until("bound\n");
        assert!(squatting.is_running());
        let mut words = vec!["--setuid"];
        words.extend(options);
        let output = ground.inside_of(&image, &words, "echo in");
        squatting.signal(Signal::SIGKILL);
        squatting.wait(LIMIT);
        output.succeeded().wrote("in\n").complained(&format!(
            "singularity: warning: user {} holds the socket @{name}; this rank goes alone\n",
            squatter.uid()
        ));
        assert!(output.elapsed < Duration::from_secs(20), "{output}");
    }
}
