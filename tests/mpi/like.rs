//! The MPI of the host and that of the image are of one kind.

use test_support::{Form, Image, Leftovers, Mpi, User};

use crate::ranks::{assert_nothing_of_ours, assert_one_world, run};

/// The ring of an image under a launcher of the host, from a directory and from
/// a file; what the ranks' library calls itself. `transport` is all that Open
/// MPI may use to reach others: without shared memory there would be no ring.
fn ring(mpi: &Mpi, image: Image, library: &str, transport: &str) {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for place in [image.directory(), image.file(Form::Squashfs)] {
        let mut job = mpi.command(&user, 4);
        job.env("OMPI_MCA_pml", "ob1")
            .env("OMPI_MCA_btl", transport);
        job.arg(test_support::command())
            .arg("exec")
            .arg(place)
            .arg("ring");
        assert_one_world(&run(&mut job), 4, library);
    }
    assert_nothing_of_ours(&before);
}

/// How often two ranks that send each other a megabyte copy straight from each
/// other's memory. A tracer stands between launcher and rank, as debuggers do.
fn copies_between_ranks(mpi: &Mpi, image: Image, options: &[&str]) -> usize {
    let user = User::ordinary();
    let traces = user.directory("traces");
    let mut job = mpi.command(&user, 2);
    job.args([
        "strace",
        "-ff",
        "-qq",
        "-e",
        "trace=process_vm_readv,process_vm_writev",
        "-o",
    ]);
    job.arg(traces.join("rank"))
        .arg(test_support::command())
        .arg("exec")
        .args(options);
    job.arg(image.directory())
        .args(["ring", "--size", "1000000"]);
    run(&mut job).succeeded();
    let traced = std::fs::read_dir(&traces).expect("strace made it");
    let text = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.expect("listed").path()).expect("traces are text")
    };
    let done = |line: &str| line.starts_with("process_vm_") && !line.contains(" = -1 ");
    traced
        .map(text)
        .map(|text| text.lines().filter(|line| done(line)).count())
        .sum()
}

#[test]
fn open_mpi_4_1_0_runs_under_the_hosts_mpirun() {
    ring(
        &Mpi::openmpi(),
        Image::OpenMpiBullseye,
        "Open MPI v4.1.0",
        "self,vader",
    );
}

#[test]
fn open_mpi_4_1_4_runs_under_the_hosts_mpirun() {
    ring(
        &Mpi::openmpi(),
        Image::OpenMpiBookworm,
        "Open MPI v4.1.4",
        "self,vader",
    );
}

#[test]
fn open_mpi_5_runs_under_the_hosts_mpirun_4() {
    ring(
        &Mpi::openmpi(),
        Image::OpenMpiTrixie,
        "Open MPI v5.0",
        "self,sm",
    );
}

#[test]
fn open_mpi_5_runs_under_prrte() {
    ring(
        &Mpi::openmpi5(),
        Image::OpenMpiTrixie,
        "Open MPI v5.0.7",
        "self,sm",
    );
}

#[test]
fn mpich_runs_under_hydra() {
    ring(
        &Mpi::mpich(),
        Image::MpichBookworm,
        "MPICH Version: 4.0.2",
        "self",
    );
}

#[test]
fn ranks_of_open_mpi_copy_from_each_others_memory() {
    assert!(copies_between_ranks(&Mpi::openmpi(), Image::OpenMpiBookworm, &[]) > 0);
}

#[test]
fn ranks_that_do_not_share_are_told_not_to_try() {
    let copies = copies_between_ranks(&Mpi::openmpi(), Image::OpenMpiBookworm, &["--share=off"]);
    assert_eq!(copies, 0);
}

#[test]
fn large_messages_pass_between_ranks_that_do_not_share() {
    // Not with MPICH 4.0: over UCX without CMA it hangs at its end now and then,
    // on the host too (UCX_TLS=^cma).
    let user = User::ordinary();
    let mut job = Mpi::openmpi().command(&user, 2);
    job.arg(test_support::command())
        .args(["exec", "--share=off"]);
    job.arg(Image::OpenMpiBookworm.directory())
        .args(["ring", "--size", "4194304"]);
    run(&mut job).succeeded().quietly();
}

#[test]
fn the_hosts_library_path_does_not_reach_the_ranks() {
    let user = User::ordinary();
    for mpi in [Mpi::openmpi(), Mpi::openmpi5()] {
        let mut job = mpi.command(&user, 1);
        for name in [
            "LD_LIBRARY_PATH",
            "OPAL_PREFIX",
            "PMIX_INSTALL_PREFIX",
            "LD_PRELOAD",
        ] {
            job.env(name, "");
        }
        job.arg(test_support::command())
            .arg("exec")
            .arg(Image::Busybox.directory())
            .arg("env");
        let output = run(&mut job);
        for line in output.succeeded().stdout().lines() {
            let name = line.split('=').next().unwrap_or_default();
            let leaks = name.starts_with("LD_") || name.ends_with("_PREFIX");
            assert!(!leaks || name == "CONDA_PREFIX", "{line} of {output}");
        }
    }
}

#[test]
fn ranks_meet_whatever_is_kept_out_of_the_image() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let image = Image::OpenMpiBookworm;
    for options in [
        &["--contain"][..],
        &["--containall"],
        &["--cleanenv"],
        &["--contain", "--cleanenv", "--no-home", "--ipc"],
        &["--writable-tmpfs"],
    ] {
        let mut job = Mpi::openmpi().command(&user, 2);
        job.arg(test_support::command()).arg("exec").args(options);
        job.arg(image.file(Form::Squashfs))
            .args(["ring", "--size", "1000000"]);
        assert_one_world(&run(&mut job), 2, "Open MPI v4.1.4");
        let mut job = Mpi::mpich().command(&user, 2);
        job.arg(test_support::command()).arg("exec").args(options);
        job.arg(Image::MpichBookworm.directory())
            .args(["ring", "--size", "1000000"]);
        assert_one_world(&run(&mut job), 2, "MPICH Version: 4.0.2");
    }
    assert_nothing_of_ours(&before);
}

#[test]
fn root_runs_ranks_by_kernel_mounts_and_leaves_no_loop_device() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for form in [Form::Squashfs, Form::Erofs, Form::Ext4] {
        let mut job = std::process::Command::new(Mpi::openmpi().launcher());
        job.args(["--allow-run-as-root", "--oversubscribe", "-n", "4"]);
        job.current_dir("/").env("HOME", "/root");
        job.arg(test_support::command())
            .arg("exec")
            // Nobody else looks for loop devices of this one.
            .arg(Image::OpenMpiBookworm.file_for(&user, form));
        job.arg("ring");
        assert_one_world(&run(&mut job), 4, "Open MPI v4.1.4");
    }
    before.assert_nothing_new();
}
