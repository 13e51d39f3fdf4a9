//! Looking into an image without starting anything in it.
//!
//! Owns: a child that enters the image as a program would, looks, and tells. Never:
//! changes the image, or leaves anything behind.

use std::fs::File;
use std::io::{Read as _, Write as _};

use nix::fcntl::OFlag;

use crate::error::{Error, Step};
use crate::host::Host;
use crate::policy;
use crate::request::Request;
use crate::sys::process::{self, Side};
use crate::timing::Timing;
use crate::{enter, plan, start_in};

/// Has `look` look around in the image of the request, which is the root then, and
/// returns what it says.
///
/// # Errors
/// Why the image cannot be entered.
pub fn inside(
    request: &Request,
    host: &Host,
    look: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, Error> {
    let step = || "look into the image".to_owned();
    policy::judge(request, host)?;
    let plan = plan::build(request, host);
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step(step)?;
    match process::clone(None).step(step)? {
        Side::Child => {
            drop(read);
            let mut timing = Timing::start(false);
            let entered = enter(request, &plan, host, &mut timing)
                .and_then(|_entered| start_in(&plan, request));
            let bytes = match entered {
                Ok(()) => [&b"+"[..], &look()].concat(),
                Err(error) => {
                    let hint = error.remedy().unwrap_or_default();
                    format!("-{error}\0{hint}").into_bytes()
                }
            };
            let told = File::from(write).write_all(&bytes).is_ok();
            process::exit_now(i32::from(!told))
        }
        Side::Parent(child) => {
            drop(write);
            let mut bytes = Vec::new();
            let read = File::from(read).read_to_end(&mut bytes);
            let _ = process::wait_for(child);
            read.map_err(|error| Error::io(step(), &error))?;
            match bytes.split_first() {
                Some((b'+', told)) => Ok(told.to_vec()),
                Some((_, words)) => Err(crate::hold::told(words)),
                None => Err(Error::new(step(), "the process that looks has died")),
            }
        }
    }
}
