//! Signal dispositions and masks pass through unchanged.

use nix::libc;
use nix::sys::signal::{sigaction, sigprocmask, SaFlags, SigAction, SigHandler, SigSet};
use nix::sys::signal::{SigmaskHow, Signal};
use test_support::{capture, Form, Image};

use crate::ground::{before_exec, busybox, field, text_of, Ground};

fn ignore(signal: Signal) -> nix::Result<()> {
    let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { sigaction(signal, &ignored) }.map(drop)
}

/// What a program would find: ignored, blocked and caught signals.
fn tables(status: &str) -> [String; 5] {
    ["SigIgn", "SigBlk", "SigCgt", "SigPnd", "ShdPnd"].map(|name| field(status, name).to_owned())
}

fn same_inside(prepare: impl Fn() -> nix::Result<()> + Clone + Send + Sync + 'static) {
    let ground = Ground::new();
    let mut own = ground.user().command(busybox().join("bin/busybox"));
    own.args(["cat", "/proc/self/status"]);
    before_exec(&mut own, prepare.clone());
    let expected = tables(&capture(&mut own).succeeded().stdout());
    for image in [
        busybox(),
        &Image::Busybox.file(Form::SquashfsLz4),
        &Image::Busybox.file(Form::Ext3),
    ] {
        for options in [&[][..], &["-p"], &["-C", "-n"]] {
            let mut command = ground.singularity(["exec"]);
            command.args(options);
            command.args([text_of(image), "cat", "/proc/self/status"]);
            before_exec(&mut command, prepare.clone());
            let output = capture(&mut command);
            let found = tables(&output.succeeded().quietly().stdout());
            assert_eq!(found, expected, "{options:?} {}", image.display());
        }
    }
}

#[test]
fn default_dispositions_stay_default() {
    same_inside(|| Ok(()));
}

#[test]
fn every_ignored_signal_stays_ignored() {
    same_inside(|| {
        Signal::iterator()
            .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
            .try_for_each(ignore)
    });
}

#[test]
fn ignored_pipe_and_child_signals_stay_ignored() {
    same_inside(|| ignore(Signal::SIGPIPE));
    same_inside(|| ignore(Signal::SIGCHLD));
}

#[test]
fn a_mask_of_every_signal_stays_and_nothing_gets_pending() {
    same_inside(|| sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None));
    same_inside(|| {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGUSR1);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)
    });
}

#[test]
fn a_signal_that_is_pending_already_stays_so() {
    let ground = Ground::new();
    let mut command = ground.singularity(["exec", text_of(busybox()), "cat", "/proc/self/status"]);
    before_exec(&mut command, || {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGUSR2);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGUSR2)
    });
    let output = capture(&mut command);
    let status = output.succeeded().quietly().stdout();
    let bit = 1_u64 << (libc::SIGUSR2 - 1);
    assert_eq!(field(&status, "ShdPnd"), format!("{bit:016x}"));
}

#[test]
fn session_group_and_parent_death_signal_are_the_callers() {
    let ground = Ground::new();
    let text = "cut -d' ' -f 4-6 /proc/$$/stat";
    for options in [&[][..], &["-c"]] {
        let mut command = ground.user().command("sh");
        command.args(["-c", &format!("{}; exec \"$@\"", text), "sh"]);
        command
            .arg(test_support::command())
            .arg("exec")
            .args(options);
        command.args([text_of(busybox()), "sh", "-c", text]);
        let output = capture(&mut command);
        let found = output.succeeded().quietly().stdout();
        let lines: Vec<_> = found.lines().collect();
        assert_eq!(lines[0], lines[1]);
    }
}
