//! Jobs over the bridge that end badly: soon, with a status, and leaving nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_support::{Hosts, Image, Leftovers, Mpi, Output, Running, User};

use crate::bridge::assert_nothing_left;
use crate::ranks::{run, LIMIT};

/// A job must be over this soon after what ended it.
const SOON: Duration = Duration::from_secs(40);

/// Ranks that come up, write a file, and then end as the word says.
const ENDS: &str = r#"
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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
    if (rank == 1 && strncmp(argv[1], "leave", 5) == 0)
        _exit(atoi(argv[1] + 5));
    MPI_Comm other;
    char port[MPI_MAX_PORT_NAME] = "";
    if (rank == 1 && strcmp(argv[1], "spawn") == 0)
        MPI_Comm_spawn(argv[0], MPI_ARGV_NULL, 1, MPI_INFO_NULL, 0, MPI_COMM_SELF, &other,
                       MPI_ERRCODES_IGNORE);
    if (strcmp(argv[1], "spawn together") == 0)
        MPI_Comm_spawn(argv[0], MPI_ARGV_NULL, 2, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &other,
                       MPI_ERRCODES_IGNORE);
    if (rank == 1 && strcmp(argv[1], "publish") == 0)
        MPI_Publish_name("name", MPI_INFO_NULL, "port");
    if (rank == 1 && strcmp(argv[1], "look up") == 0)
        MPI_Lookup_name("name", MPI_INFO_NULL, port);
    if (strcmp(argv[1], "connect") == 0) {
        if (rank == 0)
            MPI_Open_port(MPI_INFO_NULL, port);
        MPI_Bcast(port, sizeof port, MPI_CHAR, 0, MPI_COMM_WORLD);
        if (rank == 0)
            MPI_Comm_accept(port, MPI_INFO_NULL, 0, MPI_COMM_SELF, &other);
        if (rank == 1)
            MPI_Comm_connect(port, MPI_INFO_NULL, 0, MPI_COMM_SELF, &other);
    }
#if OMPI_MAJOR_VERSION >= 5
    if (strcmp(argv[1], "group") == 0) {
        MPI_Group all;
        MPI_Comm_group(MPI_COMM_WORLD, &all);
        if (MPI_Comm_create_from_group(all, "tag", MPI_INFO_NULL, MPI_ERRORS_RETURN, &other))
            MPI_Abort(MPI_COMM_WORLD, 3);
    }
#endif
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
    /// How launcher and image are to meet.
    choice: &'static str,
}

impl Pair {
    fn new(mpi: Mpi, image: Image) -> Pair {
        Pair::of(mpi, image, |pair, source| {
            let mut compile = pair.user.singularity();
            compile.arg("exec").arg(&pair.image);
            compile.args(["mpicc", "-w", "-o"]);
            run(compile.arg(&pair.program).arg(source)).succeeded();
        })
    }

    /// For an image of MPICH's binary interface in which nothing compiles.
    fn compiled_outside(mpi: Mpi, image: Image) -> Pair {
        Pair::of(mpi, image, |pair, source| {
            Mpi::mpich5().compile(source, &pair.program);
        })
    }

    fn of(mpi: Mpi, image: Image, compile: impl FnOnce(&Pair, &Path)) -> Pair {
        let user = User::ordinary();
        let pair = Pair {
            program: user.work().join("ends"),
            up: user.work().join("up"),
            image: image.directory(),
            choice: "auto",
            user,
            mpi,
        };
        compile(&pair, &pair.user.file("ends.c", ENDS));
        pair
    }

    /// Both directions: Open MPI 4 and 5 under hydra, MPICH under mpirun 4 and 5. Under
    /// prterun each rank has a helper of its own, and those of Open MPI 4 one more.
    fn all() -> [Pair; 6] {
        [
            Pair::new(Mpi::mpich(), Image::OpenMpiBookworm),
            Pair::new(Mpi::mpich(), Image::OpenMpiTrixie),
            Pair::new(Mpi::openmpi(), Image::MpichBookworm),
            Pair::new(Mpi::openmpi5(), Image::MpichBookworm),
            Pair::new(Mpi::prterun(), Image::MpichBookworm),
            Pair::new(Mpi::prterun(), Image::OpenMpiBookworm),
        ]
    }

    /// Ranks that have passed MPI_Init.
    fn start(&self, mut job: Command, word: &str) -> Running {
        let _ = fs::remove_file(&self.up);
        job.arg(test_support::command())
            .arg("exec")
            .arg(format!("--mpi={}", self.choice))
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
        let output = self.is_soon_over(self.mpi.command(&self.user, 3), word, what);
        assert!(!output.status.success(), "{word}: {output}");
        assert_nothing_left(&before);
        output
    }

    /// The same, whatever status the launcher makes of it.
    fn is_soon_over(&self, job: Command, word: &str, what: impl FnOnce(&Running)) -> Output {
        let job = self.start(job, word);
        let begun = Instant::now();
        what(&job);
        let output = job.wait(LIMIT);
        let took = begun.elapsed();
        let name = self.mpi.launcher().display();
        let image = self.image.display();
        println!("{word}, {name}, {image}: over after {took:.1?}");
        assert!(took < SOON, "{word}, {name}, {image}: {output}");
        output
    }

    /// The job ends by itself, and the MPI says that this call failed.
    fn fails(&self, word: &str, call: &str) {
        self.fails_in(word, &[call]);
    }

    /// The same, where ranks are in one of these calls each, and any may be the first.
    fn fails_in(&self, word: &str, calls: &[&str]) {
        let output = self.ends(word, |_| ());
        let said = output.stdout() + &output.stderr();
        assert!(calls.iter().any(|call| said.contains(call)), "{output}");
    }

    /// Kills one process of the user's by its name.
    fn kill(&self, name: &str) {
        self.kill_by(&format!("-o -x '{name}'"));
    }

    fn kill_by(&self, which: &str) {
        let script = format!("pkill -KILL -u {} {which}", self.user.uid());
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
        for word in ["leave 0", "leave 7"] {
            pair.ends(word, |_| ());
        }
    }
}

#[test]
fn spawning_fails_with_the_mpis_own_error() {
    for pair in Pair::all() {
        pair.fails("spawn", "omm_spawn");
    }
    for image in [Image::WheelMpich5, Image::WheelIntel] {
        Pair::compiled_outside(Mpi::openmpi5(), image).fails("spawn together", "omm_spawn");
    }
}

#[test]
fn names_and_ports_fail_with_the_mpis_own_error() {
    for pair in Pair::all() {
        pair.fails("publish", "ublish_name");
        pair.fails("look up", "ookup_name");
    }
    for image in [Image::OpenMpiBookworm, Image::OpenMpiTrixie] {
        let calls = ["MPI_Comm_connect", "MPI_Comm_accept"];
        Pair::new(Mpi::mpich(), image).fails_in("connect", &calls);
    }
}

#[test]
fn a_communicator_of_a_group_alone_fails_with_the_mpis_own_error() {
    for mpi in [Mpi::mpich(), Mpi::openmpi5()] {
        let pair = Pair {
            choice: "bridge",
            ..Pair::new(mpi, Image::OpenMpiTrixie)
        };
        pair.fails("group", "MPI_Comm_create_from_group");
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

#[test]
fn a_killed_daemon_on_another_host_ends_the_job() {
    for (pair, daemon) in [
        (
            Pair::new(Mpi::mpich(), Image::OpenMpiBookworm),
            "hydra_pmi_proxy",
        ),
        (
            Pair::compiled_outside(Mpi::openmpi(), Image::WheelMpich5),
            "orted",
        ),
        (
            Pair::compiled_outside(Mpi::openmpi5(), Image::WheelMpich5),
            "prted",
        ),
    ] {
        let hosts = Hosts::two(&pair.user);
        let job = hosts.mpirun(&pair.mpi, &pair.user, 2);
        let output = pair.is_soon_over(job, "wait", |_| {
            pair.kill_by(&format!("-n -x {daemon}"));
        });
        // The hosts have processes of the user's too, for as long as they are there.
        let ours = format!("pgrep -u {} -x 'ends|pmi-bridge'", pair.user.uid());
        let begun = Instant::now();
        while run(&mut pair.user.shell(&ours)).status.success() {
            assert!(begun.elapsed() < SOON, "{daemon}: something is left");
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{daemon}: nothing is left after {:.1?}", begun.elapsed());
        // PRRTE says that it has lost a daemon, of any job, and ends with 0.
        assert!(daemon == "prted" || !output.status.success(), "{output}");
    }
}
