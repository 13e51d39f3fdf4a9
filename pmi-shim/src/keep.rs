//! The variables that a launcher's interface is made of.

use crate::host::Host;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What survives `--cleanenv`, by the beginning of the name.
const PREFIXES: &[&str] = &[
    // The interfaces.
    "PMI_",
    "PMI2_",
    "PMIX_",
    // Open MPI and PRRTE: parameters, numbers, transport keys.
    "OMPI_",
    "OPAL_",
    "ORTE_",
    "PRTE_",
    "PRRTE_",
    // Hydra and what it starts: MPICH, Intel MPI, MVAPICH.
    "HYD",
    "MPI_LOCAL",
    "MPIR_",
    "MPICH_",
    "MPIEXEC_",
    "I_MPI_",
    "MV2_",
    "MVP_",
    // Resource managers.
    "SLURM",
    "PALS_",
    "FLUX_",
    "PBS_",
    "LSB_",
    "LSF_",
    "JSM_",
    "ALPS_",
    "COBALT_",
    // Transports: an interface that is chosen on the host is meant for the rank.
    "FI_",
    "UCX_",
    "UCC_",
    "PSM2_",
    "PSM3_",
    "HFI_",
    "IPATH_",
    "NCCL_",
    "RCCL_",
    "GDRCOPY_",
    // Which processor and device a rank was given.
    "OMP_",
    "GOMP_",
    "KMP_",
    "CUDA_VISIBLE_",
    "ROCR_VISIBLE_",
    "HIP_VISIBLE_",
    "ZE_AFFINITY_",
    "GPU_DEVICE_",
];

/// What survives `--cleanenv`, by its whole name.
const NAMES: &[&str] = &[
    "PMIX",
    "GFORTRAN_UNBUFFERED_PRECONNECTED",
    "ENVIRONMENT",
    "LDCS_RANKINFO",
];

impl Host {
    /// Whether a variable belongs to the launcher, the MPI or its transports, and
    /// so has to reach the rank even with `--cleanenv`.
    ///
    /// Asked of a process that is not a rank, it is always no: `--cleanenv` then
    /// means what it says.
    pub fn keeps(&self, name: &OsStr) -> bool {
        self.is_rank()
            && (NAMES.iter().any(|&other| name == other)
                || PREFIXES
                    .iter()
                    .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes())))
    }
}
