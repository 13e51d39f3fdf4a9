//! What a step costs in an image and without, for `bench/slurm`. Not a test: it
//! runs only when it is asked for.

use std::path::PathBuf;
use std::time::Duration;

use test_support::{Form, Image, Mpi};

use crate::ground::{image_option, run, Ground};
use crate::Case;

pub const CASES: &[Case] = &[
    ("bench_steps_of_four_tasks", steps),
    ("bench_time_to_the_end_of_mpi_init", mpi_init),
];

/// The contenders: nothing, a directory, two kinds of file.
fn images() -> [(&'static str, Option<PathBuf>); 4] {
    let image = Image::OpenMpiBookworm;
    [
        ("no image", None),
        ("directory", Some(image.directory())),
        ("squashfs", Some(image.file(Form::Squashfs))),
        ("EROFS", Some(image.file(Form::ErofsLz4hc))),
    ]
}

/// Runs each contender once a round, in turn, after a round that does not count;
/// the sorted times of each, in milliseconds.
fn interleaved(rounds: usize, mut once: impl FnMut(usize) -> Duration) -> [Vec<f64>; 4] {
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        for turn in 0..4 {
            let which = (turn + round) % 4;
            let time = once(which).as_secs_f64() * 1e3;
            if round > 0 {
                times[which].push(time);
            }
        }
    }
    for list in &mut times {
        list.sort_by(f64::total_cmp);
    }
    times
}

fn report(what: &str, ranks: usize, times: &[Vec<f64>; 4]) {
    let middle = |list: &[f64], part: usize| list[(list.len() - 1) * part / 4];
    let host = middle(&times[0], 2);
    for ((name, _), list) in images().iter().zip(times) {
        let median = middle(list, 2);
        println!(
            "{what:<24} {ranks:>3} ranks  {name:<10} {median:>8.2} ms (quartiles {:.2}-{:.2}), {:+.3} ms a rank",
            middle(list, 1),
            middle(list, 3),
            (median - host) / ranks as f64
        );
    }
}

fn rounds() -> usize {
    let chosen = std::env::var("ROUNDS").ok();
    chosen.and_then(|text| text.parse().ok()).unwrap_or(41)
}

fn steps(ground: &Ground) {
    // One allocation for all: what is measured is the step, not the queue.
    for (what, mpi) in [("srun /bin/true", "none"), ("srun --mpi=pmix true", "pmix")] {
        let times = interleaved(rounds(), |which| {
            let mut srun = ground.cluster.command(&ground.user, "srun");
            srun.args(["--quiet", "-w", "c1", "-n4", "--overcommit"])
                .arg(format!("--mpi={mpi}"))
                .args(images()[which].1.as_deref().map(image_option))
                .arg("/bin/true");
            let output = run(&mut srun);
            output.succeeded();
            output.elapsed
        });
        report(what, 4, &times);
    }
}

fn mpi_init(ground: &Ground) {
    let host = ground.cluster.shared().join("ring");
    std::fs::copy(Mpi::openmpi().ring(), &host).expect("the ring can be copied");
    for ranks in [2, 8, 32] {
        let rounds = (rounds() / if ranks == 32 { 8 } else { 4 }).max(3);
        let times = interleaved(rounds, |which| {
            let image = images()[which].1.as_deref().map(image_option);
            let mut srun = ground.cluster.command(&ground.user, "srun");
            srun.args(["--quiet", "-w", "c1", "--overcommit", "--mpi=pmix"])
                .arg(format!("-n{ranks}"))
                .args(&image);
            match image {
                None => srun.arg(&host),
                Some(_) => srun.arg("ring"),
            };
            let output = run(srun.args(["--laps", "1"]));
            output.succeeded();
            output.elapsed
        });
        report("srun --mpi=pmix ring", ranks, &times);
    }
}
