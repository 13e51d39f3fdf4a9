//! How the program ends is how the command ends; arguments of any bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{busybox, text_of, Ground};

#[test]
fn the_exit_status_is_the_programs_own() {
    let ground = Ground::new();
    let image = busybox().display();
    let text = format!(
        "n=0; while [ $n -lt 256 ]; do singularity exec {image} sh -c \"exit $n\"; \
         [ $? = $n ] || echo $n; n=$((n + 3)); done"
    );
    capture(&mut ground.user().shell(&text))
        .succeeded()
        .quietly()
        .wrote("");
    let squashfs = Image::Busybox.file(Form::SquashfsLz4);
    for status in [0, 1, 126, 127, 255] {
        for options in [&[][..], &["-p"]] {
            let output = ground.inside_of(&squashfs, options, &format!("exit {status}"));
            output.exited_with(status).quietly();
        }
    }
}

#[test]
fn death_by_every_signal_is_the_commands_own() {
    let ground = Ground::new();
    for signal in Signal::iterator() {
        if matches!(
            signal,
            Signal::SIGCHLD
                | Signal::SIGCONT
                | Signal::SIGURG
                | Signal::SIGWINCH
                | Signal::SIGSTOP
                | Signal::SIGTSTP
                | Signal::SIGTTIN
                | Signal::SIGTTOU
        ) {
            continue;
        }
        for options in [&[][..], &["-p"]] {
            // ash ignores some signals itself; what it has become does not.
            let number = signal as i32;
            let text = format!("ulimit -c 0; (sleep 0.02; kill -{number} $$) & exec sleep 5");
            let output = ground.inside(options, &text);
            output.was_killed_by(signal).quietly();
        }
    }
    // Real-time signals too.
    for options in [&[][..], &["-p"]] {
        let output = ground.inside(options, "kill -40 $$; sleep 5");
        assert_eq!(output.status.signal(), Some(40), "{output}");
    }
}

#[test]
fn signals_to_the_command_reach_the_program() {
    let ground = Ground::new();
    for options in [&[][..], &["-p"]] {
        let text = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.02; done";
        let mut running = Running::start(&mut ground.command(options, text));
        running.until("ready\n");
        running.signal(Signal::SIGUSR1);
        running
            .wait(LIMIT)
            .exited_with(5)
            .quietly()
            .wrote("ready\ngot\n");
    }
}

#[test]
fn arguments_of_any_bytes_pass_through_also_empty_ones() {
    let ground = Ground::new();
    let every: Vec<u8> = (1..=255).collect();
    let mut arguments: Vec<OsString> = vec!["".into(), OsString::from_vec(every), "".into()];
    arguments
        .extend([" ", "\n", "*", "~", "-", "--", "'", "\"", "\\", "$HOME"].map(OsString::from));
    arguments.push("x".repeat(100_000).into());
    arguments.push("".into());
    let mut expected: Vec<u8> = Vec::new();
    for argument in &arguments {
        expected.extend(argument.clone().into_vec());
        expected.push(0);
    }
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        for options in [&[][..], &["-p"]] {
            let mut command = ground.singularity(["exec"]);
            command.args(options);
            command.args([text_of(image), "sh", "-c", "printf '%s\\0' \"$@\"", "sh"]);
            command.args(&arguments);
            let output = capture(&mut command);
            assert!(output.succeeded().quietly().stdout == expected);
        }
    }
}

#[test]
fn thousands_of_arguments_pass_through() {
    let ground = Ground::new();
    let mut command = ground.singularity(["exec", text_of(busybox()), "sh", "-c", "echo $#", "sh"]);
    command.args((0..50_000).map(|n| n.to_string()));
    capture(&mut command).succeeded().quietly().wrote("50000\n");
}

#[test]
fn argv0_is_what_was_asked_for() {
    let ground = Ground::new();
    let output = ground.run(&["exec", text_of(busybox()), "cat", "/proc/self/cmdline"]);
    output
        .succeeded()
        .quietly()
        .wrote("cat\0/proc/self/cmdline\0");
}
