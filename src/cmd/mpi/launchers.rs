//! The launchers of MPI on this host.
//!
//! Owns: finding them in `PATH`, and asking each for its version. Never: starts a rank.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use pmi_shim::{Host, Interface, Launcher, Wire1};

/// How long a launcher may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(5);

const NAMES: [&str; 14] = [
    "mpirun",
    "mpiexec",
    "mpirun.openmpi",
    "orterun",
    "prterun",
    "prun",
    "mpirun.mpich",
    "mpiexec.hydra",
    "mpirun_rsh",
    "aprun",
    "flux",
    "jsrun",
    "mpirun.mpich.hydra",
    "mpiexec.mpich",
];

/// One that was found.
#[derive(Debug)]
pub struct Found {
    /// How it is called.
    pub command: String,
    /// What it calls itself.
    pub version: String,
    /// What a rank would find.
    pub host: Host,
}

/// All of them, each program once; those that a shell would find first are first.
pub fn all(path: &OsStr) -> Vec<Found> {
    let mut seen = HashSet::new();
    let mut found: Vec<Found> = in_path(path, &NAMES)
        .filter(|(_, real)| seen.insert(real.clone()))
        .filter_map(|(program, _)| known(&program))
        .collect();
    if let Some((srun, _)) = in_path(path, &["srun"]).next() {
        found.extend(of_slurm(&srun));
    }
    found
}

/// Programs of these names and the files they are.
fn in_path<'a>(
    path: &'a OsStr,
    names: &'a [&str],
) -> impl Iterator<Item = (PathBuf, PathBuf)> + 'a {
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
        .filter(is_program)
        .filter_map(|candidate| {
            let real = candidate.canonicalize().ok()?;
            Some((candidate, real))
        })
}

fn known(program: &Path) -> Option<Found> {
    let text = said(program, "--version")?;
    let line = |part: &str| text.lines().map(str::trim).find(|line| line.contains(part));
    let pmix = || Interface::Pmix {
        version: None,
        uri: String::new(),
    };
    let wire = || Interface::Pmi1(Wire1::Inherited(0));
    let found = |version: &str, launcher, interface, is_intels| Found {
        command: program.display().to_string(),
        version: version.trim_matches('.').to_owned(),
        host: Host::under(launcher, interface, is_intels),
    };
    if let Some(line) = line("(Open MPI)") {
        let version = line.rsplit(' ').next().unwrap_or_default();
        let is_old = version
            .split('.')
            .next()
            .is_some_and(|major| major.parse::<u32>().is_ok_and(|major| major < 5));
        let launcher = if is_old {
            Launcher::OpenMpi4
        } else {
            Launcher::Prrte
        };
        return Some(found(
            &format!("Open MPI {version}"),
            launcher,
            pmix(),
            false,
        ));
    }
    if let Some(line) = line("Intel(R) MPI Library") {
        let version = line.split("Version ").nth(1).unwrap_or_default();
        let version = version.split(' ').next().unwrap_or_default();
        return Some(found(
            &format!("Intel MPI {version}"),
            Launcher::Hydra,
            wire(),
            true,
        ));
    }
    if text.contains("HYDRA build details") {
        let version = line("Version:").unwrap_or_default();
        let version = version
            .split(':')
            .nth(1)
            .unwrap_or_default()
            .trim()
            .to_owned();
        return Some(found(
            &format!("MPICH hydra {version}"),
            Launcher::Hydra,
            wire(),
            false,
        ));
    }
    if let Some(line) = line("(PRRTE)") {
        return Some(found(line, Launcher::Prrte, pmix(), false));
    }
    // One that does not find its own texts says no more than that.
    let is_prrtes = program
        .file_name()
        .is_some_and(|name| name == "prterun" || name == "prun");
    is_prrtes.then(|| found("PRRTE", Launcher::Prrte, pmix(), false))
}

/// srun, once for each interface that it offers.
fn of_slurm(srun: &Path) -> Vec<Found> {
    let text = said(srun, "--version").unwrap_or_default();
    // Without a configuration it is only installed, and starts nothing.
    let Some(version) = text.lines().find(|line| line.starts_with("slurm")) else {
        return Vec::new();
    };
    let version = version.to_owned();
    let list = said(srun, "--mpi=list").unwrap_or_default();
    let has = |name: &str| list.split_whitespace().any(|word| word == name);
    let mut found = Vec::new();
    let mut add = |kind: &str, interface| {
        found.push(Found {
            command: format!("{} --mpi={kind}", srun.display()),
            version: version.clone(),
            host: Host::under(Launcher::Slurm, interface, false),
        });
    };
    if has("pmix") {
        add(
            "pmix",
            Interface::Pmix {
                version: None,
                uri: String::new(),
            },
        );
    }
    if has("pmi2") {
        add("pmi2", Interface::Pmi2 { descriptor: 0 });
    }
    if has("cray_shasta") {
        add("cray_shasta", Interface::CrayPmi);
    }
    add("none", Interface::SlurmPmi1);
    found
}

/// What a program says, on whichever of its outputs, if it says it in time.
fn said(program: &Path, option: &str) -> Option<String> {
    let mut child = Command::new(program)
        .arg(option)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .ok()?;
    let group = i32::try_from(child.id()).ok().map(Pid::from_raw)?;
    let begun = Instant::now();
    // A version is shorter than a pipe, so nobody waits for us to read.
    while matches!(child.try_wait(), Ok(None)) {
        if begun.elapsed() > PATIENCE {
            // With what it has started: it may be a script.
            let _ = killpg(group, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Somebody that it left behind may hold the other ends.
    for end in [
        child.stdout.as_ref().map(AsFd::as_fd),
        child.stderr.as_ref().map(AsFd::as_fd),
    ]
    .into_iter()
    .flatten()
    {
        let _ = fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    }
    let mut text = String::new();
    let mut read = |from: Option<&mut dyn std::io::Read>| {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            let _ = from.take(64 << 10).read_to_end(&mut bytes);
        }
        text.push_str(&String::from_utf8_lossy(&bytes));
        text.push('\n');
    };
    read(
        child
            .stdout
            .as_mut()
            .map(|out| out as &mut dyn std::io::Read),
    );
    read(
        child
            .stderr
            .as_mut()
            .map(|err| err as &mut dyn std::io::Read),
    );
    Some(text)
}
