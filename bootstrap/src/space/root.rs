//! Running programs in a root that is being built, and scripts of the host beside
//! it.
//!
//! Owns: what such a program finds (directories of the kernel's, name service,
//! environment, umask), the places that had to be made for that, and how its
//! failure is told. Never: keeps anything mounted in the builder's own namespace;
//! each program gets namespaces of its own ([`super::inside`]), and what it leaves
//! running ends with it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use image::Shown;
use launcher::Error;
use nix::sys::statvfs::{statvfs, FsFlags};

use super::inside::{self, Where};
use super::{Kind, Space};
use crate::log::Log;
use crate::place::Places;
use crate::tool::{self, Tool};

/// `PATH` in a root: all that distributions use.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller's that a program in the root gets: how the network is
/// reached, what makes a build reproducible, and what draws on the terminal.
const PASSED: [&str; 12] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
    "TERM",
];

/// What starts services when packages are installed on Debian, and what forbids it:
/// nothing is to be running in an image that is being made.
const INVOKE_RC_D: &str = "/usr/sbin/invoke-rc.d";
const POLICY_RC_D: &str = "/usr/sbin/policy-rc.d";

/// With fewer bytes left, a disk counts as full.
const FULL: u64 = 64 * 1024;

/// A directory that is, or becomes, the root of an image.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    space: &'a Space,
    path: &'a Path,
}

impl<'a> Root<'a> {
    /// The root at `path`, a directory, by its absolute path.
    ///
    /// # Errors
    /// It is on a file system that forbids running programs.
    pub fn new(space: &'a Space, path: &'a Path) -> Result<Self, Error> {
        let step = || format!("run programs in {}", Shown::new(path));
        let system = statvfs(path).map_err(|errno| Error::call(step(), errno))?;
        if system.flags().contains(FsFlags::ST_NOEXEC) {
            return Err(
                Error::new(step(), "its file system is mounted noexec").hint(
                    "--tmpdir, SINGULARITY_TMPDIR or TMPDIR names a place on another to work in",
                ),
            );
        }
        Ok(Self { space, path })
    }

    /// Where it is.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// A program of the root, run in it: by name, searched in the root's `PATH`, or
    /// by its path there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> RootCommand<'a> {
        let mut command = self.any(program, Where::Inside);
        let mut set = |name: &str, value: &str| {
            command.environment.insert(name.into(), value.into());
        };
        set("PATH", PATH);
        set("HOME", "/root");
        set("USER", "root");
        set("LOGNAME", "root");
        set("SHELL", "/bin/sh");
        set("LC_ALL", self.locale());
        // Nobody is there to answer debconf(7).
        set("DEBIAN_FRONTEND", "noninteractive");
        set("DEBCONF_NONINTERACTIVE_SEEN", "true");
        for name in PASSED {
            if let Some(value) = std::env::var_os(name) {
                command.environment.insert(name.into(), value);
            }
        }
        if self.space.kind() == Kind::Single {
            // apt checks whether it has become the user that it downloads as.
            command
                .environment
                .insert("APT_CONFIG".into(), inside::APT_CONFIG.into());
        }
        command
    }

    /// A program of the host's that works on the root from outside, such as a
    /// package manager, and needs /proc, /dev and /sys to be in it.
    pub fn command_beside(&self, program: impl AsRef<OsStr>) -> RootCommand<'a> {
        self.any(program, Where::Beside)
    }

    /// A program of the host's, such as the script of `%setup`, that finds the root
    /// by the variable `SINGULARITY_ROOTFS`.
    pub fn command_of_host(&self, program: impl AsRef<OsStr>) -> RootCommand<'a> {
        self.any(program, Where::Host)
            .env("SINGULARITY_ROOTFS", self.path)
    }

    /// That a program failed: how it ended, its last words, and whether the disk is
    /// full, of which few programs speak clearly.
    pub(crate) fn failure(&self, step: String, status: ExitStatus, log: &Log) -> Error {
        let error = tool::failure(step, status, log);
        let is_full = statvfs(self.path).is_ok_and(|system| {
            system.blocks_available() * system.fragment_size() < FULL
                || system.files_available() == 0 && system.files() > 0
        });
        log.keep(if is_full {
            error.hint(format!(
                "the file system of {} is full: --tmpdir, SINGULARITY_TMPDIR or TMPDIR names a \
                 place on another to work in",
                Shown::new(self.path)
            ))
        } else {
            error
        })
    }

    fn any(&self, program: impl AsRef<OsStr>, place: Where) -> RootCommand<'a> {
        let environment = match place {
            Where::Inside => BTreeMap::new(),
            Where::Beside | Where::Host => std::env::vars_os()
                .filter(|(name, _)| name != "PATH")
                .chain([("PATH".into(), tool::search_path())])
                .collect(),
        };
        RootCommand {
            root: *self,
            place,
            words: vec![program.as_ref().to_owned()],
            environment,
            binds: Vec::new(),
            directory: None,
            stdin: None,
            what: None,
        }
    }

    /// A locale that knows all characters, where the root has one.
    fn locale(&self) -> &'static str {
        let has = |directory: &str| {
            ["C.utf8", "C.UTF-8"]
                .iter()
                .any(|name| self.path.join(directory).join(name).is_dir())
        };
        if has("usr/lib/locale") || has("usr/lib64/locale") {
            "C.UTF-8"
        } else {
            "C"
        }
    }
}

/// A program about to be run in a root, or beside it. Its standard input is empty
/// unless given.
#[derive(Debug)]
#[must_use]
pub struct RootCommand<'a> {
    root: Root<'a>,
    place: Where,
    words: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    binds: Vec<(PathBuf, PathBuf)>,
    directory: Option<PathBuf>,
    stdin: Option<File>,
    what: Option<String>,
}

impl RootCommand<'_> {
    /// Adds a word to its command line.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    /// Adds words to its command line.
    pub fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Shows a file or directory of the host's at a place in the root.
    pub fn bind(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.binds.push((host.into(), inside.into()));
        self
    }

    /// Where it works: in the root if it runs in it (`/` unless given), else on the
    /// host.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// What it reads.
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    /// What it does, as in "run %post": for progress and errors.
    pub fn doing(mut self, what: impl Into<String>) -> Self {
        self.what = Some(what.into());
        self
    }

    /// Runs it to its end. What it prints goes to the log.
    ///
    /// # Errors
    /// The root cannot be prepared, or it failed: with its status and last words.
    pub fn run(self, log: &Log) -> Result<(), Error> {
        let (step, root) = (self.step(), self.root);
        let status = self.status(log)?;
        if status.success() {
            return Ok(());
        }
        Err(root.failure(step, status, log))
    }

    /// Runs it to its end, and returns how that was.
    ///
    /// # Errors
    /// The root cannot be prepared, or the program cannot be executed.
    pub fn status(self, log: &Log) -> Result<ExitStatus, Error> {
        let step = self.step();
        let (tool, _places) = self.prepare()?;
        let status = tool.status(log)?;
        match log.last_line().as_deref().and_then(inside::complaint) {
            Some(cause) if status.code() == Some(255) => Err(log.keep(Error::new(step, cause))),
            _ => Ok(status),
        }
    }

    /// As [`RootCommand::run`], and returns what it wrote to standard output.
    ///
    /// # Errors
    /// As [`RootCommand::run`].
    pub fn output(self, log: &Log) -> Result<Vec<u8>, Error> {
        let step = self.step();
        let (tool, _places) = self.prepare()?;
        tool.failing_as(step.clone()).output(log).map_err(|error| {
            match log.last_line().as_deref().and_then(inside::complaint) {
                Some(cause) => log.keep(Error::new(step, cause)),
                None => error,
            }
        })
    }

    fn step(&self) -> String {
        match (&self.what, self.words.first()) {
            (Some(what), _) => what.clone(),
            (None, Some(program)) => format!("run {}", Shown::new(program)),
            (None, None) => "run nothing".to_owned(),
        }
    }

    /// The helper that will become the program, and the places made in the root,
    /// which go when they are dropped.
    fn prepare(mut self) -> Result<(Tool, Places), Error> {
        let mut places = Places::of(self.root.path)?;
        if self.place != Where::Host {
            for directory in inside::DIRECTORIES {
                places.directory(Path::new(directory))?;
            }
        }
        if self.place == Where::Beside {
            // They are the packages' that are being installed.
            places.keep();
        }
        if self.place == Where::Inside {
            for file in ["/etc/resolv.conf", "/etc/hosts"] {
                if let Ok(host) = std::fs::canonicalize(file) {
                    self.binds.push((host, file.into()));
                }
            }
        }
        if self.place == Where::Inside && places.has(Path::new(INVOKE_RC_D)) {
            places.script(Path::new(POLICY_RC_D), "#!/bin/sh\nexit 101\n")?;
        }
        for (host, inside) in &self.binds {
            let data = host.metadata().map_err(|error| {
                Error::io(format!("show {} in the root", Shown::new(host)), &error)
            })?;
            if data.is_dir() {
                places.directory(inside)?;
            } else {
                places.file(inside)?;
            }
        }
        let program = std::env::current_exe()
            .map_err(|error| Error::io("find the running program", &error))?;
        let mut tool = Tool::new(&program.to_string_lossy())
            .called(inside::NAME)
            .args(inside::words(
                self.place,
                self.root.path,
                self.directory.as_deref(),
                &self.binds,
                &self.words,
            ))
            .env_clear();
        for (name, value) in &self.environment {
            tool = tool.env(name, value);
        }
        if let Some(file) = self.stdin.take() {
            tool = tool.stdin(file);
        }
        if let Some(what) = self.what.take() {
            tool = tool.doing(what);
        }
        Ok((tool, places))
    }
}
