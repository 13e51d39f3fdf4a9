//! What one start takes of the kernel: programs executed by the process that
//! becomes the program, and processes made. Counts do not vary as times do.
//!
//! Owns: counting without tracing, which would take a set-id program its rights:
//! fanotify(7) tells who opens a file to execute it, /proc/loadavg the last process
//! id that was given. Never: takes times.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use serde::{Deserialize, Serialize};

use crate::round::Contender;

/// Starts of which the least number of processes is taken: others make some, too.
const STARTS: usize = 15;

/// What one start of a program that does nothing took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// The way.
    pub way: String,
    /// Different programs that the process executed, loaders of libraries among them.
    pub programs: u64,
    /// Processes that were made, the first among them.
    pub processes: u64,
}

/// Counts some starts. Only for root; `image` may be on a file system of its own.
///
/// # Errors
/// fanotify(7) does not work here, or the program failed.
pub fn count(contender: &Contender, image: Option<&Path>) -> Result<Calls, String> {
    let failed = |what: &str, errno: Errno| format!("{what}: {}", errno.desc());
    let mut least: Option<Calls> = None;
    for _ in 0..STARTS {
        let watch = Fanotify::init(
            InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC,
        )
        .map_err(|errno| failed("watch what is executed (fanotify)", errno))?;
        for place in file_systems(contender, image) {
            watch
                .mark(
                    MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM,
                    MaskFlags::FAN_OPEN_EXEC,
                    nix::fcntl::AT_FDCWD,
                    Some(place),
                )
                .map_err(|errno| failed("watch what is executed (fanotify)", errno))?;
        }
        let before = last_process();
        let mut child = Command::new(&contender.words[0])
            .args(&contender.words[1..])
            .envs(contender.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", contender.name))?;
        let status = child
            .wait()
            .map_err(|error| format!("{}: {error}", contender.name))?;
        let processes = last_process().saturating_sub(before);
        if !status.success() {
            return Err(format!("{}: {status}", contender.name));
        }
        let found = Calls {
            way: contender.name.clone(),
            programs: executed(&watch, child.id())
                .map_err(|errno| failed("read what was executed (fanotify)", errno))?,
            processes,
        };
        // Numbers begin anew now and then.
        let is_less = |least: &Calls| found.processes < least.processes;
        if found.processes > 0 && least.as_ref().is_none_or(is_less) {
            least = Some(found);
        }
    }
    least.ok_or_else(|| format!("{}: no process was seen", contender.name))
}

/// One place on each file system that programs come from.
fn file_systems<'a>(contender: &'a Contender, image: Option<&'a Path>) -> Vec<&'a Path> {
    let mut devices = Vec::new();
    let words = contender.words.iter().map(Path::new);
    let places = [Path::new("/"), Path::new("/usr")]
        .into_iter()
        .chain(image)
        .chain(words.filter(|word| word.is_absolute()));
    places
        .filter(|place| {
            let Ok(data) = place.metadata() else {
                return false;
            };
            let new = !devices.contains(&data.dev());
            devices.push(data.dev());
            new
        })
        .collect()
}

/// How often this process opened something to execute it.
fn executed(watch: &Fanotify, pid: u32) -> nix::Result<u64> {
    let mut count = 0;
    loop {
        match watch.read_events() {
            Ok(events) => {
                let own = events.iter().filter(|event| event.pid() as u32 == pid);
                count += own.count() as u64;
            }
            Err(Errno::EAGAIN) => return Ok(count),
            Err(errno) => return Err(errno),
        }
    }
}

/// The number that was given to the last process: the last word of /proc/loadavg.
fn last_process() -> u64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let last = text.split_whitespace().last();
    last.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The counts as a table, one way a line.
pub fn table(all: &[Calls]) -> String {
    let mut text = String::from(
        "What one start of a program that does nothing takes of the kernel\n  executed  processes  way\n",
    );
    for calls in all {
        text.push_str(&format!(
            "  {:>8}  {:>9}  {}\n",
            calls.programs, calls.processes, calls.way
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_process_has_a_number() {
        assert!(last_process() > 0);
    }

    #[test]
    fn each_file_system_is_watched_once() {
        let contender = Contender::new("x", ["/bin/true", "relative", "/usr/bin"]);
        let all = file_systems(&contender, Some(Path::new("/")));
        let mut devices: Vec<_> = all.iter().map(|p| p.metadata().unwrap().dev()).collect();
        devices.dedup();
        assert_eq!(devices.len(), all.len());
    }

    /// Root alone may watch.
    #[test]
    fn a_shell_that_becomes_another_has_executed_one_more() {
        if !nix::unistd::geteuid().is_root() {
            let contender = Contender::new("x", ["/bin/sh", "-c", "exit 0"]);
            assert!(count(&contender, None).unwrap_err().contains("fanotify"));
            return;
        }
        let of = |script| {
            let contender = Contender::new("x", ["/bin/sh", "-c", script]);
            count(&contender, None).unwrap()
        };
        let (one, two) = (of("exit 0"), of("exec /bin/cat"));
        assert!(two.programs > one.programs, "{one:?} {two:?}");
        assert!(one.programs > 0 && one.processes > 0, "{one:?}");
    }
}
