//! What is running now, so that it can be ended: when it hangs, and when the
//! person who started all of it presses Ctrl-C.
//!
//! Owns: the process group of the run, its end, and the temporary files that go
//! with this process. Never: starts anything.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{killpg, SigSet, Signal};
use nix::unistd::Pid;

/// The group of the run, or 0.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// What is removed at the end.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How long a launcher may take to end its ranks when it is asked to.
const GRACE: Duration = Duration::from_secs(3);

/// A run with a limit, in a process group of its own.
#[derive(Debug)]
pub struct Watched {
    hung: Arc<AtomicBool>,
    /// Dropped, it tells the watching thread that the run is over.
    over: Option<mpsc::Sender<()>>,
    watcher: Option<thread::JoinHandle<()>>,
}

impl Watched {
    /// Ends the group that `leader` leads if it runs longer than this.
    pub fn start(leader: Pid, limit: Duration) -> Self {
        RUNNING.store(leader.as_raw(), Ordering::SeqCst);
        let hung = Arc::new(AtomicBool::new(false));
        let (over, ended) = mpsc::channel();
        let flag = Arc::clone(&hung);
        // Without a thread there is no limit, which is no reason to stop.
        let watcher = thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || {
                let runs_on =
                    |time| ended.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout);
                if runs_on(limit) {
                    flag.store(true, Ordering::SeqCst);
                    // mpirun passes it on to ranks in groups of their own.
                    let _ = killpg(leader, Signal::SIGTERM);
                    if runs_on(GRACE) {
                        let _ = killpg(leader, Signal::SIGKILL);
                    }
                }
            })
            .ok();
        Self {
            hung,
            over: Some(over),
            watcher,
        }
    }

    /// The run has been waited for; whether it had to be ended.
    pub fn end(mut self) -> bool {
        RUNNING.store(0, Ordering::SeqCst);
        drop(self.over.take());
        if let Some(watcher) = self.watcher.take() {
            // It cannot panic; then there is nothing to tell.
            let _ = watcher.join();
        }
        self.hung.load(Ordering::SeqCst)
    }
}

/// From now on Ctrl-C and SIGTERM end the run, remove what is temporary, and then
/// this process. To be called before any thread is started.
pub fn end_with_signals() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let running = Pid::from_raw(RUNNING.load(Ordering::SeqCst));
        if running.as_raw() > 0 {
            let _ = killpg(running, Signal::SIGTERM);
            let mut left = GRACE;
            let pause = Duration::from_millis(20);
            while RUNNING.load(Ordering::SeqCst) == running.as_raw() && left > pause {
                thread::sleep(pause);
                left -= pause;
            }
            if RUNNING.load(Ordering::SeqCst) == running.as_raw() {
                let _ = killpg(running, Signal::SIGKILL);
            }
        }
        remove_temporary();
        eprintln!("\nsingularity: ended by {signal}");
        std::process::exit(128 + signal as i32);
    });
}

/// A file or directory that is removed at the end, however it comes.
pub fn remove_at_the_end(path: &Path) {
    let mut all = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(path.to_owned());
}

/// Removes them.
pub fn remove_temporary() {
    let mut all = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    for path in all.drain(..) {
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        if let Err(error) = removed {
            if error.kind() != std::io::ErrorKind::NotFound {
                eprintln!("singularity: remove {}: {error}", path.display());
            }
        }
    }
}
