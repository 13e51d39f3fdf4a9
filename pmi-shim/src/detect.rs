//! From variables and descriptors to the launcher.
//!
//! # Nested launchers
//! Variables are inherited through everything, so what is visible is often the
//! union of several launchers: mpirun in an allocation of Slurm, hydra in a shell
//! that srun started. The innermost one is meant, and these are the rules that
//! find it:
//!
//! 1. A `PMI_FD` that *is a socket* belongs to the innermost launcher. Open MPI's
//!    and PRRTE's daemons close every descriptor above 2 in the child
//!    (`orte/mca/odls/default`, `prte/mca/odls/default`), so an outer `PMI_FD`
//!    is a number without a descriptor. This is why descriptors are asked for.
//! 2. Otherwise a PMIx namespace with a server address. Every PMIx launcher
//!    overwrites the three variables, so the last one is the one that is seen,
//!    and its form says whose it is. `slurm.pmix.JOB.STEP` of another job than
//!    `SLURM_JOB_ID` was carried into a batch job by `sbatch --export=ALL` from
//!    inside a step, and is dead.
//! 3. Otherwise what has no address of its own: PALS, hydra's TCP port, and a
//!    plain task of srun, which may speak Slurm's PMI-1.
//!
//! An allocation is not a launcher: a batch script has `SLURM_JOB_ID` and even
//! `SLURM_PROCID`, but no `SLURM_STEP_ID`.

use crate::directories;
use crate::environment::Environment;
use crate::host::{Descriptor, Host, Interface, Launcher, Wire1};
use crate::identity::{JobIdentity, Lacks};

/// Finds out who launched this process.
///
/// `is_socket` answers whether a descriptor with that number was inherited and is
/// a socket. Being open is not enough: scripts keep themselves open at 10 and
/// above, which is also where Slurm's `PMI_FD` is. Ask it before anything else is
/// opened.
pub fn detect(environment: &Environment<'_>, is_socket: impl Fn(Descriptor) -> bool) -> Host {
    let open_in = |name: &str| descriptor_in(environment, name).filter(|&number| is_socket(number));

    let mut host = if let Some(descriptor) = open_in("PMI_FD") {
        over_an_inherited_socket(environment, descriptor, open_in("HYDI_CONTROL_FD"))
    } else if let Some((namespace, interface)) = pmix(environment) {
        over_pmix(environment, namespace, interface)
    } else if environment.has("PALS_APID") && environment.has("PALS_RANKID") {
        over_pals(environment)
    } else if let (Some(port), Some(_)) = (environment.text("PMI_PORT"), environment.text("PMI_ID"))
    {
        over_tcp(environment, port, open_in("HYDI_CONTROL_FD"))
    } else if slurm_step(environment).is_some() {
        over_slurm(environment)
    } else {
        return Host::none();
    };
    host.directories = directories::of(&host, environment);
    host
}

fn descriptor_in(environment: &Environment<'_>, name: &str) -> Option<Descriptor> {
    environment
        .number(name)
        .and_then(|number| Descriptor::try_from(number).ok())
}

/// Hydra's, Slurm's mpi/pmi2's or Flux's socket.
fn over_an_inherited_socket(
    environment: &Environment<'_>,
    descriptor: Descriptor,
    control: Option<Descriptor>,
) -> Host {
    let mut host = Host::none();
    host.rank = environment.number("PMI_RANK");
    host.size = environment.number("PMI_SIZE");
    let one = Interface::Pmi1(Wire1::Inherited(descriptor));
    if control.is_none() && is_slurms_pmi2(environment) {
        host.interfaces.push(Interface::Pmi2 { descriptor });
        slurm_numbers(environment, &mut host);
        host.launcher = Launcher::Slurm;
        host.job = slurm_identity(environment);
    } else if control.is_none() && environment.has("FLUX_JOB_ID") {
        host.interfaces.push(one);
        // The pmix plugin of Flux's shell can be on beside the simple one.
        host.interfaces
            .extend(pmix(environment).map(|(_, interface)| interface));
        host.launcher = Launcher::Flux;
        host.local_rank = environment.number("FLUX_TASK_LOCAL_ID");
        host.job = Some(flux_identity(environment));
    } else {
        host.interfaces.push(one);
        hydra_numbers(environment, &mut host);
        host.launcher = match control {
            Some(_) => Launcher::Hydra,
            None if environment.has("MPI_LOCALNRANKS") => Launcher::Hydra,
            None => Launcher::Unknown,
        };
        host.is_intels = environment.has("I_MPI_HYDRA_UUID");
        host.job = Some(hydra_identity(environment, control));
    }
    host
}

/// mpi/pmi2 says `PMI_JOBID=JOB.STEP` (`src/plugins/mpi/pmi2/setup.c`). Hydra says
/// nothing, and when it starts its proxy with srun, that step is another one.
fn is_slurms_pmi2(environment: &Environment<'_>) -> bool {
    let named = environment
        .text("PMI_JOBID")
        .and_then(|id| id.split_once('.'));
    match (named, slurm_step(environment)) {
        (Some((_, step)), Some(current)) => step.parse() == Ok(current),
        _ => false,
    }
}

/// The namespace, and the interface that its server is.
fn pmix<'a>(environment: &Environment<'a>) -> Option<(&'a str, Interface)> {
    let namespace = environment.text("PMIX_NAMESPACE")?;
    environment.number("PMIX_RANK")?;
    // PMIX_SERVER_URI2, …URI21, …URI3, …URI4, …URI41: one address under a name
    // for each generation of clients (openpmix, src/mca/ptl/base/ptl_base_fns.c).
    let uri = environment
        .beginning("PMIX_SERVER_URI")
        .filter_map(|(_, value)| value.to_str())
        .find(|value| !value.is_empty())?;
    if carried_from_another_job(environment, namespace) {
        return None;
    }
    let version = environment.text("PMIX_VERSION").map(str::to_owned);
    Some((
        namespace,
        Interface::Pmix {
            version,
            uri: uri.to_owned(),
        },
    ))
}

const SLURM_NAMESPACE: &str = "slurm.pmix.";

fn carried_from_another_job(environment: &Environment<'_>, namespace: &str) -> bool {
    let Some(step) = namespace.strip_prefix(SLURM_NAMESPACE) else {
        return false;
    };
    // The components of a heterogeneous job have numbers of their own, and one
    // namespace: nothing can be said there.
    if environment.has("SLURM_HET_SIZE") {
        return false;
    }
    match (step.split_once('.'), slurm_job(environment)) {
        (Some((job, _)), Some(current)) => job != current,
        _ => false,
    }
}

fn over_pmix(environment: &Environment<'_>, namespace: &str, interface: Interface) -> Host {
    let mut host = Host::none();
    host.interfaces.push(interface);
    host.rank = environment.number("PMIX_RANK");
    if namespace.starts_with(SLURM_NAMESPACE) {
        host.launcher = Launcher::Slurm;
        host.job = Some(JobIdentity::whole(namespace));
        slurm_numbers(environment, &mut host);
        return host;
    }
    host.size = environment.number("OMPI_COMM_WORLD_SIZE");
    host.local_rank = environment.number("OMPI_COMM_WORLD_LOCAL_RANK");
    host.local_size = environment.number("OMPI_COMM_WORLD_LOCAL_SIZE");
    if environment.text("OMPI_MCA_ess_base_jobid") == Some(namespace) {
        host.launcher = Launcher::OpenMpi4;
        let listener = environment.text("OMPI_MCA_orte_hnp_uri").unwrap_or("");
        host.job = Some(JobIdentity::whole(format!("{namespace} {listener}")));
    } else if environment.has("FLUX_JOB_ID") && !environment.has("PRTE_LAUNCHED") {
        host.launcher = Launcher::Flux;
        host.local_rank = environment.number("FLUX_TASK_LOCAL_ID");
        host.job = Some(flux_identity(environment));
    } else {
        if environment.has("PRTE_LAUNCHED") || namespace.starts_with("prte") {
            host.launcher = Launcher::Prrte;
        }
        host.job = Some(JobIdentity::whole(namespace));
    }
    host
}

/// PALS itself, or Slurm (mpi/cray_shasta) or Flux (its cray-pals plugin), which
/// set the same variables for the vendor's MPI.
fn over_pals(environment: &Environment<'_>) -> Host {
    let mut host = Host::none();
    host.interfaces.push(Interface::CrayPmi);
    host.rank = environment.number("PALS_RANKID");
    host.size = environment.number("PMI_SIZE");
    host.local_rank = environment
        .number("PALS_LOCAL_RANKID")
        .or_else(|| environment.number("PMI_LOCAL_RANK"));
    host.local_size = environment
        .number("PALS_LOCAL_SIZE")
        .or_else(|| environment.number("PMI_LOCAL_SIZE"));
    let id = environment.text("PALS_APID").unwrap_or("");
    if slurm_step(environment).is_some() {
        host.launcher = Launcher::Slurm;
        slurm_numbers(environment, &mut host);
        host.job = slurm_identity(environment);
    } else if environment.has("FLUX_JOB_ID") {
        host.launcher = Launcher::Flux;
        host.job = Some(flux_identity(environment));
    } else {
        host.launcher = Launcher::Pals;
        host.job = Some(JobIdentity::whole(id));
    }
    host
}

/// Hydra with `-pmi-port`.
fn over_tcp(environment: &Environment<'_>, port: &str, control: Option<Descriptor>) -> Host {
    let mut host = Host::none();
    host.launcher = Launcher::Hydra;
    host.interfaces
        .push(Interface::Pmi1(Wire1::Tcp(port.to_owned())));
    // Neither PMI_RANK nor PMI_SIZE: the wire tells them, after PMI_ID was said.
    host.rank = environment.number("PMI_ID");
    hydra_numbers(environment, &mut host);
    host.job = Some(hydra_identity(environment, control));
    host
}

/// A task of srun with neither PMIx nor PMI-2.
fn over_slurm(environment: &Environment<'_>) -> Host {
    let mut host = Host::none();
    host.launcher = Launcher::Slurm;
    host.interfaces.push(Interface::SlurmPmi1);
    slurm_numbers(environment, &mut host);
    host.job = slurm_identity(environment);
    host
}

fn slurm_job<'a>(environment: &Environment<'a>) -> Option<&'a str> {
    environment
        .text("SLURM_JOB_ID")
        .or_else(|| environment.text("SLURM_JOBID"))
}

/// Slurm numbers its own steps (batch, extern, interactive, pending) from the top
/// of the range down (`slurm/slurm.h`, `SLURM_BATCH_SCRIPT` and its like).
const FIRST_OF_SLURMS_OWN_STEPS: u32 = 0xffff_fff0;

/// The step that srun started this task in.
fn slurm_step(environment: &Environment<'_>) -> Option<u32> {
    slurm_job(environment)?;
    environment.number("SLURM_PROCID")?;
    environment
        .number("SLURM_STEP_ID")
        .or_else(|| environment.number("SLURM_STEPID"))
        .filter(|&step| step < FIRST_OF_SLURMS_OWN_STEPS)
}

fn slurm_identity(environment: &Environment<'_>) -> Option<JobIdentity> {
    let (job, step) = (slurm_job(environment)?, slurm_step(environment)?);
    Some(JobIdentity::whole(format!("slurm {job}.{step}")))
}

fn slurm_numbers(environment: &Environment<'_>, host: &mut Host) {
    host.rank = host.rank.or_else(|| environment.number("SLURM_PROCID"));
    host.size = host
        .size
        .or_else(|| environment.number("SLURM_STEP_NUM_TASKS"))
        .or_else(|| environment.number("SLURM_NTASKS"));
    host.local_rank = environment.number("SLURM_LOCALID");
    host.local_size = environment
        .text("SLURM_STEP_TASKS_PER_NODE")
        .zip(environment.number("SLURM_NODEID"))
        .and_then(|(list, node)| tasks_on_node(list, node));
}

/// The entry for one node in a list like `4(x2),3`, Slurm's short form.
fn tasks_on_node(list: &str, node: u32) -> Option<u32> {
    let mut passed: u32 = 0;
    for entry in list.split(',') {
        let (tasks, nodes) = match entry.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (entry, 1),
        };
        passed = passed.checked_add(nodes)?;
        if node < passed {
            return tasks.parse().ok();
        }
    }
    None
}

fn flux_identity(environment: &Environment<'_>) -> JobIdentity {
    let id = environment.text("FLUX_JOB_ID").unwrap_or("");
    let instance = environment.text("FLUX_URI").unwrap_or("");
    JobIdentity::whole(format!("flux {id} {instance}"))
}

fn hydra_numbers(environment: &Environment<'_>, host: &mut Host) {
    host.local_rank = environment.number("MPI_LOCALRANKID");
    host.local_size = environment.number("MPI_LOCALNRANKS");
}

/// `HYDI_CONTROL_FD` is the proxy's connection upwards, and the one descriptor
/// that all its ranks inherit alike; `PMI_FD` is another socket for each rank.
fn hydra_identity(environment: &Environment<'_>, control: Option<Descriptor>) -> JobIdentity {
    // Beside PMI_FD, a port is an outer launcher's: then it tells nothing, and
    // does no harm.
    let port = environment.text("PMI_PORT").unwrap_or("");
    let lacks = control.map_or(Lacks::SessionStarter, Lacks::InodeOf);
    JobIdentity::lacking(format!("hydra {port}").trim_end(), lacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_short_list_gives_each_node_its_tasks() {
        let cases = [
            ("4", 0, Some(4)),
            ("4", 1, None),
            ("2(x3)", 2, Some(2)),
            ("2(x3)", 3, None),
            ("4(x2),3", 1, Some(4)),
            ("4(x2),3", 2, Some(3)),
            ("4(x", 0, None),
            ("4(x2,3", 0, None),
            ("", 0, None),
            ("1(x4294967295),1(x4294967295)", 7, Some(1)),
        ];
        for (list, node, tasks) in cases {
            assert_eq!(tasks_on_node(list, node), tasks, "{list} at {node}");
        }
    }
}
