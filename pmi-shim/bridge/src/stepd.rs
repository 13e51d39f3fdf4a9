//! The process of Slurm that a node's ranks are below.
//!
//! A step without PMI has no connection to it, and under PMI-2 its end is not heard:
//! ranks of the node have inherited the other ends of the sockets of those that were
//! started before them. So the process itself is watched. Slurm alone leaves ranks
//! whose slurmstepd is killed where they are, with nobody to end them any more.
//!
//! Owns: finding it. Never: signals it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// What it is called (proc_pid_comm(5)).
const NAME: &str = "slurmstepd";

/// So many scripts and shells may be between it and a rank.
const DEEPEST: usize = 64;

/// A descriptor of the slurmstepd above a rank, which tells when it ends. `None` where
/// it cannot be seen: the rank has a PID namespace of its own, or has ended.
pub fn above(rank: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut process = Process::of(sys::number_of(rank)?)?;
    for _ in 0..DEEPEST {
        let parent = process.parent;
        if parent <= 1 {
            return None;
        }
        match Process::of(parent) {
            Some(found) if found.name == NAME => return opened(parent),
            Some(found) => process = found,
            // With hidepid= of proc(5) users see their own processes only.
            None => return opened(parent),
        }
    }
    None
}

/// Unless it has ended meanwhile: its number may be another's by now.
fn opened(number: u32) -> Option<OwnedFd> {
    let same = |process: &Option<Process>| process.as_ref().is_none_or(|found| found.name == NAME);
    let descriptor = sys::pidfd(number).ok()?;
    (same(&Process::of(number)) && !crate::member::ready(descriptor.as_fd())).then_some(descriptor)
}

/// What is known of a process.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    name: String,
    parent: u32,
}

impl Process {
    fn of(number: u32) -> Option<Process> {
        let stat = std::fs::read(format!("/proc/{number}/stat")).ok()?;
        Process::in_stat(&String::from_utf8_lossy(&stat))
    }

    /// From `NUMBER (NAME) STATE PARENT …`, where NAME may hold anything.
    fn in_stat(stat: &str) -> Option<Process> {
        let (before, after) = stat.rsplit_once(')')?;
        Some(Process {
            name: before.split_once('(')?.1.to_owned(),
            parent: after.split_whitespace().nth(1)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_hides_no_parent() {
        let found = Process::in_stat("71 (a) S 1 (b) R 12 71 71 0 -1");
        let wanted = Process {
            name: "a) S 1 (b".into(),
            parent: 12,
        };
        assert_eq!(found, Some(wanted));
        for text in ["", "71", "71 (a", "71 (a) S", "71 (a) S x"] {
            assert_eq!(Process::in_stat(text), None, "{text}");
        }
    }

    #[test]
    fn this_process_and_its_parent_are_known() {
        let own = Process::of(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        let rank = sys::pidfd(std::process::id()).unwrap();
        assert_eq!(sys::number_of(rank.as_fd()), Some(std::process::id()));
        // No test runs below a step's daemon.
        assert!(above(rank.as_fd()).is_none());
    }
}
