//! `singularity copy`: files of the host get into an image that can be changed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use command::cli::images::Copy;
use image::Shown;
use launcher::Error;

use crate::tree::archive::archive_as;
use crate::tree::extract::Lost;
use crate::tree::host::Directory;
use crate::tree::{walk, Kind};
use crate::verbs::import::{by_archive, into_image};

/// A file of the host, by a path that does not depend on where the process stands.
struct File {
    path: PathBuf,
    name: OsString,
}

/// Copies them.
///
/// # Errors
/// A file is missing, or the image cannot be changed or is full.
pub fn copy(options: &Copy) -> Result<(), Error> {
    let [image, files @ .., destination] = options.words.as_slice() else {
        return Err(Error::new("copy", "an image, files and a place are needed"));
    };
    let files = files
        .iter()
        .map(|file| found(file))
        .collect::<Result<Vec<_>, _>>()?;
    into_image(Path::new(image), |_, tree| {
        let mut all = Lost::default();
        let into_directory = files.len() > 1
            || destination.as_bytes().ends_with(b"/")
            || is_directory(tree, Path::new(destination))?;
        for file in &files {
            let mut place = PathBuf::from(destination);
            if into_directory {
                place.push(&file.name);
            }
            let lost = put(file, tree, &place)?;
            all.owners.extend(lost.owners);
            all.devices.extend(lost.devices);
            all.attributes.extend(lost.attributes);
        }
        Ok(all)
    })
}

fn found(file: &OsStr) -> Result<File, Error> {
    let step = || format!("copy {}", Shown::new(file));
    let failed = |error: std::io::Error| Error::io(step(), &error);
    let path = Path::new(file);
    path.symlink_metadata().map_err(|error| {
        failed(error).hint("the files are the host's; the last word is the place in the image")
    })?;
    // `.` and `..` have no names of their own.
    let (path, name) = match path.file_name() {
        Some(name) => (std::path::absolute(path).map_err(failed)?, name.to_owned()),
        None => {
            let real = path.canonicalize().map_err(failed)?;
            let name = real.file_name().unwrap_or_default().to_owned();
            (real, name)
        }
    };
    Ok(File { path, name })
}

/// Whether there is a directory in the image at that place, links followed as inside.
fn is_directory(tree: &Path, place: &Path) -> Result<bool, Error> {
    let tree = Directory::open(tree)?;
    Ok(walk::find(&tree, place)?.is_some_and(|node| node.kind == Kind::Directory))
}

fn put(file: &File, tree: &Path, place: &Path) -> Result<Lost, Error> {
    let name = Shown::new(&file.path).to_string();
    let inside: PathBuf = place
        .components()
        .filter(|part| {
            !matches!(
                part,
                std::path::Component::RootDir | std::path::Component::CurDir
            )
        })
        .collect();
    by_archive(&name, tree, |output| {
        let is_directory = file
            .path
            .symlink_metadata()
            .is_ok_and(|there| there.is_dir());
        if is_directory {
            return archive_as(&Directory::open(&file.path)?, None, &inside, output);
        }
        let parent = file.path.parent().unwrap_or(Path::new("/"));
        let directory = Directory::open(parent)?;
        let node = directory.child(&file.name)?;
        archive_as(&directory, Some(&node), &inside, output)
    })
}
