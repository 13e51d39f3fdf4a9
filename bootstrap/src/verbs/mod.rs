//! The verbs on images that are there: one file a verb.
//!
//! Owns: what each does, in order. The work is done elsewhere.

pub mod cache;
pub mod convert;
pub mod copy;
pub mod create;
pub mod expand;
pub mod export;
pub mod import;
pub mod inspect;
pub mod pull;
pub(crate) mod source;

use std::ffi::OsStr;
use std::path::Path;

use image::{FileSystem, Image, Shown};
use launcher::Error;

/// Opens an image to read it, beside other readers but not beside a writer.
///
/// # Errors
/// It is no image, or somebody writes to it.
pub(crate) fn open_to_read(path: &Path) -> Result<Image, Error> {
    let image = Image::open(path)?;
    if is_ext(&image) {
        launcher::lock::take(&image, false)?;
        launcher::check::put_in_order(&image, false, OsStr::new(""), false)?;
    }
    Ok(image)
}

pub(crate) fn is_ext(image: &Image) -> bool {
    image
        .root()
        .is_some_and(|root| root.filesystem == FileSystem::Ext)
}

/// An image that can be changed: a directory, or a file with ext, which is locked.
///
/// # Errors
/// It cannot be written, or is of a format that cannot be changed, or in use.
pub(crate) fn open_to_write(path: &Path) -> Result<Image, Error> {
    let image = Image::open_writable(path).map_err(|error| match error.kind() {
        image::Kind::Permission => Error::from(error)
            .hint("you need permission to write to it; singularity convert makes a copy of yours"),
        image::Kind::NotFound => {
            Error::from(error).hint("check the path; singularity create makes an empty image")
        }
        _ => error.into(),
    })?;
    if image.is_directory() {
        return Ok(image);
    }
    if !is_ext(&image) {
        return Err(Error::new(
            format!("write to image {}", Shown::new(path)),
            format!("{} cannot be changed", image.format()),
        )
        .hint("singularity convert makes an ext4 image or a directory of it"));
    }
    launcher::lock::take(&image, true)?;
    Ok(image)
}
