//! Room for the launcher's own few descriptors, and nothing changed for the program.
//!
//! Owns: closed standard descriptors, and the soft limits and the umask that
//! set-up itself could run into. Never: closes or moves an inherited descriptor; launchers pass
//! theirs at any number.

use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{fcntl, open, FcntlArg, FdFlag, OFlag};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::stat::{umask, Mode};

/// Limits and the umask as they were inherited, put back by [`Limits::restore`].
#[derive(Debug)]
pub struct Limits {
    resources: Vec<(Resource, u64, u64)>,
    umask: Mode,
}

/// Soft limits and the umask, as a process inherited them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// Open files.
    pub files: u64,
    /// File size, bytes.
    pub file_size: u64,
    /// Stack, bytes.
    pub stack: u64,
    /// The umask.
    pub umask: u32,
}

/// Descriptors that set-up needs at the most, beside those that were inherited.
const ENOUGH_FILES: u64 = 4096;

impl Limits {
    /// Raises the soft limits of open files and of file size to the hard ones, so
    /// that a user's thousand inherited descriptors or `ulimit -f 0` do not stop
    /// set-up. A limit that cannot be raised stays as it is. The umask becomes 022:
    /// mount points and /etc/passwd are for everybody in the image to pass and read.
    pub fn make_room() -> Self {
        let mut saved = Vec::new();
        for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_FSIZE] {
            if let Ok((soft, hard)) = getrlimit(resource) {
                if soft < hard && setrlimit(resource, hard, hard).is_ok() {
                    saved.push((resource, soft, hard));
                }
            }
        }
        Self {
            resources: saved,
            umask: umask(Mode::from_bits_truncate(0o022)),
        }
    }

    /// The limits as they were inherited.
    pub fn inherited(&self) -> Inherited {
        let soft = |wanted: Resource| {
            let saved = self
                .resources
                .iter()
                .find(|(resource, ..)| *resource == wanted);
            saved.map_or_else(
                || getrlimit(wanted).map_or(u64::MAX, |(soft, _)| soft),
                |(_, soft, _)| *soft,
            )
        };
        Inherited {
            files: soft(Resource::RLIMIT_NOFILE),
            file_size: soft(Resource::RLIMIT_FSIZE),
            stack: soft(Resource::RLIMIT_STACK),
            umask: self.umask.bits(),
        }
    }

    /// The same as [`Limits::make_room`] for root, who may raise hard limits too: a
    /// set-id program must not fail half-way because of its caller's. `inherited`
    /// is what [`Limits::inherited`] told in the process that has become this one.
    pub fn make_room_as_root(inherited: Inherited) -> Self {
        let mut saved = Vec::new();
        for (resource, soft, enough) in [
            (Resource::RLIMIT_NOFILE, inherited.files, ENOUGH_FILES),
            (Resource::RLIMIT_FSIZE, inherited.file_size, u64::MAX),
        ] {
            if let Ok((_, hard)) = getrlimit(resource) {
                let room = hard.max(enough);
                // Some containers take root's right to raise hard limits.
                if setrlimit(resource, room, room).is_err() {
                    let _ = setrlimit(resource, hard, hard);
                }
                saved.push((resource, soft.min(hard), hard));
            }
        }
        // The kernel has lowered it for a set-id program, execve(2) of the next one
        // goes by it.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_STACK) {
            saved.push((Resource::RLIMIT_STACK, inherited.stack.min(hard), hard));
        }
        umask(Mode::from_bits_truncate(0o022));
        Self {
            resources: saved,
            umask: Mode::from_bits_truncate(inherited.umask),
        }
    }

    /// Puts the inherited limits back.
    pub fn restore(&self) {
        umask(self.umask);
        for (resource, soft, hard) in &self.resources {
            // Lowering a soft limit below an allowed hard one cannot fail.
            let _ = setrlimit(*resource, *soft, *hard);
        }
    }
}

/// Which of the standard descriptors are not the program's: those that
/// [`hold_standard_descriptors`] filled, a bit each.
pub fn held_standard_descriptors() -> u8 {
    let mut held = 0;
    each_standard_descriptor(|number, descriptor| {
        let flags = fcntl(descriptor, FcntlArg::F_GETFD).map(FdFlag::from_bits_truncate);
        let is_held = flags.is_ok_and(|flags| flags.contains(FdFlag::FD_CLOEXEC));
        held |= u8::from(is_held) << number;
    });
    held
}

/// Closes these standard descriptors at exec: the C library of a set-id program
/// fills closed ones, for good.
pub fn close_standard_descriptors_at_exec(which: u8) {
    each_standard_descriptor(|number, descriptor| {
        if which >> number & 1 == 1 {
            // It is open, so this cannot fail.
            let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    });
}

fn each_standard_descriptor(mut work: impl FnMut(usize, BorrowedFd<'_>)) {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (number, descriptor) in [input.as_fd(), output.as_fd(), error.as_fd()]
        .into_iter()
        .enumerate()
    {
        work(number, descriptor);
    }
}

/// Fills closed standard descriptors until exec, so that no file opened for
/// set-up becomes anybody's standard error. The program finds them closed as the
/// caller left them.
pub fn hold_standard_descriptors() {
    each_standard_descriptor(|_, standard| {
        if fcntl(standard, FcntlArg::F_GETFD) == Err(Errno::EBADF) {
            if let Ok(placeholder) =
                open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            {
                std::mem::forget(placeholder);
            }
        }
    });
}
