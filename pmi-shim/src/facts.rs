//! What is known of the image's side: which MPI the program uses, and what the user
//! and the site want.
//!
//! Owns: the words. Who finds the facts out is the launcher, from the image's files.

use std::ffi::OsStr;

/// Who made an MPI library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Open MPI and its descendants.
    OpenMpi,
    /// MPICH.
    Mpich,
    /// Intel MPI.
    IntelMpi,
    /// MVAPICH.
    Mvapich,
    /// HPE Cray MPICH.
    CrayMpich,
    /// Nobody knows.
    Unknown,
}

/// A PMI library that an MPI library is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// libpmix.
    Pmix,
    /// libpmi, Slurm's or a vendor's.
    Pmi1,
    /// libpmi2, likewise.
    Pmi2,
}

/// The MPI that a program is linked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mpi {
    /// Whose.
    pub family: Family,
    /// Its version's first number, where known.
    pub major: Option<u32>,
    /// PMI libraries that it is linked with itself.
    pub clients: Vec<Client>,
    /// Its name with its version, for people: `Open MPI 4.1.4`.
    pub shown: String,
}

/// What is known of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// It uses no MPI.
    Without,
    /// It is linked with this one.
    With(Mpi),
    /// It is an interpreter, a shell that hides what it executes, or was not looked at;
    /// these are in the image.
    Perhaps(Vec<Mpi>),
    /// It is a shell whose words name no program with MPI; these are in the image.
    Hardly(Vec<Mpi>),
}

impl Program {
    /// The MPIs that it may use, the most likely first.
    pub fn candidates(&self) -> &[Mpi] {
        match self {
            Program::Without => &[],
            Program::With(mpi) => std::slice::from_ref(mpi),
            Program::Perhaps(candidates) | Program::Hardly(candidates) => candidates,
        }
    }

    /// Nothing is known, so whatever helps any MPI is done.
    pub const UNKNOWN: Program = Program::Perhaps(Vec::new());

    /// The program as it is with the user's word on its MPI. What it is linked with is
    /// no matter of choice.
    pub fn told(self, choice: Choice) -> Program {
        let (family, name) = match choice {
            Choice::OpenMpi => (Family::OpenMpi, "Open MPI"),
            Choice::Mpich => (Family::Mpich, "MPICH"),
            Choice::Auto | Choice::Pass | Choice::Bridge | Choice::Off => return self,
        };
        if let Program::With(_) = self {
            return self;
        }
        let is_open = |mpi: &&Mpi| (mpi.family == Family::OpenMpi) == (family == Family::OpenMpi);
        let found = self.candidates().iter().find(is_open).cloned();
        Program::With(found.unwrap_or_else(|| Mpi {
            family,
            major: None,
            clients: Vec::new(),
            shown: name.to_owned(),
        }))
    }

    /// Whether an MPI may be used that `is` is true of. Of a program that nothing is
    /// known of, everything may be.
    pub fn may_use(&self, is: impl Fn(&Mpi) -> bool) -> bool {
        match self {
            Program::Without => false,
            Program::With(mpi) => is(mpi),
            Program::Perhaps(candidates) | Program::Hardly(candidates) => {
                candidates.is_empty() || candidates.iter().any(is)
            }
        }
    }
}

/// How much is to be done about MPI: `--mpi`, `SINGULARITY_MPI`, the plugin's `mpi=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Choice {
    /// Launcher and program meet directly where they can, else over the bridge, else
    /// the program does not start.
    #[default]
    Auto,
    /// They meet directly, or not at all: no bridge, no refusal.
    Pass,
    /// They meet over the bridge wherever there is one, also where they could directly.
    Bridge,
    /// As `Auto`, and a program whose MPI cannot be told uses Open MPI.
    OpenMpi,
    /// As `Auto`, and a program whose MPI cannot be told uses MPICH or one of its family.
    Mpich,
    /// Nothing is done: the environment stays as the launcher made it.
    Off,
}

impl Choice {
    /// What can be chosen, for messages.
    pub const NAMES: &'static str = "auto, pass, bridge, openmpi, mpich or off";

    /// Whether it is found out how they meet, rather than said.
    pub fn decides(self) -> bool {
        !matches!(self, Choice::Pass | Choice::Off)
    }

    /// The choice with this name.
    pub fn named(name: &OsStr) -> Option<Self> {
        match name.to_str()? {
            "auto" => Some(Choice::Auto),
            "pass" => Some(Choice::Pass),
            "bridge" => Some(Choice::Bridge),
            "openmpi" => Some(Choice::OpenMpi),
            "mpich" => Some(Choice::Mpich),
            "off" => Some(Choice::Off),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Choice::Auto => "auto",
            Choice::Pass => "pass",
            Choice::Bridge => "bridge",
            Choice::OpenMpi => "openmpi",
            Choice::Mpich => "mpich",
            Choice::Off => "off",
        }
    }
}

/// What [`crate::meet()`] decides from, besides the host's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The program.
    pub program: Program,
    /// What is wanted.
    pub choice: Choice,
    /// Whether the bridge is installed.
    pub has_bridge: bool,
}
