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

use std::io;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    bind, connect, getsockopt, listen, recv, setsockopt, socket, AddressFamily, Backlog, MsgFlags,
    SockFlag, SockType, UnixAddr,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use crate::error::{Error, Step};
use crate::plan::Plan;
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

/// Finds or founds the namespace with this fingerprint.
///
/// # Errors
/// Only what makes going on alone impossible too.
pub fn elect(plan: &Plan, share: &Share, fingerprint: u128) -> Result<Outcome, Error> {
    let uid = nix::unistd::getuid().as_raw();
    let name = marker(fingerprint);
    let search = if matches!(share, Share::Name(_)) {
        Search::Everywhere
    } else {
        Search::Relatives
    };
    let begun = Instant::now();
    loop {
        if let Some(pid) = find(&name, uid, search) {
            match enter(plan, pid, &name) {
                Ok(()) => return Ok(joined(pid)),
                Err(errno) => tracing::debug!("process {pid} cannot be joined: {errno}"),
            }
        }
        match found(&name)? {
            Some(lock) => {
                // Another may have finished between the search and the lock.
                if let Some(pid) = find(&name, uid, search) {
                    if enter(plan, pid, &name).is_ok() {
                        return Ok(joined(pid));
                    }
                }
                tracing::info!("first of the job's ranks on this node; making {name}");
                return Ok(Outcome::First(lock));
            }
            None => match wait_for_first(&name, uid, PATIENCE.saturating_sub(begun.elapsed())) {
                Waited::Done(pid) => {
                    if is_member(pid, &name, uid) && enter(plan, pid, &name).is_ok() {
                        return Ok(joined(pid));
                    }
                }
                Waited::Again => {}
                Waited::Foreign(other) => {
                    tracing::warn!("user {other} holds the socket @{name}; this rank goes alone");
                    return Ok(Outcome::Alone);
                }
                Waited::TooLong => {
                    tracing::warn!(
                        "the first rank took over {} s; this rank goes alone",
                        PATIENCE.as_secs()
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
    /// Among all processes of the user.
    Everywhere,
}

/// A process of this user that is in the namespace called `name`.
fn find(name: &str, uid: u32, search: Search) -> Option<Pid> {
    let is_member = |pid: &Pid| is_member(*pid, name, uid);
    if search == Search::Relatives {
        if let Some(members) = relatives() {
            return members.into_iter().find(is_member);
        }
    }
    // hidepid= hides other users' processes, the daemon's among them; or the
    // kernel lists no children (CONFIG_PROC_CHILDREN).
    processes().find(is_member)
}

fn processes() -> impl Iterator<Item = Pid> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .map(Pid::from_raw)
        })
}

/// The processes that descend from the nearest ancestor which is not a rank or
/// part of one, nearest first; `None` where the kernel does not tell.
fn relatives() -> Option<Vec<Pid>> {
    let own = Pid::this();
    let mut daemon = Pid::parent();
    for _ in 0..MOST_LEVELS {
        if !carries_rank(daemon) {
            break;
        }
        daemon = parent_of(daemon)?;
    }
    let mut found = Vec::new();
    let mut level = vec![daemon];
    for _ in 0..MOST_LEVELS {
        let mut next = Vec::new();
        for pid in level {
            next.extend(children(pid)?.into_iter().filter(|child| *child != own));
        }
        if next.is_empty() {
            break;
        }
        found.extend(&next);
        level = next;
    }
    Some(found)
}

/// Whether a process has the variables that a launcher gives each rank. A daemon
/// of another user cannot be looked at, and is none.
fn carries_rank(pid: Pid) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
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
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
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

fn children(pid: Pid) -> Option<Vec<Pid>> {
    let mut all = Vec::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        // It has ended meanwhile; only the daemon itself must be there.
        return (!is_alive(pid)).then_some(all);
    };
    for task in tasks.flatten() {
        match std::fs::read_to_string(task.path().join("children")) {
            Ok(list) => {
                all.extend(
                    list.split_whitespace()
                        .filter_map(|p| p.parse().ok())
                        .map(Pid::from_raw),
                );
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_alive(pid) => return None,
            Err(_) => {}
        }
    }
    Some(all)
}

fn is_alive(pid: Pid) -> bool {
    nix::sys::signal::kill(pid, None) != Err(Errno::ESRCH)
}

/// Whether `pid` is this user's and stands in the finished namespace `name`.
///
/// While it is being set up the host's root is still mounted on `/` beside the
/// image's, so a finished one is told by having one mount there.
fn is_member(pid: Pid, name: &str, uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let directory = format!("/proc/{pid}");
    if !std::fs::metadata(&directory).is_ok_and(|metadata| metadata.uid() == uid) {
        return false;
    }
    let namespace = |path: &str| std::fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let theirs = namespace(&format!("{directory}/ns/mnt"));
    if theirs.is_none() || theirs == namespace("/proc/self/ns/mnt") {
        return false;
    }
    let mut table = Vec::with_capacity(8192);
    let opened = std::fs::File::open(format!("{directory}/mountinfo"));
    if opened
        .and_then(|mut file| file.read_to_end(&mut table))
        .is_err()
    {
        return false;
    }
    let mut roots = 0;
    let mut marked = false;
    for line in table.split(|&b| b == b'\n') {
        // See proc_pid_mountinfo(5): the fifth field is the mount point, the
        // source is the second after the separator.
        let mut fields = line.split(|&b| b == b' ');
        roots += usize::from(fields.nth(4) == Some(b"/"));
        let mut after = fields.skip_while(|&field| field != b"-");
        marked |= after.nth(2) == Some(name.as_bytes());
    }
    marked && roots == 1
}

/// Moves this process into the namespaces of `pid`.
fn enter(plan: &Plan, pid: Pid, name: &str) -> Result<(), Errno> {
    let process = process::pidfd_open(pid)?;
    // The pid may have gone to another process before the descriptor was opened.
    if !is_member(pid, name, nix::unistd::getuid().as_raw()) {
        return Err(Errno::ESRCH);
    }
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
    process::enter_namespaces(process.as_fd(), kinds)
}
