//! The small /dev of `--contain`.
//!
//! Owns: which devices are in it. Never: makes device files; the host's are bound.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{openat, OFlag};
use nix::sys::stat::{mkdirat, Mode};
use nix::unistd::symlinkat;

use crate::error::{Error, Step};
use crate::mount::{self, attributes};

/// What any program may expect, and can do no harm with.
const HARMLESS: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];

/// Prefixes of fabric and shared-memory devices, without which ranks would fall
/// back to slow paths: verbs, Slingshot, Omni-Path, KNEM, XPMEM.
const FABRIC: [&str; 6] = ["infiniband", "cxi", "hfi1", "ipath", "knem", "xpmem"];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Fills the empty, attached directory `dev`. Devices that the host lacks are
/// left out.
///
/// # Errors
/// The device that could not be shown.
pub fn populate(dev: BorrowedFd<'_>) -> Result<(), Error> {
    let mode = Mode::from_bits_truncate(0o755);
    for name in HARMLESS.into_iter().map(String::from).chain(fabric()) {
        show(dev, &name)?;
    }
    show(dev, "pts")?;
    for (target, name) in LINKS {
        symlinkat(target, dev, name).step(|| format!("link /dev/{name}"))?;
    }
    for (name, memory) in [("shm", true), ("mqueue", false)] {
        let step = || format!("make /dev/{name}");
        mkdirat(dev, name, mode).step(step)?;
        if memory {
            let tree =
                mount::memory(c"singularity", 0o1777, attributes(false, false)).step(step)?;
            attach(&tree, dev, name)?;
        }
    }
    Ok(())
}

fn fabric() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/dev") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| FABRIC.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

fn show(dev: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    let step = || format!("show /dev/{name}");
    let source = match mount::open_source(&Path::new("/dev").join(name)) {
        Ok(source) => source,
        Err(Errno::ENOENT | Errno::EACCES) => return Ok(()),
        Err(errno) => return Err(Error::call(step(), errno)),
    };
    if mount::is_directory(source.as_fd()).step(step)? {
        mkdirat(dev, name, Mode::from_bits_truncate(0o755)).step(step)?;
    } else {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        openat(dev, name, flags, Mode::from_bits_truncate(0o644)).step(step)?;
    }
    attach(
        &mount::bind(source.as_fd(), attributes(true, false)).step(step)?,
        dev,
        name,
    )
}

fn attach(tree: &impl AsFd, dev: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    let step = || format!("show /dev/{name}");
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let target = openat(dev, name, flags, Mode::empty()).step(step)?;
    mount::attach(tree.as_fd(), target.as_fd(), step)
}
