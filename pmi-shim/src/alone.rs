//! No worlds of one.
//!
//! Owns: what an MPI that nobody foresaw finds in place of the interface that it speaks.
//! An interpreter or a shell may load any MPI. One that finds no launcher takes its rank
//! for a job of its own, once for each rank, and nothing says so. Left something that
//! cannot be used, it ends in MPI_Init with its own error. Never: in the way of an MPI
//! that has its interface.

use crate::facts::{Client, Facts, Family, Mpi, Program};
use crate::host::Host;
use crate::hygiene::Change;
use crate::meet::{may_be_numbered_otherwise, Bridge, Meeting};
use crate::seat::AppInterface;

/// No process has such a descriptor: it is above every limit of open files (`fs.nr_open`
/// in proc_sys_fs(5)).
const NO_DESCRIPTOR: &str = "2147483647";
/// The name of no component, and Open MPI's error shows it.
const NO_COMPONENT: &str = "no-interface-for-this-MPI-see-singularity-mpi-check";

const OF_MPICH: &str = "an MPICH of this program's would find no launcher, and has to say so";
const OF_OLD: &str =
    "PRRTE may number the ranks so that an Open MPI 4 of this program's would hang";
const OF_OPEN_MPI: &str = "an Open MPI of this program's would find no launcher, and has to say so";

/// What to set, after all else, for a program of which it is not known which MPI it uses,
/// so that the MPIs which are given no interface end instead of running alone.
///
/// Tried with MPICH 3.4 to 5.0 and Intel MPI (`PMI_FD`), Open MPI 4.1
/// (`JSM_JSRUN_PORT`: it takes itself for a rank and finds no server; `OMPI_MCA_schizo`,
/// which 5.0 does not know) and 5.0 (`PMIX_MCA_psec`: PMIx_Init fails with another error
/// than that of a job of one).
pub fn instead_of_worlds_of_one(host: &Host, facts: &Facts, meeting: &Meeting) -> Vec<Change> {
    let candidates = match &facts.program {
        Program::Perhaps(candidates) | Program::Hardly(candidates) => candidates,
        Program::With(_) | Program::Without => return Vec::new(),
    };
    if !facts.choice.decides() || !host.is_rank() || host.size == Some(1) || candidates.is_empty() {
        return Vec::new();
    }
    let (pmix, wire) = match meeting {
        Meeting::Pass { .. } => (host.has_pmix(), host.has_socket()),
        Meeting::Bridge { bridge, .. } => {
            let app = match bridge {
                Bridge::Rank(app) | Bridge::Node(app) | Bridge::Both(app) => *app,
            };
            (app == AppInterface::Pmix, app != AppInterface::Pmix)
        }
        Meeting::Refuse { .. } => return Vec::new(),
    };
    // Slurm's and the vendors' libraries find their launcher in ways of their own.
    let finds_another_way = |mpi: &Mpi| mpi.clients.iter().any(|client| *client != Client::Pmix);
    let another = candidates.iter().any(finds_another_way)
        || candidates.iter().any(|mpi| mpi.family == Family::CrayMpich);
    let set = |name: &str, value: &str, why| Change::Set {
        name: name.into(),
        value: value.into(),
        why,
    };
    let mut changes = Vec::new();
    if !wire && !another {
        changes.push(set("PMI_FD", NO_DESCRIPTOR, OF_MPICH));
    }
    if !pmix && !another {
        changes.push(set("JSM_JSRUN_PORT", "1", OF_OPEN_MPI));
        changes.push(set("PMIX_MCA_psec", NO_COMPONENT, OF_OPEN_MPI));
    }
    let is_direct = matches!(meeting, Meeting::Pass { .. });
    if is_direct
        && candidates
            .iter()
            .any(|mpi| may_be_numbered_otherwise(host, mpi))
    {
        changes.push(set("OMPI_MCA_schizo", NO_COMPONENT, OF_OLD));
    }
    changes
}
