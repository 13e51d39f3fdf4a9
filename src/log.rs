//! Messages on standard error.
//!
//! Owns: their form and how many there are. Never: the program's output; nothing
//! of ours goes to standard output once a command runs.

use std::fmt;
use std::io::Write as _;

use launcher::Error;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::Cli;

/// Starts the log at the level the options ask for: warnings by default.
pub fn start(cli: &Cli) {
    let level = match (cli.quiet, cli.debug, cli.verbose) {
        (_, true, _) => Level::TRACE,
        (true, ..) => Level::ERROR,
        (.., 0) => Level::WARN,
        (.., 1) => Level::INFO,
        (.., 2) => Level::DEBUG,
        _ => Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .event_format(OneLine)
        .finish();
    // Another subscriber cannot be there: this is the only place that sets one.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// How much is said: 0 for errors only, to 4 for everything.
pub fn verbosity() -> u8 {
    match LevelFilter::current().into_level() {
        None | Some(Level::ERROR) => 0,
        Some(Level::WARN) => 1,
        Some(Level::INFO) => 2,
        Some(Level::DEBUG) => 3,
        Some(Level::TRACE) => 4,
    }
}

/// `singularity: level: message`
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(writer, "singularity: {level}: ")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Prints a failure in one line, and what to do about it in another, in one
/// write: 64 ranks that fail at once stay readable.
pub fn error(error: &Error) {
    // With standard error gone there is nobody to tell.
    let _ = std::io::stderr().write_all(error.message().as_bytes());
}
