//! Programs of the host that do part of the work: `mksquashfs`, `mmdebstrap`, …
//!
//! Owns: finding them, what they read and write, and how their failure is told.
//! Never: knows what any of them does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use image::Shown;
use launcher::Error;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use crate::log::Log;
use crate::progress::Step;
use crate::space::sys;

/// Where tools are, besides `PATH`: ordinary users have no `sbin` in theirs.
const MORE_PLACES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Tools whose Debian package has another name.
const PACKAGES: [(&str, &str); 22] = [
    ("busybox", "busybox-static"),
    ("createrepo_c", "createrepo-c"),
    ("debugfs", "e2fsprogs"),
    ("dump.erofs", "erofs-utils"),
    ("e2fsck", "e2fsprogs"),
    ("fsck.erofs", "erofs-utils"),
    ("fuse2fs", "fuse2fs"),
    ("getsubids", "uidmap"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.erofs", "erofs-utils"),
    ("mkfs.ext3", "e2fsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mksquashfs", "squashfs-tools"),
    ("newgidmap", "uidmap"),
    ("newuidmap", "uidmap"),
    ("resize2fs", "e2fsprogs"),
    ("rpmkeys", "rpm"),
    ("squashfuse_ll", "squashfuse"),
    ("tune2fs", "e2fsprogs"),
    ("unsquashfs", "squashfs-tools"),
    ("xz", "xz-utils"),
    ("yum", "dnf"),
];

/// How long a tool that a signal ended is given company: what ended it mostly
/// ends this process as well, which need not tell of it then.
const COMPANY: Duration = Duration::from_secs(1);

/// How often a tool that is silent is looked at.
const LOOK: u16 = 100;

/// The path of a tool of this name, where there is one.
pub fn find(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    let runs = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        return Some(name.to_owned()).filter(runs);
    }
    std::env::split_paths(&search_path())
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(runs)
}

/// `PATH` as tools get it.
pub(crate) fn search_path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&own)
        .filter(|place| !place.as_os_str().is_empty())
        .collect();
    for place in MORE_PLACES {
        if !places.iter().any(|known| known == Path::new(place)) {
            places.push(place.into());
        }
    }
    std::env::join_paths(places).unwrap_or(own)
}

/// That a tool is missing, and what to do about it.
pub(crate) fn missing(name: &str, package: Option<&str>) -> Error {
    let package = package.unwrap_or_else(|| {
        PACKAGES
            .iter()
            .find(|(tool, _)| *tool == name)
            .map_or(name, |(_, package)| package)
    });
    Error::new(format!("run {name}"), "it is not installed").hint(format!(
        "install it (Debian's package {package}), or ask the administrator"
    ))
}

/// A tool about to be run. Its standard input is empty unless given.
#[derive(Debug)]
#[must_use]
pub struct Tool {
    name: String,
    command: Result<Command, Error>,
    stdin: Option<File>,
    what: Option<String>,
    /// What a failure is told with, where that is not `what` or the name.
    step: Option<String>,
}

impl Tool {
    /// A tool by its name, or by its path.
    pub fn new(name: &str) -> Self {
        let command = match find(name) {
            Some(path) => {
                let mut command = Command::new(path);
                command.env("PATH", search_path());
                Ok(command)
            }
            None => Err(missing(name, None)),
        };
        let name = Path::new(name)
            .file_name()
            .map_or_else(|| name.to_owned(), |last| last.to_string_lossy().into());
        Self {
            name,
            command,
            stdin: None,
            what: None,
            step: None,
        }
    }

    /// The Debian package it is in, for the hint where it is missing.
    pub fn package(mut self, package: &str) -> Self {
        if self.command.is_err() {
            self.command = Err(missing(&self.name, Some(package)));
        }
        self
    }

    /// The name that it is told it has.
    pub(crate) fn called(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self.change(|command| command.arg0(name))
    }

    /// What a failure is told with.
    pub(crate) fn failing_as(mut self, step: String) -> Self {
        self.step = Some(step);
        self
    }

    /// What it does, as in "pack the image": for progress and errors.
    pub fn doing(mut self, what: impl Into<String>) -> Self {
        self.what = Some(what.into());
        self
    }

    /// Adds a word to its command line.
    pub fn arg(self, word: impl AsRef<OsStr>) -> Self {
        self.change(|command| command.arg(word))
    }

    /// Adds words to its command line.
    pub fn args<W: AsRef<OsStr>>(self, words: impl IntoIterator<Item = W>) -> Self {
        self.change(|command| command.args(words))
    }

    /// Sets a variable of its environment.
    pub fn env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.change(|command| command.env(name, value))
    }

    /// Removes a variable from its environment.
    pub fn env_remove(self, name: impl AsRef<OsStr>) -> Self {
        self.change(|command| command.env_remove(name))
    }

    /// Takes all variables out of its environment, `PATH` too.
    pub fn env_clear(self) -> Self {
        self.change(Command::env_clear)
    }

    /// Where it works.
    pub fn current_dir(self, directory: impl AsRef<Path>) -> Self {
        self.change(|command| command.current_dir(directory))
    }

    /// What it reads.
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    fn change(mut self, how: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        if let Ok(command) = &mut self.command {
            how(command);
        }
        self
    }

    /// Runs it to its end. What it prints goes to the log.
    ///
    /// # Errors
    /// It is missing, or it failed: with its last words, and the log's name.
    pub fn run(self, log: &Log) -> Result<(), Error> {
        self.and_succeed(log, Written::ToLog).map(drop)
    }

    /// As [`Tool::run`], and returns what it wrote to standard output; only
    /// standard error goes to the log.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn output(self, log: &Log) -> Result<Vec<u8>, Error> {
        self.and_succeed(log, Written::Returned)
    }

    /// As [`Tool::run`], with standard output written to a file.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn run_into(self, log: &Log, file: File) -> Result<(), Error> {
        self.and_succeed(log, Written::To(file)).map(drop)
    }

    /// Runs it to its end, and returns how that was.
    ///
    /// # Errors
    /// It is missing, or cannot be started.
    pub fn status(self, log: &Log) -> Result<ExitStatus, Error> {
        Ok(self.carry_out(log, Written::ToLog)?.0)
    }

    fn and_succeed(self, log: &Log, stdout: Written) -> Result<Vec<u8>, Error> {
        let step = match (&self.step, &self.what) {
            (Some(step), _) => step.clone(),
            (None, Some(what)) => format!("{what} ({})", self.name),
            (None, None) => format!("run {}", self.name),
        };
        let (status, output) = self.carry_out(log, stdout)?;
        if status.success() {
            return Ok(output);
        }
        Err(log.keep(failure(step, status, log)))
    }

    fn carry_out(self, log: &Log, stdout: Written) -> Result<(ExitStatus, Vec<u8>), Error> {
        let mut command = self.command?;
        let failed = |error: &std::io::Error| Error::io(format!("run {}", self.name), error);
        let (mut told, writer) = sys::pipe().map_err(|error| failed(&error))?;
        let mut returned = None;
        command.stdin(self.stdin.map_or_else(Stdio::null, Stdio::from));
        match stdout {
            Written::ToLog => {
                command.stdout(writer.try_clone().map_err(|error| failed(&error))?);
            }
            Written::To(file) => {
                command.stdout(file);
            }
            Written::Returned => {
                let (reader, writer) = sys::pipe().map_err(|error| failed(&error))?;
                command.stdout(writer);
                returned = Some(reader);
            }
        }
        command.stderr(writer);
        sys::end_with_parent(&mut command);
        log.turn_page();
        log.line(&format!("$ {}", shown_words(&command)));
        let shown = self.what.map(|what| log.progress().step(what));
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        // The command holds the ends that the tool writes to.
        drop(command);
        let mut output = Vec::new();
        let mut lines = Lines::new(log, shown.as_ref());
        let mut ended = None;
        loop {
            let tells = readable(told.as_fd());
            let returns = returned
                .as_ref()
                .map_or(End::Closed, |pipe| readable_now(pipe.as_fd()));
            let mut more = false;
            if tells == End::Ready {
                more |= lines.take(&mut told);
            }
            if let (End::Ready, Some(pipe)) = (returns, &mut returned) {
                more |= take_some(pipe, &mut output) > 0;
            }
            if more {
                continue;
            }
            // What it left running may keep the pipes open for ever.
            if ended.is_some() {
                break;
            }
            ended = child.try_wait().map_err(|error| failed(&error))?;
            if tells == End::Closed && returns == End::Closed && ended.is_none() {
                ended = Some(child.wait().map_err(|error| failed(&error))?);
            }
        }
        lines.finish();
        let status = match ended {
            Some(status) => status,
            None => child.wait().map_err(|error| failed(&error))?,
        };
        if status.success() {
            if let Some(shown) = shown {
                shown.done();
            }
        }
        if matches!(
            status
                .signal()
                .and_then(|number| Signal::try_from(number).ok()),
            Some(Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
        ) {
            std::thread::sleep(COMPANY);
        }
        Ok((status, output))
    }
}

/// Where a tool's standard output goes.
#[derive(Debug)]
enum Written {
    ToLog,
    Returned,
    To(File),
}

/// That a program failed: how it ended, and its last words.
pub(crate) fn failure(step: String, status: ExitStatus, log: &Log) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (_, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("was killed by {name}"),
            Err(_) => format!("was killed by signal {signal}"),
        },
        _ => "did not end".to_owned(),
    };
    match log.last_words() {
        Some(words) => Error::new(step, format!("{how}: {words}")),
        None => Error::new(step, how),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ready,
    Silent,
    Closed,
}

fn readable(pipe: BorrowedFd<'_>) -> End {
    look(pipe, PollTimeout::from(LOOK))
}

fn readable_now(pipe: BorrowedFd<'_>) -> End {
    look(pipe, PollTimeout::ZERO)
}

fn look(pipe: BorrowedFd<'_>, wait: PollTimeout) -> End {
    let mut polled = [PollFd::new(pipe, PollFlags::POLLIN)];
    // Interrupted: the next look sees it.
    let _ = poll(&mut polled, wait);
    match polled[0].revents() {
        Some(seen) if seen.contains(PollFlags::POLLIN) => End::Ready,
        Some(seen) if seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) => End::Closed,
        _ => End::Silent,
    }
}

/// Reads once, and returns how much that was.
fn take_some(pipe: &mut impl Read, into: &mut Vec<u8>) -> usize {
    let mut buffer = [0; 16384];
    // A pipe that poll(2) found readable fails only when interrupted.
    let length = pipe.read(&mut buffer).unwrap_or(0);
    into.extend_from_slice(&buffer[..length]);
    length
}

/// What a tool prints, line by line, into the log and beside the progress.
#[derive(Debug)]
struct Lines<'a> {
    log: &'a Log,
    shown: Option<&'a Step>,
    begun: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn new(log: &'a Log, shown: Option<&'a Step>) -> Self {
        Self {
            log,
            shown,
            begun: Vec::new(),
        }
    }

    fn take(&mut self, pipe: &mut impl Read) -> bool {
        let length = take_some(pipe, &mut self.begun);
        // A carriage return begins a line anew: a bar of the tool's.
        while let Some(end) = self
            .begun
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'))
        {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            self.tell(&line[..end]);
        }
        if let Some(shown) = self.shown {
            shown.tick();
        }
        length > 0
    }

    fn tell(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        self.log.line(line);
        if let Some(shown) = self.shown {
            shown.note(line);
        }
    }

    fn finish(mut self) {
        let rest = std::mem::take(&mut self.begun);
        self.tell(&rest);
    }
}

/// A command line as it could be typed, nearly.
fn shown_words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| Shown::new(Path::new(word)).to_string())
        .collect::<Vec<_>>()
        .join(" ")
}
