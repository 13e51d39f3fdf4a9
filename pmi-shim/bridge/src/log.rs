//! What the bridge says of its work, on the first rank's standard error.
//!
//! Owns: how much is said, and its form. Never: says why a job ends; that is said
//! whether anything of this is wanted or not.
//!
//! The launching path hands its own level on in [`VARIABLE`], which is also the one by
//! which a user sets that. Without it there is no subscriber, and a message costs a
//! comparison.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How often `-v` was said.
const VARIABLE: &str = "SINGULARITY_VERBOSE";

/// Everything is said where this is set (`--debug`).
const ALL: &str = "SINGULARITY_DEBUG";

/// Starts the log, if one is wanted. `role` is said in each line.
pub fn start(role: &'static str) {
    let value = |name| std::env::var(name).unwrap_or_default();
    let Some(level) = level(&value(VARIABLE), &value(ALL)) else {
        return;
    };
    let log = Log {
        level,
        role,
        begun: Instant::now(),
    };
    // Another subscriber cannot be there: this is the only place that sets one.
    let _ = tracing::subscriber::set_global_default(log);
}

/// What is wanted, by the two variables as the command reads them.
fn level(verbose: &str, debug: &str) -> Option<Level> {
    let no = ["", "0", "n", "no", "f", "false", "off"];
    if !no.contains(&debug.to_ascii_lowercase().as_str()) {
        return Some(Level::TRACE);
    }
    match verbose.parse().unwrap_or(u8::from(!verbose.is_empty())) {
        0 => None,
        1 => Some(Level::INFO),
        2 => Some(Level::DEBUG),
        _ => Some(Level::TRACE),
    }
}

struct Log {
    level: Level,
    role: &'static str,
    begun: Instant,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    // Spans are not used here; one has to have some number.
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let milliseconds = self.begun.elapsed().as_secs_f64() * 1e3;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let (pid, role) = (std::process::id(), self.role);
        let Text { message, fields } = text;
        // In one write, so that lines of several nodes do not mix.
        let line = format!(
            "singularity: {level}: bridge {role} {pid}, {milliseconds:.1} ms: {message}{fields}\n"
        );
        // With standard error gone there is nobody to tell.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name} {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_commands() {
        let cases = [
            ("", "", None),
            ("0", "no", None),
            ("1", "", Some(Level::INFO)),
            ("yes", "0", Some(Level::INFO)),
            ("2", "", Some(Level::DEBUG)),
            ("3", "", Some(Level::TRACE)),
            ("", "1", Some(Level::TRACE)),
        ];
        for (verbose, debug, expected) in cases {
            assert_eq!(level(verbose, debug), expected, "{verbose:?} {debug:?}");
        }
    }
}
