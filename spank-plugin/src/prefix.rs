//! Words before the task's own, so that another program starts it.
//!
//! Owns: both ways to do that, and which `singularity` is meant. Never: decides
//! whether.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use launcher::{quoted, Error};
use nix::fcntl::{fcntl, FcntlArg};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::unistd::close;

use crate::config::Config;
use crate::ffi::{self, Spank};
use crate::step::stepd_socket;

/// Where the command is, if the site does not say: beside this plugin, or where
/// commands are.
const PLACES: [&str; 2] = ["/usr/local/bin/singularity", "/usr/bin/singularity"];

/// The command on this node.
///
/// # Errors
/// If there is none.
pub fn command(config: &Config) -> Result<PathBuf, Error> {
    let candidates: Vec<PathBuf> = match &config.command {
        Some(path) => vec![path.clone()],
        None => beside_plugin()
            .into_iter()
            .chain(PLACES.map(PathBuf::from))
            .collect(),
    };
    candidates
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .ok_or_else(|| {
            let name = candidates.first().cloned().unwrap_or_default();
            Error::new(
                format!("find the command {}", image::Shown::new(&name)),
                "it is not on this node",
            )
            .hint("command=PATH in plugstack.conf tells where it is")
        })
}

/// `PREFIX/bin/singularity` for a plugin in `PREFIX/lib…/slurm/`.
fn beside_plugin() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.ends_with("/slurm/singularity.so"))?;
    let above = Path::new(path).ancestors().find(|place| {
        place
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"lib"))
    })?;
    Some(above.parent()?.join("bin/singularity"))
}

/// Has the task started by `words`, followed by its own.
///
/// # Errors
/// If Slurm offers no way to.
pub fn put_before(spank: Spank, words: &[OsString]) -> Result<(), Error> {
    if Spank::can_prepend() {
        return prepend(spank, words);
    }
    let mut text = OsString::from("exec");
    for word in words {
        text.push(" ");
        text.push(quoted(word));
    }
    by_script(spank, &text)
}

/// Has the task started by the image's shell, which reads `text` first.
///
/// # Errors
/// As [`put_before`].
pub fn through_shell(spank: Spank, text: &OsStr) -> Result<(), Error> {
    let mut text = text.to_owned();
    if Spank::can_prepend() {
        text.push("exec \"$@\"\n");
        let shell = || OsString::from("/bin/sh");
        return prepend(spank, &[shell(), "-c".into(), text, shell()]);
    }
    text.push("exec");
    by_script(spank, &text)
}

fn step() -> String {
    "start the task by another program".to_owned()
}

fn prepend(spank: Spank, words: &[OsString]) -> Result<(), Error> {
    let words: Vec<_> = words
        .iter()
        .filter_map(|word| CString::new(word.as_bytes()).ok())
        .collect();
    if spank.prepend(&words) {
        return Ok(());
    }
    Err(Error::new(step(), "Slurm refuses"))
}

/// Before Slurm 23.11 the task's words cannot become more, but the first can be
/// another: a script in memory, which gets the others as its arguments. Its last
/// line is `text` followed by the word whose place it takes.
fn by_script(spank: Spank, text: &OsStr) -> Result<(), Error> {
    let failed = |error: nix::Error| Error::call(step(), error);
    let program = spank.arguments().into_iter().next().unwrap_or_default();
    let mut script =
        File::from(memfd_create(c"singularity", MFdFlags::MFD_CLOEXEC).map_err(failed)?);
    let number = low_number(&script)?;
    let close = format!("#!/bin/sh\nexec {number}<&-\n");
    let program = quoted(&program);
    let parts = [
        close.as_bytes(),
        text.as_bytes(),
        b" ",
        program.as_bytes(),
        b" \"$@\"\n",
    ];
    script
        .write_all(&parts.concat())
        .map_err(|error| Error::new(step(), error.to_string()))?;
    let path = CString::new(format!("/proc/self/fd/{number}")).unwrap_or_default();
    if spank.replace_program(&path) {
        return Ok(());
    }
    Err(Error::new(step(), "Slurm gives no access to its command"))
}

/// Gives the script a number of one digit, which a shell can close by itself, and
/// which stays open across execve(2). If all are taken, that of slurmstepd's own
/// socket is used: nobody connects to a task.
fn low_number(script: &File) -> Result<RawFd, Error> {
    let free = fcntl(script, FcntlArg::F_DUPFD(3)).map_err(|error| Error::call(step(), error))?;
    if free <= 9 {
        return Ok(free);
    }
    close(free).map_err(|error| Error::call(step(), error))?;
    (3..=9)
        .find(|number| stepd_socket(*number).is_some())
        .filter(|number| ffi::duplicate_onto(script, *number))
        .ok_or_else(|| Error::new(step(), "no descriptor below 10 is free"))
}
