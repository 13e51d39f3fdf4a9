//! `singularity create`: an empty image that can be changed.

use command::cli::images::Create;
use image::Shown;
use launcher::Error;

use crate::pack::{ext, Format, Output};

/// The smallest file system that mke2fs makes, and that has room for anything.
const SMALLEST: u64 = 1;
/// What ext4 with blocks of 4 KiB and 32-bit numbers can be, in MiB.
const LARGEST: u64 = 16 * 1024 * 1024 - 1;

/// Makes it.
///
/// # Errors
/// An impossible size or format; something is there; a full disk.
pub fn create(options: &Create) -> Result<(), Error> {
    let step = || format!("make image {}", Shown::new(&options.image));
    let format = match options.format.as_deref() {
        Some("ext4") => Format::Ext4,
        Some("ext3") => Format::Ext3,
        Some(other) => {
            return Err(Error::new(
                format!("format {}", Shown::new(other)),
                "an empty image is ext4 or ext3",
            )
            .hint("singularity build makes images of other formats, from something"))
        }
        None => match Format::of_name(&options.image) {
            Some(Format::Ext3) => Format::Ext3,
            _ => Format::Ext4,
        },
    };
    if !(SMALLEST..=LARGEST).contains(&options.size) {
        return Err(Error::new(
            step(),
            format!("a size of {} MiB is impossible", options.size),
        )
        .hint(format!("{SMALLEST} to {LARGEST} MiB")));
    }
    let output = Output::begin(&options.image, options.force)?;
    ext::empty(format, options.size << 20, &output)?;
    output.finish()
}
