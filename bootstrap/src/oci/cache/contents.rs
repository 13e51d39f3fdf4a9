//! Looking into the cache, and making room in it.
//!
//! Owns: what belongs to which image, and what may go. Never: removes what somebody
//! uses or fetches at the moment.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::Shown;
use launcher::Error;
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use super::{is_same, Record};

/// All that is in the cache.
#[derive(Debug)]
pub struct Contents {
    /// Where it is. None: the user has none.
    pub directory: Option<PathBuf>,
    /// The images, those used last first.
    pub images: Vec<KeptImage>,
    /// Blobs that belong to no image: of a build that was killed.
    pub strays: Vec<Kept>,
    /// Downloads that were not finished.
    pub unfinished: Vec<Kept>,
    blobs: HashMap<String, Kept>,
}

/// An image in the cache.
#[derive(Debug)]
pub struct KeptImage {
    /// Its name.
    pub name: String,
    /// The size of its parts, also of those that it shares with others.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
    path: PathBuf,
    blobs: Vec<String>,
}

/// A file in the cache.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its size on disk or, if that is less, its length.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
    path: PathBuf,
}

/// What cleaning did.
#[derive(Debug, Default)]
pub struct Done {
    /// How many files went.
    pub removed: usize,
    /// How large they were together.
    pub bytes: u64,
    /// How many stayed because they are in use.
    pub in_use: usize,
}

fn files(directory: &Path) -> Result<Vec<(String, Kept)>, Error> {
    let failed = |error: &std::io::Error| {
        Error::io(format!("read the cache {}", Shown::new(directory)), error)
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(&error))?;
        // It may have gone meanwhile; and what is no file is not ours.
        let Some(data) = entry.metadata().ok().filter(fs::Metadata::is_file) else {
            continue;
        };
        let kept = Kept {
            bytes: data.len().min(data.blocks() * 512),
            used: data.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            path: entry.path(),
        };
        all.push((entry.file_name().to_string_lossy().into_owned(), kept));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

impl Contents {
    /// Looks into the user's cache.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read() -> Result<Self, Error> {
        let mut contents = Self {
            directory: super::directory(),
            images: Vec::new(),
            strays: Vec::new(),
            unfinished: Vec::new(),
            blobs: HashMap::new(),
        };
        let Some(directory) = contents.directory.clone() else {
            return Ok(contents);
        };
        for algorithm in ["sha256", "sha512"] {
            let blobs = files(&directory.join("blobs").join(algorithm))?;
            let named = blobs
                .into_iter()
                .map(|(name, kept)| (format!("{algorithm}:{name}"), kept));
            contents.blobs.extend(named);
        }
        let mut used = HashSet::new();
        for (_, file) in files(&directory.join("images"))? {
            let record: Option<Record> = fs::read(&file.path)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok());
            let Some(record) = record else {
                // Not written to its end.
                contents.strays.push(file);
                continue;
            };
            let blobs: Vec<_> = record.blobs.iter().map(ToString::to_string).collect();
            let there: HashSet<&String> = blobs
                .iter()
                .filter(|blob| contents.blobs.contains_key(*blob))
                .collect();
            let bytes = there
                .iter()
                .filter_map(|blob| contents.blobs.get(*blob))
                .map(|blob| blob.bytes)
                .sum();
            used.extend(blobs.iter().cloned());
            contents.images.push(KeptImage {
                name: record.name,
                bytes,
                used: file.used,
                path: file.path,
                blobs,
            });
        }
        contents
            .images
            .sort_by(|a, b| b.used.cmp(&a.used).then(a.name.cmp(&b.name)));
        let strays = contents
            .blobs
            .iter()
            .filter(|(name, _)| !used.contains(*name));
        let strays: Vec<_> = strays.map(|(_, kept)| kept.clone()).collect();
        contents.strays.extend(strays);
        let partial = files(&directory.join("partial"))?;
        contents.unfinished = partial.into_iter().map(|(_, kept)| kept).collect();
        Ok(contents)
    }

    /// The size of everything.
    pub fn bytes(&self) -> u64 {
        let all = self.blobs.values().chain(&self.unfinished);
        all.map(|kept| kept.bytes).sum()
    }

    /// Removes what nobody uses, or only what nobody has used for so many days.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn clean(&self, days: Option<u64>, dry_run: bool) -> Result<Done, Error> {
        let age = Duration::from_secs(days.unwrap_or(0).saturating_mul(24 * 60 * 60));
        let now = SystemTime::now();
        let is_old = |used: SystemTime| {
            days.is_none() || now.duration_since(used).is_ok_and(|since| since >= age)
        };
        let mut done = Done::default();
        let mut needed = HashSet::new();
        for image in &self.images {
            if !is_old(image.used) {
                needed.extend(image.blobs.iter());
            }
        }
        for (name, blob) in &self.blobs {
            if !needed.contains(name) && is_old(blob.used) {
                remove(blob, dry_run, &mut done)?;
            }
        }
        for file in &self.unfinished {
            if is_old(file.used) {
                remove(file, dry_run, &mut done)?;
            }
        }
        for image in self.images.iter().filter(|image| is_old(image.used)) {
            if !dry_run {
                unlink(&image.path)?;
            }
        }
        for stray in self
            .strays
            .iter()
            .filter(|stray| stray.path.extension().is_some())
        {
            if !dry_run && is_old(stray.used) {
                unlink(&stray.path)?;
            }
        }
        Ok(done)
    }
}

/// Removes a file that nobody has locked.
fn remove(kept: &Kept, dry_run: bool, done: &mut Done) -> Result<(), Error> {
    // Another process may have removed it.
    let Ok(file) = File::open(&kept.path) else {
        return Ok(());
    };
    // Where locks are refused, what is open stays readable without its name.
    if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        done.in_use += 1;
        return Ok(());
    }
    if !is_same(&kept.path, &file) {
        return Ok(());
    }
    if !dry_run {
        unlink(&kept.path)?;
    }
    done.removed += 1;
    done.bytes += kept.bytes;
    Ok(())
}

fn unlink(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", Shown::new(path)), &error))
        }
        _ => Ok(()),
    }
}

/// A size as people read it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago something was.
pub fn ago(then: SystemTime) -> String {
    let Ok(since) = SystemTime::now().duration_since(then) else {
        return "now".to_owned();
    };
    let minutes = since.as_secs() / 60;
    let (number, unit) = match minutes {
        0 => return "now".to_owned(),
        1..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_told_as_people_read_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        let before = |seconds| ago(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(before(30), "now");
        assert_eq!(before(61), "1 minute ago");
        assert_eq!(before(7300), "2 hours ago");
        assert_eq!(before(3 * 86_400 + 5), "3 days ago");
        assert_eq!(ago(SystemTime::now() + Duration::from_secs(99)), "now");
    }
}
