//! Running a program to its end, or to the end of its time.

use crate::proc;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take when nothing else is said.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How long a pipe may stay open after the program that was given it has ended.
const GRACE: Duration = Duration::from_secs(5);

/// What a program did. The asserting methods panic with all of it.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
    words: String,
}

/// A program that was started and has a pipe at each end. It and its children
/// are killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    words: String,
    started: Instant,
    stdout: Pipe,
    stderr: Pipe,
    ended: bool,
}

#[derive(Debug)]
struct Pipe {
    /// As /proc shows it at whoever still holds the other end.
    link: PathBuf,
    bytes: Receiver<Vec<u8>>,
    /// What has come already.
    kept: Vec<u8>,
}

/// Run a program with an empty standard input, for [`LIMIT`] at most.
pub fn capture(command: &mut Command) -> Output {
    capture_within(LIMIT, command, b"")
}

/// Run a program with this standard input, and fail if it takes longer.
pub fn capture_within(limit: Duration, command: &mut Command, input: &[u8]) -> Output {
    let mut running = Running::start(command);
    running.write(input);
    running.wait(limit)
}

impl Running {
    /// Start a program, as the leader of a process group of its own.
    pub fn start(command: &mut Command) -> Running {
        let words = words(command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let started = Instant::now();
        // A program that the test has just written is still open for writing in a child
        // that another thread has forked meanwhile, until that executes its own.
        let is_busy = |e: &std::io::Error| e.raw_os_error() == Some(nix::libc::ETXTBSY);
        let mut child = loop {
            match command.spawn() {
                Err(e) if is_busy(&e) && started.elapsed() < LIMIT => {
                    thread::sleep(Duration::from_millis(2));
                }
                result => break result.unwrap_or_else(|e| panic!("start {words}: {e}")),
            }
        };
        let stdout = Pipe::drain(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Pipe::drain(child.stderr.take().expect("stderr is a pipe"));
        Running {
            child,
            words,
            started,
            stdout,
            stderr,
            ended: false,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits pid_t")
    }

    /// Write to its standard input. What is too much for the pipe and not read
    /// blocks the caller.
    pub fn write(&mut self, input: &[u8]) {
        let pipe = self.child.stdin.as_mut().expect("input is still open");
        match pipe.write_all(input) {
            // One that does not want to read may end before it is written to.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                panic!("write to {}: {e}", self.words)
            }
            _ => {}
        }
    }

    /// Send it a signal; it alone, not its children.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid()), signal)
            .unwrap_or_else(|e| panic!("send {signal} to {}: {e}", self.words));
    }

    /// Wait until it has written this to standard output, for [`LIMIT`] at most: to
    /// know that it is as far, however busy the machine is.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        let pipe = &mut self.stdout;
        while !pipe
            .kept
            .windows(text.len())
            .any(|part| part == text.as_bytes())
        {
            let left = end.saturating_duration_since(Instant::now());
            match pipe.bytes.recv_timeout(left) {
                Ok(bytes) => pipe.kept.extend(bytes),
                Err(e) => panic!(
                    "{} does not write {text:?}: {e}\n{}",
                    self.words,
                    String::from_utf8_lossy(&pipe.kept)
                ),
            }
        }
    }

    /// True while it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Wait for its end, and for the end of whatever it gave its output to.
    pub fn wait(mut self, limit: Duration) -> Output {
        drop(self.child.stdin.take());
        let status = self.wait_for_end(limit);
        let elapsed = self.started.elapsed();
        let stdout = self.stdout.rest("standard output", &self.words);
        let stderr = self.stderr.rest("standard error", &self.words);
        self.ended = true;
        let Some(status) = status else {
            panic!(
                "{} took longer than {limit:?} and was killed\n{}",
                self.words,
                written(&stdout, &stderr)
            );
        };
        Output {
            status,
            stdout,
            stderr,
            elapsed,
            words: std::mem::take(&mut self.words),
        }
    }

    fn wait_for_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut pause = Duration::from_micros(200);
        while self.started.elapsed() < limit {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => {}
                Err(e) => panic!("wait for {}: {e}", self.words),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        self.kill();
        None
    }

    fn kill(&mut self) {
        // The group is ours until its leader has been waited for.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended && self.is_running() {
            self.kill();
        }
    }
}

impl Pipe {
    fn drain(mut pipe: impl Read + AsRawFd + Send + 'static) -> Pipe {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
            .expect("/proc shows our own descriptors");
        let (sender, bytes) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Pipe {
            link,
            bytes,
            kept: Vec::new(),
        }
    }

    /// All that comes until everybody has closed the pipe, which must be soon.
    fn rest(&mut self, what: &str, words: &str) -> Vec<u8> {
        let end = Instant::now() + GRACE;
        let mut all = std::mem::take(&mut self.kept);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.bytes.recv_timeout(left) {
                Ok(bytes) => all.extend(bytes),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return all,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => break,
            }
        }
        let own = i32::try_from(std::process::id()).expect("a pid fits pid_t");
        let holders: Vec<_> = proc::holders(&self.link)
            .into_iter()
            .filter(|process| process.pid != own)
            .map(|process| format!("  {} {}", process.pid, process.command_line()))
            .collect();
        panic!(
            "{words} has ended, and its {what} is held open by\n{}\nit wrote\n{}",
            holders.join("\n"),
            String::from_utf8_lossy(&all)
        );
    }
}

impl Output {
    /// Standard output as text, whatever is not UTF-8 replaced.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text, whatever is not UTF-8 replaced.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// It exited with 0.
    #[track_caller]
    pub fn succeeded(&self) -> &Output {
        self.exited_with(0)
    }

    /// It exited with this code.
    #[track_caller]
    pub fn exited_with(&self, code: i32) -> &Output {
        assert!(
            self.status.code() == Some(code),
            "expected exit code {code} of {self}"
        );
        self
    }

    /// It was killed by this signal.
    #[track_caller]
    pub fn was_killed_by(&self, signal: Signal) -> &Output {
        assert!(
            self.status.signal() == Some(signal as i32),
            "expected death by {signal} of {self}"
        );
        self
    }

    /// It wrote exactly this to standard output.
    #[track_caller]
    pub fn wrote(&self, text: &str) -> &Output {
        assert!(
            self.stdout == text.as_bytes(),
            "expected standard output {text:?} of {self}"
        );
        self
    }

    /// It wrote exactly this to standard error.
    #[track_caller]
    pub fn complained(&self, text: &str) -> &Output {
        assert!(
            self.stderr == text.as_bytes(),
            "expected standard error {text:?} of {self}"
        );
        self
    }

    /// It wrote nothing to standard error.
    #[track_caller]
    pub fn quietly(&self) -> &Output {
        self.complained("")
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n{} after {:?}\n{}",
            self.words,
            self.status,
            self.elapsed,
            written(&self.stdout, &self.stderr)
        )
    }
}

fn written(stdout: &[u8], stderr: &[u8]) -> String {
    format!(
        "--- standard output\n{}--- standard error\n{}---",
        String::from_utf8_lossy(stdout),
        String::from_utf8_lossy(stderr)
    )
}

/// The program and its arguments, without the environment.
fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
