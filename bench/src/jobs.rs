//! The jobs that are started, and the figures in what they print.
//!
//! Owns: one start of one way. Never: says when, or compares.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::data::Measure;
use crate::launcher::Launcher;
use crate::round::{Contender, Prepared};
use crate::statistics::Random;
use crate::ways::Entry;

/// Ranks of the ring.
pub const RING: u32 = 4;

/// What a job of few ranks may take. Some hang: where ranks cannot copy from one
/// another some MPI libraries wait for it for ever, and now and then a launcher
/// misses the end of a rank that ends at once.
const LIMIT: Duration = Duration::from_secs(60);

/// A kind of job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Messages between two ranks.
    Point(Vec<Measure>),
    /// Operations of so many ranks.
    Together(u32, Vec<Measure>),
    /// So many ranks to the end of MPI_Init.
    Start(u32),
    /// So many ranks that sleep for 50 ms.
    Launch(u32),
    /// The ring of four ranks.
    Ring,
    /// The memory of so many ranks.
    Memory(u32),
    /// The ring with cold caches.
    Cold,
    /// A program that does nothing, without a launcher.
    Enter,
    /// An exchange of so many ranks through the launcher.
    Fence(u32),
    /// Where the time of so many ranks goes before their program.
    Phases(u32),
}

impl Job {
    /// As it is shown.
    pub fn title(&self) -> String {
        match self {
            Self::Point(_) => "messages between two ranks".to_owned(),
            Self::Together(ranks, _) => format!("collective operations of {ranks} ranks"),
            Self::Start(ranks) => format!("MPI_Init of {ranks} ranks"),
            Self::Launch(ranks) => format!("launch of {ranks} ranks"),
            Self::Ring => format!("ring of {RING} ranks"),
            Self::Memory(ranks) => format!("memory of {ranks} ranks"),
            Self::Cold => "start with cold caches".to_owned(),
            Self::Enter => "start without a launcher".to_owned(),
            Self::Fence(ranks) => format!("exchange of {ranks} ranks"),
            Self::Phases(ranks) => format!("phases of {ranks} ranks"),
        }
    }

    /// So many ranks, and what they measure by turns with those of other ways.
    pub fn messages(&self) -> Option<(u32, &[Measure])> {
        match self {
            Self::Point(measures) => Some((2, measures)),
            Self::Together(ranks, measures) => Some((*ranks, measures)),
            _ => None,
        }
    }

    /// Rounds that are enough, whatever time there is.
    pub fn most_rounds(&self) -> usize {
        match self {
            Self::Memory(_) => 3,
            Self::Phases(_) => 10,
            _ => usize::MAX,
        }
    }

    /// Whether this way takes part. The host has no image that could be cold.
    pub fn is_for(&self, entry: &Entry) -> bool {
        match self {
            Self::Cold => entry.way.own && !entry.way.is_host(),
            Self::Enter => !entry.is_launchers(),
            Self::Fence(_) => entry.way.own,
            Self::Phases(_) => entry.tells_phases(),
            _ => true,
        }
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Of what.
    pub measure: Measure,
    /// With so many ranks.
    pub ranks: u32,
    /// Of messages of this size.
    pub bytes: u64,
    /// The figure, in the measure's unit.
    pub figure: f64,
}

/// What a first job of a way told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The MPI library.
    pub library: String,
    /// Ranks of the job: less than were started where they are strangers.
    pub ranks: u32,
    /// Nodes they were on.
    pub nodes: u32,
    /// Whether rank 0 may copy from rank 1.
    pub cma: String,
}

/// What jobs are started with.
#[derive(Debug)]
pub struct Site {
    /// The launcher.
    pub launcher: Launcher,
    /// The largest message.
    pub most: u64,
    /// Whether few iterations do.
    pub quick: bool,
    /// Names of processes that the host's own jobs have beside their ranks.
    pub usual: BTreeSet<String>,
    /// Whether jobs that ran side by side have failed.
    pub one_at_a_time: Cell<bool>,
    /// Whether nothing is measured but exchanges through the launcher, which need
    /// no MPI that works.
    pub without_mpi: bool,
}

impl Site {
    /// Starts a job once.
    ///
    /// # Errors
    /// What went wrong, with what was printed.
    pub fn run(&self, job: &Job, entry: &Entry) -> Result<Vec<Sample>, String> {
        match job {
            Job::Point(_) | Job::Together(..) => {
                let (ranks, measures) = job.messages().unwrap_or_default();
                let mut one = self.by_turns(&[entry], ranks, measures, &mut Random::default());
                one.remove(0)
            }
            Job::Start(ranks) => self.start(entry, *ranks),
            Job::Launch(ranks) => self.timed(entry, *ranks, &entry.nap(), Measure::Launch),
            Job::Ring => self.timed(entry, RING, &[entry.program("ring")], Measure::Ring),
            Job::Memory(ranks) => self.memory(entry, *ranks),
            Job::Cold => {
                drop_caches()?;
                self.timed(entry, RING, &[entry.program("ring")], Measure::Cold)
            }
            Job::Enter => enter(entry),
            Job::Fence(ranks) => {
                let words = [entry.program("mpi-bench"), "fence".to_owned()];
                let text = self.output(entry, *ranks, &words)?.1;
                let samples = read_figures(&text, *ranks);
                match samples.is_empty() {
                    true => Err(format!("no fence in what was printed:\n{text}")),
                    false => Ok(samples),
                }
            }
            Job::Phases(ranks) => self.phases(entry, *ranks),
        }
    }

    /// What `singularity exec --timing` says of the ranks: the median of each phase
    /// that is not the same for every program.
    fn phases(&self, entry: &Entry, ranks: u32) -> Result<Vec<Sample>, String> {
        let words = self.first_words(entry);
        let Some(contender) = entry.with_phases(&self.launcher, ranks, &words) else {
            return Ok(Vec::new());
        };
        let run = prepared(&contender, self.limit(ranks))?.run()?;
        let text = run.output.unwrap_or_default();
        let sample = |measure, phase: &str, factor: f64| {
            let all: Vec<f64> = phase_of(&text, phase).collect();
            let figure = crate::statistics::summarise(&all)?.median * factor;
            Some(Sample {
                measure,
                ranks,
                bytes: 0,
                figure,
            })
        };
        Ok([
            sample(Measure::Look, "MPI", 1.0),
            sample(Measure::Seat, "bridge", 1e-3),
        ]
        .into_iter()
        .flatten()
        .collect())
    }

    /// Whether the ranks of this way meet the launcher over the bridge.
    ///
    /// # Errors
    /// The job failed.
    pub fn is_bridged(&self, entry: &Entry) -> Result<bool, String> {
        let samples = self.phases(entry, 2)?;
        Ok(samples.iter().any(|sample| sample.measure == Measure::Seat))
    }

    /// The first job of a way: what its MPI is, and whether the ranks meet.
    ///
    /// # Errors
    /// It did not run, or its ranks are strangers.
    pub fn look(&self, entry: &Entry) -> Result<Told, String> {
        let words = self.first_words(entry);
        let text = self.output(entry, 2, &words)?.1;
        let told = match self.without_mpi {
            true => read_nodes(&text),
            false => read_job(&text),
        };
        match told.ranks {
            2 => Ok(told),
            0 => Err(format!("{}: the program told nothing", entry.way.name)),
            ranks => Err(format!(
                "{}: {ranks} rank where 2 were started: this MPI does not understand the launcher",
                entry.way.name
            )),
        }
    }

    fn first_words(&self, entry: &Entry) -> [String; 2] {
        let word = if self.without_mpi { "fence" } else { "job" };
        [entry.program("mpi-bench"), word.to_owned()]
    }

    /// The limit of one job: what none takes that does not hang.
    pub(crate) fn limit(&self, ranks: u32) -> Duration {
        LIMIT + Duration::from_secs(2 * u64::from(ranks) + (self.most >> 20))
    }

    fn output(
        &self,
        entry: &Entry,
        ranks: u32,
        program: &[String],
    ) -> Result<(f64, String), String> {
        let contender = entry.contender(&self.launcher, ranks, program);
        let run = prepared(&contender, self.limit(ranks))?.run()?;
        Ok((run.begun, run.output.unwrap_or_default()))
    }

    fn start(&self, entry: &Entry, ranks: u32) -> Result<Vec<Sample>, String> {
        let words = [entry.program("mpi-bench"), "start".to_owned()];
        let (begun, text) = self.output(entry, ranks, &words)?;
        let figure = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
                .ok_or_else(|| format!("no {name} in what was printed:\n{text}"))
        };
        let sample = |measure, seconds: f64| Sample {
            measure,
            ranks,
            bytes: 0,
            figure: seconds * 1e3,
        };
        Ok(vec![
            sample(Measure::Reach, figure("init-began ")? - begun),
            sample(Measure::Init, figure("init-ended ")? - begun),
            sample(Measure::InitCall, figure("init-took ")?),
        ])
    }

    fn timed(
        &self,
        entry: &Entry,
        ranks: u32,
        program: &[String],
        measure: Measure,
    ) -> Result<Vec<Sample>, String> {
        let mut contender = entry.contender(&self.launcher, ranks, program);
        contender.keep_output = false;
        let run = prepared(&contender, self.limit(ranks))?.run()?;
        Ok(vec![Sample {
            measure,
            ranks,
            bytes: 0,
            figure: run.microseconds / 1e3,
        }])
    }
}

/// Once with no launcher in front.
fn enter(entry: &Entry) -> Result<Vec<Sample>, String> {
    let contender = entry.alone(std::slice::from_ref(&entry.nothing));
    // No thread that watches: it would cost some of what is measured.
    let run = Prepared::new(&contender)?.run()?;
    Ok(vec![Sample {
        measure: Measure::Enter,
        ranks: 1,
        bytes: 0,
        figure: run.microseconds / 1e3,
    }])
}

/// Microseconds of a phase, one for each rank, among what a job prints.
fn phase_of<'a>(text: &'a str, phase: &'a str) -> impl Iterator<Item = f64> + 'a {
    text.lines().filter_map(move |line| {
        let (_, line) = line.split_once("singularity: timing: ")?;
        let number = line.strip_prefix(phase)?.strip_prefix(' ')?;
        number.trim().strip_suffix(" us")?.parse().ok()
    })
}

fn prepared(contender: &Contender, limit: Duration) -> Result<Prepared, String> {
    Ok(Prepared::new(contender)?.within(limit))
}

/// Only root can.
fn drop_caches() -> Result<(), String> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|error| format!("drop the caches of the machine: {error}"))
}

pub(crate) fn two_numbers(text: &str) -> Option<(f64, f64)> {
    let (one, two) = text.trim().split_once(' ')?;
    Some((one.parse().ok()?, two.trim().parse().ok()?))
}

/// Lines of "measure bytes figure".
pub(crate) fn read_figures(text: &str, ranks: u32) -> Vec<Sample> {
    text.lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(' ')?;
            let measure = Measure::ALL.into_iter().find(|m| m.name() == name)?;
            let (bytes, figure) = two_numbers(numbers)?;
            Some(Sample {
                measure,
                ranks,
                bytes: bytes as u64,
                figure,
            })
        })
        .collect()
}

/// Of an exchange, in which every rank tells its node.
fn read_nodes(text: &str) -> Told {
    let nodes: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("node "))
        .collect();
    let different: BTreeSet<&str> = nodes.iter().copied().collect();
    Told {
        ranks: u32::try_from(nodes.len()).unwrap_or(0),
        nodes: u32::try_from(different.len()).unwrap_or(0),
        ..Told::default()
    }
}

fn read_job(text: &str) -> Told {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    Told {
        library: value("library "),
        ranks: value("ranks ").parse().unwrap_or_default(),
        nodes: value("nodes ").parse().unwrap_or_default(),
        cma: value("cma "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_what_an_mpi_says() {
        let text = "[node:1] mca: no btl\nlatency 1 0.39\nlatency 4194304 310.1\nbarrier 0 1.5\nnoise 1 2\n";
        let samples = read_figures(text, 2);
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[1].bytes, 4 << 20);
        assert_eq!(samples[2].measure, Measure::Barrier);
        assert_eq!(samples[2].figure, 1.5);
    }

    #[test]
    fn phases_are_found_by_their_whole_name() {
        let text = "singularity: timing: MPI              12.5 us\n\
            [1,0]<stderr>:singularity: timing: MPI       7.5 us\n\
            singularity: timing: MPI of more 3.0 us\nsingularity: timing: total 99.0 us\n";
        assert_eq!(phase_of(text, "MPI").collect::<Vec<_>>(), [12.5, 7.5]);
        assert_eq!(phase_of(text, "bridge").count(), 0);
    }

    #[test]
    fn a_job_tells_what_it_is() {
        let told = read_job("library Open MPI v4.1.4, package: x\nranks 2\nnodes 1\ncma no: Operation not permitted\n");
        assert_eq!(told.library, "Open MPI v4.1.4, package: x");
        assert_eq!((told.ranks, told.nodes), (2, 1));
        assert_eq!(told.cma, "no: Operation not permitted");
        assert_eq!(read_job(""), Told::default());
        let told = read_nodes("node c1\nnode c2\nfence 0 712.5\nnode c1\n");
        assert_eq!((told.ranks, told.nodes), (3, 2));
    }
}
