//! A PID namespace, which needs two processes of ours: outside, the one that the
//! caller waits for; inside, its init.
//!
//! Owns: passing signals in, and the end of the program out, unchanged. Never:
//! used without `--pid`: otherwise the program has the caller's own pid.

use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::{raise, sigprocmask, SigSet, SigmaskHow, Signal};
use nix::unistd::Pid;

use crate::error::{Error, Step};
use crate::host::Host;
use crate::privilege::{become_user_for_good, User};
use crate::sys::process::{self, Caught, Side};

/// What the init inside needs to start the program and report its end.
#[derive(Debug)]
pub struct Inside {
    report: OwnedFd,
    mask: SigSet,
}

/// Makes a PID namespace and goes on inside it, as its init. The calling process
/// stays outside, passes signals in, and ends as the program ends.
///
/// # Errors
/// As unshare(2) and clone(2).
pub fn enter(host: &Host) -> Result<Inside, Error> {
    let step = || "make a PID namespace".to_owned();
    let mut mask = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut mask),
    )
    .step(step)?;
    let (status, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step(step)?;
    unshare(CloneFlags::CLONE_NEWPID).step(step)?;
    match process::clone(Some(Signal::SIGCHLD)).step(step)? {
        Side::Parent(init) => {
            drop(report);
            // Root's part is done inside; out here signals are passed by the user.
            if host.acts_for_user() {
                let gave_up = User::of(host).and_then(|user| become_user_for_good(&user));
                if gave_up.is_err() {
                    let _ = process::send(init, libc::SIGKILL);
                    process::exit_now(255);
                }
            }
            stay_outside(init, status)
        }
        Side::Child => {
            drop(status);
            let inside = Inside { report, mask };
            inside.die_with_outside().step(step)?;
            Ok(inside)
        }
    }
}

impl Inside {
    /// Has this process end with the one outside.
    fn die_with_outside(&self) -> Result<(), Errno> {
        process::die_with_parent(libc::SIGKILL)?;
        // It may have been killed before that was arranged; then nobody is left to
        // read the report.
        let mut reader = [PollFd::new(self.report.as_fd(), PollFlags::empty())];
        let _ = poll(&mut reader, PollTimeout::ZERO);
        if reader[0]
            .revents()
            .is_some_and(|seen| seen.contains(PollFlags::POLLERR))
        {
            process::exit_now(255);
        }
        Ok(())
    }

    /// Starts the program's process and returns in it; this one stays as init,
    /// which reaps what is orphaned and ends with the program.
    ///
    /// # Errors
    /// As clone(2).
    pub fn start(self) -> Result<(), Error> {
        let step = || "start the program in its PID namespace".to_owned();
        // Giving up privileges has undone it; who is outside may have gone since.
        self.die_with_outside().step(step)?;
        // An inherited "ignore" would make the kernel throw the program's status away.
        let ignored = process::reset_signal(libc::SIGCHLD);
        match process::clone(Some(Signal::SIGCHLD)).step(step)? {
            Side::Parent(program) => self.stay_init(program),
            Side::Child => {
                if ignored {
                    process::ignore_signal(libc::SIGCHLD);
                }
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None).step(step)
            }
        }
    }

    fn stay_init(self, program: Pid) -> ! {
        // The terminal, pipes and all else belong to the program alone.
        let _ = process::close_all_but(self.report.as_raw_fd());
        loop {
            match process::wait_any() {
                Ok((pid, status)) if pid == program => {
                    let _ = nix::unistd::write(&self.report, &status.to_ne_bytes());
                    process::exit_now(0);
                }
                Ok(_) => continue,
                Err(Errno::EAGAIN) => {}
                Err(_) => process::exit_now(255),
            }
            if let Some(caught) = process::next_signal() {
                pass_on(caught, program);
            }
        }
    }
}

/// Passes a signal that somebody sent; what the terminal or the kernel sent has
/// reached the program already, which is in the same process group.
fn pass_on(caught: Caught, to: Pid) {
    if caught.was_sent && caught.signal != libc::SIGCHLD {
        let _ = process::send(to, caught.signal);
    }
}

/// Stops this process as the program is stopped, until it is continued: the
/// shell that waits for it goes by what stopped it.
fn stop(signal: libc::c_int) {
    let Ok(signal) = Signal::try_from(signal) else {
        return;
    };
    let mut let_in = SigSet::empty();
    let_in.add(signal);
    let _ = raise(signal);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&let_in), None);
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&let_in), None);
}

fn stay_outside(init: Pid, status: OwnedFd) -> ! {
    process::reset_signal(libc::SIGCHLD);
    let _ = process::close_all_but(status.as_raw_fd());
    loop {
        match process::try_wait(init) {
            Ok(None) => {}
            Ok(Some(end)) => end_like(&status, end),
            Err(_) => end_like(&status, libc::SIGKILL),
        }
        let Some(caught) = process::next_signal() else {
            continue;
        };
        // Ctrl-Z reaches the program by itself; the shell waits for us to stop.
        pass_on(caught, init);
        if matches!(caught.signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) {
            stop(caught.signal);
        }
    }
}

/// Ends this process the way the program ended, or, where none was started, the
/// way init did: it has said why.
fn end_like(status: &OwnedFd, init: i32) -> ! {
    let mut bytes = [0; 4];
    let status = match nix::unistd::read(status, &mut bytes) {
        Ok(4) => i32::from_ne_bytes(bytes),
        _ => init,
    };
    if libc::WIFEXITED(status) {
        process::exit_now(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    // The program has left its core; a second one would be ours.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    process::reset_signal(signal);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    let _ = process::send(nix::unistd::getpid(), signal);
    process::exit_now(128 + signal)
}
