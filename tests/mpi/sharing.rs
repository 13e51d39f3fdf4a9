//! Ranks of one job on a node share one namespace and one mount; nobody else does.

use std::time::{Duration, Instant};

use test_support::{Form, Image, Leftovers, Mpi, Running, User};

use crate::ranks::{assert_nothing_of_ours, different, places_by, together, told, LIMIT};

/// The FUSE servers of a user.
fn servers(user: &User) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc is there");
    processes
        .flatten()
        .filter(|entry| {
            use std::os::unix::fs::MetadataExt;
            entry.metadata().is_ok_and(|metadata| metadata.uid() == user.uid())
                && std::fs::read_to_string(entry.path().join("comm"))
                    .is_ok_and(|name| name.trim_end() == "image-server")
                // One that has ended waits for pid 1 to notice.
                && std::fs::read_link(entry.path().join("exe")).is_ok()
        })
        .count()
}

#[test]
fn ranks_of_a_job_share_one_namespace() {
    let user = User::ordinary();
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        for image in [
            Image::Busybox.directory(),
            Image::Busybox.file(Form::SquashfsLz4),
        ] {
            let ranks = places_by(&mut mpi.command(&user, 4), &[], &image, &together(4));
            assert_eq!(
                (ranks.len(), different(&ranks)),
                (4, 1),
                "{mpi:?}: {ranks:?}"
            );
        }
    }
}

#[test]
fn ranks_started_by_a_script_of_the_user_share_too() {
    let user = User::ordinary();
    let script = user.file("start", "#!/bin/sh\n\"$@\"\n");
    std::process::Command::new("chmod")
        .arg("+x")
        .arg(&script)
        .status()
        .expect("chmod runs");
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        let mut job = mpi.command(&user, 4);
        job.arg(&script);
        let ranks = places_by(&mut job, &[], &Image::Busybox.directory(), &together(4));
        assert_eq!(
            (ranks.len(), different(&ranks)),
            (4, 1),
            "{mpi:?}: {ranks:?}"
        );
    }
}

#[test]
fn a_job_has_one_server_for_its_image_and_leaves_none() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let mut job = Mpi::openmpi().command(&user, 8);
    job.arg(test_support::command())
        .arg("exec")
        .arg(Image::Busybox.file(Form::SquashfsLz4));
    job.args(["sleep", "2"]);
    let mut job = Running::start(&mut job);
    let begun = Instant::now();
    let mut most = 0;
    while job.is_running() && begun.elapsed() < LIMIT {
        most = most.max(servers(&user));
        std::thread::sleep(Duration::from_millis(20));
    }
    job.wait(LIMIT).succeeded().quietly();
    // The starter has the kernel mount it.
    assert_eq!(most, usize::from(!test_support::is_privileged()));
    assert_nothing_of_ours(&before);
}

#[test]
fn two_jobs_never_share() {
    let user = User::ordinary();
    for mpi in [Mpi::openmpi(), Mpi::openmpi5(), Mpi::mpich()] {
        let image = Image::Busybox.directory();
        let text = together(4);
        // Each with its place for what it keeps: two mpiruns of Open MPI 4 that begin at
        // once fail at one another's directory ("unable to create: File exists").
        let job = |place: &str| {
            let mut launcher = mpi.command(&user, 2);
            launcher.env("TMPDIR", user.directory(place));
            places_by(&mut launcher, &[], &image, &text)
        };
        let job = &job;
        let jobs: Vec<_> = std::thread::scope(|scope| {
            let jobs = ["t1", "t2"].map(|place| scope.spawn(move || job(place)));
            jobs.map(|job| job.join().expect("the job ran")).into()
        });
        let ranks: Vec<_> = jobs.concat();
        assert_eq!(
            (ranks.len(), different(&ranks)),
            (4, 2),
            "{mpi:?}: {ranks:?}"
        );
    }
}

#[test]
fn two_images_and_two_sets_of_options_never_share() {
    let user = User::ordinary();
    let one = Image::Busybox.directory();
    let other = Image::Busybox.file(Form::SquashfsLz4);
    // One mpirun, several programs: the ranks are of one job.
    let sets: [(&[&str], &std::path::Path); 4] = [
        (&[], &one),
        (&[], &other),
        (&["--contain"], &one),
        (&["-B", "/opt:/mnt"], &one),
    ];
    let text = together(sets.len());
    let mut job = Mpi::openmpi().command(&user, 1);
    for (number, (options, image)) in sets.iter().enumerate() {
        if number > 0 {
            job.args([":", "-n", "1"]);
        }
        job.arg(test_support::command())
            .arg("exec")
            .args(*options)
            .arg(image);
        job.args(["sh", "-c", &text]);
    }
    let output = crate::ranks::run(&mut job);
    let ranks = told(output.succeeded());
    assert_eq!((ranks.len(), different(&ranks)), (4, 4), "{output}");
}

#[test]
fn two_users_never_share_even_by_name() {
    let (ada, bob) = (User::ordinary(), User::ordinary());
    let image = Image::Busybox.directory();
    let text = together(4);
    let place = |user: &User, name: &str| {
        let mut command = user.command(test_support::command());
        command
            .args(["exec", &format!("--share={name}")])
            .arg(&image);
        command.args(["sh", "-c", &text]);
        Running::start(&mut command)
    };
    let started = [
        place(&ada, "x"),
        place(&bob, "x"),
        place(&ada, "x"),
        place(&ada, "y"),
    ];
    let outputs = started.map(|command| command.wait(LIMIT));
    let ranks: Vec<_> = outputs
        .iter()
        .flat_map(|output| told(output.succeeded()))
        .collect();
    assert_eq!(ranks[0], ranks[2], "one name, one namespace");
    assert_eq!((ranks.len(), different(&ranks)), (4, 3), "{ranks:?}");
}

#[test]
fn ranks_told_not_to_share_do_not() {
    let user = User::ordinary();
    let mut job = Mpi::openmpi().command(&user, 3);
    let image = Image::Busybox.directory();
    let ranks = places_by(&mut job, &["--share=off"], &image, &together(3));
    assert_eq!((ranks.len(), different(&ranks)), (3, 3));
}

#[test]
fn processes_outside_a_job_do_not_share() {
    let user = User::ordinary();
    let mut job = user.shell(&format!(
        "for i in 1 2; do {0} exec {1} sh -c \"$TEXT\" & done; wait",
        test_support::command().display(),
        Image::Busybox.directory().display(),
    ));
    job.env("TEXT", together(2));
    let ranks = told(crate::ranks::run(&mut job).succeeded());
    assert_eq!((ranks.len(), different(&ranks)), (2, 2));
}

#[test]
fn sixty_four_ranks_started_at_once_all_come_up() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let mut job = Mpi::openmpi().command(&user, 64);
    job.arg(test_support::command())
        .arg("exec")
        .arg(Image::OpenMpiBookworm.file(Form::Squashfs));
    job.arg("ring");
    crate::ranks::assert_one_world(&crate::ranks::run(&mut job), 64, "Open MPI v4.1.4");
    assert_nothing_of_ours(&before);
}

#[test]
fn what_a_rank_finds_out_of_the_program_others_are_told() {
    let user = User::ordinary();
    let mut job = Mpi::openmpi().command(&user, 16);
    // By the starter each rank looks for itself.
    job.arg(test_support::command())
        .args(["-vv", "exec", "--userns"])
        .arg(Image::OpenMpiBookworm.directory());
    job.arg("ring");
    let output = crate::ranks::run(&mut job);
    let text = output.succeeded().stdout();
    assert!(text.contains("ring of 16 ranks: token "), "{output}");
    let told = "another rank has found out which MPI the program uses";
    let told = output.stderr().matches(told).count();
    // One that comes in just before the first has become its program looks for itself.
    assert!((1..16).contains(&told), "{told}: {output}");
}

#[test]
fn a_foreign_process_on_the_socket_makes_nobody_wait() {
    let (user, other) = (User::ordinary(), User::ordinary());
    let image = Image::Busybox.directory();
    // The name can be foreseen by whoever reads it from a running namespace.
    let mut first = user.command(test_support::command());
    first
        .args(["exec", "--share=wanted"])
        .arg(&image)
        .args(["cat", "/proc/self/mountinfo"]);
    let table = test_support::capture(&mut first);
    let name = table
        .succeeded()
        .stdout()
        .split_whitespace()
        .find(|word| word.starts_with("singularity:"))
        .expect("the namespace is marked")
        .to_owned();
    let squat = format!(
        "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen(); print('bound',flush=True); time.sleep(60)"
    );
    let mut squatter = Running::start(other.command("/usr/bin/python3").args(["-c", &squat]));
    squatter.until("bound\n");
    assert!(squatter.is_running(), "{name}");
    let mut second = user.command(test_support::command());
    second
        .args(["exec", "--share=wanted"])
        .arg(&image)
        .arg("true");
    let begun = Instant::now();
    let output = test_support::capture(&mut second);
    output.succeeded();
    assert!(output.stderr().contains("goes alone"), "{output}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    squatter.signal(nix::sys::signal::Signal::SIGKILL);
    squatter.wait(LIMIT);
}
