//! The build space: where the builder is root, whoever started it.
//!
//! [`enter`] is called once, at the start of a verb, before there is a thread.
//! From then on the process is root of a mount and a PID namespace of its own, and
//! programs that it starts make files with the owners, modes and devices that root
//! would make. There are three kinds ([`Kind`]), by what this user may do.
//!
//! Three processes take part. The one that was started stays outside as
//! [`supervise`] and passes on how the work ended; the *builder* goes on inside;
//! and the [`janitor`], which no signal of a terminal reaches, removes what is
//! left of the work once the other two are gone, however they went. Mounts and
//! processes need no janitor: they end with their namespaces.
//!
//! Owns: namespaces, ids, what happens at signals, and running programs in a root
//! that is being built ([`Root`]). Never: knows what is built.

mod emulate;
mod ids;
mod inside;
pub(crate) mod janitor;
mod namespace;
mod root;
mod supervise;
#[allow(unsafe_code)]
pub(crate) mod sys;

use launcher::Error;
use nix::fcntl::OFlag;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow, Signal};
use nix::unistd::{geteuid, pipe2};
use std::os::fd::AsFd as _;

pub(crate) use inside::become_it_if_asked;
pub use root::{Root, RootCommand};

use sys::Side;

/// Whose root the builder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The machine's: everything is as it says.
    Root,
    /// Of a user namespace with the subordinate ids that the administrator gave
    /// the user (subuid(5)): owners are exact, devices cannot be made. Files that
    /// remain on disk belong to subordinate ids, which the user cannot remove by
    /// plain means: for an image that is a file that is of no account, for a
    /// directory [`Kind::Single`] is mostly the better choice.
    Subordinate,
    /// Of a user namespace with the user's own id only: everything is root's, and
    /// changing owners or ids is answered with success and not done.
    Single,
    /// Nobody's: no namespaces at all, only what is removed at the end. For verbs
    /// that need no root, such as making an empty image.
    Plain,
}

/// That the builder is in its space.
#[derive(Debug)]
pub struct Space {
    kind: Kind,
}

impl Space {
    /// Whose root this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether files can have other owners than root.
    pub fn has_owners(&self) -> bool {
        matches!(self.kind, Kind::Root | Kind::Subordinate)
    }
}

/// Enters the space: the one of this kind, or the best that this user can have.
/// Returns in another process than it was called in, which must have no threads.
///
/// # Errors
/// User namespaces are not to be had, with the setting that forbids them; or
/// subordinate ids were asked for, and there are none.
pub fn enter(kind: Option<Kind>) -> Result<Space, Error> {
    let mut mask = SigSet::empty();
    let all = SigSet::all();
    let failed = |errno| Error::call("enter the build space", errno);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut mask)).map_err(failed)?;
    let entered = enter_blocked(kind);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(failed)?;
    entered
}

/// All signals are blocked; the supervisor and the janitor remain so.
fn enter_blocked(wanted: Option<Kind>) -> Result<Space, Error> {
    let failed = |errno| Error::call("enter the build space", errno);
    let kind = match wanted {
        Some(kind) => namespace::become_root(kind).map(|()| kind)?,
        None if geteuid().is_root() => ids::kind_of_root(),
        None => namespace::become_root_of_the_best()?,
    };
    let ignored = supervise::ignored_signals();
    let janitor = janitor::hire()?;
    // That the supervisor lives: its end of this pipe is open.
    let (alive, inside) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    if kind != Kind::Plain {
        namespace::make_mount_and_pid()?;
    }
    match sys::fork().map_err(failed)? {
        Side::Parent(builder) => {
            drop(inside);
            supervise::until_the_end(builder, janitor, ignored, alive)
        }
        Side::Child => {
            drop(alive);
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
            if is_closed(&inside) {
                sys::exit_now(255);
            }
            // It stays open as long as the process does.
            std::mem::forget(inside);
            if kind != Kind::Plain {
                namespace::mount_proc();
            }
            let emulated = match kind {
                Kind::Single => Some(emulate::Emulated::DevicesAndIds),
                Kind::Subordinate => Some(emulate::Emulated::Devices),
                Kind::Root | Kind::Plain => None,
            };
            if let Some(what) = emulated {
                emulate::begin(what).map_err(|errno| {
                    Error::call("answer system calls of root's", errno)
                        .hint("a kernel with CONFIG_SECCOMP_FILTER is needed")
                })?;
            }
            tracing::info!("building as root: {kind:?}");
            Ok(Space { kind })
        }
    }
}

/// Whether nobody reads from the other end.
fn is_closed(writer: &std::os::fd::OwnedFd) -> bool {
    let mut polled = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    // Without wait it cannot be interrupted.
    let _ = poll(&mut polled, PollTimeout::ZERO);
    polled[0]
        .revents()
        .is_some_and(|seen| seen.contains(PollFlags::POLLERR))
}
