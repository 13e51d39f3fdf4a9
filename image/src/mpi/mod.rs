//! Which MPI a program links, and which MPI and PMI libraries a root holds.
//!
//! Owns: telling families and versions from the files of a root file system. Never:
//! executes, writes, or opens anything outside the root. Images are hostile: every
//! search is bounded, and what cannot be understood counts as not being there.
//!
//! [`of_program`] is made for the launching path: a program that is linked with MPI
//! names the library in its own header, so it takes two files to know the family and
//! the generation. [`survey()`] looks through the whole root.

mod commands;
mod known;
mod languages;
mod ld_cache;
mod loader;
mod loads;
mod python;
mod root;
mod survey;
mod words;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

pub use ld_cache::LdCache;
pub use root::Root;
pub use survey::{survey, Library, LibraryKind};

use known::{Hint, Name};
use loader::{Loader, Look, Object};

/// Who made an MPI library. Members of a family speak the same interface to their
/// launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Open MPI, and what descends from it (Spectrum MPI).
    OpenMpi,
    /// MPICH itself, or something that cannot be told from it.
    Mpich,
    /// Intel MPI.
    IntelMpi,
    /// MVAPICH.
    Mvapich,
    /// HPE Cray MPICH, which wants the vendor's own libpmi.
    CrayMpich,
    /// One that speaks the standard's binary interface, and was not found.
    Unknown,
}

impl Family {
    /// Its name as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
            Self::IntelMpi => "Intel MPI",
            Self::Mvapich => "MVAPICH",
            Self::CrayMpich => "Cray MPICH",
            Self::Unknown => "an unknown MPI",
        }
    }
}

/// The version of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second, where it is known.
    pub minor: Option<u32>,
    /// The third, where it is known.
    pub patch: Option<u32>,
}

impl Version {
    /// Takes the numbers at the beginning of a text: `4.2.2rc2` is 4.2.2.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let number: Option<u32> = part.get(..digits)?.parse().ok();
            number.map(|number| (number, digits == part.len()))
        });
        let (major, whole) = parts.next()??;
        let mut version = Self {
            major,
            ..Self::default()
        };
        if whole {
            if let Some(Some((minor, whole))) = parts.next() {
                version.minor = Some(minor);
                if whole {
                    version.patch = parts.next().flatten().map(|(patch, _)| patch);
                }
            }
        }
        Some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.major)?;
        for part in [self.minor, self.patch].into_iter().flatten() {
            write!(f, ".{part}")?;
        }
        Ok(())
    }
}

/// An MPI library, as a program will find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mpi {
    /// Whose.
    pub family: Family,
    /// Which version: often only the generation, if [`Depth::Quick`] was asked for.
    pub version: Option<Version>,
    /// The file in the root; `None` if it was not found, or is part of the program.
    pub library: Option<PathBuf>,
    /// Whether the program needs a file that was not found.
    pub is_missing: bool,
    /// Interfaces it is linked with instead of its family's own.
    pub clients: Vec<Client>,
}

/// A library that an MPI speaks to its launcher through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Client {
    /// libpmix.
    Pmix,
    /// libpmi, usually Slurm's or the vendor's.
    Pmi1,
    /// libpmi2, likewise.
    Pmi2,
}

/// What is said of an MPI that is not where the loader would look for it.
pub const MISSING: &str = " (not found in the image)";

impl fmt::Display for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.family.name())?;
        match self.version {
            Some(version) => write!(f, " {version}"),
            None => Ok(()),
        }?;
        match self.is_missing {
            true => f.write_str(MISSING),
            false => Ok(()),
        }
    }
}

/// What is known of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramMpi {
    /// It uses no MPI.
    Without,
    /// It is linked with this one.
    With(Mpi),
    /// It is an interpreter, a program that loads its libraries by name, or a shell of
    /// which cannot be seen what it executes: it may load an MPI or start a program with
    /// one of these.
    Unknown(Vec<Mpi>),
    /// It is a shell whose text names no program with MPI; these are in the root.
    Unlikely(Vec<Mpi>),
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// For the launching path: the family, and the version where a symbol tells it.
    Quick,
    /// The version too where it takes reading the library.
    Thorough,
}

/// What is to be executed, and what it will find.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The command and its arguments.
    pub words: &'a [OsString],
    /// `PATH` inside.
    pub path: &'a OsStr,
    /// `LD_LIBRARY_PATH` inside.
    pub library_path: Option<&'a OsStr>,
    /// Other variables inside, by which an interpreter finds its packages: [`VARIABLES`].
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The working directory inside.
    pub directory: &'a Path,
    /// Whether somebody types at it: a shell that is told nothing is a session then.
    pub at_terminal: bool,
    /// How closely to look.
    pub depth: Depth,
}

/// The variables that are asked for: no answer depends on others.
pub const VARIABLES: [&str; 10] = [
    "HOME",
    "JULIA_DEPOT_PATH",
    "MPI4PY_LIBMPI",
    "MPI4PY_MPIABI",
    "PYTHONPATH",
    "PYTHONUSERBASE",
    "R_HOME",
    "R_LIBS",
    "R_LIBS_SITE",
    "R_LIBS_USER",
];

impl Question<'_> {
    /// One of [`VARIABLES`], if it says anything.
    fn setting(&self, name: &str) -> Option<OsString> {
        debug_assert!(VARIABLES.contains(&name), "{name}");
        (self.variable)(name).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("words", &self.words)
            .field("path", &self.path)
            .field("library_path", &self.library_path)
            .field("directory", &self.directory)
            .field("at_terminal", &self.at_terminal)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// Which MPI a command uses, told from the files of `root`.
///
/// A script is followed to its interpreter, and wrappers such as env(1) to what they
/// execute. What a shell is told to do is looked through for programs of the root that
/// are linked with MPI.
pub fn of_program(root: &Root, question: &Question<'_>) -> ProgramMpi {
    words::judge(&Loader::new(root, question.library_path), question)
}

/// The MPI that an ELF program is linked with, dynamically or statically.
fn of_elf(loader: &Loader<'_>, program: Object, depth: Depth) -> Option<Mpi> {
    let file = program.file.try_clone();
    let found = loader.each_needed(program, |name, by| match known::by_name(name) {
        Name::Mpi(hint) => library(loader, name, by, hint, depth).map_or(Look::Follow, Look::Found),
        Name::System | Name::Pmix | Name::Pmi1 | Name::Pmi2 | Name::Ucx | Name::Libfabric => {
            Look::Pass
        }
        Name::Other => Look::Follow,
    });
    found.or_else(|| {
        let inside = known::search(&file.ok()?)?;
        Some(Mpi {
            family: inside.family,
            version: inside.version,
            library: None,
            is_missing: false,
            clients: Vec::new(),
        })
    })
}

/// What the MPI library is that `by` needs under this name; `None` if it only leads to one.
fn library(
    loader: &Loader<'_>,
    name: &OsStr,
    by: &Object,
    hint: Hint,
    depth: Depth,
) -> Option<Mpi> {
    let Some(object) = loader.library(name, by) else {
        // The loader's search may be steered by what only the program's start sets. Whose
        // library it will be is in the name.
        return Some(Mpi {
            family: match hint {
                Hint::OpenMpi => Family::OpenMpi,
                Hint::Mpich => Family::Mpich,
                Hint::Any => Family::Unknown,
            },
            version: None,
            library: None,
            is_missing: true,
            clients: Vec::new(),
        });
    };
    let (family, version) = known::by_content(&object.file, depth == Depth::Thorough)?;
    Some(Mpi {
        family,
        version,
        clients: clients(&object),
        library: Some(object.path),
        is_missing: false,
    })
}

/// The PMI libraries that an MPI library itself is linked with.
fn clients(library: &Object) -> Vec<Client> {
    let direct = library.elf.needed.iter().map(|name| known::by_name(name));
    let mut found: Vec<_> = direct
        .filter_map(|name| match name {
            Name::Pmix => Some(Client::Pmix),
            Name::Pmi1 => Some(Client::Pmi1),
            Name::Pmi2 => Some(Client::Pmi2),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
