//! `singularity export`: an image's files as a tar archive.

use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;

use command::cli::images::Export;
use image::Shown;
use launcher::Error;

use crate::pack::{epoch, Output};
use crate::tree::archive::{archive, is_closed_pipe};
use crate::verbs::open_to_read;

/// What a shell shows of a program that SIGPIPE has ended.
const BROKEN_PIPE: i32 = 141;

/// Writes it.
///
/// # Errors
/// A damaged image, a full disk, a terminal as output.
pub fn export(options: &Export) -> Result<(), Error> {
    let epoch = epoch(std::env::var_os("SOURCE_DATE_EPOCH").as_deref())?;
    let Some(path) = &options.file else {
        let output = std::io::stdout();
        if output.is_terminal() {
            return Err(Error::new(
                format!("export image {}", Shown::new(&options.image)),
                "standard output is a terminal, which cannot show an archive",
            )
            .hint("name a file: --file FILE, or > FILE"));
        }
        let image = open_to_read(&options.image)?;
        let tree = crate::tree::open(&image)?;
        let mut output = BufWriter::with_capacity(1 << 16, output.lock());
        let written = archive(&*tree, &mut output, "to standard output", epoch);
        if written.as_ref().is_err_and(is_closed_pipe) {
            // Who read it has seen enough.
            std::process::exit(BROKEN_PIPE);
        }
        return written;
    };
    let name = Shown::new(path).to_string();
    let image = open_to_read(&options.image)?;
    let tree = crate::tree::open(&image)?;
    let special = path.metadata().is_ok_and(|there| {
        let kind = there.file_type();
        kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
    });
    if special {
        let mut output = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|error| Error::io(format!("write archive {name}"), &error))?;
        return archive(&*tree, &mut output, &name, epoch);
    }
    let output = Output::begin(path, false)?;
    let mut buffered = BufWriter::with_capacity(1 << 16, output.file());
    archive(&*tree, &mut buffered, &name, epoch)?;
    buffered
        .flush()
        .map_err(|error| Error::io(format!("write archive {name}"), &error))?;
    drop(buffered);
    output.finish()
}
