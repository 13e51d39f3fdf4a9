//! The process that was started: it waits for the builder inside.
//!
//! Owns: what signals do, and the exit status. Never: works on the image.

use std::os::fd::OwnedFd;

use launcher::Error;
use nix::errno::Errno;
use nix::sys::resource::{setrlimit, Resource};
use nix::sys::signal::{kill, raise, sigprocmask, SigSet, SigmaskHow, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

use super::sys;

/// Signals that end the work.
const ENDING: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGXCPU,
];

/// The signals that whoever started us wants ignored, as nohup(1) does: a bit for
/// each. See proc_pid_status(5), `SigIgn`.
pub fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Waits for the builder, then for the janitor, and ends as the builder did. All
/// signals are blocked.
pub fn until_the_end(builder: Pid, janitor: Pid, ignored: u64, alive: OwnedFd) -> ! {
    sys::reset_signal(libc::SIGCHLD);
    super::janitor::leave_to_the_builder();
    let mut ended_by = None;
    let end = loop {
        match waitpid(builder, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => break end,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => break WaitStatus::Exited(builder, 255),
        }
        match SigSet::all().wait() {
            // The shell waits for us to stop; to the init of a PID namespace
            // nothing less than SIGSTOP means anything.
            Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) => {
                let _ = kill(builder, Signal::SIGSTOP);
                let _ = raise(Signal::SIGSTOP);
                let _ = kill(builder, Signal::SIGCONT);
            }
            Ok(signal) if ENDING.contains(&signal) && ignored >> (signal as i32 - 1) & 1 == 0 => {
                ended_by = Some(signal);
                // With it goes everything in its PID namespace. It may be gone.
                let _ = kill(builder, Signal::SIGKILL);
            }
            _ => {}
        }
    };
    drop(alive);
    while waitpid(janitor, None) == Err(Errno::EINTR) {}
    match (ended_by, end) {
        (_, WaitStatus::Exited(_, status)) => sys::exit_now(status),
        (Some(signal), _) => {
            command::log::error(
                &Error::new("stopped", format!("{signal} was received"))
                    .hint("nothing is left of it, and an image that was there is as it was"),
            );
            end_like(signal)
        }
        (None, WaitStatus::Signaled(_, signal, _)) => {
            let error = Error::new("stopped", format!("the builder was killed by {signal}"));
            command::log::error(&match signal {
                Signal::SIGKILL => error.hint(
                    "somebody killed it, or the machine or the job's memory limit is out of memory",
                ),
                _ => error,
            });
            end_like(signal)
        }
        _ => sys::exit_now(255),
    }
}

/// Ends this process by a signal, which is what the caller's shell goes by.
fn end_like(signal: Signal) -> ! {
    // The core would be ours, not that of what failed.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    sys::reset_signal(signal as i32);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    let _ = raise(signal);
    sys::exit_now(128 + signal as i32)
}
