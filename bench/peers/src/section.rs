//! A part of the run: contenders of one kind, measured together.
//!
//! Owns: what was measured, as it goes into the report.

use serde::Serialize;

use crate::stage::{Stage, Who};
use bench::round::{Contender, Measured, Task};
use bench::statistics::{compare, summarise, Ratio, Summary};

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds, where the user says how many.
    pub rounds: Option<usize>,
    /// Just see that everything works.
    pub quick: bool,
}

impl Effort {
    /// The rounds of a section that takes `usual` of them, and those before.
    pub fn rounds(self, usual: usize) -> (usize, usize) {
        match (self.quick, self.rounds) {
            (true, rounds) => (rounds.unwrap_or(2), 0),
            (false, rounds) => (rounds.unwrap_or(usual), 2),
        }
    }
}

/// A promise about two contenders.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// Whose time.
    pub contender: String,
    /// Compared with whose.
    pub baseline: String,
    /// May be how many times as long.
    pub most: f64,
}

impl Target {
    /// `contender` takes at most `most` times as long as `baseline`.
    pub fn new(contender: &str, most: f64, baseline: &str) -> Self {
        Self {
            contender: contender.to_owned(),
            baseline: baseline.to_owned(),
            most,
        }
    }
}

/// Contenders and how long they took.
#[derive(Debug, Serialize)]
pub struct Section {
    /// What was measured.
    pub title: String,
    /// What times are compared with in the table.
    pub baseline: String,
    /// In the order they were given.
    pub results: Vec<Outcome>,
    /// What was promised.
    pub targets: Vec<Target>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// One contender's times.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The contender's name.
    pub name: String,
    /// Its words.
    pub words: Vec<String>,
    /// Microseconds, one for each round.
    pub microseconds: Vec<f64>,
    /// The same in short.
    pub summary: Option<Summary>,
    /// Compared with the baseline of the section.
    pub ratio: Option<Ratio>,
}

/// Collects contenders and measures them.
#[derive(Debug)]
pub struct Builder {
    title: String,
    who: Who,
    contenders: Vec<Contender>,
    background: Vec<Contender>,
    targets: Vec<Target>,
    missing: Vec<String>,
    /// Milliseconds between runs.
    pub pause: u64,
}

impl Builder {
    /// A section whose first contender is the baseline.
    pub fn new(title: &str, who: Who) -> Self {
        Self {
            title: title.to_owned(),
            who,
            contenders: Vec::new(),
            background: Vec::new(),
            targets: Vec::new(),
            missing: Vec::new(),
            pause: 5,
        }
    }

    /// Adds a command line made of two parts.
    pub fn add(&mut self, name: &str, before: &[String], after: &[String]) -> &mut Contender {
        self.contenders
            .push(Contender::new(name, before.iter().chain(after).cloned()));
        let last = self.contenders.len() - 1;
        &mut self.contenders[last]
    }

    /// The same for something that may not be there.
    pub fn add_if(
        &mut self,
        name: &str,
        before: Option<Vec<String>>,
        after: &[String],
        package: &str,
    ) -> Option<&mut Contender> {
        match before {
            Some(before) => Some(self.add(name, &before, after)),
            None => {
                self.missing.push(format!("{name}: install {package}"));
                None
            }
        }
    }

    /// Adds a process that runs meanwhile.
    pub fn meanwhile(&mut self, contender: Contender) {
        self.background.push(contender);
    }

    /// Adds a promise.
    pub fn target(&mut self, contender: &str, most: f64, baseline: &str) {
        self.targets.push(Target::new(contender, most, baseline));
    }

    /// Measures all that was added.
    ///
    /// # Errors
    /// The first contender that failed.
    pub fn run(
        self,
        stage: &Stage,
        effort: Effort,
        usual: usize,
    ) -> Result<(Section, Measured), String> {
        let (rounds, warm_up) = effort.rounds(usual);
        eprintln!("bench: {} ({rounds} rounds)", self.title);
        let task = Task {
            rounds,
            warm_up,
            pause: self.pause,
            background: self.background,
            contenders: self.contenders,
        };
        let measured = stage.measure(self.who, &task)?;
        let base = measured.times.first().cloned().unwrap_or_default();
        let results = task
            .contenders
            .iter()
            .zip(&measured.times)
            .map(|(contender, times)| Outcome {
                name: contender.name.clone(),
                words: contender.words.clone(),
                microseconds: times.clone(),
                summary: summarise(times),
                ratio: compare(times, &base),
            })
            .collect();
        let section = Section {
            title: self.title,
            baseline: task
                .contenders
                .first()
                .map(|contender| contender.name.clone())
                .unwrap_or_default(),
            results,
            targets: self.targets,
            missing: self.missing,
        };
        Ok((section, measured))
    }
}

impl Section {
    /// How a promise was kept; `None` if one of the two was not measured.
    pub fn judge(&self, target: &Target) -> Option<Ratio> {
        let times = |name: &str| {
            let outcome = self.results.iter().find(|outcome| outcome.name == name)?;
            Some(&outcome.microseconds)
        };
        compare(times(&target.contender)?, times(&target.baseline)?)
    }
}
