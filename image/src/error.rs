//! What can be wrong with an image, in words for the person who named it.
//!
//! Owns: the error type, and the translation of errno into sentences that say
//! which part of the path is at fault. Never: prints, and never loses the path.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::shown::display_path;

/// The sort of failure, for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The path leads nowhere.
    NotFound,
    /// The path exists, the caller may not use it.
    Permission,
    /// There is something, and it is no image.
    NotAnImage,
    /// It is, or was, an image: truncated, inconsistent or altered.
    Damaged,
    /// A sound image of a kind that cannot be used here.
    Unsupported,
    /// The system failed to open or read.
    Io,
}

/// What is wrong, without the name of the file: what the parsers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    cause: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
}

impl Fault {
    /// A fault without a hint. `cause` is a phrase that can follow `PATH: `.
    pub fn new(kind: Kind, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            cause: cause.into(),
            hint: None,
        }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn damaged(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Damaged, cause)
    }

    pub(crate) fn unsupported(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unsupported, cause)
    }

    pub(crate) fn reading(error: &io::Error) -> Self {
        Self::new(Kind::Io, format!("cannot be read: {}", words(error)))
    }

    /// The truncated file, the commonest damage: a copy that was cut short.
    pub(crate) fn truncated(what: &str, needs: u64, has: u64) -> Self {
        Self::damaged(format!(
            "truncated: the {what} says {needs} bytes, the file has {has}"
        ))
        .with_hint(
            "copy or build the image again; the transfer or the disk quota may have cut it short",
        )
    }

    /// Puts words in front of the cause.
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.cause = format!("{place}: {}", self.cause).into();
        self
    }

    /// The sort of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The cause, as a phrase.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Fault {}

/// Why this path could not be used as an image. Prints as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    path: PathBuf,
    fault: Fault,
}

impl Error {
    /// Ties a fault to the file it was found in.
    pub fn new(path: &Path, fault: Fault) -> Self {
        Self {
            path: path.to_owned(),
            fault,
        }
    }

    /// The sort of failure.
    pub fn kind(&self) -> Kind {
        self.fault.kind
    }

    /// The path as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cause, as a phrase, without the path.
    pub fn cause(&self) -> &str {
        &self.fault.cause
    }

    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        self.fault.hint.as_deref().map(str::to_owned)
    }

    /// Explains a failed open(2). Looks along the path, which only a failure pays for.
    pub(crate) fn opening(path: &Path, error: &io::Error) -> Self {
        Self::new(path, explain_open(path, error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", display_path(&self.path), self.fault)
    }
}

impl std::error::Error for Error {}

fn explain_open(path: &Path, error: &io::Error) -> Fault {
    if path.as_os_str().is_empty() {
        return Fault::new(Kind::NotFound, "an empty string names no image");
    }
    match error.raw_os_error() {
        Some(libc::ENOENT) => missing(path),
        Some(libc::ENOTDIR) => Fault::new(Kind::NotFound, not_a_directory(path)),
        Some(libc::EACCES | libc::EPERM) => forbidden(path),
        Some(libc::ELOOP) => {
            Fault::new(Kind::NotFound, "its symbolic links lead in a circle, or are too many")
        }
        Some(libc::ENAMETOOLONG) => {
            Fault::new(Kind::NotFound, "the path, or a name in it, is longer than the system allows")
        }
        Some(libc::ENXIO) if is_socket(path) => not_a_file("a socket"),
        Some(libc::EISDIR) => Fault::new(Kind::NotAnImage, "is a directory"),
        Some(libc::EROFS) => Fault::new(
            Kind::Permission,
            "cannot be opened for writing: the file system it is on is read-only",
        ),
        Some(libc::ETXTBSY) => Fault::new(
            Kind::Permission,
            "cannot be opened for writing: it is being executed, or used as swap or as a lower layer",
        ),
        _ => Fault::new(Kind::Io, format!("cannot be opened: {}", words(error))),
    }
}

/// The refusal of everything that is neither a file nor a directory.
pub(crate) fn not_a_file(what: &str) -> Fault {
    Fault::new(Kind::NotAnImage, format!("is {what}, not an image"))
        .with_hint("an image is a file or a directory")
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.file_type().is_socket())
}

/// The ancestors from the top, the path itself last.
fn from_the_top(path: &Path) -> Vec<&Path> {
    let mut all: Vec<&Path> = path
        .ancestors()
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    all.reverse();
    all
}

/// Names of places that images come from, and no files.
fn address(path: &Path) -> Option<Fault> {
    let text = path.to_str()?;
    // Also behind the directory that it was taken to start in.
    let begins = text
        .find("://")
        .map_or(0, |at| text[..at].rfind('/').map_or(0, |slash| slash + 1));
    let text = &text[begins..];
    let (scheme, rest) = text.split_once(':')?;
    let fault = |what: &str, hint: String| {
        Some(Fault::new(Kind::NotFound, what.to_owned()).with_hint(hint))
    };
    let fetch = |verb: &str| {
        format!(
            "make an image of it first: singularity {verb} IMAGE.sqfs {}",
            display_path(Path::new(text))
        )
    };
    match scheme {
        "docker" if rest.starts_with("//") => {
            fault("is an image in a registry, not a file", fetch("pull"))
        }
        "oci" | "oci-archive" | "docker-archive" => {
            fault("is a container image, not a file", fetch("build"))
        }
        "http" | "https" if rest.starts_with("//") => fault(
            "is an address, not a file",
            "fetch it first, with curl -LO or the like, and name the file".to_owned(),
        ),
        "library" | "shub" | "oras" if rest.starts_with("//") => fault(
            "is an address of a kind that is not known here",
            "registries are known: singularity pull IMAGE.sqfs docker://HOST/NAME:TAG".to_owned(),
        ),
        _ => None,
    }
}

fn missing(path: &Path) -> Fault {
    if let Some(fault) = address(path) {
        return fault;
    }
    let mut cause = "does not exist".to_owned();
    // The first name that does not resolve is the reason: absent, or a link to what is.
    if let Some(first) = from_the_top(path)
        .into_iter()
        .find(|p| p.metadata().is_err())
    {
        match first.read_link() {
            Ok(target) => {
                let target = display_path(&target);
                cause = if first == path {
                    format!("is a symbolic link to {target}, which does not exist")
                } else {
                    let link = display_path(first);
                    format!(
                        "does not exist: {link} is a symbolic link to {target}, which does not exist"
                    )
                };
            }
            Err(_) if first != path => {
                cause = format!(
                    "does not exist: there is no directory {}",
                    display_path(first)
                );
            }
            Err(_) => {}
        }
    }
    Fault::new(Kind::NotFound, cause)
}

fn not_a_directory(path: &Path) -> String {
    from_the_top(path)
        .into_iter()
        .find(|p| p.metadata().is_ok_and(|m| !m.is_dir()))
        .map_or_else(
            || "does not exist: a name in the path is not a directory".to_owned(),
            |p| format!("does not exist: {} is not a directory", display_path(p)),
        )
}

fn forbidden(path: &Path) -> Fault {
    let hidden = from_the_top(path).into_iter().find(|p| {
        p.metadata()
            .is_err_and(|e| e.raw_os_error() == Some(libc::EACCES))
    });
    if let Some(hidden) = hidden {
        let directory = match hidden.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        return Fault::new(
            Kind::Permission,
            format!(
                "cannot be reached: no search permission (x) on the directory {}",
                display_path(directory)
            ),
        );
    }
    match path.metadata() {
        Ok(m) => Fault::new(
            Kind::Permission,
            format!(
                "permission denied: its mode is {:04o}, its owner is uid {}, its group is gid {}",
                m.mode() & 0o7777,
                m.uid(),
                m.gid()
            ),
        ),
        Err(_) => Fault::new(Kind::Permission, "permission denied"),
    }
}

/// An I/O error in words, without the number that std appends.
pub(crate) fn words(error: &io::Error) -> String {
    let known = match error.raw_os_error() {
        Some(libc::EIO) => "input/output error; the disk or the network file system has failed",
        Some(libc::EMFILE) => "this process has too many open files",
        Some(libc::ENFILE) => "the system has too many open files",
        Some(libc::ENOMEM) => "out of memory",
        Some(libc::ESTALE) => "the network file system has lost the file (stale file handle)",
        Some(libc::ENXIO | libc::ENODEV) => "the device behind it does not exist",
        Some(libc::EAGAIN) => "another process holds a lease on it",
        Some(libc::EBADF) => "the descriptor it was given is not open for reading",
        Some(libc::EOVERFLOW) => "it is too large for this program",
        Some(libc::ENOTCONN) => "the FUSE server behind it is gone",
        Some(libc::ETIMEDOUT) => "the file system did not answer in time",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    if error.raw_os_error().is_none() && error.kind() == io::ErrorKind::InvalidInput {
        return "the path holds a NUL byte".to_owned();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "unknown error".to_owned(),
    }
}
