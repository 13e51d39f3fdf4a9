//! The controlling terminal: it is the program's, and job control works.

use std::time::Duration;

use test_support::{capture_within, Form, Image, Output, Running};

use crate::ground::{busybox, text_of, Ground};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs a shell's text on a terminal of its own; what it writes to the terminal
/// is its output, lines ending in CR LF. Keys are typed once this has been written.
fn on_a_terminal(ground: &Ground, text: &str, keys: &[(&str, &[u8])]) -> Output {
    let mut command = ground.user().command("script");
    command.args(["-q", "-e", "-f", "-c", text, "/dev/null"]);
    let mut running = Running::start(&mut command);
    for (sight, bytes) in keys {
        running.until(sight);
        running.write(bytes);
    }
    // `script` leaves the terminal when its input ends, so it has to end first.
    let begun = std::time::Instant::now();
    while running.is_running() && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(5));
    }
    running.wait(LIMIT)
}

fn exec(options: &str, text: &str) -> String {
    format!("singularity exec {options} {} {text}", text_of(busybox()))
}

#[test]
fn the_terminal_is_the_programs() {
    let ground = Ground::new();
    for options in ["", "-c", "-p", "-C"] {
        let text = exec(
            options,
            "sh -c 'test -t 0 && test -t 1 && test -t 2 && echo x >/dev/tty && tty'",
        );
        let output = on_a_terminal(&ground, &text, &[]);
        let text = output.succeeded().stdout();
        assert!(text.starts_with("x\r\n/dev/pts/"), "{options}: {output}");
    }
    let image = Image::Busybox.file(Form::SquashfsLz4);
    let text = format!("singularity exec {} tty", image.display());
    let output = on_a_terminal(&ground, &text, &[]);
    assert!(
        output.succeeded().stdout().starts_with("/dev/pts/"),
        "{output}"
    );
}

#[test]
fn ctrl_c_ends_the_program_and_leaves_nothing() {
    let ground = Ground::new();
    let squashfs = Image::Busybox.file(Form::SquashfsLz4);
    for (options, image) in [
        ("", busybox()),
        ("-p", busybox()),
        ("", &squashfs),
        ("-p", &squashfs),
    ] {
        let text = format!(
            "singularity exec {options} {} sh -c \"echo ready; exec sleep 60\"; echo status $?",
            image.display()
        );
        let text = format!("trap : INT; {text}");
        let output = on_a_terminal(&ground, &text, &[("ready\r\n", b"\x03")]);
        let text = output.succeeded().stdout();
        assert!(text.contains("status 130\r\n"), "{options}: {output}");
    }
}

#[test]
fn ctrl_c_reaches_a_program_once() {
    let ground = Ground::new();
    for options in ["", "-p"] {
        let text = exec(
            options,
            "sh -c 'trap \"echo int\" INT; echo ready; n=0; while [ $n -lt 30 ]; do sleep 0.02; n=$((n + 1)); done; echo end'",
        );
        let output = on_a_terminal(
            &ground,
            &format!("trap : INT; {text}"),
            &[("ready\r\n", b"\x03")],
        );
        let text = output.succeeded().stdout();
        assert_eq!(text.matches("int\r\n").count(), 1, "{options}: {output}");
        assert!(text.ends_with("end\r\n"), "{output}");
    }
}

#[test]
fn ctrl_z_stops_and_fg_continues() {
    let ground = Ground::new();
    for options in ["", "-p"] {
        let program = exec(options, "sh -c 'echo ready; read x; echo got $x'");
        let script = ground.user().file(
            "jobs",
            format!("set -m; {program}; echo stopped $?; fg >/dev/null; echo status $?\n"),
        );
        let output = on_a_terminal(
            &ground,
            &format!("bash {}", script.display()),
            &[("ready\r\n", b"\x1a"), ("stopped 148\r\n", b"hello\n")],
        );
        let text = output.succeeded().stdout();
        for part in [
            "ready\r\n",
            "stopped 148\r\n",
            "got hello\r\n",
            "status 0\r\n",
        ] {
            assert!(text.contains(part), "{options}: no {part:?} in {output}");
        }
    }
}

#[test]
fn a_hang_up_ends_the_program() {
    let ground = Ground::new();
    for options in ["", "-p"] {
        let mut command = ground.user().command("script");
        let text = exec(options, "sh -c 'echo $$; sleep 60'");
        command.args(["-q", "-e", "-f", "-c", &text, "/dev/null"]);
        let mut running = Running::start(&mut command);
        running.until("\n");
        // The terminal goes away with `script`; Ground's end shows what is left.
        running.signal(nix::sys::signal::Signal::SIGKILL);
        running.wait(LIMIT);
    }
}

#[test]
fn an_interactive_shell_has_job_control_and_a_prompt() {
    let ground = Ground::new();
    let text = format!("singularity shell {}", text_of(busybox()));
    let output = on_a_terminal(
        &ground,
        &text,
        &[
            (
                "Singularity busybox:~> ",
                b"sleep 0.01 & wait; echo waited\n",
            ),
            ("waited\r\n", b"jobs; echo in-$((40+2))\n"),
            ("in-42\r\n", b"exit 6\n"),
        ],
    );
    let text = output.exited_with(6).stdout();
    assert!(text.contains("Singularity busybox:~> "), "{output}");
    assert!(text.contains("in-42\r\n"), "{output}");
    assert!(!text.contains("job control"), "{output}");
}

#[test]
fn without_a_terminal_there_is_none_inside() {
    let ground = Ground::new();
    let output = capture_within(
        LIMIT,
        ground.user().command("setsid").args([
            "-w",
            "singularity",
            "exec",
            text_of(busybox()),
            "sh",
            "-c",
            "echo x 2>/dev/null >/dev/tty || echo none",
        ]),
        b"",
    );
    output.succeeded().wrote("none\n");
}
