//! What the tests stand on: a user, the command, and proof that nothing is left.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use test_support::attack::image_with;
use test_support::{capture, command, search_path, Image, Leftovers, Output, User, LIMIT};

/// A new user, and what there was before. Dropped at the end of a test that has
/// not failed, it fails if there is more than there was.
pub struct Ground {
    user: User,
    before: Leftovers,
}

impl Ground {
    /// A user with no groups but the primary one.
    pub fn new() -> Ground {
        Ground::of(User::ordinary())
    }

    /// Ground with this user.
    pub fn of(user: User) -> Ground {
        let before = Leftovers::snapshot(&user);
        Ground { user, before }
    }

    /// The user.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// `singularity` with these words, to be run as the user in
    /// [`User::work`].
    pub fn singularity<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = self.user.singularity();
        command.args(words);
        command
    }

    /// Runs `singularity` with these words.
    pub fn run(&self, words: &[&str]) -> Output {
        capture(&mut self.singularity(words))
    }

    /// `singularity exec OPTIONS BUSYBOX sh -c TEXT`, to be run.
    pub fn command(&self, options: &[&str], text: &str) -> Command {
        self.command_in(busybox(), options, text)
    }

    /// The same with another image.
    pub fn command_in(&self, image: &Path, options: &[&str], text: &str) -> Command {
        let mut command = self.singularity(["exec"]);
        command.args(options).arg(image).args(["sh", "-c", text]);
        command
    }

    /// Runs a shell's text in the busybox image.
    pub fn inside(&self, options: &[&str], text: &str) -> Output {
        capture(&mut self.command(options, text))
    }

    /// Runs a shell's text in another image.
    pub fn inside_of(&self, image: &Path, options: &[&str], text: &str) -> Output {
        capture(&mut self.command_in(image, options, text))
    }

    /// A shell's text in the busybox image writes this, and nothing to standard error.
    #[track_caller]
    pub fn says(&self, options: &[&str], text: &str, expected: &str) {
        let output = self.inside(options, text);
        output.succeeded().quietly().wrote(expected);
    }

    /// `singularity` with these words fails with this exit status and these lines.
    #[track_caller]
    pub fn fails(&self, words: &[&str], status: i32, complaint: &str) {
        let output = self.run(words);
        output.exited_with(status).wrote("").complained(complaint);
    }

    /// A directory image of the user's own with a busybox in `/bin` and nothing
    /// else but these directories; a name with `->` in it is a link, one with `=`
    /// a file with content.
    pub fn image_with(&self, name: &str, entries: &[&str]) -> PathBuf {
        image_with(&self.user, name, entries)
    }

    /// As root in a mount namespace of its own, runs the text of a shell that sets
    /// the scene, and then `singularity` with these words as the user.
    pub fn on_stage<W: AsRef<OsStr>>(
        &self,
        scene: &str,
        words: impl IntoIterator<Item = W>,
    ) -> Command {
        assert_root();
        let text = format!(
            "set -e; exec 9<{3}; {scene}\nexec setpriv --reuid={0} --regid={1} --clear-groups -- \
             env -i {2} /proc/self/fd/9 \"$@\"",
            self.user.uid(),
            self.user.gid(),
            self.user
                .environment()
                .iter()
                .map(|(name, value)| format!("{name}='{value}'"))
                .collect::<Vec<_>>()
                .join(" "),
            text_of(command()),
        );
        let mut stage = Command::new("unshare");
        stage
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &text,
                "sh",
            ])
            .args(words)
            .current_dir(self.user.work());
        stage
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.before.assert_nothing_new();
        }
    }
}

/// `singularity` with these words, to be run as root with root's environment.
pub fn as_root(words: &[&str]) -> Command {
    assert_root();
    let mut root = Command::new(command());
    root.env_clear()
        .envs([("PATH", search_path()), ("HOME", "/root"), ("USER", "root")])
        .current_dir("/")
        .args(words);
    root
}

fn assert_root() {
    assert!(
        nix::unistd::getuid().is_root(),
        "this needs mounts of the kernel's: run the tests as root"
    );
}

/// The busybox directory image, which nobody writes to.
pub fn busybox() -> &'static Path {
    static BUSYBOX: OnceLock<PathBuf> = OnceLock::new();
    BUSYBOX.get_or_init(|| Image::Busybox.directory())
}

/// A path of a test's own, which is printable.
pub fn text_of(path: &Path) -> &str {
    path.to_str().expect("paths of tests are printable")
}

/// Has a child do this between fork and exec.
pub fn before_exec(
    command: &mut Command,
    action: impl Fn() -> nix::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the callers' closures make a few system calls; they neither lock
    // nor allocate.
    unsafe { command.pre_exec(move || action().map_err(Into::into)) };
}

/// Waits until nobody holds an image: what serves one that was written to writes on
/// for a while after the program's end.
pub fn until_free(user: &User, image: &Path) {
    let text = format!("flock -n {} true && echo free", image.display());
    let end = Instant::now() + LIMIT;
    while capture(&mut user.shell(&text)).stdout().is_empty() {
        assert!(Instant::now() < end, "{} is held", image.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Changes the mode of a file.
pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("chmod {}: {e}", path.display()));
}

/// The value of one line of a /proc status table.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in\n{status}"))
        .trim()
}
