//! `singularity cache`: what was fetched from registries and is kept.

use command::cli::images::{Cache, CacheVerb};
use image::Shown;
use launcher::Error;

use crate::oci::cache::contents::{self, Contents};

/// Lists it, or makes room.
///
/// # Errors
/// The directory cannot be read, or something in it not removed.
pub fn cache(options: &Cache) -> Result<(), Error> {
    let contents = Contents::read()?;
    match &options.verb {
        CacheVerb::List => list(&contents),
        CacheVerb::Clean { days, dry_run } => {
            let done = contents.clean(*days, *dry_run)?;
            let verb = if *dry_run { "would remove" } else { "removed" };
            print(&format!(
                "{verb} {} files with {}\n",
                done.removed,
                contents::size(done.bytes)
            ))?;
            if done.in_use > 0 {
                print(&format!("kept {} files that are in use\n", done.in_use))?;
            }
            Ok(())
        }
    }
}

fn list(contents: &Contents) -> Result<(), Error> {
    let mut rows: Vec<[String; 3]> = contents
        .images
        .iter()
        .map(|image| {
            [
                contents::size(image.bytes),
                contents::ago(image.used),
                Shown::new(&image.name).to_string(),
            ]
        })
        .collect();
    let rest = |what: &str, files: &[contents::Kept]| {
        let bytes = files.iter().map(|file| file.bytes).sum();
        let used = files.iter().map(|file| file.used).max()?;
        let name = format!("({} {what})", files.len());
        Some([contents::size(bytes), contents::ago(used), name])
    };
    rows.extend(rest("files of no image", &contents.strays));
    rows.extend(rest("unfinished downloads", &contents.unfinished));
    let mut text = format!("{:>10}  {:<14}  IMAGE\n", "SIZE", "LAST USE");
    for [size, used, name] in &rows {
        text.push_str(&format!("{size:>10}  {used:<14}  {name}\n"));
    }
    text.push_str(&format!(
        "{:>10}  in all, in {}\n",
        contents::size(contents.bytes()),
        match &contents.directory {
            Some(directory) => Shown::new(directory).to_string(),
            None => "no directory: HOME is not set".to_owned(),
        }
    ));
    print(&text)
}

/// Whoever reads it may have had enough (SIGPIPE is ignored in this program).
fn print(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to standard output", &error))
        }
        _ => Ok(()),
    }
}
