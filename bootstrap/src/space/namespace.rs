//! The namespaces of the build space.
//!
//! Owns: making them, and the maps of ids. Never: forks the builder; that is
//! [`super::enter`]'s.

use std::io::Write as _;
use std::path::Path;

use launcher::Error;
use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::unistd::{getegid, geteuid, Gid, Uid};

use super::ids::Subordinate;
use super::Kind;

/// Makes this process root, of this kind.
///
/// # Errors
/// It cannot be had, and why.
pub fn become_root(kind: Kind) -> Result<(), Error> {
    match kind {
        Kind::Plain => Ok(()),
        Kind::Root if geteuid().is_root() => Ok(()),
        Kind::Root => Err(Error::new("build as root", "you are not root")
            .hint("leave the choice to the builder, or start it as root")),
        Kind::Subordinate => {
            let ids = Subordinate::of_the_user().ok_or_else(|| {
                Error::new("map subordinate ids", "you have none, or fewer than 65535")
                    .hint("/etc/subuid and /etc/subgid name them: ask the administrator (usermod --add-subuids)")
            })?;
            of_subordinate_ids(ids)
        }
        Kind::Single => of_a_single_id(),
    }
}

/// Makes this process, an ordinary user's, root of the best namespace it can have.
///
/// # Errors
/// User namespaces are not to be had, and why.
pub fn become_root_of_the_best() -> Result<Kind, Error> {
    let Some(ids) = Subordinate::of_the_user() else {
        of_a_single_id()?;
        return Ok(Kind::Single);
    };
    match ids.clone().mapper() {
        // The tools are missing. A namespace without a map would be of no use.
        Err(error) => {
            let hint = error.remedy().unwrap_or_default();
            tracing::warn!("subordinate ids are not used: {error}; {hint}");
            of_a_single_id()?;
            Ok(Kind::Single)
        }
        Ok(mapper) => {
            let own = (geteuid(), getegid());
            if let Err(error) = make_user() {
                mapper.dismiss();
                return Err(error);
            }
            match mapper.map() {
                Ok(()) => Ok(Kind::Subordinate),
                Err(error) => {
                    tracing::warn!("subordinate ids are not used: {error}");
                    map_own(own.0, own.1)?;
                    Ok(Kind::Single)
                }
            }
        }
    }
}

fn of_subordinate_ids(ids: Subordinate) -> Result<(), Error> {
    let mapper = ids.mapper()?;
    if let Err(error) = make_user() {
        mapper.dismiss();
        return Err(error);
    }
    mapper.map()
}

fn of_a_single_id() -> Result<(), Error> {
    let own = (geteuid(), getegid());
    make_user()?;
    map_own(own.0, own.1)
}

fn make_user() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(launcher::why_no_user_namespace)
}

fn map_own(uid: Uid, gid: Gid) -> Result<(), Error> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/self/{file}");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .map_err(
                |error| match error.raw_os_error().map(nix::errno::Errno::from_raw) {
                    Some(errno @ (nix::errno::Errno::EPERM | nix::errno::Errno::EACCES)) => {
                        // AppArmor lets the namespace be made, and takes its capabilities.
                        launcher::why_no_user_namespace(errno)
                    }
                    _ => Error::io(format!("map ids ({path})"), &error),
                },
            )
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))
}

/// Makes a mount namespace for this process, and a PID namespace for the next
/// that it starts. What the host mounts later on, such as homes that come on
/// demand, still arrives; what is mounted here is nobody else's to see.
///
/// # Errors
/// EPERM: root without the right to mount, as in some containers.
pub fn make_mount_and_pid() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).map_err(|errno| {
        Error::call("make namespaces to build in", errno)
            .hint("this root may not mount, as in a container: build as an ordinary user instead")
    })?;
    mount(
        None::<&Path>,
        "/",
        None::<&Path>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&Path>,
    )
    .map_err(|errno| Error::call("keep mounts to the build space", errno))
}

/// Shows the new PID namespace in /proc. Where parts of the old /proc are covered,
/// as in a container, the kernel refuses a new one, and the old one has to do.
pub fn mount_proc() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(errno) = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&Path>) {
        tracing::debug!("no /proc of our own: {errno}");
    }
}
