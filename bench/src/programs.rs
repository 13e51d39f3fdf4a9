//! The MPI programs: our own C, compiled on the host and in each image.
//!
//! Owns: the sources, and where what was compiled is kept. Never: runs them.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::Shown;
use launcher::Error;

use crate::launcher::on_path;
use crate::watch;

/// One program each of these is compiled into, with its files.
const PROGRAMS: [(&str, &[(&str, &str)]); 2] = [
    (
        "mpi-bench",
        &[
            ("bench.h", include_str!("../../examples/bench/bench.h")),
            ("fence.c", include_str!("../../examples/bench/fence.c")),
            ("main.c", include_str!("../../examples/bench/main.c")),
            ("point.c", include_str!("../../examples/bench/point.c")),
            ("startup.c", include_str!("../../examples/bench/startup.c")),
            (
                "together.c",
                include_str!("../../examples/bench/together.c"),
            ),
        ],
    ),
    (
        "ring",
        &[("ring.c", include_str!("../../examples/ring/ring.c"))],
    ),
];

/// Where compiled programs are kept.
#[derive(Debug)]
pub struct Store {
    /// For an ordinary user below the home directory, which images show and which
    /// the nodes of a cluster share; for root, whose compiled programs nobody else
    /// may have written, a new directory below /tmp that goes at the end.
    place: PathBuf,
}

impl Store {
    /// Opens it.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn open(is_root: bool) -> Result<Self, Error> {
        if is_root {
            let place = PathBuf::from(format!("/tmp/singularity-bench-{}", std::process::id()));
            make(&place, 0o755, false)?;
            watch::remove_at_the_end(&place);
            return Ok(Self { place });
        }
        let named = std::env::var_os("XDG_CACHE_HOME").filter(|name| !name.is_empty());
        let cache = match (named, std::env::var_os("HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, Some(home)) => Path::new(&home).join(".cache"),
            (None, None) => {
                return Err(
                    Error::new("find a place for compiled programs", "HOME is not set")
                        .hint("set HOME or XDG_CACHE_HOME to a directory of yours"),
                )
            }
        };
        let place = cache.join("singularity/bench");
        make(&place, 0o755, true)?;
        Ok(Self { place })
    }

    /// The programs for the host, compiled by its mpicc.
    ///
    /// # Errors
    /// There is no mpicc, or it failed.
    pub fn for_host(&self, mpicc: &str) -> Result<PathBuf, Error> {
        let compiler = on_path(mpicc).ok_or_else(|| {
            Error::new(
                "compile the MPI programs for the host",
                format!("there is no {mpicc} on PATH"),
            )
            .hint("load the site's MPI module, install libopenmpi-dev, or give --host-program DIR")
        })?;
        let real = fs::canonicalize(&compiler).unwrap_or_else(|_| compiler.clone());
        let key = self.key(&[&compiler, &real]);
        self.compile(&format!("host-{key}"), "on the host", |words| {
            Command::new(&compiler)
                .args(words)
                .stdin(Stdio::null())
                .output()
        })
    }

    /// The programs for an image, compiled by its mpicc in it.
    ///
    /// # Errors
    /// The image has no mpicc, or it failed.
    pub fn for_image(&self, exec: &[String], image: &Path) -> Result<PathBuf, Error> {
        // A directory changes without its own inode: what MPI and its compiler
        // come from is looked at too.
        let places: Vec<PathBuf> = std::iter::once(image.to_owned())
            .chain(
                ["usr/bin", "usr/lib", "usr/local/bin", "etc/ld.so.cache"].map(|p| image.join(p)),
            )
            .collect();
        let key = self.key(&places.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        let where_ = format!("in {}", Shown::new(image));
        self.compile(&format!("image-{key}"), &where_, |words| {
            Command::new(&exec[0])
                .args(&exec[1..])
                .arg(image)
                .arg("mpicc")
                .args(words)
                .stdin(Stdio::null())
                .output()
        })
    }

    /// A word for the sources and for these files as they are.
    fn key(&self, files: &[&Path]) -> String {
        let mut hasher = DefaultHasher::new();
        PROGRAMS.hash(&mut hasher);
        for file in files {
            file.hash(&mut hasher);
            if let Ok(data) = fs::metadata(file) {
                (data.dev(), data.ino(), data.size()).hash(&mut hasher);
                (data.mtime(), data.mtime_nsec()).hash(&mut hasher);
            }
        }
        format!("{:016x}", hasher.finish())
    }

    fn compile(
        &self,
        name: &str,
        where_: &str,
        mpicc: impl Fn(&[OsString]) -> std::io::Result<Output>,
    ) -> Result<PathBuf, Error> {
        let place = self.place.join(name);
        if place.is_dir() {
            return Ok(place);
        }
        // Renamed when all is there: who finds it finds it whole.
        let new = self.place.join(format!("{name}.{}", std::process::id()));
        make(&new, 0o755, false)?;
        watch::remove_at_the_end(&new);
        for (program, files) in PROGRAMS {
            let mut words: Vec<OsString> = ["-O2", "-o"].map(OsString::from).into();
            words.push(new.join(program).into());
            for (file, text) in files {
                let path = new.join(file);
                fs::write(&path, text)
                    .map_err(|error| Error::io(format!("write {}", Shown::new(&path)), &error))?;
                if file.ends_with(".c") {
                    words.push(path.into());
                }
            }
            // Where it is not in the C library itself.
            words.push("-ldl".into());
            let step = || format!("compile {program} {where_}");
            let output = mpicc(&words).map_err(|error| Error::io(step(), &error))?;
            if !output.status.success() {
                return Err(failed(step(), &output));
            }
        }
        match fs::rename(&new, &place) {
            // Another run was as quick.
            Err(_) if place.is_dir() => {}
            Err(error) => {
                return Err(Error::io(format!("make {}", Shown::new(&place)), &error));
            }
            Ok(()) => {}
        }
        Ok(place)
    }
}

fn failed(step: String, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty());
    let cause = first.map_or_else(|| output.status.to_string(), str::to_owned);
    let cause = cause
        .strip_prefix("singularity: ")
        .unwrap_or(&cause)
        .to_owned();
    match output.status.code() {
        Some(127) => Error::new(step, "there is no mpicc in it").hint(
            "add the MPI's compiler to the image, or give --image-program DIR with mpi-bench and ring compiled for it",
        ),
        _ => Error::new(step, cause)
            .hint("the MPI's development files and a C compiler are needed, or --host-program, --image-program"),
    }
}

fn make(directory: &Path, mode: u32, all: bool) -> Result<(), Error> {
    fs::DirBuilder::new()
        .mode(mode)
        .recursive(all)
        .create(directory)
        .map_err(|error| Error::io(format!("make {}", Shown::new(directory)), &error))
}
