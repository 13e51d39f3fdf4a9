//! Real MPI programs over two nodes.

use std::time::{Duration, Instant};

use test_support::{Form, Image, Running};

use crate::ground::{image_option, Ground, LIMIT};
use crate::Case;

pub const CASES: &[Case] = &[
    ("open_mpi_over_pmix_on_two_nodes", open_mpi),
    ("mpich_over_pmi2_on_two_nodes", mpich),
    ("ranks_of_a_node_copy_memory_directly", single_copy),
    ("every_mpi_meets_srun_in_the_plugins_images", every_mpi),
    ("every_family_meets_srun_by_the_command", by_the_command),
    ("what_does_not_meet_srun_does_not_start", refused),
    ("mpi_check_tells_what_srun_offers_and_what_it_would", check),
    ("python_meets_srun_by_whichever_mpi_mpi4py_takes", python),
    ("mpirun_in_an_allocation_starts_ranks_in_images", mpirun),
];

fn expect_ring(text: &str, ranks: usize, context: &dyn std::fmt::Display) {
    assert!(
        text.contains(&format!("ring of {ranks} ranks")),
        "{context}"
    );
    assert!(
        text.contains("on c1,") && text.contains("on c2,"),
        "{context}"
    );
}

fn open_mpi(ground: &Ground) {
    let images = [
        Image::OpenMpiBookworm.directory(),
        Image::OpenMpiBookworm.file(Form::Squashfs),
        Image::OpenMpiBookworm.file(Form::ErofsLz4hc),
        Image::OpenMpiBullseye.directory(),
        Image::OpenMpiTrixie.directory(),
    ];
    for image in images {
        for more in [
            &[][..],
            &["--singularity-contain", "--singularity-cleanenv"],
        ] {
            let words = [
                &["-N2", "-n4", "--ntasks-per-node=2", "--mpi=pmix"],
                more,
                &["ring"],
            ]
            .concat();
            // Open MPI 5.0.7 now and then crashes in MPI_Init when a message of
            // another node's comes early (mca_pml_ob1_recv_frag_callback_match).
            let crashed = |output: &test_support::Output| {
                output
                    .stderr()
                    .contains("mca_pml_ob1_recv_frag_callback_match")
            };
            let mut output = ground.srun_in(&image, &words);
            for _ in 0..3 {
                if crashed(&output) {
                    output = ground.srun_in(&image, &words);
                }
            }
            output.succeeded().quietly();
            expect_ring(&output.stdout(), 4, &output);
        }
    }
    ground.configure("enter=prefix");
    let image = Image::OpenMpiBookworm.directory();
    let output = ground.srun_in(&image, &["-N2", "-n4", "--mpi=pmix", "ring"]);
    output.succeeded().quietly();
    expect_ring(&output.stdout(), 4, &output);
}

/// MPICH 4.0 with UCX often does not come out of MPI_Finalize where some ranks
/// have finished and others not: on the host as in an image. What the ranks
/// print is what counts, and the step is ended then.
fn mpich(ground: &Ground) {
    let image = Image::MpichBookworm.directory();
    let two_nodes: &[&str] = &["-N2", "-n4"];
    let cases = [
        (two_nodes, &[][..], 4),
        (two_nodes, &["--singularity-contain"], 4),
        (&["-N1", "-n2"], &[], 2),
    ];
    for (layout, more, ranks) in cases {
        let mut srun = ground.cluster.command(&ground.user, "srun");
        // All nodes are one kernel: UCX would try shared memory and loopback.
        srun.envs([("UCX_TLS", "tcp,self"), ("UCX_NET_DEVICES", "eth0")]);
        let out = ground.user.work().join("mpich.out");
        let _ = std::fs::remove_file(&out);
        srun.args(layout)
            .args(["--mpi=pmi2", "--job-name=mpich"])
            .arg(format!("--output={}", out.display()))
            .arg(image_option(&image))
            .args(more)
            .arg("ring");
        let mut running = Running::start(&mut srun);
        let end = Instant::now() + LIMIT;
        let read = || std::fs::read_to_string(&out).unwrap_or_default();
        while running.is_running() && Instant::now() < end && !read().contains("ring of") {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(300));
        if running.is_running() {
            ground.command("scancel", &["--name=mpich"]).succeeded();
        }
        let output = running.wait(LIMIT);
        let text = read();
        assert!(text.contains(&format!("ring of {ranks} ranks")), "{output}");
        let nodes = ["on c1,", "on c2,"]
            .iter()
            .filter(|on| text.contains(**on))
            .count();
        assert_eq!(nodes, ranks / 2, "{text}");
    }
}

fn single_copy(ground: &Ground) {
    for image in [
        Image::OpenMpiBookworm.directory(),
        Image::OpenMpiBookworm.file(Form::Squashfs),
    ] {
        // Open MPI says so on standard error where it cannot.
        let words = [
            "-N1",
            "-n2",
            "--mpi=pmix",
            "--export=ALL,OMPI_MCA_btl_vader_single_copy_mechanism=cma",
            "latency",
        ];
        let output = ground.srun_in(&image, &words);
        output.succeeded().quietly();
        assert!(output.stdout().contains("4194304"), "{output}");
    }
}

/// All nodes are one kernel: transports would try shared memory across them.
const APART: [(&str, &str); 3] = [
    ("UCX_TLS", "tcp,self"),
    ("UCX_NET_DEVICES", "eth0"),
    ("FI_PROVIDER", "tcp"),
];

/// One world, and nothing on standard error.
fn expect_world(output: &test_support::Output, ranks: usize, library: &str) {
    output.succeeded().quietly();
    let text = output.stdout();
    for rank in 0..ranks {
        let line = format!("rank {rank} of {ranks} on ");
        let told = text.lines().find(|told| told.starts_with(&line));
        assert!(
            told.is_some_and(|told| told.contains(library)),
            "{rank}: {output}"
        );
    }
}

fn every_mpi(ground: &Ground) {
    // MPICH 4.0 with UCX has a case of its own, as it often does not come out of
    // MPI_Finalize.
    let all = Image::WITH_MPI.into_iter();
    for (image, library) in all.filter(|(image, _)| *image != Image::MpichBookworm) {
        for kind in ["pmix", "pmi2", "none"] {
            let option = image_option(&image.directory());
            let kind = format!("--mpi={kind}");
            let words = ["--quiet", &option, &kind, "-N2", "-n2", "ring"];
            let output = ground.command_with(&APART, "srun", &words);
            expect_world(&output, 2, library);
        }
    }
}

fn by_the_command(ground: &Ground) {
    let command = test_support::command();
    let command = command.to_str().expect("a printable path");
    for (image, library) in [
        (Image::OpenMpiBookworm, "Open MPI v4.1.4"),
        (Image::WheelMpich5, "MPICH Version:      5.0.1"),
        (Image::WheelIntel, "Intel(R) MPI Library 2021.14"),
    ] {
        let directory = image.directory();
        let directory = directory.to_str().expect("a printable path");
        for kind in ["pmix", "pmi2", "none"] {
            let kind = format!("--mpi={kind}");
            let words = [
                "--quiet", &kind, "-N2", "-n2", command, "exec", directory, "ring",
            ];
            let output = ground.command_with(&APART, "srun", &words);
            expect_world(&output, 2, library);
        }
    }
}

/// Beside another command there is no bridge.
fn refused(ground: &Ground) {
    let image = Image::OpenMpiBookworm.directory();
    ground.configure("command=/bin/true");
    let expected = "start ring: Slurm srun offers PMI-2, the program's Open MPI 4.1.4 speaks PMIx: the bridge between them, pmi-bridge, is not installed";
    let begun = Instant::now();
    let output = ground.srun_in(&image, &["-n2", "--mpi=pmi2", "ring"]);
    assert!(output.stderr().contains(expected), "{output}");
    assert!(!output.status.success(), "{output}");
    assert!(!output.stdout().contains("rank 0 of 1"), "{output}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{output}");
    for kind in ["--mpi=none", "--mpi=pmi2", "--mpi=pmix"] {
        ground
            .srun_in(&image, &["-n2", kind, "true"])
            .succeeded()
            .quietly();
    }
    refused_on_two_nodes(ground);
    // The site may have it otherwise: then Open MPI itself says what it comes to.
    ground.configure("command=/bin/true mpi=pass");
    let output = ground.srun_in(&image, &["-n2", "--mpi=pmi2", "ring"]);
    assert!(
        output
            .stderr()
            .contains("OMPI was not built with SLURM's PMI"),
        "{output}"
    );
}

/// Ranks say why they do not start, also where srun kills the step at the first that ends.
fn refused_on_two_nodes(ground: &Ground) {
    let image = Image::OpenMpiBookworm.directory();
    let directory = image.to_str().expect("a printable path");
    let command = test_support::command();
    let command = command.to_str().expect("a printable path");
    let line = "the program's Open MPI 4.1.4 speaks PMIx: the bridge between them, pmi-bridge, is not installed";
    let without = [("SINGULARITY_LIBEXEC", "/nonexistent")];
    for kind in ["--mpi=pmi2", "--mpi=none"] {
        for kill in ["--kill-on-bad-exit=0", "--kill-on-bad-exit=1"] {
            let words = [
                "--quiet", kind, kill, "-N2", "-n4", command, "exec", directory, "ring",
            ];
            let outputs = [
                ground.command_with(&without, "srun", &words),
                ground.srun_in(&image, &[kind, kill, "-N2", "-n4", "ring"]),
            ];
            for output in outputs {
                output.exited_with(255).wrote("");
                assert!(output.stderr().contains(line), "{output}");
            }
        }
    }
}

fn check(ground: &Ground) {
    let command = test_support::command();
    let command = command.to_str().expect("a printable path");
    let image = Image::OpenMpiBookworm.file(Form::Squashfs);
    let image = image.to_str().expect("a printable path");
    let words = [command, "mpi", "check", image, "ring"];
    let (direct, bridged) = ("directly: ", "over the bridge: ");
    for (kind, interface, meeting) in [
        ("--mpi=pmix", "PMIx ", direct),
        ("--mpi=pmi2", "PMI-2 on descriptor ", bridged),
        ("--mpi=none", "none but Slurm's own PMI-1 ", bridged),
    ] {
        let output = ground.srun(&[&[kind, "-n1"], &words[..]].concat());
        output.succeeded().quietly();
        let heading = format!("How they meet\n  Slurm srun ({interface}");
        for part in [&*heading, meeting] {
            assert!(output.stdout().contains(part), "{part}: {output}");
        }
    }
    // In an allocation, outside of its steps, each that could start one.
    let expected = [
        "none: this is no rank of a job",
        "srun --mpi=pmix (slurm-wlm 22.05.8)\n    directly: ",
        "srun --mpi=pmi2 (slurm-wlm 22.05.8)\n    over the bridge: ",
        "srun --mpi=none (slurm-wlm 22.05.8)\n    over the bridge: ",
        "(Open MPI 4.1.4)\n    directly: ",
    ];
    let alone = ground.command("salloc", &[&["--quiet", "-n1"], &words[..]].concat());
    alone.succeeded().quietly();
    let (batch, output) = ground.batch(&["-n1"], &format!("{}\n", words.join(" ")));
    output.succeeded();
    for text in [alone.stdout(), batch] {
        for part in expected {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

fn python(ground: &Ground) {
    const WORLD: &str = "from mpi4py import MPI; c = MPI.COMM_WORLD; \
        print(f'rank {c.rank} of {c.size}, sum {c.allreduce(c.rank)}, {MPI.Get_library_version()[:9]}')";
    let image = Image::Python.directory();
    for kind in ["--mpi=pmix", "--mpi=pmi2", "--mpi=none"] {
        for (variables, library) in [
            (vec![APART[0]], "Open MPI "),
            (
                vec![
                    APART[0],
                    (
                        "SINGULARITYENV_MPI4PY_LIBMPI",
                        "/opt/mpich/lib/libmpi.so.12",
                    ),
                ],
                "MPICH Ver",
            ),
        ] {
            let option = image_option(&image);
            let words = [
                "--quiet", kind, "-N2", "-n4", &option, "python3", "-c", WORLD,
            ];
            let output = ground.command_with(&variables, "srun", &words);
            output.succeeded().quietly();
            for rank in 0..4 {
                let line = format!("rank {rank} of 4, sum 6, {library}\n");
                assert!(output.stdout().contains(&line), "{line}: {output}");
            }
        }
    }
}

fn mpirun(ground: &Ground) {
    let image = Image::OpenMpiBookworm.file(Form::Squashfs);
    let image = image.to_str().expect("a printable path");
    let command = test_support::command();
    let line = format!(
        "mpirun -n 4 --oversubscribe {} exec {image} ring",
        command.display()
    );
    let (text, output) = ground.batch(&["-N2", "-n4"], &line);
    output.succeeded();
    expect_ring(&text, 4, &text);
    let words = ["--quiet", "-N2", "-n4", "sh", "-c", &line];
    let output = ground.command("salloc", &words);
    expect_ring(&output.succeeded().stdout(), 4, &output);
    // Daemons of launchers stay on the host where the job has an image for all.
    let option = image_option(&Image::Busybox.directory());
    let (text, _) = ground.batch(&["-N2", "-n4", &option], &line);
    expect_ring(&text, 4, &text);
}
