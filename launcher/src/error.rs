//! What can go wrong on the way into an image, in words a user can act on.
//!
//! Owns: the one error type of the launcher and the exit status each kind stands
//! for. Never: prints.

use std::fmt;
use std::path::Path;

use image::Shown;
use nix::errno::Errno;

/// The kinds of failure, which decide the exit status; the manual page lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Set-up failed, or the site refuses: 255.
    SetUp,
    /// Root must not do it for a user, who may be able to do it without root: 255.
    NotByRoot,
    /// The command is not in the image: 127, as in a shell.
    CommandNotFound,
    /// The command is in the image but cannot be executed: 126, as in a shell.
    CommandNotExecutable,
}

/// A failure: the step that failed with its object, the cause, and what to do.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    step: String,
    cause: String,
    hint: Option<String>,
}

impl Error {
    /// A failure to set up, such as `("mount IMAGE", "no such device")`.
    pub fn new(step: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            kind: Kind::SetUp,
            step: step.into(),
            cause: cause.into(),
            hint: None,
        }
    }

    /// A failed system call. The commonest errors that would mislead get a hint.
    pub fn call(step: impl Into<String>, errno: Errno) -> Self {
        let error = Self::new(step, words(errno));
        match errno {
            Errno::EMFILE | Errno::ENFILE => error.hint(TOO_MANY_OPEN),
            Errno::ENOSYS => error.hint("Linux 5.12 or newer is needed (uname -r tells yours)"),
            Errno::ENOMEM => error.hint("the machine or the job's memory limit is out of memory"),
            Errno::EAGAIN => error.hint("the limit of processes is reached (ulimit -u)"),
            Errno::EIO | Errno::EUCLEAN | Errno::EBADMSG | Errno::ENOTCONN | Errno::ESTALE => {
                error.hint("the image may be damaged, or the disk it is on: copy or build it again")
            }
            Errno::ENOSPC | Errno::EDQUOT => {
                error.hint("a file system is full, or your quota (df, quota)")
            }
            Errno::EROFS => error.hint("the file system it is on is read-only"),
            Errno::EACCES | Errno::EPERM => {
                error.hint("the permissions on the way to it do not let you")
            }
            _ => error,
        }
    }

    /// A failed operation of the standard library's.
    pub fn io(step: impl Into<String>, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::call(step, Errno::from_raw(number)),
            None => Self::new(step, error.to_string()),
        }
    }

    /// The same failure, of another kind.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same failure with what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure, of finding a place in the image.
    #[must_use]
    pub(crate) fn in_the_way(self) -> Self {
        self.hint(
            "something of the image is in the way, or it is damaged; \
             another destination, or --no-mount for a standard one, may do",
        )
    }

    /// The failure in one line, and what to do about it in another.
    pub fn message(&self) -> String {
        let hint = self
            .remedy()
            .unwrap_or("singularity -d shows every step on the way there");
        format!("singularity: {self}\nhint: {hint}\n")
    }

    /// What the user can do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether only root's help is refused, not the thing itself.
    pub fn is_not_by_root(&self) -> bool {
        self.kind == Kind::NotByRoot
    }

    /// The exit status that stands for this failure.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::SetUp | Kind::NotByRoot => 255,
            Kind::CommandNotFound => 127,
            Kind::CommandNotExecutable => 126,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

impl std::error::Error for Error {}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        let hint = error.hint().unwrap_or_else(|| remedy(&error).to_owned());
        let text = error.to_string();
        let (step, cause) = match text.split_once(": ") {
            Some(("", cause)) => ("image", cause),
            Some(parts) => parts,
            None => ("image", text.as_str()),
        };
        Self::new(step, cause).hint(hint)
    }
}

/// What can be done about an image that says nothing of it itself.
fn remedy(error: &image::Error) -> &'static str {
    match error.kind() {
        image::Kind::NotFound => "check the path; a relative one starts at the current directory",
        image::Kind::Permission => {
            "ask its owner for permission to read it, and to search the directories above it"
        }
        image::Kind::NotAnImage => {
            "an image is a directory, or a file that holds squashfs, EROFS, ext3, ext4 or SIF"
        }
        image::Kind::Damaged => "copy or build the image again",
        image::Kind::Unsupported => "build the image in another format",
        _ if error.cause().contains("too many open files") => TOO_MANY_OPEN,
        _ => "the file system it is on may have failed: copy or build the image again",
    }
}

const TOO_MANY_OPEN: &str =
    "too many descriptors are open already: close some, or raise the hard limit (ulimit -Hn)";

/// An errno as a cause a user understands, without its symbolic name.
pub(crate) fn words(errno: Errno) -> String {
    let text = errno.desc();
    let mut characters = text.chars();
    match characters.next() {
        // "I/O error" and the like keep their capitals.
        Some(first)
            if !text
                .chars()
                .nth(1)
                .is_some_and(|c| c.is_ascii_uppercase() || c == '/') =>
        {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

/// A path as it may appear in a message: one line, printable.
pub(crate) fn shown(path: &Path) -> Shown<'_> {
    Shown::new(path)
}

/// Gives a system call's result its step.
pub(crate) trait Step<T> {
    /// Names the step, only on failure.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|errno| Error::call(step(), errno))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::io(step(), &error))
    }
}
