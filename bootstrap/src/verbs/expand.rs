//! `singularity expand`: an ext image becomes larger.

use std::ffi::OsStr;

use command::cli::images::Expand;
use image::{Format, Shown};
use launcher::Error;

use crate::pack::tools::Tool;
use crate::verbs::open_to_write;

/// Makes it larger, in place.
///
/// # Errors
/// It is of a format that has no size of its own, in use, or its disk is full; it
/// then is as it was.
pub fn expand(options: &Expand) -> Result<(), Error> {
    let path = Shown::new(&options.image);
    let step = || format!("expand image {path}");
    let failed = |error: std::io::Error| Error::io(step(), &error);
    let Some(more) = options
        .size
        .checked_mul(1 << 20)
        .filter(|more| *more > 0 && *more < 1 << 60)
    else {
        return Err(Error::new(
            step(),
            format!("a size of {} MiB is impossible", options.size),
        ));
    };
    let image = open_to_write(&options.image)?;
    let Some(root) = image.root() else {
        return Err(Error::new(step(), "a directory has no size of its own"));
    };
    if matches!(image.format(), Format::Sif(_)) {
        return Err(Error::new(
            step(),
            "the file system inside a SIF file cannot grow in its place",
        )
        .hint("convert it to ext4, expand that, and convert it to SIF again"));
    }
    if root.offset != 0 {
        return Err(Error::new(
            step(),
            "resize2fs cannot handle the line in front of its file system",
        )
        .hint("cut the line off (tail -c +N), expand the rest, and put the line in front again"));
    }
    launcher::check::put_in_order(&image, true, OsStr::new(""), false)?;
    let file = image.file();
    let before = file.metadata().map_err(failed)?.len();
    let facts = image.ext_now();
    // By number, so that it is the file that is locked.
    let fd = rustix::io::dup(image.fd()).map_err(|errno| crate::failure::call(step(), errno))?;
    let by_number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    // resize2fs insists on a check just before.
    let mut check = Tool::new("e2fsck", "e2fsprogs");
    if let Err(outcome) = check.args(["-f", "-p", &by_number]).run()? {
        if !matches!(outcome.status, Some(1 | 2)) {
            return Err(outcome
                .error(step())
                .hint("e2fsck -f finds and repairs what is wrong"));
        }
    }
    file.set_len(before + more).map_err(failed)?;
    let grown = Tool::new("resize2fs", "e2fsprogs").arg(&by_number).run();
    let error = match grown {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(outcome)) => outcome.error(step()),
        Err(error) => error,
    };
    // Where it has not begun, nothing but the file's length is to be undone.
    if image.ext_now().map(|now| now.blocks) == facts.map(|before| before.blocks) {
        file.set_len(before).map_err(failed)?;
    }
    let _ = Tool::new("e2fsck", "e2fsprogs")
        .args(["-f", "-p", &by_number])
        .run();
    Err(error)
}
