//! One job on several hosts that share directories.

use test_support::{Form, Hosts, Image, Leftovers, Mpi, User};

use crate::ranks::{
    assert_nothing_of_ours, assert_one_world, assert_two_on_each_host, different, places, run,
};

#[test]
fn two_by_two_ranks_run_on_two_hosts_that_share_a_directory() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    {
        let hosts = Hosts::two(&user);
        let image = Image::OpenMpiBookworm.file_for(&user, Form::Squashfs);
        for place in [&image, &Image::OpenMpiBookworm.directory()] {
            let mut job = hosts.mpirun(&Mpi::openmpi(), &user, 2);
            job.arg(test_support::command()).arg("exec").arg(place);
            job.args(["ring", "--size", "100000"]);
            let output = run(&mut job);
            assert_one_world(&output, 4, "Open MPI v4.1.4");
            assert_two_on_each_host(&output);
        }
        std::fs::remove_file(image).expect("the copy is ours");
    }
    assert_nothing_of_ours(&before);
}

#[test]
fn ranks_on_different_hosts_do_not_share() {
    let user = User::ordinary();
    let hosts = Hosts::two(&user);
    let mut job = hosts.mpirun(&Mpi::openmpi(), &user, 2);
    let ranks = places(&mut job, &[], &Image::Busybox.directory());
    assert_eq!((ranks.len(), different(&ranks)), (4, 2), "{ranks:?}");
}
