//! Making namespaces and mapping ids.
//!
//! Owns: unshare(2), the id maps, the loopback device and the host name of new
//! namespaces. Never: mounts.

use std::io::Write as _;

use nix::errno::Errno;
use nix::sched::{unshare, CloneFlags};

use crate::error::{shown, Error, Step};
use crate::host::Host;
use crate::plan::{self, Plan};
use crate::request::Unshared;

/// Makes a user namespace, where `user` says so, and a mount namespace, and those
/// of `extra` except for PID, which takes effect for children only and is made by
/// [`crate::pid`].
///
/// # Errors
/// What the kernel or the site forbids, with the setting that does.
pub fn make(host: &Host, user: bool, extra: Unshared) -> Result<(), Error> {
    let mut flags = CloneFlags::CLONE_NEWNS;
    for (wanted, flag) in [
        (user, CloneFlags::CLONE_NEWUSER),
        (extra.ipc, CloneFlags::CLONE_NEWIPC),
        (extra.net, CloneFlags::CLONE_NEWNET),
        (extra.uts, CloneFlags::CLONE_NEWUTS),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    unshare(flags).map_err(|errno| refused(errno, user))?;
    if user {
        map_ids(host)?;
    }
    Ok(())
}

/// Why unshare(2) of a user namespace failed, with the setting that forbids it.
pub fn why_no_user_namespace(errno: Errno) -> Error {
    refused(errno, true)
}

fn refused(errno: Errno, user: bool) -> Error {
    if !user {
        return Error::call("make a mount namespace", errno);
    }
    let step = "make a user namespace";
    let setting =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    match errno {
        Errno::ENOSPC => Error::new(step, "the limit of user namespaces is reached").hint(
            "user.max_user_namespaces is 0 or used up; ask the administrator to raise it (sysctl)",
        ),
        Errno::EPERM if setting("kernel/unprivileged_userns_clone").trim() == "0" => {
            Error::new(step, "not permitted to ordinary users").hint(
                "kernel.unprivileged_userns_clone is 0; ask the administrator to set it to 1 (sysctl)",
            )
        }
        Errno::EPERM | Errno::EACCES if setting("kernel/apparmor_restrict_unprivileged_userns").trim() == "1" => {
            Error::new(step, "not permitted to ordinary users").hint(
                "kernel.apparmor_restrict_unprivileged_userns is 1; ask the administrator for an AppArmor profile for this command",
            )
        }
        Errno::EPERM | Errno::EACCES => Error::new(step, "not permitted").hint(
            "inside another container or a chroot user namespaces are often forbidden; elsewhere ask the administrator",
        ),
        Errno::EINVAL => Error::new(step, "the kernel has none")
            .hint("a kernel with CONFIG_USER_NS is needed"),
        _ => Error::call(step, errno),
    }
}

/// Maps the user's and the group's id to themselves. Supplementary groups go on
/// giving access to files; they only show as the overflow group.
/// See user_namespaces(7).
fn map_ids(host: &Host) -> Result<(), Error> {
    let write = |file: &str, text: String| {
        std::fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/{file}"))
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                // AppArmor lets the namespace be made, and takes its capabilities.
                Some(errno @ (Errno::EPERM | Errno::EACCES)) => refused(errno, true),
                _ => Error::io(format!("map ids (/proc/self/{file})"), &error),
            })
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{0} {0} 1\n", host.uid))?;
    write("gid_map", format!("{0} {0} 1\n", host.gid))
}

/// Carries out the plan's steps that configure the new namespaces themselves.
///
/// # Errors
/// As sethostname(2), and the ioctls of netdevice(7).
pub fn configure(plan: &Plan) -> Result<(), Error> {
    for step in &plan.steps {
        match step {
            plan::Step::Hostname(name) => nix::unistd::sethostname(name).map_err(|errno| {
                let step = format!("set the host name {}", shown(name.as_ref()));
                match errno {
                    Errno::EINVAL => {
                        Error::new(step, "it is longer than 64 bytes").hint("give a shorter one")
                    }
                    _ => Error::call(step, errno),
                }
            })?,
            plan::Step::Loopback => crate::sys::process::bring_up_loopback()
                .step(|| "bring up the loopback device".into())?,
            _ => {}
        }
    }
    Ok(())
}
