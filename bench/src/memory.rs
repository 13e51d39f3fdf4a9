//! The memory of a job at rest: what its ranks tell of themselves, and what else
//! came with them.
//!
//! Owns: starting ranks that wait, and telling whose processes are there. Never:
//! reads a process's memory itself ([`crate::processes`] does).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use nix::unistd::Pid;

use crate::data::Measure;
use crate::jobs::{two_numbers, Sample, Site};
use crate::processes::{self, Process};
use crate::watch::Watched;
use crate::ways::Entry;

/// What serves image files; started with an environment of its own.
const SERVERS: [&str; 7] = [
    "image-server",
    "squashfuse",
    "squashfuse_ll",
    "erofsfuse",
    "fuse2fs",
    "fuse-overlayfs",
    "pmi-bridge",
];

impl Site {
    /// The memory of ranks, which tell their own, and of what else came with them.
    pub(crate) fn memory(&self, entry: &Entry, ranks: u32) -> Result<Vec<Sample>, String> {
        let held = self.hold(entry, ranks)?;
        let helpers: Vec<&Process> = held
            .others
            .iter()
            .filter(|process| !self.usual.contains(&process.name))
            .collect();
        let kib: f64 = held.kib + helpers.iter().map(|process| process.kib).sum::<f64>();
        let sample = |measure, figure| Sample {
            measure,
            ranks,
            bytes: 0,
            figure,
        };
        Ok(vec![
            sample(Measure::Memory, kib),
            sample(Measure::Helpers, helpers.len() as f64),
        ])
    }

    /// Processes of a job of the host's beside its ranks: the launcher's own.
    ///
    /// # Errors
    /// The job failed.
    pub fn look_at_host(&mut self, entry: &Entry) -> Result<(), String> {
        let held = self.hold(entry, 2)?;
        self.usual
            .extend(held.others.into_iter().map(|process| process.name));
        Ok(())
    }

    /// Starts ranks, waits until they have told their memory, looks who else is
    /// there, and lets them end.
    fn hold(&self, entry: &Entry, ranks: u32) -> Result<Held, String> {
        let words = [entry.program("mpi-bench"), "memory".to_owned()];
        let contender = entry.contender(&self.launcher, ranks, &words);
        let failed = |what: String| format!("{}: {what}", contender.name);
        let before = processes::all(entry.who.uid);
        // Whoever came with this job has it; others of the same user have not.
        let mark = format!("BENCH_JOB={}.{ranks}", std::process::id());
        let mut child = Command::new(&contender.words[0])
            .args(&contender.words[1..])
            .envs(contender.variables.iter().cloned())
            .envs(mark.split_once('='))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let leader = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let watched = Watched::start(leader, self.limit(ranks));
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take();
        // Reads on when we have heard enough, so that nobody waits for the pipe.
        let reader = std::thread::spawn(move || {
            for line in output
                .into_iter()
                .flat_map(|pipe| BufReader::new(pipe).lines())
            {
                let _ = sender.send(line.unwrap_or_default());
            }
        });
        let mut held = Held::default();
        let mut own = Vec::new();
        let mut complete = false;
        while let Ok(line) = lines.recv() {
            if let Some((pid, kib)) = line.strip_prefix("rank ").and_then(two_numbers) {
                own.push(pid as i32);
                held.kib += kib;
            } else if line.starts_with("waiting ") {
                complete = true;
                break;
            }
        }
        if complete {
            held.others = processes::all(entry.who.uid)
                .into_iter()
                .filter(|process| !before.iter().any(|old| old.pid == process.pid))
                .filter(|process| !own.contains(&process.pid))
                .filter(|process| {
                    SERVERS.contains(&process.name.as_str())
                        || processes::carries(process.pid, &mark)
                })
                .collect();
            if let Some(mut input) = child.stdin.take() {
                let _ = input.write_all(b"\n");
            }
        }
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let hung = watched.end();
        let _ = reader.join();
        if hung {
            return Err(failed("has not ended".to_owned()));
        }
        if !complete || !status.success() || own.len() != ranks as usize {
            return Err(failed(format!(
                "{} of {ranks} ranks told their memory; {status}",
                own.len()
            )));
        }
        if held.kib < 0.0 {
            return Err(failed(
                "/proc does not tell the memory of a process".to_owned(),
            ));
        }
        Ok(held)
    }
}

/// A job at rest.
#[derive(Debug, Default)]
struct Held {
    /// Proportional set size of its ranks.
    kib: f64,
    /// Processes that came with it, and are no ranks.
    others: Vec<Process>,
}
