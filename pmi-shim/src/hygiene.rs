//! Which of the host's variables must not enter the image, and which must enter
//! it with another value.
//!
//! The table is the whole of it: what is dropped, what is set, and what is kept even
//! where the user wants few variables, each with its reason, and with what has to be
//! true of the launcher and of the MPI in the image. It makes the two work together
//! that were built apart, with other prefixes and other PMIx releases, without a word
//! from the user.

use crate::environment::Environment;
use crate::facts::{Family, Mpi, Program};
use crate::host::{Host, Interface, Launcher};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

#[cfg(test)]
mod documented;

/// One change to the environment of the program in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The variable does not enter the image.
    Drop {
        /// Its name.
        name: OsString,
        /// The reason, one line for -v.
        why: &'static str,
    },
    /// The variable enters the image with this value.
    Set {
        /// Its name.
        name: OsString,
        /// The value in the image.
        value: OsString,
        /// The reason, one line for -v.
        why: &'static str,
    },
}

impl Change {
    /// The variable.
    pub fn name(&self) -> &OsStr {
        match self {
            Change::Drop { name, .. } | Change::Set { name, .. } => name,
        }
    }

    /// The new value; none where the variable is dropped.
    pub fn value(&self) -> Option<&OsStr> {
        match self {
            Change::Drop { .. } => None,
            Change::Set { value, .. } => Some(value),
        }
    }

    /// The reason.
    pub fn why(&self) -> &'static str {
        match self {
            Change::Drop { why, .. } | Change::Set { why, .. } => why,
        }
    }
}

/// What a row of the table is about, by the name of the variable.
#[derive(Clone, Copy)]
enum Name {
    /// This one.
    Is(&'static str),
    /// All whose names begin so.
    Begins(&'static str),
}

impl Name {
    fn fits(self, name: &OsStr) -> bool {
        match self {
            Name::Is(other) => name == other,
            Name::Begins(beginning) => name.as_bytes().starts_with(beginning.as_bytes()),
        }
    }
}

/// What happens to it.
#[derive(Clone, Copy)]
enum Act {
    /// It does not enter the image.
    Drop,
    /// It does not enter the image with a value that begins so.
    DropIf(&'static str),
    /// It is set to this, unless it is set already. Where the named variable is a list
    /// of what the server offers, only if it is among that.
    Set(&'static str, Option<&'static str>),
    /// It enters even where the user wants few variables.
    Keep,
}

/// What has to be true of the launcher.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Nothing: in every image, launched or not.
    Always,
    /// It started this process as a rank.
    Rank,
    /// It offers PMIx.
    Pmix,
    /// It offers a PMI socket, and no PMIx: whatever of PMIx is there is an outer launcher's.
    SocketAlone,
    /// It offers no PMI socket, and a `PMI_FD` is there: an outer launcher's.
    StaleSocket,
    /// It is PRRTE.
    Prrte,
}

/// What has to be true of the MPI in the image, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Image {
    /// Nothing.
    Any,
    /// It may be Open MPI up to 4.1.
    OpenMpi4,
    /// It may be Open MPI from 5.0 on.
    OpenMpi5,
    /// It may be MPICH or one of its descendants.
    Mpich,
}

impl Image {
    fn fits(self, program: &Program) -> bool {
        let is_old =
            |mpi: &Mpi| mpi.family == Family::OpenMpi && mpi.major.is_none_or(|major| major < 5);
        match self {
            Image::Any => true,
            Image::OpenMpi4 => program.may_use(is_old),
            Image::OpenMpi5 => program.may_use(|mpi| mpi.family == Family::OpenMpi && !is_old(mpi)),
            Image::Mpich => program.may_use(|mpi| mpi.family != Family::OpenMpi),
        }
    }
}

struct Row {
    name: Name,
    act: Act,
    when: When,
    image: Image,
    why: &'static str,
}

const fn row(name: Name, act: Act, when: When, why: &'static str) -> Row {
    Row {
        name,
        act,
        when,
        image: Image::Any,
        why,
    }
}

const fn dropped(name: &'static str, when: When, why: &'static str) -> Row {
    row(Name::Is(name), Act::Drop, when, why)
}

const fn kept(beginning: &'static str, why: &'static str) -> Row {
    row(Name::Begins(beginning), Act::Keep, When::Rank, why)
}

const LIBRARY_PATH: &str = "names the host's libraries, which are not the image's";
const PREFIX: &str = "says where the host's MPI is installed; the image's is elsewhere";
const COMPONENTS: &str = "names the host's MPI components, which the image's MPI would load";
const FILES_READ: &str =
    "says that mpirun has read the host's parameter files, so the image's would be skipped";
const OUTER: &str = "belongs to an outer launcher, not to the one that started this rank";
const INTERFACE: &str = "the launcher's interface";
const PARAMETERS: &str = "parameters and numbers of the MPI";
const MANAGER: &str = "the resource manager's job";
const TRANSPORT: &str = "what the host chose of the network is meant for the rank";
const PLACED: &str = "which processors and devices the rank was given";

const TABLE: &[Row] = &[
    dropped("LD_LIBRARY_PATH", When::Always, LIBRARY_PATH),
    dropped("LD_PRELOAD", When::Always, LIBRARY_PATH),
    dropped("LD_AUDIT", When::Always, LIBRARY_PATH),
    dropped("DYLD_LIBRARY_PATH", When::Rank, LIBRARY_PATH),
    dropped("OPAL_PREFIX", When::Rank, PREFIX),
    dropped("OPAL_DESTDIR", When::Rank, PREFIX),
    dropped("OPAL_LIBDIR", When::Rank, PREFIX),
    dropped("OPAL_PKGLIBDIR", When::Rank, PREFIX),
    dropped("OPAL_DATADIR", When::Rank, PREFIX),
    dropped("OPAL_PKGDATADIR", When::Rank, PREFIX),
    dropped("OPAL_SYSCONFDIR", When::Rank, PREFIX),
    dropped("OPAL_LIBEXECDIR", When::Rank, PREFIX),
    dropped("OPAL_EXEC_PREFIX", When::Rank, PREFIX),
    dropped("OPAL_BINDIR", When::Rank, PREFIX),
    dropped("OMPI_PREFIX", When::Rank, PREFIX),
    dropped("OMPI_LIBDIR_LOC", When::Rank, PREFIX),
    dropped("PMIX_PREFIX", When::Rank, PREFIX),
    dropped("PMIX_INSTALL_PREFIX", When::Rank, PREFIX),
    dropped("PMIX_EXEC_PREFIX", When::Rank, PREFIX),
    dropped("PMIX_LIBDIR", When::Rank, PREFIX),
    dropped("PMIX_PKGLIBDIR", When::Rank, PREFIX),
    dropped("PMIX_DATADIR", When::Rank, PREFIX),
    dropped("PMIX_PKGDATADIR", When::Rank, PREFIX),
    dropped("PMIX_SYSCONFDIR", When::Rank, PREFIX),
    dropped("PRTE_PREFIX", When::Rank, PREFIX),
    dropped("I_MPI_ROOT", When::Rank, PREFIX),
    dropped("OMPI_MCA_mca_base_component_path", When::Rank, COMPONENTS),
    dropped("OMPI_MCA_mca_component_path", When::Rank, COMPONENTS),
    dropped("PMIX_MCA_mca_base_component_path", When::Rank, COMPONENTS),
    dropped(
        "PMIX_MCA_pmix_mca_base_component_path",
        When::Rank,
        COMPONENTS,
    ),
    dropped("OMPI_MCA_mca_base_param_files", When::Rank, FILES_READ),
    dropped("PMIX_PARAM_FILE_PASSED", When::Rank, FILES_READ),
    dropped("OPAL_USER_PARAMS_GIVEN", When::Rank, FILES_READ),
    dropped("OPAL_SYS_PARAMS_GIVEN", When::Rank, FILES_READ),
    // An interface that another launcher, outside ours, offered to whoever started ours.
    // On the host it is as wrong; here it would let an MPI take every rank for the one
    // rank of the outer job, or write to a descriptor that is no longer a PMI socket.
    dropped("PMIX_NAMESPACE", When::SocketAlone, OUTER),
    dropped("PMIX_RANK", When::SocketAlone, OUTER),
    row(
        Name::Begins("PMIX_SERVER_URI"),
        Act::Drop,
        When::SocketAlone,
        OUTER,
    ),
    Row {
        image: Image::Mpich,
        ..row(
            Name::Is("SLURM_MPI_TYPE"),
            Act::DropIf("pmix"),
            When::SocketAlone,
            "Intel MPI would look for the PMIx of an outer step, and end",
        )
    },
    dropped("PMI_FD", When::StaleSocket, OUTER),
    dropped("PMI_RANK", When::StaleSocket, OUTER),
    dropped("PMI_SIZE", When::StaleSocket, OUTER),
    dropped("PMI_JOBID", When::StaleSocket, OUTER),
    dropped("HYDI_CONTROL_FD", When::StaleSocket, OUTER),
    // Open MPI 4.1 asks its schizo components which launcher it has. PRRTE is younger
    // than all of them. The jsm component only looks for the variable, and then does what
    // is right under any PMIx server (`orte/mca/schizo/jsm`).
    Row {
        image: Image::OpenMpi4,
        ..row(
            Name::Is("JSM_JSRUN_PORT"),
            Act::Set("1", None),
            When::Prrte,
            "an Open MPI 4 in the image would not know that PRRTE launched it",
        )
    },
    // PMIx 5 as a server takes the packing that a client of 4.1 and 4.2 prefers for one
    // with a field more, and mpirun says so once a rank. v3 both know, and mean the same.
    Row {
        image: Image::OpenMpi4,
        ..row(
            Name::Is("PMIX_MCA_bfrops"),
            Act::Set("v3", None),
            When::Prrte,
            "PRRTE misreads how the PMIx of an Open MPI 4 packs data, and complains",
        )
    },
    // Asked for the way to the node's own address, the kernel answers with the loopback
    // device, and the netlink component, which Debian 13 builds, takes the address of the
    // real one for unreachable. The other component is the one without libnl.
    Row {
        image: Image::OpenMpi5,
        ..row(
            Name::Is("OMPI_MCA_reachable"),
            Act::Set("weighted", None),
            When::Rank,
            "netlink takes the ranks of one node for unreachable, and complains",
        )
    },
    // Every PMIx server offers `hash`: job information travels over the connection
    // instead of through mapped files, so that no directory needs to be shared. What the
    // server offers is in PMIX_GDS_MODULE; no launcher sets the parameter itself.
    row(
        Name::Is("PMIX_MCA_gds"),
        Act::Set("hash", Some("PMIX_GDS_MODULE")),
        When::Pmix,
        "PMIx data over the connection: mapped files differ between releases",
    ),
    // Slurm's server offers `munge,native`. A client in an image has no munge socket and
    // says so at length; `native` compares the ids of the connected socket.
    row(
        Name::Is("PMIX_MCA_psec"),
        Act::Set("native", Some("PMIX_SECURITY_MODE")),
        When::Pmix,
        "PMIx authentication by socket: the image has no munge",
    ),
    kept("PMI_", INTERFACE),
    kept("PMI2_", INTERFACE),
    kept("PMIX_", INTERFACE),
    row(Name::Is("PMIX"), Act::Keep, When::Rank, INTERFACE),
    // Open MPI and PRRTE: parameters, numbers, transport keys.
    kept("OMPI_", PARAMETERS),
    kept("OPAL_", PARAMETERS),
    kept("ORTE_", PARAMETERS),
    kept("PRTE_", PARAMETERS),
    kept("PRRTE_", PARAMETERS),
    // Hydra and what it starts: MPICH, Intel MPI, MVAPICH.
    kept("HYD", PARAMETERS),
    kept("MPI_LOCAL", PARAMETERS),
    kept("MPIR_", PARAMETERS),
    kept("MPICH_", PARAMETERS),
    kept("MPIEXEC_", PARAMETERS),
    kept("I_MPI_", PARAMETERS),
    kept("MV2_", PARAMETERS),
    kept("MVP_", PARAMETERS),
    row(
        Name::Is("GFORTRAN_UNBUFFERED_PRECONNECTED"),
        Act::Keep,
        When::Rank,
        PARAMETERS,
    ),
    kept("SLURM", MANAGER),
    kept("PALS_", MANAGER),
    kept("FLUX_", MANAGER),
    kept("PBS_", MANAGER),
    kept("LSB_", MANAGER),
    kept("LSF_", MANAGER),
    kept("JSM_", MANAGER),
    kept("ALPS_", MANAGER),
    kept("COBALT_", MANAGER),
    row(Name::Is("ENVIRONMENT"), Act::Keep, When::Rank, MANAGER),
    row(Name::Is("LDCS_RANKINFO"), Act::Keep, When::Rank, MANAGER),
    kept("FI_", TRANSPORT),
    kept("UCX_", TRANSPORT),
    kept("UCC_", TRANSPORT),
    kept("PSM2_", TRANSPORT),
    kept("PSM3_", TRANSPORT),
    kept("HFI_", TRANSPORT),
    kept("IPATH_", TRANSPORT),
    kept("NCCL_", TRANSPORT),
    kept("RCCL_", TRANSPORT),
    kept("GDRCOPY_", TRANSPORT),
    kept("OMP_", PLACED),
    kept("GOMP_", PLACED),
    kept("KMP_", PLACED),
    kept("CUDA_VISIBLE_", PLACED),
    kept("ROCR_VISIBLE_", PLACED),
    kept("HIP_VISIBLE_", PLACED),
    kept("ZE_AFFINITY_", PLACED),
    kept("GPU_DEVICE_", PLACED),
];

impl Host {
    /// The changes that this environment needs for this program, in the order of the
    /// table.
    ///
    /// Only what is found is dropped, and what is set already is not set again: a
    /// value in `PMIX_MCA_gds` is the user's. Apply these before the variables that the
    /// user asked for by name, which then win over a dropped one too.
    pub fn hygiene(&self, environment: &Environment<'_>, program: &Program) -> Vec<Change> {
        let conditions = self.conditions(environment);
        let mut changes = Vec::new();
        for row in TABLE {
            if !conditions.contains(&row.when) || !row.image.fits(program) {
                continue;
            }
            match (row.act, row.name) {
                (Act::Drop | Act::DropIf(_), name) => {
                    let found = environment.fitting(name);
                    changes.extend(
                        found
                            .filter(|(_, value)| match row.act {
                                Act::DropIf(beginning) => {
                                    value.as_bytes().starts_with(beginning.as_bytes())
                                }
                                _ => true,
                            })
                            .map(|(name, _)| Change::Drop {
                                name: name.to_owned(),
                                why: row.why,
                            }),
                    );
                }
                (Act::Set(value, offers), Name::Is(name)) => {
                    let offered = offers
                        .and_then(|offers| environment.text(offers))
                        .is_none_or(|list| list.split(',').any(|module| module == value));
                    if offered && !environment.has(name) {
                        changes.push(Change::Set {
                            name: name.into(),
                            value: value.into(),
                            why: row.why,
                        });
                    }
                }
                (Act::Set(..), Name::Begins(_)) | (Act::Keep, _) => {}
            }
        }
        changes
    }

    /// What is true of this launcher.
    fn conditions(&self, environment: &Environment<'_>) -> Vec<When> {
        let socket = self.has_socket();
        [
            (When::Always, true),
            (When::Rank, self.is_rank()),
            (When::Pmix, self.has_pmix()),
            (When::SocketAlone, socket && !self.has_pmix()),
            (
                When::StaleSocket,
                self.is_rank() && !socket && environment.has("PMI_FD"),
            ),
            (When::Prrte, self.launcher == Launcher::Prrte),
        ]
        .into_iter()
        .filter(|(_, holds)| *holds)
        .map(|(when, _)| when)
        .collect()
    }

    /// Whether the launcher offers the PMI-1 or PMI-2 wire.
    pub(crate) fn has_socket(&self) -> bool {
        self.interfaces
            .iter()
            .any(|interface| matches!(interface, Interface::Pmi1(_) | Interface::Pmi2 { .. }))
    }

    /// Why a variable has to reach the rank even with `--cleanenv`: it belongs to the
    /// launcher, the MPI or its transports. `None` if it need not.
    ///
    /// Asked of a process that is not a rank, it is always none: `--cleanenv` then
    /// means what it says.
    pub fn keeps_because(&self, name: &OsStr) -> Option<&'static str> {
        let keeps = |row: &&Row| matches!(row.act, Act::Keep) && row.name.fits(name);
        let row = TABLE.iter().find(keeps)?;
        self.is_rank().then_some(row.why)
    }

    /// Whether there is such a reason.
    pub fn keeps(&self, name: &OsStr) -> bool {
        self.is_rank() && self.keeps_because(name).is_some()
    }
}

impl<'a> Environment<'a> {
    fn fitting(&self, name: Name) -> impl Iterator<Item = (&'a OsStr, &'a OsStr)> + '_ {
        let (whole, beginning) = match name {
            Name::Is(name) => (self.get(name).map(|value| (OsStr::new(name), value)), None),
            Name::Begins(beginning) => (None, Some(beginning)),
        };
        whole.into_iter().chain(
            beginning
                .into_iter()
                .flat_map(|prefix| self.beginning(prefix)),
        )
    }
}

const NO_CMA: &str = "ranks without a common user namespace cannot read one another's memory";
const NO_PROC: &str =
    "ranks without a common user namespace cannot open one another's /proc/PID/fd";

/// What to set where the ranks of a node each have a user namespace of their own
/// (`--share=off`).
///
/// Their processes may then neither use process_vm_readv(2) on one another nor
/// open one another's descriptors. Open MPI 4.1 notices at start, warns, falls
/// back, and still hangs with large messages (from 64 KiB on, when many are under
/// way); MPICH and UCX abort. Told beforehand not to try, all of them
/// work through shared memory, with one copy more. What the user has set is left
/// as it is.
pub fn without_shared_namespace(environment: &Environment<'_>) -> Vec<Change> {
    [
        // Open MPI 4 (opal/mca/btl/vader).
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none", NO_CMA),
        // Open MPI 5 (opal/mca/smsc), where single copy is a framework.
        ("OMPI_MCA_smsc", "^cma", NO_CMA),
        // MPICH 4.3 and later (src/mpid/ch4/shm/ipc/cma).
        ("MPIR_CVAR_CH4_CMA_ENABLE", "0", NO_CMA),
        // UCX (src/uct/sm/scopy/cma).
        ("UCX_TLS", "^cma", NO_CMA),
        // UCX (src/uct/sm/mm/posix): attach by the name in /dev/shm instead.
        ("UCX_POSIX_USE_PROC_LINK", "n", NO_PROC),
    ]
    .into_iter()
    .filter(|(name, _, _)| !environment.has(name))
    .map(|(name, value, why)| Change::Set {
        name: name.into(),
        value: value.into(),
        why,
    })
    .collect()
}
