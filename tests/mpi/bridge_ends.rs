//! Jobs over the bridge that end badly: soon, with a status, and leaving nothing.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{Image, Leftovers, Mpi, Output, Running, User};

use crate::bridge::assert_nothing_left;
use crate::ranks::{run, LIMIT};

/// A job must be over this soon after what ended it.
const SOON: Duration = Duration::from_secs(20);

/// Ranks that come up, write a file, and then end as the word says.
const ENDS: &str = r#"
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        fclose(fopen(argv[2], "w"));
    if (rank == 1 && strcmp(argv[1], "abort") == 0)
        MPI_Abort(MPI_COMM_WORLD, 7);
    if (rank == 1 && strcmp(argv[1], "crash") == 0)
        raise(SIGSEGV);
    if (rank == 1 && strcmp(argv[1], "leave") == 0)
        _exit(0);
    if (rank == 1 && strcmp(argv[1], "spawn") == 0) {
        MPI_Comm other;
        MPI_Comm_spawn(argv[0], MPI_ARGV_NULL, 1, MPI_INFO_NULL, 0, MPI_COMM_SELF, &other,
                       MPI_ERRCODES_IGNORE);
    }
    sleep(100);
    return 0;
}
"#;

/// A launcher, and an image whose MPI is another.
struct Pair {
    user: User,
    mpi: Mpi,
    image: PathBuf,
    program: PathBuf,
    up: PathBuf,
}

impl Pair {
    fn new(mpi: Mpi, image: Image) -> Pair {
        let user = User::ordinary();
        let source = user.file("ends.c", ENDS);
        let program = user.work().join("ends");
        let image = image.directory();
        let mut compile = user.singularity();
        compile.arg("exec").arg(&image).args(["mpicc", "-w", "-o"]);
        run(compile.arg(&program).arg(&source)).succeeded();
        let up = user.work().join("up");
        Pair {
            user,
            mpi,
            image,
            program,
            up,
        }
    }

    /// Both directions: Open MPI 4 and 5 under hydra, MPICH under mpirun 4 and 5.
    fn all() -> [Pair; 4] {
        [
            Pair::new(Mpi::mpich(), Image::OpenMpiBookworm),
            Pair::new(Mpi::mpich(), Image::OpenMpiTrixie),
            Pair::new(Mpi::openmpi(), Image::MpichBookworm),
            Pair::new(Mpi::openmpi5(), Image::MpichBookworm),
        ]
    }

    /// Three ranks that have passed MPI_Init.
    fn start(&self, word: &str) -> Running {
        let _ = fs::remove_file(&self.up);
        let mut job = self.mpi.command(&self.user, 3);
        job.arg(test_support::command())
            .arg("exec")
            .arg(&self.image);
        job.arg(&self.program).arg(word).arg(&self.up);
        let mut running = Running::start(&mut job);
        let begun = Instant::now();
        // It may have ended before the file was seen.
        while !self.up.exists() && running.is_running() {
            assert!(begun.elapsed() < LIMIT, "{}", running.wait(SOON));
            std::thread::sleep(Duration::from_millis(5));
        }
        running
    }

    /// Has the job end as `what` does it, and sees that it was soon, not well, and
    /// that nothing is left.
    fn ends(&self, word: &str, what: impl FnOnce(&Running)) -> Output {
        let before = Leftovers::snapshot(&self.user);
        let job = self.start(word);
        let begun = Instant::now();
        what(&job);
        let output = job.wait(LIMIT);
        let name = self.mpi.launcher().display();
        let image = self.image.display();
        assert!(begun.elapsed() < SOON, "{word}, {name}, {image}: {output}");
        assert!(
            !output.status.success(),
            "{word}, {name}, {image}: {output}"
        );
        assert_nothing_left(&before);
        output
    }

    /// Kills one process of the user's by its name.
    fn kill(&self, name: &str) {
        let script = format!("pkill -KILL -o -u {} -x '{name}'", self.user.uid());
        run(&mut self.user.shell(&script)).succeeded();
    }
}

#[test]
fn an_abort_ends_the_job_with_its_status() {
    for pair in Pair::all() {
        pair.ends("abort", |_| ()).exited_with(7);
    }
}

#[test]
fn a_crash_ends_the_job() {
    for pair in Pair::all() {
        pair.ends("crash", |_| ());
    }
}

#[test]
fn a_rank_that_leaves_without_finalize_ends_the_job() {
    for pair in Pair::all() {
        pair.ends("leave", |_| ());
    }
}

#[test]
fn spawning_fails_with_the_mpis_own_error() {
    for pair in Pair::all() {
        let output = pair.ends("spawn", |_| ());
        let said = output.stdout() + &output.stderr();
        assert!(said.contains("pawn"), "{output}");
    }
}

#[test]
fn a_killed_rank_ends_the_job() {
    for pair in Pair::all() {
        pair.ends("wait", |_| pair.kill("ends"));
    }
}

#[test]
fn a_killed_bridge_ends_the_job() {
    for pair in Pair::all() {
        pair.ends("wait", |_| pair.kill("pmi-bridge"));
    }
}

#[test]
fn a_killed_launcher_ends_the_job() {
    for pair in Pair::all() {
        pair.ends("wait", |job| job.signal(Signal::SIGKILL));
    }
}
