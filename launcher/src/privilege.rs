//! Giving up privilege, for good, before the user's program runs.
//!
//! Owns: every change of capabilities. Never: gives any back.

use nix::errno::Errno;

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
    process::set_no_new_privileges().step(step)?;
    if !process::has_no_new_privileges() {
        return Err(Error::new(step(), "no_new_privs did not stay set"));
    }
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
