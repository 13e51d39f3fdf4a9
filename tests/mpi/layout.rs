//! However a launcher lays ranks out over hosts, an MPI that meets it over the bridge
//! knows which of them share memory.

use test_support::{assert_layout, layout_program, Hosts, Image, Leftovers, Mpi, User};

use crate::bridge::assert_nothing_left;
use crate::ranks::run;

/// Words of a launcher, and the ranks that they put on the hosts `one` and `two`.
type Layout<'a> = (&'a [&'a str], &'a [usize], &'a [usize]);

/// All layouts, with one MPI.
fn all(mpi: &Mpi, image: Image, layouts: &[Layout<'_>]) {
    let user = User::ordinary();
    let program = layout_program(&user, image);
    user.file("hostfile", "one:1\ntwo:3\n");
    let before = Leftovers::snapshot(&user);
    {
        let hosts = Hosts::two(&user);
        for (words, one, two) in layouts {
            let mut job = hosts.mpirun_with(mpi, &user, words);
            // Both hosts are one machine, where these would try shared memory.
            job.args(["env", "UCX_TLS=tcp,self", "FI_PROVIDER=tcp"]);
            job.arg("OMPI_MCA_pml=ob1");
            job.arg(test_support::command())
                .args(["exec", "--mpi=bridge"])
                .arg(image.directory())
                .arg(&program);
            let output = run(&mut job);
            let there: Vec<_> = [("one", *one), ("two", *two)].into();
            assert_layout(&output, &there);
        }
    }
    assert_nothing_left(&before);
}

#[test]
fn mpich_knows_its_nodes_in_every_layout_of_mpirun_4() {
    all(
        &Mpi::openmpi(),
        Image::WheelMpich5,
        &[
            (&["--host", "one:2,two:2", "-n", "4"], &[0, 1], &[2, 3]),
            (
                &["--host", "one:2,two:2", "--map-by", "node", "-n", "4"],
                &[0, 2],
                &[1, 3],
            ),
            (&["--host", "one:1,two:4", "-n", "5"], &[0], &[1, 2, 3, 4]),
            (&["--host", "one:2,two:2", "-n", "1"], &[0], &[]),
        ],
    );
}

#[test]
fn mpich_knows_its_nodes_in_every_layout_of_mpirun_5() {
    let uneven = ["--host", "one:1,two:3", "--map-by", "slot"];
    let cyclic = ["--host", "one:2,two:2", "--map-by", "node"];
    let all_four = ["--bind-to", "none", "-n", "4"];
    all(
        &Mpi::openmpi5(),
        Image::WheelMpich5,
        &[
            (&[&uneven[..], &all_four].concat(), &[0], &[1, 2, 3]),
            (&[&cyclic[..], &all_four].concat(), &[0, 2], &[1, 3]),
        ],
    );
}

/// What hydra's users say to the same end.
const HYDRA: [Layout<'static>; 5] = [
    (
        &["-hosts", "one,two", "-ppn", "2", "-n", "4"],
        &[0, 1],
        &[2, 3],
    ),
    (
        &["-hosts", "one,two", "-ppn", "1", "-n", "4"],
        &[0, 2],
        &[1, 3],
    ),
    // Planes, and more ranks than cores on one host.
    (
        &["-hosts", "one,two", "-ppn", "2", "-n", "5"],
        &[0, 1, 4],
        &[2, 3],
    ),
    (&["-f", "hostfile", "-n", "4"], &[0], &[1, 2, 3]),
    (&["-hosts", "two", "-n", "1"], &[], &[0]),
];

#[test]
fn open_mpi_4_knows_its_nodes_in_every_layout_of_hydra() {
    all(&Mpi::mpich(), Image::OpenMpiBookworm, &HYDRA);
}

#[test]
fn open_mpi_5_knows_its_nodes_in_every_layout_of_hydra() {
    all(&Mpi::mpich(), Image::OpenMpiTrixie, &HYDRA);
}
