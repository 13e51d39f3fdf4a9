//! Whether a request may and can be carried out, before anything is touched.
//!
//! Owns: every refusal that follows from the request itself, and asking for the
//! site's ([`site::obey`]). Never: changes anything. Each refusal names its rule.

use crate::error::{shown, Error};
use crate::host::Host;
use crate::request::{Access, Request};
use crate::site;

/// Refuses what cannot work or must not be.
///
/// # Errors
/// A refusal in one line, with what to do instead.
pub fn judge(request: &Request, host: &Host) -> Result<(), Error> {
    if !Host::ids_agree() && !host.acts_for_user() {
        return Err(
            Error::new("start", "real and effective user or group differ")
                .hint("this command must not be installed set-id"),
        );
    }
    site::obey::judge(request, host)?;
    let image = shown(request.image.path());
    let root = request.image.root();
    if request.stage.is_some() {
        let step = || format!("stage image {image}");
        if request.image.is_directory() {
            return Err(Error::new(step(), "it is a directory, not a file").hint(
                "leave out --stage; or pack it once, singularity build IMAGE.sqfs DIRECTORY, which also spares the shared file system",
            ));
        }
        if request.access == Access::Writable {
            return Err(
                Error::new(step(), "changes would go to the copy and be lost")
                    .hint("leave out --stage or --writable"),
            );
        }
    }
    match &request.access {
        Access::Writable => {
            if let Some(root) = root.filter(|root| !root.filesystem.is_writable()) {
                return Err(Error::new(
                    format!("write to image {image}"),
                    format!("a {} file system cannot be changed", root.filesystem),
                )
                .hint("use --writable-tmpfs or --overlay DIR, or convert the image to ext4 or a directory"));
            }
        }
        Access::Overlay(directory) if !directory.as_path().is_absolute() => {
            return Err(Error::new(
                format!("overlay {}", shown(directory.as_path())),
                "not an absolute path",
            ));
        }
        _ => {}
    }
    if request.hostname.is_some() && !request.unshared.uts {
        return Err(
            Error::new("set the host name", "the host's own name would change")
                .hint("add --uts, or use --hostname which implies it"),
        );
    }
    Ok(())
}
