//! The cluster the tests run on, tested without any image.

use test_support::*;

#[test]
fn a_ring_over_two_nodes_and_nothing_left() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let cluster = SlurmCluster::start("");
    let mpi = Mpi::openmpi();
    let mut srun = cluster.command(&user, "srun");
    let output = capture(srun.args(["-N2", "-n4", "--mpi=pmix"]).arg(mpi.ring()));
    let text = output.succeeded().stdout();
    assert!(text.contains("ring of 4 ranks"), "{output}");
    assert!(text.contains("c1") && text.contains("c2"), "{output}");
    cluster.wait_until_idle();
    drop(cluster);
    before.assert_nothing_new();
}
