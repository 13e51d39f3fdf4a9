//! `singularity import`: the files of an archive, or of another source, get into an
//! image that can be changed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use command::cli::images::Import;
use image::{Image, Shown};
use launcher::Error;

use crate::build::space_for;
use crate::mounted::Mounted;
use crate::pack::Format;
use crate::patch::ext;
use crate::space::{self, Kind, Space};
use crate::tree::extract::Lost;
use crate::unpack::{self, tar};
use crate::verbs::open_to_write;
use crate::workdir::WorkDir;

/// What is imported.
enum Source {
    Input,
    Archive(File),
    Other(OsString),
}

/// Imports it.
///
/// # Errors
/// The image cannot be changed or is full, the source is no archive.
pub fn import(options: &Import) -> Result<(), Error> {
    let step = || format!("import into image {}", Shown::new(&options.image));
    let source = if options.source == "-" {
        if std::io::stdin().is_terminal() {
            return Err(
                Error::new(step(), "standard input is a terminal, not an archive")
                    .hint("name the archive, or put it in: singularity import IMAGE < ARCHIVE"),
            );
        }
        Source::Input
    } else {
        sort(&options.source)?
    };
    into_image(&options.image, |_, tree| match source {
        Source::Input => archive(std::io::stdin(), "standard input", tree),
        Source::Archive(file) => archive(file, &Shown::new(&options.source).to_string(), tree),
        Source::Other(source) => {
            crate::verbs::source::unpack_into(&source, &options.registry, tree)
        }
    })
}

/// A tar archive is what is a file and no image.
fn sort(source: &OsStr) -> Result<Source, Error> {
    let path = Path::new(source);
    if !path.is_file() || Image::open(path).is_ok() {
        return Ok(Source::Other(source.to_owned()));
    }
    File::open(path)
        .map(Source::Archive)
        .map_err(|error| Error::io(format!("open archive {}", Shown::new(source)), &error))
}

fn archive(stream: impl Read + Send, name: &str, tree: &Path) -> Result<Lost, Error> {
    let stream = unpack::decompress(stream, name)?;
    tar::tar(
        stream,
        tree,
        &tar::Options {
            // What is there stays as it is: /lib may lead to usr/lib.
            keep_directory_links: true,
            ..tar::Options::named(name)
        },
    )
}

/// Has `work` put files into an image, of whichever format, and writes it out.
///
/// # Errors
/// The image cannot be changed or is in use, and what `work` says.
pub(crate) fn into_image(
    path: &Path,
    work: impl FnOnce(&Space, &Path) -> Result<Lost, Error>,
) -> Result<(), Error> {
    let image = open_to_write(path)?;
    if image.is_directory() {
        let space = space_for(Format::Directory)?;
        let tree = std::path::absolute(path)
            .map_err(|error| Error::io("find the current directory", &error))?;
        let lost = work(&space, &tree)?;
        unpack::tell(&lost, false);
        return Ok(());
    }
    launcher::check::put_in_order(&image, true, OsStr::new(""), false)?;
    let space = space::enter(None)?;
    let place = WorkDir::new(None)?;
    let mounted = Mounted::new(&image, place.path(), space.kind())?;
    let done = work(&space, mounted.path());
    let closed = mounted.close();
    let lost = done.map_err(|error| full(error, path))?;
    closed?;
    let kept = space.kind() != Kind::Root;
    if kept && !lost.owners.is_empty() {
        // Owners that this user has no ids for are only numbers in the image.
        ext::give(image.file(), path, &lost.owners)?;
    }
    unpack::tell(&lost, kept);
    Ok(())
}

/// A full disk may be the image's.
fn full(error: Error, path: &Path) -> Error {
    if error.to_string().ends_with(": no space left on device") {
        let path = Shown::new(path);
        return error.hint(format!(
            "the image is full: singularity expand --size MiB {path} makes it larger"
        ));
    }
    error
}

/// Puts files over what is there, by way of an archive that is nowhere written
/// down: that knows how to replace and to stay inside. `write` makes it, in a
/// thread of its own.
///
/// # Errors
/// What either side says.
pub(crate) fn by_archive(
    name: &str,
    tree: &Path,
    write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), Error> + Send,
) -> Result<Lost, Error> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|errno| Error::call("make a pipe", errno))?;
    let (reader, writer) = (std::fs::File::from(reader), std::fs::File::from(writer));
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut output = std::io::BufWriter::with_capacity(1 << 16, writer);
            write(&mut output)
        });
        let unpacked = tar::tar(
            reader,
            tree,
            &tar::Options {
                keep_directory_links: true,
                ..tar::Options::named(name)
            },
        );
        let written = writing
            .join()
            .unwrap_or_else(|_| Err(Error::new("read files", "a thread panicked")));
        match (unpacked, written) {
            // Whoever fails first makes the other fail.
            (Err(error), Err(other)) if crate::tree::archive::is_closed_pipe(&other) => Err(error),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
            (Ok(lost), Ok(())) => Ok(lost),
        }
    })
}
