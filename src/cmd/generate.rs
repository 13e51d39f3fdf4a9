//! `singularity generate`: manual pages, completions and the annotated
//! configuration, for `make install`.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use image::Shown;
use launcher::site::table;
use launcher::Error;

use crate::cli::{Cli, Generate};
use crate::manual;

/// Writes what was asked for into the directory.
///
/// # Errors
/// A directory that cannot be written.
pub fn generate(what: Generate) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        Error::io(format!("write to {}", Shown::new(&what.directory)), &error)
            .hint("name a directory that you may write to")
    };
    fs::create_dir_all(&what.directory).map_err(failed)?;
    match what.what.as_str() {
        "man" => manual::write(&what.directory).map_err(failed),
        "completions" => completions(&what.directory).map_err(failed),
        "conf" => {
            fs::write(what.directory.join("singularity.conf"), table::example()).map_err(failed)
        }
        other => {
            Err(Error::new(format!("generate {other}"), "unknown").hint("man, completions or conf"))
        }
    }
}

fn completions(directory: &Path) -> std::io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "singularity", directory)?;
    }
    Ok(())
}
