//! The command killed at any moment leaves nothing, and the next one starts.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{Form, Image, Running, LIMIT};

use crate::ground::{busybox, Ground};

/// A generator of numbers that are the same in every run.
struct Sequence(u64);

impl Sequence {
    fn next_below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX constants.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Kills the command this often, at moments spread over the time that a start
/// and its program take.
fn kill_often(times: u64, image: &std::path::Path, options: &[&str]) {
    let ground = Ground::new();
    let begun = Instant::now();
    ground
        .inside_of(image, options, "true")
        .succeeded()
        .quietly();
    let whole = begun.elapsed().as_micros() as u64;
    let mut sequence = Sequence(times ^ 0x5eed);
    for _ in 0..times {
        let delay = Duration::from_micros(sequence.next_below(whole * 5 / 4));
        let running = Running::start(&mut ground.command_in(image, options, "sleep 60"));
        std::thread::sleep(delay);
        running.signal(Signal::SIGKILL);
        let output = running.wait(LIMIT);
        output.was_killed_by(Signal::SIGKILL).quietly();
    }
    ground
        .inside_of(image, options, "true")
        .succeeded()
        .quietly();
}

#[test]
fn a_directory_image_killed_two_hundred_times_leaves_nothing() {
    kill_often(200, busybox(), &[]);
}

#[test]
fn a_squashfs_image_killed_two_hundred_times_leaves_nothing() {
    kill_often(200, &Image::Busybox.file(Form::SquashfsLz4), &[]);
}

#[test]
fn an_ext_image_killed_at_any_moment_leaves_nothing() {
    kill_often(100, &Image::Busybox.file(Form::Ext3), &[]);
}

#[test]
fn an_erofs_image_killed_at_any_moment_leaves_nothing() {
    kill_often(100, &Image::Busybox.file(Form::Erofs), &[]);
}

#[test]
fn a_pid_namespace_killed_at_any_moment_leaves_nothing() {
    kill_often(100, busybox(), &["-C"]);
    kill_often(
        50,
        &Image::Busybox.file(Form::SquashfsLz4),
        &["-p", "--writable-tmpfs"],
    );
}
