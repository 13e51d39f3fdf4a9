//! Where R and Julia have their MPI.
//!
//! Owns: the places of their packages. Never: reads their programs; one that loads an MPI
//! past these packages is not seen.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::loader::Loader;
use super::{of_elf, Mpi, Question};

/// So many directories of packages are looked into.
const MOST_DIRECTORIES: usize = 512;
/// R's packages that are linked with an MPI.
const OF_R: [&str; 2] = ["Rmpi", "pbdMPI"];

/// Whether this is R, whose command is a script on most systems.
pub(super) fn is_r(name: &OsStr) -> bool {
    name == "R" || name == "Rscript"
}

fn list(value: Option<OsString>) -> Vec<PathBuf> {
    let value = value.unwrap_or_default();
    let parts = value.as_bytes().split(|&byte| byte == b':');
    parts
        .filter(|part| !part.is_empty())
        .map(|part| PathBuf::from(OsStr::from_bytes(part)))
        .collect()
}

/// The MPIs that R's packages are linked with, in the order of its search (`.libPaths` in
/// R's manual).
pub(super) fn of_r(loader: &Loader<'_>, question: &Question<'_>, r: &Path) -> Vec<Mpi> {
    let root = loader.root();
    let mut places: Vec<PathBuf> = ["R_LIBS", "R_LIBS_USER", "R_LIBS_SITE"]
        .into_iter()
        .flat_map(|name| list(question.setting(name)))
        .collect();
    // ~/R/x86_64-pc-linux-gnu-library/4.2
    let own = question
        .setting("HOME")
        .map(|home| Path::new(&home).join("R"));
    for platform in own.iter().flat_map(|own| root.names(own)) {
        let platform = own.as_deref().unwrap_or(Path::new("/")).join(platform);
        places.extend(root.names(&platform).iter().map(|v| platform.join(v)));
    }
    let installed = question
        .setting("R_HOME")
        .map(|home| Path::new(&home).join("library"));
    places.extend(installed);
    places.extend(
        [
            "/usr/local/lib/R/site-library",
            "/usr/lib/R/site-library",
            "/usr/lib/R/library",
            "/usr/local/lib/R/library",
            "/usr/lib64/R/library",
        ]
        .map(PathBuf::from),
    );
    // …/bin/R has …/lib/R.
    if let Some(prefix) = r.parent().and_then(Path::parent) {
        places.push(prefix.join("lib/R/library"));
    }
    let mut found: Vec<Mpi> = Vec::new();
    for place in places.iter().take(MOST_DIRECTORIES) {
        for package in OF_R {
            let path = place.join(package).join(format!("libs/{package}.so"));
            let object = root
                .file(&path)
                .and_then(|file| loader.program(&path, file));
            let mpi = object.and_then(|object| of_elf(loader, object, question.depth));
            let is_known = |mpi: &Mpi| found.iter().any(|known| known.family == mpi.family);
            found.extend(mpi.filter(|mpi| !is_known(mpi)));
        }
    }
    found
}

/// The directories of libraries that Julia's packages have brought
/// (`JULIA_DEPOT_PATH` in Julia's manual; MPI.jl takes its MPI from there if it was not
/// told to take the system's).
pub(super) fn of_julia(loader: &Loader<'_>, question: &Question<'_>, julia: &Path) -> Vec<PathBuf> {
    let root = loader.root();
    let mut depots = list(question.setting("JULIA_DEPOT_PATH"));
    if depots.is_empty() {
        let home = question.setting("HOME");
        depots.extend(home.map(|home| Path::new(&home).join(".julia")));
    }
    if let Some(prefix) = julia.parent().and_then(Path::parent) {
        depots.extend(["local/share/julia", "share/julia"].map(|depot| prefix.join(depot)));
    }
    let artifacts = depots.into_iter().map(|depot| depot.join("artifacts"));
    artifacts
        .flat_map(|artifacts| {
            let mut names = root.names(&artifacts);
            names.sort_unstable();
            names
                .into_iter()
                .map(move |name| artifacts.join(name).join("lib"))
        })
        .take(MOST_DIRECTORIES)
        .collect()
}
