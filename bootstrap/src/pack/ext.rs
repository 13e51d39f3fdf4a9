//! ext4 and ext3, by mke2fs(8) of e2fsprogs.
//!
//! A sparse file, as large as the tree needs and some room more; `expand` gives
//! it more.

use std::path::Path;

use image::Shown;
use launcher::Error;

use crate::patch::ext;
use crate::tree::host::Directory;

use super::erofs::hyphenated;
use super::survey::Survey;
use super::tools::Tool;
use super::{Format, Output, Packing};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Free room for whoever changes the image: this, and a twentieth of what is in it.
const ROOM: u64 = 16 * MIB;
/// How often an image that turns out too small is made larger.
const ATTEMPTS: u32 = 4;

/// How large a file system has to be for what the survey found.
fn size_for(survey: &Survey, inodes: u64) -> u64 {
    let contents = survey.bytes + survey.bytes / 20 + ROOM;
    let tables = inodes * 256;
    // What mke2fs takes for a journal of a file system of this size, and for
    // group descriptors and bitmaps with room for growth.
    let journal = match contents / MIB {
        0..128 => 4 * MIB,
        128..1024 => 16 * MIB,
        1024..2048 => 32 * MIB,
        2048..16384 => 64 * MIB,
        _ => 256 * MIB,
    };
    let bitmaps = contents / 2048 + 6 * MIB;
    (contents + tables + journal + bitmaps).next_multiple_of(MIB)
}

/// What `mke2fs -m` has to be told so that of so many bytes one block is reserved, or
/// of a small file system's smaller blocks a few. Not none: fuse2fs(1) takes that for
/// "not said" and refuses to use the last tenth of the file system
/// (`fs_can_allocate` in e2fsprogs' misc/fuse2fs.c).
fn reserve(size: u64) -> String {
    // Half a block more, as mke2fs cuts the fraction off.
    let blocks = (size / BLOCK).max(1);
    format!("{:.12}", 150.0 / blocks as f64)
}

/// Writes an empty file system of so many bytes. Its top directory is root's, as in
/// every other image: in each build space the builder is root, and with `exec -w`
/// whoever may write to the file is.
///
/// # Errors
/// As for all formats; and a size that is too small.
pub(crate) fn empty(format: Format, size: u64, output: &Output) -> Result<(), Error> {
    let step = || format!("make image {}", Shown::new(output.place()));
    output
        .file()
        .set_len(size)
        .map_err(|error| Error::io(step(), &error))?;
    let mut tool = Tool::new("mke2fs", "e2fsprogs");
    tool.args([
        "-q",
        "-F",
        "-m",
        &reserve(size),
        "-E",
        "root_owner=0:0",
        "-t",
    ])
    .arg(if format == Format::Ext3 {
        "ext3"
    } else {
        "ext4"
    });
    if size >= 8 * MIB {
        tool.args(["-b", "4096"]);
    }
    tool.arg(output.path_for_tools());
    tool.succeed(step).map(drop)
}

pub(super) fn write(tree: &Path, packing: &Packing, output: &Output) -> Result<(), Error> {
    let step = || format!("pack image {}", Shown::new(output.place()));
    let survey = Survey::of(tree)?;
    let inodes = survey.inodes + survey.inodes / 4 + 1024;
    let mut size = size_for(&survey, inodes);
    for attempt in 1.. {
        output
            .file()
            .set_len(0)
            .and_then(|()| output.file().set_len(size))
            .map_err(|error| Error::io(step(), &error))?;
        let mut tool = Tool::new("mke2fs", "e2fsprogs");
        tool.args(["-q", "-F", "-t"])
            .arg(if packing.format == Format::Ext3 {
                "ext3"
            } else {
                "ext4"
            })
            .args(["-b", "4096", "-m", &reserve(size)])
            .args(["-N", &inodes.to_string()]);
        let mut extended = vec!["lazy_itable_init=1".to_owned()];
        if let Some(epoch) = packing.epoch {
            tool.arg("-U").arg(hyphenated(survey.uuid(3)));
            extended.push(format!("hash_seed={}", hyphenated(survey.uuid(4))));
            // The first is for e2fsprogs before 1.47.1, the second for later ones.
            tool.env("E2FSPROGS_FAKE_TIME", epoch.to_string());
            tool.env("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        tool.args(["-E", &extended.join(",")]);
        tool.arg("-d").arg(tree).arg(output.path_for_tools());
        tool.arg((size / BLOCK).to_string());
        match tool.run()? {
            Ok(_) => break,
            Err(failed)
                if attempt < ATTEMPTS
                    && !failed.is_out_of_space()
                    && failed.text.contains("ould not allocate") =>
            {
                size = (size * 3 / 2).next_multiple_of(MIB);
            }
            Err(failed) => return Err(failed.error(step())),
        }
    }
    let original = Directory::open(tree)?;
    ext::restore(
        output.file(),
        output.place(),
        &original,
        packing.owners.as_ref(),
        packing.epoch,
    )
}
