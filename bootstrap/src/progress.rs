//! How far long work has come, on standard error.
//!
//! Owns: what is shown, and where: a bar on a terminal, a line at the beginning
//! and the end of a step where there is none (a job's log), nothing with `-q`.
//! Never: starts a thread (a process with threads cannot make user namespaces),
//! or writes to standard output.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::Level;

/// A step that is over sooner than this is not worth a line of its own at the end.
const WORTH_TELLING: Duration = Duration::from_secs(2);

/// How often a bar is drawn, per second.
const REFRESHES: u8 = 8;

/// Where progress is shown. Cheap to make; [`crate::log::Log`] has one.
#[derive(Debug)]
pub struct Progress {
    form: Form,
    bars: MultiProgress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bar,
    Lines,
    Nothing,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// As the options of the command line and standard error have it: nothing
    /// with `-q`; lines where standard error is no terminal, or is written to by
    /// `-v` too.
    pub fn new() -> Self {
        let form = if !tracing::enabled!(Level::WARN) {
            Form::Nothing
        } else if tracing::enabled!(Level::INFO) || !std::io::stderr().is_terminal() {
            Form::Lines
        } else {
            Form::Bar
        };
        let target = match form {
            Form::Bar => ProgressDrawTarget::stderr_with_hz(REFRESHES),
            _ => ProgressDrawTarget::hidden(),
        };
        Self {
            form,
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Work of which nobody knows how much there is, such as "install bookworm".
    pub fn step(&self, what: impl Into<String>) -> Step {
        self.begin(what.into(), None, "{spinner} {prefix} {elapsed} {wide_msg}")
    }

    /// Work that is measured in bytes, of which there are `total`.
    pub fn bytes(&self, what: impl Into<String>, total: u64) -> Step {
        self.begin(
            what.into(),
            Some((total, true)),
            "{prefix} {wide_bar} {bytes}/{total_bytes} {eta}",
        )
    }

    /// Work that is measured in things, of which there are `total`.
    pub fn items(&self, what: impl Into<String>, total: u64) -> Step {
        self.begin(
            what.into(),
            Some((total, false)),
            "{prefix} {wide_bar} {pos}/{len} {eta}",
        )
    }

    /// A line of its own, which stays.
    pub fn say(&self, line: &str) {
        match self.form {
            Form::Nothing => {}
            Form::Lines => told(line),
            // Where the terminal is gone there is nobody to tell.
            Form::Bar => drop(self.bars.println(format!("singularity: {line}"))),
        }
    }

    fn begin(&self, what: String, total: Option<(u64, bool)>, template: &str) -> Step {
        let bar = match total {
            Some((length, _)) => ProgressBar::new(length),
            None => ProgressBar::new_spinner(),
        };
        let bar = self.bars.add(bar);
        // The templates are this module's, and the tests show each.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.clone());
        if self.form == Form::Lines {
            told(&match total {
                Some((length, true)) => format!("{what} ({})", HumanBytes(length)),
                _ => what.clone(),
            });
        }
        Step {
            what,
            form: self.form,
            begun: Instant::now(),
            tenths: Mutex::new(0),
            bar,
        }
    }
}

/// Work under way. What was shown of it goes when it is dropped.
#[derive(Debug)]
pub struct Step {
    what: String,
    form: Form,
    begun: Instant,
    tenths: Mutex<u64>,
    bar: ProgressBar,
}

impl Step {
    /// So much more is done.
    pub fn more(&self, amount: u64) {
        self.bar.inc(amount);
        self.tell_tenths();
    }

    /// So much is done in all.
    pub fn so_far(&self, amount: u64) {
        self.bar.set_position(amount);
        self.tell_tenths();
    }

    /// What is being done at the moment, such as the last line of a tool's.
    pub fn note(&self, text: &str) {
        if self.form == Form::Bar {
            let printable: String = text.chars().filter(|c| !c.is_control()).collect();
            self.bar.set_message(printable);
        }
    }

    /// Still alive.
    pub fn tick(&self) {
        self.bar.tick();
    }

    /// Runs something that writes to the terminal itself.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.bar.suspend(work)
    }

    /// It is done. Dropping it instead says that it failed.
    pub fn done(self) {
        let took = self.begun.elapsed();
        if self.form == Form::Lines && took >= WORTH_TELLING {
            told(&format!("{}: done in {} s", self.what, took.as_secs()));
        }
    }

    /// A job's log gets a line for every fifth of a long step, so that somebody
    /// who looks sees it going on.
    fn tell_tenths(&self) {
        let Some(length) = self.bar.length().filter(|_| self.form == Form::Lines) else {
            return;
        };
        let now = (self.bar.position() * 10).checked_div(length).unwrap_or(0) / 2 * 2;
        let mut last = self
            .tenths
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if now > *last && now < 10 && self.begun.elapsed() >= WORTH_TELLING {
            told(&format!("{}: {} %", self.what, now * 10));
        }
        *last = now.max(*last);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn told(line: &str) {
    // With standard error gone there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("singularity: {line}\n").as_bytes());
}
