//! `singularity mpi check`.

use test_support::{Form, Image, Mpi, User};

use crate::ranks::run;

#[test]
fn outside_of_a_job_every_launcher_of_the_host_is_checked() {
    let user = User::ordinary();
    let mut check = user.command(test_support::command());
    check
        .args(["mpi", "check"])
        .arg(Image::OpenMpiTrixie.file(Form::Squashfs))
        .arg("ring");
    let output = run(&mut check);
    output.succeeded().quietly();
    let text = output.stdout();
    for part in [
        "launcher           none: this is no rank of a job",
        "Open MPI 5.0.7 ",
        "PMIx 5.0.7 ",
        "libfabric ",
        "program            Open MPI 5.0.7",
        "(Open MPI 4.1.4)\n    directly: ",
        "(MPICH hydra 4.0.2)\n    over the bridge: ",
        "/dev/shm",
        "CMA",
        "user namespaces",
    ] {
        assert!(text.contains(part), "{part}: {output}");
    }
}

#[test]
fn a_program_that_is_not_in_the_image_is_told() {
    let user = User::ordinary();
    for name in ["nosuch", "./nosuch", "/usr/bin"] {
        let mut check = user.command(test_support::command());
        check
            .args(["mpi", "check"])
            .arg(Image::OpenMpiBookworm.directory())
            .arg(name);
        run(&mut check)
            .exited_with(255)
            .wrote("")
            .complained(&format!(
                "singularity: execute {name}: not found in the image\n\
                 hint: name a program as singularity exec would find it in the image\n"
            ));
    }
}

#[test]
fn in_a_job_the_launcher_of_that_job_is_checked() {
    let user = User::ordinary();
    for (mpi, image, parts) in [
        (
            Mpi::openmpi(),
            Image::MpichBookworm,
            ["Open MPI 4 mpirun (PMIx", "over the bridge: "],
        ),
        (
            Mpi::mpich(),
            Image::MpichBookworm,
            [
                "hydra (MPICH or Intel MPI mpiexec) (PMI-1 on descriptor ",
                "directly: ",
            ],
        ),
    ] {
        let mut job = mpi.command(&user, 1);
        job.arg(test_support::command())
            .args(["mpi", "check"])
            .arg(image.directory())
            .arg("ring");
        let output = run(&mut job);
        output.succeeded().quietly();
        for part in parts {
            assert!(output.stdout().contains(part), "{part}: {output}");
        }
    }
}

#[test]
fn the_status_tells_a_script_whether_they_meet() {
    let user = User::ordinary();
    let status = |path: Option<&str>, libexec: Option<&str>, words: &[&str]| {
        let mut check = user.command(test_support::command());
        check.args(["mpi", "check"]).args(words);
        check.envs(path.map(|path| ("PATH", path)));
        check.envs(libexec.map(|libexec| ("SINGULARITY_LIBEXEC", libexec)));
        run(&mut check).status.code()
    };
    let image = Image::OpenMpiBookworm.directory();
    let image = image.to_str().expect("text");
    assert_eq!(status(None, None, &[]), Some(0));
    assert_eq!(status(None, None, &[image, "ring"]), Some(0));
    assert_eq!(
        status(None, Some("/nonexistent"), &[image, "ring"]),
        Some(0)
    );
    assert_eq!(
        status(Some("/nonexistent"), None, &[image, "ring"]),
        Some(1)
    );
    assert_eq!(
        status(Some("/nonexistent"), None, &[image, "true"]),
        Some(0)
    );
    assert_eq!(status(None, None, &["/nonexistent"]), Some(255));
    assert_eq!(status(None, None, &["--sideways"]), Some(2));
}

#[test]
fn scripts_get_json() {
    let user = User::ordinary();
    let mut check = user.command(test_support::command());
    check
        .args(["mpi", "check", "--json"])
        .arg(Image::WheelMpich5.directory())
        .arg("ring");
    let output = run(&mut check);
    output.succeeded().quietly();
    let text = output.stdout();
    for part in [
        r#""launcher": null"#,
        r#"{"name": "MPICH", "version": "5.0.1", "path": "/usr/local/lib/"#,
        r#""program": "MPICH 5.0.1""#,
        r#""meeting": "over the bridge""#,
        r#""meets": true}"#,
    ] {
        assert!(text.contains(part), "{part}: {output}");
    }
    let mut python = user.command("python3");
    python.args(["-c", "import json, sys; json.loads(sys.argv[1])", &text]);
    run(&mut python).succeeded();
}
