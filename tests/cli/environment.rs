//! The environment inside: what comes along, what is set, what wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::Command;

use test_support::{capture, Form, Image};

use crate::ground::{busybox, chmod, text_of, Ground};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program finds in its environment, exactly.
fn variables(command: &mut Command) -> BTreeMap<String, String> {
    let output = capture(command);
    let text = output.succeeded().quietly().stdout();
    text.split_terminator('\0')
        .map(|pair| {
            let (name, value) = pair.split_once('=').expect(pair);
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn environ(ground: &Ground, options: &[&str]) -> Command {
    let mut command = ground.singularity(["exec"]);
    command.args(options).arg(busybox());
    command.args(["cat", "/proc/self/environ"]);
    command
}

#[test]
fn the_hosts_environment_comes_along_but_for_the_path() {
    let ground = Ground::new();
    let mut command = environ(&ground, &[]);
    command.env("A", "1").env("EMPTY", "").env("LINES", "a\nb");
    let inside = variables(&mut command);
    let mut expected: BTreeMap<String, String> = ground
        .user()
        .environment()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for (name, value) in [
        ("A", "1"),
        ("EMPTY", ""),
        ("LINES", "a\nb"),
        ("PATH", PATH),
        ("SINGULARITY_CONTAINER", text_of(busybox())),
        ("SINGULARITY_NAME", "busybox"),
    ] {
        expected.insert(name.into(), value.into());
    }
    assert_eq!(inside, expected);
}

#[test]
fn the_image_is_named_inside_by_its_absolute_path() {
    let ground = Ground::new();
    let image = Image::Busybox.file_for(ground.user(), Form::SquashfsLz4);
    let file = image.file_name().unwrap().to_str().unwrap();
    let mut command = ground.singularity(["exec", file, "sh", "-c"]);
    command
        .arg("echo $SINGULARITY_CONTAINER $SINGULARITY_NAME")
        .current_dir(image.parent().unwrap());
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote(&format!("{} {file}\n", image.display()));
}

#[test]
fn cleanenv_keeps_few_variables() {
    let ground = Ground::new();
    for (options, variable) in [
        (&["-e"][..], ""),
        (&["-C"], ""),
        (&[], "SINGULARITY_CLEANENV"),
    ] {
        let mut command = environ(&ground, options);
        command
            .env("SECRET", "x")
            .env("TERM", "dumb")
            .env("LD_PRELOAD_X", "y");
        if !variable.is_empty() {
            command.env(variable, "yes");
        }
        let inside = variables(&mut command);
        assert_eq!(inside.get("SECRET"), None);
        assert_eq!(inside.get("LD_PRELOAD_X"), None);
        let home = ground.user().home().display().to_string();
        for (name, value) in [
            ("HOME", home.as_str()),
            ("USER", ground.user().name()),
            ("TERM", "dumb"),
            ("PATH", PATH),
            ("LC_ALL", "C.UTF-8"),
            ("SINGULARITY_NAME", "busybox"),
        ] {
            assert_eq!(inside.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
}

#[test]
fn cleanenv_keeps_what_a_launcher_needs() {
    let ground = Ground::new();
    for options in [&["-e"][..], &["-C"]] {
        let mut command = environ(&ground, options);
        command
            .env("PMIX_RANK", "0")
            .env("PMIX_NAMESPACE", "1.2")
            .env("PMIX_SERVER_URI2", "1.0;tcp4://127.0.0.1:1")
            .env("OMPI_COMM_WORLD_RANK", "0")
            .env("OMPI_COMM_WORLD_SIZE", "1")
            .env("OMPI_MCA_btl", "self");
        let inside = variables(&mut command);
        for name in [
            "PMIX_RANK",
            "PMIX_NAMESPACE",
            "OMPI_COMM_WORLD_RANK",
            "OMPI_MCA_btl",
        ] {
            assert!(inside.contains_key(name), "{name} is gone with {options:?}");
        }
    }
}

#[test]
fn variables_are_set_by_option_file_and_prefix() {
    let ground = Ground::new();
    ground.user().file(
        "vars",
        "# a comment\n\nFILE=from file\nexport QUOTED=\"a b\"\nBOTH=file\nTHREE=file\n",
    );
    let text = "echo $OPTION,$FILE,$QUOTED,$BOTH,$PREFIX,$THREE,$A";
    let mut command = ground.command(
        &[
            "--env-file",
            "vars",
            "--env",
            "OPTION=x=y z",
            "--env",
            "BOTH=option",
            "-e",
            "--env",
            "A=$B`c`",
        ],
        text,
    );
    command
        .env("SINGULARITYENV_PREFIX", "prefix")
        .env("SINGULARITYENV_THREE", "prefix")
        .env("OPTION", "host");
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote("x=y z,from file,a b,option,prefix,file,$B`c`\n");
    let mut command = ground.command(&[], "echo $FILE");
    command.env("SINGULARITY_ENV_FILE", "vars");
    capture(&mut command)
        .succeeded()
        .quietly()
        .wrote("from file\n");
}

#[test]
fn variables_that_are_wrongly_written_are_named() {
    let ground = Ground::new();
    ground.user().file("vars", "A=1\nnonsense\n");
    let image = text_of(busybox());
    for (words, complaint) in [
        (["--env", "A"], "--env A: there is no =\nhint: write --env NAME=VALUE\n"),
        (["--env", "=1"], "--env =1: the name is empty\nhint: write --env NAME=VALUE\n"),
        (
            ["--env-file", "vars"],
            "read environment file vars, line 2: there is no =\nhint: write NAME=VALUE, one a line\n",
        ),
        (
            ["--env-file", "nowhere"],
            "read environment file nowhere: no such file or directory\n\
             hint: name a file with one NAME=VALUE a line\n",
        ),
        (
            ["--env-file", "/"],
            "read environment file /: is a directory\nhint: name a file with one NAME=VALUE a line\n",
        ),
    ] {
        ground.fails(
            &["exec", words[0], words[1], image, "true"],
            255,
            &format!("singularity: {complaint}"),
        );
    }
}

#[test]
fn the_path_can_be_replaced_or_extended() {
    let ground = Ground::new();
    for (name, value, expected) in [
        ("SINGULARITYENV_PATH", "/bin:/x", "/bin:/x".to_owned()),
        ("SINGULARITYENV_PREPEND_PATH", "/x", format!("/x:{PATH}")),
        ("SINGULARITYENV_APPEND_PATH", "/x", format!("{PATH}:/x")),
    ] {
        let mut command = ground.command(&[], "echo $PATH");
        command.env(name, value);
        capture(&mut command)
            .succeeded()
            .quietly()
            .wrote(&format!("{expected}\n"));
    }
    ground.says(&["--env", "PATH=/bin"], "echo $PATH", "/bin\n");
    let tools = ground.user().file("tools/tool", "#!/bin/sh\necho found\n");
    chmod(&tools, 0o755);
    let path = format!("PATH=/nowhere::{}:/bin", tools.parent().unwrap().display());
    ground
        .run(&["exec", "--env", &path, text_of(busybox()), "tool"])
        .succeeded()
        .quietly()
        .wrote("found\n");
}

#[test]
fn names_and_values_of_any_bytes_pass_through() {
    let ground = Ground::new();
    let odd = OsString::from_vec(b"\xff\xfe \n'\"\\$x\x01".to_vec());
    for name in ["a-b", "1st", "with space", "BASH_FUNC_f%%", "x.y", "."] {
        let mut command = environ(&ground, &[]);
        command.env(name, &odd);
        let output = capture(&mut command);
        let mut wanted = format!("{name}=").into_bytes();
        wanted.extend(b"\xff\xfe \n'\"\\$x\x01");
        let found = output.succeeded().quietly().stdout.clone();
        assert!(
            found.split(|&b| b == 0).any(|pair| pair == wanted),
            "{name}"
        );
    }
}

fn scripted(ground: &Ground, newer: bool) -> PathBuf {
    let image = ground.image_with("image", &["bin/env -> busybox"]);
    if newer {
        for (name, text) in [
            ("10-first.sh", "FIRST=image; export FIRST; ORDER=10"),
            (
                "90-last.sh",
                "ORDER=$ORDER-90; export ORDER; HOST=image; export HOST",
            ),
            ("README", "exit 9"),
        ] {
            ground
                .user()
                .file(image.join(".singularity.d/env").join(name), text);
        }
    } else {
        ground.user().file(
            image.join("environment"),
            "FIRST=image; export FIRST ORDER=10-90 HOST=image PATH=$PATH:/image\n",
        );
    }
    image
}

#[test]
fn the_images_scripts_are_read_in_order_and_the_users_word_is_last() {
    for newer in [false, true] {
        let ground = Ground::new();
        let image = scripted(&ground, newer);
        let text = "echo $FIRST $ORDER $HOST $USERS";
        let run = |options: &[&str], names: &[&str]| {
            let mut command = ground.command_in(&image, options, text);
            command.envs(names.iter().map(|name| (*name, "user")));
            capture(&mut command)
        };
        let all = run(&[], &["HOST", "USERS"]);
        all.succeeded().quietly().wrote("image 10-90 image user\n");
        let all = run(
            &["--env", "FIRST=it's \"mine\" $x"],
            &["SINGULARITYENV_HOST"],
        );
        all.succeeded()
            .quietly()
            .wrote("it's \"mine\" $x 10-90 user\n");
        let all = run(&["--no-env"], &["HOST"]);
        all.succeeded().quietly().wrote("user\n");
        let all = run(&[], &["HOST", "SINGULARITY_NO_ENV"]);
        all.succeeded().quietly().wrote("user\n");
        let all = run(&["-e"], &["HOST", "USERS"]);
        all.succeeded().quietly().wrote("image 10-90 image\n");
    }
}

#[test]
fn the_users_search_path_goes_around_what_the_images_scripts_make_of_it() {
    let ground = Ground::new();
    let image = ground.image_with("image", &["bin/env -> busybox"]);
    let script = image.join(".singularity.d/env/10-base.sh");
    let (before, after) = ("/it's $mine", "/a b:/c");
    for (text, expected) in [
        (
            "export PATH=/opt/bin:/bin",
            "/it's $mine:/opt/bin:/bin:/a b:/c".to_owned(),
        ),
        ("export PATH=$PATH", format!("/it's $mine:{PATH}:/a b:/c")),
        ("PATH=", "/it's $mine:/a b:/c".to_owned()),
    ] {
        ground.user().file(&script, text);
        let mut command = ground.command_in(
            &image,
            &[],
            "echo \"$PATH\"; /bin/busybox env | /bin/busybox grep -c SET_",
        );
        command.env("SINGULARITYENV_PREPEND_PATH", before);
        command.env("SINGULARITYENV_APPEND_PATH", after);
        let output = capture(&mut command);
        assert_eq!(output.stdout(), format!("{expected}\n0\n"), "{text}");
        command.env("SINGULARITYENV_PATH", "/bin:/mine");
        capture(&mut command).wrote("/bin:/mine\n0\n");
    }
}

#[test]
fn odd_variables_pass_through_the_images_scripts_too() {
    let ground = Ground::new();
    let image = scripted(&ground, true);
    let mut command = ground.singularity(["exec"]);
    command.arg(&image).args(["cat", "/proc/self/environ"]);
    command
        .env("a-b", "odd \n value")
        .env("SINGULARITYENV_c.d", "set")
        .env("LINES_", "a\nb'c");
    let inside = variables(&mut command);
    for (name, value) in [
        ("a-b", "odd \n value"),
        ("c.d", "set"),
        ("LINES_", "a\nb'c"),
        ("ORDER", "10-90"),
    ] {
        assert_eq!(inside.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn arguments_and_status_pass_through_the_images_scripts() {
    let ground = Ground::new();
    let image = scripted(&ground, true);
    let output = capture(ground.singularity(["exec"]).arg(&image).args([
        "sh",
        "-c",
        "printf '[%s]' \"$@\"; exit 7",
        "sh",
        "",
        "a b",
        "-e",
        "$x",
    ]));
    output.exited_with(7).quietly().wrote("[][a b][-e][$x]");
}

#[test]
fn a_command_that_is_missing_is_told_alike_with_scripts_in_the_image() {
    let ground = Ground::new();
    let image = scripted(&ground, true);
    ground.user().file(image.join("plain"), "x");
    for (program, status, complaint) in [
        (
            "nosuch",
            127,
            format!(
                "execute nosuch: not found in the image\n\
                 hint: PATH inside is {PATH}; name a command of the image, or give its path\n"
            ),
        ),
        (
            "/bin/nosuch",
            127,
            "execute /bin/nosuch: not found in the image\n\
             hint: the path is one of the image's; bind the directory if it is the host's (-B)\n"
                .into(),
        ),
        (
            "/plain",
            126,
            "execute /plain: it is not executable\nhint: chmod +x it, or name its interpreter\n"
                .into(),
        ),
    ] {
        ground.fails(
            &["exec", text_of(&image), program, "x"],
            status,
            &format!("singularity: {complaint}"),
        );
    }
}

#[test]
fn a_script_that_fails_or_prints_is_the_images_affair() {
    let ground = Ground::new();
    let image = ground.image_with("image", &[]);
    ground.user().file(
        image.join("environment"),
        "false\nset -- changed\nA=1\nexport A\n",
    );
    let output = capture(ground.singularity(["exec"]).arg(&image).args([
        "sh",
        "-c",
        "echo $A $1",
        "sh",
        "kept",
    ]));
    output.succeeded().quietly().wrote("1 kept\n");
}

#[test]
fn scripts_without_a_shell_in_the_image_are_told_in_one_line() {
    let ground = Ground::new();
    let image = ground.image_with("image", &["environment=A=1"]);
    std::fs::remove_file(image.join("bin/sh")).unwrap();
    let output = ground.run(&["exec", text_of(&image), "echo", "x"]);
    output.succeeded().wrote("x\n").complained(
        "singularity: warning: the image has environment scripts but no /bin/sh to read them\n",
    );
}
