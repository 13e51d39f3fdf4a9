//! How the ranks of one job on a node come to share one namespace.
//!
//! Owns: electing the first, waiting for it, recognising its namespace, entering
//! it. Never: leaves anything behind: there is no daemon, no file and no lock
//! that outlives a process.
//!
//! A namespace is recognised by a mount in it whose source is
//! `singularity:<fingerprint>` (/proc/PID/mountinfo); it exists as long as any
//! rank does. While the first sets up, it listens on an abstract socket of that
//! name, which the kernel takes back whenever and however the first ends. The
//! others connect, which tells them its pid, and wait for a word or for the end of
//! the connection.

mod lock;
mod privileged;
mod relatives;

use std::io;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

pub use lock::Lock;
pub use relatives::session_starter;

use lock::{wait_for_first, Waited};
use relatives::{among_relatives, Searched};

use crate::error::Error;
use crate::host::Host;
use crate::plan::{Plan, Step};
use crate::request::Share;
use crate::root::marker;
use crate::sys::process;

/// How long a rank waits for another's set-up before it goes alone. A FUSE
/// server that reads a cold image over a slow network is up in seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the election came to.
#[derive(Debug)]
pub enum Outcome {
    /// Set up a namespace; nobody waits for it.
    Alone,
    /// Set up a namespace that others wait for, until this lock is dropped, or better
    /// until they are let in.
    First(Lock),
    /// This process is in the namespace of another rank.
    Joined(Met),
}

/// A member that was met, and joined.
#[derive(Debug)]
pub struct Met {
    pid: Pid,
    /// The number of its mount namespace, where it was looked at.
    pub namespace: Option<u64>,
    /// What it has found out, as it put it for others: see [`Membership`].
    pub record: String,
}

/// Finds or founds the namespace with this fingerprint, from the mount namespace with
/// the number `own_namespace`.
///
/// # Errors
/// Only what makes going on alone impossible too.
pub fn elect(
    plan: &Plan,
    host: &Host,
    share: &Share,
    fingerprint: u128,
    own_namespace: Option<u64>,
) -> Result<Outcome, Error> {
    // Who may hold the socket: where root acts for users, nobody but root.
    let uid = nix::unistd::geteuid().as_raw();
    let name = marker(fingerprint);
    let search = match share {
        Share::Name(_) => Search::Everywhere,
        Share::Auto | Share::Off => Search::Relatives,
    };
    let wanted = Wanted {
        plan,
        name: &name,
        uid: host.uid,
        made_by_root: host.acts_for_user(),
        own_namespace,
    };
    let stages = |step: &Step| matches!(step, Step::Stage(_));
    let patience = match plan.steps.iter().any(stages) {
        true => crate::stage::PATIENCE,
        false => PATIENCE,
    };
    let begun = Instant::now();
    loop {
        // Before any search: most ranks come while the first is at work, and each would
        // look at all others.
        let left = patience.saturating_sub(begun.elapsed());
        let waited = wait_for_first(&name, uid, left);
        if let Waited::Done(pid, text) = &waited {
            if let Some(met) = wanted.join_first(*pid, text) {
                return Ok(joined(met));
            }
        }
        if let Some(met) = wanted.join_any(search) {
            return Ok(joined(met));
        }
        match waited {
            Waited::Done(..) | Waited::Nobody => {}
            Waited::Foreign(other) => {
                tracing::warn!("user {other} holds the socket @{name}; this rank goes alone");
                return Ok(Outcome::Alone);
            }
            Waited::TooLong => {
                tracing::warn!(
                    "the first rank took over {} s; this rank goes alone",
                    patience.as_secs()
                );
                return Ok(Outcome::Alone);
            }
        }
        match Lock::take(&name)? {
            Some(lock) => {
                // Another may have finished between the search and the lock.
                if let Some(met) = wanted.join_any(search) {
                    return Ok(joined(met));
                }
                tracing::info!("first of the job's ranks on this node; making {name}");
                return Ok(Outcome::First(lock));
            }
            // It had not begun to listen, or took the lock just now.
            None if left.is_zero() => {
                tracing::warn!("the socket @{name} answers nobody; this rank goes alone");
                return Ok(Outcome::Alone);
            }
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn joined(met: Met) -> Outcome {
    tracing::info!("joined the namespaces of process {}", met.pid);
    Outcome::Joined(met)
}

/// Where to look for a member of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Among the descendants of the launcher's daemon on this node.
    Relatives,
    /// Among all processes of the user, though relatives first.
    Everywhere,
}

/// What a member is told by.
struct Wanted<'a> {
    plan: &'a Plan,
    /// The source of the marking mount.
    name: &'a str,
    uid: u32,
    /// Whether this process acts as root for a user, who must not be able to make
    /// it enter anything that root did not make: see [`privileged`].
    made_by_root: bool,
    /// This process's own mount namespace.
    own_namespace: Option<u64>,
}

impl Wanted<'_> {
    /// Enters the namespace of the first member found.
    fn join_any(&self, search: Search) -> Option<Met> {
        let mut joining = Joining {
            wanted: self,
            met: None,
            elsewhere: Vec::new(),
        };
        match among_relatives(&mut |pid| joining.tries(pid)) {
            Searched::Found => return joining.met,
            Searched::NotThere if search == Search::Relatives => return joining.by_mounts(),
            // The name may be known anywhere. Or hidepid= hides other users'
            // processes, the daemon's among them; or the kernel lists no children
            // (CONFIG_PROC_CHILDREN).
            Searched::NotThere | Searched::Unknown => {}
        }
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        let mut all = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw);
        match all.any(|pid| joining.tries(pid)) {
            true => joining.met,
            false => joining.by_mounts(),
        }
    }

    /// Enters the namespace of the first, which is done and has said this.
    fn join_first(&self, pid: Pid, text: &[u8]) -> Option<Met> {
        if self.made_by_root || text.is_empty() {
            return self.join(pid, By::Mounts);
        }
        self.join(pid, By::Word(text))
    }

    /// Enters the namespace of `pid` if it is a member, which is proved in this way.
    fn join(&self, pid: Pid, by: By<'_>) -> Option<Met> {
        if self.made_by_root {
            let joined = privileged::join(self.plan, pid, self.name, self.uid);
            return joined.then(|| Met {
                pid,
                namespace: None,
                record: String::new(),
            });
        }
        let directory = format!("/proc/{pid}");
        if !std::fs::metadata(&directory).is_ok_and(|metadata| metadata.uid() == self.uid) {
            return None;
        }
        // The descriptor comes before the proof: should the pid go to another
        // process in between, the descriptor is of one that has ended.
        let process = process::pidfd_open(pid).ok()?;
        let namespace = self.elsewhere(&directory)?;
        let record = match by {
            By::Environment => self.told_by_environment(&directory, namespace)?,
            By::Word(text) => self.membership(text, namespace)?,
            By::Mounts => {
                if !self.is_told_by_mounts(&directory) {
                    return None;
                }
                String::new()
            }
        };
        enter(self.plan, process.as_fd())
            .inspect_err(|errno| tracing::debug!("process {pid} cannot be joined: {errno}"))
            .ok()?;
        Some(Met {
            pid,
            namespace: Some(namespace),
            record,
        })
    }

    /// The mount namespace of the process with this directory of /proc, if that is not
    /// this process's own.
    fn elsewhere(&self, directory: &str) -> Option<u64> {
        mount_namespace(directory).filter(|theirs| Some(*theirs) != self.own_namespace)
    }

    /// A rank that has become its program carries [`VARIABLE`] as its first
    /// variable: 20 times faster to read than the table of mounts. Children of a
    /// rank inherit it, into namespaces of their own too, hence the number.
    fn told_by_environment(&self, directory: &str, namespace: u64) -> Option<String> {
        let mut beginning = [0; lock::LONGEST];
        let length = std::fs::File::open(format!("{directory}/environ"))
            .and_then(|mut file| file.read(&mut beginning))
            .ok()?;
        let first = beginning.get(..length)?.split(|&b| b == 0).next()?;
        let value = first.strip_prefix(VARIABLE.as_bytes())?;
        self.membership(value.strip_prefix(b"=")?, namespace)
    }

    /// The record in a [`Membership`] in the namespace with this number; `None` if the
    /// text is none.
    fn membership(&self, text: &[u8], namespace: u64) -> Option<String> {
        let rest = text.strip_prefix(told(self.name, namespace).as_bytes())?;
        match rest.split_first() {
            None => Some(String::new()),
            Some((b' ', record)) => Some(String::from_utf8_lossy(record).into_owned()),
            Some(_) => None,
        }
    }

    /// While a namespace is set up the host's root is still mounted on `/` beside
    /// the image's, so a finished one is told by having one mount there.
    fn is_told_by_mounts(&self, directory: &str) -> bool {
        read_all(&format!("{directory}/mountinfo"))
            .is_ok_and(|table| is_finished(&table, self.name, None))
    }
}

/// How a member is proved to be one.
#[derive(Clone, Copy)]
enum By<'a> {
    /// It carries [`VARIABLE`].
    Environment,
    /// It says so itself, over the socket of that name.
    Word(&'a [u8]),
    /// The table of its mounts: it may not have become its program yet, or have
    /// written over its environment.
    Mounts,
}

/// A search: what is quickly proved first.
struct Joining<'a> {
    wanted: &'a Wanted<'a>,
    met: Option<Met>,
    /// Processes in namespaces of their own that carry nothing.
    elsewhere: Vec<Pid>,
}

impl Joining<'_> {
    /// Whether this process is a member, and now met.
    fn tries(&mut self, pid: Pid) -> bool {
        if !self.wanted.made_by_root {
            // Most are siblings that have just been started, as this process.
            if self.wanted.elsewhere(&format!("/proc/{pid}")).is_none() {
                return false;
            }
        }
        self.met = self.wanted.join(pid, By::Environment);
        if self.met.is_none() {
            self.elsewhere.push(pid);
        }
        self.met.is_some()
    }

    /// Those that were left, by their tables of mounts.
    fn by_mounts(self) -> Option<Met> {
        let Self {
            wanted, elsewhere, ..
        } = self;
        if wanted.made_by_root {
            return None;
        }
        elsewhere
            .into_iter()
            .find_map(|pid| wanted.join(pid, By::Mounts))
    }
}

/// Whether a table of mounts (proc_pid_mountinfo(5)) is that of a finished
/// namespace of this name, whose marking mount is of the file system `kind`.
fn is_finished(table: &[u8], name: &str, kind: Option<&[u8]>) -> bool {
    let mut roots = 0;
    let mut marked = false;
    for line in table.split(|&b| b == b'\n') {
        // The fifth field is the mount point; behind the separator are the file
        // system and the source.
        let mut fields = line.split(|&b| b == b' ');
        roots += usize::from(fields.nth(4) == Some(b"/"));
        let mut after = fields.skip_while(|&field| field != b"-").skip(1);
        let found = after.next();
        marked |= after.next() == Some(name.as_bytes()) && (kind.is_none() || found == kind);
    }
    marked && roots == 1
}

/// The variable by which ranks recognise a member quickly; its value is a
/// [`Membership`].
pub const VARIABLE: &str = "SINGULARITY_NAMESPACE";

/// What a member says of itself, to ranks that wait and in its environment: the name of
/// the namespace, its number, and behind a space what may save others work.
#[derive(Debug)]
pub struct Membership {
    name: String,
    namespace: u64,
    record: String,
}

/// Longer records are not handed on, so that all is read in one piece.
const LONGEST_RECORD: usize = 384;

impl Membership {
    /// In the namespace that this process stands in, whose number is `namespace` if that
    /// is known.
    pub fn here(fingerprint: u128, namespace: Option<u64>, record: String) -> Self {
        Self {
            name: marker(fingerprint),
            namespace: namespace
                .or_else(|| mount_namespace("/proc/self"))
                .unwrap_or_default(),
            record,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        let mut text = told(&self.name, self.namespace);
        let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let fits = self.record.len() <= LONGEST_RECORD && self.record.bytes().all(is_plain);
        if fits && !self.record.is_empty() {
            text.push(' ');
            text.push_str(&self.record);
        }
        text
    }
}

fn told(name: &str, namespace: u64) -> String {
    format!("{name}:{namespace}")
}

/// The number of the mount namespace of the process with this directory of /proc.
pub fn mount_namespace(process: &str) -> Option<u64> {
    let metadata = std::fs::metadata(format!("{process}/ns/mnt"));
    metadata.map(|metadata| metadata.ino()).ok()
}

/// Reads a file of /proc, whose size nobody knows beforehand, in few calls: without
/// asking for that size, as a whole file's `read_to_end` would.
fn read_all(path: &str) -> io::Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;
    let mut content = Vec::with_capacity(16 << 10);
    let file = std::fs::File::open(path)?;
    file.take(MOST).read_to_end(&mut content)?;
    Ok(content)
}

/// Moves this process into the namespaces of `process`.
fn enter(plan: &Plan, process: BorrowedFd<'_>) -> Result<(), Errno> {
    let extra = plan.unshared();
    let mut kinds = nix::libc::CLONE_NEWNS;
    for (wanted, kind) in [
        (plan.has_user_namespace(), nix::libc::CLONE_NEWUSER),
        (extra.ipc, nix::libc::CLONE_NEWIPC),
        (extra.net, nix::libc::CLONE_NEWNET),
        (extra.uts, nix::libc::CLONE_NEWUTS),
    ] {
        if wanted {
            kinds |= kind;
        }
    }
    process::enter_namespaces(process, kinds)
}
