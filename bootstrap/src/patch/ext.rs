//! What mke2fs(8) leaves out when it fills an ext file system, put right in place.
//!
//! Owns: times to the nanosecond and without the moment of packing, the top
//! directory's mode and owner, and owners that the tree on disk could not have.
//! Never: changes anything but these fields and the inodes' checksums.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use image::{crc32c, Image, Shown};
use launcher::Error;

use volume::ext::{Inode, Volume};
use volume::{array, le32, Device};

use crate::tree::extract::{clamped, Owner};
use crate::tree::{Kind, Node, Time, Tree};
use crate::unpack::Owners;

const INCOMPAT_CHECKSUM_SEED: u32 = 0x2000;

/// Goes over the file system in `file` and the tree that it was filled from.
///
/// # Errors
/// What reading or writing says.
pub(crate) fn restore(
    file: &File,
    place: &Path,
    tree: &dyn Tree,
    owners: Option<&Owners>,
    epoch: Option<u64>,
) -> Result<(), Error> {
    let image = reopened(file, place)?;
    with_patch(&image, epoch, owners, |patch| {
        let root = tree.root()?;
        let inode = patch.volume.inode(2)?;
        patch.set(&inode, &root, Path::new(""), true)?;
        patch.below(&inode, tree, &root, Path::new(""))
    })
}

/// Gives owners to paths of the file system in `file`, and changes nothing else.
///
/// # Errors
/// What reading or writing says.
pub(crate) fn give(file: &File, place: &Path, owners: &Owners) -> Result<(), Error> {
    let image = reopened(file, place)?;
    with_patch(&image, None, Some(owners), |patch| {
        for (path, owner) in owners {
            let Some(number) = patch.number_of(path)? else {
                continue;
            };
            let mut inode = patch.volume.inode(number)?;
            put_owner(&mut inode, *owner);
            patch.write(inode)?;
        }
        Ok(())
    })
}

fn reopened(file: &File, place: &Path) -> Result<Image, Error> {
    let file = file
        .try_clone()
        .map_err(|error| Error::io(format!("open {}", Shown::new(place)), &error))?;
    Ok(Image::from_file(place, file)?)
}

fn with_patch(
    image: &Image,
    epoch: Option<u64>,
    owners: Option<&Owners>,
    work: impl FnOnce(&Patch<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(facts) = image.ext() else {
        return Err(Error::new(
            format!("write image {}", Shown::new(image.path())),
            "it holds no ext file system",
        ));
    };
    let device = Device::of(image)?;
    let superblock = device.bytes(1024, 1024)?;
    let seed = if facts.features[1] & INCOMPAT_CHECKSUM_SEED != 0 {
        le32(&superblock, 624)
    } else {
        crc32c(!0, &facts.uuid)
    };
    work(&Patch {
        volume: Volume::open(device)?,
        file: image.file(),
        offset: device.offset(),
        place: image.path(),
        seed: facts.has_checksum.then_some(seed),
        owners: owners
            .into_iter()
            .flatten()
            .map(|(path, owner)| (path.clone(), *owner))
            .collect(),
        epoch,
    })
}

struct Patch<'a> {
    volume: Volume<'a>,
    file: &'a File,
    offset: u64,
    place: &'a Path,
    /// What inodes' checksums start from, if they have them.
    seed: Option<u32>,
    owners: HashMap<PathBuf, Owner>,
    epoch: Option<u64>,
}

impl Patch<'_> {
    fn below(
        &self,
        directory: &Inode,
        tree: &dyn Tree,
        node: &Node,
        path: &Path,
    ) -> Result<(), Error> {
        let originals: HashMap<Vec<u8>, Node> = tree.entries(node)?.into_iter().collect();
        for (name, number) in self.volume.names(directory)? {
            let Some(original) = originals.get(&name) else {
                continue;
            };
            let path = path.join(OsStr::from_bytes(&name));
            let inode = self.volume.inode(number)?;
            self.set(&inode, original, &path, false)?;
            if original.kind == Kind::Directory {
                self.below(&inode, tree, original, &path)?;
            }
        }
        Ok(())
    }

    fn set(&self, inode: &Inode, original: &Node, path: &Path, top: bool) -> Result<(), Error> {
        let mut inode = Inode {
            number: inode.number,
            raw: inode.raw.clone(),
        };
        let time = clamped(original.modified, self.epoch);
        inode.put_times(time);
        if top {
            let mode = 0o040_000 | original.mode;
            inode.put(0, &(mode as u16).to_le_bytes());
            let owner = Owner {
                uid: original.uid,
                gid: original.gid,
            };
            put_owner(&mut inode, owner);
        }
        if let Some(owner) = self.owners.get(path) {
            put_owner(&mut inode, *owner);
        }
        self.write(inode)
    }

    fn write(&self, mut inode: Inode) -> Result<(), Error> {
        if let Some(seed) = self.seed {
            let wide = inode.extra_size() >= 4;
            inode.put(124, &[0; 2]);
            if wide {
                inode.put(130, &[0; 2]);
            }
            let number = (inode.number as u32).to_le_bytes();
            let generation: [u8; 4] = array(&inode.raw, 100).unwrap_or_default();
            let sum = crc32c(crc32c(crc32c(seed, &number), &generation), &inode.raw);
            inode.put(124, &(sum as u16).to_le_bytes());
            if wide {
                inode.put(130, &((sum >> 16) as u16).to_le_bytes());
            }
        }
        let at = self.offset + self.volume.place(inode.number)?;
        self.file
            .write_all_at(&inode.raw, at)
            .map_err(|error| Error::io(format!("write {}", Shown::new(self.place)), &error))
    }

    /// The inode at a path, no link of which is followed.
    fn number_of(&self, path: &Path) -> Result<Option<u64>, Error> {
        let mut number = 2;
        for name in path.iter() {
            let names = self.volume.names(&self.volume.inode(number)?)?;
            let found = names
                .binary_search_by(|(other, _)| other.as_slice().cmp(name.as_bytes()))
                .ok()
                .and_then(|index| names.get(index));
            match found {
                Some((_, found)) => number = *found,
                None => return Ok(None),
            }
        }
        Ok(Some(number))
    }
}

fn put_owner(inode: &mut Inode, owner: Owner) {
    for (id, low, high) in [(owner.uid, 2, 120), (owner.gid, 24, 122)] {
        inode.put(low, &(id as u16).to_le_bytes());
        inode.put(high, &((id >> 16) as u16).to_le_bytes());
    }
}

/// Changes to an inode, before it is written back.
trait Change {
    fn put(&mut self, at: usize, bytes: &[u8]);
    fn put_times(&mut self, time: Time);
}

impl Change for Inode {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let place = self.raw.get_mut(at..).unwrap_or_default();
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// Access, change of inode and of content, and making, all at one time.
    fn put_times(&mut self, time: Time) {
        let low = (time.seconds as u32).to_le_bytes();
        // Seconds beyond 32 bits with sign, then nanoseconds.
        let high = ((time.seconds - i64::from(time.seconds as i32)) >> 32) as u32 & 3;
        let extra = (high | time.nanoseconds << 2).to_le_bytes();
        for at in [8, 12, 16] {
            self.put(at, &low);
        }
        let known = self.extra_size();
        for (at, bytes, needed) in [
            (132, extra, 8),
            (136, extra, 12),
            (140, extra, 16),
            (144, low, 20),
            (148, extra, 24),
        ] {
            if known >= needed {
                self.put(at, &bytes);
            }
        }
    }
}
