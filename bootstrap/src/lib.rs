//! How images come to be: definition files, the distributions' own tools,
//! archives, registries, and packing into every format.
//!
//! Owns: everything between a source and a finished image. Never: is linked into
//! the launching path, the setuid starter or the Slurm plugin.

#![deny(unsafe_code)]

pub mod agents;
pub mod build;
pub mod confined;
pub mod definition;
mod failure;
pub mod files;
pub mod log;
pub mod metadata;
pub mod mounted;
pub mod oci;
pub mod pack;
pub mod patch;
pub mod place;
pub mod progress;
pub mod remote;
pub mod source;
pub mod space;
pub mod tool;
pub mod tree;
pub mod unpack;
pub mod verbs;
pub mod workdir;

use std::ffi::OsString;

use command::cli::{ImageVerb, Verb};
use launcher::Error;

/// Carries out a command line of one of the verbs on images, the program's name
/// first, and returns the exit status.
pub fn run(words: &[OsString]) -> u8 {
    space::become_it_if_asked(words);
    let cli = match command::parse(words) {
        Ok(cli) => cli,
        Err(error) => return command::usage(&error),
    };
    command::log::start(&cli);
    command::finish(match cli.verb {
        Verb::Images(verb) => carry_out(verb),
        _ => Err(Error::new("builder", "not a verb on images")
            .hint("run singularity, which finds the builder by itself")),
    })
}

fn carry_out(verb: ImageVerb) -> Result<(), Error> {
    match verb {
        ImageVerb::Build(options) => build::build(&options),
        ImageVerb::Bootstrap(options) => build::bootstrap(&options),
        ImageVerb::Create(options) => verbs::create::create(&options),
        ImageVerb::Import(options) => verbs::import::import(&options),
        ImageVerb::Export(options) => verbs::export::export(&options),
        ImageVerb::Expand(options) => verbs::expand::expand(&options),
        ImageVerb::Copy(options) => verbs::copy::copy(&options),
        ImageVerb::Convert(options) => verbs::convert::convert(&options),
        ImageVerb::Pull(options) => verbs::pull::pull(&options),
        ImageVerb::Cache(options) => verbs::cache::cache(&options),
        ImageVerb::Inspect(options) => verbs::inspect::inspect(&options),
    }
}
