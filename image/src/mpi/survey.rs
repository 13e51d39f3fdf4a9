//! All MPI, PMI and fabric libraries of a root.
//!
//! Owns: the places where they are usually installed. Never: walks the whole tree;
//! directories and files are counted, and there is an end.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::known::{self, base_name, Hint, Name};
use super::ld_cache::LdCache;
use super::loader::Loader;
use super::root::Root;
use super::{clients, Client, Family, Mpi, Version};

/// More directories than this are not listed.
const MOST_DIRECTORIES: usize = 1024;
/// More libraries than this are not opened.
const MOST_LIBRARIES: usize = 256;

/// Where libraries are: distributions, modules, vendors, wheels, conda. A `*` stands for
/// one name.
const PLACES: [&str; 27] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/powerpc64le-linux-gnu",
    "/usr/lib/riscv64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib/*-linux-gnu/*/lib",
    "/usr/lib64/*/lib",
    "/usr/lib64/*/*/lib",
    "/usr/local/*/lib",
    "/usr/local/*/lib64",
    "/usr/local/lib/openmpi",
    "/usr/local/lib/mpich",
    "/opt/*/lib",
    "/opt/*/lib64",
    "/opt/*/lib/openmpi",
    "/opt/*/*/lib",
    "/opt/intel/oneapi/mpi/*/lib",
    "/opt/intel/oneapi/mpi/*/lib/release",
    "/opt/cray/pe/mpich/*/ofi/*/*/lib",
    "/opt/conda/envs/*/lib",
    "/opt/spack/opt/spack/*/*/*/lib",
    "/usr/mpi/gcc/*/lib64",
];

/// What a library is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LibraryKind {
    /// An MPI.
    Mpi(Family),
    /// libpmix.
    Pmix,
    /// libpmi.
    Pmi1,
    /// libpmi2.
    Pmi2,
    /// UCX.
    Ucx,
    /// libfabric.
    Libfabric,
}

impl LibraryKind {
    /// Its name as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mpi(family) => family.name(),
            Self::Pmix => "PMIx",
            Self::Pmi1 => "PMI-1",
            Self::Pmi2 => "PMI-2",
            Self::Ucx => "UCX",
            Self::Libfabric => "libfabric",
        }
    }
}

/// A library that was found in a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// What it is.
    pub kind: LibraryKind,
    /// Its version, as far as the files tell it.
    pub version: Option<Version>,
    /// Where it is in the root.
    pub path: PathBuf,
}

/// The MPI, PMI and fabric libraries in the usual places of a root, in the order of kind
/// and path; each file once, whatever names it has.
pub fn survey(root: &Root) -> Vec<Library> {
    let loader = Loader::new(root, None);
    let mut found: Vec<Library> = files(&loader, &[])
        .into_iter()
        .filter_map(|(path, file, name)| {
            let (kind, version) = match name {
                Name::Mpi(_) => {
                    let (family, version) = known::by_content(&file, true)?;
                    (LibraryKind::Mpi(family), version)
                }
                Name::Pmix => (LibraryKind::Pmix, known::pmix_by_file(&file)),
                Name::Pmi1 => (LibraryKind::Pmi1, None),
                Name::Pmi2 => (LibraryKind::Pmi2, None),
                Name::Ucx => (LibraryKind::Ucx, None),
                Name::Libfabric => (LibraryKind::Libfabric, None),
                Name::System | Name::Other => return None,
            };
            let version = version.or_else(|| match kind {
                LibraryKind::Libfabric => by_file_name(root, &file),
                LibraryKind::Pmix => by_file_name(root, &file).and_then(pmix_release),
                _ => None,
            });
            Some(Library {
                kind,
                version,
                path,
            })
        })
        .collect();
    found.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
    found
}

/// The MPI libraries alone, of these directories too.
pub(super) fn of_mpi(loader: &Loader<'_>, more: &[PathBuf], thorough: bool) -> Vec<Mpi> {
    let mut found: Vec<Mpi> = files(loader, more)
        .into_iter()
        .filter(|(_, _, name)| matches!(name, Name::Mpi(_)))
        .filter_map(|(path, file, _)| {
            let (family, version) = known::by_content(&file, thorough)?;
            let object = loader.program(&path, file)?;
            let clients: Vec<Client> = clients(&object);
            Some(Mpi {
                family,
                version,
                library: Some(path),
                is_missing: false,
                clients,
            })
        })
        .collect();
    found.sort_by(|a, b| (a.family, &a.library).cmp(&(b.family, &b.library)));
    found
}

/// The release of PMIx whose library has this number (openpmix, `VERSION` of each).
fn pmix_release(library: Version) -> Option<Version> {
    let (major, minor, patch) = match (library.major, library.minor?) {
        (2, 3) => (4, 0, None),
        (2, 6) => (4, 2, library.patch),
        (2, 13) => (5, 0, library.patch),
        _ => return None,
    };
    Some(Version {
        major,
        minor: Some(minor),
        patch,
    })
}

/// The version in a file's name: libfabric's is one of the interface, 1.N.
fn by_file_name(root: &Root, file: &File) -> Option<Version> {
    let path = root.path_of(file)?;
    let name = base_name(path.as_os_str()).to_str()?.to_owned();
    let (_, version) = name.split_once(".so.")?;
    version.contains('.').then(|| Version::parse(version))?
}

/// The open files of all that may be such a library.
fn files(loader: &Loader<'_>, more: &[PathBuf]) -> Vec<(PathBuf, File, Name)> {
    let root = loader.root();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut take = |path: PathBuf, name: Name| {
        if found.len() >= MOST_LIBRARIES {
            return;
        }
        let Some(file) = root.file(&path) else { return };
        let Ok(metadata) = file.metadata() else {
            return;
        };
        if seen.insert((metadata.dev(), metadata.ino())) {
            found.push((path, file, name));
        }
    };
    let cache = LdCache::of(loader.cache());
    for (name, path) in cache.iter() {
        if let Some(kind) = of_interest(name) {
            take(path.into(), kind);
        }
    }
    for directory in directories(root).iter().chain(more) {
        let mut names = root.names(directory);
        names.sort_unstable();
        for name in names {
            if let Some(kind) = of_interest(&name) {
                take(directory.join(name), kind);
            }
        }
    }
    found
}

fn of_interest(name: &OsStr) -> Option<Name> {
    let text = name.to_str()?;
    if !["libmpi", "libpmi", "libucp", "libfabric"]
        .iter()
        .any(|beginning| text.starts_with(beginning))
    {
        return None;
    }
    // Those for other languages only lead to one of these.
    let is_the_library = [
        "libmpi.",
        "libmpich.",
        "libmpi_abi.",
        "libmpi_ibm.",
        "libmpi_cray.",
    ]
    .iter()
    .any(|beginning| text.starts_with(beginning))
        || text.starts_with("libmpi_gnu");
    match known::by_name(name) {
        Name::System | Name::Other => None,
        Name::Mpi(Hint::Any | Hint::OpenMpi | Hint::Mpich) if !is_the_library => None,
        kind => Some(kind),
    }
}

/// The directories that the places stand for in this root.
fn directories(root: &Root) -> Vec<PathBuf> {
    let mut listed = 0;
    let mut all: Vec<PathBuf> = Vec::new();
    for place in PLACES {
        let mut now = vec![PathBuf::from("/")];
        for part in place.split('/').filter(|part| !part.is_empty()) {
            let Some((before, after)) = part.split_once('*') else {
                now.iter_mut().for_each(|path| path.push(part));
                continue;
            };
            let mut next = Vec::new();
            for path in now {
                listed += 1;
                if listed > MOST_DIRECTORIES {
                    break;
                }
                let mut names = root.names(&path);
                names.sort_unstable();
                next.extend(
                    names
                        .into_iter()
                        .filter(|name| {
                            name.to_str()
                                .is_some_and(|n| n.starts_with(before) && n.ends_with(after))
                        })
                        .map(|name| path.join(name)),
                );
            }
            next.truncate(MOST_DIRECTORIES);
            now = next;
        }
        all.extend(now);
    }
    all.truncate(MOST_DIRECTORIES);
    all
}
