//! The subordinate ids that the administrator gave a user.
//!
//! Owns: finding them (subuid(5), or getsubids(1) where they come from a
//! directory service), and having them mapped by newuidmap(1) and newgidmap(1).
//! Never: makes a namespace.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use launcher::Error;
use nix::errno::Errno;
use nix::unistd::{getegid, geteuid, getpid, Uid, User};

use super::sys::{self, Side};
use super::Kind;
use crate::tool;

/// Ids of a distribution end with nobody's, 65534.
const ENOUGH: u32 = 65_535;

/// The most lines that a map takes; see user_namespaces(7).
const LINES: usize = 340;

/// A run of ids: the first, and how many.
type Range = (u32, u32);

/// Whose root this process is, which is root already: the machine's, or, as in some
/// containers, that of a user namespace that somebody else has made.
pub fn kind_of_root() -> Kind {
    let count = |file: &str| {
        let map = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        ids_in(&map)
    };
    match count("uid_map").min(count("gid_map")) {
        // A map of all ids is the machine's; without /proc there is no other sign.
        0 | 4_294_967_295.. => Kind::Root,
        few if few < u64::from(ENOUGH) => Kind::Single,
        _ => Kind::Subordinate,
    }
}

/// How many ids a map has; see user_namespaces(7).
fn ids_in(map: &str) -> u64 {
    map.lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

/// What will be mapped behind the user's own ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subordinate {
    users: Vec<Range>,
    groups: Vec<Range>,
}

impl Subordinate {
    /// Those of the user who runs this, if there are enough for a distribution.
    pub fn of_the_user() -> Option<Self> {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        let of = |file: &str, option: &[&str]| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let mut ranges = from_table(&text, name.as_deref(), uid);
            if ranges.is_empty() {
                ranges = name
                    .as_deref()
                    .map(|name| from_service(option, name))
                    .unwrap_or_default();
            }
            ranges.truncate(LINES - 1);
            let count: u64 = ranges.iter().map(|(_, count)| u64::from(*count)).sum();
            (count >= u64::from(ENOUGH)).then_some(ranges)
        };
        Some(Self {
            users: of("/etc/subuid", &[])?,
            groups: of("/etc/subgid", &["-g"])?,
        })
    }

    /// Starts a process that will map the ids into the user namespace that this
    /// one is about to make; the caller gives the word.
    ///
    /// # Errors
    /// The tools are missing, or the limit of processes is reached.
    pub fn mapper(self) -> Result<Mapper, Error> {
        let step = "map subordinate ids";
        let tool = |name: &str| tool::find(name).ok_or_else(|| tool::missing(name, None));
        let tools = [tool("newuidmap")?, tool("newgidmap")?];
        let io = |error: std::io::Error| Error::io(step, &error);
        let (word_reader, word) = sys::pipe().map_err(io)?;
        let (result, mut result_writer) = sys::pipe().map_err(io)?;
        let pid = getpid();
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        match sys::fork().map_err(|errno| Error::call(step, errno))? {
            Side::Parent(process) => Ok(Mapper {
                word,
                result,
                process,
            }),
            Side::Child => {
                drop((word, result));
                let mut byte = [0];
                let mut word_reader = word_reader;
                // Nothing to read: the caller has given up, or is gone.
                if word_reader.read(&mut byte).unwrap_or(0) == 0 {
                    sys::exit_now(0);
                }
                for (tool, own, ranges) in [
                    (&tools[0], uid, &self.users),
                    (&tools[1], gid, &self.groups),
                ] {
                    let output = Command::new(tool)
                        .arg(pid.to_string())
                        .args(map(own, ranges).iter().map(u32::to_string))
                        .stdin(Stdio::null())
                        .output();
                    let complaint = match output {
                        Ok(output) if output.status.success() => continue,
                        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                        Err(error) => format!("{}: {error}", tool.display()),
                    };
                    let complaint = complaint.replace('\n', "; ");
                    // The other side sees the end of the pipe at least.
                    let _ = write!(result_writer, "{complaint}");
                    sys::exit_now(1);
                }
                let _ = write!(result_writer, "mapped");
                sys::exit_now(0)
            }
        }
    }
}

/// The process that maps ids.
#[derive(Debug)]
pub struct Mapper {
    word: std::fs::File,
    result: std::fs::File,
    process: nix::unistd::Pid,
}

impl Mapper {
    /// Has the ids mapped: the user namespace is there.
    ///
    /// # Errors
    /// What newuidmap(1) or newgidmap(1) said.
    pub fn map(mut self) -> Result<(), Error> {
        let step = "map subordinate ids";
        // Where it is gone, the result says so.
        let _ = self.word.write_all(b"!");
        drop(self.word);
        let mut result = String::new();
        let _ = self.result.read_to_string(&mut result);
        reap(self.process);
        match result.as_str() {
            "mapped" => Ok(()),
            said => Err(Error::new(step, said).hint(
                "newuidmap and newgidmap (package uidmap) have to be installed set-id, \
                 and /etc/subuid and /etc/subgid to name ids of this user's",
            )),
        }
    }

    /// Lets it go without having mapped anything.
    pub fn dismiss(self) {
        drop((self.word, self.result));
        reap(self.process);
    }
}

fn reap(process: nix::unistd::Pid) {
    // It is a child of this process, so it can only be interrupted.
    while nix::sys::wait::waitpid(process, None) == Err(Errno::EINTR) {}
}

/// `inside outside count` of each line of a map: root is the user's own id, and
/// what follows are the ranges in order.
fn map(own: u32, ranges: &[Range]) -> Vec<u32> {
    let mut words = vec![0, own, 1];
    let mut inside = 1_u32;
    for (first, count) in ranges {
        let count = (*count).min(u32::MAX - inside);
        words.extend([inside, *first, count]);
        inside += count;
    }
    words
}

/// The ranges of a user's in the text of /etc/subuid or /etc/subgid.
fn from_table(text: &str, name: Option<&str>, uid: Uid) -> Vec<Range> {
    let id = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let whose = fields.next()?;
            if Some(whose) != name && whose != id {
                return None;
            }
            let first: u32 = fields.next()?.parse().ok()?;
            let count: u32 = fields.next()?.parse().ok()?;
            (count > 0 && first.checked_add(count - 1).is_some()).then_some((first, count))
        })
        .collect()
}

/// The same from where nsswitch.conf(5) has them. Lines are `0: NAME FIRST COUNT`.
fn from_service(option: &[&str], name: &str) -> Vec<Range> {
    let Some(tool) = tool::find("getsubids") else {
        return Vec::new();
    };
    let Ok(output) = Command::new(tool)
        .args(option)
        .arg(name)
        .stdin(Stdio::null())
        .output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().rev();
            let count = fields.next()?.parse().ok()?;
            Some((fields.next()?.parse().ok()?, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let table = "# ids\nann:100000:65536\nbob:300000:1000\n1007:400000:65536\nbob:x:1\n\
                     ann:4294967295:2\n";
        let uid = Uid::from_raw(1007);
        assert_eq!(
            from_table(table, Some("ann"), uid),
            [(100_000, 65_536), (400_000, 65_536)]
        );
        assert_eq!(
            from_table(table, Some("bob"), Uid::from_raw(9)),
            [(300_000, 1000)]
        );
        assert_eq!(from_table(table, None, Uid::from_raw(9)), []);
    }

    #[test]
    fn ids_of_a_map_are_counted() {
        assert_eq!(ids_in("         0          0 4294967295\n"), 4_294_967_295);
        assert_eq!(ids_in(" 0 1000 1\n 1 100000 65536\n"), 65_537);
        assert_eq!(ids_in(""), 0);
    }

    #[test]
    fn several_ranges_follow_one_another() {
        assert_eq!(
            map(1000, &[(100_000, 500), (900_000, 65_036)]),
            [0, 1000, 1, 1, 100_000, 500, 501, 900_000, 65_036]
        );
    }
}
