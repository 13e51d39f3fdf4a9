//! In slurmstepd, before the tasks: whether the step runs in an image, in which,
//! and how; and preparing it.
//!
//! Owns: that decision, and the site's rules about images. Never: fails a hook.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::{Image, Shown};
use launcher::hold::{self, HeldNamespace};
use launcher::host::variable;
use launcher::request::{Bind, HostPath, ImagePath, MpiChoice};
use launcher::stage::Stage;
use launcher::{Error, Host, User};
use nix::sys::socket::{getsockname, UnixAddr};
use pmi_shim::Choice;

use crate::client::{base_name, is_ours, MULTI_PROG, TASK_PROLOG};
use crate::config::Config;
use crate::ffi::Spank;
use crate::hooks::Plugin;
use crate::options::{Id, Typed};
use crate::settings::{refuse_contradictions, Settings};
use crate::{prefix, slurm_conf};

/// How the tasks of the step start.
#[derive(Debug, Default)]
pub enum Step {
    /// On the host, as if there were no plugin.
    #[default]
    OnHost,
    /// In this namespace.
    Held(Box<HeldNamespace>),
    /// By these words before their own.
    Prefixed(Vec<OsString>),
}

/// Slurm's own steps (`slurm/slurm.h`): of these, two run what the user wrote.
const FIRST_OF_SLURMS_OWN: u32 = 0xffff_fff0;
const INTERACTIVE: u32 = 0xffff_fffa;
const BATCH_SCRIPT: u32 = 0xffff_fffb;

/// Daemons that launchers of MPI start with srun, one a node. Their ranks are
/// entered by `mpirun singularity exec`.
const DAEMONS: [&str; 6] = [
    "orted",
    "prted",
    "prte",
    "hydra_pmi_proxy",
    "hydra_bstrap_proxy",
    "pmi_proxy",
];

/// Prepares what the step needs. Nothing, for one without image.
///
/// # Errors
/// Why it cannot run in its image.
pub fn prepare(plugin: &mut Plugin, spank: Spank) -> Result<(), Error> {
    let environment = spank.environment();
    let Some((image, typed)) = wanted(plugin, spank, &environment) else {
        return Ok(());
    };
    plugin.asked = true;
    if let Some(mistake) = &plugin.mistake {
        return Err(mistake.error(&slurm_conf::plugstack_line(&mistake.word.to_string_lossy())));
    }
    refuse_contradictions(&typed)?;
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let settings = Settings::of(&image, &typed, &cwd)?;
    let user = user(spank)?;
    if wants_prefix(plugin, &environment) {
        return by_prefix(plugin, &settings, &environment);
    }
    let recipe = Recipe::of(
        plugin,
        spank,
        user,
        settings.clone(),
        environment.clone(),
        cwd,
    )?;
    match recipe.prepare(&plugin.config) {
        Ok(held) => {
            plugin.step = Step::Held(Box::new(held));
            // The first task has this one; each other then makes its own.
            plugin.apart = (!recipe.site.share).then(|| Box::new(recipe));
            Ok(())
        }
        Err(error) if error.is_not_by_root() => by_prefix(plugin, &settings, &environment),
        Err(error) => Err(error),
    }
}

/// Whether the step would have been run in an image, had all gone well.
pub fn asks(plugin: &Plugin, spank: Spank) -> bool {
    wanted(plugin, spank, &spank.environment()).is_some()
}

/// The image of the step, and its options.
fn wanted(
    plugin: &Plugin,
    spank: Spank,
    environment: &[(OsString, OsString)],
) -> Option<(OsString, Typed)> {
    // What srun made of the options is in the variables; the options themselves
    // are there even where variables are not handed on (--export=NIL).
    let handed_on = environment.iter().any(|(name, _)| is_ours(name));
    let typed = if handed_on {
        Typed::from_variables(|name| variable(environment, name))
    } else {
        plugin.typed.clone()
    };
    if typed.has(Id::Off) {
        return None;
    }
    let partition = variable(environment, "SLURM_JOB_PARTITION");
    let default = || {
        let image = plugin.config.default_image(partition)?;
        Some(image.as_os_str().to_owned())
    };
    let image = typed
        .last(Id::Image)
        .map(OsStr::to_owned)
        .or_else(default)?;
    let runs_here = match spank.step()? {
        BATCH_SCRIPT | INTERACTIVE => plugin.config.batch_in_image,
        step => step < FIRST_OF_SLURMS_OWN,
    };
    let is_daemon = || {
        let arguments = spank.arguments();
        let program = arguments.first().map(|word| base_name(word));
        DAEMONS
            .iter()
            .any(|daemon| program == Some(OsStr::new(daemon)))
    };
    (runs_here && !is_daemon()).then_some((image, typed))
}

fn user(spank: Spank) -> Result<User, Error> {
    let unknown = || Error::new("find out whose step this is", "Slurm does not tell");
    Ok(User {
        uid: spank.uid().ok_or_else(unknown)?,
        gid: spank.gid().ok_or_else(unknown)?,
        groups: spank.groups().ok_or_else(unknown)?,
    })
}

/// A hook that entered the image would have the task prolog run in it.
fn wants_prefix(plugin: &Plugin, environment: &[(OsString, OsString)]) -> bool {
    plugin.config.prefix
        || variable(environment, TASK_PROLOG).is_some()
        || slurm_conf::file()
            .and_then(|file| slurm_conf::setting(&file, "TaskProlog"))
            .is_some()
}

fn by_prefix(
    plugin: &mut Plugin,
    settings: &Settings,
    environment: &[(OsString, OsString)],
) -> Result<(), Error> {
    if variable(environment, MULTI_PROG).is_some() && !Spank::can_prepend() {
        return Err(Error::new(
            "--multi-prog with an image that is entered by singularity exec",
            "it needs Slurm 23.11",
        )
        .hint("leave out the task prolog or the overlay, or write singularity exec into the file of programs"));
    }
    let command = prefix::command(&plugin.config)?;
    plugin.step = Step::Prefixed(settings.command_line(&command, &plugin.config.binds));
    Ok(())
}

/// All that a namespace for the step's tasks is made of.
#[derive(Debug)]
pub struct Recipe {
    user: User,
    settings: Settings,
    host: Host,
    site: launcher::site::Site,
    launcher: pmi_shim::Host,
    script: Option<Bind>,
    mpi: MpiChoice,
    stage: Option<Stage>,
}

impl Recipe {
    fn of(
        plugin: &Plugin,
        spank: Spank,
        user: User,
        settings: Settings,
        environment: Vec<(OsString, OsString)>,
        cwd: PathBuf,
    ) -> Result<Self, Error> {
        let launcher = launcher_to_come(spank, &environment);
        let host = host(&user, environment, Some(cwd));
        let mut site = launcher::site::load()?;
        // What plugstack.conf and Slurm bind is no user's wish.
        site.user_binds |= !settings.asks_for_binds();
        if let Some(mounts) = &plugin.config.kernel_mounts {
            site.privileged_formats.clone_from(mounts);
        }
        let mpi = mpi(&plugin.config, &site, &host.environment)?;
        let said = host.variable("SINGULARITY_STAGE");
        let stage = Stage::asked(settings.stage.as_deref().or(said), &host, &site);
        Ok(Self {
            user,
            settings,
            host,
            site,
            launcher,
            script: batch_script(spank),
            mpi,
            stage,
        })
    }

    /// Makes a namespace and holds it, as [`hold::prepare`].
    pub fn prepare(&self, config: &Config) -> Result<HeldNamespace, Error> {
        let patience = match self.stage {
            Some(_) => launcher::stage::PATIENCE,
            None => hold::PATIENCE,
        };
        let judge = |image: &Image| config.images.judge(image, self.user.uid, self.user.gid);
        let compose = |image: Image| {
            let mut request = self
                .settings
                .request(image, &config.binds, self.launcher.clone());
            request.site = self.site.clone();
            request.mpi = self.mpi.clone();
            request.stage.clone_from(&self.stage);
            request.binds.extend(self.script.clone());
            // Slurm changes to the step's directory in the image before we start
            // the program elsewhere, and complains if it is not there.
            request
                .places
                .extend(self.host.cwd.as_ref().and_then(ImagePath::new));
            Ok(request)
        };
        let wish = hold::Wish {
            user: &self.user,
            path: &self.settings.image,
            host: &self.host,
            audit: self.site.audit,
            options: self.settings.digest(),
            patience,
        };
        hold::prepare(&wish, judge, compose)
    }
}

/// How the step's ranks meet srun: as the user says, else as the site does.
fn mpi(
    config: &Config,
    site: &launcher::site::Site,
    environment: &[(OsString, OsString)],
) -> Result<MpiChoice, Error> {
    let said = variable(environment, "SINGULARITY_MPI").filter(|value| !value.is_empty());
    let choice = match said {
        None => config.mpi.unwrap_or(site.mpi),
        Some(value) => Choice::named(value).ok_or_else(|| {
            Error::new(
                format!("SINGULARITY_MPI={}", Shown::new(value)),
                "no such way",
            )
            .hint(Choice::NAMES)
        })?,
    };
    let off = variable(environment, "SINGULARITY_MPI_HYGIENE").is_some_and(|value| value == "off");
    // PREFIX/bin/singularity and PREFIX/libexec/singularity.
    let command = prefix::command(config).ok();
    let above = command
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::parent);
    Ok(MpiChoice {
        choice,
        hygiene: config.mpi_hygiene && site.mpi_hygiene && !off,
        libexec: above.map(|above| above.join("libexec/singularity")),
    })
}

/// The script of a batch job, which slurmd has put in its spool directory.
fn batch_script(spank: Spank) -> Option<Bind> {
    if spank.step() != Some(BATCH_SCRIPT) {
        return None;
    }
    let script = HostPath::new(spank.arguments().into_iter().next()?);
    Some(Bind {
        destination: ImagePath::same_as(&script)?,
        source: script,
        read_only: true,
    })
}

/// The user's surroundings on this node.
pub fn host(user: &User, environment: Vec<(OsString, OsString)>, cwd: Option<PathBuf>) -> Host {
    let home = variable(&environment, "HOME")
        .filter(|home| home.as_bytes().first() == Some(&b'/'))
        .map(PathBuf::from)
        .or_else(|| launcher::host::account(user.uid).map(|account| account.home))
        .map(HostPath::new);
    Host {
        uid: user.uid,
        gid: user.gid,
        home,
        cwd,
        environment,
        mounts_as_root: true,
        accounts: None,
    }
}

/// What the tasks' variables will say of the launcher, as far as the namespace
/// depends on it: Slurm sets them later, for each task.
fn launcher_to_come(spank: Spank, environment: &[(OsString, OsString)]) -> pmi_shim::Host {
    let mut pairs = environment.to_vec();
    let mut add = |name: &str, value: String| {
        pairs.retain(|(other, _)| other != name);
        pairs.push((name.into(), value.into()));
    };
    let (job, step) = (spank.job().unwrap_or(0), spank.step().unwrap_or(0));
    add("SLURM_PROCID", "0".into());
    add("SLURM_JOB_ID", job.to_string());
    add("SLURM_STEP_ID", step.to_string());
    if let Some(uid) = spank.uid() {
        add("SLURM_JOB_UID", uid.to_string());
    }
    let server = spool_directory(job, step).map(|spool| spool.join(format!("pmix.{job}.{step}")));
    if let Some(directory) = server.filter(|directory| directory.is_dir()) {
        add("PMIX_NAMESPACE", format!("slurm.pmix.{job}.{step}"));
        add("PMIX_RANK", "0".into());
        add("PMIX_SERVER_URI2", "to come".into());
        add("PMIX_SERVER_TMPDIR", directory.display().to_string());
    }
    pmi_shim::detect(&pmi_shim::Environment::of(&pairs), |_| false)
}

/// SlurmdSpoolDir, which no item of SPANK's tells: slurmstepd listens there on
/// `NODE_JOB.STEP` (`src/common/stepd_api.c`).
fn spool_directory(job: u32, step: u32) -> Option<PathBuf> {
    let ending = format!("_{job}.{step}");
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
        .filter_map(stepd_socket)
        .find(|path| path.as_os_str().as_bytes().ends_with(ending.as_bytes()))
        .and_then(|path| path.parent().map(Path::to_owned))
}

/// The path that the socket with this number listens on, if it is one.
pub fn stepd_socket(number: RawFd) -> Option<PathBuf> {
    let address = getsockname::<UnixAddr>(number).ok()?;
    address.path().map(Path::to_owned)
}
