//! `singularity bench` as people run it: a short run of real jobs, with a report.
//! What they take is nobody's business here.

use test_support::{capture_within, Image, Leftovers, Output, User};

fn bench(user: &User, words: &[&str]) -> Output {
    let mut command = user.command(test_support::command());
    // It starts dozens of jobs, perhaps beside another suite.
    let limit = std::time::Duration::from_secs(300);
    capture_within(limit, command.arg("bench").args(words), b"")
}

#[test]
fn a_short_run_measures_every_way_and_writes_its_report() {
    let user = User::ordinary();
    let before = Leftovers::snapshot(&user);
    let image = Image::OpenMpiBookworm.directory();
    let image = image.to_str().expect("a printable path");
    let out = user.work().join("report");
    let output = bench(
        &user,
        &[
            "--rounds=1",
            "--measure=latency,enter,init,memory,fence,phases",
            "--ranks=2",
            "--most=1K",
            "--enter=userns,bridge",
            "--way=plain={program}",
            "--out",
            out.to_str().expect("a printable path"),
            image,
        ],
    );
    output.succeeded();
    let said = output.stderr();
    for part in [
        "bench: first job: directory, bridge\n",
        " gone; messages between two ranks, round 1\n",
    ] {
        assert!(said.contains(part), "no {part:?} in {output}");
    }
    let text = output.stdout();
    for part in [
        "launcher: mpirun",
        "\ndirectory: user namespace; format directory; Open MPI v4.1.4",
        "; CMA yes; nodes 1",
        "\nLatency between two ranks, µs (2 ranks, 1 rounds",
        "\nStart of the job to the end of MPI_Init, ms",
        "\nExchange among all ranks through the launcher (fence), µs",
        "\nA rank finding out its program's MPI, µs",
        "\nA rank getting a seat at the bridge, ms",
        "few rounds directory, bridge, time to the end of MPI_Init, 2 ranks: at most 1.1: ",
    ] {
        assert!(text.contains(part), "no {part:?} in {output}");
    }
    for file in [
        "report.html",
        "data.json",
        "latency.svg",
        "latency.png",
        "enter.png",
    ] {
        assert!(out.join(file).is_file(), "no {file}");
    }
    let data = std::fs::read_to_string(out.join("data.json")).expect("it is a text");
    for secret in [image, user.name()] {
        assert!(!data.contains(secret), "{secret} is stored");
    }
    // Compiled programs are kept; nothing else is.
    std::fs::remove_dir_all(user.home().join(".cache/singularity/bench"))
        .expect("compiled programs are kept");
    before.assert_nothing_new();
}

#[test]
fn ways_that_are_not_there_are_refused_before_anything_is_measured() {
    let user = User::ordinary();
    let image = Image::Busybox.directory();
    let image = image.to_str().expect("a printable path");
    for (words, first) in [
        (
            ["--peers=nobody", image],
            "singularity: --peers nobody: not one that is known\n",
        ),
        (
            ["--enter=plugin", image],
            "singularity: --enter plugin: the launcher has no option --singularity-image\n",
        ),
        (
            ["--enter=door", image],
            "singularity: --enter door: no way of entering is named so\n",
        ),
        (
            ["--measure=speed", image],
            "singularity: --measure speed: nothing is named so\n",
        ),
        (
            ["--measure=cold", image],
            "singularity: --measure cold: only root can drop the caches of the machine\n",
        ),
        (
            ["--mpicc=no-such-mpicc", image],
            "singularity: compile the MPI programs for the host: there is no no-such-mpicc on PATH\n",
        ),
    ] {
        let output = bench(&user, &words);
        assert_eq!(output.status.code(), Some(255), "{output}");
        let said = output.stderr();
        let said = said.strip_prefix("bench: compiling the MPI programs\n").unwrap_or(&said);
        assert!(said.starts_with(first), "{output}");
        assert!(said.contains("\nhint: "), "{output}");
        assert_eq!(output.stdout(), "", "{output}");
    }
}
