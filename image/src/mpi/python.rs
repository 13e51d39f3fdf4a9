//! Which MPI a Python would use: that of its mpi4py.
//!
//! Owns: where a Python looks for its packages, and how mpi4py chooses among the MPIs
//! that it was built for. Never: reads Python; a program that loads an MPI past mpi4py is
//! not seen.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::known::base_name;
use super::loader::{Loader, Object};
use super::root::Root;
use super::{known, library, of_elf, Family, Mpi, Name, Question};

/// So many directories are looked into for mpi4py.
const MOST_DIRECTORIES: usize = 64;
/// What says of a virtual environment which Python it is one of.
const MOST_SETTINGS: u64 = 4 << 10;

/// The MPI of the mpi4py that this interpreter would import; `None` if it has none, or
/// it cannot be told.
pub(super) fn mpi(loader: &Loader<'_>, question: &Question<'_>, python: &Path) -> Option<Mpi> {
    let root = loader.root();
    let file = root.file(python)?;
    let real = root.path_of(&file).unwrap_or_else(|| python.to_owned());
    let places = Places::of(root, question, python, &real);
    let object = loader.program(&real, file)?;
    let package = places
        .packages(root)
        .into_iter()
        .map(|directory| directory.join("mpi4py"))
        .find(|package| root.names(package).iter().any(|name| is_extension(name)))?;
    let extensions: Vec<OsString> = root
        .names(&package)
        .into_iter()
        .filter(|name| is_extension(name))
        .collect();
    // One that was compiled here has no word between `MPI` and Python's own.
    let plain = extensions.iter().find(|name| variant(name).is_none());
    let chosen = match (plain, question.setting("MPI4PY_MPIABI")) {
        (Some(plain), _) => plain,
        (None, Some(wanted)) => {
            let wanted = match wanted.to_str()?.to_lowercase().as_str() {
                "impi" => "mpich".to_owned(),
                other => other.replace(['-', '_', ' '], ""),
            };
            extensions
                .iter()
                .find(|name| variant(name) == Some(wanted.as_str()))?
        }
        (None, None) => return places.first_library(loader, question, &object),
    };
    let path = package.join(chosen);
    let file = root.file(&path)?;
    of_elf(loader, loader.program(&path, file)?, question.depth)
}

/// `MPI.cpython-311-x86_64-linux-gnu.so`, `MPI.abi3.so`, `MPI.mpich.cpython-…so`.
fn is_extension(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b"MPI.") && bytes.ends_with(b".so")
}

/// The binary interface in an extension's name, where there is one for each (mpi4py from
/// 4.1, `_mpiabi.py`).
fn variant(name: &OsStr) -> Option<&str> {
    let word = name.to_str()?.strip_prefix("MPI.")?.split('.').next()?;
    let is_pythons = ["cpython-", "abi3", "pypy", "graalpy", "so"]
        .iter()
        .any(|beginning| word.starts_with(beginning));
    (!is_pythons).then_some(word)
}

/// The directories a Python is in.
struct Places {
    /// `PYTHONPATH`.
    named: Vec<PathBuf>,
    /// The user's own packages.
    user: Option<PathBuf>,
    /// The virtual environment.
    environment: Option<PathBuf>,
    /// Where Python is installed; of a virtual environment that does not use its
    /// packages only for libraries.
    base: PathBuf,
    uses_base: bool,
    /// `python3.11`.
    version: OsString,
}

impl Places {
    fn of(root: &Root, question: &Question<'_>, python: &Path, real: &Path) -> Self {
        let above = |path: &Path| Some(path.parent()?.parent()?.to_owned());
        // Where /bin is not a link to /usr/bin, Python is in /usr all the same.
        let base = above(real)
            .filter(|base| base != Path::new("/"))
            .unwrap_or_else(|| "/usr".into());
        let environment =
            above(python).filter(|place| root.file(&place.join("pyvenv.cfg")).is_some());
        let settings = environment
            .as_ref()
            .and_then(|place| root.content(&place.join("pyvenv.cfg"), MOST_SETTINGS));
        let settings = String::from_utf8_lossy(&settings.unwrap_or_default()).to_lowercase();
        let uses_base = environment.is_none()
            || settings.lines().any(|line| {
                line.split_once('=').is_some_and(|(name, value)| {
                    name.trim() == "include-system-site-packages" && value.trim() == "true"
                })
            });
        let user = question
            .setting("PYTHONUSERBASE")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&question.setting("HOME")?).join(".local")))
            .filter(|_| uses_base);
        let named = question.setting("PYTHONPATH").unwrap_or_default();
        let named = named
            .as_bytes()
            .split(|&byte| byte == b':')
            .filter(|part| !part.is_empty())
            .map(|part| question.directory.join(OsStr::from_bytes(part)))
            .collect();
        Self {
            named,
            user,
            environment,
            base,
            uses_base,
            version: base_name(real.as_os_str()).to_owned(),
        }
    }

    /// Where packages are, in the order of Python's search.
    fn packages(&self, root: &Root) -> Vec<PathBuf> {
        let mut found = self.named.clone();
        let mut prefixes: Vec<PathBuf> = self.environment.iter().cloned().collect();
        if self.uses_base {
            prefixes.extend(self.user.clone());
            // Debian's Python takes what was installed by hand first.
            if self.base == Path::new("/usr") {
                prefixes.push("/usr/local".into());
            }
            prefixes.push(self.base.clone());
        }
        for prefix in prefixes {
            for lib in ["lib", "lib64"] {
                let lib = prefix.join(lib);
                let mut versions = root.names(&lib);
                versions.retain(|name| self.is_version(name));
                versions.sort_unstable();
                // The newest first: of several that fit it is the likelier.
                for version in versions.iter().rev() {
                    for kind in ["site-packages", "dist-packages"] {
                        found.push(lib.join(version).join(kind));
                    }
                }
            }
        }
        found.truncate(MOST_DIRECTORIES);
        found
    }

    /// `python3.11` has `python3.11` and, on Debian, `python3`.
    fn is_version(&self, name: &OsStr) -> bool {
        let (name, own) = (name.as_bytes(), self.version.as_bytes());
        match own.contains(&b'.') {
            true => name == own || name == b"python3",
            false => name.starts_with(b"python3") || name.starts_with(b"pypy3"),
        }
    }

    /// The library that mpi4py would find by trying, and take its interface from.
    fn first_library(
        &self,
        loader: &Loader<'_>,
        question: &Question<'_>,
        python: &Object,
    ) -> Option<Mpi> {
        const NAMES: [&str; 3] = ["libmpi.so", "libmpi.so.12", "libmpi.so.40"];
        let places: Vec<PathBuf> = match question.setting("MPI4PY_LIBMPI") {
            Some(list) => list
                .as_bytes()
                .split(|&byte| byte == b':')
                .map(|part| OsStr::from_bytes(part).into())
                .collect(),
            None => self
                .environment
                .iter()
                .chain(&self.user)
                .chain([&self.base])
                .filter(|prefix| *prefix != Path::new("/usr"))
                .map(|prefix| prefix.join("lib"))
                .chain([PathBuf::new()])
                .collect(),
        };
        let root = loader.root();
        let names = places.iter().take(MOST_DIRECTORIES).flat_map(|place| {
            let is_list = place.as_os_str().is_empty() || !root.names(place).is_empty();
            let names = NAMES.iter().map(|name| place.join(name));
            let names: Vec<PathBuf> = match is_list {
                true => names.collect(),
                false => vec![place.clone()],
            };
            names
        });
        let mut found = names.filter_map(|name| {
            let name = name.as_os_str();
            let Name::Mpi(hint) = known::by_name(base_name(name)) else {
                return None;
            };
            loader.library(name, python)?;
            library(loader, name, python, hint, question.depth)
        });
        found.find(|mpi| mpi.family != Family::Unknown)
    }
}
