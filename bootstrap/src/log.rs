//! What the tools of a build print: kept in a file, which is named if something
//! fails and removed if nothing does.
//!
//! Owns: that file, and its last lines. Never: is a reason to fail; a disk too
//! full for the log is too full for the image as well, which says so itself.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use image::Shown;
use launcher::Error;
use tracing::Level;

use crate::progress::Progress;
use crate::space::janitor;
use crate::workdir;

/// How many lines are remembered to be told with a failure.
const TAIL: usize = 60;

/// What a line says that names the cause of a failure, in lower case.
const CAUSES: [&str; 21] = [
    "unable to locate package",
    "has no installation candidate",
    "no match for argument",
    "unable to find a match",
    "could not resolve",
    "couldn't resolve",
    "connection refused",
    "could not connect",
    "couldn't connect",
    "does not have a release file",
    "no such script",
    "doesn't have the component",
    "invalid variant",
    "invalid release",
    "failed getting release",
    "no space left on device",
    "disk quota exceeded",
    "is not signed",
    "no_pubkey",
    "curl error",
    "couldn't find these debs",
];

/// What a line begins with that complains, in lower case.
const COMPLAINTS: [&str; 5] = ["e: ", "err:", "error", "fatal", "failed"];

/// How much of a line is told.
const LONGEST: usize = 300;

/// How many logs of failed builds are kept.
const KEPT: usize = 10;

/// The log of one verb's work.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    state: Mutex<State>,
    progress: Progress,
}

#[derive(Debug)]
struct State {
    file: File,
    tail: VecDeque<String>,
    /// Whether there is anything in it.
    begun: bool,
    kept: bool,
}

impl Log {
    /// Begins a log, in `$XDG_STATE_HOME/singularity` or
    /// `~/.local/state/singularity`; where that cannot be written, in the directory
    /// for temporary files. Enter the [`crate::space`] before.
    ///
    /// # Errors
    /// No place for it.
    pub fn start(verb: &str) -> Result<Self, Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let name = format!("{verb}-{now}-{}.log", workdir::random_name());
        let begun = state_directory()
            .and_then(|directory| {
                forget_old_ones(&directory);
                create(&directory.join(&name))
            })
            .or_else(|| {
                create(&workdir::temporary_directory(None).join(format!("singularity-{name}")))
            });
        let Some((path, file)) = begun else {
            return Err(
                Error::new("begin a log", "neither home nor /tmp can be written to")
                    .hint("XDG_STATE_HOME or TMPDIR can name a directory that can"),
            );
        };
        Ok(Self {
            path,
            state: Mutex::new(State {
                file,
                tail: VecDeque::new(),
                begun: false,
                kept: false,
            }),
            progress: Progress::new(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where progress is shown.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Writes a line, without its end. With `-v` it is shown as well.
    pub fn line(&self, text: &str) {
        let mut state = self.state();
        state.begun = true;
        // See the module's "never".
        let _ = writeln!(state.file, "{text}");
        if state.tail.len() == TAIL {
            state.tail.pop_front();
        }
        state.tail.push_back(text.to_owned());
        if tracing::enabled!(Level::INFO) {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Forgets the last lines: what comes next is something else's.
    pub(crate) fn turn_page(&self) {
        self.state().tail.clear();
    }

    /// The last line.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.state().tail.back().cloned()
    }

    /// The line that says most about why something failed: the first that names a
    /// cause, else the last that complains, else the last.
    pub(crate) fn last_words(&self) -> Option<String> {
        let state = self.state();
        let lines = || {
            state.tail.iter().map(|line| line.trim()).filter(|line| {
                line.chars().any(char::is_alphanumeric)
                    && !line.starts_with("+ ")
                    && !line.starts_with("$ ")
            })
        };
        let named = |line: &&str| {
            let line = line.to_ascii_lowercase();
            CAUSES.iter().any(|words| line.contains(words))
        };
        let complains = |line: &&str| {
            let line = line.to_ascii_lowercase();
            !line.ends_with(" failed to run")
                && (COMPLAINTS.iter().any(|word| line.starts_with(word))
                    || line.contains("error: "))
        };
        let line = lines()
            .find(named)
            .or_else(|| lines().rfind(complains))
            .or_else(|| lines().next_back())?;
        Some(
            line.chars()
                .filter(|c| !c.is_control())
                .take(LONGEST)
                .collect(),
        )
    }

    /// The command that a shell with `-x` said it would run last.
    pub(crate) fn last_command(&self) -> Option<String> {
        let state = self.state();
        let line = state.tail.iter().rfind(|line| line.starts_with("+ "))?;
        let command = line.trim_start_matches("+ ").chars();
        Some(command.filter(|c| !c.is_control()).take(LONGEST).collect())
    }

    /// Keeps it after the end, and returns the error with its name in the hint. A
    /// log that nothing was written to is of no use to anybody.
    #[must_use]
    pub fn keep(&self, error: Error) -> Error {
        let mut state = self.state();
        if !state.begun {
            return error;
        }
        if !state.kept {
            state.kept = true;
            janitor::forget(&self.path);
        }
        drop(state);
        let named = format!("what was printed is in {}", Shown::new(&self.path));
        match error.remedy() {
            Some(hint) if hint.contains(&named) => error,
            Some(hint) => {
                let hint = format!("{hint}; {named}");
                error.hint(hint)
            }
            None => error.hint(named),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !self.state().kept {
            // It may have been removed by hand.
            let _ = fs::remove_file(&self.path);
            janitor::forget(&self.path);
        }
    }
}

fn state_directory() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_STATE_HOME").or_else(|| {
        let home = absolute("HOME")?;
        home.is_dir().then(|| home.join(".local/state"))
    })?;
    let directory = base.join("singularity");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .ok()?;
    Some(directory)
}

fn create(path: &Path) -> Option<(PathBuf, File)> {
    janitor::remember(path);
    let file = fs::OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match file {
        Ok(file) => Some((path.to_owned(), file)),
        Err(_) => {
            janitor::forget(path);
            None
        }
    }
}

/// Logs of failures long ago interest nobody.
fn forget_old_ones(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut logs: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "log"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    logs.sort();
    for (_, path) in logs.iter().rev().skip(KEPT - 1) {
        // Another run may have done so already.
        let _ = fs::remove_file(path);
    }
}
