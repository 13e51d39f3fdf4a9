//! exec, run, shell and test, and images that are executed themselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use test_support::{capture, capture_within, command, Form, Image, LIMIT};

use crate::ground::{busybox, chmod, text_of, Ground};

const SHOW: &str = "#!/bin/sh\nprintf '[%s]' \"$0\" \"$@\"\n";

fn with_scripts(ground: &Ground, scripts: &[&str]) -> PathBuf {
    let image = ground.image_with("image", &[]);
    for script in scripts {
        chmod(&ground.user().file(image.join(script), SHOW), 0o755);
    }
    image
}

#[test]
fn exec_runs_a_command_found_in_the_images_path_or_named_by_a_path() {
    let ground = Ground::new();
    let image = text_of(busybox());
    for program in ["echo", "/bin/echo", "../../bin/echo"] {
        let output = ground.run(&["exec", image, program, "a", "b"]);
        output.succeeded().quietly().wrote("a b\n");
    }
}

#[test]
fn words_after_the_command_are_the_commands_whatever_they_look_like() {
    let ground = Ground::new();
    let image = text_of(busybox());
    for words in [
        &["exec", image, "echo", "--bind", "-c", "--", "--help"][..],
        &["exec", "--", image, "echo", "--bind", "-c", "--", "--help"],
        &["exec", image, "--", "echo", "--bind", "-c", "--", "--help"],
        &[
            "-q", "exec", "-e", image, "echo", "--bind", "-c", "--", "--help",
        ],
    ] {
        let output = ground.run(words);
        output.succeeded().quietly().wrote("--bind -c -- --help\n");
    }
}

#[test]
fn run_executes_the_runscript_with_the_arguments_old_or_new() {
    let ground = Ground::new();
    let image = with_scripts(&ground, &["singularity"]);
    let output = ground.run(&["run", text_of(&image), "a b", "", "-c"]);
    output
        .succeeded()
        .quietly()
        .wrote("[/singularity][a b][][-c]");
    chmod(
        &ground
            .user()
            .file(image.join(".singularity.d/runscript"), SHOW),
        0o755,
    );
    let output = ground.run(&["run", text_of(&image), "--help"]);
    output
        .succeeded()
        .quietly()
        .wrote("[/.singularity.d/runscript][--help]");
}

#[test]
fn run_says_that_an_image_has_no_runscript() {
    let ground = Ground::new();
    let image = text_of(busybox());
    ground.fails(
        &["run", image],
        127,
        &format!(
            "singularity: run {image}: the image has no runscript\n\
             hint: use singularity exec IMAGE COMMAND, or put a script at /singularity in the image\n"
        ),
    );
}

#[test]
fn test_executes_the_images_test_and_gives_its_status() {
    let ground = Ground::new();
    let image = ground.image_with("image", &[]);
    let test = ground
        .user()
        .file(image.join(".test"), "#!/bin/sh\necho $#; exit 3\n");
    chmod(&test, 0o755);
    let output = ground.run(&["test", text_of(&image), "x", "y"]);
    output.exited_with(3).quietly().wrote("2\n");
    let newer = image.join(".singularity.d/test");
    ground.user().file(&newer, "#!/bin/sh\necho newer\n");
    chmod(&newer, 0o755);
    let output = ground.run(&["test", text_of(&image)]);
    output.succeeded().quietly().wrote("newer\n");
}

#[test]
fn test_of_an_image_without_one_succeeds_and_says_so() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let output = ground.run(&["test", image]);
    output
        .succeeded()
        .wrote("")
        .complained(&format!("singularity: warning: {image} has no test\n"));
    let output = ground.run(&["-q", "test", image]);
    output.succeeded().quietly();
}

#[test]
fn shell_reads_its_commands_and_takes_arguments() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let shell =
        |words: &[&str], input: &[u8]| capture_within(LIMIT, &mut ground.singularity(words), input);
    shell(&["shell", image], b"echo $0 $PS1; exit 4")
        .exited_with(4)
        .quietly()
        .wrote("/bin/sh Singularity busybox:\\w>\n");
    shell(&["shell", image, "-c", "echo $1", "sh", "x"], b"")
        .succeeded()
        .quietly()
        .wrote("x\n");
    shell(&["shell", "-s", "/bin/ash", image], b"echo $0")
        .succeeded()
        .quietly()
        .wrote("/bin/ash\n");
    let output = capture_within(
        LIMIT,
        ground
            .singularity(["shell", image])
            .env("SINGULARITY_SHELL", "/bin/../bin/sh"),
        b"echo $0",
    );
    output.succeeded().quietly().wrote("/bin/../bin/sh\n");
}

#[test]
fn shell_is_bash_where_the_image_has_it_without_the_hosts_settings() {
    let ground = Ground::new();
    ground
        .user()
        .file(".bashrc", "echo from the host's bashrc\n");
    let image = ground.image_with("image", &[]);
    let bash = ground.user().file(image.join("bin/bash"), SHOW);
    chmod(&bash, 0o755);
    let output = ground.run(&["shell", text_of(&image), "-l"]);
    output
        .succeeded()
        .quietly()
        .wrote("[/bin/bash][--norc][-l]");
}

#[test]
fn run_singularity_is_another_name_for_singularity_run() {
    let ground = Ground::new();
    let image = with_scripts(&ground, &["singularity"]);
    let link = ground.user().work().join("run-singularity");
    symlink(command(), &link).unwrap();
    let output = capture(ground.user().command(&link).arg(&image).args(["a", "-b"]));
    output.succeeded().quietly().wrote("[/singularity][a][-b]");
    let output = capture(ground.user().command(&link).arg("-e").arg(&image));
    output.succeeded().quietly().wrote("[/singularity]");
}

/// Packs an image with a runscript and puts the line in front, padded to a
/// multiple of `align`.
fn executable(ground: &Ground, form: Form, align: usize) -> PathBuf {
    let image = ground.user().work().join("tree");
    if !image.exists() {
        with_scripts(ground, &["../tree/singularity"]);
        fs::rename(ground.user().work().join("image/bin"), image.join("bin"))
            .expect("a directory can be moved");
        for directory in ["dev", "proc", "sys", "tmp", "etc", "home"] {
            ground.user().directory(image.join(directory));
        }
    }
    let packed = ground.user().work().join(format!("{}.packed", form.name()));
    if !packed.exists() {
        crate::formats::pack(&image, form, &packed);
    }
    let mut content = b"#!/usr/bin/env run-singularity\n".to_vec();
    content.resize(content.len().next_multiple_of(align), 0);
    content.extend(fs::read(&packed).expect("an image can be read"));
    let file = ground
        .user()
        .file(format!("{}.{align}", form.name()), content);
    chmod(&file, 0o755);
    file
}

#[test]
fn an_executable_image_runs_itself_with_its_arguments() {
    let ground = Ground::new();
    ground.user().directory("bin");
    let links = ground.user().work().join("bin");
    symlink(command(), links.join("run-singularity")).unwrap();
    let path = format!("{}:{}", links.display(), test_support::search_path());
    for form in [Form::SquashfsLz4, Form::Ext3, Form::Erofs] {
        for align in [1, 512, 4096] {
            let file = executable(&ground, form, align);
            let output = capture(
                ground
                    .user()
                    .command(&file)
                    .env("PATH", &path)
                    .args(["a b", "--help"]),
            );
            output
                .succeeded()
                .quietly()
                .wrote("[/singularity][a b][--help]");
        }
    }
}

#[test]
fn the_shared_executable_images_are_entered_in_every_form() {
    let ground = Ground::new();
    for form in Form::ALL {
        let image = Image::Busybox.executable(form);
        let output = ground.run(&["exec", text_of(&image), "echo", "in"]);
        output.succeeded().quietly().wrote("in\n");
    }
}

#[test]
fn variables_that_are_empty_or_say_no_count_as_unset() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let names = [
        "BIND",
        "BINDPATH",
        "CLEANENV",
        "CONTAIN",
        "CONTAINALL",
        "DEBUG",
        "DRY_RUN",
        "ENV_FILE",
        "HOME",
        "HOSTNAME",
        "IPC",
        "NET",
        "NO_ENV",
        "NO_HOME",
        "NO_MOUNT",
        "OVERLAY",
        "PID",
        "PWD",
        "QUIET",
        "SCRATCH",
        "SHARE",
        "SHELL",
        "TIMING",
        "UTS",
        "VERBOSE",
        "WORKDIR",
        "WRITABLE",
        "WRITABLE_TMPFS",
    ];
    let variables = names.map(|name| (format!("SINGULARITY_{name}"), ""));
    let mut command = ground.singularity(["shell", image, "-c", "echo in; pwd"]);
    let output = capture(command.envs(variables));
    let expected = format!("in\n{}\n", ground.user().home().display());
    output.succeeded().quietly().wrote(&expected);
    for no in ["0", "no", "false", "off"] {
        let mut command = ground.singularity(["exec", "--writable-tmpfs", image, "touch", "/new"]);
        command.env("SINGULARITY_WRITABLE", no);
        capture(command.env("SINGULARITY_CONTAIN", no))
            .succeeded()
            .quietly();
    }
}

#[test]
fn processes_that_give_the_same_name_share_their_namespaces() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let namespace = |share: &str| {
        let text = "readlink /proc/self/ns/mnt; read x";
        let mut command = ground.singularity(["exec", "--share", share, image, "sh", "-c", text]);
        let mut running = test_support::Running::start(&mut command);
        running.until("\n");
        let mut second = ground.singularity(["exec", image, "readlink", "/proc/self/ns/mnt"]);
        let second = capture(second.env("SINGULARITY_SHARE", share));
        running.write(b"\n");
        let first = running.wait(LIMIT);
        second.succeeded().quietly();
        (first.succeeded().quietly().stdout(), second.stdout())
    };
    let (first, second) = namespace("together");
    assert_eq!(first, second);
    for apart in ["off", "auto"] {
        let (first, second) = namespace(apart);
        assert_ne!(first, second, "{apart}");
    }
}
