//! Host directories that the launcher's interface reaches through the file
//! system.

use crate::environment::Environment;
use crate::host::{Host, Interface, Launcher};
use std::path::{Component, Path, PathBuf};

/// Why a host directory has to be visible in the image at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// The PMIx server's directory: rendezvous files, and the shared memory of
    /// the `ds12`, `ds21` and `shmem2` stores, which clients map by path.
    PmixServer,
    /// The directory in which the ranks of a node make files for one another,
    /// named to them by the server as PMIX_NSDIR.
    Session,
    /// Backing files of shared-memory transports (vader and sm of Open MPI, ch4
    /// of MPICH, posix of UCX): ranks that see another `/dev/shm` cannot attach.
    SharedMemory,
    /// The socket of munge, where PMIx was told to authenticate with it.
    Munge,
    /// The launcher's own files for this job (PALS, Flux).
    Launcher,
}

impl Why {
    /// One line for -v.
    pub fn describe(self) -> &'static str {
        match self {
            Why::PmixServer => "files of the PMIx server",
            Why::Session => "session directory of the job",
            Why::SharedMemory => "shared memory between ranks",
            Why::Munge => "munge socket for PMIx authentication",
            Why::Launcher => "files of the launcher",
        }
    }
}

impl Host {
    /// The host directories to bind at the same path, in the order of their
    /// paths, none inside another. They are candidates: one that is not there on
    /// this node is not needed either, so the caller leaves it out.
    ///
    /// `PMIX_SYSTEM_TMPDIR` is not among them. It is all of `/tmp`, which
    /// `--contain` is there to hide, and only tools that look for a system-wide
    /// server use it.
    pub fn directories(&self) -> Vec<(PathBuf, Why)> {
        self.directories.clone()
    }
}

/// Collected while detecting, when the environment is at hand.
pub(crate) fn of(host: &Host, environment: &Environment<'_>) -> Vec<(PathBuf, Why)> {
    let mut found = Vec::with_capacity(8);
    let mut from = |name: &str, why: Why| {
        if let Some(value) = environment.get(name) {
            found.push((PathBuf::from(value), why));
        }
    };
    if host.has_pmix() {
        from("PMIX_SERVER_TMPDIR", Why::PmixServer);
        from("PMIX_DSTORE_21_BASE_PATH", Why::PmixServer);
        from("PMIX_DSTORE_ESH_BASE_PATH", Why::PmixServer);
    }
    match host.launcher {
        Launcher::OpenMpi4 => {
            from("OMPI_MCA_orte_jobfam_session_dir", Why::Session);
            from("OMPI_FILE_LOCATION", Why::Session);
        }
        Launcher::Prrte => from("OMPI_FILE_LOCATION", Why::Session),
        Launcher::Pals => from("PALS_SPOOL_DIR", Why::Launcher),
        Launcher::Flux => {
            from("FLUX_JOB_TMPDIR", Why::Launcher);
            from("PALS_SPOOL_DIR", Why::Launcher);
        }
        Launcher::Slurm if host.interfaces.contains(&Interface::CrayPmi) => {
            from("PALS_SPOOL_DIR", Why::Launcher);
        }
        Launcher::Slurm | Launcher::Hydra | Launcher::Unknown => {}
    }
    if host.launcher == Launcher::Slurm && host.has_pmix() {
        found.extend(slurm_session(environment).map(|path| (path, Why::Session)));
    }
    if host.has_pmix() && environment.text("PMIX_MCA_psec") == Some("munge") {
        found.push((PathBuf::from("/run/munge"), Why::Munge));
    }
    found.push((PathBuf::from("/dev/shm"), Why::SharedMemory));
    outermost(found)
}

/// `<TmpFS>/spmix_appdir_<uid>_<job>.<step>`, which Slurm makes for the ranks and
/// tells them as PMIX_NSDIR (`src/plugins/mpi/pmix/pmixp_info.c`). TmpFS is in no
/// variable: `SLURM_PMIX_TMPDIR` overrides it, and `/tmp` is its default.
fn slurm_session(environment: &Environment<'_>) -> Option<PathBuf> {
    let base = environment.text("SLURM_PMIX_TMPDIR").unwrap_or("/tmp");
    let uid = environment.number("SLURM_JOB_UID")?;
    let step = environment
        .text("PMIX_NAMESPACE")?
        .strip_prefix("slurm.pmix.")?;
    Some(Path::new(base).join(format!("spmix_appdir_{uid}_{step}")))
}

/// Sorted, each once, none below another, and none that a mount must not go on:
/// these come from variables, which anybody can set.
fn outermost(mut found: Vec<(PathBuf, Why)>) -> Vec<(PathBuf, Why)> {
    found.retain(|(path, _)| is_a_place(path));
    found.sort();
    let mut kept: Vec<(PathBuf, Why)> = Vec::with_capacity(found.len());
    for (path, why) in found {
        match kept.last() {
            Some((outer, _)) if path.starts_with(outer) => {}
            // Rebuilt from its parts: Slurm's end in a slash.
            _ => kept.push((path.components().collect(), why)),
        }
    }
    kept
}

/// Absolute, without `..`, and not the root.
fn is_a_place(path: &Path) -> bool {
    path.is_absolute()
        && path.components().count() > 1
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_without_dots_are_offered() {
        for (path, fits) in [
            ("/tmp/a", true),
            ("/", false),
            ("//", false),
            ("", false),
            ("tmp", false),
            ("/tmp/../etc", false),
        ] {
            assert_eq!(is_a_place(Path::new(path)), fits, "{path:?}");
        }
    }

    #[test]
    fn a_directory_inside_another_is_not_offered_again() {
        let given = ["/t/a/b", "/t/a", "/t/ab", "/t/a"]
            .map(|path| (PathBuf::from(path), Why::Session))
            .to_vec();
        let kept: Vec<_> = outermost(given).into_iter().map(|(path, _)| path).collect();
        assert_eq!(kept, [PathBuf::from("/t/a"), PathBuf::from("/t/ab")]);
    }
}
