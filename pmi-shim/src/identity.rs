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
/// | Hydra | the socket at `HYDI_CONTROL_FD` | nothing in the environment differs between two jobs, but all ranks of a proxy inherit one and the same socket: see [`Lacks::InodeOf`] |
/// | Hydra, where ssh or srun started the proxy | the proxy itself | no variable and no descriptor with a known number: see [`Lacks::SessionStarter`] |
/// | Hydra, `-pmi-port` | `PMI_PORT`, with the above | the address of the job's own proxy |
/// | PALS | `PALS_APID` | each launch has its own (a UUID; under Slurm and Flux, which imitate it, theirs is taken) |
/// | Flux | `FLUX_JOB_ID`, and `FLUX_URI` as instances number for themselves | |
///
/// It names the job on all of its nodes, so whoever meets others by it adds what
/// tells nodes apart where several share a kernel (the mount namespace).
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
    /// Pid and start time (field 22 of `/proc/PID/stat`) of the parent of the
    /// process that getsid(2) names, or of our own parent where getsid gives 0.
    ///
    /// Hydra's proxy makes each rank the leader of a session of its own, so the
    /// parent of that leader is the proxy, however many scripts stand between the
    /// rank and us; our own parent would be the script. On nodes that hydra
    /// reached through ssh or srun there is no `HYDI_CONTROL_FD`, and this is what
    /// remains.
    SessionStarter,
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
    /// fstat(2) on a descriptor, `starter` any text that names the starter of our
    /// session for good ([`Lacks::SessionStarter`]). It is asked too where the
    /// descriptor has gone.
    pub fn complete(
        &self,
        inode_of: impl FnOnce(Descriptor) -> Option<u64>,
        starter: impl FnOnce() -> String,
    ) -> String {
        let inode = match self.lacks {
            Lacks::Nothing => return self.known.clone(),
            Lacks::SessionStarter => None,
            Lacks::InodeOf(descriptor) => inode_of(descriptor),
        };
        match inode {
            Some(inode) => format!("{} socket {inode}", self.known),
            None => format!("{} starter {}", self.known, starter()),
        }
    }
}
