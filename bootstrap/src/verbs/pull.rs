//! `singularity pull`: an image from a registry.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use command::cli::images::Pull;
use image::Shown;
use launcher::Error;

use crate::oci::Source;
use crate::pack::{Format, Packing};
use crate::remote;

/// Fetches it and packs it into an image.
///
/// # Errors
/// What is typed wrong; what the registry, the network or the disk says.
pub fn pull(options: &Pull) -> Result<(), Error> {
    let (place, uri) = match &options.words[..] {
        [uri] => (None, uri),
        [place, uri, ..] => (Some(PathBuf::from(place)), uri),
        [] => return Err(Error::new("pull", "there is nothing to fetch")),
    };
    let source = Source::parse(uri)?.ok_or_else(|| {
        Error::new(
            format!("pull {}", Shown::new(uri)),
            "this is not in a registry",
        )
        .hint("the form is docker://HOST/NAME:TAG; build takes files and directories")
    })?;
    let writing = &options.writing;
    let place = match place {
        Some(place) => place,
        None => own_name(
            &source,
            Packing::new(writing, false, Path::new("image"))?.format,
        ),
    };
    let packing = Packing::new(writing, false, &place)?;
    let tmpdir = writing.tmpdir.as_deref();
    remote::build(&source, &options.registry, packing, tmpdir, &place)
}

/// The image's name with the format's ending.
fn own_name(source: &Source, format: Format) -> PathBuf {
    let stem = |path: &Path| {
        let stem = path.file_stem().unwrap_or(OsStr::new("image"));
        stem.to_string_lossy().into_owned()
    };
    let name = match source {
        Source::Registry(reference) => reference.file_name(),
        Source::Layout(it) | Source::OciArchive(it) | Source::DockerArchive(it) => stem(&it.path),
    };
    let ending = match format {
        Format::Squashfs => ".sqfs",
        Format::Erofs => ".erofs",
        Format::Ext4 => ".ext4",
        Format::Ext3 => ".ext3",
        Format::Sif => ".sif",
        Format::Directory => "",
    };
    PathBuf::from(format!("{name}{ending}"))
}
