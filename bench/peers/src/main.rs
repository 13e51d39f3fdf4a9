//! Measures what entering an image costs, beside the host and other container
//! programs, in one run. `bench/peers/README.md` says what is measured and how.
//!
//! Every contender of a section runs once a round, in another order each round,
//! so what disturbs the machine disturbs all of them alike.

#![forbid(unsafe_code)]

mod figures;
mod latency;
mod machine;
mod report;
mod ring;
mod section;
mod stage;
mod startup;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::report::Report;
use crate::section::Effort;
use crate::stage::Stage;

/// Measure what entering an image costs, beside the host and other container
/// programs, in one run.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Options {
    #[command(subcommand)]
    internal: Option<Internal>,
    /// Only see that everything works; the times mean nothing
    #[arg(long)]
    quick: bool,
    /// Rounds of each section, instead of its usual number
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure only this; may be given several times
    #[arg(long, value_name = "NAME")]
    section: Vec<Part>,
    /// Write everything, all samples too, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Internal {
    /// What the measuring process does
    #[command(hide = true)]
    Measure,
    /// Draw the graphs of docs/figures and fill in the table of docs/PERFORMANCE.md
    Figures(figures::Options),
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Start a program that does nothing
    Startup,
    /// Start and end an MPI job of four ranks
    Ring,
    /// Messages between two ranks
    Latency,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.internal {
        Some(Internal::Measure) => bench::round::serve(),
        Some(Internal::Figures(options)) => figures::draw(options),
        None => measure(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), String> {
    let wanted = |part| options.section.is_empty() || options.section.contains(&part);
    let effort = Effort {
        rounds: options.rounds,
        quick: options.quick,
    };
    let stage = Stage::set()?;
    let mut report = Report {
        machine: machine::describe(&stage),
        quick: options.quick,
        sections: Vec::new(),
        messages: None,
    };
    if wanted(Part::Startup) {
        report.sections.extend(startup::measure(&stage, effort)?);
    }
    if wanted(Part::Ring) {
        report.sections.extend(ring::measure(&stage, effort)?);
    }
    if wanted(Part::Latency) {
        report.messages = Some(latency::measure(&stage, effort)?);
    }
    print!("{}", report.table());
    if let Some(path) = &options.json {
        let failed = |error: String| format!("write {}: {error}", path.display());
        let file = std::fs::File::create(path).map_err(|error| failed(error.to_string()))?;
        serde_json::to_writer_pretty(file, &report).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}
