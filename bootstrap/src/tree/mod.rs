//! A tree of files, wherever it is: in a directory, or inside an image file.
//!
//! Owns: reading trees of directories, and writing any out as a directory or an
//! archive. Never: follows a symbolic link of a tree, or runs anything in it.

pub mod archive;
pub mod extract;
pub mod host;
pub mod walk;

use image::{Image, Shown};
use launcher::Error;
pub use volume::tree::*;

/// The tree of an opened image, whatever its format.
///
/// # Errors
/// A damaged image, or one of a kind that cannot be read.
pub fn open(image: &Image) -> Result<Box<dyn Tree + '_>, Error> {
    if image.root().is_some() {
        return volume::open(image);
    }
    let fd = rustix::fs::openat(
        image.fd(),
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| {
        crate::failure::call(
            format!("open directory {}", Shown::new(image.path())),
            errno,
        )
    })?;
    Ok(Box::new(host::Directory::from_fd(fd, image.path())))
}
