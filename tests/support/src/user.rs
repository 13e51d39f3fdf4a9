//! Somebody who is not root.

use crate::place::search_path;
use crate::{command, proc};
use nix::sys::signal::{kill, SigHandler, Signal};
use nix::sys::stat::{umask, Mode};
use nix::unistd::{chown, getgid, getgroups, getuid, setgroups, setresgid, setresuid};
use nix::unistd::{Gid, Pid, Uid};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Names of the users and groups made here begin with this, followed by the id
/// of the process that made them.
const PREFIX: &str = "sgt";

/// Where files of a user may be, besides the home directory.
pub(crate) const SCRATCH: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// An ordinary user of this machine.
///
/// Run as root, each is a new one with a home of its own, who is removed on drop
/// with all processes and files. Run by somebody else, it is that person.
#[derive(Debug)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
    /// Supplementary groups, with the names of those made for this user.
    groups: Vec<Gid>,
    made_groups: Vec<String>,
    home: PathBuf,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The home of a user made for the test.
    Home,
    /// For the person who runs the tests, whose home is not to be written to.
    Temporary(tempfile::TempDir),
}

impl User {
    /// A user with no groups but the primary one.
    pub fn ordinary() -> User {
        User::with_groups(0)
    }

    /// A user who is in so many supplementary groups, made with the user. Only
    /// root can ask for more than none.
    pub fn with_groups(count: usize) -> User {
        if getuid().is_root() {
            User::make(count)
        } else {
            assert!(
                count == 0,
                "only root can make groups: run the tests as root"
            );
            User::myself()
        }
    }

    fn myself() -> User {
        let home = std::env::var_os("HOME").expect("HOME is set");
        let work = tempfile::Builder::new()
            .prefix("singularity-test-")
            .tempdir_in("/var/tmp")
            .expect("/var/tmp can be written to");
        User {
            name: std::env::var("USER").unwrap_or_else(|_| getuid().to_string()),
            uid: getuid(),
            gid: getgid(),
            groups: getgroups().expect("getgroups(2) works"),
            made_groups: Vec::new(),
            home: home.into(),
            work: Work::Temporary(work),
        }
    }

    fn make(count: usize) -> User {
        static SWEEP: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}n{number}", std::process::id());

        let made_groups: Vec<_> = (0..count).map(|i| format!("{name}g{i}")).collect();
        for group in &made_groups {
            account("groupadd", &[group]);
        }
        let home = format!("/home/{name}");
        let mut arguments = vec!["--create-home", "--user-group", "--shell", "/bin/sh"];
        arguments.extend(["--home-dir", &home]);
        let list = made_groups.join(",");
        if count > 0 {
            arguments.extend(["--groups", &list]);
        }
        arguments.push(&name);
        account("useradd", &arguments);

        let known = nix::unistd::User::from_name(&name)
            .expect("/etc/passwd can be read")
            .unwrap_or_else(|| panic!("useradd made no {name}"));
        let groups = made_groups.iter().map(|group| {
            nix::unistd::Group::from_name(group)
                .expect("/etc/group can be read")
                .unwrap_or_else(|| panic!("groupadd made no {group}"))
                .gid
        });
        User {
            uid: known.uid,
            gid: known.gid,
            groups: groups.collect(),
            made_groups,
            home: home.into(),
            name,
            work: Work::Home,
        }
    }

    /// The login name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user id.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The primary group.
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    /// The supplementary groups.
    pub fn groups(&self) -> Vec<u32> {
        self.groups.iter().map(|gid| gid.as_raw()).collect()
    }

    /// The home directory, as /etc/passwd has it.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A directory to work in, the user's own. It is on a disk, is not under
    /// /tmp, and goes with the user.
    pub fn work(&self) -> &Path {
        match &self.work {
            Work::Home => &self.home,
            Work::Temporary(directory) => directory.path(),
        }
    }

    /// Write a file of the user's in [`User::work`], whose directories are made.
    pub fn file(&self, name: impl AsRef<OsStr>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name.as_ref());
        let parent = path.parent().expect("a file is in a directory");
        self.directory(parent);
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        self.give(&path);
        path
    }

    /// The same, which everybody may execute.
    pub fn program(&self, name: impl AsRef<OsStr>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name, bytes);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|e| panic!("chmod {}: {e}", path.display()));
        path
    }

    /// Make a directory of the user's in [`User::work`], with those above it.
    pub fn directory(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let path = self.work().join(name.as_ref());
        let mut missing: Vec<_> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        while let Some(directory) = missing.pop() {
            fs::create_dir(directory)
                .unwrap_or_else(|e| panic!("make {}: {e}", directory.display()));
            self.give(directory);
        }
        path
    }

    /// Make a file or directory the user's.
    pub fn give(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid))
            .unwrap_or_else(|e| panic!("give {} to {}: {e}", path.display(), self.name));
    }

    /// The variables of a new login, and no others.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("HOME", self.home.to_str().expect("printable").to_owned()),
            ("USER", self.name.clone()),
            ("LOGNAME", self.name.clone()),
            ("SHELL", "/bin/sh".to_owned()),
            ("PATH", search_path().to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ]
    }

    /// A program to be run as this user: in [`User::work`], with the environment
    /// of a new login, umask 022, and no right that the user has not.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.environment())
            .current_dir(self.work());
        let (uid, gid, groups) = (self.uid, self.gid, self.groups.clone());
        let become_user = move || {
            if getuid().is_root() {
                setgroups(&groups)?;
                setresgid(gid, gid, gid)?;
                setresuid(uid, uid, uid)?;
            }
            umask(Mode::from_bits_truncate(0o022));
            // A shell that runs the tests in the background ignores these for them.
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: the default action is no function that could run wrongly.
                unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only; it
        // reads a vector made before and neither allocates nor locks.
        unsafe { command.pre_exec(become_user) };
        command
    }

    /// The built command, to be run as this user.
    pub fn singularity(&self) -> Command {
        self.command(command())
    }

    /// A shell that runs this text.
    pub fn shell(&self, text: &str) -> Command {
        let mut shell = self.command("/bin/sh");
        shell.args(["-c", text]);
        shell
    }

    /// Kill every process of a user made here. The person who runs the tests
    /// keeps theirs.
    pub fn kill_all(&self) {
        if matches!(self.work, Work::Home) {
            kill_all(self.uid);
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if matches!(self.work, Work::Home) {
            self.kill_all();
            remove_files(self.uid);
            remove_account("userdel", &["--remove", "--force", &self.name]);
            for group in &self.made_groups {
                remove_account("groupdel", &[group]);
            }
        }
    }
}

/// Change the account files, one at a time. Another process may hold their lock,
/// which the tools wait for not long enough.
fn account(tool: &str, arguments: &[&str]) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut complaint = String::new();
    for _ in 0..10 {
        let output = Command::new(tool)
            .args(arguments)
            .output()
            .unwrap_or_else(|e| panic!("{tool}: {e}: apt-get install passwd"));
        // groupdel and userdel: 6, there is none. useradd warns of mail spools.
        if output.status.success() || output.status.code() == Some(6) {
            return;
        }
        complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        std::thread::sleep(Duration::from_millis(300));
    }
    panic!("{tool} {}: {complaint}", arguments.join(" "));
}

/// As [`account`], for use while a panic may be under way.
fn remove_account(tool: &str, arguments: &[&str]) {
    let removed = std::panic::catch_unwind(|| account(tool, arguments));
    if removed.is_err() {
        eprintln!("{tool} {} has failed", arguments.join(" "));
    }
}

fn kill_all(uid: Uid) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let processes = proc::of_user(uid.as_raw());
        let alive: Vec<_> = processes.iter().filter(|p| p.state != 'Z').collect();
        if alive.is_empty() || Instant::now() > end {
            return;
        }
        for process in alive {
            // It may have ended since.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_files(uid: Uid) {
    for path in SCRATCH.iter().flat_map(|dir| files_of(dir, uid.as_raw())) {
        let removed = match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        if let Err(e) = removed {
            eprintln!("remove {}: {e}", path.display());
        }
    }
}

/// What a user has directly in a directory.
pub(crate) fn files_of(directory: &str, uid: u32) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|data| data.uid() == uid))
        .map(|entry| entry.path())
        .collect()
}

/// Remove the users of test processes that were killed before they could.
fn sweep() {
    let names = |file| {
        let text = fs::read_to_string(file).expect("the account files can be read");
        text.lines()
            .filter_map(|line| line.split(':').next())
            .filter(|name| maker_is_gone(name))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for name in names("/etc/passwd") {
        if let Ok(Some(user)) = nix::unistd::User::from_name(&name) {
            kill_all(user.uid);
            remove_files(user.uid);
        }
        remove_account("userdel", &["--remove", "--force", &name]);
    }
    for name in names("/etc/group") {
        remove_account("groupdel", &[&name]);
    }
}

/// True for a name made by [`User::make`] in a process that has ended.
fn maker_is_gone(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let Some((pid, number)) = rest.split_once('n') else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = number.split('g').next().unwrap_or(number);
    digits(pid) && digits(number) && !Path::new("/proc").join(pid).exists()
}
