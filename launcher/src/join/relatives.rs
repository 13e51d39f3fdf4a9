//! The processes among which a job's ranks are.
//!
//! Owns: going up to the launcher's daemon and down to what it started, by /proc.
//! Never: judges or enters what it finds.

use nix::errno::Errno;
use nix::unistd::Pid;

use super::read_all;

/// How many levels of processes between the launcher's daemon and a rank are
/// looked at: a batch shell, a binding tool, a wrapper script.
const MOST_LEVELS: usize = 6;

pub(super) enum Searched {
    Found,
    NotThere,
    /// The kernel does not tell, or only of some.
    Unknown,
}

/// Tries the processes that descend from the nearest ancestor which is not a
/// rank or part of one, nearest first.
pub(super) fn among_relatives(join: &mut impl FnMut(Pid) -> bool) -> Searched {
    let own = Pid::this();
    let mut daemon = Pid::parent();
    for _ in 0..MOST_LEVELS {
        if !carries_rank(daemon) {
            break;
        }
        match parent_of(daemon) {
            Some(parent) => daemon = parent,
            None => return Searched::Unknown,
        }
    }
    let mut level = vec![daemon];
    for _ in 0..MOST_LEVELS {
        let mut next = Vec::new();
        for pid in level {
            let Some(threads) = Children::of(pid) else {
                return Searched::Unknown;
            };
            for child in threads.filter(|child| *child != own) {
                if join(child) {
                    return Searched::Found;
                }
                next.push(child);
            }
        }
        if next.is_empty() {
            break;
        }
        level = next;
    }
    Searched::NotThere
}

/// Whether a process has the variables that a launcher gives each rank. A daemon
/// of another user cannot be looked at, and is none.
fn carries_rank(pid: Pid) -> bool {
    let environment = read_all(&format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&b| b == 0).any(|variable| {
        [
            &b"PMIX_RANK="[..],
            b"PMI_RANK=",
            b"SLURM_PROCID=",
            b"PMI_ID=",
        ]
        .iter()
        .any(|name| variable.starts_with(name))
    })
}

/// The field of that number in /proc/PID/stat, counted as in proc_pid_stat(5);
/// 3 or more.
fn stat_field(pid: Pid, number: usize) -> Option<String> {
    let stat = read_all(&format!("/proc/{pid}/stat")).ok()?;
    // The second field, the command's name in parentheses, may hold anything.
    let after = stat.rsplitn(2, |&b| b == b')').next()?;
    let field = after
        .split(|&b| b == b' ')
        .filter(|f| !f.is_empty())
        .nth(number - 3)?;
    String::from_utf8(field.to_vec()).ok()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    stat_field(pid, 4)?.parse().ok().map(Pid::from_raw)
}

/// A name for the process that started this session, which is the launcher's
/// daemon on this node where each rank leads a session: its pid and start time.
/// See [`pmi_shim::Lacks::SessionStarter`].
pub fn session_starter() -> String {
    let leader = nix::unistd::getsid(None)
        .ok()
        .filter(|leader| leader.as_raw() != 0);
    let starter = leader.and_then(parent_of).unwrap_or_else(Pid::parent);
    format!("{starter}@{}", stat_field(starter, 22).unwrap_or_default())
}

/// The children of a process, those of its first thread first: it is the one
/// that most daemons fork from.
struct Children {
    pid: Pid,
    found: std::vec::IntoIter<Pid>,
    /// Threads not asked yet; `None` until the first has been.
    threads: Option<std::fs::ReadDir>,
}

impl Children {
    /// `None` where the kernel does not tell. A process that has ended has none.
    fn of(pid: Pid) -> Option<Self> {
        match read_all(&format!("/proc/{pid}/task/{pid}/children")) {
            Ok(list) => Some(Self {
                pid,
                found: Self::listed(&list),
                threads: None,
            }),
            Err(_) if is_alive(pid) => None,
            Err(_) => Some(Self {
                pid,
                found: Vec::new().into_iter(),
                threads: None,
            }),
        }
    }

    fn listed(list: &[u8]) -> std::vec::IntoIter<Pid> {
        let numbers = list
            .split(|&b| b == b' ')
            .filter_map(|word| std::str::from_utf8(word).ok());
        let pids: Vec<_> = numbers
            .filter_map(|n| n.parse().ok())
            .map(Pid::from_raw)
            .collect();
        pids.into_iter()
    }
}

impl Iterator for Children {
    type Item = Pid;

    fn next(&mut self) -> Option<Pid> {
        loop {
            if let Some(child) = self.found.next() {
                return Some(child);
            }
            let threads = match &mut self.threads {
                Some(threads) => threads,
                None => {
                    let directory = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
                    self.threads.insert(directory)
                }
            };
            let thread = threads.next()?.ok()?;
            if thread.file_name().to_str() == Some(self.pid.to_string().as_str()) {
                continue;
            }
            let list = read_all(&thread.path().join("children").to_string_lossy());
            self.found = Self::listed(&list.unwrap_or_default());
        }
    }
}

fn is_alive(pid: Pid) -> bool {
    nix::sys::signal::kill(pid, None) != Err(Errno::ESRCH)
}
