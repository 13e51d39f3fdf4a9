//! The set-id starter: for sites that forbid user namespaces, or want the kernel
//! to mount images.
//!
//! Owns: both ends of it. The command hands a sealed request over
//! ([`become_starter`]); the starter ([`run`]), which is root by its effective id,
//! believes nothing of it, does root's part with the user's rights to files, and
//! becomes the user for good before anything of the user's runs. Never: reads the
//! environment, takes options, or looks anything up by a path with root's rights
//! but the site's configuration and the system's devices.

use std::ffi::{CString, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::Image;

use nix::sys::statvfs::{statvfs, FsFlags};

use crate::error::{shown, Error};
use crate::fds::{self, Limits};
use crate::host::Host;
use crate::privilege::User;
use crate::request::Request;
use crate::sealed::{self, Sealed};
use crate::site::{self, Site};
use crate::sys::process;
use crate::{audit, plan, policy};

/// The name of the program in `libexec/singularity`.
pub const NAME: &str = "starter";

/// Whether the program at `path` is there and set-user-ID of root.
pub fn is_installed(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        metadata.is_file() && metadata.uid() == 0 && metadata.mode() & libc::S_ISUID != 0
    })
}

/// Why execve(2) would not make this process root by a set-id program, if so:
/// somebody traces it, it may not gain privileges, or the file system is nosuid.
pub fn is_in_vain(path: &Path) -> Option<&'static str> {
    if process::has_no_new_privileges() {
        return Some("this process may not gain privileges (no_new_privs)");
    }
    let nosuid = |fs: nix::sys::statvfs::Statvfs| fs.flags().contains(FsFlags::ST_NOSUID);
    if statvfs(path).is_ok_and(nosuid) {
        return Some("it lies on a file system that is mounted nosuid");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    if tracer.is_some_and(|pid| pid.trim() != "0") {
        return Some("this process is traced");
    }
    None
}

/// Whether bytes are a whole request, as the starter reads it.
///
/// # Errors
/// What is wrong with them.
pub fn check_request(bytes: &[u8]) -> Result<(), Error> {
    Sealed::check(bytes).map_err(sealed::Malformed::error)
}

/// Whether the starter would carry out the request for the user.
///
/// # Errors
/// Why not; of [`crate::Kind::NotByRoot`] where the user could do it without.
pub fn judge(request: &Request, host: &Host) -> Result<(), Error> {
    let acting = Host {
        mounts_as_root: true,
        ..host.clone()
    };
    policy::judge(request, &acting)?;
    crate::hold::refuse_what_root_must_not_do(request, &User::of(host)?)
}

/// Becomes the starter, which becomes the program. Returns only on failure.
pub fn become_starter(
    path: &Path,
    request: &Request,
    host: &Host,
    limits: &Limits,
    verbosity: u8,
) -> Error {
    let step = || format!("execute {}", shown(path));
    let sealed = Sealed::of(request, host, limits.inherited(), verbosity).seal();
    let kept = sealed.and_then(|file| {
        let number = sealed::keep_across_exec(&file).map_err(|errno| Error::call(step(), errno))?;
        Ok((file, number))
    });
    let (_file, number) = match kept {
        Ok(kept) => kept,
        Err(error) => return error,
    };
    let Ok(program) = CString::new(path.as_os_str().as_bytes()) else {
        return Error::new(step(), "the path has a NUL in it");
    };
    let number = CString::new(number.to_string()).unwrap_or_default();
    let arguments = [c"singularity starter".to_owned(), number];
    Error::call(step(), process::execve(&program, &arguments, &[]))
}

/// What the starter's `main` does, with the arguments it was given: returns the
/// exit status where it did not become the program. `log` is called once, with how
/// much is to be said.
pub fn run(arguments: Vec<OsString>, log: impl FnOnce(u8)) -> u8 {
    fds::hold_standard_descriptors();
    match start(&arguments, log) {
        Ok(()) => 0,
        Err(error) => {
            // In one write, so that those of many ranks do not mix. With standard
            // error gone there is nobody to tell.
            let _ = std::io::stderr().write_all(error.message().as_bytes());
            error.exit_status()
        }
    }
}

fn start(arguments: &[OsString], log: impl FnOnce(u8)) -> Result<(), Error> {
    process::clear_environment().map_err(|errno| Error::call("start", errno))?;
    // Also where fs.suid_dumpable would have set-id programs leave cores.
    process::forbid_cores_and_tracing().map_err(|errno| Error::call("start", errno))?;
    let user = User::calling()?.ok_or_else(|| {
        Error::new("start", "the starter is not installed set-user-ID of root")
            .hint("the administrator can install it so: make install SETUID=1")
    })?;
    let request = Sealed::unseal(descriptor(arguments)?)?;
    fds::close_standard_descriptors_at_exec(request.closed);
    log(request.verbosity);
    let limits = Limits::make_room_as_root(request.limits);
    let path = Path::new(site::PATH);
    let site = site::load_from(path, 0)?.ok_or_else(|| {
        Error::new("start", format!("there is no {}", shown(path)))
            .hint("the administrator has to write it; make install SETUID=1 puts one there")
    })?;
    let mut log = audit::Log::open("singularity-starter", site.audit, user.uid, request.image());
    log.options(request.digest());
    let result = refuse_where_not_allowed(&site)
        .and_then(|()| user.lend_file_rights())
        .and_then(|()| enter(request, site, &user, &limits, &mut log));
    if let Err(error) = &result {
        log.write(&audit::Outcome::Refused(error));
    }
    result
}

fn refuse_where_not_allowed(site: &Site) -> Result<(), Error> {
    if site.allow_setuid {
        return Ok(());
    }
    let hint = format!(
        "'allow setuid' in {} is the reason; --userns goes without it",
        site::PATH
    );
    Err(Error::new("start", "this site does not allow the set-id starter").hint(hint))
}

/// The descriptor of the request, which is the only argument there may be.
fn descriptor(arguments: &[OsString]) -> Result<OwnedFd, Error> {
    let number = match arguments {
        [_name, number] => number.to_str().and_then(|text| text.parse().ok()),
        _ => None,
    };
    number
        .filter(|&number| number > 2)
        .and_then(process::inherited)
        .ok_or_else(|| {
            Error::new("start", "there is no request")
                .hint("the singularity command calls the starter; people do not")
        })
}

fn enter(
    sealed: Sealed,
    site: Site,
    user: &User,
    limits: &Limits,
    log: &mut audit::Log,
) -> Result<(), Error> {
    let image = Image::open(sealed.image())?;
    let (request, host) = sealed.open(image, site, user.uid, user.gid);
    log.options(plan::build(&request, &host).fingerprint());
    crate::hold::refuse_what_root_must_not_do(&request, user)?;
    crate::launch(&request, &host, limits, |timings| {
        log.write(&audit::Outcome::Started);
        for line in timings {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    })
}
