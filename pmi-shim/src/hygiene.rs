//! Which of the host's variables must not enter the image, and which must enter
//! it with another value.
//!
//! The table is the whole of it. It makes a host launcher and an MPI in the image
//! that were built apart, with other prefixes and other PMIx releases, work
//! together without a word from the user.

use crate::environment::Environment;
use crate::host::{Host, Interface, Launcher};
use std::ffi::{OsStr, OsString};

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

/// When a row of the table holds.
#[derive(Clone, Copy)]
enum When {
    /// In every image, launched or not.
    Always,
    /// Where this process is a rank.
    Rank,
}

const LIBRARY_PATH: &str = "names the host's libraries, which are not the image's";
const PREFIX: &str = "says where the host's MPI is installed; the image's is elsewhere";
const COMPONENTS: &str = "names the host's MPI components, which the image's MPI would load";
const FILES_READ: &str =
    "says that mpirun has read the host's parameter files, so the image's would be skipped";

const DROPPED: &[(&str, When, &str)] = &[
    ("LD_LIBRARY_PATH", When::Always, LIBRARY_PATH),
    ("LD_PRELOAD", When::Always, LIBRARY_PATH),
    ("LD_AUDIT", When::Always, LIBRARY_PATH),
    ("DYLD_LIBRARY_PATH", When::Rank, LIBRARY_PATH),
    ("OPAL_PREFIX", When::Rank, PREFIX),
    ("OPAL_DESTDIR", When::Rank, PREFIX),
    ("OPAL_LIBDIR", When::Rank, PREFIX),
    ("OPAL_PKGLIBDIR", When::Rank, PREFIX),
    ("OPAL_DATADIR", When::Rank, PREFIX),
    ("OPAL_PKGDATADIR", When::Rank, PREFIX),
    ("OPAL_SYSCONFDIR", When::Rank, PREFIX),
    ("OPAL_LIBEXECDIR", When::Rank, PREFIX),
    ("OPAL_EXEC_PREFIX", When::Rank, PREFIX),
    ("OPAL_BINDIR", When::Rank, PREFIX),
    ("OMPI_PREFIX", When::Rank, PREFIX),
    ("OMPI_LIBDIR_LOC", When::Rank, PREFIX),
    ("PMIX_PREFIX", When::Rank, PREFIX),
    ("PMIX_INSTALL_PREFIX", When::Rank, PREFIX),
    ("PMIX_EXEC_PREFIX", When::Rank, PREFIX),
    ("PMIX_LIBDIR", When::Rank, PREFIX),
    ("PMIX_PKGLIBDIR", When::Rank, PREFIX),
    ("PMIX_DATADIR", When::Rank, PREFIX),
    ("PMIX_PKGDATADIR", When::Rank, PREFIX),
    ("PMIX_SYSCONFDIR", When::Rank, PREFIX),
    ("PRTE_PREFIX", When::Rank, PREFIX),
    ("I_MPI_ROOT", When::Rank, PREFIX),
    ("OMPI_MCA_mca_base_component_path", When::Rank, COMPONENTS),
    ("OMPI_MCA_mca_component_path", When::Rank, COMPONENTS),
    ("PMIX_MCA_mca_base_component_path", When::Rank, COMPONENTS),
    (
        "PMIX_MCA_pmix_mca_base_component_path",
        When::Rank,
        COMPONENTS,
    ),
    ("OMPI_MCA_mca_base_param_files", When::Rank, FILES_READ),
    ("PMIX_PARAM_FILE_PASSED", When::Rank, FILES_READ),
    ("OPAL_USER_PARAMS_GIVEN", When::Rank, FILES_READ),
    ("OPAL_SYS_PARAMS_GIVEN", When::Rank, FILES_READ),
];

impl Host {
    /// The changes that this environment needs, in the order of the table.
    ///
    /// Only what is found is dropped, and what is set already is not set again: a
    /// value in `PMIX_MCA_gds` is the user's, as no launcher sets it (the server's
    /// offer is `PMIX_GDS_MODULE`). Apply these before the variables that the user asked
    /// for by name, which then win over a dropped one too.
    pub fn hygiene(&self, environment: &Environment<'_>) -> Vec<Change> {
        let mut changes: Vec<Change> = DROPPED
            .iter()
            .filter(|(_, when, _)| match when {
                When::Always => true,
                When::Rank => self.is_rank(),
            })
            .filter(|(name, _, _)| environment.has(name))
            .map(|&(name, _, why)| Change::Drop {
                name: name.into(),
                why,
            })
            .collect();
        changes.extend(self.of_outer_launchers(environment));
        changes.extend(self.as_under_jsrun(environment));
        if self.has_pmix() {
            changes.extend(pmix_store(environment));
            changes.extend(pmix_security(environment));
        }
        changes
    }
}

impl Host {
    /// An interface that another launcher, outside ours, offered to whoever started
    /// ours. On the host it is as wrong; here it would let an MPI take every rank
    /// for the one rank of the outer job, or write to a descriptor that is no
    /// longer a PMI socket.
    fn of_outer_launchers<'e>(
        &self,
        environment: &'e Environment<'_>,
    ) -> impl Iterator<Item = Change> + 'e {
        let over_a_socket = self
            .interfaces
            .iter()
            .any(|interface| matches!(interface, Interface::Pmi1(_) | Interface::Pmi2 { .. }));
        let outer: &[&str] = match self.is_rank() {
            true if over_a_socket && !self.has_pmix() => OUTER_PMIX,
            true if !over_a_socket && environment.has("PMI_FD") => OUTER_PMI,
            _ => &[],
        };
        outer
            .iter()
            .flat_map(|prefix| environment.beginning(prefix))
            .map(|(name, _)| Change::Drop {
                name: name.to_owned(),
                why: "belongs to an outer launcher, not to the one that started this rank",
            })
    }
}

impl Host {
    /// Open MPI 4.1 asks its schizo components which launcher it has. PRRTE is
    /// younger than all of them, so without this each rank is a silent job of its
    /// own. The jsm component only looks for the variable, and then does what is
    /// right under any PMIx server (`orte/mca/schizo/jsm`). Open MPI 5 has no such
    /// components and does not read it.
    fn as_under_jsrun(&self, environment: &Environment<'_>) -> Option<Change> {
        const NAME: &str = "JSM_JSRUN_PORT";
        let needed = self.launcher == Launcher::Prrte && !environment.has(NAME);
        needed.then(|| Change::Set {
            name: NAME.into(),
            value: "1".into(),
            why: "an Open MPI 4 in the image would not know that PRRTE launched it",
        })
    }
}

/// By the beginning of the name: the address has many names.
const OUTER_PMIX: &[&str] = &["PMIX_NAMESPACE", "PMIX_RANK", "PMIX_SERVER_URI"];
const OUTER_PMI: &[&str] = &[
    "PMI_FD",
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_JOBID",
    "HYDI_CONTROL_FD",
];

/// Every PMIx server offers `hash`: job information travels over the connection
/// instead of through mapped files, so that no directory needs to be shared, and
/// releases whose mapped layouts differ still understand one another.
fn pmix_store(environment: &Environment<'_>) -> Option<Change> {
    set_where_offered(
        environment,
        "PMIX_MCA_gds",
        "hash",
        "PMIX_GDS_MODULE",
        "PMIx data over the connection: mapped files differ between releases",
    )
}

/// Slurm's server offers `munge,native`. A client in an image has no munge socket
/// and says so at length; `native` compares the ids of the connected socket.
fn pmix_security(environment: &Environment<'_>) -> Option<Change> {
    set_where_offered(
        environment,
        "PMIX_MCA_psec",
        "native",
        "PMIX_SECURITY_MODE",
        "PMIx authentication by socket: the image has no munge",
    )
}

/// Sets a parameter, unless the user has, or the server has a list without it.
fn set_where_offered(
    environment: &Environment<'_>,
    name: &'static str,
    value: &'static str,
    offers: &str,
    why: &'static str,
) -> Option<Change> {
    let offered = environment
        .text(offers)
        .is_none_or(|list| list.split(',').any(|module| module == value));
    (offered && !environment.has(name)).then(|| Change::Set {
        name: name.into(),
        value: value.into(),
        why,
    })
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
