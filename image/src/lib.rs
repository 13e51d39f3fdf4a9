//! What a container image is, told from its content.
//!
//! Owns: opening an image, recognising its format, and saying where inside the
//! file the root file system lies. Never: mounts, changes identity, spawns, or
//! decides by a file's name. It runs in the launching path of every rank, so
//! a good image costs one `open`, one `fstat` and one or two `pread`s.
//!
//! Image files come from anywhere. Everything read from one is treated as
//! hostile: sizes are checked before they are used, numbers never overflow,
//! and nothing here panics whatever the bytes are.
//!
//! ```no_run
//! # fn main() -> Result<(), image::Error> {
//! let image = image::Image::open("tools.sqfs".as_ref())?;
//! if let Some(root) = image.root() {
//!     println!("{} at byte {}", root.filesystem, root.offset);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod architecture;
mod bytes;
mod crc32c;
pub mod elf;
mod erofs;
mod error;
mod ext;
mod foreign;
pub mod mpi;
mod open;
mod read;
mod recognise;
mod shown;
pub mod sif;
mod squashfs;

pub use architecture::Architecture;
pub use crc32c::extend as crc32c;
pub use erofs::{Erofs, ErofsAlgorithms};
pub use error::{Error, Fault, Kind};
pub use ext::{Ext, ExtState, ExtVersion};
pub use open::{oci_layout_hint, Identity, Image};
pub use read::{FileAt, ReadAt};
pub use recognise::{recognise, FileSystem, Format, Partition, Recognised, Superblock};
pub use shown::{display_path, Shown};
pub use sif::Sif;
pub use squashfs::{Compressor, Squashfs};
