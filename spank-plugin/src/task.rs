//! In each task: entering, and what has to be set before Slurm executes the
//! program.
//!
//! Owns: the order of these. Never: executes, or gives up privileges; Slurm does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::{elf, Shown};
use launcher::{hold, Error, User};
use pmi_shim::{Host as Launcher, Interface};

use crate::ffi::{self, Spank};
use crate::hooks::Plugin;
use crate::scripts::{self, Outcome};
use crate::step::{self, Step};
use crate::{environment, prefix};

/// Moves the task into the step's namespace. As root.
///
/// # Errors
/// As setns(2).
pub fn enter(plugin: &mut Plugin) -> Result<(), Error> {
    match &plugin.step {
        Step::Held(held) if plugin.failure.is_none() => held.enter(),
        _ => Ok(()),
    }
}

/// Sets what the program finds: directory, environment, the words before it. As
/// the user.
///
/// # Errors
/// Why it cannot start in the image.
pub fn start(plugin: &mut Plugin, spank: Spank) -> Result<(), Error> {
    if plugin.failure.is_some() {
        return Ok(());
    }
    match &mut plugin.step {
        Step::OnHost => Ok(()),
        Step::Prefixed(words) => {
            environment::forget_ours(spank);
            prefix::put_before(spank, words)
        }
        Step::Held(held) => {
            let outside = spank.environment();
            let user = User {
                uid: nix::unistd::getuid().as_raw(),
                gid: nix::unistd::getgid().as_raw(),
                groups: Vec::new(),
            };
            let launcher =
                pmi_shim::detect(&pmi_shim::Environment::of(&outside), launcher::is_socket);
            held.start_in_working_directory()?;
            let host = step::host(&user, outside.clone(), None);
            let mut inside = held.environment(&host, launcher.clone());
            environment::leave_out_ours(&mut inside.base);
            let outcome = scripts::apply(&scripts::of_image(), &mut inside);
            let variables = inside.merged();
            warn_of_missing_pmi(spank, &launcher, &variables);
            if let Outcome::NeedsShell(text) = outcome {
                prefix::through_shell(spank, &text)?;
            }
            environment::change(spank, &outside, &variables);
            hold::forbid_gaining_privileges()
        }
    }
}

/// Says in one line, once a step, that the ranks of an MPI program will not find
/// one another.
fn warn_of_missing_pmi(spank: Spank, launcher: &Launcher, variables: &[(OsString, OsString)]) {
    let tasks = spank.tasks().unwrap_or(1);
    if tasks < 2 || spank.rank() != Some(0) {
        return;
    }
    let Some(program) = spank.arguments().into_iter().next() else {
        return;
    };
    let Some(mpi) = find(&program, variables).and_then(|path| mpi_of(&path)) else {
        return;
    };
    let offers = |wanted: fn(&Interface) -> bool| launcher.interfaces.iter().any(wanted);
    let pmix = offers(|i| matches!(i, Interface::Pmix { .. }));
    let pmi = offers(|i| matches!(i, Interface::Pmi2 { .. } | Interface::Pmi1(_)));
    let advice = match mpi {
        Mpi::Open if pmix => return,
        Mpi::Open => "add --mpi=pmix",
        Mpi::Mpich if pmi => return,
        Mpi::Mpich => "add --mpi=pmi2",
    };
    let name = Shown::new(&program).to_string();
    ffi::log_error(&format!(
        "singularity: {name} is a program of {}, which srun offers no PMI that it knows: its {tasks} ranks will not find one another (hint: {advice})",
        mpi.name()
    ));
}

#[derive(Debug, Clone, Copy)]
enum Mpi {
    Open,
    Mpich,
}

impl Mpi {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "Open MPI",
            Self::Mpich => "the MPICH family",
        }
    }
}

/// The MPI that a program is linked with; none for scripts and static programs.
fn mpi_of(path: &Path) -> Option<Mpi> {
    let described = elf::describe_file(&File::open(path).ok()?).ok()?;
    described.needed.iter().find_map(|library| {
        let name = library.to_str()?;
        if name == "libmpi.so.40" || name == "libmpi.so.20" {
            Some(Mpi::Open)
        } else if ["libmpi.so.12", "libmpich.so.12", "libmpi_abi.so"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            Some(Mpi::Mpich)
        } else {
            None
        }
    })
}

/// The program as Slurm will find it.
fn find(program: &OsStr, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = variables.iter().find(|(name, _)| name == "PATH")?;
    std::env::split_paths(&path.1)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
