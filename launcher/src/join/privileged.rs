//! Joining by root on behalf of a user, who may have made anything that a user can
//! make: processes, variables, mounts, namespaces.
//!
//! Owns: the proof that a namespace is one that root made, for this very user, and
//! with this very fingerprint. Never: believes what the user's processes say of
//! themselves.
//!
//! There is no registry that could be out of date: the proof is in the kernel.
//! A namespace is entered if
//!
//! - it belongs to the user namespace of this process, in which the user has no
//!   capability to make one (a user's own belong to a user namespace of theirs);
//! - a mount in it says the fingerprint, and is a tmpfs: the set-id tools by which
//!   users may mount (fusermount3) let them choose a source, but not this type;
//! - the process in it is the user's by its *real* id, which a process in such a
//!   namespace cannot change, so it was made for this user.
//!
//! Everything is looked at by descriptors that were opened before; a pid that
//! passes to another process in between is told by its pidfd.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sched::{setns, CloneFlags};
use nix::sys::stat::{fstat, Mode};
use nix::unistd::Pid;

use super::{is_finished, read_all};
use crate::plan::Plan;
use crate::sys::process;

/// Enters the namespaces of `pid` if they are what root made for the user; whether
/// it did.
pub fn join(plan: &Plan, pid: Pid, name: &str, uid: u32) -> bool {
    match try_join(plan, pid, name, uid) {
        Ok(joined) => joined,
        Err(errno) => {
            tracing::debug!("process {pid} cannot be joined: {errno}");
            false
        }
    }
}

fn try_join(plan: &Plan, pid: Pid, name: &str, uid: u32) -> Result<bool, Errno> {
    let directory = format!("/proc/{pid}");
    let process = process::pidfd_open(pid)?;
    if real_user(&directory) != Some(uid) {
        return Ok(false);
    }
    let mount = namespace(&directory, "mnt")?;
    let own = namespace("/proc/self", "mnt")?;
    if same(&mount, &own)? || !is_roots(&mount)? {
        return Ok(false);
    }
    // The table is of the namespace in which the process stood when it was opened.
    let mut table = Vec::new();
    let read = File::open(format!("{directory}/mountinfo"))
        .and_then(|mut file| file.read_to_end(&mut table));
    if read.is_err()
        || !is_finished(&table, name, Some(b"tmpfs"))
        || !same(&mount, &namespace(&directory, "mnt")?)?
    {
        return Ok(false);
    }
    let extra = plan.unshared();
    let mut others = Vec::new();
    for (wanted, kind, flag) in [
        (extra.ipc, "ipc", CloneFlags::CLONE_NEWIPC),
        (extra.net, "net", CloneFlags::CLONE_NEWNET),
        (extra.uts, "uts", CloneFlags::CLONE_NEWUTS),
    ] {
        if wanted {
            let theirs = namespace(&directory, kind)?;
            if !is_roots(&theirs)? {
                return Ok(false);
            }
            others.push((theirs, flag));
        }
    }
    if has_ended(&process)? {
        return Ok(false);
    }
    for (namespace, flag) in others {
        setns(namespace, flag)?;
    }
    setns(mount, CloneFlags::CLONE_NEWNS)?;
    Ok(true)
}

/// The real user id, from proc_pid_status(5). The owner of the directory would be
/// the effective one, or root while the process is still set-id.
fn real_user(directory: &str) -> Option<u32> {
    let status = read_all(&format!("{directory}/status")).ok()?;
    let line = status
        .split(|&b| b == b'\n')
        .find_map(|line| line.strip_prefix(b"Uid:"))?;
    let first = line
        .split(|b| b.is_ascii_whitespace())
        .find(|word| !word.is_empty())?;
    std::str::from_utf8(first).ok()?.parse().ok()
}

fn namespace(directory: &str, kind: &str) -> Result<OwnedFd, Errno> {
    let path = format!("{directory}/ns/{kind}");
    open(
        path.as_str(),
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

fn same(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Whether a namespace belongs to the user namespace of this process.
fn is_roots(namespace_of_theirs: &OwnedFd) -> Result<bool, Errno> {
    let owner = process::owner_of_namespace(namespace_of_theirs.as_fd())?;
    same(&owner, &namespace("/proc/self", "user")?)
}

fn has_ended(process: &OwnedFd) -> Result<bool, Errno> {
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ended, PollTimeout::ZERO)? > 0)
}
