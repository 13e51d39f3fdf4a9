//! What was fetched from registries and is kept, by digest.
//!
//! ```text
//! DIRECTORY/blobs/sha256/HEX       bytes with this digest
//! DIRECTORY/partial/sha256-HEX     the beginning of them, while they are fetched
//! DIRECTORY/images/HEX.json        which of them belong to an image, and its name
//! ```
//!
//! Several builds share it without knowing of one another. A file gets its name in
//! `blobs` by rename(2), when its digest was checked, and is never changed after;
//! it is checked again each time it is used. Who fetches holds an exclusive lock
//! (flock(2)) on the partial file, which ends with the process; who uses a blob
//! holds a shared one, which `cache clean` respects. What a killed process leaves
//! is a partial file, of which the next one fetches the rest.
//!
//! Owns: the files in there. Never: trusts one by its name.

pub mod contents;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use image::Shown;
use launcher::Error;
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::digest::{mismatch, Digest, Hasher};
use crate::workdir;

/// The variable that names the directory.
pub const VARIABLE: &str = "SINGULARITY_CACHEDIR";

/// How long to wait before looking again whether another process has what is wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The cache; or, without one, a place for files without names.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: Option<PathBuf>,
    temporary: PathBuf,
}

/// Checked bytes, open and locked against removal for as long as this lives.
#[derive(Debug)]
pub struct Blob {
    /// The file, to be read at its beginning.
    pub file: File,
    /// How many bytes.
    pub size: u64,
}

/// What [`Cache::begin`] finds.
#[derive(Debug)]
pub enum Begun {
    /// It is there.
    Ready(Blob),
    /// It has to be fetched, or the rest of it.
    Missing(Box<Partial>),
}

/// Bytes that are being fetched.
#[derive(Debug)]
pub struct Partial {
    file: File,
    /// Its name, and the one it gets.
    names: Option<(PathBuf, PathBuf)>,
    /// It stays for the next try if this one fails.
    kept: bool,
    hasher: Hasher,
    have: u64,
}

/// An image that was fetched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// How it was named last.
    pub name: String,
    /// Its manifest, configuration and layers.
    pub blobs: Vec<Digest>,
}

impl Cache {
    /// The user's cache: of `SINGULARITY_CACHEDIR`, else `$XDG_CACHE_HOME/singularity`,
    /// else `~/.cache/singularity`. Without `use_it`, and for somebody without a home,
    /// there is none, and bytes go to files without names in `tmpdir`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(use_it: bool, tmpdir: Option<&Path>) -> Result<Self, Error> {
        let directory = if use_it { directory() } else { None };
        if let Some(directory) = &directory {
            for name in ["blobs/sha256", "blobs/sha512", "partial", "images"] {
                let path = directory.join(name);
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&path)
                    .map_err(|error| failed(directory, &error))?;
            }
        }
        Ok(Self {
            directory,
            temporary: workdir::temporary_directory(tmpdir),
        })
    }

    fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        let name = digest.algorithm_name();
        Some(directory.join("blobs").join(name).join(digest.hex()))
    }

    /// The bytes with this digest, if they are there and undamaged. A damaged file is
    /// removed.
    pub fn find(&self, digest: &Digest) -> Option<Blob> {
        let path = self.blob_path(digest)?;
        let mut file = File::open(&path).ok()?;
        // Where locks are refused, cleaning removes the name, and the bytes stay as
        // long as they are open.
        let _ = flock(&file, FlockOperation::LockShared);
        match hash(&mut file, digest) {
            Ok((size, found)) if found == *digest => {
                touch(&file);
                Some(Blob { file, size })
            }
            outcome => {
                tracing::warn!(
                    "{} in the cache is damaged{}; it is fetched again",
                    Shown::new(&path),
                    outcome
                        .err()
                        .map(|error| format!(" ({error})"))
                        .unwrap_or_default()
                );
                remove_same(&path, &file);
                None
            }
        }
    }

    /// Begins to fetch the bytes with this digest, which are not there; or waits for
    /// another process that is at it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn begin(&self, digest: &Digest) -> Result<Begun, Error> {
        let Some((blob, directory)) = self.blob_path(digest).zip(self.directory.as_ref()) else {
            return self.unnamed(digest).map(Box::new).map(Begun::Missing);
        };
        let name = format!("{}-{}", digest.algorithm_name(), digest.hex());
        let path = directory.join("partial").join(&name);
        let mut told = false;
        loop {
            let file = open_partial(&path).map_err(|error| failed(directory, &error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_same(&path, &file) => {
                    // Its last owner may have finished between two looks.
                    if blob.exists() {
                        if let Some(found) = self.find(digest) {
                            remove_same(&path, &file);
                            return Ok(Begun::Ready(found));
                        }
                    }
                    return self
                        .resume(file, path, blob, digest)
                        .map(Box::new)
                        .map(Begun::Missing);
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    if !told {
                        tracing::info!("another process fetches {}; waiting", digest.short());
                        told = true;
                    }
                    thread::sleep(LOOK_AGAIN);
                }
                // No locks here: a file of this process's own.
                Err(_) => {
                    remove_same(&path, &file);
                    let own = path.with_file_name(format!("{name}.{}", workdir::random_name()));
                    let file = open_partial(&own).map_err(|error| failed(directory, &error))?;
                    let mut partial = self.resume(file, own, blob, digest)?;
                    partial.kept = false;
                    return Ok(Begun::Missing(Box::new(partial)));
                }
            }
            if blob.exists() {
                if let Some(found) = self.find(digest) {
                    return Ok(Begun::Ready(found));
                }
            }
        }
    }

    fn resume(
        &self,
        mut file: File,
        path: PathBuf,
        blob: PathBuf,
        digest: &Digest,
    ) -> Result<Partial, Error> {
        let mut hasher = Hasher::new(digest.algorithm());
        let have = feed(&mut file, &mut hasher).map_err(|error| failed(&path, &error))?;
        Ok(Partial {
            file,
            names: Some((path, blob)),
            kept: true,
            hasher,
            have,
        })
    }

    fn unnamed(&self, digest: &Digest) -> Result<Partial, Error> {
        Ok(Partial {
            file: self.temporary_file()?,
            names: None,
            kept: false,
            hasher: Hasher::new(digest.algorithm()),
            have: 0,
        })
    }

    /// A file without a name, which goes with its last descriptor.
    ///
    /// # Errors
    /// As open(2).
    pub fn temporary_file(&self) -> Result<File, Error> {
        let place = &self.temporary;
        let unnamed = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(place);
        let file = unnamed.or_else(|_| {
            let path = place.join(format!("singularity-{}", workdir::random_name()));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            fs::remove_file(&path).map(|()| file)
        });
        file.map_err(|error| {
            Error::io(
                format!("make a temporary file in {}", Shown::new(place)),
                &error,
            )
            .hint("--tmpdir, SINGULARITY_TMPDIR or TMPDIR names another place to work in")
        })
    }

    /// Notes that an image is there, or was used again.
    pub fn record(&self, manifest: &Digest, record: &Record) {
        let Some(directory) = &self.directory else {
            return;
        };
        let images = directory.join("images");
        let path = images.join(format!("{}.json", manifest.hex()));
        let new = images.join(format!(".{}", workdir::random_name()));
        let written = serde_json::to_vec_pretty(record)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            // Only `cache list` misses it.
            tracing::info!("note the image in {}: {error}", images.display());
            let _ = fs::remove_file(&new);
        }
    }
}

impl Partial {
    /// How many bytes are there.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Puts bytes behind those that are there.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| {
            let place = match &self.names {
                Some((path, _)) => path.parent().unwrap_or(path).to_owned(),
                None => PathBuf::from("the directory for temporary files"),
            };
            failed(&place, &error)
        })?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is there.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn restart(&mut self, digest: &Digest) -> Result<(), Error> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|error| Error::io("begin a download again", &error))?;
        self.hasher = Hasher::new(digest.algorithm());
        self.have = 0;
        Ok(())
    }

    /// Checks what has come, and gives it its name.
    ///
    /// # Errors
    /// It is something else: then nothing of it is kept.
    pub fn finish(mut self, digest: &Digest, what: &str) -> Result<Blob, Error> {
        let found = self.hasher.clone().finish();
        if found != *digest {
            self.kept = false;
            return Err(mismatch(what, digest, &found));
        }
        let file = self
            .file
            .try_clone()
            .map_err(|error| Error::io("finish a download", &error))?;
        if let Some((path, blob)) = &self.names {
            let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o400);
            fs::set_permissions(path, read_only)
                .and_then(|()| fs::rename(path, blob))
                .map_err(|error| failed(blob, &error))?;
            self.names = None;
            let _ = flock(&file, FlockOperation::LockShared);
        }
        Ok(Blob {
            file,
            size: self.have,
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let (Some((path, _)), false) = (&self.names, self.kept && self.have > 0) {
            remove_same(path, &self.file);
        }
    }
}

/// The user's cache directory, if it is to be known.
pub fn directory() -> Option<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable(VARIABLE)
        .or_else(|| {
            variable("XDG_CACHE_HOME")
                .filter(|path| path.is_absolute())
                .or_else(|| Some(variable("HOME")?.join(".cache")))
                .map(|cache| cache.join("singularity"))
        })
        .map(|path| std::path::absolute(&path).unwrap_or(path))
}

fn failed(place: &Path, error: &io::Error) -> Error {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    Error::io(format!("write to the cache {}", Shown::new(place)), error).hint(if full {
        format!(
            "singularity cache clean makes room; {VARIABLE} names another directory, \
             --disable-cache goes without"
        )
    } else {
        format!("{VARIABLE} names another directory, --disable-cache goes without")
    })
}

fn open_partial(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn feed(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let length = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if length == 0 {
            return Ok(size);
        }
        hasher.update(buffer.get(..length).unwrap_or_default());
        size += length as u64;
    }
}

fn hash(file: &mut File, digest: &Digest) -> io::Result<(u64, Digest)> {
    let mut hasher = Hasher::new(digest.algorithm());
    let size = feed(file, &mut hasher)?;
    file.seek(SeekFrom::Start(0))?;
    Ok((size, hasher.finish()))
}

/// When a file was used last is when it changed last: nobody changes it.
pub(crate) fn touch(file: &File) {
    // Not noticed: it counts as older than it is.
    let _ = file.set_modified(SystemTime::now());
}

/// Whether a path still names the open file.
pub(crate) fn is_same(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(open)) = (path.symlink_metadata(), file.metadata()) else {
        return false;
    };
    (named.dev(), named.ino()) == (open.dev(), open.ino())
}

/// Removes a path if it still names the open file.
pub(crate) fn remove_same(path: &Path, file: &File) {
    if is_same(path, file) {
        // Another process may have been faster.
        let _ = fs::remove_file(path);
    }
}
