//! Giving up privilege, for good, before the user's program runs.
//!
//! Owns: every change of ids and capabilities. Never: gives back what
//! [`drop_for_good`] took.

use nix::errno::Errno;
use nix::unistd::{
    getegid, geteuid, getgid, getgroups, getresgid, getresuid, getuid, setegid, seteuid, setgroups,
    setresgid, setresuid, Gid, Uid,
};

use crate::error::{Error, Step};
use crate::host::Host;
use crate::sys::process::{self, Capabilities};

/// Proof that this process has nothing left that its user does not have, and
/// that it can get nothing back. Only [`drop_for_good`] makes one; the exec of
/// the user's program asks for it.
#[derive(Debug)]
pub struct Unprivileged(());

/// Drops what the namespaces gave: sets no_new_privs, and for anyone but root
/// empties the bounding, ambient and other capability sets; then reads back.
///
/// Root keeps its capabilities: root outside is root inside.
///
/// # Errors
/// Any step that fails, or does not read back as done, is fatal.
pub fn drop_for_good(is_root: bool) -> Result<Unprivileged, Error> {
    let step = || "give up privileges".to_owned();
    forbid_gaining()?;
    if is_root {
        return Ok(Unprivileged(()));
    }
    let held = process::capabilities().step(step)?;
    if held != Capabilities::default() {
        // Only who has CAP_SETPCAP, as the maker of a user namespace does, can
        // and need empty the bounding set.
        empty_bounding_set()?;
        process::clear_ambient_capabilities().step(step)?;
        process::set_capabilities(Capabilities::default()).step(step)?;
    }
    if process::capabilities().step(step)? != Capabilities::default() {
        return Err(Error::new(step(), "capabilities are still there"));
    }
    Ok(Unprivileged(()))
}

/// Somebody on whose behalf a process of root's sets an image up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl User {
    /// The user who called this set-id program, as the kernel tells; `None` if it
    /// is not installed as it has to be: set-user-ID of root, not set-group-ID.
    pub fn calling() -> Result<Option<Self>, Error> {
        if !geteuid().is_root() || getegid() != getgid() {
            return Ok(None);
        }
        let groups = getgroups().step(|| "find out whose process this is".into())?;
        Ok(Some(Self {
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            groups: groups.iter().map(|group| group.as_raw()).collect(),
        }))
    }

    /// The user a request is carried out for, with the groups of this process.
    ///
    /// # Errors
    /// As getgroups(2).
    pub fn of(host: &Host) -> Result<Self, Error> {
        let groups = getgroups().step(|| "find out whose process this is".into())?;
        Ok(Self {
            uid: host.uid,
            gid: host.gid,
            groups: groups.iter().map(|group| group.as_raw()).collect(),
        })
    }

    /// From now on this process, which is root's, opens, makes and looks up files
    /// with the user's rights and no others; what it may mount stays. The links of
    /// /proc/PID are files too, which root may follow by a capability that is no
    /// right to files: so only those stay effective that mounting takes.
    ///
    /// # Errors
    /// Any step that fails, or does not read back as done.
    pub fn lend_file_rights(&self) -> Result<(), Error> {
        let step = || "take the user's rights to files".to_owned();
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        seteuid(root.0).step(step)?;
        setegid(root.1).step(step)?;
        setgroups(&groups).step(step)?;
        process::set_file_ids(self.uid, self.gid).step(step)?;
        if self.uid == 0 {
            return Ok(());
        }
        let held = process::capabilities().step(step)?;
        make_effective(held.effective & process::MOUNTING).step(step)?;
        let held = process::capabilities().step(step)?;
        if held.effective & !process::MOUNTING != 0 {
            return Err(Error::new(step(), "root's rights to files are still there"));
        }
        Ok(())
    }
}

/// Ends a set-id program's privilege for good: this process becomes the user's by
/// every id, loses every capability, the bounding set included, and can gain none
/// by execve(2). Then it looks whether all of that is so.
///
/// # Errors
/// Any step that fails, or does not read back as done, is fatal.
pub fn become_user_for_good(user: &User) -> Result<Unprivileged, Error> {
    let step = || "give up privileges".to_owned();
    let remains = |what: &str| Error::new(step(), format!("{what} did not stay changed"));
    if user.uid == 0 {
        return drop_for_good(true);
    }
    forbid_gaining()?;
    empty_bounding_set()?;
    process::clear_ambient_capabilities().step(step)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Groups first, while it may still be done.
    setresgid(gid, gid, gid).step(step)?;
    setresuid(uid, uid, uid).step(step)?;
    process::set_capabilities(Capabilities::default()).step(step)?;
    process::forbid_cores_and_tracing().step(step)?;
    let (uids, gids) = (getresuid().step(step)?, getresgid().step(step)?);
    if [uids.real, uids.effective, uids.saved] != [uid; 3]
        || [gids.real, gids.effective, gids.saved] != [gid; 3]
        || process::file_ids() != (user.uid, user.gid)
    {
        return Err(remains("the ids"));
    }
    if process::capabilities().step(step)? != Capabilities::default() {
        return Err(remains("the capabilities"));
    }
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(remains("the way back to root"));
    }
    let mut groups: Vec<u32> = getgroups()
        .step(step)?
        .iter()
        .map(|group| group.as_raw())
        .collect();
    let mut theirs = user.groups.clone();
    groups.sort_unstable();
    theirs.sort_unstable();
    if groups != theirs {
        return Err(remains("the groups"));
    }
    Ok(Unprivileged(()))
}

fn empty_bounding_set() -> Result<(), Error> {
    for number in 0..64 {
        match process::drop_bounding_capability(number) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(Error::call("give up privileges", errno)),
        }
    }
    Ok(())
}

/// Does `work` with root's rights to files where this process acts for a user
/// ([`User::lend_file_rights`]); otherwise just does it. For what is the
/// system's: its loop devices, its overlays in memory.
///
/// # Errors
/// If the user's rights could not be put back, which is fatal.
pub fn with_roots_files<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    let (uid, gid) = process::file_ids();
    let step = || "change rights to files".to_owned();
    if uid == 0 || !geteuid().is_root() {
        return Ok(work());
    }
    let lent = process::capabilities().step(step)?;
    process::set_file_ids(0, 0).step(step)?;
    // An overlay keeps the capabilities of who mounts it, to copy files up with.
    make_effective(lent.permitted).step(step)?;
    let result = work();
    process::set_file_ids(uid, gid).step(step)?;
    make_effective(lent.effective).step(step)?;
    Ok(result)
}

/// Does `work` with root's right to look at what a process is in (ptrace(2), access
/// mode checking), which [`User::lend_file_rights`] has taken. `work` must follow no
/// path that the user chose.
///
/// # Errors
/// If the right could not be taken away again, which is fatal.
pub fn with_roots_view<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    let step = || "change rights to processes".to_owned();
    let lent = process::capabilities().step(step)?;
    let looking = process::LOOKING_AT_PROCESSES & lent.permitted;
    make_effective(lent.effective | looking).step(step)?;
    let result = work();
    make_effective(lent.effective).step(step)?;
    Ok(result)
}

/// Makes these of the permitted capabilities effective, and no others. The last step of
/// each change of rights: by then the kernel (commit_creds() in kernel/cred.c) goes by
/// fs.suid_dumpable again, which may allow cores.
fn make_effective(effective: u64) -> Result<(), Errno> {
    let held = process::capabilities()?;
    process::set_capabilities(Capabilities { effective, ..held })?;
    process::forbid_cores_and_tracing()
}

/// Forbids this process to gain privileges by execve(2), and nothing else: the
/// rest is up to whoever started it.
///
/// # Errors
/// If it does not read back as done.
pub fn forbid_gaining() -> Result<(), Error> {
    let step = || "give up privileges".to_owned();
    process::set_no_new_privileges().step(step)?;
    if !process::has_no_new_privileges() {
        return Err(Error::new(step(), "no_new_privs did not stay set"));
    }
    Ok(())
}
