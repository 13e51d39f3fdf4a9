//! What programs with a PMIx server leave in the file system, and its removal.
//!
//! A launcher removes after its ranks what they had no time to remove: the directory
//! it gave them, and the segments of shared memory that Open MPI keeps in /dev/shm.
//! Here the bridge is the launcher. Because it can be killed itself, a child of it,
//! which does nothing else and goes by another name, waits for its end.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The word that makes the bridge's executable the child that waits.
pub const FORM: &str = "clean";

/// Waits for the end of the one who started this process, at the other end of
/// standard input, and removes what it left. The words are the directory and the
/// job's numbers.
pub fn wait_and_clear(words: impl Iterator<Item = String>) -> ExitCode {
    let words: Vec<String> = words.collect();
    let Ok([directory, four, five]) = <[String; 3]>::try_from(words) else {
        return ExitCode::FAILURE;
    };
    let _ = std::io::stdin().read(&mut [0]);
    let places = Places {
        directory: directory.into(),
        numbers: [four, five],
    };
    places.clear();
    ExitCode::SUCCESS
}

/// The directory for the server and its clients, and who removes it.
pub struct Leavings {
    places: Places,
    /// Closed by the end of this process, however it comes.
    _alive: UnixStream,
}

/// What is to be removed.
struct Places {
    directory: PathBuf,
    /// The job's numbers, as they stand in the names of segments.
    numbers: [String; 2],
}

impl Leavings {
    /// Makes the directory, and the child that waits.
    ///
    /// # Errors
    /// A line for the user.
    pub fn of(job: &str) -> Result<Leavings, String> {
        let places = Places {
            directory: make_directory()?,
            numbers: numbers(job),
        };
        let child = || -> std::io::Result<UnixStream> {
            let (alive, waiting) = UnixStream::pair()?;
            Command::new("/proc/self/exe")
                .arg0("singularity-clean")
                .arg(FORM)
                .arg(&places.directory)
                .args(&places.numbers)
                .stdin(OwnedFd::from(waiting))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            Ok(alive)
        };
        match child() {
            Ok(alive) => Ok(Leavings {
                places,
                _alive: alive,
            }),
            Err(error) => {
                places.clear();
                Err(format!("a child that cleans up: {error}"))
            }
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.places.directory
    }
}

impl Drop for Leavings {
    fn drop(&mut self) {
        self.places.clear();
    }
}

impl Places {
    fn clear(&self) {
        // It may be gone already; and what cannot be removed, nobody can be told of.
        let _ = std::fs::remove_dir_all(&self.directory);
        let own = nix::unistd::geteuid().as_raw();
        for entry in std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let of_the_job = name
                .split('.')
                .any(|part| self.numbers.iter().any(|n| n == part));
            let owned = || {
                entry
                    .metadata()
                    .is_ok_and(|meta| meta.is_file() && meta.uid() == own)
            };
            if of_the_job && owned() {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn make_directory() -> Result<PathBuf, String> {
    let chosen = std::env::var_os("TMPDIR").map(PathBuf::from);
    let places = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
    let mut failure = String::new();
    for place in chosen.into_iter().chain(places) {
        match nix::unistd::mkdtemp(&place.join("singularity-pmix.XXXXXX")) {
            Ok(path) => return Ok(path),
            Err(errno) => failure = format!("{}: {}", place.display(), errno.desc()),
        }
    }
    Err(format!("a directory for the PMIx server: {failure}"))
}

/// The numbers that Open MPI makes of the name of a job: 4 takes a hash of its name
/// without one bit, 5 folds its halves into the upper one. In hexadecimal they are
/// part of the names of its segments.
fn numbers(job: &str) -> [String; 2] {
    // Jenkins' one-at-a-time.
    let mut hash = 0_u32;
    for byte in job.bytes() {
        hash = hash.wrapping_add(u32::from(byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash = hash.wrapping_add(hash << 15);
    let four = hash & !0x8000;
    let five = (hash >> 16 ^ hash & 0xffff) << 16;
    [format!("{four:x}"), format!("{five:x}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_numbers_are_those_in_the_names_of_real_segments() {
        // vader_segment.HOST.0.b67c028e.0 of Open MPI 4.1.4, and sm_segment.HOST.0.
        // b4f20000.0 of 5.0.7, both of a job "mini.0".
        assert_eq!(numbers("mini.0"), ["b67c028e", "b4f20000"]);
    }

    #[test]
    fn segments_of_other_jobs_and_other_names_stay() {
        let job = format!("leavings.{}", std::process::id());
        let places = Places {
            directory: make_directory().unwrap(),
            numbers: numbers(&job),
        };
        let [four, five] = numbers(&job);
        let of_job = [
            format!("/dev/shm/vader_segment.host.0.{four}.0"),
            format!("/dev/shm/sm_segment.host.0.{five}.1"),
        ];
        let of_others = format!("/dev/shm/vader_segment.host.0.{four}0.0");
        for path in of_job.iter().chain([&of_others]) {
            std::fs::write(path, "").unwrap();
        }
        assert!(places.directory.is_dir());
        places.clear();
        assert!(!places.directory.exists());
        for path in &of_job {
            assert!(!Path::new(path).exists(), "{path}");
        }
        assert!(Path::new(&of_others).exists());
        std::fs::remove_file(&of_others).unwrap();
    }
}
