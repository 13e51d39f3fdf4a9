//! `--stage`: ranks of one job on a node have one copy of their image.

use test_support::{Form, Image, Leftovers, Mpi, User};

use crate::ranks::{assert_nothing_of_ours, different, told};

#[test]
fn four_ranks_of_a_job_have_one_copy() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let image = Image::Busybox.file(Form::SquashfsLz4);
    for mpi in [Mpi::openmpi(), Mpi::mpich()] {
        let mut job = mpi.command(&user, 4);
        job.arg(test_support::command())
            .args(["exec", "--timing", "--stage=/dev/shm"])
            .arg(&image)
            .args(["sh", "-c"])
            .arg("sleep 1; echo rank $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/user)");
        let output = crate::ranks::run(&mut job);
        let ranks = told(output.succeeded());
        assert_eq!((ranks.len(), different(&ranks)), (4, 1), "{output}");
        // The phase is there where it was done: in one of the four.
        let copies = output.stderr().matches("timing: stage").count();
        assert_eq!(copies, 1, "{output}");
    }
    assert_nothing_of_ours(&before);
}
