//! The helper that becomes a program in a root: the builder's own executable,
//! started under another name.
//!
//! A program of its own, not a fork: it makes namespaces, which takes a process
//! without threads, and the builder may have threads by now. It makes mount, PID,
//! IPC and UTS namespaces, lays out the root, pivots into it, and starts the
//! program as the child of a small init. When the program ends, so does the init,
//! and with it all that the program left running.
//!
//! Owns: what is mounted in a root. Never: makes a place in it
//! ([`crate::place::Places`] has), or decides what runs.

use std::ffi::{CString, OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use nix::errno::Errno;
use nix::fcntl::{open, openat, OFlag};
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::sys::resource::{setrlimit, Resource};
use nix::sys::signal::{raise, Signal};
use nix::sys::stat::{mkdirat, umask, Mode};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{chdir, execvp, fchdir, pivot_root, symlinkat, Pid};

use super::sys::{self, Side};
use crate::place::{named, within};

/// The name that the builder's executable is started under.
pub const NAME: &str = "singularity-inside";

/// The directories that are mounted on.
pub const DIRECTORIES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Where apt finds that it is not to become another user, in a root whose users
/// are all one.
pub const APT_CONFIG: &str = "/dev/singularity-apt.conf";

/// Devices that every program may expect, of the host's.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links that every program may expect in /dev.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// In the root.
    Inside,
    /// On the host, with the root laid out as if somebody were in it.
    Beside,
    /// On the host.
    Host,
}

impl Where {
    const NAMES: [(Self, &'static str); 3] = [
        (Self::Inside, "inside"),
        (Self::Beside, "beside"),
        (Self::Host, "host"),
    ];
}

/// The helper's command line, without its name.
pub fn words(
    place: Where,
    root: &Path,
    directory: Option<&Path>,
    binds: &[(PathBuf, PathBuf)],
    program: &[OsString],
) -> Vec<OsString> {
    let place = Where::NAMES.iter().find(|(known, _)| *known == place);
    let mut words: Vec<OsString> = vec![
        place.map_or("", |(_, name)| name).into(),
        root.into(),
        directory.unwrap_or(Path::new("")).into(),
        binds.len().to_string().into(),
    ];
    for (host, inside) in binds {
        words.extend([host.into(), inside.into()]);
    }
    words.extend(program.iter().cloned());
    words
}

/// What the helper said of itself in a line, if it is the helper's.
pub fn complaint(line: &str) -> Option<&str> {
    line.strip_prefix(NAME)?.strip_prefix(": ")
}

#[derive(Debug)]
struct Job {
    place: Where,
    root: PathBuf,
    directory: Option<PathBuf>,
    binds: Vec<(PathBuf, PathBuf)>,
    program: Vec<OsString>,
}

impl Job {
    fn parse(words: &[OsString]) -> Option<Self> {
        let mut words = words.iter().cloned();
        let place = words.next()?;
        let (place, _) = Where::NAMES.iter().find(|(_, name)| place == *name)?;
        let root = words.next()?.into();
        let directory = words.next().filter(|path| !path.is_empty());
        let count: usize = words.next()?.to_str()?.parse().ok()?;
        let mut binds = Vec::new();
        for _ in 0..count {
            binds.push((words.next()?.into(), words.next()?.into()));
        }
        Some(Self {
            place: *place,
            root,
            directory: directory.map(PathBuf::from),
            binds,
            program: words.collect(),
        })
    }
}

/// If the process was started as the helper, it becomes it.
pub(crate) fn become_it_if_asked(words: &[OsString]) {
    if words.first().is_none_or(|name| name != NAME) {
        return;
    }
    let error = match Job::parse(&words[1..]) {
        Some(job) => match carry_out(&job) {
            Ok(never) => match never {},
            Err(error) => error,
        },
        None => Error::new("start", "this is the builder's to do"),
    };
    complain(&error);
    sys::exit_now(255)
}

fn complain(error: &Error) {
    // With standard error gone, the status still tells.
    let _ = writeln!(std::io::stderr(), "{NAME}: {error}");
}

/// What never is.
enum Never {}

fn carry_out(job: &Job) -> Result<Never, Error> {
    let failed = |errno| Error::call("make namespaces for a program", errno);
    // Whatever it mounts goes with it.
    let mut flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    if job.place == Where::Inside {
        flags |= CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    }
    let (mut status, report) = sys::pipe().map_err(|error| Error::io("make a pipe", &error))?;
    unshare(flags).map_err(failed)?;
    match sys::fork().map_err(failed)? {
        Side::Parent(init) => {
            drop(report);
            let mut bytes = [0; 4];
            let told = status.read_exact(&mut bytes).is_ok();
            let end = waitpid(init, None);
            if told {
                end_like(i32::from_ne_bytes(bytes));
            }
            // It has said why.
            match end {
                Ok(WaitStatus::Exited(_, status)) => sys::exit_now(status),
                _ => sys::exit_now(255),
            }
        }
        Side::Child => {
            drop(status);
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
            umask(Mode::from_bits_truncate(0o022));
            keep_mounts().map_err(failed)?;
            match job.place {
                Where::Inside => {
                    let root = lay_out(job)?;
                    pivot(&root)?;
                    let directory = job.directory.as_deref().unwrap_or(Path::new("/"));
                    go_to(directory)?;
                }
                Where::Beside | Where::Host => {
                    if job.place == Where::Beside {
                        drop(lay_out(job)?);
                    }
                    if let Some(directory) = &job.directory {
                        go_to(directory)?;
                    }
                }
            }
            match sys::fork().map_err(failed)? {
                Side::Parent(program) => stay_init(program, report),
                Side::Child => {
                    drop(report);
                    Err(execute(&job.program))
                }
            }
        }
    }
}

fn go_to(directory: &Path) -> Result<(), Error> {
    chdir(directory).map_err(|errno| Error::call(format!("go to {}", Shown::new(directory)), errno))
}

fn execute(program: &[OsString]) -> Error {
    let mut words = Vec::new();
    for word in program {
        match CString::new(word.clone().into_vec()) {
            Ok(word) => words.push(word),
            Err(_) => return Error::new("execute a program", "a word of it holds a zero byte"),
        }
    }
    let Some(name) = words.first() else {
        return Error::new("execute a program", "none was named");
    };
    let Err(errno) = execvp(name, &words);
    Error::call(
        format!("execute {}", Shown::new(OsStr::from_bytes(name.as_bytes()))),
        errno,
    )
}

/// Reaps whatever ends until the program does, tells how, and ends: the kernel
/// then kills what is left in the namespace. See pid_namespaces(7).
fn stay_init(program: Pid, mut report: std::fs::File) -> ! {
    loop {
        let (pid, raw) = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, status << 8),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal as i32),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => sys::exit_now(255),
        };
        if pid == program {
            // Its reader tells an early end by itself.
            let _ = report.write_all(&raw.to_ne_bytes());
            sys::exit_now(0)
        }
    }
}

/// Ends this process as a wait status says that the program ended.
fn end_like(raw: i32) -> ! {
    if libc::WIFEXITED(raw) {
        sys::exit_now(libc::WEXITSTATUS(raw));
    }
    let signal = libc::WTERMSIG(raw);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    sys::reset_signal(signal);
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = raise(signal);
    }
    sys::exit_now(128 + signal)
}

// ---------------------------------------------------------------- the root ---

const NONE: Option<&Path> = None;

/// What is mounted from now on is nobody else's to see.
fn keep_mounts() -> Result<(), Errno> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
}

/// Mounts in the root what a program expects, and returns its directory.
fn lay_out(job: &Job) -> Result<OwnedFd, Error> {
    let failed = |what: &str| {
        let step = format!("prepare {what} in {}", Shown::new(&job.root));
        move |errno| Error::call(step, errno)
    };
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&job.root), &job.root, NONE, bind, NONE).map_err(failed("/"))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(&job.root, flags, Mode::empty()).map_err(failed("/"))?;
    lay_out_dev(&root, job.place).map_err(failed("/dev"))?;
    lay_out_sys(&root).map_err(failed("/sys"))?;
    lay_out_proc(&root).map_err(failed("/proc"))?;
    for (host, inside) in &job.binds {
        let step = format!("show {} at {}", Shown::new(host), Shown::new(inside));
        within(&root, inside, OFlag::O_PATH)
            .and_then(|place| mount(Some(host), &named(&place), NONE, bind, NONE))
            .map_err(|errno| Error::call(step, errno))?;
    }
    Ok(root)
}

fn lay_out_proc(root: &OwnedFd) -> Result<(), Errno> {
    let place = within(root, Path::new("proc"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some("proc"), &named(&place), Some("proc"), flags, NONE).or_else(|_| {
        // Parts of the host's are covered, as in a container: then not even these
        // may be seen anew.
        mount(Some("/proc"), &named(&place), NONE, bind, NONE)
    })?;
    // The settings in it are the host's, not the image's. A kernel that shows
    // none has none to protect.
    if let Ok(settings) = within(root, Path::new("proc/sys"), OFlag::O_PATH) {
        mount(Some(&named(&settings)), &named(&settings), NONE, bind, NONE)?;
        let settings = within(root, Path::new("proc/sys"), OFlag::O_PATH)?;
        sys::set_mount_attributes(settings.as_fd(), libc::MOUNT_ATTR_RDONLY)?;
    }
    Ok(())
}

fn lay_out_sys(root: &OwnedFd) -> Result<(), Errno> {
    if !Path::new("/sys").is_dir() {
        return Ok(());
    }
    let place = within(root, Path::new("sys"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some("/sys"), &named(&place), NONE, bind, NONE)?;
    let place = within(root, Path::new("sys"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    sys::set_mount_attributes(place.as_fd(), libc::MOUNT_ATTR_RDONLY)
}

fn lay_out_dev(root: &OwnedFd, place: Where) -> Result<(), Errno> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let point = within(root, Path::new("dev"), directory)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("dev"),
        &named(&point),
        Some("tmpfs"),
        flags,
        Some("mode=755"),
    )?;
    let dev = within(root, Path::new("dev"), directory)?;
    for name in DEVICES {
        let host = Path::new("/dev").join(name);
        if !host.exists() {
            continue;
        }
        let place = new_file(&dev, name, b"")?;
        mount(Some(&host), &named(&place), NONE, MsFlags::MS_BIND, NONE)?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    for (name, kind, options) in [
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
        ("shm", "tmpfs", "mode=1777"),
    ] {
        mkdirat(&dev, name, Mode::from_bits_truncate(0o755))?;
        let place = within(&dev, Path::new(name), directory)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some(kind), &named(&place), Some(kind), flags, Some(options))?;
    }
    if place == Where::Beside {
        // debootstrap makes it and sets its mode, unless something is there.
        new_file(&dev, "console", b"")?;
    }
    let name = APT_CONFIG.trim_start_matches("/dev/");
    new_file(&dev, name, b"APT::Sandbox::User \"root\";\n").map(drop)
}

fn new_file(directory: &OwnedFd, name: &str, text: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_bits_truncate(0o644))?;
    nix::unistd::write(&file, text)?;
    Ok(file)
}

/// Makes the directory this process's root, and takes the old one away.
fn pivot(root: &OwnedFd) -> Result<(), Error> {
    let failed = |errno| Error::call("make it the root", errno);
    fchdir(root).map_err(failed)?;
    // The old root ends up on top of the new one; see pivot_root(2).
    pivot_root(".", ".").map_err(failed)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_its_command_line() {
        let binds = [(PathBuf::from("/a b"), PathBuf::from("/c"))];
        let program = ["sh".into(), "-c".into(), "".into()];
        let words = words(Where::Inside, Path::new("/r"), None, &binds, &program);
        let job = Job::parse(&words).expect("understood");
        assert_eq!(job.place, Where::Inside);
        assert_eq!(job.root, Path::new("/r"));
        assert_eq!(job.directory, None);
        assert_eq!(job.binds, binds);
        assert_eq!(job.program, program);
    }
}
