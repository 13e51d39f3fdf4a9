//! Segments of shared memory that programs had no time to remove.
//!
//! An MPI removes its segments itself, as soon as all its ranks have them or at the
//! latest in MPI_Finalize. Ranks that are killed leave them in /dev/shm, where they
//! are memory that nobody gets back. So it is noted in every fence which of them the
//! ranks have, and what is left after a bad end is removed.
//!
//! Owns: the names. Never: touches a file that is not an MPI's by its name, as
//! programs keep data of their own there on purpose.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::sys;

const PLACE: &str = "/dev/shm/";

/// How the names of segments begin: MPICH, Intel MPI, Open MPI 4 and 5.
const BEGINNINGS: &[&str] = &[
    "mpich_shm_",
    "mpich_shar_tmp",
    "Intel_MPI_",
    "vader_segment.",
    "sm_segment.",
    "osc_sm.",
];

/// The segments that a member's ranks were seen with.
#[derive(Debug, Default)]
pub struct Segments(BTreeSet<PathBuf>);

impl Segments {
    /// Notes which segments a process has mapped.
    pub fn note(&mut self, process: BorrowedFd<'_>) {
        let Some(number) = sys::number_of(process) else {
            return;
        };
        // A process that has just ended has none.
        let maps = std::fs::read(format!("/proc/{number}/maps")).unwrap_or_default();
        self.0.extend(segments_in(&String::from_utf8_lossy(&maps)));
    }

    /// Removes what is left of them.
    pub fn remove(&self) {
        let own = nix::unistd::geteuid().as_raw();
        for path in &self.0 {
            if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == own) {
                // Another rank's bridge may be doing the same.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// The segments in the text of a process's maps (proc_pid_maps(5)).
fn segments_in(maps: &str) -> impl Iterator<Item = PathBuf> + '_ {
    maps.lines().filter_map(|line| {
        let path = &line[line.find(PLACE)?..];
        let name = &path[PLACE.len()..];
        let known = BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning));
        // " (deleted)" is said after the name of what is removed already.
        (known && !name.contains(['/', ' '])).then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_of_mpis_that_are_still_there_are_noted() {
        let maps = "7f00-7f01 rw-s 00000000 00:17 5 /dev/shm/mpich_shm_7a388c5c_0\n\
             7f01-7f02 rw-s 00000000 00:17 6 /dev/shm/mpich_shar_tmpI2SMi6 (deleted)\n\
             7f02-7f03 rw-s 00000000 00:17 7 /dev/shm/results-of-last-week\n\
             7f03-7f04 rw-s 00000000 00:17 8 /dev/shm/vader_segment.c1.1000.b67c028e.0\n\
             7f04-7f05 r-xp 00000000 08:01 9 /usr/lib/libmpi.so.12\n";
        let found: Vec<PathBuf> = segments_in(maps).collect();
        let wanted = ["mpich_shm_7a388c5c_0", "vader_segment.c1.1000.b67c028e.0"];
        assert_eq!(found, wanted.map(|name| PathBuf::from(PLACE).join(name)));
    }
}
