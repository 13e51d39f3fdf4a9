//! `singularity mpi check`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use test_support::{Form, Image, Leftovers, Mpi, Output, User};

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
    for (name, hint) in [
        (
            "nosuch",
            "name a program as singularity exec would find it in the image",
        ),
        (
            "./nosuch",
            "the path is one of the image's; bind the directory if it is the host's (-B)",
        ),
    ] {
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
                 hint: {hint}\n"
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

/// `mpi check` with these words in a directory of the user's.
fn check(user: &User, words: &[&str]) -> Output {
    let mut check = user.command(test_support::command());
    check
        .args(["mpi", "check"])
        .args(words)
        .current_dir(user.work());
    run(&mut check)
}

#[test]
fn images_that_cannot_be_looked_into_are_told_in_one_line() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let small = Image::Busybox.file(Form::Squashfs);
    let whole = std::fs::read(&small).expect("the image can be read");
    user.file("damaged", &whole[..5000]);
    user.file("text", "no image\n");
    let closed = user.file("closed", &whole);
    std::fs::set_permissions(&closed, Permissions::from_mode(0o000)).expect("chmod");
    for (image, line) in [
        ("damaged", "singularity: damaged: truncated: "),
        ("text", "singularity: text: is a text file, not an image\n"),
        ("closed", "singularity: closed: permission denied: "),
        ("missing", "singularity: missing: does not exist\n"),
    ] {
        for options in [&[][..], &["--json"]] {
            let output = check(&user, &[options, &[image, "ring"]].concat());
            output.exited_with(255).wrote("");
            assert!(output.stderr().starts_with(line), "{output}");
            assert_eq!(output.stderr().lines().count(), 2, "{output}");
        }
    }
    // As whole files they hold no MPI, and leave nothing behind.
    let small = small.to_str().expect("text");
    check(&user, &[small, "true"]).succeeded().quietly();
    before.assert_nothing_new();
}

#[test]
fn programs_that_cannot_be_executed_are_told_as_exec_would() {
    let user = User::ordinary();
    let image = Image::OpenMpiBookworm.directory();
    let image = image.to_str().expect("text");
    let mut foreign = std::fs::read(Mpi::openmpi().ring()).expect("the host's ring");
    // e_machine of elf(5): S/390.
    foreign[18..20].copy_from_slice(&[22, 0]);
    user.program("foreign", &foreign);
    user.program("script", b"#!/nonexistent/python\n");
    user.program("nothing", b"\0\0\0\0");
    user.file("plain", "no program");
    for (name, cause) in [
        ("./foreign", "it is built for s390x, this machine is "),
        (
            "./script",
            "its interpreter /nonexistent/python is not in the image\n",
        ),
        (
            "./nothing",
            "it is neither a program of this machine nor a script\n",
        ),
        ("./plain", "it is not executable\n"),
        ("/etc/passwd", "it is not executable\n"),
        ("/usr", "it is a directory\n"),
        ("./missing", "not found in the image\n"),
    ] {
        let output = check(&user, &[image, name]);
        output.exited_with(255).wrote("");
        let line = format!("singularity: execute {name}: {cause}");
        assert!(output.stderr().starts_with(&line), "{output}");
        let mut exec = user.command(test_support::command());
        exec.args(["exec", image, name]).current_dir(user.work());
        assert!(run(&mut exec).stderr().starts_with(&line), "{output}");
    }
}

#[test]
fn whatever_the_program_is_its_mpi_is_told() {
    let user = User::ordinary();
    let image = Image::OpenMpiBookworm.directory();
    let image = image.to_str().expect("text");
    user.program("start", b"#!/bin/sh\nexec ring\n");
    user.program("split", b"#!/usr/bin/env -S sh -e\nring\n");
    user.program("text", b"exec ring\n");
    user.program("hidden", b"#!/bin/sh\n$APP\n");
    for (words, told) in [
        (&["ring"][..], "Open MPI 4.1.4"),
        (&["/usr/local/bin/ring", "-n"], "Open MPI 4.1.4"),
        (&["./start"], "Open MPI 4.1.4"),
        (&["./split"], "Open MPI 4.1.4"),
        (&["./text"], "Open MPI 4.1.4"),
        (&["sh", "-c", "cd /tmp; ring"], "Open MPI 4.1.4"),
        (&["env", "A=1", "ring"], "Open MPI 4.1.4"),
        (&["./hidden"], "perhaps Open MPI 4.1.4"),
        (&["true"], "uses no MPI"),
        (&[], "perhaps Open MPI 4.1.4"),
    ] {
        let output = check(&user, &[&[image][..], words].concat());
        output.succeeded().quietly();
        let line = format!("  program            {told}\n");
        assert!(output.stdout().contains(&line), "{words:?}: {output}");
    }
    // One of the host's, whose library the image has not.
    let host = std::fs::read(Mpi::mpich().ring()).expect("the host's ring");
    user.program("own", &host);
    let output = check(&user, &[image, "./own"]);
    output.exited_with(1).quietly();
    for part in [
        "  program            MPICH (not found in the image)\n",
        "MPICH (not found in the image): the program does not start",
    ] {
        assert!(output.stdout().contains(part), "{output}");
    }
}

#[test]
fn every_launcher_is_told_from_inside_its_job() {
    let user = User::ordinary();
    let (direct, bridged) = ("directly: ", "over the bridge: ");
    // One rank is asked, and an Open MPI 4 of many goes over the bridge under PRRTE.
    let prrte = (
        "PRRTE (Open MPI 5 mpirun) (PMIx ",
        [bridged, direct, bridged],
    );
    let hydra = (
        "hydra (MPICH or Intel MPI mpiexec) (PMI-1 on descriptor ",
        [bridged, bridged, direct],
    );
    for (mpi, (name, meetings)) in [
        (
            Mpi::openmpi(),
            ("Open MPI 4 mpirun (PMIx ", [direct, direct, bridged]),
        ),
        (Mpi::openmpi5(), prrte),
        (Mpi::prterun(), prrte),
        (Mpi::mpich(), hydra),
        (Mpi::intel(), hydra),
    ] {
        let images = [
            Image::OpenMpiBookworm,
            Image::OpenMpiTrixie,
            Image::MpichBookworm,
        ];
        for (image, meeting) in images.into_iter().zip(meetings) {
            let mut job = mpi.command(&user, 1);
            job.arg(test_support::command())
                .args(["mpi", "check"])
                .arg(image.directory())
                .arg("ring");
            let output = run(&mut job);
            output.succeeded().quietly();
            let rows = format!("How they meet\n  {name}");
            for part in [&*rows, meeting, "  interface          PM", "  rank  "] {
                assert!(output.stdout().contains(part), "{name}{part}: {output}");
            }
        }
    }
}

#[test]
fn a_launcher_that_does_not_answer_is_passed_over() {
    let user = User::ordinary();
    let place = user.directory("bin");
    user.program("bin/mpirun", "#!/bin/sh\nsleep 600\n");
    // Not a program, which a shell would pass over too.
    user.file("bin/mpiexec", "");
    let before = Leftovers::snapshot(&user);
    let mut check = user.command(test_support::command());
    let path = format!("{}:{}", place.display(), test_support::search_path());
    check.args(["mpi", "check"]).env("PATH", path);
    let begun = Instant::now();
    let output = run(&mut check);
    output.succeeded().quietly();
    assert!(output.stdout().contains("(Open MPI 4.1.4)\n"), "{output}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{output}");
    before.assert_nothing_new();
}

#[test]
fn a_choice_that_there_is_not_is_refused_as_by_exec() {
    let user = User::ordinary();
    for (choice, status) in [("sideways", 255), ("", 0), ("bridge", 0)] {
        let mut check = user.command(test_support::command());
        check.args(["mpi", "check"]).env("SINGULARITY_MPI", choice);
        run(&mut check).exited_with(status);
    }
}
