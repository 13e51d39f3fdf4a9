//! What is said, and how much: help, usage, `-q -v -d`, `--timing`, `--dry-run`.

use test_support::capture;

use crate::ground::{busybox, text_of, Ground};

const OPTIONS: [&str; 33] = [
    "--bind",
    "--home",
    "--no-home",
    "--workdir",
    "--scratch",
    "--pwd",
    "--contain",
    "--containall",
    "--cleanenv",
    "--env",
    "--env-file",
    "--no-env",
    "--ipc",
    "--pid",
    "--net",
    "--uts",
    "--hostname",
    "--writable",
    "--writable-tmpfs",
    "--overlay",
    "--no-mount",
    "--share",
    "--dry-run",
    "--timing",
    "--quiet",
    "--verbose",
    "--debug",
    "-B",
    "-H",
    "-W",
    "-S",
    "-c",
    "-C",
];

#[test]
fn help_names_every_option_of_every_verb() {
    let ground = Ground::new();
    for verb in ["exec", "run", "shell", "test"] {
        for words in [&["help", verb][..], &[verb, "--help"], &[verb, "-h"]] {
            let output = ground.run(words);
            let text = output.succeeded().quietly().stdout();
            for option in OPTIONS {
                assert!(text.contains(option), "{option} is not in help {verb}");
            }
            assert_eq!(text.contains("--shell"), verb == "shell");
            assert!(text.contains("Exit status:"), "{text}");
        }
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let ground = Ground::new();
    for words in [&["help"][..], &["--help"], &["-h"]] {
        let output = ground.run(words);
        let text = output.succeeded().quietly().stdout();
        for verb in ["exec", "run", "shell", "test", "help"] {
            assert!(text.contains(verb), "{text}");
        }
    }
    for words in [&["--version"][..], &["-V"]] {
        let output = ground.run(words);
        let text = output.succeeded().quietly().stdout();
        let version = concat!("singularity ", env!("CARGO_PKG_VERSION"));
        assert!(text.starts_with(version), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}

#[test]
fn wrong_usage_is_one_line_and_a_hint_with_status_2() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let hint = |verb: &str| match verb {
        "frobnicate" => "hint: singularity help lists the verbs and options\n".to_owned(),
        verb => format!("hint: singularity help {verb} lists the options\n"),
    };
    for (words, complaint) in [
        (
            &["exec", "--bogus", image, "true"][..],
            "unexpected argument '--bogus' found",
        ),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (
            &["exec"],
            "the following required arguments were not provided: <IMAGE> <COMMAND>...",
        ),
        (
            &["run"],
            "the following required arguments were not provided: <IMAGE>...",
        ),
        (
            &["exec", "-w", "--writable-tmpfs", image, "true"],
            "the argument '--writable' cannot be used with '--writable-tmpfs'",
        ),
        (
            &["exec", "--writable-tmpfs", "--overlay", "x", image, "true"],
            "the argument '--writable-tmpfs' cannot be used with '--overlay <DIR>'",
        ),
        (
            &["exec", "--bind"],
            "a value is required for '--bind <SRC[:DEST[:ro|rw]]>' but none was supplied",
        ),
    ] {
        let hint = hint(words[0]);
        ground.fails(words, 2, &format!("singularity: {complaint}\n{hint}"));
    }
    ground.fails(
        &["exec", image],
        2,
        "singularity: exec: the command to run is missing\n\
         hint: singularity exec IMAGE COMMAND [ARGUMENT…]; or singularity run IMAGE for what the \
         image was made for, singularity shell IMAGE for a shell\n",
    );
    let output = ground.run(&[]);
    output.exited_with(2).wrote("");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: singularity"));
}

#[test]
fn success_is_silent_and_verbosity_is_asked_for() {
    let ground = Ground::new();
    let image = text_of(busybox());
    ground.run(&["exec", image, "true"]).succeeded().quietly();
    for words in [
        &["-v", "exec", image, "true"][..],
        &["exec", "-v", image, "true"],
        &["exec", "-vv", image, "true"],
        &["exec", "-d", image, "true"],
        &["--debug", "exec", image, "true"],
    ] {
        let output = ground.run(words);
        let text = String::from_utf8_lossy(&output.succeeded().wrote("").stderr).into_owned();
        assert!(!text.is_empty(), "{output}");
        for line in text.lines() {
            assert!(line.starts_with("singularity: "), "{line}");
        }
    }
    let lines = |option: &str| {
        let output = ground.run(&["exec", option, image, "true"]);
        output.stderr.iter().filter(|&&b| b == b'\n').count()
    };
    assert!(lines("-v") < lines("-d"));
    for (name, value) in [("SINGULARITY_DEBUG", "1"), ("SINGULARITY_VERBOSE", "1")] {
        let output = capture(ground.singularity(["exec", image, "true"]).env(name, value));
        assert!(!output.succeeded().stderr.is_empty(), "{name}");
    }
    let output = capture(
        ground
            .singularity(["exec", image, "true"])
            .env("SINGULARITY_DEBUG", "0"),
    );
    output.succeeded().quietly();
}

#[test]
fn quiet_leaves_out_warnings_but_not_errors() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let words = ["exec", image, "pwd"];
    let mut loud = ground.singularity(words);
    let warned = capture(loud.current_dir("/usr/share"));
    assert!(!warned.succeeded().stderr.is_empty(), "{warned}");
    let quiet = capture(
        ground
            .singularity(["-q"])
            .args(words)
            .current_dir("/usr/share"),
    );
    quiet.succeeded().quietly().wrote(&warned.stdout());
    let quiet = capture(
        ground
            .singularity(words)
            .env("SINGULARITY_QUIET", "1")
            .current_dir("/usr/share"),
    );
    quiet.succeeded().quietly();
    let failed = ground.run(&["-q", "exec", "/no/such/image", "true"]);
    assert!(!failed.exited_with(255).stderr.is_empty());
}

#[test]
fn no_message_shows_a_value_of_the_environment() {
    let ground = Ground::new();
    let output = capture(
        ground
            .singularity([
                "-d",
                "exec",
                "-e",
                "--env",
                "A=sesame1",
                text_of(busybox()),
                "true",
            ])
            .env("SINGULARITYENV_B", "sesame2")
            .env("SECRET", "sesame3")
            .env("OMPI_COMM_WORLD_RANK", "0")
            .env("LD_LIBRARY_PATH", "/sesame4"),
    );
    let text = String::from_utf8_lossy(&output.succeeded().stderr).into_owned();
    assert!(!text.contains("sesame"), "{text}");
}

#[test]
fn timing_prints_a_line_for_each_phase_and_the_sum() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let mut asked = ground.singularity(["exec", image, "echo", "x"]);
    for output in [
        ground.run(&["exec", "--timing", image, "echo", "x"]),
        capture(asked.env("SINGULARITY_TIMING", "1")),
    ] {
        let text = String::from_utf8_lossy(&output.succeeded().wrote("x\n").stderr).into_owned();
        let phases: Vec<_> = text
            .lines()
            .map(|line| {
                let rest = line.strip_prefix("singularity: timing: ").expect(line);
                let words: Vec<_> = rest.split_whitespace().collect();
                let [.., time, "us"] = words[..] else {
                    panic!("{line}");
                };
                assert!(time.parse::<f64>().is_ok_and(|time| time >= 0.0), "{line}");
                words[0].to_owned()
            })
            .collect();
        assert!(phases.len() > 3, "{text}");
        assert_eq!(phases.last().map(String::as_str), Some("total"));
    }
}

#[test]
fn a_dry_run_prints_the_steps_in_order_and_does_none() {
    let ground = Ground::new();
    let image = text_of(busybox());
    let words = [
        "exec",
        "--dry-run",
        "-W",
        "work",
        "-S",
        "/scratch",
        "--hostname",
        "there",
        "--userns",
        "-n",
        "-i",
        "-B",
        "/usr:/mnt:ro",
        "--env",
        "A=sesame",
        image,
        "touch",
        "/tmp/made",
    ];
    let output = ground.run(&words);
    let text = output.succeeded().quietly().stdout();
    for (number, line) in text.lines().enumerate() {
        assert!(line.starts_with(&format!("{:2}  ", number + 1)), "{line}");
    }
    let place = |part: &str| {
        text.find(part)
            .unwrap_or_else(|| panic!("no {part:?} in\n{text}"))
    };
    let order = [
        "new namespaces: mount, user (ids mapped to themselves), ipc, net, uts",
        "host name there",
        "loopback",
        &format!("image {image} (bound directory"),
        "mount /usr on /mnt (nosuid, nodev, read-only",
        "on /scratch",
        "make the image the root",
        "start in",
        "drop all privileges",
        "execute touch /tmp/made",
    ]
    .map(place);
    assert!(order.is_sorted(), "{text}");
    assert!(!text.contains("sesame"), "{text}");
    assert!(!ground.user().work().join("work").exists());
    assert!(!std::path::Path::new("/tmp/made").exists());
}

#[test]
fn a_dry_run_shows_the_other_verbs_too_and_fails_as_the_real_one() {
    let ground = Ground::new();
    let image = text_of(busybox());
    for (words, last) in [
        (
            &["run", "--dry-run", image, "a"][..],
            "execute the runscript a",
        ),
        (&["test", "--dry-run", image], "execute the test"),
        (
            &["shell", "--dry-run", image],
            "execute the shell bash or sh",
        ),
    ] {
        let output = ground.run(words);
        let text = output.succeeded().quietly().stdout();
        assert!(text.trim_end().ends_with(last), "{text}");
    }
    let output = ground.run(&["exec", "--dry-run", "/no/such/image", "true"]);
    output.exited_with(255).wrote("");
}

#[test]
fn output_that_cannot_be_written_is_a_failure_or_a_quiet_end() {
    let ground = Ground::new();
    let image = text_of(busybox());
    for words in [
        format!("singularity help exec | true; singularity exec --dry-run {image} true | true"),
        format!("singularity exec {image} true >&-"),
    ] {
        capture(&mut ground.user().shell(&words))
            .succeeded()
            .quietly();
    }
    let output = capture(&mut ground.user().shell(&format!(
        "singularity exec --dry-run {image} true >/dev/full"
    )));
    output.exited_with(255).complained(
        "singularity: write to standard output: no space left on device\n\
         hint: a file system is full, or your quota (df, quota)\n",
    );
}
