//! Jobs that run side by side and measure by turns, each while the others sleep.
//!
//! Owns: whose turn it is. What disturbs a machine comes and goes within seconds: a
//! job that measured for itself would have it or not, and all that it measures with
//! it. Never: says what is measured, or compares.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::unistd::Pid;

use crate::data::Measure;
use crate::jobs::{read_figures, Sample, Site};
use crate::launcher::Launcher;
use crate::round::{scratch, Contender};
use crate::statistics::{summarise, Random};
use crate::watch::Watched;
use crate::ways::Entry;

/// How often each job measures everything; the median counts.
const SWEEPS: usize = 5;
const SWEEPS_QUICK: usize = 3;

/// What the jobs do.
struct Turns<'a> {
    ranks: u32,
    measures: &'a [Measure],
    /// What starts them side by side; none where they have to wait for one another.
    launcher: Option<Launcher>,
}

impl Site {
    /// The measures of so many ranks of each way, in the order of the ways.
    pub fn by_turns(
        &self,
        entries: &[&Entry],
        ranks: u32,
        measures: &[Measure],
        random: &mut Random,
    ) -> Vec<Result<Vec<Sample>, String>> {
        let mut job = Turns {
            ranks,
            measures,
            launcher: None,
        };
        if entries.len() > 1 && !self.one_at_a_time.get() {
            job.launcher = self.launcher.side_by_side();
        }
        if job.launcher.is_some() {
            let all = self.side_by_side(entries, &job, random);
            // A site may not let steps share processors; each will be tried by itself.
            if self.launcher.is_srun() && all.iter().any(Result::is_err) {
                self.one_at_a_time.set(true);
            }
            return all;
        }
        let mut all: Vec<_> = entries.iter().map(|_| Ok(Vec::new())).collect();
        for place in random.order(entries.len()) {
            let mut one = self.side_by_side(&entries[place..=place], &job, random);
            all[place] = one.remove(0);
        }
        all
    }

    fn side_by_side(
        &self,
        entries: &[&Entry],
        job: &Turns,
        random: &mut Random,
    ) -> Vec<Result<Vec<Sample>, String>> {
        let &Turns {
            ranks, measures, ..
        } = job;
        let mut players: Vec<Result<Player, String>> = entries
            .iter()
            .map(|entry| self.player(entry, job))
            .collect();
        let mut told: Vec<Vec<Sample>> = entries.iter().map(|_| Vec::new()).collect();
        let sweeps = if self.quick { SWEEPS_QUICK } else { SWEEPS };
        for _ in 0..sweeps {
            for measure in measures {
                for place in random.order(players.len()) {
                    let Ok(player) = &mut players[place] else {
                        continue;
                    };
                    match player.turn(*measure) {
                        Ok(text) => told[place].extend(read_figures(&text, ranks)),
                        Err(why) => {
                            let gone = Err(String::new());
                            let player = std::mem::replace(&mut players[place], gone);
                            players[place] = player.and_then(|player| Err(player.failed(&why)));
                        }
                    }
                }
            }
        }
        players
            .into_iter()
            .zip(told)
            .map(|(player, told)| {
                let name = player?.end()?;
                for measure in measures {
                    if !told.iter().any(|sample| sample.measure == *measure) {
                        return Err(format!("{name}: it told no {}", measure.name()));
                    }
                }
                Ok(medians(&told))
            })
            .collect()
    }

    fn player(&self, entry: &Entry, job: &Turns) -> Result<Player, String> {
        let mut words = vec![
            entry.program("mpi-bench"),
            "--most".to_owned(),
            self.most.to_string(),
        ];
        if self.quick {
            words.push("--quick".to_owned());
        }
        words.push("--turns".to_owned());
        let launcher = job.launcher.as_ref().unwrap_or(&self.launcher);
        let contender = entry.contender(launcher, job.ranks, &words);
        Player::start(&contender, self.limit(job.ranks))
    }
}

/// One sample of each figure: the median of those that were told.
fn medians(told: &[Sample]) -> Vec<Sample> {
    let same = |a: &Sample, b: &Sample| (a.measure, a.bytes) == (b.measure, b.bytes);
    let mut all: Vec<Sample> = Vec::new();
    for sample in told {
        if all.iter().any(|known| same(known, sample)) {
            continue;
        }
        let figures: Vec<f64> = told
            .iter()
            .filter(|other| same(other, sample))
            .map(|other| other.figure)
            .collect();
        let figure = summarise(&figures).map_or(sample.figure, |summary| summary.median);
        all.push(Sample {
            figure,
            ..sample.clone()
        });
    }
    all
}

/// A job that waits for its turn.
struct Player {
    name: String,
    child: Child,
    input: ChildStdin,
    /// What it prints, read as it comes.
    lines: mpsc::Receiver<String>,
    /// What it complains of.
    said: File,
    watched: Watched,
    /// Of one turn.
    limit: Duration,
}

/// What may be under way of a job that is watched turn by turn.
const WHOLE: Duration = Duration::from_secs(24 * 3600);

impl Player {
    /// Starts it, and waits until all of its ranks are there.
    fn start(contender: &Contender, limit: Duration) -> Result<Self, String> {
        let name = contender.name.clone();
        let failed = |what: String| format!("{name}: {what}");
        let said = scratch()?;
        let errors = said
            .try_clone()
            .map_err(|error| failed(error.to_string()))?;
        let mut child = Command::new(&contender.words[0])
            .args(&contender.words[1..])
            .envs(contender.variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let leader = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let watched = Watched::start(leader, WHOLE);
        let (sender, lines) = mpsc::channel();
        let (input, output) = (child.stdin.take(), child.stdout.take());
        // Not waited for: whoever is left of the job may hold the pipe open.
        std::thread::spawn(move || {
            let lines = output.into_iter().map(BufReader::new);
            for line in lines.flat_map(BufRead::lines).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let input = input.ok_or_else(|| failed("it has no input".to_owned()))?;
        let mut player = Self {
            name,
            child,
            input,
            lines,
            said,
            watched,
            limit,
        };
        match player.ready() {
            Ok(_) => Ok(player),
            Err(why) => Err(player.failed(&why)),
        }
    }

    /// What it prints until it waits for its next turn; or why it does not.
    fn ready(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(self.limit) {
                Ok(line) if line.trim() == "ready" => return Ok(text),
                Ok(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let limit = self.limit.as_secs();
                    return Err(format!("has not ended after {limit} s\n{text}"));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(text),
            }
        }
    }

    fn turn(&mut self, measure: Measure) -> Result<String, String> {
        // Whoever is gone does not hear it, and is missed by the reading.
        let _ = writeln!(self.input, "{}", measure.name());
        let _ = self.input.flush();
        self.ready()
    }

    /// Ends one that did not do what it should; what is to be said of it.
    fn failed(mut self, why: &str) -> String {
        drop(self.input);
        if why.starts_with("has not ended") {
            self.watched.stop();
        }
        let status = self.child.wait();
        self.watched.end();
        let mut said = String::new();
        let _ = self.said.rewind();
        let _ = self.said.read_to_string(&mut said);
        match status {
            _ if why.starts_with("has not ended") => format!("{}: {why}{said}", self.name),
            Ok(status) => format!("{}: {status}\n{why}{said}", self.name),
            Err(error) => format!("{}: {error}", self.name),
        }
    }

    /// Lets it end, and returns its name.
    fn end(self) -> Result<String, String> {
        let Self {
            name,
            mut child,
            input,
            watched,
            limit,
            lines,
            mut said,
            ..
        } = self;
        drop(input);
        // Its output ends with it.
        let hangs = loop {
            match lines.recv_timeout(limit) {
                Ok(_) => {}
                Err(why) => break why == mpsc::RecvTimeoutError::Timeout,
            }
        };
        if hangs {
            watched.stop();
        }
        let status = child.wait();
        watched.end();
        let mut text = String::new();
        let _ = said.rewind();
        let _ = said.read_to_string(&mut text);
        match status {
            _ if hangs => Err(format!(
                "{name}: has not ended after {} s\n{text}",
                limit.as_secs()
            )),
            Ok(status) if status.success() => Ok(name),
            Ok(status) => Err(format!("{name}: {status}\n{text}")),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(text: &str) -> Result<Player, String> {
        let contender = Contender::new("one", ["/bin/sh", "-c", text]);
        Player::start(&contender, Duration::from_secs(20))
    }

    #[test]
    fn a_job_measures_when_it_is_its_turn_and_ends_with_its_input() {
        let text = "echo ready; while read word; do echo $word 1 0.5; echo ready; done";
        let mut one = player(text).unwrap();
        let mut two = player(text).unwrap();
        assert_eq!(two.turn(Measure::Latency).unwrap(), "latency 1 0.5\n");
        assert_eq!(one.turn(Measure::Barrier).unwrap(), "barrier 1 0.5\n");
        assert_eq!(one.end().unwrap(), "one");
        assert_eq!(two.end().unwrap(), "one");
    }

    #[test]
    fn a_job_that_goes_away_tells_why() {
        let gone = player("echo no luck >&2; exit 3").err();
        assert_eq!(gone.as_deref(), Some("one: exit status: 3\nno luck\n"));
        let mut job = player("echo ready; read word; echo half; exit 4").unwrap();
        let why = job.turn(Measure::Latency).unwrap_err();
        assert_eq!(job.failed(&why), "one: exit status: 4\nhalf\n");
        let job = player("echo ready; read word; echo bad end >&2; exit 5").unwrap();
        assert_eq!(job.end().unwrap_err(), "one: exit status: 5\nbad end\n");
    }

    #[test]
    fn a_job_that_hangs_is_ended_with_all_its_processes() {
        let mut job = player("echo ready; read word; sleep 1000 & sleep 1000").unwrap();
        job.limit = Duration::from_millis(200);
        let why = job.turn(Measure::Latency).unwrap_err();
        assert_eq!(job.failed(&why), "one: has not ended after 0 s\n");
    }

    #[test]
    fn the_median_of_the_sweeps_counts() {
        let sample = |bytes, figure| Sample {
            measure: Measure::Latency,
            ranks: 2,
            bytes,
            figure,
        };
        let told = [
            sample(1, 3.0),
            sample(2, 9.0),
            sample(1, 1.0),
            sample(1, 2.0),
        ];
        assert_eq!(medians(&told), [sample(1, 2.0), sample(2, 9.0)]);
    }
}
