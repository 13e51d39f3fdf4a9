//! In srun, sbatch and salloc: what the user typed is checked, made absolute, and
//! handed on in variables, which Slurm carries to every step and node.
//!
//! Owns: refusing early, and the variables. Never: looks at what only nodes have.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use image::{Image, Shown};
use launcher::request::Access;
use launcher::Error;

use crate::hooks::Plugin;
use crate::options::{Id, Typed, TABLE};
use crate::settings::{dashed, refuse_contradictions, Settings};
use crate::{ffi, line, slurm_conf};

/// Tells the step that the user has a task prolog of their own, which SPANK tells
/// nobody.
pub const TASK_PROLOG: &str = "SLURM_SINGULARITY_TASK_PROLOG";

/// Tells the step that each task has a command of its own, likewise.
pub const MULTI_PROG: &str = "SLURM_SINGULARITY_MULTI_PROG";

/// The command's own variables for binds, which count here too.
const BINDS: [&str; 2] = ["SINGULARITY_BINDPATH", "SINGULARITY_BIND"];

/// Checks what was typed and set, and sets the variables that hand it on.
///
/// # Errors
/// What cannot work, as far as it can be known here.
pub fn check(plugin: &mut Plugin) -> Result<(), Error> {
    refuse_contradictions(&plugin.typed)?;
    refuse_nothing(&plugin.typed)?;
    let environment: Vec<_> = std::env::vars_os().collect();
    let variable = |name: &str| {
        environment
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_os_str())
    };
    let mut inherited = Typed::from_variables(variable);
    // What is typed for this step overrides a job that opted out, and the reverse.
    if plugin.typed.has(Id::Image) {
        inherited.remove(Id::Off);
    }
    if plugin.typed.has(Id::Off) || inherited.has(Id::Off) {
        hand_on(&[(Id::Off, "1".into())]);
        return Ok(());
    }
    for (one, other) in [(Id::Home, Id::NoHome), (Id::WritableTmpfs, Id::Overlay)] {
        for (typed, old) in [(one, other), (other, one)] {
            if plugin.typed.has(typed) {
                inherited.remove(old);
            }
        }
    }
    let mut typed = plugin.typed.clone().over(&inherited);
    if !typed.has(Id::Image) && !plugin.config.has_default_image() {
        return match plugin.typed.used().next() {
            // A variable alone, set for all jobs, is no mistake.
            None => Ok(()),
            Some(id) => Err(Error::new(dashed(id), "there is no image")
                .hint(format!("add {}", dashed(Id::Image)))),
        };
    }
    let asked = typed.has(Id::Image) || !plugin.typed.is_empty();
    if let Some(mistake) = plugin.mistake.as_ref().filter(|_| asked) {
        return Err(mistake.error(&slurm_conf::plugstack_line(&mistake.word.to_string_lossy())));
    }
    refuse_contradictions(&typed)?;
    for name in BINDS {
        if let Some(list) = variable(name).filter(|list| !list.is_empty()) {
            let mut old = Typed::default();
            old.add(Id::Bind, Some(list.to_owned()));
            typed = typed.over(&old);
        }
    }
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let named = typed.last(Id::Image).map(OsStr::to_owned);
    let settings = Settings::of(named.as_deref().unwrap_or(OsStr::new("/")), &typed, &cwd)?;
    if named.is_some() && plugin.config.check_on_submit {
        look_at(plugin, &settings)?;
    }
    let mut all = settings.canonical();
    all.retain(|(id, _)| *id != Id::Image || named.is_some());
    hand_on(&all);
    hand_on_what_spank_does_not_tell(variable(TASK_PROLOG_OF_SLURM).is_some());
    Ok(())
}

/// An empty path is that of the current directory to the system, and mostly a shell
/// variable that was not set.
fn refuse_nothing(typed: &Typed) -> Result<(), Error> {
    let empty = [Id::Image, Id::Home, Id::Overlay, Id::Pwd, Id::Stage]
        .into_iter()
        .find(|id| typed.last(*id).is_some_and(OsStr::is_empty));
    match empty {
        Some(id) => Err(Error::new(dashed(id), "its value is empty")
            .hint("is a variable of the shell not set? To go without, leave the option out")),
        None => Ok(()),
    }
}

/// Slurm itself hands the options of sbatch and salloc on to srun, which then cannot
/// tell them from what is typed for the step. Ours go the way of [`check`], which
/// tells: so Slurm's variables for them are removed before it reads them.
pub fn forget_slurms_own_way() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let theirs = names.filter(|name| name.contains("_SLURM_SPANK_OPTION_singularity_"));
    for name in theirs.collect::<Vec<_>>() {
        ffi::set_own_variable(&name, None);
    }
}

fn look_at(plugin: &Plugin, settings: &Settings) -> Result<(), Error> {
    let image = Image::open(&settings.image)?;
    let (uid, gid) = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    plugin.config.images.judge(&image, uid, gid)?;
    launcher::site::load()?.images.judge(&image, uid, gid)?;
    if let Access::Overlay(directory) = &settings.access {
        if !directory.as_path().is_dir() {
            let step = format!(
                "{} {}",
                dashed(Id::Overlay),
                Shown::new(directory.as_path())
            );
            return Err(Error::new(step, "not a directory").hint("make it first: mkdir DIR"));
        }
    }
    Ok(())
}

fn hand_on(all: &[(Id, OsString)]) {
    for known in &TABLE {
        let value = all.iter().find(|(id, _)| *id == known.id);
        ffi::set_own_variable(known.variable, value.map(|(_, value)| value.as_os_str()));
    }
}

/// Slurm's own variable for `--task-prolog`.
const TASK_PROLOG_OF_SLURM: &str = "SLURM_TASK_PROLOG";

/// Two of srun's own options change how a task can be entered.
fn hand_on_what_spank_does_not_tell(prolog_by_variable: bool) {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let typed = |shortest: &[u8], whole: &[u8]| {
        line.split(|&b| b == 0)
            .skip(1)
            .map(|word| word.split(|&b| b == b'=').next().unwrap_or_default())
            .any(|word| word.len() >= shortest.len() && whole.starts_with(word))
    };
    let prolog = prolog_by_variable || typed(b"--task-p", b"--task-prolog");
    let programs = typed(b"--mu", b"--multi-prog");
    for (name, holds) in [(TASK_PROLOG, prolog), (MULTI_PROG, programs)] {
        ffi::set_own_variable(name, holds.then_some(OsStr::new("1")));
    }
}

/// Says why, in one line, and ends the command as Slurm would, whether its
/// plugstack.conf says `required` or `optional`. In any other program the hook's
/// own failure is left to it.
pub fn refuse(error: &Error) -> i32 {
    ffi::log_error(&line(error));
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let is_command = ["srun", "sbatch", "salloc"]
        .iter()
        .any(|name| program.file_name() == Some(OsStr::new(name)));
    if is_command {
        ffi::end_process(exit_status())
    }
    -1
}

/// What srun, sbatch and salloc exit with on errors of their own.
fn exit_status() -> i32 {
    std::env::var("SLURM_EXIT_ERROR")
        .ok()
        .and_then(|value| value.parse().ok())
        .filter(|status| *status != 0)
        .unwrap_or(1)
}

/// Whether a variable is one of those that hand on.
pub fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"SLURM_SINGULARITY_")
}

/// The last part of a path.
pub fn base_name(path: &OsStr) -> &OsStr {
    Path::new(path).file_name().unwrap_or(path)
}
