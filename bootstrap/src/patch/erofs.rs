//! Owners that the tree on disk could not have, put into an EROFS in place.
//!
//! Never: changes anything else; the superblock's checksum is the caller's.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use image::{Image, Shown};
use launcher::Error;

use volume::erofs::Volume;
use volume::Device;

use crate::tree::Tree;
use crate::unpack::Owners;

/// Gives owners to paths of the file system in `file`, whose inodes are all long.
///
/// # Errors
/// What reading or writing says.
pub(crate) fn give(file: &File, place: &Path, owners: &Owners) -> Result<(), Error> {
    let step = || format!("write {}", Shown::new(place));
    let failed = |error: std::io::Error| Error::io(step(), &error);
    let image = Image::from_file(place, file.try_clone().map_err(failed)?)?;
    let device = Device::of(&image)?;
    let volume = Volume::open(device)?;
    let mut directory = None;
    for (path, owner) in owners {
        let parent = path.parent().unwrap_or(Path::new(""));
        let known = matches!(&directory, Some((known, _)) if known == parent);
        if !known {
            let Some(node) = plain(&volume, parent)? else {
                continue;
            };
            directory = Some((parent.to_owned(), volume.entries(&node)?));
        }
        let entries = directory.as_ref().map(|(_, entries)| entries.as_slice());
        let node = match path.file_name() {
            None => volume.root()?,
            Some(name) => {
                use std::os::unix::ffi::OsStrExt;
                let found = entries.and_then(|entries| {
                    entries
                        .iter()
                        .find(|(other, _)| other.as_slice() == name.as_bytes())
                });
                match found {
                    Some((_, node)) => node.clone(),
                    None => continue,
                }
            }
        };
        let (at, long) = volume.place(&node)?;
        if !long {
            return Err(Error::new(step(), "an inode has no room for its owner"));
        }
        let mut ids = [0; 8];
        for (to, from) in ids.iter_mut().zip(
            owner
                .uid
                .to_le_bytes()
                .into_iter()
                .chain(owner.gid.to_le_bytes()),
        ) {
            *to = from;
        }
        file.write_all_at(&ids, device.offset() + at + 24)
            .map_err(failed)?;
    }
    Ok(())
}

/// The file at a path, no link of which is followed.
fn plain(volume: &Volume<'_>, path: &Path) -> Result<Option<crate::tree::Node>, Error> {
    use std::os::unix::ffi::OsStrExt;
    let mut node = volume.root()?;
    for name in path.iter() {
        let found = volume
            .entries(&node)?
            .into_iter()
            .find(|(other, _)| other.as_slice() == name.as_bytes());
        match found {
            Some((_, below)) => node = below,
            None => return Ok(None),
        }
    }
    Ok(Some(node))
}
