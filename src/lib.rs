//! The `singularity` command: parse, set up the log, call one verb, print one
//! error, exit.
//!
//! Owns: the command line and what users read. Never: mounts, sets ids, or knows
//! formats; that is the [`launcher`]'s and the [`image`] crate's.

#![forbid(unsafe_code)]

pub mod cli;
pub mod cmd;
pub mod env_file;
pub mod json;
pub mod libexec;
pub mod log;
pub mod manual;
pub mod output;

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, Verb};

/// Carries out a command line, the program's name first, and returns the exit
/// status; does not return where the process becomes a program in an image.
pub fn run(mut words: Vec<OsString>) -> u8 {
    launcher::fds::hold_standard_descriptors();
    // An executable image starts with `#!/usr/bin/env run-singularity`.
    if words
        .first()
        .is_some_and(|name| Path::new(name).ends_with("run-singularity"))
    {
        words.splice(0..1, ["singularity".into(), "run".into()]);
    }
    let environment: Vec<_> = std::env::vars_os().collect();
    let quickly = cli::quick::parse(&words, &environment);
    let cli = match quickly.map_or_else(|| parse(&words), Ok) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log::start(&cli);
    let host = || launcher::Host::gather(environment);
    finish(match cli.verb {
        Verb::Exec(options) => cmd::exec::exec(options, host()),
        Verb::Run(options) => cmd::run::run(options, host()),
        Verb::Shell(options) => cmd::shell::shell(options, host()),
        Verb::Test(options) => cmd::test::test(options, host()),
        Verb::Mpi(options) => return cmd::mpi::mpi(options, host()),
        Verb::Config(options) => cmd::config::config(options),
        Verb::Generate(what) => cmd::generate::generate(what),
        Verb::Images(_) => cmd::builder::become_program("builder", &words),
        Verb::Bench(_) => cmd::builder::become_program("bench", &words),
    })
}

/// The exit status that a result stands for; a failure is told.
pub fn finish(result: Result<(), launcher::Error>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            log::error(&error);
            error.exit_status()
        }
    }
}

/// Parses a command line, the program's name first.
///
/// # Errors
/// What is wrong with it, or the help that it asks for: for [`usage`].
pub fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let mut definition = Cli::command();
    let parsed = definition
        .try_get_matches_from_mut(words)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| error.format(&mut definition));
    // The process is about to become another; taking this apart would cost it
    // as much as parsing did.
    std::mem::forget(definition);
    parsed
}

/// What to say of an `exec` that names an image and no command.
fn without_command(error: &clap::Error) -> Option<&'static str> {
    let argument = error.get(clap::error::ContextKind::InvalidArg)?.to_string();
    argument.starts_with("<IMAGE> <COMMAND>").then_some(
        "singularity exec IMAGE COMMAND [ARGUMENT…]; or singularity run IMAGE for what the \
         image was made for, singularity shell IMAGE for a shell",
    )
}

/// Help and version go to standard output; a mistake gets one line and a hint.
pub fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => 0,
            // A reader that has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Err(error) => finish(Err(launcher::Error::io("write to standard output", &error))),
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return 2;
    }
    if error.kind() == clap::error::ErrorKind::TooFewValues {
        if let Some(hint) = without_command(error) {
            eprintln!("singularity: exec: the command to run is missing\nhint: {hint}");
            return 2;
        }
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // What Rust says of numbers speaks of digits and strings.
    let first = &first.replace(": invalid digit found in string", ": not a whole number");
    // What clap puts on lines of their own belongs to the sentence: what is missing.
    let more: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(|line| line.strip_prefix("tip: ").unwrap_or(line))
        // A word for the program in the image stands after the image.
        .filter(|line| !line.contains(" as a value, use "))
        .collect();
    let separator = if more.is_empty() || first.ends_with(':') {
        " "
    } else {
        "; "
    };
    eprintln!(
        "singularity: {}",
        format!("{first}{separator}{}", more.join("; ")).trim_end()
    );
    let verb = std::env::args_os()
        .skip(1)
        .filter_map(|word| word.into_string().ok())
        .find(|word| !word.starts_with('-'))
        .filter(|word| <Verb as clap::Subcommand>::has_subcommand(word));
    match verb {
        Some(verb) => eprintln!("hint: singularity help {verb} lists the options"),
        None => eprintln!("hint: singularity help lists the verbs and options"),
    }
    2
}
