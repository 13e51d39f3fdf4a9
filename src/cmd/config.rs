//! `singularity config`: whether the site's configuration is right, and what holds.

use std::path::{Path, PathBuf};

use image::Shown;
use launcher::site::{self, table, Site};
use launcher::Error;

use crate::cli::{Config, ConfigVerb};
use crate::output;

/// Checks or shows the configuration.
///
/// # Errors
/// A file that is missing though named, not trusted, or wrong.
pub fn config(options: Config) -> Result<(), Error> {
    match options.verb {
        ConfigVerb::Check { file } => {
            read(file.as_deref())?;
            // A file at another place would be thought obeyed.
            if file.is_none() && !Path::new(site::PATH).exists() {
                tracing::warn!("there is no {}: the defaults hold", site::PATH);
            }
            Ok(())
        }
        ConfigVerb::Show { file } => output::print(&table::shown(&read(file.as_deref())?)),
    }
}

/// The file that is obeyed, or another: one that somebody is writing need not be
/// root's yet, but must not be open to everybody.
fn read(file: Option<&Path>) -> Result<Site, Error> {
    let Some(file) = file else {
        return site::load();
    };
    let missing =
        || Error::new(format!("read {}", Shown::new(file)), "no such file").hint("name a file");
    let absolute = std::path::absolute(file).unwrap_or_else(|_| PathBuf::from(file));
    Site::read(&absolute)?.ok_or_else(missing)
}
