//! What /proc says about processes.

use std::fs;
use std::path::{Path, PathBuf};

/// One process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// Start time in clock ticks: with the pid it names one process for ever.
    pub(crate) started: u64,
    pub(crate) uid: u32,
    pub(crate) name: String,
    /// `Z` for one that has ended and was not yet waited for.
    pub(crate) state: char,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(directory.join("status")).ok()?;
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        // The name is in parentheses and may hold spaces and parentheses itself.
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let mut fields = tail.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Process {
            pid,
            parent,
            started,
            uid,
            name,
            state,
        })
    }

    pub(crate) fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }

    /// The command line, for people.
    pub(crate) fn command_line(&self) -> String {
        let bytes = fs::read(self.directory().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = bytes
            .split(|&byte| byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        match (words.is_empty(), self.state) {
            (_, 'Z') => format!("[{}] ended, not waited for", self.name),
            (true, _) => format!("[{}]", self.name),
            _ => words.join(" "),
        }
    }

    /// What a namespace link reads, `mnt:[4026531841]`.
    pub(crate) fn namespace(&self, kind: &str) -> Option<String> {
        let link = fs::read_link(self.directory().join("ns").join(kind)).ok()?;
        Some(link.to_str()?.to_owned())
    }

    /// The devices that are mounted in its mount namespace, as `7:0`.
    pub(crate) fn mounted_devices(&self) -> Vec<String> {
        let table = fs::read_to_string(self.directory().join("mountinfo")).unwrap_or_default();
        // Mount, parent, device, …: proc_pid_mountinfo(5).
        let devices = table.lines().filter_map(|line| line.split(' ').nth(2));
        devices.map(str::to_owned).collect()
    }

    /// What its descriptors refer to.
    pub(crate) fn descriptors(&self) -> Vec<PathBuf> {
        fs::read_dir(self.directory().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect()
    }
}

/// All processes of this machine, those in other PID namespaces too.
pub(crate) fn all() -> Vec<Process> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect()
}

/// Those of one user.
pub(crate) fn of_user(uid: u32) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.uid == uid)
        .collect()
}

/// Those that have a descriptor which reads like this.
pub(crate) fn holders(of: &Path) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.descriptors().iter().any(|held| held == of))
        .collect()
}
