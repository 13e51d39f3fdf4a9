//! What is running now, so that it can be ended: when it hangs, and when the
//! person who started all of it presses Ctrl-C.
//!
//! Owns: the process group of the run, its end, and the temporary files that go
//! with this process. Never: starts anything.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{killpg, SigSet, Signal};
use nix::unistd::Pid;

/// The groups of the runs: one, or several that measure by turns.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// The signal that ended the run, or 0.
static ENDED: AtomicI32 = AtomicI32::new(0);

/// Whether there is something that would be lost.
static WORTH_KEEPING: AtomicBool = AtomicBool::new(false);

/// What is removed at the end.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How long a launcher may take to end its ranks when it is asked to.
const GRACE: Duration = Duration::from_secs(3);

/// A run with a limit, in a process group of its own.
#[derive(Debug)]
pub struct Watched {
    leader: i32,
    hung: Arc<AtomicBool>,
    /// Dropped, it tells the watching thread that the run is over.
    over: Option<mpsc::Sender<()>>,
    watcher: Option<thread::JoinHandle<()>>,
}

impl Watched {
    /// Ends the group that `leader` leads if it runs longer than this.
    pub fn start(leader: Pid, limit: Duration) -> Self {
        running().push(leader.as_raw());
        let hung = Arc::new(AtomicBool::new(false));
        let (over, ended) = mpsc::channel();
        let flag = Arc::clone(&hung);
        // Without a thread there is no limit, which is no reason to stop.
        let watcher = thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || {
                let runs_on =
                    |time| ended.recv_timeout(time) != Err(mpsc::RecvTimeoutError::Disconnected);
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
            leader: leader.as_raw(),
            hung,
            over: Some(over),
            watcher,
        }
    }

    /// Ends the run now, as if its time were over.
    pub fn stop(&self) {
        if let Some(watcher) = &self.over {
            // Nobody listens where there is no thread, or the limit was reached.
            let _ = watcher.send(());
        }
    }

    /// The run has been waited for; whether it had to be ended.
    pub fn end(mut self) -> bool {
        running().retain(|&leader| leader != self.leader);
        drop(self.over.take());
        if let Some(watcher) = self.watcher.take() {
            // It cannot panic; then there is nothing to tell.
            let _ = watcher.join();
        }
        self.hung.load(Ordering::SeqCst)
    }
}

fn running() -> MutexGuard<'static, Vec<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on Ctrl-C and SIGTERM end the run, remove what is temporary, and then
/// this process; or, where [`keep`] was called, the run only, and a second one this
/// process. To be called before any thread is started.
pub fn end_with_signals() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let first = ENDED.swap(signal as i32, Ordering::SeqCst) == 0;
            end_all();
            if first && WORTH_KEEPING.load(Ordering::SeqCst) {
                continue;
            }
            remove_temporary();
            eprintln!("\nsingularity: ended by {signal}");
            std::process::exit(128 + signal as i32);
        }
    });
}

/// Asks all groups to end, and makes them.
fn end_all() {
    let groups = running().clone();
    let signal = |signal| {
        for &leader in running().iter().filter(|leader| groups.contains(leader)) {
            let _ = killpg(Pid::from_raw(leader), signal);
        }
    };
    signal(Signal::SIGTERM);
    let mut left = GRACE;
    let pause = Duration::from_millis(20);
    while running().iter().any(|leader| groups.contains(leader)) && left > pause {
        thread::sleep(pause);
        left -= pause;
    }
    signal(Signal::SIGKILL);
}

/// What was measured is worth a report, also where a signal ends the run.
pub fn keep() {
    WORTH_KEEPING.store(true, Ordering::SeqCst);
}

/// The signal that ended the run.
pub fn ended() -> Option<Signal> {
    Signal::try_from(ENDED.load(Ordering::SeqCst)).ok()
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
