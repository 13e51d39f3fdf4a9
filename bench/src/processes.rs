//! Who is there: processes of one user, from /proc.
//!
//! Owns: reading /proc. Never: changes anything.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its name, as the kernel has it.
    pub name: String,
    /// Its proportional set size, 0 where it may not be read.
    pub kib: f64,
}

/// All processes of a user that have memory of their own.
pub fn all(uid: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            (entry.metadata().ok()?.uid() == uid).then_some(())?;
            let read = |name: &str| fs::read_to_string(entry.path().join(name));
            let name = read("comm").ok()?.trim().to_owned();
            let rollup = read("smaps_rollup").unwrap_or_default();
            Some(Process {
                pid,
                name,
                kib: proportional(&rollup),
            })
        })
        .collect()
}

/// Whether a process was started with this variable, as `NAME=VALUE`.
pub fn carries(pid: i32, variable: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|&byte| byte == 0)
        .any(|one| one == variable.as_bytes())
}

fn proportional(rollup: &str) -> f64 {
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_has_memory() {
        let uid = nix::unistd::geteuid().as_raw();
        let pid = i32::try_from(std::process::id()).unwrap();
        let all = all(uid);
        let this = all.iter().find(|process| process.pid == pid).unwrap();
        assert!(this.kib > 0.0, "{this:?}");
    }

    #[test]
    fn the_share_is_read_from_the_right_line() {
        let text =
            "5-7 ---p 00000000 00:00 0 [rollup]\nRss: 100 kB\nPss:      42 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(proportional(text), 42.0);
        assert_eq!(proportional(""), 0.0);
    }
}
