//! How the launcher of the host and the MPI of the image come together.
//!
//! Owns: one table of what launchers offer and what MPI libraries speak, and what
//! follows from each pair. Never: looks anything up; the answer is a function of the
//! arguments.

use crate::facts::{Choice, Client, Facts, Family, Mpi, Program};
use crate::host::{Host, Interface, Launcher, Wire1};
use crate::seat::AppInterface;

#[cfg(test)]
mod documented;

/// How they come together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meeting {
    /// They speak the same language: the environment is made right, and that is all.
    Pass {
        /// Why, one line.
        why: &'static str,
        /// What may go wrong after all, for the user to know.
        warning: Option<String>,
    },
    /// The helper stands between them.
    Bridge {
        /// How.
        bridge: Bridge,
        /// Why, one line.
        why: &'static str,
    },
    /// They cannot meet: every rank would take itself for a job of one.
    Refuse {
        /// What does not fit with what, and why.
        line: String,
        /// What the user can do.
        hint: String,
    },
}

/// Which forms of the helper stand between launcher and rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bridge {
    /// A PMIx client of the host's server; the program speaks this. One helper a node, or
    /// one a rank where the launcher does not tell how many ranks a node has.
    Rank(AppInterface),
    /// One helper a node; the program speaks this.
    Node(AppInterface),
    /// The same for a program that speaks PMIx, which takes a server of its own.
    Both(AppInterface),
}

impl Bridge {
    /// In a few words.
    pub fn describe(self) -> &'static str {
        match self {
            Bridge::Rank(AppInterface::Pmi2) => "from PMIx to PMI-2",
            Bridge::Rank(_) => "from PMIx to PMI-1",
            Bridge::Node(AppInterface::Pmix) => "to a PMIx server on each node",
            Bridge::Node(_) => "to a PMI server on each node",
            Bridge::Both(_) => "from PMIx to a PMIx server on each node",
        }
    }
}

/// What a launcher offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Pmix,
    Pmi1,
    Pmi2,
    SlurmAlone,
    Cray,
}

/// What an MPI library speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// A PMIx client.
    Pmix,
    /// The PMI-1 wire, in the library itself.
    Wire,
    /// Whatever the libpmi in the image speaks: Slurm's own PMI-1, or the vendor's.
    LibPmi,
    /// What the libpmi2 in the image speaks: the PMI-2 wire.
    LibPmi2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pass,
    Rank(AppInterface),
    Node(AppInterface),
    Refuse,
}

struct Row {
    offer: Offer,
    speech: Speech,
    way: Way,
    why: &'static str,
}

const fn row(offer: Offer, speech: Speech, way: Way, why: &'static str) -> Row {
    Row {
        offer,
        speech,
        way,
        why,
    }
}

/// Every pair, with the reason. What was tried is in docs/MPI.md.
const TABLE: [Row; 20] = [
    row(Offer::Pmix, Speech::Pmix, Way::Pass, "both speak PMIx, whose releases understand one another once their environment is made right"),
    row(Offer::Pmix, Speech::Wire, Way::Rank(AppInterface::Pmi1), "the launcher offers PMIx and the program speaks PMI-1"),
    row(Offer::Pmix, Speech::LibPmi2, Way::Rank(AppInterface::Pmi2), "the launcher offers PMIx and the program speaks PMI-2"),
    row(Offer::Pmix, Speech::LibPmi, Way::Refuse, "its libpmi asks for srun or a vendor's service, which this launcher is not"),
    row(Offer::Pmi1, Speech::Wire, Way::Pass, "both speak PMI-1"),
    row(Offer::Pmi1, Speech::Pmix, Way::Node(AppInterface::Pmix), "the launcher offers PMI-1 and the program speaks PMIx"),
    row(Offer::Pmi1, Speech::LibPmi2, Way::Node(AppInterface::Pmi2), "the launcher offers PMI-1 and the program speaks PMI-2"),
    row(Offer::Pmi1, Speech::LibPmi, Way::Refuse, "its libpmi asks for srun or a vendor's service, which this launcher is not"),
    row(Offer::Pmi2, Speech::Wire, Way::Pass, "Slurm's PMI-2 takes PMI-1 on the same socket"),
    row(Offer::Pmi2, Speech::LibPmi2, Way::Pass, "both speak PMI-2"),
    row(Offer::Pmi2, Speech::Pmix, Way::Node(AppInterface::Pmix), "the launcher offers PMI-2 and the program speaks PMIx"),
    row(Offer::Pmi2, Speech::LibPmi, Way::Pass, "Slurm's libpmi finds srun by itself"),
    row(Offer::SlurmAlone, Speech::LibPmi, Way::Pass, "Slurm's libpmi finds srun by itself"),
    row(Offer::SlurmAlone, Speech::Wire, Way::Node(AppInterface::Pmi1), "srun offers no interface that the program speaks"),
    row(Offer::SlurmAlone, Speech::Pmix, Way::Node(AppInterface::Pmix), "srun offers no interface that the program speaks"),
    row(Offer::SlurmAlone, Speech::LibPmi2, Way::Node(AppInterface::Pmi2), "srun offers no interface that the program speaks"),
    row(Offer::Cray, Speech::LibPmi, Way::Pass, "the vendor's libpmi finds the launcher by itself"),
    row(Offer::Cray, Speech::LibPmi2, Way::Pass, "the vendor's libpmi2 finds the launcher by itself"),
    row(Offer::Cray, Speech::Wire, Way::Refuse, "only the vendor's libpmi speaks the launcher's interface"),
    row(Offer::Cray, Speech::Pmix, Way::Refuse, "only the vendor's libpmi speaks the launcher's interface"),
];

fn offer(interface: &Interface) -> Offer {
    match interface {
        Interface::Pmix { .. } => Offer::Pmix,
        Interface::Pmi2 { .. } => Offer::Pmi2,
        Interface::Pmi1(_) => Offer::Pmi1,
        Interface::SlurmPmi1 => Offer::SlurmAlone,
        Interface::CrayPmi => Offer::Cray,
    }
}

fn offered(interface: &Interface) -> &'static str {
    match offer(interface) {
        Offer::Pmix => "PMIx",
        Offer::Pmi1 => "PMI-1",
        Offer::Pmi2 => "PMI-2",
        Offer::SlurmAlone => "no interface but Slurm's own PMI-1",
        Offer::Cray => "the vendor's PMI",
    }
}

/// What a library speaks, in the order in which it tries.
fn speeches(mpi: &Mpi) -> Vec<Speech> {
    let mut all: Vec<Speech> = mpi
        .clients
        .iter()
        .map(|client| match client {
            Client::Pmix => Speech::Pmix,
            Client::Pmi1 => Speech::LibPmi,
            Client::Pmi2 => Speech::LibPmi2,
        })
        .collect();
    let own = match mpi.family {
        Family::OpenMpi => Some(Speech::Pmix),
        // The vendor's library is loaded when it is needed.
        Family::CrayMpich => Some(Speech::LibPmi),
        // Built with a PMI library of somebody else's, MPICH speaks only that.
        _ if all.is_empty() => Some(Speech::Wire),
        _ => None,
    };
    all.extend(own.filter(|speech| !all.contains(speech)));
    all
}

fn spoken(speech: Speech) -> &'static str {
    match speech {
        Speech::Pmix => "PMIx",
        Speech::Wire => "PMI-1",
        Speech::LibPmi => "what its libpmi does",
        Speech::LibPmi2 => "PMI-2",
    }
}

/// The best row for a library under a launcher: rather direct than over the bridge, and
/// the launcher's first interface rather than its others.
fn best(host: &Host, mpi: &Mpi, prefers_bridge: bool) -> Option<(Way, &'static str)> {
    let speeches = speeches(mpi);
    let pairs = host.interfaces.iter().flat_map(|interface| {
        speeches
            .iter()
            .map(move |speech| (offer(interface), *speech))
    });
    let rows = pairs.filter_map(|(offer, speech)| {
        let row = TABLE
            .iter()
            .find(|row| row.offer == offer && row.speech == speech)?;
        match (row.way, prefers_bridge) {
            (Way::Pass, true) => bridged(offer, speech).or(Some((Way::Pass, row.why))),
            _ => Some((row.way, row.why)),
        }
    });
    let order = |way: &Way| match way {
        Way::Pass if prefers_bridge => 1,
        Way::Pass => 0,
        Way::Rank(_) | Way::Node(_) => u8::from(!prefers_bridge),
        Way::Refuse => 2,
    };
    // The first of equals.
    rows.min_by_key(|(way, _)| order(way))
}

/// A bridge between two that could do without.
fn bridged(offer: Offer, speech: Speech) -> Option<(Way, &'static str)> {
    let why = "a bridge was asked for";
    match (offer, speech) {
        (Offer::Pmix | Offer::Pmi2 | Offer::Pmi1, Speech::Pmix) => {
            Some((Way::Node(AppInterface::Pmix), why))
        }
        (Offer::Pmi1 | Offer::Pmi2, Speech::Wire) => Some((Way::Node(AppInterface::Pmi1), why)),
        (Offer::Pmi2, Speech::LibPmi2) => Some((Way::Node(AppInterface::Pmi2), why)),
        _ => None,
    }
}

const PASSES: &str = "no MPI is in use, or none that a launcher has to know of";

fn pass(why: &'static str) -> Meeting {
    Meeting::Pass { why, warning: None }
}

/// How this launcher and this program come together.
pub fn meet(host: &Host, facts: &Facts) -> Meeting {
    if !host.is_rank() {
        return pass("no launcher has started this process");
    }
    match facts.choice {
        Choice::Pass => return pass("--mpi=pass: they have to meet directly"),
        Choice::Off => return pass("--mpi=off: nothing is done about MPI"),
        Choice::Auto | Choice::Bridge | Choice::OpenMpi | Choice::Mpich => {}
    }
    match &facts.program {
        Program::Without => pass(PASSES),
        Program::With(mpi) => with(host, mpi, facts),
        Program::Perhaps(candidates) => perhaps(host, candidates, facts),
        // Most steps of a shell's have nothing to do with MPI. A bridge would cost each of
        // them its start, and show in its environment and its end.
        Program::Hardly(_) if is_bare(host) && facts.choice != Choice::Bridge => {
            pass("srun was asked for no MPI, and nothing that the shell is told uses it")
        }
        Program::Hardly(candidates) => perhaps(host, candidates, facts),
    }
}

/// The program is linked with this one.
fn with(host: &Host, mpi: &Mpi, facts: &Facts) -> Meeting {
    if mpi.family == Family::Unknown {
        return pass("the program's MPI is not known");
    }
    let Some((way, why)) = best(host, mpi, facts.choice == Choice::Bridge) else {
        return refuse(host, mpi, "there is no way between them", remedy(host, mpi));
    };
    let bridge = match way {
        Way::Pass if facts.has_bridge && may_be_numbered_otherwise(host, mpi) => {
            return Meeting::Bridge {
                bridge: Bridge::Both(AppInterface::Pmix),
                why: "PRRTE may number the ranks of a node in an order that an Open MPI 4 does not survive",
            };
        }
        Way::Pass if facts.has_bridge && asks_hydra_too_much(host, mpi) => {
            return Meeting::Bridge {
                bridge: Bridge::Node(AppInterface::Pmi1),
                why: "Intel MPI asks more of its launcher than the hydra of MPICH answers",
            };
        }
        Way::Pass => return pass(why),
        Way::Refuse => return refuse(host, mpi, why, remedy(host, mpi)),
        Way::Rank(app) => Bridge::Rank(app),
        Way::Node(app) if host.has_pmix() && !host.has_socket() => Bridge::Both(app),
        Way::Node(app) => Bridge::Node(app),
    };
    if matches!(
        host.interfaces.first(),
        Some(Interface::Pmi1(Wire1::Tcp(_)))
    ) && host.size.is_none()
    {
        let why = "over a port hydra does not say how many ranks there are";
        return refuse(host, mpi, why, "leave out mpiexec's -pmi-port".into());
    }
    if !facts.has_bridge {
        return refuse(
            host,
            mpi,
            "the bridge between them, pmi-bridge, is not installed",
            format!(
                "install libexec/singularity/pmi-bridge beside the command (make install); or {}",
                remedy(host, mpi)
            ),
        );
    }
    Meeting::Bridge { bridge, why }
}

/// Under a hydra that is not its own, Intel MPI ends in MPI_Init (`MPIDU_bc_table_create`;
/// tried: 2021.14 under 4.0.2). The bridge answers it as it wants.
fn asks_hydra_too_much(host: &Host, mpi: &Mpi) -> bool {
    mpi.family == Family::IntelMpi
        && host.launcher == Launcher::Hydra
        && !host.is_intels
        && host.size.is_some()
}

/// PRRTE maps to cores and packages by default and gives ranks of a node local numbers
/// in that order, which need not be the order of their ranks. Open MPI up to 4.1 takes
/// the two for the same (`opal/mca/btl/vader`), and ends by SIGSEGV or hangs. With two
/// ranks there is one order only. All ranks of a job have to come to one answer, so it
/// depends on nothing that differs between nodes.
pub(crate) fn may_be_numbered_otherwise(host: &Host, mpi: &Mpi) -> bool {
    let is_old = mpi.family == Family::OpenMpi && mpi.major.is_none_or(|major| major < 5);
    is_old && host.launcher == Launcher::Prrte && host.size.is_none_or(|size| size > 2)
}

/// Whether it is srun without an interface for MPI.
fn is_bare(host: &Host) -> bool {
    host.interfaces.first() == Some(&Interface::SlurmPmi1)
}

/// The program may use one of these, or none.
fn perhaps(host: &Host, candidates: &[Mpi], facts: &Facts) -> Meeting {
    // Under srun with no interface also a single task gets its seat: Open MPI 4 refuses to
    // be a job of one where it finds srun's variables (orte/mca/schizo/slurm).
    let meetings: Vec<_> = candidates
        .iter()
        .map(|mpi| (mpi, with(host, mpi, facts)))
        .collect();
    let is_same = |a: &Meeting, b: &Meeting| match (a, b) {
        (Meeting::Pass { .. }, Meeting::Pass { .. }) => true,
        (Meeting::Bridge { bridge: a, .. }, Meeting::Bridge { bridge: b, .. }) => a == b,
        _ => false,
    };
    match meetings.first() {
        None => return pass(PASSES),
        // A refusal is like no other: what may not use MPI at all has to run.
        Some((_, first)) if meetings.iter().all(|(_, other)| is_same(first, other)) => {
            return first.clone();
        }
        Some(_) => {}
    }
    // No way suits all, and a program without MPI has to run.
    let apart: Vec<_> = meetings
        .iter()
        .filter(|(_, meeting)| !matches!(meeting, Meeting::Pass { .. }))
        .map(|(mpi, _)| mpi.shown.as_str())
        .collect();
    Meeting::Pass {
        why: "the program is a shell or an interpreter, and no way suits all MPIs of the image",
        warning: Some(format!(
            "which MPI the program will use is not known; {} would not meet {}: it ends then; name the MPI program itself, or the family: --mpi=openmpi or --mpi=mpich",
            apart.join(" and "),
            host.launcher.name(),
        )),
    }
}

fn refuse(host: &Host, mpi: &Mpi, why: &str, hint: String) -> Meeting {
    let offers = host.interfaces.first().map_or("nothing", offered);
    let speaks = speeches(mpi).first().copied().map_or("nothing", spoken);
    Meeting::Refuse {
        line: format!(
            "{} offers {offers}, the program's {} speaks {speaks}: {why}",
            host.launcher.name(),
            mpi.shown,
        ),
        hint,
    }
}

/// What else a user can do.
fn remedy(host: &Host, mpi: &Mpi) -> String {
    format!(
        "{}; --mpi=pass starts it all the same",
        to_meet_directly(host, mpi)
    )
}

/// How to have an MPI meet its launcher without a bridge.
pub fn to_meet_directly(host: &Host, mpi: &Mpi) -> &'static str {
    match (host.launcher, mpi.family) {
        (Launcher::Slurm, Family::OpenMpi) => "start it by srun --mpi=pmix",
        (Launcher::Slurm, _) => "start it by srun --mpi=pmi2",
        (Launcher::OpenMpi4 | Launcher::Prrte, _) => {
            "start it by the mpiexec of MPICH, or use an image with Open MPI"
        }
        (Launcher::Hydra, Family::OpenMpi) => {
            "start it by the mpirun of Open MPI, or use an image with MPICH"
        }
        _ => "use an image whose MPI speaks what the launcher offers",
    }
}
