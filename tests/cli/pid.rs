//! `--pid`: a PID namespace with an init of ours.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{capture, Form, Image, Running, LIMIT};

use crate::ground::{busybox, text_of, Ground};

#[test]
fn the_program_is_a_child_of_init_and_sees_only_its_own() {
    let ground = Ground::new();
    for options in [&["-p"][..], &["-C"], &["-p", "-n", "-i"]] {
        ground.says(
            options,
            "echo $$ $PPID; set -- /proc/[0-9]*; echo $#; kill -0 $PPID; true; readlink /proc/self",
            "2 1\n2\n2\n",
        );
    }
    let mut command = ground.command(&[], "echo $PPID");
    command.env("SINGULARITY_PID", "1");
    capture(&mut command).succeeded().quietly().wrote("1\n");
}

#[test]
fn init_reaps_what_is_orphaned() {
    let ground = Ground::new();
    ground.says(
        &["-p"],
        "n=0; while [ $n -lt 50 ]; do (sh -c 'true & true' &); n=$((n + 1)); done; sleep 0.3; \
         grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
        "0\n",
    );
}

#[test]
fn what_the_program_leaves_running_ends_with_it() {
    let ground = Ground::new();
    let begun = Instant::now();
    ground.says(
        &["-p"],
        "sleep 60 >/dev/null 2>&1 & (setsid sleep 60 >/dev/null 2>&1 &); echo end",
        "end\n",
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_program_finds_no_child_of_ours() {
    let ground = Ground::new();
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        let output = ground.run(&[
            "exec",
            "-p",
            text_of(image),
            "cat",
            "/proc/thread-self/children",
        ]);
        output.succeeded().quietly().wrote("");
    }
}

#[test]
fn killing_the_command_takes_the_namespace_down() {
    let ground = Ground::new();
    for image in [busybox(), &Image::Busybox.file(Form::SquashfsLz4)] {
        for options in [&["-p"][..], &["-C"]] {
            let text = "setsid sleep 60 >/dev/null 2>&1 & echo ready; sleep 60";
            let mut running = Running::start(&mut ground.command_in(image, options, text));
            running.until("ready\n");
            running.signal(Signal::SIGKILL);
            running.wait(LIMIT).was_killed_by(Signal::SIGKILL).quietly();
        }
    }
}

#[test]
fn killing_init_takes_the_namespace_down_and_is_told() {
    let ground = Ground::new();
    let mut running = Running::start(&mut ground.command(&["-p"], "echo ready; sleep 60"));
    running.until("ready\n");
    let path = format!("/proc/{0}/task/{0}/children", running.pid());
    let init: i32 = std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), Signal::SIGKILL).unwrap();
    running.wait(LIMIT).was_killed_by(Signal::SIGKILL);
}

#[test]
fn signals_of_every_kind_are_relayed() {
    let ground = Ground::new();
    for number in [1, 2, 3, 10, 12, 14, 15, 23, 28, 34, 40, 64] {
        let text =
            format!("trap 'echo got; exit 9' {number}; echo ready; while :; do sleep 0.02; done");
        let mut running = Running::start(&mut ground.command(&["-p"], &text));
        running.until("ready\n");
        assert!(running.is_running());
        let sent = capture(
            &mut ground
                .user()
                .shell(&format!("kill -{number} {}", running.pid())),
        );
        sent.succeeded();
        running
            .wait(LIMIT)
            .exited_with(9)
            .quietly()
            .wrote("ready\ngot\n");
    }
}

#[test]
fn stopping_and_continuing_the_command_stops_and_continues_the_program() {
    let ground = Ground::new();
    let text = "echo ready; n=0; while [ $n -lt 20 ]; do sleep 0.02; n=$((n + 1)); done; echo end";
    let mut running = Running::start(&mut ground.command(&["-p"], text));
    running.until("ready\n");
    running.signal(Signal::SIGTSTP);
    std::thread::sleep(Duration::from_millis(1000));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
    assert!(stat.contains(") T "), "{stat}");
    running.signal(Signal::SIGCONT);
    let output = running.wait(LIMIT);
    output.succeeded().quietly().wrote("ready\nend\n");
    assert!(output.elapsed > Duration::from_millis(1000), "{output}");
}

#[test]
fn a_missing_command_is_told_as_without_a_namespace() {
    let ground = Ground::new();
    let image = text_of(busybox());
    ground.fails(
        &["exec", "-p", image, "/no/such"],
        127,
        "singularity: execute /no/such: not found in the image\n\
         hint: the path is one of the image's; bind the directory if it is the host's (-B)\n",
    );
    ground.fails(
        &["exec", "-p", "--pwd", "/nowhere", image, "true"],
        255,
        "singularity: start in /nowhere: no such file or directory\n\
         hint: --pwd names a directory of the image, or one that is bound into it\n",
    );
}
