//! Running contenders by turns and taking the time of each.
//!
//! Owns: the order, the warm-up, the clock. Never: knows what is compared. It
//! runs in a process of its own where somebody else is to be measured: `peers
//! measure` reads a [`Task`] from standard input and writes [`Measured`] to
//! standard output, both as JSON.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::spawn::{posix_spawn, PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags};
use nix::sys::signal::SigSet;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::statistics::Random;
use crate::watch::Watched;

/// What a process of the background prints when it is ready.
pub const READY: &str = "ready";

/// A command line that is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Contender {
    /// What the table calls it.
    pub name: String,
    /// The program, by its full path, and its arguments.
    pub words: Vec<String>,
    /// Variables it gets besides those of the user.
    #[serde(default)]
    pub variables: Vec<(String, String)>,
    /// Whether what it prints is wanted.
    #[serde(default)]
    pub keep_output: bool,
}

impl Contender {
    /// A contender with no variables of its own.
    pub fn new(name: &str, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name: name.to_owned(),
            words: words.into_iter().map(Into::into).collect(),
            variables: Vec::new(),
            keep_output: false,
        }
    }
}

/// What is to be measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds before them, which fill the caches.
    pub warm_up: usize,
    /// Milliseconds before each run, in which what the last one left to others to
    /// clean up (a FUSE server, namespaces) is cleaned up.
    pub pause: u64,
    /// Processes that run meanwhile, each of which says [`READY`] in a line.
    pub background: Vec<Contender>,
    /// What is run in each round.
    pub contenders: Vec<Contender>,
}

/// What was measured, in the order of the contenders.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Microseconds, one for each round.
    pub times: Vec<Vec<f64>>,
    /// What was printed, one text for each round, where it was wanted.
    pub outputs: Vec<Vec<String>>,
}

/// Reads a task, does it, and writes what came out.
///
/// # Errors
/// The first failure of a contender, with what it printed.
pub fn serve() -> Result<(), String> {
    let task: Task = serde_json::from_reader(std::io::stdin().lock())
        .map_err(|error| format!("read the task: {error}"))?;
    let measured = measure(&task)?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &measured)
        .map_err(|error| format!("write what was measured: {error}"))?;
    out.flush().map_err(|error| error.to_string())
}

/// Runs every contender once a round, in another order each round, so that what
/// comes after what favours nobody.
fn measure(task: &Task) -> Result<Measured, String> {
    let _background: Vec<Background> = task
        .background
        .iter()
        .map(Background::start)
        .collect::<Result<_, _>>()?;
    let runs: Vec<Prepared> = task
        .contenders
        .iter()
        .map(Prepared::new)
        .collect::<Result<_, _>>()?;
    let mut measured = Measured {
        times: vec![Vec::with_capacity(task.rounds); runs.len()],
        outputs: vec![Vec::new(); runs.len()],
    };
    let mut random = Random::default();
    for round in 0..task.warm_up + task.rounds {
        for index in random.order(runs.len()) {
            std::thread::sleep(Duration::from_millis(task.pause));
            let run = runs[index].run()?;
            if round >= task.warm_up {
                measured.times[index].push(run.microseconds);
                measured.outputs[index].extend(run.output);
            }
        }
    }
    Ok(measured)
}

/// One run of a contender.
#[derive(Debug)]
pub struct Run {
    /// From spawn to reap.
    pub microseconds: f64,
    /// When it began, in seconds since 1970.
    pub begun: f64,
    /// What it printed, where that is wanted.
    pub output: Option<String>,
}

/// A contender in the form the system call takes, made before the clock starts.
#[derive(Debug)]
pub struct Prepared {
    name: String,
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// Its standard input.
    nothing: File,
    /// Its standard output and error: appended to, so that ranks do not write
    /// over one another.
    printed: File,
    keep: bool,
    limit: Option<Duration>,
}

impl Prepared {
    /// Prepares a contender.
    ///
    /// # Errors
    /// A zero byte in a word, or no place for its output.
    pub fn new(contender: &Contender) -> Result<Self, String> {
        let string = |text: String| CString::new(text).map_err(|error| error.to_string());
        let environment = std::env::vars()
            .filter(|(name, _)| !contender.variables.iter().any(|(n, _)| n == name))
            .chain(contender.variables.iter().cloned())
            .map(|(name, value)| string(format!("{name}={value}")))
            .collect::<Result<_, _>>()?;
        let arguments = contender
            .words
            .iter()
            .map(|word| string(word.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let printed = scratch()?;
        Ok(Self {
            name: contender.name.clone(),
            program: arguments
                .first()
                .cloned()
                .ok_or("a contender needs a program")?,
            arguments,
            environment,
            nothing: File::open("/dev/null").map_err(|error| error.to_string())?,
            printed,
            keep: contender.keep_output,
            limit: None,
        })
    }

    /// Ends a run that takes longer than this.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// One run from spawn to reap, in a process group of its own.
    ///
    /// # Errors
    /// It could not be started, failed, or took too long; with what it printed.
    pub fn run(&self) -> Result<Run, String> {
        let failed = |what: String| format!("{}: {what}", self.name);
        let call = |errno: nix::Error| failed(errno.desc().to_owned());
        self.printed
            .set_len(0)
            .map_err(|error| failed(error.to_string()))?;
        let mut actions = PosixSpawnFileActions::init().map_err(call)?;
        for (own, its) in [(&self.nothing, 0), (&self.printed, 1), (&self.printed, 2)] {
            actions.add_dup2(own.as_raw_fd(), its).map_err(call)?;
        }
        let mut attributes = PosixSpawnAttr::init().map_err(call)?;
        attributes
            .set_flags(
                PosixSpawnFlags::POSIX_SPAWN_SETPGROUP | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
            )
            .map_err(call)?;
        attributes.set_pgroup(Pid::from_raw(0)).map_err(call)?;
        attributes.set_sigmask(&SigSet::empty()).map_err(call)?;

        let wall = SystemTime::now();
        let begun = Instant::now();
        // glibc's posix_spawn(3) shares the memory until execve(2), like vfork(2):
        // nothing of this process is copied.
        let child = posix_spawn(
            self.program.as_c_str(),
            &actions,
            &attributes,
            &self.arguments,
            &self.environment,
        )
        .map_err(call)?;
        // A thread only where it is wanted: it costs some of what is measured.
        let watched = self.limit.map(|limit| Watched::start(child, limit));
        let status = waitpid(child, None).map_err(call)?;
        let microseconds = begun.elapsed().as_secs_f64() * 1e6;
        if watched.is_some_and(Watched::end) {
            let printed = self.output().map_err(|error| failed(error.to_string()))?;
            let limit = self.limit.unwrap_or_default().as_secs();
            return Err(failed(format!("has not ended after {limit} s\n{printed}")));
        }
        let run = |output| Run {
            microseconds,
            begun: wall
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            output,
        };

        let succeeded = matches!(status, WaitStatus::Exited(_, 0));
        if succeeded && !self.keep {
            return Ok(run(None));
        }
        let printed = self.output().map_err(|error| failed(error.to_string()))?;
        if !succeeded {
            return Err(failed(format!("{status:?}\n{printed}")));
        }
        Ok(run(Some(printed)))
    }

    fn output(&self) -> std::io::Result<String> {
        use std::io::Seek as _;
        let mut file = &self.printed;
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A file without a name, appended to.
///
/// # Errors
/// There is no place for it.
pub fn scratch() -> Result<File, String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("bench-output-{}-{number}", std::process::id());
    let place = std::env::temp_dir().join(name);
    let file = File::options()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&place)
        .map_err(|error| format!("make {}: {error}", place.display()))?;
    std::fs::remove_file(&place).map_err(|error| error.to_string())?;
    Ok(file)
}

/// A process that runs until it is dropped.
struct Background(Child);

impl Background {
    fn start(contender: &Contender) -> Result<Self, String> {
        let failed = |what: String| format!("{}: {what}", contender.name);
        let mut child = Command::new(&contender.words[0])
            .args(&contender.words[1..])
            .envs(contender.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let output = child.stdout.take();
        let started = Self(child);
        let mut line = String::new();
        let said = output.map(|output| BufReader::new(output).read_line(&mut line));
        if !matches!(said, Some(Ok(_))) || line.trim() != READY {
            return Err(failed(format!("said {line:?} instead of {READY:?}")));
        }
        Ok(started)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, text: &str) -> Contender {
        Contender::new(name, ["/bin/sh", "-c", text])
    }

    #[test]
    fn every_contender_runs_once_a_round() {
        let mut talks = shell("talks", "echo said; echo $EXTRA >&2");
        talks.keep_output = true;
        talks.variables = vec![("EXTRA".to_owned(), "given".to_owned())];
        let task = Task {
            rounds: 3,
            warm_up: 1,
            pause: 0,
            background: vec![shell("background", "echo ready; exec sleep 60")],
            contenders: vec![shell("silent", "exit 0"), talks],
        };
        let measured = measure(&task).unwrap();
        assert_eq!(measured.times[0].len(), 3);
        assert!(measured.times[0].iter().all(|&time| time > 0.0));
        assert_eq!(measured.outputs, [vec![], vec!["said\ngiven\n"; 3]]);
    }

    #[test]
    fn a_failing_contender_ends_the_run_with_its_words() {
        let task = Task {
            rounds: 1,
            warm_up: 0,
            pause: 0,
            background: Vec::new(),
            contenders: vec![shell("broken", "echo no luck; exit 3")],
        };
        let error = measure(&task).unwrap_err();
        assert!(error.starts_with("broken: Exited"), "{error}");
        assert!(error.ends_with("no luck\n"), "{error}");
    }

    #[test]
    fn a_run_that_hangs_is_ended_with_all_its_processes() {
        let hangs = shell("hangs", "echo begun; sleep 1000 & sleep 1000");
        let run = Prepared::new(&hangs).unwrap();
        let error = run.within(Duration::from_millis(300)).run().unwrap_err();
        assert_eq!(error, "hangs: has not ended after 0 s\nbegun\n");
    }
}
