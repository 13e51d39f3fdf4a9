//! What starts the ranks: the site's own launcher.
//!
//! Owns: finding it, and how it is told the number of ranks. Never: starts any.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use launcher::Error;

use crate::data;
use crate::machine::version;
use crate::words::split;

/// How a launcher wants to be told things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Open MPI's, up to 4.1.
    Orte,
    /// Open MPI's from 5.0 on.
    Prrte,
    /// Slurm's.
    Srun,
    /// Any other: `-n RANKS` and nothing else.
    Other,
}

/// A launcher.
#[derive(Debug, Clone)]
pub struct Launcher {
    words: Vec<String>,
    dialect: Dialect,
    version: String,
    /// Ranks that it starts without being told that they may share processors.
    slots: u32,
    /// Whether it has a word for steps that share processors (Slurm 20.11).
    overlaps: bool,
}

impl Launcher {
    /// The one the user names, else srun within an allocation of Slurm's, else
    /// mpirun or mpiexec.
    ///
    /// # Errors
    /// There is none.
    pub fn find(named: Option<&str>) -> Result<Self, Error> {
        if let Some(line) = named {
            let words =
                split(line).map_err(|cause| Error::new(format!("--launcher '{line}'"), cause))?;
            return Self::of(words);
        }
        let in_allocation = std::env::var_os("SLURM_JOB_ID").is_some();
        let names: &[&str] = match in_allocation {
            true => &["srun", "mpirun", "mpiexec"],
            false => &["mpirun", "mpiexec"],
        };
        let found = names.iter().find(|name| on_path(name).is_some());
        let name = found.ok_or_else(|| {
            Error::new(
                "find a launcher",
                "there is neither mpirun nor mpiexec on PATH",
            )
            .hint("load the site's MPI module, or install openmpi-bin, or name one by --launcher")
        })?;
        let mut words = vec![(*name).to_owned()];
        if *name == "srun" {
            words.extend(best_interface(&printed("srun", &["--mpi=list"])));
        }
        Self::of(words)
    }

    fn of(mut words: Vec<String>) -> Result<Self, Error> {
        let name = words.first().cloned().unwrap_or_default();
        let missing = || {
            Error::new(format!("find the launcher {name:?}"), "it is not on PATH")
                .hint("give --launcher the command and its options, without the number of ranks")
        };
        let path = on_path(&name).ok_or_else(missing)?;
        words[0] = path.display().to_string();
        let said = version(&words[0], "--version").unwrap_or_default();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let dialect = if file == "srun" {
            Dialect::Srun
        } else if said.contains("Open MPI") || said.contains("OpenRTE") {
            match said.contains(" 5.") || said.contains(" 6.") {
                true => Dialect::Prrte,
                false => Dialect::Orte,
            }
        } else if said.contains("PRTE") || said.contains("prte") {
            Dialect::Prrte
        } else {
            Dialect::Other
        };
        let slots = match dialect {
            Dialect::Srun => number("SLURM_NTASKS")
                .or_else(|| number("SLURM_CPUS_ON_NODE"))
                .unwrap_or(1),
            _ => physical_cores(),
        };
        Ok(Self {
            overlaps: dialect == Dialect::Srun
                && printed(&words[0], &["--help"]).contains("--overlap"),
            words,
            dialect,
            version: said,
            slots,
        })
    }

    /// The words that start so many ranks, to be followed by their program.
    pub fn words(&self, ranks: u32, as_root: bool) -> Vec<String> {
        let mut words = self.words.clone();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        let crowded = ranks > self.slots;
        match self.dialect {
            Dialect::Orte | Dialect::Prrte if as_root => add(&["--allow-run-as-root"]),
            _ => {}
        }
        match self.dialect {
            Dialect::Orte if crowded => add(&["--oversubscribe"]),
            Dialect::Prrte if crowded => add(&["--map-by", ":OVERSUBSCRIBE"]),
            Dialect::Srun if crowded => add(&["--overcommit"]),
            _ => {}
        }
        add(&["-n", &ranks.to_string()]);
        words
    }

    /// The same for jobs that are under way on the same processors, if it can.
    /// Steps of an allocation wait for one another unless srun is told otherwise.
    pub fn side_by_side(&self) -> Option<Self> {
        let mut launcher = self.clone();
        if self.is_srun() {
            self.overlaps.then_some(())?;
            launcher.words.push("--overlap".to_owned());
        }
        Some(launcher)
    }

    /// Whether it is Slurm's.
    pub fn is_srun(&self) -> bool {
        self.dialect == Dialect::Srun
    }

    /// Whether srun knows our plugin's options.
    pub fn has_plugin(&self) -> bool {
        self.is_srun() && printed(&self.words[0], &["--help"]).contains("--singularity-image")
    }

    /// As it is stored.
    pub fn describe(&self) -> data::Launcher {
        let mut words = self.words.clone();
        if let Some(name) = Path::new(&words[0]).file_name() {
            words[0] = name.to_string_lossy().into_owned();
        }
        data::Launcher {
            words: words.join(" "),
            version: self.version.clone(),
        }
    }
}

/// srun's option for the interface that most MPI libraries speak, of those that
/// `srun --mpi=list` names.
fn best_interface(list: &str) -> Option<String> {
    let known: Vec<&str> = list
        .split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .collect();
    // A site's default, where it says one, knows better.
    let name = ["pmix", "pmi2"]
        .into_iter()
        .find(|name| known.contains(name))?;
    match std::env::var_os("SLURM_MPI_TYPE") {
        Some(_) => None,
        None => Some(format!("--mpi={name}")),
    }
}

fn number(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

fn printed(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output();
    output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    })
}

/// A program by its path, or by its name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return path
            .is_file()
            .then(|| std::path::absolute(&path).unwrap_or(path));
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Open MPI counts cores, not their threads.
fn physical_cores() -> u32 {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    u32::try_from(cores_in(&text).filter(|&cores| cores < all).unwrap_or(all)).unwrap_or(1)
}

fn cores_in(cpuinfo: &str) -> Option<usize> {
    let field = |block: &str, name: &str| {
        block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let mut cores: Vec<_> = cpuinfo
        .split("\n\n")
        .filter_map(|block| Some((field(block, "physical id")?, field(block, "core id")?)))
        .collect();
    cores.sort();
    cores.dedup();
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher(dialect: Dialect) -> Launcher {
        Launcher {
            words: vec!["start".to_owned()],
            dialect,
            version: String::new(),
            slots: 2,
            overlaps: false,
        }
    }

    #[test]
    fn each_launcher_is_told_of_more_ranks_than_cores_in_its_own_words() {
        let words = |dialect, ranks| launcher(dialect).words(ranks, false).join(" ");
        assert_eq!(words(Dialect::Orte, 2), "start -n 2");
        assert_eq!(words(Dialect::Orte, 8), "start --oversubscribe -n 8");
        assert_eq!(
            words(Dialect::Prrte, 8),
            "start --map-by :OVERSUBSCRIBE -n 8"
        );
        assert_eq!(words(Dialect::Srun, 8), "start --overcommit -n 8");
        assert_eq!(words(Dialect::Other, 8), "start -n 8");
        assert_eq!(
            launcher(Dialect::Orte).words(2, true).join(" "),
            "start --allow-run-as-root -n 2"
        );
        assert_eq!(
            launcher(Dialect::Srun).words(2, true).join(" "),
            "start -n 2"
        );
    }

    #[test]
    fn steps_share_processors_where_srun_can_be_told_to() {
        assert!(launcher(Dialect::Srun).side_by_side().is_none());
        let mut srun = launcher(Dialect::Srun);
        srun.overlaps = true;
        let words = srun
            .side_by_side()
            .map(|both| both.words(2, false).join(" "));
        assert_eq!(words.as_deref(), Some("start --overlap -n 2"));
        let mpirun = launcher(Dialect::Orte).side_by_side();
        assert_eq!(
            mpirun.map(|both| both.words(2, false).join(" ")).as_deref(),
            Some("start -n 2")
        );
    }

    #[test]
    fn threads_of_a_core_are_one_core() {
        let text = "processor : 0\nphysical id : 0\ncore id : 0\n\n\
            processor : 1\nphysical id : 0\ncore id : 0\n\n\
            processor : 2\nphysical id : 0\ncore id : 1\n";
        assert_eq!(cores_in(text), Some(2));
        assert_eq!(cores_in("processor : 0\n"), None);
    }

    #[test]
    fn pmix_goes_before_pmi2() {
        let list = "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\nspecific pmix plugin versions available: pmix_v4";
        assert_eq!(best_interface(list).as_deref(), Some("--mpi=pmix"));
        assert_eq!(
            best_interface("cray_shasta none pmi2").as_deref(),
            Some("--mpi=pmi2")
        );
        assert_eq!(best_interface("none"), None);
    }

    #[test]
    fn a_launcher_that_is_not_there_is_named() {
        let error = Launcher::find(Some("no-such-launcher -x")).unwrap_err();
        assert!(error.to_string().contains("no-such-launcher"), "{error}");
    }
}
