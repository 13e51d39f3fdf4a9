//! How the host's launcher and the program in the image come together.
//!
//! Owns: finding out which MPI the program is linked with, from the files of the image
//! that this process stands in, asking [`pmi_shim::meet`] what follows, and seeing to
//! it. Never: decides by itself.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use image::mpi::{self, Depth, ProgramMpi, Question, Root};
use pmi_shim::{Change, Client, Facts, Family, Host as Launcher, Meeting, Mpi, Program};

use crate::env::{self, Environment};
use crate::error::{shown, Error};
use crate::host::Host;
use crate::request::{MpiChoice, Request};
use crate::timing::Timing;
use crate::{bridge, join, scripts};

mod record;

/// A job's launcher and a program in the image, which are to meet.
pub(crate) struct Pair<'a> {
    /// What was asked for; it has the launcher.
    pub request: &'a Request,
    /// The process as it is outside.
    pub host: &'a Host,
    /// The program and its arguments.
    pub words: &'a [OsString],
    /// The image's environment scripts that will be run before.
    pub scripts: &'a [PathBuf],
    /// The bridge's program, if it is there.
    pub helper: Option<&'a bridge::Helper>,
    /// Whether the rank has a user namespace that it shares with no other.
    pub own_namespace: bool,
    /// What a rank that was joined has found out of its program: see [`record`].
    pub heard: Option<&'a str>,
}

impl Pair<'_> {
    /// Makes them meet: the environment is made right, and where they speak different
    /// languages the program gets a seat at the bridge. Inside the image.
    ///
    /// `tell` is handed what was found out of the program, in a line for other ranks, as
    /// soon as it is known; an empty one, if it does not have to be known.
    ///
    /// # Errors
    /// They cannot meet.
    pub fn meet(
        &self,
        environment: &mut Environment,
        timing: &mut Timing,
        tell: impl FnOnce(String),
    ) -> Result<(), Error> {
        let Pair {
            request,
            host,
            words,
            scripts,
            helper,
            own_namespace,
            heard,
        } = *self;
        let program = match is_asked(&request.launcher, &request.mpi) {
            true => {
                timing.phase("environment");
                let (program, line) = found_out(words, environment, scripts, heard);
                tell(line);
                timing.phase("MPI");
                program.told(request.mpi.choice)
            }
            false => {
                tell(String::new());
                Program::UNKNOWN
            }
        };
        if own_namespace && request.launcher.is_rank() {
            tracing::info!(
                "this rank shares its user namespace with no other; MPI is told not to copy between ranks' memory"
            );
        }
        let changes = env::hygiene(request, host, &program, own_namespace);
        let name = program.candidates().first();
        let name = name.map(|mpi| mpi.shown.clone()).unwrap_or_default();
        let (meeting, instead) = decide(&request.launcher, program, &request.mpi, helper.is_some());
        let bridge = match meeting {
            Meeting::Pass { .. } => {
                environment.apply(changes);
                environment.apply(instead);
                return Ok(());
            }
            Meeting::Refuse { line, hint } => {
                let program = words.first().map(Path::new).unwrap_or("".as_ref());
                return Err(Error::new(format!("start {}", shown(program)), line).hint(hint));
            }
            Meeting::Bridge { bridge, .. } => bridge,
        };
        let Some(helper) = helper else {
            return Ok(());
        };
        let job = request.launcher.job.as_ref().map(job_name);
        let place = bridge::take(
            helper,
            bridge,
            &bridge::Asking {
                launcher: &request.launcher,
                job: job.as_deref().unwrap_or_default(),
                mpi: &name,
                host,
                hygiene: &changes,
            },
        )?;
        environment.apply(changes);
        environment.take_seat(&place.hand_on()?);
        environment.apply(instead);
        timing.phase("bridge");
        Ok(())
    }
}

/// Which MPI the program uses, as another rank has found or by looking, and the line that
/// says so.
fn found_out(
    words: &[OsString],
    environment: &Environment,
    scripts: &[PathBuf],
    heard: Option<&str>,
) -> (Program, String) {
    let at_terminal = std::io::stdin().is_terminal();
    let directory = working_directory();
    let question = record::question(words, environment, scripts, &directory, at_terminal);
    if let Some(line) = heard {
        if let Some(program) = record::read(line, question) {
            tracing::debug!("another rank has found out which MPI the program uses");
            return (program, line.to_owned());
        }
    }
    let program = program_here(words, environment, scripts, at_terminal, Depth::Quick);
    let line = record::written(question, &program);
    (program, line)
}

fn working_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| "/".into())
}

/// What a job is called: the same in all processes of it on this host.
pub(crate) fn job_name(job: &pmi_shim::JobIdentity) -> String {
    let inode_of = |descriptor: pmi_shim::Descriptor| {
        let data = std::fs::metadata(format!("/proc/self/fd/{descriptor}"));
        data.map(|data| data.ino()).ok()
    };
    job.complete(inode_of, join::session_starter)
}

/// Which MPI a command uses in the image that is this process's root.
///
/// `environment` is what the program will find, but for what the image's scripts set;
/// where those set a search path in plain words, that counts. `at_terminal`: somebody
/// types at it.
pub fn program_here(
    words: &[OsString],
    environment: &Environment,
    scripts: &[PathBuf],
    at_terminal: bool,
    depth: Depth,
) -> Program {
    let Ok(root) = Root::open(Path::new("/")) else {
        return Program::UNKNOWN;
    };
    let inside = |name: &str| {
        let set = environment.get(name).map(OsStr::to_owned);
        scripts::assigned(name, set, scripts)
    };
    let directory = working_directory();
    let path = inside("PATH").unwrap_or_default();
    let library_path = inside("LD_LIBRARY_PATH");
    program_in(
        &root,
        &Question {
            words,
            path: &path,
            library_path: library_path.as_deref(),
            variable: &inside,
            directory: &directory,
            at_terminal,
            depth,
        },
    )
}

/// `PATH` as the program will find it, in the image that is this process's root.
pub fn path_here(environment: &Environment, scripts: &[PathBuf]) -> OsString {
    let set = environment.get("PATH").map(OsStr::to_owned);
    scripts::assigned("PATH", set, scripts).unwrap_or_default()
}

/// Which MPI a command uses in a root.
pub fn program_in(root: &Root, question: &Question<'_>) -> Program {
    match mpi::of_program(root, question) {
        ProgramMpi::Without => Program::Without,
        ProgramMpi::With(mpi) => Program::With(described(&mpi)),
        ProgramMpi::Unknown(candidates) => {
            Program::Perhaps(candidates.iter().map(described).collect())
        }
        ProgramMpi::Unlikely(candidates) => {
            Program::Hardly(candidates.iter().map(described).collect())
        }
    }
}

fn described(mpi: &mpi::Mpi) -> Mpi {
    Mpi {
        family: match mpi.family {
            mpi::Family::OpenMpi => Family::OpenMpi,
            mpi::Family::Mpich => Family::Mpich,
            mpi::Family::IntelMpi => Family::IntelMpi,
            mpi::Family::Mvapich => Family::Mvapich,
            mpi::Family::CrayMpich => Family::CrayMpich,
            mpi::Family::Unknown => Family::Unknown,
        },
        major: mpi.version.map(|version| version.major),
        clients: mpi
            .clients
            .iter()
            .map(|client| match client {
                mpi::Client::Pmix => Client::Pmix,
                mpi::Client::Pmi1 => Client::Pmi1,
                mpi::Client::Pmi2 => Client::Pmi2,
            })
            .collect(),
        shown: mpi.to_string(),
    }
}

/// Whether it has to be known what the program is linked with.
pub fn is_asked(launcher: &Launcher, wanted: &MpiChoice) -> bool {
    launcher.is_rank() && (wanted.choice.decides() || wanted.hygiene)
}

/// How they come together, with a word to the log; and what the program finds, after all
/// else, in place of interfaces that it is not given.
pub fn decide(
    launcher: &Launcher,
    program: Program,
    wanted: &MpiChoice,
    has_bridge: bool,
) -> (Meeting, Vec<Change>) {
    let facts = Facts {
        program,
        choice: wanted.choice,
        has_bridge,
    };
    let meeting = pmi_shim::meet(launcher, &facts);
    let name = launcher.launcher.name();
    match &meeting {
        Meeting::Pass { why, .. } if launcher.is_rank() => {
            tracing::info!("{name} and the program meet directly: {why}");
        }
        Meeting::Bridge { bridge, why } => {
            tracing::info!(
                "{name} and the program meet over the bridge, {}: {why}",
                bridge.describe()
            );
        }
        _ => {}
    }
    if let Meeting::Pass {
        warning: Some(warning),
        ..
    } = &meeting
    {
        // Once is enough for a node.
        if launcher.local_rank.unwrap_or(0) == 0 {
            tracing::warn!("{warning}");
        }
    }
    let instead = pmi_shim::instead_of_worlds_of_one(launcher, &facts, &meeting);
    (meeting, instead)
}
