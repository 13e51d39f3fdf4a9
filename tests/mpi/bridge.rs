//! The MPI of the image is of another kind than the host's launcher, and they meet
//! over the bridge.

use test_support::{Form, Hosts, Image, Leftovers, Mpi, User};

use crate::ranks::{assert_one_world, run};

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
            for host in ["one", "two"] {
                let there = output.stdout().matches(&format!(" on {host},")).count();
                assert_eq!(there, 2, "{output}");
            }
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
            for host in ["one", "two"] {
                let there = output.stdout().matches(&format!(" on {host},")).count();
                assert_eq!(there, 2, "{output}");
            }
        }
    }
    assert_nothing_left(&before);
}
