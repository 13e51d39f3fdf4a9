//! What the site's configuration makes of a request.
//!
//! Owns: every refusal that is the site's; each names the key that is the reason.
//! Never: changes a request; the plan takes the site's values itself.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use image::{FileSystem, Image};

use nix::fcntl::{openat2, OFlag, OpenHow, ResolveFlag, AT_FDCWD};

use super::load::PATH;
use super::{Driver, ImageLimits, Owner, Site};
use crate::error::{shown, Error, Kind};
use crate::host::Host;
use crate::mount;
use crate::request::{Access, Home, Request};

/// Refuses what the site does not allow to the user of `host`.
///
/// # Errors
/// The first rule that forbids it. One that forbids it to privileged code only is
/// of [`Kind::NotByRoot`].
pub fn judge(request: &Request, host: &Host) -> Result<(), Error> {
    let site = &request.site;
    judge_way(request, host)?;
    site.images.judge(&request.image, host.uid, host.gid)?;
    let asks_for_binds = !request.binds.is_empty()
        || matches!(request.home, Home::Instead { .. })
        || request.workdir.is_some();
    for (wanted, allowed, what, key) in [
        (
            request.unshared.pid,
            site.allow_pid,
            "--pid",
            "allow pid namespaces",
        ),
        (
            request.unshared.ipc,
            site.allow_ipc,
            "--ipc",
            "allow ipc namespaces",
        ),
        (
            request.unshared.net,
            site.allow_net,
            "--net",
            "allow net namespaces",
        ),
        (
            request.unshared.uts,
            site.allow_uts,
            "--uts",
            "allow uts namespaces",
        ),
        (
            asks_for_binds,
            site.user_binds,
            "--bind, --home or --workdir",
            "user bind control",
        ),
        (
            matches!(request.access, Access::Overlay(_) | Access::WritableTmpfs),
            site.overlay,
            "--overlay or --writable-tmpfs",
            "enable overlay",
        ),
    ] {
        if wanted && !allowed {
            return Err(forbidden(what.to_owned(), key));
        }
    }
    Ok(())
}

fn forbidden(what: String, key: &str) -> Error {
    Error::new(what, "this site does not allow it").hint(format!("'{key}' in {PATH} is the reason"))
}

/// Whether the image may be entered the way it would be.
fn judge_way(request: &Request, host: &Host) -> Result<(), Error> {
    let site = &request.site;
    let step = || format!("enter image {}", shown(request.image.path()));
    let kind = request.image.root().map(|root| root.filesystem);
    if host.is_root() {
        return Ok(());
    }
    if !host.mounts_as_root {
        if !site.allow_user_namespaces {
            return Err(Error::new(
                step(),
                "this site does not allow user namespaces",
            )
            .hint(format!("'allow user namespaces' in {PATH} is the reason; its set-id starter or Slurm plugin may do it")));
        }
        if kind.is_some() && site.driver == Driver::Kernel {
            return Err(Error::new(step(), "this site has image files read by the kernel only")
                .hint(format!("'image driver' in {PATH} is the reason; its set-id starter or Slurm plugin may do it, or unpack the image into a directory")));
        }
        return Ok(());
    }
    match kind {
        None if site.privileged_directories => Ok(()),
        Some(kind) if site.mounts_privileged(kind) => Ok(()),
        _ => {
            let what = kind.map_or("directory".to_owned(), |kind| format!("{kind} file"));
            Err(
                Error::new(step(), format!("privileged code enters no {what} here"))
                    .hint(format!(
                        "'allow privileged formats' or 'image driver' in {PATH} is the reason"
                    ))
                    .kind(Kind::NotByRoot),
            )
        }
    }
}

impl Site {
    /// Whether privileged code may have the kernel mount a user's file with this
    /// file system.
    pub fn mounts_privileged(&self, kind: FileSystem) -> bool {
        self.driver != Driver::Fuse && self.privileged_formats.contains(&kind)
    }
}

impl ImageLimits {
    /// Whether the user may enter this image: whose it is and where it lies, told
    /// by its descriptor.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn judge(&self, image: &Image, uid: u32, gid: u32) -> Result<(), Error> {
        let step = || format!("use image {}", shown(image.path()));
        if !self.directories.is_empty() {
            let real = std::fs::read_link(format!("/proc/self/fd/{}", image.fd().as_raw_fd()))
                .map_err(|error| Error::io(step(), &error).hint("/proc has to be mounted"))?;
            let lies_in = |directory: &PathBuf| {
                real.starts_with(
                    std::fs::canonicalize(directory)
                        .as_ref()
                        .unwrap_or(directory),
                )
            };
            // Read in another mount namespace, such as of a user's own or of an image, the
            // same path leads elsewhere.
            if !self.directories.iter().any(lies_in) || !leads_to(&real, image.fd()) {
                let names = self.directories.iter().map(|d| shown(d).to_string());
                let names: Vec<_> = names.collect();
                return Err(Error::new(step(), "this site does not allow images there")
                    .hint(format!("images must be in {}", names.join(" or "))));
            }
        }
        // Whoever serves a file system by FUSE says whose its files are, and a user
        // may serve one.
        let goes_by_owner = !(self.owners.is_empty() && self.groups.is_empty());
        if goes_by_owner && mount::is_by_fuse(image.fd()) {
            return Err(Error::new(
                step(),
                "whose it is cannot be trusted: it lies on a FUSE file system",
            )
            .hint("this site allows images of certain owners only; copy it to another place"));
        }
        let (owner, group) = image
            .file()
            .metadata()
            .map(|metadata| (metadata.uid(), metadata.gid()))
            .map_err(|error| Error::io(step(), &error))?;
        for (allowed, found, own, what) in [
            (&self.owners, owner, uid, "owned by user"),
            (&self.groups, group, gid, "of group"),
        ] {
            let fits = |allowed: &Owner| match allowed {
                Owner::Id(id) => *id == found,
                Owner::Own => own == found,
            };
            if !allowed.is_empty() && !allowed.iter().any(fits) {
                return Err(Error::new(
                    step(),
                    format!("this site does not allow images {what} {found}"),
                )
                .hint("ask the site's administrators to install the image"));
            }
        }
        Ok(())
    }
}

/// Whether `path`, in which no symbolic link is followed, leads to what `fd` names.
fn leads_to(path: &Path, fd: BorrowedFd<'_>) -> bool {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(AT_FDCWD, path, how).is_ok_and(|there| mount::is_same_file(there.as_fd(), fd))
}
