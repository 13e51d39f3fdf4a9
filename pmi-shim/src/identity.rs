//! What names a job, so that its ranks find one another and nobody else.

use crate::Descriptor;

/// The name of one launched set of ranks: the same for all of them, different
/// for any other set that runs at the same time.
///
/// Where each launcher's comes from:
///
/// | launcher | name | why it differs between jobs |
/// |---|---|---|
/// | Open MPI 4 | `PMIX_NAMESPACE` and `OMPI_MCA_orte_hnp_uri` | the namespace is a job number whose upper half is a 16-bit hash of host and pid (`orte/mca/plm/base/plm_base_jobid.c`), so the address of mpirun's own listener is added; orted hands both to the ranks of all nodes |
/// | PRRTE | `PMIX_NAMESPACE` = `prterun-HOST-PID@N` | host and pid of prterun, and the number of the job under one DVM |
/// | Slurm, `--mpi=pmix` | `PMIX_NAMESPACE` = `slurm.pmix.JOB.STEP` | `src/plugins/mpi/pmix/pmixp_info.c` |
/// | Slurm, otherwise | `SLURM_JOB_ID.SLURM_STEP_ID` (the job of a heterogeneous component is its own) | the controller numbers them |
/// | Hydra, default | the socket at `HYDI_CONTROL_FD` | nothing in the environment differs between two jobs, but all ranks of a proxy inherit one and the same socket: see [`Lacks::InodeOf`] |
/// | Hydra, `-pmi-port` | `PMI_PORT` | the address of the job's own proxy |
/// | PALS | `PALS_APID` | a UUID for each launch |
/// | Flux | `FLUX_JOB_ID`, and `FLUX_URI` as instances number for themselves | |
///
/// The text can hold any character: use it as something to hash or compare, not
/// as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobIdentity {
    pub(crate) known: String,
    pub(crate) lacks: Lacks,
}

/// What has to be added to a [`JobIdentity`] because the environment does not
/// hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lacks {
    /// Nothing: the text is the name.
    Nothing,
    /// The inode number that fstat(2) gives for this descriptor. A socket's
    /// number is its own for as long as it lives, and this one is shared by all
    /// ranks that a proxy started, also by those with a shell in between.
    InodeOf(Descriptor),
    /// Pid and start time (field 22 of `/proc/PID/stat`) of the parent process.
    /// Weaker: a rank that a script starts has the script for a parent, and so
    /// shares with nobody.
    Parent,
}

impl JobIdentity {
    pub(crate) fn whole(known: impl Into<String>) -> Self {
        JobIdentity {
            known: known.into(),
            lacks: Lacks::Nothing,
        }
    }

    pub(crate) fn lacking(known: impl Into<String>, lacks: Lacks) -> Self {
        JobIdentity {
            known: known.into(),
            lacks,
        }
    }

    /// What the environment told, complete or not.
    pub fn known(&self) -> &str {
        &self.known
    }

    /// What still has to be found out.
    pub fn lacks(&self) -> Lacks {
        self.lacks
    }

    /// The whole name, with the missing part asked of the caller: `inode_of` is
    /// fstat(2) on a descriptor, `parent` any text that names the parent process
    /// for good. Where the descriptor has gone, the parent stands in.
    pub fn complete(
        &self,
        inode_of: impl FnOnce(Descriptor) -> Option<u64>,
        parent: impl FnOnce() -> String,
    ) -> String {
        match self.lacks {
            Lacks::Nothing => self.known.clone(),
            Lacks::Parent => format!("{} parent {}", self.known, parent()),
            Lacks::InodeOf(descriptor) => match inode_of(descriptor) {
                Some(inode) => format!("{} socket {inode}", self.known),
                None => format!("{} parent {}", self.known, parent()),
            },
        }
    }
}
