//! All that a run has measured, as it is stored and read back.
//!
//! Owns: the form of data.json. Everything that is shown is computed from it, so
//! a stored run can be shown anew. Never: names of hosts, of people, or paths of
//! theirs.

use std::collections::BTreeMap;
use std::path::Path;

use launcher::Error;
use serde::{Deserialize, Serialize};

use crate::calls::Calls;
use crate::files::Counts;
use crate::machine::Machine;

/// The number of this form; one that reads differently gets another.
pub const FORM: u32 = 1;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Data {
    /// See [`FORM`].
    pub form: u32,
    /// The version of singularity.
    pub version: String,
    /// When it ended, in seconds since 1970.
    pub ended: u64,
    /// Whether it was a first look.
    pub quick: bool,
    /// What it ran on.
    pub machine: Machine,
    /// What started the ranks, and what it says it is.
    pub launcher: Launcher,
    /// The ways that were compared; those whose baseline is their own name are
    /// the host.
    pub ways: Vec<Way>,
    /// What was measured.
    pub series: Vec<Series>,
    /// What starts cost the file system of the image.
    #[serde(default)]
    pub files: Vec<Counts>,
    /// What starts ask of the kernel.
    #[serde(default)]
    pub calls: Vec<Calls>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What starts ranks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launcher {
    /// Its words.
    pub words: String,
    /// The first line it prints of its version.
    pub version: String,
}

/// A way of starting the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// What tables call it.
    pub name: String,
    /// Whom it is compared with.
    pub baseline: String,
    /// How the image is entered: "user namespace, FUSE", …
    pub entering: String,
    /// The image's format, "none" for the host.
    pub format: String,
    /// The image's size on disk in bytes; 0 for a directory or none.
    pub bytes: u64,
    /// The MPI library that the program found, in its own words.
    pub mpi: String,
    /// Whether rank 0 can copy from the memory of rank 1: "yes", or why not.
    pub cma: String,
    /// Nodes that the ranks of the first job were on.
    pub nodes: u32,
    /// Whether it is singularity itself: what fails there is a failure.
    pub own: bool,
    /// The words before the program.
    pub words: String,
    /// Whether its ranks meet the launcher over the bridge.
    #[serde(default)]
    pub bridged: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Half of a ping-pong, microseconds.
    Latency,
    /// One way, 10^6 bytes a second.
    Bandwidth,
    /// Both ways at once, 10^6 bytes a second.
    Bidirectional,
    /// Microseconds.
    Allreduce,
    /// Microseconds.
    Alltoall,
    /// Microseconds.
    Barrier,
    /// From the start of the launcher to the end of the last rank's MPI_Init, ms.
    Init,
    /// The longest MPI_Init of a rank, ms.
    InitCall,
    /// A job of ranks that sleep for 50 ms, from its start to its end, ms.
    Launch,
    /// The same of a ring of four ranks, ms.
    Ring,
    /// Proportional set size of all ranks and of helper processes, KiB.
    Memory,
    /// Processes of the way's own that are there beside the ranks.
    Helpers,
    /// The first start after the caches were dropped, ms.
    Cold,
    /// From the start of the launcher until the last rank's program runs, ms.
    Reach,
    /// A program that does nothing, without a launcher, from start to end, ms.
    Enter,
    /// An exchange among all ranks through the launcher, µs.
    Fence,
    /// What a rank takes to find out the MPI of its program, µs.
    Look,
    /// What a rank takes to get a seat at the bridge, ms.
    Seat,
}

impl Measure {
    /// All, in the order they are shown.
    pub const ALL: [Self; 18] = [
        Self::Latency,
        Self::Bandwidth,
        Self::Bidirectional,
        Self::Allreduce,
        Self::Alltoall,
        Self::Barrier,
        Self::Enter,
        Self::Reach,
        Self::Init,
        Self::InitCall,
        Self::Launch,
        Self::Ring,
        Self::Memory,
        Self::Helpers,
        Self::Cold,
        Self::Fence,
        Self::Look,
        Self::Seat,
    ];

    /// As it is typed and stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::Bidirectional => "bidirectional",
            Self::Allreduce => "allreduce",
            Self::Alltoall => "alltoall",
            Self::Barrier => "barrier",
            Self::Init => "init",
            Self::InitCall => "init-call",
            Self::Launch => "launch",
            Self::Ring => "ring",
            Self::Memory => "memory",
            Self::Helpers => "helpers",
            Self::Cold => "cold",
            Self::Reach => "reach",
            Self::Enter => "enter",
            Self::Fence => "fence",
            Self::Look => "look",
            Self::Seat => "seat",
        }
    }

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Latency => "Latency between two ranks",
            Self::Bandwidth => "Bandwidth between two ranks",
            Self::Bidirectional => "Bandwidth between two ranks, both ways at once",
            Self::Allreduce => "MPI_Allreduce",
            Self::Alltoall => "MPI_Alltoall",
            Self::Barrier => "MPI_Barrier",
            Self::Init => "Start of the job to the end of MPI_Init",
            Self::InitCall => "The longest MPI_Init of a rank",
            Self::Launch => "Start and end of ranks that sleep for 50 ms",
            Self::Ring => "Ring of four ranks, start to end",
            Self::Memory => "Memory of all ranks and helpers",
            Self::Helpers => "Helper processes",
            Self::Cold => "First start with cold caches",
            Self::Reach => "Start of the job until the last rank's program runs",
            Self::Enter => "Start and end of a program that does nothing, without a launcher",
            Self::Fence => "Exchange among all ranks through the launcher (fence)",
            Self::Look => "A rank finding out its program's MPI",
            Self::Seat => "A rank getting a seat at the bridge",
        }
    }

    /// What its figures are in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Latency
            | Self::Allreduce
            | Self::Alltoall
            | Self::Barrier
            | Self::Fence
            | Self::Look => "µs",
            Self::Bandwidth | Self::Bidirectional => "MB/s",
            Self::Init
            | Self::InitCall
            | Self::Launch
            | Self::Ring
            | Self::Cold
            | Self::Reach
            | Self::Enter
            | Self::Seat => "ms",
            Self::Memory => "KiB",
            Self::Helpers => "processes",
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Bandwidth | Self::Bidirectional)
    }

    /// Whether it is measured by size of message.
    pub fn by_bytes(self) -> bool {
        matches!(
            self,
            Self::Latency
                | Self::Bandwidth
                | Self::Bidirectional
                | Self::Allreduce
                | Self::Alltoall
        )
    }
}

/// One figure, measured again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What.
    pub measure: Measure,
    /// Of which way.
    pub way: String,
    /// With so many ranks.
    pub ranks: u32,
    /// Of messages of this size; 0 where there are none.
    pub bytes: u64,
    /// One for each round: sample N of all ways was taken in the same round.
    pub samples: Vec<f64>,
}

/// One point of a graph, and whom it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    /// Ranks, or bytes of a message.
    pub x: f64,
    /// The samples.
    pub samples: &'a [f64],
    /// Those of the baseline; empty where it was not measured.
    pub baseline: &'a [f64],
}

impl Data {
    /// Reads a stored run.
    ///
    /// # Errors
    /// A file that cannot be read, or is not one.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let step = || format!("read {}", image::Shown::new(path));
        let hint = "singularity bench --json FILE writes such a file";
        let text = std::fs::read(path).map_err(|error| Error::io(step(), &error))?;
        let data: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::new(step(), format!("not a stored run: {error}")).hint(hint))?;
        data.check()
            .map_err(|cause| Error::new(step(), cause).hint(hint))?;
        Ok(data)
    }

    fn check(&self) -> Result<(), String> {
        if self.form != FORM {
            return Err(format!("its form is {}, not {FORM}", self.form));
        }
        for series in &self.series {
            if self.way(&series.way).is_none() {
                return Err(format!("{:?} is no way of this run", series.way));
            }
            if !series.samples.iter().all(|sample| sample.is_finite()) {
                return Err(format!("a sample of {} is no number", series.way));
            }
        }
        for way in &self.ways {
            if self.way(&way.baseline).is_none() {
                return Err(format!("{:?} is no way of this run", way.baseline));
            }
        }
        Ok(())
    }

    /// Stores a run.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let step = || format!("write {}", image::Shown::new(path));
        let mut text = self.to_json();
        text.push('\n');
        if path.as_os_str() == "-" {
            return crate::say(&text);
        }
        std::fs::write(path, text).map_err(|error| Error::io(step(), &error))
    }

    /// As JSON: one series a line, so that two runs can be told apart by diff(1).
    pub fn to_json(&self) -> String {
        let mut whole = serde_json::to_value(self).unwrap_or_default();
        let lines: Vec<String> = self
            .series
            .iter()
            .filter_map(|series| serde_json::to_string(series).ok())
            .collect();
        whole["series"] = serde_json::Value::Array(Vec::new());
        let text = serde_json::to_string_pretty(&whole).unwrap_or_default();
        let all = format!("\"series\": [\n    {}\n  ]", lines.join(",\n    "));
        match lines.is_empty() {
            true => text,
            false => text.replacen("\"series\": []", &all, 1),
        }
    }

    /// A way by its name.
    pub fn way(&self, name: &str) -> Option<&Way> {
        self.ways.iter().find(|way| way.name == name)
    }

    /// Adds a sample.
    pub fn add(&mut self, measure: Measure, way: &str, ranks: u32, bytes: u64, sample: f64) {
        let found = self.series.iter_mut().find(|series| {
            (series.measure, series.ranks, series.bytes) == (measure, ranks, bytes)
                && series.way == way
        });
        match found {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series {
                measure,
                way: way.to_owned(),
                ranks,
                bytes,
                samples: vec![sample],
            }),
        }
    }

    /// The samples of one figure.
    pub fn samples(&self, measure: Measure, way: &str, ranks: u32, bytes: u64) -> &[f64] {
        self.series
            .iter()
            .find(|series| {
                (series.measure, series.ranks, series.bytes) == (measure, ranks, bytes)
                    && series.way == way
            })
            .map_or(&[], |series| &series.samples)
    }

    /// The points of a way's line, by bytes or by ranks, smallest first.
    pub fn points(&self, measure: Measure, way: &Way) -> Vec<Point<'_>> {
        let mut points = BTreeMap::new();
        for series in &self.series {
            if series.measure != measure || series.way != way.name {
                continue;
            }
            let x = match measure.by_bytes() {
                true => series.bytes,
                false => u64::from(series.ranks),
            };
            let base = self.baseline(measure, way);
            let baseline = self.samples(measure, base, series.ranks, series.bytes);
            points.insert(
                x,
                Point {
                    x: x as f64,
                    samples: &series.samples,
                    baseline,
                },
            );
        }
        points.into_values().collect()
    }

    /// Whom a way is compared with: a cold start with that from a directory.
    pub fn baseline<'a>(&'a self, measure: Measure, way: &'a Way) -> &'a str {
        let directory = |other: &&Way| {
            other.own && other.format == "directory" && other.baseline == way.baseline
        };
        match measure {
            Measure::Cold => self.ways.iter().find(directory).map_or("", |way| &way.name),
            _ => &way.baseline,
        }
    }

    /// The ranks that a measure was taken with, fewest first.
    pub fn ranks(&self, measure: Measure) -> Vec<u32> {
        let mut ranks: Vec<u32> = self
            .series
            .iter()
            .filter(|series| series.measure == measure)
            .map(|series| series.ranks)
            .collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// The ways that a measure was taken of.
    pub fn ways_of(&self, measure: Measure) -> Vec<&Way> {
        let measured = |way: &&Way| {
            self.series
                .iter()
                .any(|series| series.measure == measure && series.way == way.name)
        };
        self.ways.iter().filter(measured).collect()
    }

    /// The most rounds that a figure has.
    pub fn rounds(&self) -> usize {
        let counts = self.series.iter().map(|series| series.samples.len());
        counts.max().unwrap_or(0)
    }
}

impl Way {
    /// Whether it is the host itself.
    pub fn is_host(&self) -> bool {
        self.name == self.baseline
    }
}
