//! The tools that write file systems, and what they say when they fail.
//!
//! Owns: running one, and turning its last words into one line. Never: lets it
//! write to the terminal or read from it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, Stdio};

use image::Shown;
use launcher::Error;
use rustix::fs::{memfd_create, MemfdFlags};

use crate::failure::call;

/// Where administrators' tools are, which not every user's `PATH` has.
const USUAL: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// A tool about to be run.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
    command: Command,
}

/// How a tool that did not succeed ended.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What it printed, both streams.
    pub text: String,
    /// Its exit status; `None`, a signal ended it.
    pub status: Option<i32>,
    name: &'static str,
}

impl Tool {
    /// A tool and the Debian package it is in.
    pub fn new(name: &'static str, package: &'static str) -> Self {
        let mut command = Command::new(name);
        command
            .env("LC_ALL", "C")
            .env("PATH", search_path())
            .stdin(Stdio::null());
        Self {
            name,
            package,
            command,
        }
    }

    /// Adds a word.
    pub fn arg(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(word);
        self
    }

    /// Adds words.
    pub fn args<W: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = W>) -> &mut Self {
        self.command.args(words);
        self
    }

    /// Sets a variable.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable.
    pub fn env_remove(&mut self, name: &str) -> &mut Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it to its end. The inner result says how it ended.
    ///
    /// # Errors
    /// It is not installed, or could not be started.
    pub fn run(&mut self) -> Result<Result<String, Failed>, Error> {
        let step = || format!("run {}", self.name);
        let mut words: File = memfd_create(c"singularity-tool", MemfdFlags::CLOEXEC)
            .map_err(|errno| call(step(), errno))?
            .into();
        let stream = || words.try_clone().map_err(|error| Error::io(step(), &error));
        let (out, err) = (stream()?, stream()?);
        tracing::debug!("{:?}", self.command);
        let status = self
            .command
            .stdout(out)
            .stderr(err)
            .status()
            .map_err(|error| match error.raw_os_error() {
                Some(libc_enoent) if libc_enoent == rustix::io::Errno::NOENT.raw_os_error() => {
                    Error::new(step(), "it is not installed")
                        .hint(format!("install it (package {})", self.package))
                }
                _ => Error::io(step(), &error),
            })?;
        let mut text = Vec::new();
        words
            .seek(SeekFrom::Start(0))
            .and_then(|_| words.read_to_end(&mut text))
            .map_err(|error| Error::io(step(), &error))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if !text.trim().is_empty() {
            tracing::debug!("{}: {}", self.name, text.trim());
        }
        Ok(if status.success() {
            Ok(text)
        } else {
            Err(Failed {
                text,
                status: status.code(),
                name: self.name,
            })
        })
    }

    /// Runs it; that it fails is the failure of `step`.
    ///
    /// # Errors
    /// As [`Tool::run`], and its failure.
    pub fn succeed(&mut self, step: impl FnOnce() -> String) -> Result<String, Error> {
        self.run()?.map_err(|failed| failed.error(step()))
    }
}

impl Failed {
    /// The failure of a step, in the tool's last words.
    pub fn error(&self, step: String) -> Error {
        if self.is_out_of_space() {
            return Error::new(step, "no space left on device")
                .hint("the file system is full, or your quota (df, quota)");
        }
        if self.text.contains("File too large") {
            return Error::new(step, "file too large")
                .hint("a limit of file sizes (ulimit -f) or the file system's own");
        }
        let line = self
            .text
            .split(['\n', '\r'])
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .find(|line| {
                let line = line.to_ascii_lowercase();
                line.contains("error") || line.contains("fail") || line.contains("cannot")
            })
            .or_else(|| self.text.lines().rev().find(|line| !line.trim().is_empty()));
        let cause = match (line, self.status) {
            (Some(line), _) => format!("{} failed: {}", self.name, Shown::new(line.trim())),
            (None, Some(status)) => format!("{} failed with status {status}", self.name),
            (None, None) => format!("{} was killed", self.name),
        };
        Error::new(step, cause).hint("singularity -vv shows everything it says")
    }

    /// Whether the disk is full, rather than the image that is being made.
    pub fn is_out_of_space(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        text.contains("no space left on device")
            || text.contains("disk quota exceeded")
            || text.contains("out of space on output filesystem")
    }
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(USUAL);
    path
}
