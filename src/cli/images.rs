//! What can be typed to make, change, move and look at images.
//!
//! Owns: syntax. What is done is the `builder`'s, a program of its own that the
//! command becomes (see [`crate::cmd::builder`]); it parses by this definition too.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueHint};

/// What a verb does, in a line of the list of verbs.
pub(super) fn about(verb: &str) -> &'static str {
    match verb {
        "build" => "Make an image from a definition file, a directory, another image, an archive or a registry",
        "create" => "Make an empty image that can be changed",
        "bootstrap" => "Install a definition file's distribution into an image",
        "pull" => "Fetch an image from a registry",
        "import" => "Put the files of an archive into an image",
        "export" => "Write an image's files as a tar archive",
        "expand" => "Make an ext image larger",
        "copy" => "Copy files of the host into an image",
        "convert" => "Write an image in another format",
        "inspect" => "Say what an image is and what it holds",
        _ => "List or remove what was fetched from registries",
    }
}

/// Make an image from a definition file, a directory, another image, an archive or a registry
#[derive(Debug, Args)]
pub struct Build {
    /// How the image is written.
    #[command(flatten)]
    pub writing: Writing,
    /// Make a directory instead of a file
    #[arg(long, conflicts_with = "format")]
    pub sandbox: bool,
    /// Leave out the definition's test
    #[arg(short = 'T', long, env = "SINGULARITY_NOTEST", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub notest: bool,
    /// Give a value to a build argument of the definition; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<OsString>,
    /// Take values of build arguments from FILE, one NAME=VALUE a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub build_arg_file: Option<PathBuf>,
    /// Reaching registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The image to make
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub image: PathBuf,
    /// What to make it from: a definition file, a directory, an image, a tar archive (- for standard input), oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://HOST/NAME:TAG
    #[arg(help_heading = None, value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub source: OsString,
}

/// How an image is written: the options of every verb that makes one.
#[derive(Debug, Args)]
#[command(next_help_heading = "How the image is written")]
pub struct Writing {
    /// squashfs, erofs, ext4, ext3, sif or dir [default: by the image's name, else squashfs]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Replace an image that is there
    #[arg(short = 'F', long)]
    pub force: bool,
    /// The compressor, with its level: lz4, lz4hc, zstd, zstd:19, gzip, xz, none [default: lz4; of EROFS lz4hc]
    #[arg(long, value_name = "NAME[:LEVEL]")]
    pub compression: Option<String>,
    /// Work in DIR, which should be on a local disk [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR", env = "SINGULARITY_TMPDIR", hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub tmpdir: Option<PathBuf>,
}

/// Reaching registries, and what was fetched from them before.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub struct Registry {
    /// Speak plain HTTP to registries (loopback addresses get it by themselves)
    #[arg(long, env = "SINGULARITY_NOHTTPS", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub no_https: bool,
    /// The architecture to take where there are several, as in arm64 [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Log in as USER; the password is read from the variable SINGULARITY_DOCKER_PASSWORD, else asked for
    #[arg(
        long,
        value_name = "USER",
        env = "SINGULARITY_DOCKER_USERNAME",
        hide_env_values = true
    )]
    pub docker_username: Option<String>,
    /// Neither use nor fill the cache
    #[arg(long, env = "SINGULARITY_DISABLE_CACHE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub disable_cache: bool,
}

/// Make an empty image that can be changed: ext4 or ext3 in a sparse file
#[derive(Debug, Args)]
pub struct Create {
    /// Its size
    #[arg(short, long, value_name = "MiB", default_value_t = 768)]
    pub size: u64,
    /// ext4 or ext3 [default: by the image's name, else ext4]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Replace an image that is there
    #[arg(short = 'F', long)]
    pub force: bool,
    /// The image to make
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
}

/// Install a definition file's distribution into an image that can be changed
#[derive(Debug, Args)]
pub struct Bootstrap {
    /// Leave out the definition's test
    #[arg(short = 'T', long, env = "SINGULARITY_NOTEST", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub notest: bool,
    /// Give a value to a build argument of the definition; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<OsString>,
    /// Reaching registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The image, as `create` made it, or a directory
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub image: PathBuf,
    /// The definition file
    #[arg(help_heading = None, value_name = "DEFINITION", value_hint = ValueHint::FilePath)]
    pub definition: PathBuf,
}

/// Fetch an image from a registry into the current directory
#[derive(Debug, Args)]
pub struct Pull {
    /// How the image is written.
    #[command(flatten)]
    pub writing: Writing,
    /// Reaching registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The image to make, where it is not to be NAME_TAG with the ending of its format, and where it comes from, as in docker://HOST/NAME:TAG
    #[arg(help_heading = None, required = true, num_args = 1..=2, value_names = ["IMAGE", "URI"])]
    pub words: Vec<OsString>,
}

/// Put the files of an archive or another source into an image that can be changed
#[derive(Debug, Args)]
pub struct Import {
    /// Reaching registries.
    #[command(flatten)]
    pub registry: Registry,
    /// The image
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub image: PathBuf,
    /// A tar archive (- for standard input, the default), or another source as in `build`
    #[arg(help_heading = None, value_name = "SOURCE", value_hint = ValueHint::AnyPath, default_value = "-")]
    pub source: OsString,
}

/// Write an image's files as a tar archive
#[derive(Debug, Args)]
pub struct Export {
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// The image
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub image: PathBuf,
}

/// Make an ext image larger
#[derive(Debug, Args)]
pub struct Expand {
    /// By how much
    #[arg(short, long, value_name = "MiB", default_value_t = 768)]
    pub size: u64,
    /// The image
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
}

/// Copy files of the host into an image that can be changed
#[derive(Debug, Args)]
pub struct Copy {
    /// The image, the files, and the place in the image
    #[arg(help_heading = None, required = true, num_args = 3.., value_names = ["IMAGE", "FILE", "DEST"], value_hint = ValueHint::AnyPath)]
    pub words: Vec<OsString>,
}

/// Write an image in another format
#[derive(Debug, Args)]
pub struct Convert {
    /// How the image is written.
    #[command(flatten)]
    pub writing: Writing,
    /// The image that is there
    #[arg(help_heading = None, value_name = "FROM", value_hint = ValueHint::AnyPath)]
    pub from: PathBuf,
    /// The image to make
    #[arg(help_heading = None, value_name = "TO", value_hint = ValueHint::AnyPath)]
    pub to: PathBuf,
}

/// Say what an image is and what it holds
#[derive(Debug, Args)]
#[command(next_help_heading = "What to show")]
pub struct Inspect {
    /// Everything, for programs
    #[arg(short, long)]
    pub json: bool,
    /// The labels
    #[arg(short, long)]
    pub labels: bool,
    /// The runscript
    #[arg(short, long)]
    pub runscript: bool,
    /// The test
    #[arg(short, long)]
    pub test: bool,
    /// The environment scripts
    #[arg(short, long)]
    pub environment: bool,
    /// The definition file it was made from
    #[arg(short = 'D', long)]
    pub deffile: bool,
    /// The help text
    #[arg(short = 'H', long)]
    pub helpfile: bool,
    /// The apps in it
    #[arg(long)]
    pub list_apps: bool,
    /// The MPI and PMI libraries in it
    #[arg(long)]
    pub mpi: bool,
    /// The image
    #[arg(help_heading = None, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub image: PathBuf,
}

/// What was fetched from registries and is kept
#[derive(Debug, Args)]
pub struct Cache {
    /// What to do with it.
    #[command(subcommand)]
    pub verb: CacheVerb,
}

/// What to do with the cache.
#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// List what is kept
    List,
    /// Remove what is kept and not in use
    Clean {
        /// Remove only what was not used for so many days
        #[arg(long, value_name = "DAYS")]
        days: Option<u64>,
        /// Say what would be removed, and remove nothing
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}
