//! What can be typed: the one definition from which parsing, `--help`, the
//! manual pages and the shell completions come.
//!
//! Owns: syntax. What the words come to on this system is made of them in
//! [`crate::cmd::enter`].

pub mod bench;
pub mod entering;
pub mod images;
pub mod quick;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{FalseyValueParser, Resettable, TypedValueParser};
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueHint,
};

pub use entering::Entering;

const ABOUT: &str = "Run programs inside container images, as yourself, at native speed";

/// The variables that stand for the options of messages.
const QUIET: &str = "SINGULARITY_QUIET";
const VERBOSE: &str = "SINGULARITY_VERBOSE";
const DEBUG: &str = "SINGULARITY_DEBUG";

const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("SINGULARITY_TARGET"),
    ")"
);

const EXIT_STATUS: &str = "\
Exit status:
  The program's own, also its death by a signal: the command becomes the program.
  126  the command is in the image but cannot be executed
  127  the command is not in the image
  255  the image could not be entered
  2    wrong usage";

/// Run programs inside container images, as yourself, at native speed.
#[derive(Debug, Parser)]
#[command(
    name = "singularity", version, long_version = LONG_VERSION, about = ABOUT, after_help = EXIT_STATUS,
    subcommand_required = true, arg_required_else_help = true, max_term_width = 100,
    disable_help_subcommand = false
)]
pub struct Cli {
    /// Print errors only
    #[arg(
        short,
        long,
        global = true,
        display_order = 900,
        help_heading = "Messages",
        env = QUIET,
        hide_env_values = true,
        value_parser = FalseyValueParser::new()
    )]
    pub quiet: bool,
    /// Say more on standard error; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 901, help_heading = "Messages", env = VERBOSE, hide_env_values = true, value_parser = level)]
    pub verbose: u8,
    /// Say everything on standard error
    #[arg(short, long, global = true, display_order = 902, help_heading = "Messages", env = DEBUG, hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub debug: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// How often `-v` counts when a variable says it: a number, or any other word for
/// once.
fn level(text: &str) -> Result<u8, std::convert::Infallible> {
    Ok(text.parse().unwrap_or(u8::from(!text.is_empty())))
}

/// What to do.
#[derive(Debug)]
pub enum Verb {
    /// `singularity exec`
    Exec(Exec),
    /// `singularity run`
    Run(Run),
    /// `singularity shell`
    Shell(Shell),
    /// `singularity test`
    Test(Test),
    /// A verb that makes, changes or looks at images
    Images(ImageVerb),
    /// `singularity config`
    Config(Config),
    /// `singularity mpi`
    Mpi(Mpi),
    /// `singularity bench`
    Bench(Box<bench::Bench>),
    /// `singularity generate`
    Generate(Generate),
}

/// The verbs that the builder carries out.
#[derive(Debug)]
pub enum ImageVerb {
    /// `singularity build`
    Build(images::Build),
    /// `singularity create`
    Create(images::Create),
    /// `singularity bootstrap`
    Bootstrap(images::Bootstrap),
    /// `singularity pull`
    Pull(images::Pull),
    /// `singularity import`
    Import(images::Import),
    /// `singularity export`
    Export(images::Export),
    /// `singularity expand`
    Expand(images::Expand),
    /// `singularity copy`
    Copy(images::Copy),
    /// `singularity convert`
    Convert(images::Convert),
    /// `singularity inspect`
    Inspect(images::Inspect),
    /// `singularity cache`
    Cache(images::Cache),
}

impl ImageVerb {
    /// What is typed for each.
    pub const NAMES: [&'static str; 11] = [
        "build",
        "create",
        "bootstrap",
        "pull",
        "import",
        "export",
        "expand",
        "copy",
        "convert",
        "inspect",
        "cache",
    ];

    fn commands() -> [Command; 11] {
        [
            image_verb::<images::Build>("build"),
            image_verb::<images::Create>("create"),
            image_verb::<images::Bootstrap>("bootstrap"),
            image_verb::<images::Pull>("pull"),
            image_verb::<images::Import>("import"),
            image_verb::<images::Export>("export"),
            image_verb::<images::Expand>("expand"),
            image_verb::<images::Copy>("copy"),
            image_verb::<images::Convert>("convert"),
            image_verb::<images::Inspect>("inspect"),
            image_verb::<images::Cache>("cache"),
        ]
    }

    fn parsed(name: &str, options: &mut ArgMatches) -> Option<Result<Self, clap::Error>> {
        Some(match name {
            "build" => images::Build::from_arg_matches_mut(options).map(Self::Build),
            "create" => images::Create::from_arg_matches_mut(options).map(Self::Create),
            "bootstrap" => images::Bootstrap::from_arg_matches_mut(options).map(Self::Bootstrap),
            "pull" => images::Pull::from_arg_matches_mut(options).map(Self::Pull),
            "import" => images::Import::from_arg_matches_mut(options).map(Self::Import),
            "export" => images::Export::from_arg_matches_mut(options).map(Self::Export),
            "expand" => images::Expand::from_arg_matches_mut(options).map(Self::Expand),
            "copy" => images::Copy::from_arg_matches_mut(options).map(Self::Copy),
            "convert" => images::Convert::from_arg_matches_mut(options).map(Self::Convert),
            "inspect" => images::Inspect::from_arg_matches_mut(options).map(Self::Inspect),
            "cache" => images::Cache::from_arg_matches_mut(options).map(Self::Cache),
            _ => return None,
        })
    }
}

const PLAIN_EXIT_STATUS: &str = "\
Exit status:
  0    done
  255  it could not be done
  2    wrong usage";

fn image_verb<Options: Args>(name: &'static str) -> Command {
    plain_verb::<Options>(name, images::about(name))
}

/// A verb that does not become a program in an image.
fn plain_verb<Options: Args>(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .after_help(PLAIN_EXIT_STATUS)
        .defer(|command| without_empty_variables(Options::augment_args(command)))
}

/// A verb whose options are defined when it is the one typed. Every rank of a
/// job parses its command line, and most of that was defining other verbs.
fn verb<Options: Args>(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .after_help(EXIT_STATUS)
        .defer(|command| without_empty_variables(Options::augment_args(command)))
}

/// Takes a variable that is set to nothing, or a switch's to "no", as one that is
/// not set: what it stands for was not asked for, and conflicts with nothing.
fn without_empty_variables(mut command: Command) -> Command {
    let says_nothing = |option: &Arg| {
        let value = std::env::var_os(option.get_env()?)?;
        let is_no = matches!(option.get_action(), ArgAction::SetTrue)
            && FalseyValueParser::new()
                .parse_ref(&Command::default(), None, &value)
                .is_ok_and(|yes| !yes);
        (value.is_empty() || is_no).then(|| option.get_id().clone())
    };
    let unset: Vec<_> = command.get_arguments().filter_map(says_nothing).collect();
    for option in unset {
        command = command.mut_arg(option, |option| option.env(Resettable::Reset));
    }
    command
}

impl Subcommand for Verb {
    fn augment_subcommands(command: Command) -> Command {
        command
            .subcommands([
                verb::<Exec>("exec", "Run a command in an image"),
                verb::<Run>("run", "Run an image's runscript"),
                verb::<Shell>("shell", "Run a shell in an image"),
                verb::<Test>("test", "Run an image's own test"),
                plain_verb::<Mpi>("mpi", "Check how launchers and the MPI of an image meet"),
                plain_verb::<bench::Bench>(
                    "bench",
                    "Measure MPI programs on the host and in images, by turns, with graphs",
                ),
                plain_verb::<Config>("config", "Check or show the site's configuration"),
                verb::<Generate>("generate", "Write manual pages or shell completions").hide(true),
            ])
            .subcommands(ImageVerb::commands())
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        matches!(
            name,
            "exec" | "run" | "shell" | "test" | "mpi" | "bench" | "config" | "generate"
        ) || ImageVerb::NAMES.contains(&name)
    }
}

impl FromArgMatches for Verb {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, mut options) = matches.remove_subcommand().ok_or_else(missing)?;
        let options = &mut options;
        match name.as_str() {
            "exec" => Exec::from_arg_matches_mut(options).map(Self::Exec),
            "run" => Run::from_arg_matches_mut(options).map(Self::Run),
            "shell" => Shell::from_arg_matches_mut(options).map(Self::Shell),
            "test" => Test::from_arg_matches_mut(options).map(Self::Test),
            "mpi" => Mpi::from_arg_matches_mut(options).map(Self::Mpi),
            "config" => Config::from_arg_matches_mut(options).map(Self::Config),
            "bench" => bench::Bench::from_arg_matches_mut(options)
                .map(|options| Self::Bench(Box::new(options))),
            "generate" => Generate::from_arg_matches_mut(options).map(Self::Generate),
            name => ImageVerb::parsed(name, options)
                .ok_or_else(missing)?
                .map(Self::Images),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Run a command in an image
#[derive(Debug, Args)]
pub struct Exec {
    /// How the image is entered.
    #[command(flatten)]
    pub entering: Entering,
    /// The image, and the command to run in it with its arguments
    #[arg(help_heading = None, required = true, num_args = 2.., trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"], value_hint = ValueHint::FilePath)]
    pub words: Vec<OsString>,
}

/// Run an image's runscript
#[derive(Debug, Args)]
pub struct Run {
    /// How the image is entered.
    #[command(flatten)]
    pub entering: Entering,
    /// The image, and arguments for its runscript
    #[arg(help_heading = None, required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE"], value_hint = ValueHint::FilePath)]
    pub words: Vec<OsString>,
}

/// Run a shell in an image
#[derive(Debug, Args)]
pub struct Shell {
    /// How the image is entered.
    #[command(flatten)]
    pub entering: Entering,
    /// The shell's path in the image [default: /bin/bash, else /bin/sh]
    #[arg(
        short,
        long,
        value_name = "PATH",
        env = "SINGULARITY_SHELL",
        hide_env_values = true
    )]
    pub shell: Option<OsString>,
    /// The image, and arguments for the shell
    #[arg(help_heading = None, required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE"], value_hint = ValueHint::FilePath)]
    pub words: Vec<OsString>,
}

/// Run an image's own test
#[derive(Debug, Args)]
pub struct Test {
    /// How the image is entered.
    #[command(flatten)]
    pub entering: Entering,
    /// The image, and arguments for its test
    #[arg(help_heading = None, required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE"], value_hint = ValueHint::FilePath)]
    pub words: Vec<OsString>,
}

/// Check or show the site's configuration
#[derive(Debug, Args)]
pub struct Config {
    /// What to do with it.
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// What to do with the site's configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Say whether the file is right and trusted
    Check {
        /// Another file than the one that is obeyed
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Print every key with what holds
    Show {
        /// Another file than the one that is obeyed
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
}

/// Check how launchers and the MPI of an image meet
#[derive(Debug, Args)]
pub struct Mpi {
    /// What of it.
    #[command(subcommand)]
    pub verb: MpiVerb,
}

/// What can be done about MPI.
#[derive(Debug, Subcommand)]
pub enum MpiVerb {
    /// Say what the host offers, what the image holds, and how they will meet
    #[command(after_help = MPI_EXIT_STATUS)]
    Check(MpiCheck),
}

const MPI_EXIT_STATUS: &str = "\
Exit status:
  0    they meet: with this job's launcher, or outside of a job with one of the host's;
       without an image, the host has been described
  1    they do not meet, no launcher was found, or the program's MPI is not in the image
  255  it could not be found out: no image, or no program there that could be executed
  2    wrong usage";

/// What `mpi check` looks at
#[derive(Debug, Args)]
pub struct MpiCheck {
    /// Write one JSON object, for scripts
    #[arg(long)]
    pub json: bool,
    /// The image, and a program in it with its arguments
    #[arg(num_args = 0.., trailing_var_arg = true, value_names = ["IMAGE", "PROGRAM"], value_hint = ValueHint::FilePath)]
    pub words: Vec<OsString>,
}

/// Write manual pages or shell completions
#[derive(Debug, Args)]
pub struct Generate {
    /// man, completions or conf
    pub what: String,
    /// The directory to write to; made if it is missing
    pub directory: PathBuf,
}
