//! One writer of an image file, or many readers.
//!
//! Owns: taking the lock, and saying who has it. Never: keeps it; it belongs to
//! the open file.
//!
//! flock(2) rather than locks of byte ranges: it belongs to the open file
//! description, so the FUSE server or the loop device that inherits it keeps it
//! for exactly as long as the image is mounted, and it knows shared and exclusive.
//! Open file description locks (fcntl(2), `F_OFD_SETLK`) would do the same on a
//! local disk, and no better on NFS: there the client turns both into locks of the
//! server's, which exclude writers on other nodes. Where a file system is mounted
//! so that it knows no locks (Lustre's `noflock`, NFS without its lock daemon),
//! neither works.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use image::Image;
use nix::errno::Errno;

use crate::error::{shown, Error};
use crate::sys::process;

/// How long a writer that has ended may take to let go of the image: its FUSE
/// server writes what is left.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Readers share an ext image, a writer has it alone. The lock belongs to the
/// open file, which the loop device or the FUSE server keeps as long as the
/// image is mounted. See flock(2).
///
/// # Errors
/// Somebody else has it, or the file system knows no locks.
pub fn take(image: &Image, writable: bool) -> Result<(), Error> {
    let step = || format!("lock image {}", shown(image.path()));
    let begun = Instant::now();
    let mut locked = process::lock_file(image.fd(), writable);
    while locked == Err(Errno::EWOULDBLOCK) && begun.elapsed() < LAST_WRITES {
        std::thread::sleep(Duration::from_millis(5));
        locked = process::lock_file(image.fd(), writable);
    }
    match locked {
        Ok(()) => Ok(()),
        Err(Errno::EWOULDBLOCK) => {
            let does = if writable { "uses it" } else { "writes to it" };
            let who = holder(image).unwrap_or_else(|| "another process".to_owned());
            Err(Error::new(step(), format!("{who} {does}")).hint("wait for the other process to end"))
        }
        // A reader does no harm, and who could harm it cannot write there either.
        Err(errno) if !writable => {
            tracing::info!(
                "image {} is read without a lock: its file system refuses locks ({})",
                shown(image.path()),
                errno.desc()
            );
            Ok(())
        }
        Err(errno) => Err(Error::new(
            step(),
            format!(
                "its file system refuses locks ({}), so nothing would keep a second writer away",
                crate::error::words(errno)
            ),
        )
        .hint("copy the image to a file system with locks, a local disk for example, and change it there")),
    }
}

/// Who has the image locked, as far as /proc/locks and /proc/PID tell: on another
/// node, or in a PID namespace that is not seen from here, nobody knows.
fn holder(image: &Image) -> Option<String> {
    let identity = image.identity();
    let device = format!(
        "{:02x}:{:02x}:{}",
        nix::libc::major(identity.device),
        nix::libc::minor(identity.device),
        identity.inode
    );
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        // "1: FLOCK  ADVISORY  WRITE 4711 fd:01:1234 0 EOF", proc_locks(5).
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next()?;
        let pid = words.nth(2)?;
        (kind == "FLOCK" && words.next()? == device).then(|| pid.parse::<u32>().ok())?
    })?;
    let place = Path::new("/proc").join(pid.to_string());
    let name = fs::read(place.join("comm")).ok()?;
    let name = name.trim_ascii();
    let uid = fs::metadata(&place).ok()?.uid();
    let name = image::Shown::bytes(name);
    Some(format!("process {pid} ({name}) of user {uid}"))
}
