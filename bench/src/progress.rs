//! What is shown while it runs, on standard error: on a terminal a table that is
//! drawn anew, with a line for every way, elsewhere a line now and then.
//!
//! Owns: the terminal. Never: standard output, which is the result's.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::data::{Data, Measure, Way};
use crate::screen;
use crate::statistics::summarise;

/// How often a line is written where there is no terminal.
const NOW_AND_THEN: Duration = Duration::from_secs(15);

/// Shows how far it is.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    quiet: bool,
    /// Lines drawn the last time.
    drawn: usize,
    last: Option<Instant>,
}

impl Progress {
    /// For standard error as it is.
    pub fn new(quiet: bool) -> Self {
        Self {
            terminal: screen::can_be_drawn_on(),
            quiet,
            drawn: 0,
            last: None,
        }
    }

    /// A step before anything is measured.
    pub fn step(&self, what: &str) {
        if !self.quiet {
            eprintln!("bench: {what}");
        }
    }

    /// A way that failed, and what becomes of it.
    pub fn failed(&mut self, way: &str, why: &str, then: &str) {
        self.clear();
        eprintln!("bench: {way} failed and {then}: {why}");
    }

    /// A round begins.
    pub fn show(
        &mut self,
        data: &Data,
        what: String,
        round: usize,
        gone: Duration,
        left: Option<Duration>,
    ) {
        if self.quiet {
            return;
        }
        if self.terminal {
            // It may have become another since the last round.
            let (rows, columns) = screen::size();
            let mut lines = vec![headline(&what, round, (gone, left), columns)];
            lines.extend(table(data, columns));
            self.draw(&lines, rows, columns);
        } else if self.last.is_none_or(|last| last.elapsed() > NOW_AND_THEN) {
            let line = headline(&what, round, (gone, left), usize::MAX);
            eprintln!("bench: {}", screen::in_letters_of_the_locale(&line));
            self.last = Some(Instant::now());
        }
    }

    /// No line in the last column, which some terminals leave by themselves, and none
    /// above the first row, which could not be cleared any more.
    fn draw(&mut self, lines: &[String], rows: usize, columns: usize) {
        self.clear();
        let lines = &lines[..lines.len().min(rows - 1)];
        let text: String = lines
            .iter()
            .map(|line| line.chars().take(columns - 1).collect::<String>() + "\n")
            .collect();
        let text = screen::in_letters_of_the_locale(&text);
        // With standard error gone there is nobody to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.drawn = lines.len();
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            // Up, and clear to the end of the screen.
            eprint!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    /// All is measured.
    pub fn end(&mut self) {
        self.clear();
    }
}

/// How far it is, what takes longest to say last: a narrow terminal shows its beginning.
fn headline(
    what: &str,
    round: usize,
    (gone, left): (Duration, Option<Duration>),
    width: usize,
) -> String {
    let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let Some(left) = left else {
        return format!("{} gone; {what}, round {round}", clock(gone));
    };
    let all = (gone + left).as_secs_f64().max(1e-9);
    let done = gone.as_secs_f64() / all;
    let told = format!(
        "{:>3.0} %, {} gone, {} left; {what}, round {round}",
        done * 100.0,
        clock(gone),
        clock(left)
    );
    if width < 80 {
        return told.trim_start().to_owned();
    }
    let full = (done * 20.0).round() as usize;
    format!(
        "[{}{}] {told}",
        "█".repeat(full.min(20)),
        "░".repeat(20 - full.min(20)),
    )
}

/// What the table shows of a measure.
const SHOWN: [(Measure, &str); 10] = [
    (Measure::Latency, "latency"),
    (Measure::Bandwidth, "bandwidth"),
    (Measure::Bidirectional, "both ways"),
    (Measure::Allreduce, "allreduce"),
    (Measure::Alltoall, "alltoall"),
    (Measure::Enter, "start"),
    (Measure::Init, "MPI_Init"),
    (Measure::Launch, "launch"),
    (Measure::Ring, "ring"),
    (Measure::Memory, "memory"),
];

const CELL: usize = 17;

/// A line for each way, in as many tables below one another as the width asks
/// for: how a measure goes with size or ranks, and its ratio to the host's.
fn table(data: &Data, width: usize) -> Vec<String> {
    let name = data
        .ways
        .iter()
        .map(|way| way.name.chars().count())
        .max()
        .unwrap_or(4);
    // Beside the name there is room for one measure at least.
    let name = name.clamp(4, width.saturating_sub(CELL + 2).clamp(4, 28));
    let measured: Vec<_> = SHOWN
        .iter()
        .filter(|(measure, _)| !data.ways_of(*measure).is_empty())
        .collect();
    let columns = (width.saturating_sub(name + 1) / CELL).max(1);
    let mut lines = Vec::new();
    for band in measured.chunks(columns) {
        let mut head = format!("{:name$}", "");
        for (_, title) in band {
            head += &format!(" {title:<w$}", w = CELL - 1);
        }
        lines.push(head);
        for way in &data.ways {
            let mut line: String = format!("{:<name$}", way.name).chars().take(name).collect();
            for (measure, _) in band {
                line += &format!(" {}", cell(data, *measure, way));
            }
            lines.push(line);
        }
    }
    lines
}

fn cell(data: &Data, measure: Measure, way: &Way) -> String {
    let points = data.points(measure, way);
    let medians: Vec<f64> = points
        .iter()
        .filter_map(|point| Some(summarise(point.samples)?.median))
        .collect();
    let ratios: Vec<f64> = points
        .iter()
        .filter_map(|point| {
            let rounds = point.samples.len().min(point.baseline.len());
            let base = summarise(&point.baseline[..rounds])?.median;
            Some(summarise(&point.samples[..rounds])?.median / base)
        })
        .filter(|ratio| ratio.is_finite())
        .collect();
    let figure = match (way.is_host(), summarise(&ratios), medians.last()) {
        (true, _, Some(last)) => format!("{:>7}", brief(*last)),
        (false, Some(ratio), _) => format!("×{:>6.2}", ratio.median),
        _ => format!("{:7}", ""),
    };
    format!("{:<8} {figure}", sparkline(&medians, 8))
}

/// A number in few letters.
pub fn brief(number: f64) -> String {
    match number.abs() {
        n if n >= 1e6 => format!("{:.1}M", number / 1e6),
        n if n >= 1e4 => format!("{:.1}k", number / 1e3),
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Bars of eighths, on a logarithmic scale, of at most so many points.
pub fn sparkline(values: &[f64], most: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let step = values.len().div_ceil(most.max(1)).max(1);
    let logs: Vec<f64> = values
        .iter()
        .step_by(step)
        .map(|value| value.max(f64::MIN_POSITIVE).ln())
        .collect();
    let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter()
        .map(|log| {
            // What hardly differs is drawn level.
            let part = (log - least) / (most - least).max(0.1);
            BARS[((part * 7.0).round() as usize).min(7)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_up_with_its_values() {
        assert_eq!(sparkline(&[1.0, 10.0, 100.0], 8), "▁▅█");
        assert_eq!(sparkline(&[5.0, 5.0], 8), "▁▁");
        assert_eq!(sparkline(&[], 8), "");
        assert_eq!(sparkline(&[1.0; 23], 8).chars().count(), 8);
    }

    #[test]
    fn the_headline_says_how_far_it_is() {
        let times = (Duration::from_secs(30), Some(Duration::from_secs(90)));
        let line = headline("x", 3, times, 100);
        assert_eq!(
            line,
            "[█████░░░░░░░░░░░░░░░]  25 %, 0:30 gone, 1:30 left; x, round 3"
        );
        let line = headline("x", 3, times, 40);
        assert_eq!(line, "25 %, 0:30 gone, 1:30 left; x, round 3");
        let line = headline("x", 1, (Duration::from_secs(61), None), 100);
        assert_eq!(line, "1:01 gone; x, round 1");
    }

    #[test]
    fn numbers_are_brief() {
        let all = [0.391, 12.34, 523.4, 12345.0, 2.5e6].map(brief);
        assert_eq!(all, ["0.39", "12.3", "523", "12.3k", "2.5M"]);
    }
}
