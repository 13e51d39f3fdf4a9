//! What was found out about the launcher.

use crate::identity::JobIdentity;
use std::path::PathBuf;

/// The number of an inherited descriptor.
pub type Descriptor = i32;

/// The program that started this process as one of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Launcher {
    /// mpirun of Open MPI 4, or its orted on another node.
    OpenMpi4,
    /// prterun, prun or a PRRTE DVM; mpirun of Open MPI 5.
    Prrte,
    /// A task of srun.
    Slurm,
    /// mpiexec of MPICH, Intel MPI or MVAPICH, by way of hydra's proxy.
    Hydra,
    /// HPE's Parallel Application Launch Service (`mpiexec`, `aprun`).
    Pals,
    /// A task of Flux.
    Flux,
    /// An interface is there, but nothing says whose.
    Unknown,
}

impl Launcher {
    /// Its name as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::OpenMpi4 => "Open MPI 4 mpirun",
            Launcher::Prrte => "PRRTE (Open MPI 5 mpirun)",
            Launcher::Slurm => "Slurm srun",
            Launcher::Hydra => "hydra (MPICH or Intel MPI mpiexec)",
            Launcher::Pals => "PALS",
            Launcher::Flux => "Flux",
            Launcher::Unknown => "an unknown launcher",
        }
    }
}

/// How the launcher is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Interface {
    /// A PMIx server on this node (`PMIX_NAMESPACE`, `PMIX_RANK` and
    /// `PMIX_SERVER_URI…`, which `PMIx_Init` of openpmix looks for).
    Pmix {
        /// `PMIX_VERSION`: the server's, where it says so (4.0 and later).
        version: Option<String>,
        /// The address to connect to, as given.
        uri: String,
    },
    /// The PMI-2 wire on an inherited socket (`PMI_FD`), as Slurm's mpi/pmi2
    /// serves it. It accepts the PMI-1 wire on the same socket too.
    Pmi2 {
        /// The number in `PMI_FD`; it was open.
        descriptor: Descriptor,
    },
    /// The PMI-1 wire, as hydra and Flux serve it.
    Pmi1(Wire1),
    /// Slurm's own PMI-1, which only its libpmi speaks: a connection to srun
    /// (`SLURM_SRUN_COMM_HOST`, `SLURM_SRUN_COMM_PORT`).
    SlurmPmi1,
    /// HPE Cray PMI, which only the vendor's libpmi speaks.
    CrayPmi,
}

/// Where the PMI-1 wire is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wire1 {
    /// An inherited socket, named by `PMI_FD`; it was open.
    Inherited(Descriptor),
    /// A TCP address, named by `PMI_PORT`, to be greeted with `PMI_ID`.
    Tcp(String),
}

/// The launcher's side of this process: what [`crate::detect()`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Who started us; [`Launcher::Unknown`] where nobody did.
    pub launcher: Launcher,
    /// Over which interfaces it can be spoken to, the one it means first. Empty:
    /// this process is not a rank.
    pub interfaces: Vec<Interface>,
    /// The name of the job, where this process is a rank.
    pub job: Option<JobIdentity>,
    /// The rank in the job.
    pub rank: Option<u32>,
    /// How many ranks the job has.
    pub size: Option<u32>,
    /// The rank among those on this node.
    pub local_rank: Option<u32>,
    /// How many ranks of the job are on this node.
    pub local_size: Option<u32>,
    /// Whether the launcher is Intel MPI's own hydra.
    pub is_intels: bool,
    /// Candidates for [`Host::directories`], found while detecting.
    pub(crate) directories: Vec<(PathBuf, crate::Why)>,
}

impl Host {
    /// Nobody launched us.
    pub(crate) fn none() -> Self {
        Host {
            launcher: Launcher::Unknown,
            interfaces: Vec::new(),
            job: None,
            rank: None,
            size: None,
            local_rank: None,
            local_size: None,
            is_intels: false,
            directories: Vec::new(),
        }
    }

    /// What would be found out under this launcher, of a job of several ranks: for
    /// saying beforehand what follows.
    pub fn under(launcher: Launcher, interface: Interface, is_intels: bool) -> Self {
        Host {
            launcher,
            interfaces: vec![interface],
            rank: Some(0),
            size: Some(4),
            is_intels,
            ..Host::none()
        }
    }

    /// What is found out where nobody launched us.
    pub fn nobody() -> Self {
        Host::none()
    }

    /// Whether a launcher started this process as one of its ranks.
    ///
    /// A shell in `salloc` or the script of `sbatch` is not one. A program that
    /// a rank starts looks like the rank itself, and counts as it.
    pub fn is_rank(&self) -> bool {
        !self.interfaces.is_empty()
    }

    /// Whether a PMIx server is offered.
    pub fn has_pmix(&self) -> bool {
        self.interfaces
            .iter()
            .any(|interface| matches!(interface, Interface::Pmix { .. }))
    }

    /// The descriptors that have to stay open across every execve: the
    /// interface's socket, and the one that the job identity is read from.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let mut kept: Vec<Descriptor> = self
            .interfaces
            .iter()
            .filter_map(|interface| match *interface {
                Interface::Pmi2 { descriptor } => Some(descriptor),
                Interface::Pmi1(Wire1::Inherited(descriptor)) => Some(descriptor),
                _ => None,
            })
            .collect();
        if let Some(crate::Lacks::InodeOf(descriptor)) = self.job.as_ref().map(JobIdentity::lacks) {
            kept.push(descriptor);
        }
        kept
    }
}
