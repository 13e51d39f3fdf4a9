//! Builds that are interrupted or killed.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use test_support::{capture, Running, User};

use crate::space_users::{Builder, Who, LIMIT};

/// Keeps busy with files and mounts of its own, until it is ended.
const BUSY: &str = "\
Bootstrap: busybox

%post
    mkdir -p /srv/deep/deeper && chmod 0 /srv/deep
    mount -t tmpfs none /mnt || true
    sh -c 'while :; do touch /srv/more; done' &
    touch /srv/owned && chown 1234:5678 /srv/owned
    while :; do cp /bin/busybox /srv/copy; done
";

/// How long the removal of what a killed build had written may take.
const GRACE: Duration = Duration::from_secs(30);

fn start(builder: &Builder) -> Running {
    Running::start(&mut builder.prepare(&[], "image.sqfs", BUSY))
}

fn work_directories(user: &User) -> Vec<String> {
    let entries = fs::read_dir("/tmp").expect("there is a /tmp");
    entries
        .flatten()
        .filter(|entry| {
            use std::os::unix::fs::MetadataExt;
            let name = entry.file_name();
            name.to_string_lossy().starts_with("singularity-build-")
                && entry.metadata().is_ok_and(|data| data.uid() == user.uid())
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Waits until a build has begun to write.
fn until_begun(user: &User) {
    let end = Instant::now() + LIMIT;
    while work_directories(user).is_empty() {
        assert!(Instant::now() < end, "the build does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_build_that_is_ended_at_any_moment_leaves_nothing() {
    for who in [Who::WithIds, Who::WithoutIds] {
        let builder = Builder::new(who);
        builder.ground.user().file("old.sqfs", "what was there");
        let ends = [
            (Signal::SIGINT, 30),
            (Signal::SIGTERM, 70),
            (Signal::SIGHUP, 150),
            (Signal::SIGKILL, 300),
            (Signal::SIGKILL, 700),
        ];
        for (signal, milliseconds) in ends {
            let running = start(&builder);
            std::thread::sleep(Duration::from_millis(milliseconds));
            if milliseconds > 100 {
                until_begun(builder.ground.user());
            }
            running.signal(signal);
            let output = running.wait(LIMIT);
            output.was_killed_by(signal);
            let told = format!(
                "singularity: stopped: {signal} was received\n\
                 hint: nothing is left of it, and an image that was there is as it was\n"
            );
            // A signal before there is anything to leave ends it at once.
            if signal != Signal::SIGKILL && milliseconds > 100 {
                assert!(output.stderr().ends_with(&told), "{output}");
                // Whoever waited for the end finds all of it done.
                assert_eq!(work_directories(builder.ground.user()), [""; 0]);
            }
            let begun = Instant::now();
            while !work_directories(builder.ground.user()).is_empty() {
                assert!(begun.elapsed() < GRACE, "{who:?}, {signal}: {output}");
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(!builder.path("image.sqfs").exists());
        }
        // The ground sees to mounts, processes and files when it is left.
    }
}

#[test]
fn ctrl_c_reaches_tools_and_builder_alike_and_is_told_once() {
    let builder = Builder::new(Who::WithoutIds);
    let running = start(&builder);
    until_begun(builder.ground.user());
    std::thread::sleep(Duration::from_millis(500));
    killpg(Pid::from_raw(running.pid()), Signal::SIGINT).expect("it runs");
    let output = running.wait(LIMIT);
    output.was_killed_by(Signal::SIGINT);
    let stderr = output.stderr();
    assert_eq!(stderr.matches("hint: ").count(), 1, "{output}");
    assert!(
        stderr.contains("singularity: stopped: SIGINT was received\n"),
        "{output}"
    );
}

#[test]
fn a_build_that_is_stopped_stops_altogether_and_goes_on_later() {
    let builder = Builder::new(Who::WithoutIds);
    let text = "Bootstrap: busybox\n\n%post\n    sleep 2\n    echo there >/srv/file\n";
    let running = Running::start(&mut builder.prepare(&[], "image.sqfs", text));
    until_begun(builder.ground.user());
    std::thread::sleep(Duration::from_millis(300));
    // As Ctrl-Z does.
    let group = Pid::from_raw(running.pid());
    killpg(group, Signal::SIGTSTP).expect("it runs");
    std::thread::sleep(Duration::from_millis(300));
    let mut list = Command::new("ps");
    list.args(["-o", "stat=", "-u", builder.ground.user().name()]);
    let states = capture(&mut list).stdout();
    let stopped = states
        .lines()
        .filter(|state| state.starts_with('T'))
        .count();
    // The process that was started, and the builder.
    assert!(stopped >= 2, "{states}");
    std::thread::sleep(Duration::from_millis(2200));
    assert!(!builder.path("image.sqfs").exists());
    killpg(group, Signal::SIGCONT).expect("it is there");
    running.wait(LIMIT).succeeded();
    assert_eq!(builder.says("image.sqfs", "cat /srv/file"), "there");
}

#[test]
fn a_signal_that_is_to_be_ignored_is() {
    let builder = Builder::new(Who::WithoutIds);
    builder.ground.user().file(
        "image.sqfs.def",
        "Bootstrap: busybox\n\n%post\n    sleep 1\n",
    );
    let mut shell = builder
        .ground
        .user()
        .shell("trap '' HUP; exec singularity build image.sqfs image.sqfs.def");
    let running = Running::start(&mut shell);
    until_begun(builder.ground.user());
    running.signal(Signal::SIGHUP);
    running.wait(LIMIT).succeeded();
    assert!(builder.path("image.sqfs").exists());
}

#[test]
fn what_remains_when_everything_is_killed_the_next_build_removes() {
    let builder = Builder::new(Who::WithIds);
    let user = builder.ground.user();
    let running = start(&builder);
    until_begun(user);
    std::thread::sleep(Duration::from_millis(500));
    // The janitor as well: as when a node's resource manager ends a job.
    user.kill_all();
    drop(running);
    assert_eq!(work_directories(user).len(), 1, "it holds what was built");
    builder
        .build("image.sqfs", "Bootstrap: busybox\n")
        .succeeded();
    assert_eq!(work_directories(user), [""; 0]);
}
