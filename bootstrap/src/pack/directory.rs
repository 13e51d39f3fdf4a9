//! A directory image: a copy of the tree.
//!
//! Made beside its place and renamed, as files are. One that is replaced is
//! exchanged in one step and removed afterwards.

use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{renameat_with, RenameFlags, CWD};
use rustix::io::Errno;

use super::output::{parent, unfinished};
use super::Packing;
use crate::failure::call;
use crate::tree::extract::{extract, Options};
use crate::tree::Tree;

/// What makes a directory look like the root of an image, which may be replaced.
const SIGNS: [&str; 6] = [".singularity.d", "singularity", "bin", "usr", "etc", "lib"];

/// Whether a directory image can be made at `place`.
pub(super) fn check(place: &Path, replace: bool) -> Result<(), Error> {
    super::output::check(place, replace)?;
    let step = || format!("make image {}", Shown::new(place));
    let Ok(there) = place.symlink_metadata() else {
        return Ok(());
    };
    if !there.is_dir() {
        return Ok(());
    }
    let empty = std::fs::read_dir(place)
        .map_err(|error| Error::io(step(), &error))?
        .next()
        .is_none();
    let is_root = || {
        SIGNS
            .iter()
            .any(|sign| place.join(sign).symlink_metadata().is_ok())
    };
    let mount = place.join("..").metadata().is_ok_and(|above| {
        std::os::unix::fs::MetadataExt::dev(&above) != std::os::unix::fs::MetadataExt::dev(&there)
    });
    if mount {
        return Err(
            Error::new(step(), "a file system is mounted there").hint("choose another name")
        );
    }
    if !empty && !is_root() {
        return Err(
            Error::new(step(), "the directory there does not look like an image")
                .hint("choose another name, or remove it first"),
        );
    }
    Ok(())
}

/// A directory that is removed unless it is kept.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// Removes a tree, whatever the modes of its directories are.
pub(crate) fn remove(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::remove_dir_all(path).is_ok() {
        return;
    }
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        let mode = std::fs::Permissions::from_mode(0o700);
        let _ = std::fs::set_permissions(&directory, mode);
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
    }
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!("{} could not be removed: {error}", Shown::new(path));
    }
}

pub(super) fn write(tree: &dyn Tree, packing: &Packing, place: &Path) -> Result<(), Error> {
    let step = || format!("make image {}", Shown::new(place));
    let new = parent(place).join(unfinished());
    std::fs::create_dir(&new).map_err(|error| Error::io(step(), &error))?;
    let mut unfinished = Unfinished(Some(new.clone()));
    let options = Options {
        epoch: packing.epoch,
        ..Options::default()
    };
    let lost = extract(tree, &new, options)?;
    crate::unpack::tell(&lost, false);
    let flags = if packing.replace {
        RenameFlags::EXCHANGE
    } else {
        RenameFlags::NOREPLACE
    };
    let renamed = match renameat_with(CWD, &new, CWD, place, flags) {
        // Nothing is there to exchange it with.
        Err(Errno::NOENT) if packing.replace => {
            unfinished.0 = None;
            rustix::fs::rename(&new, place)
        }
        // A file system without these flags.
        Err(Errno::INVAL) if place.symlink_metadata().is_err() => {
            unfinished.0 = None;
            rustix::fs::rename(&new, place)
        }
        Ok(()) => {
            if !packing.replace {
                unfinished.0 = None;
            } else if new.symlink_metadata().is_ok_and(|old| !old.is_dir()) {
                let _ = std::fs::remove_file(&new);
                unfinished.0 = None;
            }
            Ok(())
        }
        other => other,
    };
    renamed.map_err(|errno| {
        if !packing.replace && errno == Errno::EXIST {
            return Error::new(step(), "there is something of that name already")
                .hint("choose another name, or replace it with --force");
        }
        call(step(), errno)
    })
}
