//! A namespace with an image in it, prepared once by root on behalf of a user and
//! held by a descriptor, for any number of processes to enter.
//!
//! Owns: the short-lived child that prepares it, and entering it in-process.
//! Never: makes a user namespace, execs, or leaves a process behind. The
//! namespace lives as long as the descriptor or a process in it does.
//!
//! The child does everything by which a user could reach what is not theirs with
//! the user's own rights to files ([`crate::privilege::User`]): opening the image
//! and the sources of binds, looking up and making mount points. Only mounting is
//! root's.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use image::Image;
use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sched::{setns, CloneFlags};
use nix::sys::signal::{kill, Signal};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::sys::stat::Mode;

use crate::audit;
use crate::bridge::Helper;
use crate::env::{self, Environment};
use crate::error::{shown, Error, Kind, Step};
use crate::host::Host;
use crate::namespace;
use crate::plan::{self, Plan};
use crate::policy;
use crate::privilege::{self, User};
use crate::request::{Access, Request, Unshared};
use crate::root;
use crate::sys::pass;
use crate::sys::process::{self, Side};
use crate::timing::Timing;

/// How long the child may take: a file server that hangs must not hang the node's
/// daemon for ever.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The longest message about a failure.
const MOST_TEXT: usize = 4096;

/// A prepared namespace. Dropped, it goes, unless somebody has entered it.
#[derive(Debug)]
pub struct HeldNamespace {
    namespace: OwnedFd,
    request: Request,
    plan: Plan,
    /// Opened where it can be seen: the image does not have it.
    helper: Option<Helper>,
}

/// What is to be prepared, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Whose rights to files count.
    pub user: &'a User,
    /// The image.
    pub path: &'a Path,
    /// The user's surroundings, with [`Host::mounts_as_root`] set.
    pub host: &'a Host,
    /// Whether a line is written to the system log.
    pub audit: bool,
    /// What of that line says what was asked for, where the image cannot be opened.
    pub options: u128,
    /// How long it may take, [`PATIENCE`] as a rule.
    pub patience: Duration,
}

/// Opens the image with the user's rights, prepares a namespace for the request that
/// `compose` makes of it, and holds it. The calling process is root by its real user id
/// and may have threads.
///
/// `judge` may refuse the image, with the user's rights to files. `compose` is called
/// in the child and again in the caller.
///
/// # Errors
/// Why the image cannot be entered; nothing is left behind.
pub fn prepare(
    wish: &Wish<'_>,
    judge: impl Fn(&Image) -> Result<(), Error>,
    compose: impl Fn(Image) -> Result<Request, Error>,
) -> Result<HeldNamespace, Error> {
    let step = || "prepare a namespace".to_owned();
    let (ours, theirs) = pair().step(step)?;
    match process::fork().step(step)? {
        Side::Child => {
            drop(ours);
            let work = || {
                let mut options = wish.options;
                let prepared = prepare_in_child(wish, &judge, &compose, &mut options);
                send(&theirs, options, prepared);
            };
            let work = std::panic::AssertUnwindSafe(work);
            let status = if std::panic::catch_unwind(work).is_ok() {
                0
            } else {
                1
            };
            process::exit_now(status)
        }
        Side::Parent(child) => {
            drop(theirs);
            let (options, answer) = receive(&ours, wish);
            if answer.is_err() {
                let _ = kill(child, Signal::SIGKILL);
            }
            let _ = process::wait_for(child);
            let mut log =
                audit::Log::open("singularity-slurm", wish.audit, wish.user.uid, wish.path);
            log.options(options);
            let (namespace, file) = answer.inspect_err(|error| {
                log.write(&audit::Outcome::Refused(error));
            })?;
            let request = compose(Image::from_file(wish.path, file)?)?;
            let plan = plan::build(&request, wish.host);
            log.write(&audit::Outcome::Started);
            let helper = Helper::open(request.mpi.libexec.as_deref(), true);
            Ok(HeldNamespace {
                namespace,
                request,
                plan,
                helper,
            })
        }
    }
}

impl HeldNamespace {
    /// Moves this process into the namespace; its root and working directory are
    /// the image's root then. Takes root.
    ///
    /// # Errors
    /// As setns(2).
    pub fn enter(&self) -> Result<(), Error> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).step(|| self.step())
    }

    fn step(&self) -> String {
        format!("enter image {}", shown(self.request.image.path()))
    }

    /// The request it was prepared for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Where the programs in it start: see [`crate::launch`].
    ///
    /// # Errors
    /// If the directory that was asked for by name is not there.
    pub fn start_in_working_directory(&self) -> Result<(), Error> {
        crate::start_in(&self.plan, &self.request)
    }

    /// The environment of the program in it that `words` start, which meets the job's
    /// launcher by it; `host` has the variables the program would have had outside,
    /// `launcher` is what these say of the job's launcher. As the user, in the namespace.
    ///
    /// # Errors
    /// Launcher and program cannot meet.
    pub fn environment(
        &mut self,
        host: &Host,
        launcher: pmi_shim::Host,
        words: &[OsString],
        leave_out: impl Fn(&mut Environment),
    ) -> Result<Environment, Error> {
        self.request.launcher = launcher;
        let mut environment = env::compose(&self.request, &self.plan, host);
        leave_out(&mut environment);
        let pair = crate::meeting::Pair {
            request: &self.request,
            host,
            words,
            scripts: &crate::environment_scripts(),
            helper: self.helper.as_ref(),
            own_namespace: false,
            heard: None,
        };
        pair.meet(&mut environment, &mut Timing::start(false), |_| {})?;
        Ok(environment)
    }
}

/// Forbids this process to gain privileges by what it executes, as a program in
/// an image must not. Ids and capabilities stay as they are.
///
/// # Errors
/// If it does not read back as done.
pub fn forbid_gaining_privileges() -> Result<(), Error> {
    privilege::forbid_gaining()
}

fn prepare_in_child(
    wish: &Wish<'_>,
    judge: &impl Fn(&Image) -> Result<(), Error>,
    compose: &impl Fn(Image) -> Result<Request, Error>,
    options: &mut u128,
) -> Result<(OwnedFd, File), Error> {
    let Wish { user, host, .. } = wish;
    user.lend_file_rights()?;
    let image = Image::open(wish.path)?;
    judge(&image)?;
    let request = compose(image)?;
    let plan = plan::build(&request, host);
    *options = plan.fingerprint();
    policy::judge(&request, host)?;
    refuse_what_root_must_not_do(&request, user)?;
    namespace::make(host, false, Unshared::default())?;
    // Opened before the pivot: the image need not have a /proc.
    let own = open(
        "/proc/self/ns/mnt",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .step(|| "hold the namespace".into())?;
    let staged = crate::stage::stage(&request, host)?;
    let image = staged.as_ref().unwrap_or(&request.image);
    let tree = root::mount_image(&plan, image, host, request.mpi.libexec.as_deref())?;
    let mut timing = Timing::start(false);
    root::assemble(&plan, image, tree, host, None, &mut timing)?;
    Ok((own, request.image.into_file()))
}

/// What a user can do where root does not write for them.
const IN_USER_NAMESPACES: &str = "it is done in user namespaces, without --setuid, where the site allows them; --writable-tmpfs keeps changes in memory";

/// A writable layer of the user's that root mounts would be filled by root: a file
/// of the image that is root's and set-id would get there as that, and work outside.
pub(crate) fn refuse_what_root_must_not_do(request: &Request, user: &User) -> Result<(), Error> {
    match &request.access {
        Access::Overlay(directory) if user.uid != 0 => Err(Error::new(
            format!("overlay {}", shown(directory.as_path())),
            "root cannot mount it for you safely",
        )
        .hint(IN_USER_NAMESPACES)
        .kind(Kind::NotByRoot)),
        Access::Writable if user.uid != 0 => Err(Error::new(
            format!("write to image {}", shown(request.image.path())),
            "root cannot mount it for you safely",
        )
        .hint(IN_USER_NAMESPACES)
        .kind(Kind::NotByRoot)),
        _ => Ok(()),
    }
}

/// The two ends between the caller and the child: one message, one answer.
fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// One message: how it went, the digest of what was asked for, and why it failed.
fn send(to: &OwnedFd, options: u128, result: Result<(OwnedFd, File), Error>) {
    let message = |status: u8| [&[status], &options.to_le_bytes()[..]].concat();
    let sent = match &result {
        Ok((namespace, file)) => {
            pass::send(to.as_fd(), &message(0), &[namespace.as_fd(), file.as_fd()])
        }
        Err(error) => {
            let mut text = message(if error.is_not_by_root() { 2 } else { 1 });
            text.extend(error.to_string().into_bytes());
            text.push(0);
            text.extend(error.remedy().unwrap_or_default().bytes());
            text.truncate(MOST_TEXT);
            pass::send(to.as_fd(), &text, &[])
        }
    };
    // If nobody listens any more, there is nobody to tell.
    let _ = sent;
}

/// The digest of what was asked for, and what the child has sent.
fn receive(from: &OwnedFd, wish: &Wish<'_>) -> (u128, Result<(OwnedFd, File), Error>) {
    let step = || format!("enter image {}", shown(wish.path));
    let failed = |error| (wish.options, Err(error));
    let timeout = PollTimeout::try_from(wish.patience).unwrap_or(PollTimeout::NONE);
    loop {
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                let seconds = wish.patience.as_secs();
                return failed(
                    Error::new(step(), format!("it took longer than {seconds} s"))
                        .hint("a file server may be down"),
                );
            }
            Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(errno) => return failed(Error::call(step(), errno)),
        }
    }
    let mut text = vec![0; MOST_TEXT];
    let (length, descriptors) = match pass::receive(from.as_fd(), &mut text) {
        Ok(received) => received,
        Err(errno) => return failed(Error::call(step(), errno)),
    };
    let mut descriptors = descriptors.into_iter();
    let parts = text[..length]
        .split_first()
        .and_then(|(status, rest)| Some((status, rest.split_first_chunk::<16>()?)));
    let Some((status, (options, words))) = parts else {
        return failed(Error::new(step(), "the process that prepares it died"));
    };
    let result = match (status, descriptors.next(), descriptors.next()) {
        (0, Some(namespace), Some(file)) => Ok((namespace, File::from(file))),
        (1, ..) => Err(told(words)),
        (2, ..) => Err(told(words).kind(Kind::NotByRoot)),
        _ => Err(Error::new(step(), "the process that prepares it died")),
    };
    (u128::from_le_bytes(*options), result)
}

/// The failure that the child told of: what [`send`] wrote.
pub(crate) fn told(words: &[u8]) -> Error {
    let text = String::from_utf8_lossy(words);
    let (message, hint) = text.split_once('\0').unwrap_or((&text, ""));
    let (step, cause) = message.split_once(": ").unwrap_or(("enter", message));
    let error = Error::new(step, cause);
    if hint.is_empty() {
        error
    } else {
        error.hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the parent makes of what comes out of `from`.
    fn received(from: &OwnedFd) -> (u128, Error) {
        let user = User {
            uid: 1,
            gid: 1,
            groups: Vec::new(),
        };
        let wish = Wish {
            user: &user,
            path: Path::new("/i"),
            host: &Host::gather(Vec::new()),
            audit: false,
            options: 7,
            patience: PATIENCE,
        };
        let (options, result) = receive(from, &wish);
        (options, result.unwrap_err())
    }

    #[test]
    fn a_failure_of_the_child_arrives_word_for_word_with_its_digest() {
        let (a, b) = pair().unwrap();
        let error = Error::new("bind /a: b", "no such file").hint("make it: mkdir");
        send(&a, 5 << 100, Err(error.clone()));
        let (options, told) = received(&b);
        assert_eq!(options, 5 << 100);
        assert_eq!(told.to_string(), error.to_string());
        assert_eq!(told.remedy(), error.remedy());
    }

    #[test]
    fn a_child_that_dies_without_a_word_is_noticed() {
        let (a, b) = pair().unwrap();
        drop(a);
        let (options, told) = received(&b);
        assert_eq!(options, 7);
        assert_eq!(
            told.to_string(),
            "enter image /i: the process that prepares it died"
        );
    }
}
