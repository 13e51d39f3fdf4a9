//! `singularity pull`: an image from a registry.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use command::cli::images::Pull;
use image::Shown;
use launcher::Error;
use nix::unistd::geteuid;

use crate::oci::{self, Source};
use crate::pack::{self, Format, Packing};
use crate::progress::Progress;
use crate::space::{self, Kind};
use crate::workdir::WorkDir;

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
    packing.check(&place)?;
    let for_a_directory = packing.format == Format::Directory && !geteuid().is_root();
    space::enter(for_a_directory.then_some(Kind::Single))?;
    let progress = Progress::new();
    let work = WorkDir::new(writing.tmpdir.as_deref())?;
    let image = oci::fetch(
        &source,
        &options.registry,
        writing.tmpdir.as_deref(),
        &progress,
    )?;
    let tree = work.path().join("root");
    std::fs::create_dir(&tree)
        .map_err(|error| Error::io(format!("make {}", Shown::new(&tree)), &error))?;
    image.unpack_into(&tree, &progress)?;
    image.write_metadata(&tree)?;
    let packed = progress.step(format!("pack {}", Shown::new(&place)));
    pack::pack(&tree, &packing, &place)?;
    packed.done();
    Ok(())
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
