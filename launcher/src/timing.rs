//! Where the time of a start goes, for `--timing`.

use std::time::{Duration, Instant};

/// A stopwatch over the phases of set-up; does nothing unless asked for.
#[derive(Debug)]
pub struct Timing(Option<Running>);

#[derive(Debug)]
struct Running {
    begun: Instant,
    last: Instant,
    phases: Vec<(&'static str, Duration)>,
}

impl Timing {
    /// Starts the watch, if `wanted`.
    pub fn start(wanted: bool) -> Self {
        let now = Instant::now();
        Self(wanted.then(|| Running {
            begun: now,
            last: now,
            phases: Vec::new(),
        }))
    }

    /// Ends a phase.
    pub fn phase(&mut self, name: &'static str) {
        if let Some(running) = &mut self.0 {
            let now = Instant::now();
            running.phases.push((name, now - running.last));
            running.last = now;
        }
    }

    /// A line for each phase, in microseconds, and the sum; empty unless asked for.
    pub fn report(&self) -> Vec<String> {
        let Some(running) = &self.0 else {
            return Vec::new();
        };
        let line = |name: &str, time: Duration| {
            format!(
                "singularity: timing: {name:<12} {:>9.1} us",
                time.as_secs_f64() * 1e6
            )
        };
        let mut lines: Vec<_> = running
            .phases
            .iter()
            .map(|(name, time)| line(name, *time))
            .collect();
        lines.push(line("total", running.last - running.begun));
        lines
    }
}
