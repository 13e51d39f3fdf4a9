//! A PID namespace, which needs two processes of ours: outside, the one that the
//! caller waits for; inside, its init.
//!
//! Owns: passing signals in, and the end of the program out, unchanged. Never:
//! used without `--pid`: otherwise the program has the caller's own pid.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::{kill, raise, sigprocmask, SigSet, SigmaskHow, Signal};
use nix::unistd::Pid;

use crate::error::{Error, Step};
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
pub fn enter() -> Result<Inside, Error> {
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
            stay_outside(init, status)
        }
        Side::Child => {
            process::die_with_parent(libc::SIGKILL).step(step)?;
            Ok(Inside { report, mask })
        }
    }
}

impl Inside {
    /// Starts the program's process and returns in it; this one stays as init,
    /// which reaps what is orphaned and ends with the program.
    ///
    /// # Errors
    /// As clone(2).
    pub fn start(self) -> Result<(), Error> {
        let step = || "start the program in its PID namespace".to_owned();
        match process::clone(Some(Signal::SIGCHLD)).step(step)? {
            Side::Parent(program) => self.stay_init(program),
            Side::Child => sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None).step(step),
        }
    }

    fn stay_init(self, program: Pid) -> ! {
        // An inherited "ignore" would make the kernel throw the program's status away.
        process::reset_signal(libc::SIGCHLD);
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
    if caught.was_sent && caught.signal != Some(Signal::SIGCHLD) {
        if let Some(signal) = caught.signal {
            let _ = kill(to, signal);
        }
    }
}

fn stay_outside(init: Pid, status: OwnedFd) -> ! {
    process::reset_signal(libc::SIGCHLD);
    let _ = process::close_all_but(status.as_raw_fd());
    loop {
        match process::try_wait(init) {
            Ok(None) => {}
            _ => end_like(&status),
        }
        let Some(caught) = process::next_signal() else {
            continue;
        };
        match caught.signal {
            // Ctrl-Z reaches the program by itself; the shell waits for us to stop.
            Some(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) if !caught.was_sent => {
                let _ = raise(Signal::SIGSTOP);
            }
            _ => pass_on(caught, init),
        }
    }
}

/// Ends this process the way the program ended.
fn end_like(status: &OwnedFd) -> ! {
    let mut bytes = [0; 4];
    let status = match nix::unistd::read(status, &mut bytes) {
        Ok(4) => i32::from_ne_bytes(bytes),
        // Init was killed, and everything in the namespace with it.
        _ => libc::SIGKILL,
    };
    if libc::WIFEXITED(status) {
        process::exit_now(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    // The program has left its core; a second one would be ours.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    process::reset_signal(signal);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = raise(signal);
    }
    process::exit_now(128 + signal)
}
