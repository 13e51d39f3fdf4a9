//! EROFS, by mkfs.erofs(1) of erofs-utils.

use std::os::unix::fs::FileExt;
use std::path::Path;

use image::Shown;
use launcher::Error;

use super::survey::Survey;
use super::tools::Tool;
use super::{Compression, Output, Packing};

/// What the installed mkfs.erofs can compress with, in its own words.
fn compressors() -> Result<Vec<String>, Error> {
    let text = match Tool::new("mkfs.erofs", "erofs-utils").arg("--help").run()? {
        Ok(text) => text,
        Err(failed) => failed.text,
    };
    // One line with all names, or one name a line.
    let list = text
        .split_once("ompressors are:")
        .map_or("", |(_, list)| list);
    Ok(list
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| ["lz4", "lz4hc", "lzma", "deflate", "libdeflate", "zstd"].contains(word))
        .map(str::to_owned)
        .collect())
}

fn own_name(name: &str) -> &str {
    match name {
        "xz" => "lzma",
        "gzip" => "deflate",
        name => name,
    }
}

/// Whether the installed mkfs.erofs can compress so.
///
/// # Errors
/// It cannot, or is not installed.
pub(super) fn check(compression: Option<&Compression>) -> Result<(), Error> {
    let Some(Compression { name, .. }) = compression.filter(|c| c.name != "none") else {
        return Ok(());
    };
    let known = compressors()?;
    if known.iter().any(|known| known == own_name(name)) {
        return Ok(());
    }
    Err(Error::new(
        format!("compression {}", Shown::new(name)),
        "the installed mkfs.erofs does not have it",
    )
    .hint(format!("it has {} and none", known.join(", "))))
}

pub(super) fn write(tree: &Path, packing: &Packing, output: &Output) -> Result<(), Error> {
    let step = || format!("pack image {}", Shown::new(output.place()));
    let mut tool = Tool::new("mkfs.erofs", "erofs-utils");
    tool.env_remove("SOURCE_DATE_EPOCH").arg("--quiet");
    match &packing.compression {
        Some(Compression { name, .. }) if name == "none" => {}
        Some(Compression { name, level }) => {
            let level = level.map_or(String::new(), |level| format!(",{level}"));
            tool.arg(format!("-z{}{level}", own_name(name)));
        }
        None => {
            tool.arg("-zlz4hc");
        }
    }
    if packing
        .owners
        .as_ref()
        .is_some_and(|owners| !owners.is_empty())
    {
        // A short inode has no room for every owner.
        tool.arg("-Eforce-inode-extended");
    }
    // The tolerance that keeps every attribute in the inode's own area would
    // make some unreadable to old kernels; the default of 2 shares them.
    let mut made = None;
    if let Some(epoch) = packing.epoch {
        let survey = Survey::of(tree)?;
        tool.arg(format!("-U{}", hyphenated(survey.uuid(1))));
        if survey.newest > i64::try_from(epoch).unwrap_or(i64::MAX) {
            tool.arg(format!("-T{epoch}"));
        }
        made = Some(epoch);
    }
    tool.arg(output.path_for_tools()).arg(tree);
    if let Err(failed) = tool.run()? {
        // mkfs.erofs up to 1.6 at least cuts the last byte of such names off.
        let survey = Survey::of(tree)?;
        return Err(match survey.longest_name {
            Some(path) if !failed.is_out_of_space() => Error::new(
                step(),
                format!(
                    "mkfs.erofs cannot store names of 255 bytes, as of {}",
                    Shown::new(&path)
                ),
            )
            .hint("choose another format, or a shorter name"),
            _ => failed.error(step()),
        });
    }
    if let Some(owners) = packing.owners.as_ref().filter(|owners| !owners.is_empty()) {
        crate::patch::erofs::give(output.file(), output.place(), owners)?;
    }
    if made.is_some() || packing.owners.is_some() {
        finish_superblock(output, made).map_err(|error| Error::io(step(), &error))?;
    }
    Ok(())
}

/// Makes the superblock say when the image was made: mkfs.erofs has an option for
/// that, but it changes the times of all files too. Then the checksum is made anew. See the kernel's
/// `fs/erofs/erofs_fs.h`, `struct erofs_super_block`.
fn finish_superblock(output: &Output, epoch: Option<u64>) -> std::io::Result<()> {
    const AT: u64 = 1024;
    const HAS_CHECKSUM: u32 = 1;
    let file = output.file();
    let mut head = [0; 128];
    file.read_exact_at(&mut head, AT)?;
    if let Some(epoch) = epoch {
        file.write_all_at(&epoch.to_le_bytes(), AT + 24)?;
        file.write_all_at(&[0; 4], AT + 32)?;
    }
    let features = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if features & HAS_CHECKSUM != 0 {
        // Over the rest of the first block, its own field counted as zero.
        let mut block = vec![0; (1_usize << head[12].min(16)).saturating_sub(1024)];
        file.write_all_at(&[0; 4], AT + 4)?;
        file.read_exact_at(&mut block, AT)?;
        let sum = image::crc32c(!0, &block);
        file.write_all_at(&sum.to_le_bytes(), AT + 4)?;
    }
    Ok(())
}

/// A UUID as it is written.
pub(super) fn hyphenated(uuid: [u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
