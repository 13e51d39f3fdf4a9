//! An ext image whose last writer did not end as it should.
//!
//! Owns: noticing that, which costs one pread(2), and having e2fsck(8) put it right
//! before it is written to again. Never: changes an image that is only to be read.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::{ExtState, Image};
use nix::errno::Errno;
use nix::fcntl::{fcntl, open, FcntlArg, FdFlag, OFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow};
use nix::sys::stat::Mode;

use crate::error::{shown, Error, Step as _};
use crate::sys::process::{self, Side};

/// The exit status of e2fsck is a sum of these; see e2fsck(8).
const CORRECTED: i32 = 1;
const REBOOT: i32 = 2;
const LEFT_UNCORRECTED: i32 = 4;

/// Sees to it that the ext file system of a locked image may be mounted: one that
/// is to be written to is checked and repaired if its last writer was interrupted;
/// one that is only to be read is refused then. `search` is a list of directories
/// as in `PATH`; `by_root_for_user`, nothing is executed.
///
/// # Errors
/// It was left in disorder and is not to be changed; or e2fsck is missing or gives up.
pub fn put_in_order(
    image: &Image,
    writable: bool,
    search: &OsStr,
    by_root_for_user: bool,
) -> Result<(), Error> {
    // What was read when the image was opened may have been a writer's, under way.
    let Some(facts) = image.ext_now() else {
        return Ok(());
    };
    let in_order = facts.state == ExtState::Clean && !facts.needs_recovery;
    if in_order {
        return Ok(());
    }
    let path = shown(image.path());
    if !writable || by_root_for_user {
        return Err(Error::new(
            format!("check image {path}"),
            "its last writer was interrupted, and it has not been checked since",
        )
        .hint(format!(
            "who may write to it puts it in order: e2fsck -p {path}, or singularity exec -w {path} true"
        )));
    }
    let root = image.root().map_or(0, |root| root.offset);
    let e2fsck = find(search).ok_or_else(|| {
        Error::new(
            format!("check image {path}"),
            "its last writer was interrupted, and e2fsck is not installed",
        )
        .hint("install it (package e2fsprogs)")
    })?;
    tracing::warn!("checking image {path}: its last writer was interrupted");
    let (mut status, mut text) = run(&e2fsck, "-p", image, root)?;
    if status & LEFT_UNCORRECTED != 0 {
        // What e2fsck does not dare by itself is all that can be done.
        (status, text) = run(&e2fsck, "-fy", image, root)?;
        if status & !(CORRECTED | REBOOT) == 0 {
            tracing::warn!(
                "image {path} was repaired; what had lost its name is in its directory /lost+found"
            );
        }
    }
    if status & !(CORRECTED | REBOOT) == 0 {
        return Ok(());
    }
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("e2fsck failed without a word");
    Err(Error::new(
        format!("check image {path}"),
        format!("e2fsck gave up: {}", shown(Path::new(line.trim()))),
    )
    .hint(format!("e2fsck -f {path} asks at each flaw what to do")))
}

fn find(search: &OsStr) -> Option<PathBuf> {
    let usual = OsStr::new("/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    std::env::split_paths(search)
        .chain(std::env::split_paths(usual))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join("e2fsck"))
        .find(|candidate| nix::unistd::access(candidate, nix::unistd::AccessFlags::X_OK).is_ok())
}

/// Runs e2fsck on the opened file and returns its exit status and what it said.
fn run(program: &Path, mode: &str, image: &Image, offset: u64) -> Result<(i32, String), Error> {
    let step = || format!("check image {}", shown(image.path()));
    let words = memfd_create(c"singularity-e2fsck", MFdFlags::MFD_CLOEXEC).step(step)?;
    let name = crate::mount::c_path(program)?;
    let number = image.fd().as_raw_fd();
    let place = match offset {
        0 => format!("/proc/self/fd/{number}"),
        offset => format!("/proc/self/fd/{number}?offset={offset}"),
    };
    let arguments: Vec<CString> = [
        program.as_os_str().as_bytes(),
        mode.as_bytes(),
        place.as_bytes(),
    ]
    .into_iter()
    .filter_map(|word| CString::new(word).ok())
    .collect();
    let status = match process::clone(None).step(step)? {
        Side::Parent(child) => process::wait_for(child).step(step)?,
        Side::Child => {
            let errno = match prepare(image, &words) {
                Ok(()) => process::execve(
                    &name,
                    &arguments,
                    &[
                        c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".into(),
                        c"LC_ALL=C".into(),
                    ],
                ),
                Err(errno) => errno,
            };
            let _ = nix::unistd::write(&words, errno.desc().as_bytes());
            process::exit_now(8)
        }
    };
    let mut text = Vec::new();
    let mut words = File::from(words);
    words
        .rewind()
        .and_then(|()| words.read_to_end(&mut text))
        .step(step)?;
    // WEXITSTATUS, or 8, an operational error, for a signal; wait(2).
    let status = if status & 0x7f == 0 {
        status >> 8 & 0xff
    } else {
        8
    };
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

fn prepare(image: &Image, words: &OwnedFd) -> Result<(), Errno> {
    // A session of its own: Ctrl-C must not stop a repair half-way.
    nix::unistd::setsid()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    for signal in 1..=64 {
        process::reset_signal(signal);
    }
    let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(words)?;
    nix::unistd::dup2_stderr(words)?;
    process::close_on_exec_from(3)?;
    fcntl(image.fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    process::set_no_new_privileges()
}
