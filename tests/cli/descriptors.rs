//! Inherited descriptors, standard streams, pipes.

use std::process::Command;

use test_support::{capture, capture_within, Form, Image, LIMIT};

use crate::ground::{busybox, text_of, Ground};

fn images() -> [(&'static str, std::path::PathBuf); 2] {
    [
        ("directory", busybox().to_owned()),
        ("squashfs", Image::Busybox.file(Form::SquashfsLz4)),
    ]
}

#[test]
fn standard_streams_are_the_programs() {
    let ground = Ground::new();
    for (_, image) in images() {
        let mut command = ground.command_in(&image, &[], "cat; echo err >&2");
        let output = capture_within(LIMIT, &mut command, b"any\0bytes\xff\n");
        output.succeeded().complained("err\n");
        assert_eq!(output.stdout, b"any\0bytes\xff\n");
    }
}

/// The open descriptors of a program and what they are, started by a shell that
/// has run `setup`.
fn open_after(ground: &Ground, setup: &str, image: &str) -> (String, String) {
    let run = |command: &str| {
        let mut shell = ground.user().command("bash");
        let text = format!("{setup}\nexec {command} sh -c 'ls -l /proc/$$/fd >list; :'");
        capture(shell.args(["-c", &text])).succeeded().quietly();
        let list = std::fs::read_to_string(ground.user().work().join("list"))
            .expect("the program listed its descriptors");
        // "lrwx------ 1 user group 64 Nov 24 02:13 0 -> pipe:[4711]"
        list.lines()
            .filter_map(|line| line.split_once(" -> "))
            .map(|(line, target)| {
                let number = line.rsplit(' ').next().unwrap_or_default();
                let target = target.split(":[").next().unwrap_or_default();
                format!("{number} {target}\n")
            })
            .collect::<String>()
    };
    let host = run(&format!("{}/bin/busybox", busybox().display()));
    let inside = run(&format!("singularity exec {image}"));
    assert!(host.lines().count() >= 3, "{host}");
    (host, inside)
}

#[test]
fn every_inherited_descriptor_stays_open_and_none_is_added() {
    let ground = Ground::new();
    for (_, image) in images() {
        for setup in [
            "true",
            "exec 7</etc/hosts 9>file 33<>other 200</dev/null",
            "exec 3</etc/hosts 4</etc/issue 5</etc/profile",
            "exec 1000</etc/hosts",
        ] {
            let (host, inside) = open_after(&ground, setup, text_of(&image));
            assert_eq!(host, inside, "{setup}");
        }
    }
}

#[test]
fn an_inherited_descriptor_can_be_read_written_and_keeps_its_offset() {
    let ground = Ground::new();
    ground.user().file("in", "one\ntwo\n");
    let text = format!(
        "exec 7<in 63>out; read x <&7; singularity exec {} sh -c 'cat <&7; echo written >&63'; cat out",
        busybox().display()
    );
    let mut shell = ground.user().command("bash");
    shell.args(["-c", &text]);
    capture(&mut shell)
        .succeeded()
        .quietly()
        .wrote("two\nwritten\n");
}

#[test]
fn closed_standard_descriptors_stay_closed() {
    let ground = Ground::new();
    for (_, image) in images() {
        let image = text_of(&image);
        for (closing, number) in [("<&-", 0), (">&-", 1), ("2>&-", 2)] {
            let text = format!(
                "singularity exec {image} sh -c 'test -e /proc/$$/fd/{number}; echo $? >result' {closing}"
            );
            capture(&mut ground.user().shell(&text)).succeeded();
            let result = std::fs::read_to_string(ground.user().work().join("result")).unwrap();
            assert_eq!(result, "1\n", "{closing} of {image}");
        }
        let text = format!("singularity exec {image} sh -c 'ls /proc/$$/fd >result' <&- >&- 2>&-");
        capture(&mut ground.user().shell(&text)).succeeded();
        let text = "singularity exec /no/such/image true <&- >&- 2>&-; echo $?";
        capture(&mut ground.user().shell(text)).wrote("255\n");
    }
}

#[test]
fn thousands_of_inherited_descriptors_are_kept() {
    let ground = Ground::new();
    let script = "import os, resource, sys\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 8192))\n\
        fd = os.open('/dev/null', os.O_RDONLY)\n\
        for n in range(10, 4000): os.dup2(fd, n)\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    for (_, image) in images() {
        let mut command = ground.user().command("/usr/bin/python3");
        command
            .args(["-c", script])
            .arg(test_support::command())
            .args([
                "exec",
                text_of(&image),
                "sh",
                "-c",
                "set -- /proc/$$/fd/*; echo $#; ulimit -n; ulimit -Hn",
            ]);
        let output = capture(&mut command);
        let text = output.succeeded().quietly().stdout();
        let numbers: Vec<u32> = text
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(numbers[0] >= 3990, "{numbers:?}");
        assert_eq!(numbers[1..], [4096, 8192]);
    }
}

#[test]
fn a_table_of_descriptors_that_is_full_is_told_in_one_line() {
    let ground = Ground::new();
    let script = "import os, resource, sys\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n\
        fd = os.open('/dev/null', os.O_RDONLY)\n\
        for n in range(3, 1024):\n    n == fd or os.dup2(fd, n)\n\
        os.set_inheritable(fd, True)\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    for (_, image) in images() {
        let mut command = ground.user().command("/usr/bin/python3");
        command
            .args(["-c", script])
            .arg(test_support::command())
            .args(["exec", text_of(&image), "true"]);
        let output = capture(&mut command);
        let text = String::from_utf8_lossy(&output.exited_with(255).stderr).into_owned();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{output}");
        assert!(lines[0].ends_with("too many open files"), "{output}");
        assert_eq!(
            lines[1],
            "hint: too many descriptors are open already: close some, or raise the hard limit (ulimit -Hn)"
        );
    }
}

#[test]
fn a_producer_gets_sigpipe_when_its_reader_has_gone() {
    let ground = Ground::new();
    for (_, image) in images() {
        let text = format!(
            "set -o pipefail; singularity exec {} yes | head -n1; echo ${{PIPESTATUS[0]}}",
            text_of(&image)
        );
        let mut shell = ground.user().command("bash");
        shell.args(["-c", &text]);
        capture(&mut shell).quietly().wrote("y\n141\n");
    }
}

#[test]
fn a_reader_sees_the_end_when_the_program_ends() {
    let ground = Ground::new();
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext4] {
        // `capture` fails if anybody holds the pipe after the program's end; here
        // the pipe is one that a server could have inherited at another number.
        let text = format!(
            "{{ singularity exec {} true 9>&1 | cat; }} 8>&1; echo end",
            Image::Busybox.file(form).display()
        );
        let output = capture_within(
            LIMIT,
            ground.user().command("bash").args(["-c", &text]),
            b"",
        );
        output.succeeded().quietly().wrote("end\n");
    }
}

#[test]
fn a_deleted_or_odd_standard_input_does_no_harm() {
    let ground = Ground::new();
    let image = text_of(busybox());
    for redirection in [
        "</",
        "<>/dev/null",
        "</dev/zero",
        ">/dev/full 2>/dev/null",
        "<$(mktemp -u) 3<&-",
    ] {
        let text = format!("singularity exec {image} true {redirection}; :");
        let mut shell = ground.user().command("bash");
        capture(shell.args(["-c", &text])).exited_with(0);
    }
}

#[test]
fn the_program_finds_no_child_that_it_did_not_make() {
    let ground = Ground::new();
    for form in [Form::SquashfsLz4, Form::Erofs, Form::Ext4] {
        let image = Image::Busybox.file(form);
        let output = ground.run(&["exec", text_of(&image), "cat", "/proc/thread-self/children"]);
        output.succeeded().quietly().wrote("");
    }
}

#[test]
fn the_program_has_the_pid_of_the_command() {
    let ground = Ground::new();
    for (_, image) in images() {
        let mut command: Command = ground.user().command("sh");
        command.args(["-c", "echo $$; exec \"$@\"", "sh"]);
        command.arg(test_support::command());
        command.args(["exec", text_of(&image), "sh", "-c", "echo $$ $PPID"]);
        let output = capture(&mut command);
        let text = output.succeeded().quietly().stdout();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(format!("{} {}", lines[0], std::process::id()), lines[1]);
    }
}
