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
//! others connect, which tells them its pid, and wait for the connection to end.

mod privileged;

use std::io;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    bind, connect, getsockopt, listen, recv, setsockopt, socket, AddressFamily, Backlog, MsgFlags,
    SockFlag, SockType, UnixAddr,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use crate::error::{Error, Step as _};
use crate::host::Host;
use crate::plan::{Plan, Step};
use crate::request::Share;
use crate::root::marker;
use crate::sys::process;

/// How long a rank waits for another's set-up before it goes alone. A FUSE
/// server that reads a cold image over a slow network is up in seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many levels of processes between the launcher's daemon and a rank are
/// looked at: a batch shell, a binding tool, a wrapper script.
const MOST_LEVELS: usize = 6;

/// What the election came to.
#[derive(Debug)]
pub enum Outcome {
    /// Set up a namespace; nobody waits for it.
    Alone,
    /// Set up a namespace that others wait for, until this lock is dropped.
    First(Lock),
    /// This process is in the namespace of another rank.
    Joined,
}

/// Being the first; ends when dropped, at exec, or with the process.
#[derive(Debug)]
pub struct Lock {
    _listener: OwnedFd,
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
        if let Some(pid) = wanted.join_any(search) {
            return Ok(joined(pid));
        }
        match found(&name)? {
            Some(lock) => {
                // Another may have finished between the search and the lock.
                if let Some(pid) = wanted.join_any(search) {
                    return Ok(joined(pid));
                }
                tracing::info!("first of the job's ranks on this node; making {name}");
                return Ok(Outcome::First(lock));
            }
            None => match wait_for_first(&name, uid, patience.saturating_sub(begun.elapsed())) {
                Waited::Done(pid) if wanted.join(pid) => return Ok(joined(pid)),
                Waited::Done(_) | Waited::Again => {}
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
            },
        }
    }
}

fn joined(pid: Pid) -> Outcome {
    tracing::info!("joined the namespaces of process {pid}");
    Outcome::Joined
}

fn address(name: &str) -> Result<UnixAddr, Error> {
    UnixAddr::new_abstract(name.as_bytes()).step(|| format!("name the socket @{name}"))
}

fn stream_socket() -> Result<OwnedFd, Error> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .step(|| "make a socket".into())
}

/// Tries to become the first; `None` if somebody is.
fn found(name: &str) -> Result<Option<Lock>, Error> {
    let listener = stream_socket()?;
    let step = || format!("listen on the socket @{name}");
    match bind(listener.as_raw_fd(), &address(name)?) {
        Ok(()) => {
            let backlog = Backlog::new(4096).unwrap_or(Backlog::MAXCONN);
            listen(&listener, backlog).step(step)?;
            Ok(Some(Lock {
                _listener: listener,
            }))
        }
        Err(Errno::EADDRINUSE) => Ok(None),
        Err(errno) => Err(Error::call(step(), errno)),
    }
}

enum Waited {
    /// The first, with this pid, is done, or dead.
    Done(Pid),
    /// It was gone before it could be asked.
    Again,
    /// It is not this user's.
    Foreign(u32),
    TooLong,
}

/// Waits until the first lets go of the lock. Nothing is ever sent: the kernel
/// completes the connection, and ends it with the listener.
fn wait_for_first(name: &str, uid: u32, patience: Duration) -> Waited {
    let (Ok(peer), Ok(address)) = (stream_socket(), address(name)) else {
        return Waited::TooLong;
    };
    let limit = TimeVal::milliseconds(patience.as_millis().max(1) as i64);
    if setsockopt(&peer, ReceiveTimeout, &limit).is_err()
        || setsockopt(&peer, SendTimeout, &limit).is_err()
    {
        return Waited::TooLong;
    }
    match connect(peer.as_raw_fd(), &address) {
        Ok(()) => {}
        // It is between bind(2) and listen(2), or its queue is full, or it is gone.
        Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::EINTR) => {
            if patience.is_zero() {
                return Waited::TooLong;
            }
            std::thread::sleep(Duration::from_micros(200));
            return Waited::Again;
        }
        Err(_) => return Waited::TooLong,
    }
    let Ok(first) = getsockopt(&peer, PeerCredentials) else {
        return Waited::Again;
    };
    if first.uid() != uid {
        return Waited::Foreign(first.uid());
    }
    loop {
        match recv(peer.as_raw_fd(), &mut [0], MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Waited::TooLong,
            _ => return Waited::Done(Pid::from_raw(first.pid())),
        }
    }
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
    fn join_any(&self, search: Search) -> Option<Pid> {
        let mut join = |pid: Pid| self.join(pid);
        match among_relatives(&mut join) {
            Searched::Found(pid) => return Some(pid),
            Searched::NotThere if search == Search::Relatives => return None,
            // The name may be known anywhere. Or hidepid= hides other users'
            // processes, the daemon's among them; or the kernel lists no children
            // (CONFIG_PROC_CHILDREN).
            Searched::NotThere | Searched::Unknown => {}
        }
        let entries = std::fs::read_dir("/proc").into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw)
            .find(|pid| join(*pid))
    }

    /// Enters the namespace of `pid` if it is a member.
    fn join(&self, pid: Pid) -> bool {
        let directory = format!("/proc/{pid}");
        if self.made_by_root {
            return privileged::join(self.plan, pid, self.name, self.uid);
        }
        if !std::fs::metadata(&directory).is_ok_and(|metadata| metadata.uid() == self.uid) {
            return false;
        }
        // The descriptor comes before the proof: should the pid go to another
        // process in between, the descriptor is of one that has ended.
        let Ok(process) = process::pidfd_open(pid) else {
            return false;
        };
        self.is_member(&directory)
            && enter(self.plan, process.as_fd())
                .inspect_err(|errno| tracing::debug!("process {pid} cannot be joined: {errno}"))
                .is_ok()
    }

    /// Whether the process of this directory of /proc stands in the finished
    /// namespace.
    fn is_member(&self, directory: &str) -> bool {
        let Some(theirs) = mount_namespace(directory) else {
            return false;
        };
        if Some(theirs) == self.own_namespace {
            return false;
        }
        self.is_told_by_environment(directory, theirs) || self.is_told_by_mounts(directory)
    }

    /// A rank that has become its program carries [`VARIABLE`] as its first
    /// variable: 20 times faster to read than the table of mounts. Children of a
    /// rank inherit it, into namespaces of their own too, hence the number.
    fn is_told_by_environment(&self, directory: &str, namespace: u64) -> bool {
        let expected = format!("{VARIABLE}={}\0", told(self.name, namespace));
        let mut beginning = [0; 128];
        let read = std::fs::File::open(format!("{directory}/environ"))
            .and_then(|mut file| file.read(&mut beginning));
        read.is_ok_and(|length| beginning[..length].starts_with(expected.as_bytes()))
    }

    /// While a namespace is set up the host's root is still mounted on `/` beside
    /// the image's, so a finished one is told by having one mount there.
    fn is_told_by_mounts(&self, directory: &str) -> bool {
        read_all(&format!("{directory}/mountinfo"))
            .is_ok_and(|table| is_finished(&table, self.name, None))
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

/// The variable by which ranks recognise a member quickly; its value is made by
/// [`variable_here`].
pub const VARIABLE: &str = "SINGULARITY_NAMESPACE";

/// What [`VARIABLE`] is set to in the namespace this process stands in.
pub fn variable_here(fingerprint: u128) -> String {
    told(
        &marker(fingerprint),
        mount_namespace("/proc/self").unwrap_or_default(),
    )
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

enum Searched {
    Found(Pid),
    NotThere,
    /// The kernel does not tell, or only of some.
    Unknown,
}

/// Tries the processes that descend from the nearest ancestor which is not a
/// rank or part of one, nearest first.
fn among_relatives(join: &mut impl FnMut(Pid) -> bool) -> Searched {
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
                    return Searched::Found(child);
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
