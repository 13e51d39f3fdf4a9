//! The scripts of a definition, on the host and in the root.
//!
//! Owns: how they are called: with which interpreter, variables and directory.
//! Never: decides when.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;

use crate::definition::Script;
use crate::log::Log;
use crate::metadata;
use crate::space::{Root, RootCommand};

/// Where a script is to be found in the root while it runs.
const INSIDE: &str = "/.singularity-build-script";

/// Runs a script of the host's: `%pre`, `%setup`. It finds the root by the variable
/// `SINGULARITY_ROOTFS`, and works where the builder was started.
pub fn on_host(
    script: &Script,
    name: &str,
    root: &Root<'_>,
    scratch: &Path,
    log: &Log,
) -> Result<(), Error> {
    let file = written(script, scratch)?;
    let command = root
        .command_of_host(&script.interpreter[0])
        .doing(format!("run {name}"));
    run(called(command, script, &file), script, log)
}

/// Runs a script in the root: `%post`, `%test`, `%appinstall`.
pub fn inside(
    script: &Script,
    name: &str,
    root: &Root<'_>,
    scratch: &Path,
    directory: Option<&Path>,
    variables: &[(String, String)],
    log: &Log,
) -> Result<(), Error> {
    let file = written(script, scratch)?;
    let mut command = root
        .command(&script.interpreter[0])
        .bind(&file, INSIDE)
        .env("SINGULARITY_ROOTFS", "/")
        .env("SINGULARITY_ENVIRONMENT", metadata::BUILD_ENVIRONMENT)
        .env("SINGULARITY_LABELS", metadata::BUILD_LABELS)
        .doing(format!("run {name}"));
    for (name, value) in variables {
        command = command.env(name, value);
    }
    if let Some(directory) = directory {
        command = command.current_dir(directory);
    }
    run(called(command, script, Path::new(INSIDE)), script, log)
}

/// Runs it; where a shell stopped, the hint says at which command.
fn run(command: RootCommand<'_>, script: &Script, log: &Log) -> Result<(), Error> {
    command.run(log).map_err(|error| {
        let stopped = script.is_for_a_shell().then(|| log.last_command());
        match (stopped.flatten(), error.remedy()) {
            (Some(at), Some(hint)) => {
                let hint = format!("it stopped at: {at}; {hint}");
                error.hint(hint)
            }
            _ => error,
        }
    })
}

/// Adds the interpreter's own arguments, and the file. A shell stops at the first
/// command that fails, and logs each.
fn called<'a>(command: RootCommand<'a>, script: &Script, file: &Path) -> RootCommand<'a> {
    let own = &script.interpreter[1..];
    let mut command = command.args(own);
    if script.is_for_a_shell() {
        command = command.arg("-ex");
    }
    command.arg(file)
}

/// The script as a file, which every user of the root may read.
fn written(script: &Script, scratch: &Path) -> Result<PathBuf, Error> {
    let file = scratch.join("script");
    let step = || format!("write {}", Shown::new(&file));
    fs::write(&file, script.file())
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
        .map_err(|error| Error::io(step(), &error))?;
    Ok(file)
}
