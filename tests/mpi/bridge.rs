//! The MPI of the image is of another kind than the host's launcher, and they meet
//! over the bridge.

use std::time::{Duration, Instant};

use test_support::{Form, Hosts, Image, Leftovers, Mpi, User};

use crate::ranks::{assert_one_world, assert_two_on_each_host, run};

/// The ring of an image under a launcher of another kind, from a directory and from a
/// file. `transport`: where Open MPI may reach others by shared memory only, there
/// would be no ring without it.
fn ring(mpi: &Mpi, image: Image, library: &str, transport: &str) {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for (place, ranks) in [
        (image.directory(), 1),
        (image.directory(), 5),
        (image.file(Form::Squashfs), 2),
    ] {
        let mut job = mpi.command(&user, ranks);
        job.env("OMPI_MCA_pml", "ob1")
            .env("OMPI_MCA_btl", transport);
        job.arg(test_support::command())
            .arg("exec")
            .arg(place)
            .args(["ring", "--size", "100000"]);
        assert_one_world(&run(&mut job), ranks, library);
    }
    assert_nothing_left(&before);
}

/// Fails if anything is left of the user's own, but the session directory of an Open
/// MPI launcher that was killed itself. Loop devices are root's, from a test beside this
/// one.
#[track_caller]
pub fn assert_nothing_left(before: &Leftovers) {
    let others = |thing: &String| {
        thing.starts_with("loop device ")
            || thing.starts_with("file /tmp/ompi.")
            || thing.starts_with("file /tmp/prterun.")
            || thing.starts_with("file /tmp/prtrn.")
    };
    let left: Vec<_> = before
        .left()
        .into_iter()
        .filter(|thing| !others(thing))
        .collect();
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

#[test]
fn open_mpi_4_1_0_runs_under_hydra_with_shared_memory() {
    ring(
        &Mpi::mpich(),
        Image::OpenMpiBullseye,
        "Open MPI v4.1.0",
        "self,vader",
    );
}

#[test]
fn open_mpi_4_1_4_runs_under_hydra_with_shared_memory() {
    ring(
        &Mpi::mpich(),
        Image::OpenMpiBookworm,
        "Open MPI v4.1.4",
        "self,vader",
    );
}

#[test]
fn open_mpi_5_runs_under_hydra_with_shared_memory() {
    ring(
        &Mpi::mpich(),
        Image::OpenMpiTrixie,
        "Open MPI v5.0.7",
        "self,sm",
    );
}

#[test]
fn open_mpi_runs_on_two_hosts_under_hydra() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    {
        let hosts = Hosts::two(&user);
        for (image, library) in [
            (Image::OpenMpiBookworm, "Open MPI v4.1.4"),
            (Image::OpenMpiTrixie, "Open MPI v5.0.7"),
        ] {
            let mut job = hosts.mpirun(&Mpi::mpich(), &user, 2);
            // Both hosts are one machine, where UCX would try shared memory.
            job.env("OMPI_MCA_pml", "ob1");
            job.arg(test_support::command())
                .arg("exec")
                .arg(image.directory())
                .args(["ring", "--size", "100000"]);
            let output = run(&mut job);
            assert_one_world(&output, 4, library);
            assert_two_on_each_host(&output);
        }
    }
    assert_nothing_left(&before);
}

/// The launcher's servers tell the helpers of the hosts where they are; the rest goes
/// over connections of their own.
#[test]
fn mpich_runs_on_two_hosts_under_mpirun() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    {
        let hosts = Hosts::two(&user);
        for mpirun in [Mpi::openmpi(), Mpi::openmpi5()] {
            let mut job = hosts.mpirun(&mpirun, &user, 2);
            job.arg(test_support::command())
                .arg("exec")
                .arg(Image::WheelMpich4.directory())
                .args(["ring", "--size", "100000"]);
            let output = run(&mut job);
            // Not quietly: the mpirun of Open MPI 5 warns now and then of setpgid(2) for
            // the agent that it has just started, which was quicker.
            output.succeeded();
            assert!(output.stdout().contains("ring of 4 ranks"), "{output}");
            assert_two_on_each_host(&output);
        }
    }
    assert_nothing_left(&before);
}

/// Told to, Open MPI asks for what ranks of other hosts have to say one by one, with
/// a fence on the way or none.
#[test]
fn open_mpi_asks_ranks_of_other_hosts_one_by_one() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    {
        let hosts = Hosts::two(&user);
        let hydra = [(Mpi::mpich(), 1), (Mpi::mpich(), 0)];
        let both = [&hydra[..], &[(Mpi::openmpi(), 1)]].concat();
        // Under mpirun Open MPI 5 hangs now and then, past MPI_Init: docs/PMI.md, limits.
        for (image, launchers) in [
            (Image::OpenMpiBookworm, &both[..]),
            (Image::OpenMpiTrixie, &hydra[..]),
        ] {
            for (mpi, collects) in launchers {
                let mut job = hosts.mpirun(mpi, &user, 2);
                job.arg(test_support::command())
                    .args(["exec", "--mpi=bridge", "--env=OMPI_MCA_pml=ob1"])
                    .arg("--env=OMPI_MCA_pmix_base_async_modex=1")
                    .arg(format!("--env=OMPI_MCA_pmix_base_collect_data={collects}"))
                    .arg(image.directory())
                    .args(["ring", "--size", "100000"]);
                let output = run(&mut job);
                output.succeeded();
                assert!(output.stdout().contains("ring of 4 ranks"), "{output}");
            }
        }
    }
    assert_nothing_left(&before);
}

/// Gets a word of every rank, and another one that they put after that, and enters no
/// fence before, or one at the beginning.
const FENCELESS: &str = r#"
#include <pmix.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    pmix_proc_t me, other;
    pmix_value_t value, *got;
    PMIX_VALUE_CONSTRUCT(&value);
    if (PMIx_Init(&me, NULL, 0) != PMIX_SUCCESS)
        return 2;
    if (argc > 1 && strcmp(argv[1], "fence") == 0 && PMIx_Fence(NULL, 0, NULL, 0) != PMIX_SUCCESS)
        return 7;
    memcpy(&other, &me, sizeof other);
    for (unsigned word = 0; word < 2; word++) {
        const char *key = word ? "later" : "first";
        value.type = PMIX_UINT32;
        value.data.uint32 = 10 * me.rank + word;
        if (PMIx_Put(PMIX_GLOBAL, key, &value) != PMIX_SUCCESS || PMIx_Commit() != PMIX_SUCCESS)
            return 3;
        for (other.rank = 0; other.rank < 4; other.rank++) {
            int tries = argc > 1 && strcmp(argv[1], "once") == 0 ? 1 : 500;
            while (PMIx_Get(&other, key, NULL, 0, &got) != PMIX_SUCCESS) {
                if (--tries == 0) {
                    fprintf(stderr, "rank %u: no word of %u\n", me.rank, other.rank);
                    return 4;
                }
                usleep(10000);
            }
            if (got->data.uint32 != 10 * other.rank + word)
                return 5;
        }
    }
    printf("rank %u has all words\n", me.rank);
    fflush(stdout);
    /* Those who still ask would find nobody where all have left. */
    if (PMIx_Fence(NULL, 0, NULL, 0) != PMIX_SUCCESS)
        return 8;
    return PMIx_Finalize(NULL, 0) == PMIX_SUCCESS ? 0 : 6;
}
"#;

/// Where the launcher has only fences, the helpers meet with the first; before that there
/// is nobody to ask, and an end to waiting.
#[test]
fn a_rank_of_another_host_is_asked_without_a_fence() {
    let user = User::ordinary();
    let source = user.file("fenceless.c", FENCELESS);
    let program = user.work().join("fenceless");
    let image = Image::OpenMpiBookworm.directory();
    let mut compile = user.singularity();
    // Linked with an MPI too, so that it is known what it speaks.
    let options = ["mpicc", "-Wl,--no-as-needed", "-o"];
    compile.arg("exec").arg(&image).args(options);
    compile.arg(&program).arg(&source).args([
        "-I/usr/lib/x86_64-linux-gnu/pmix2/include",
        "-L/usr/lib/x86_64-linux-gnu/pmix2/lib",
        "-lpmix",
    ]);
    run(&mut compile).succeeded();
    let before = Leftovers::snapshot(&user);
    {
        let hosts = Hosts::two(&user);
        let start = |mpi: &Mpi, words: &[&str]| {
            let mut job = hosts.mpirun(mpi, &user, 2);
            job.arg(test_support::command())
                .args(["exec", "--mpi=bridge"])
                .arg(&image)
                .arg(&program)
                .args(words);
            run(&mut job)
        };
        for (mpi, words) in [(Mpi::openmpi(), &[][..]), (Mpi::mpich(), &["fence"])] {
            let output = start(&mpi, words);
            output.succeeded();
            let told = output.stdout().matches(" has all words").count();
            assert_eq!(told, 4, "{output}");
        }
        let begun = Instant::now();
        let output = start(&Mpi::mpich(), &["once"]);
        assert!(!output.status.success(), "{output}");
        assert!(output.stderr().contains(": no word of "), "{output}");
        assert!(begun.elapsed() < Duration::from_secs(40), "{output}");
    }
    assert_nothing_left(&before);
}
