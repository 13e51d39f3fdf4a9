//! Giving up privilege, for good, before the user's program runs.
//!
//! Owns: every change of ids and capabilities. Never: gives back what
//! [`drop_for_good`] took.

use nix::errno::Errno;
use nix::unistd::{geteuid, setegid, seteuid, setgroups, Gid, Uid};

use crate::error::{Error, Step};
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
        for number in 0..64 {
            match process::drop_bounding_capability(number) {
                Ok(()) => {}
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(Error::call(step(), errno)),
            }
        }
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
    /// From now on this process, which is root's, opens, makes and looks up files
    /// with the user's rights and no others; what it may mount stays.
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
        let held = process::capabilities().step(step)?;
        if self.uid != 0 && held.effective & process::FILE_OVERRIDES != 0 {
            return Err(Error::new(step(), "root's rights to files are still there"));
        }
        Ok(())
    }
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
    process::set_file_ids(0, 0).step(step)?;
    let result = work();
    process::set_file_ids(uid, gid).step(step)?;
    Ok(result)
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
