//! Real MPI programs over two nodes.

use std::time::{Duration, Instant};

use test_support::{Form, Image, Running};

use crate::ground::{image_option, Ground, LIMIT};
use crate::Case;

pub const CASES: &[Case] = &[
    ("open_mpi_over_pmix_on_two_nodes", open_mpi),
    ("mpich_over_pmi2_on_two_nodes", mpich),
    ("ranks_of_a_node_copy_memory_directly", single_copy),
    ("mpi_without_pmi_is_reported", without_pmi),
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

fn without_pmi(ground: &Ground) {
    let image = Image::OpenMpiBookworm.directory();
    let expected = "singularity: ring is a program of Open MPI, which srun offers no PMI that it knows: its 2 ranks will not find one another (hint: add --mpi=pmix)";
    for kind in ["--mpi=none", "--mpi=pmi2"] {
        let output = ground.srun_in(&image, &["-n2", kind, "ring"]);
        assert_eq!(output.stderr().matches(expected).count(), 1, "{output}");
    }
    for words in [
        &["-n2", "--mpi=none", "true"][..],
        &["-n1", "--mpi=none", "true"],
    ] {
        ground.srun_in(&image, words).succeeded().quietly();
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
