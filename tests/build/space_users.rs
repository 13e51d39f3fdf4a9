//! The three kinds of people who build: root, users with subordinate ids, and
//! users without.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use test_support::{capture, capture_within, command, Output, User};

use crate::ground::{text_of, Ground};

/// Nothing here takes so long, on however slow a machine.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Root.
    Root,
    /// A user to whom the administrator gave ids.
    WithIds,
    /// A user who has but one.
    WithoutIds,
}

impl Who {
    pub const ALL: [Who; 3] = [Who::Root, Who::WithIds, Who::WithoutIds];

    /// Whether files can belong to somebody in what is built.
    pub fn has_owners(self) -> bool {
        self != Who::WithoutIds
    }
}

/// A user, and who they are when they build.
pub struct Builder {
    pub ground: Ground,
    pub who: Who,
}

impl Builder {
    pub fn new(who: Who) -> Builder {
        let user = User::ordinary();
        for file in ["/etc/subuid", "/etc/subgid"] {
            give_ids(file, &user, who == Who::WithIds);
        }
        Builder {
            ground: Ground::of(user),
            who,
        }
    }

    /// `singularity` with these words, in the user's directory.
    pub fn command(&self, words: &[&str]) -> Command {
        if self.who != Who::Root {
            return self.ground.singularity(words);
        }
        let mut root = Command::new(command());
        let user = self.ground.user();
        root.env_clear()
            .envs(user.environment())
            .current_dir(user.work())
            .args(words);
        root
    }

    /// Writes a definition and builds `image` from it.
    pub fn build(&self, image: &str, definition: &str) -> Output {
        self.build_with(&[], image, definition)
    }

    /// The same with options.
    pub fn build_with(&self, options: &[&str], image: &str, definition: &str) -> Output {
        let mut build = self.prepare(options, image, definition);
        capture_within(LIMIT, &mut build, b"")
    }

    /// The same, not yet started.
    pub fn prepare(&self, options: &[&str], image: &str, definition: &str) -> Command {
        let name = format!("{image}.def");
        self.ground.user().file(&name, definition);
        let mut words = vec!["build"];
        words.extend(options);
        words.extend([image, &name]);
        self.command(&words)
    }

    /// What a shell's text in the image says, run by the user.
    pub fn says(&self, image: &str, text: &str) -> String {
        let path = self.path(image);
        let mut exec = self
            .ground
            .singularity(["exec", text_of(&path), "sh", "-c", text]);
        let output = capture(&mut exec);
        output.succeeded();
        output.stdout().trim_end().to_owned()
    }

    /// Mode and owner of a file in a squashfs image, as in `drwxr-x--- 5/7`.
    pub fn owner(&self, image: &str, file: &str) -> String {
        let mut list = self.ground.user().command("unsquashfs");
        list.args(["-llnumeric", image, file.trim_start_matches('/')]);
        let output = capture(&mut list);
        let end = format!("squashfs-root{file}");
        let text = output.succeeded().stdout();
        let line = text.lines().find(|line| line.ends_with(&end));
        let line = line.unwrap_or_else(|| panic!("no {file} in\n{text}"));
        let mut fields = line.split_whitespace();
        let mut next = || fields.next().expect("a field");
        format!("{} {}", next(), next())
    }

    /// A path in the user's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.ground.user().work().join(name)
    }

    /// The log that a failed build's hint names.
    #[track_caller]
    pub fn log_of(&self, output: &Output) -> String {
        let stderr = output.stderr();
        let (_, path) = stderr
            .trim_end()
            .rsplit_once("what was printed is in ")
            .unwrap_or_else(|| panic!("no log is named: {output}"));
        assert!(Path::new(path).starts_with(self.ground.user().home()));
        fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// It failed as a build does: the last two lines are these, where `LOG` stands
    /// for the name of the log; and there is no image.
    #[track_caller]
    pub fn failed(&self, output: &Output, image: &str, complaint: &str, hint: &str) {
        output.exited_with(255).wrote("");
        let stderr = output.stderr();
        let lines: Vec<_> = stderr.lines().collect();
        let [.., error, told] = lines.as_slice() else {
            panic!("{output}");
        };
        assert_eq!(*error, format!("singularity: {complaint}"), "{output}");
        let told = match told.rsplit_once("what was printed is in ") {
            Some((before, _)) => format!("{before}what was printed is in LOG"),
            None => (*told).to_owned(),
        };
        assert_eq!(told, format!("hint: {hint}"), "{output}");
        assert!(!self.path(image).exists(), "{image} is there");
    }
}

/// Sees to it that a user has subordinate ids in a table of subuid(5), or none.
fn give_ids(file: &str, user: &User, wanted: bool) {
    assert!(
        nix::unistd::getuid().is_root(),
        "subordinate ids are root's to give: run the tests as root"
    );
    // shadow's tools hold this lock, and so do tests beside this one.
    let lock = format!("{file}.lock");
    while OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&lock)
        .is_err()
    {
        let age = fs::metadata(&lock).and_then(|data| data.modified()).ok();
        if age.is_some_and(|time| {
            time.elapsed()
                .is_ok_and(|age| age > Duration::from_secs(30))
        }) {
            let _ = fs::remove_file(&lock);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let own = format!("{}:", user.name());
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with(&own))
        .collect();
    let range = format!(
        "{own}{}:65536",
        1_000_000_000 + user.uid() % 10_000 * 65_536
    );
    if wanted {
        lines.push(&range);
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let new = format!("{file}.new-{}", std::process::id());
    fs::write(&new, text).expect("root writes to /etc");
    fs::rename(&new, file).expect("root writes to /etc");
    fs::remove_file(&lock).expect("the lock is ours");
}

#[test]
fn scripts_run_as_root_in_a_clean_place_whoever_builds() {
    for who in Who::ALL {
        let builder = Builder::new(who);
        let definition = "\
Bootstrap: busybox

%post
    set -e
    exec >/seen
    id -u; id -g; umask; pwd; echo \"$HOME $PATH\"
    env | grep -c HOST_VARIABLE || true
    test -c /dev/null && echo discarded >/dev/null
    test -r /proc/self/status && test -d /sys/kernel && test -w /dev/shm
    test -e /dev/pts/ptmx && test -L /dev/fd
    grep -q . /etc/hosts
    ! touch /proc/sys/kernel/hostname 2>/dev/null
    hostname inside && hostname
    touch /owned && chown 5:7 /owned
    mknod /device b 7 7
    mkfifo /pipe
    sh -c 'sleep 1000; touch /too-late' &
";
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("/proc is mounted");
        let mut build = builder.prepare(&[], "image.sqfs", definition);
        build.env("HOST_VARIABLE", "1");
        let output = capture_within(LIMIT, &mut build, b"");
        output.succeeded().wrote("");
        assert_eq!(
            builder.says("image.sqfs", "cat /seen"),
            "0\n0\n0022\n/\n/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
             0\ninside",
            "{who:?}"
        );
        let owner = if who.has_owners() { "5/7" } else { "0/0" };
        assert_eq!(
            builder.owner("image.sqfs", "/owned"),
            format!("-rw-r--r-- {owner}")
        );
        assert_eq!(builder.owner("image.sqfs", "/pipe"), "prw-r--r-- 0/0");
        assert_eq!(builder.owner("image.sqfs", "/bin"), "drwxr-xr-x 0/0");
        assert_eq!(
            builder.says(
                "image.sqfs",
                "test -b /device && echo made || echo not made"
            ),
            if who == Who::Root { "made" } else { "not made" },
            "{who:?}"
        );
        assert_eq!(
            fs::read_to_string("/proc/sys/kernel/hostname").expect("/proc is mounted"),
            host
        );
    }
}

#[test]
fn a_failing_script_is_told_with_its_status_and_last_words() {
    let builder = Builder::new(Who::WithoutIds);
    let output = builder.build(
        "image.sqfs",
        "Bootstrap: busybox\n\n%post\n    echo first\n    echo cannot find the moon >&2\n    exit 3\n",
    );
    let stderr = output.stderr();
    assert!(
        stderr.contains("%post") && stderr.contains("ended with status 3: cannot find the moon\n"),
        "{output}"
    );
    output.exited_with(255);
    assert!(builder.log_of(&output).contains("cannot find the moon\n"));
    assert!(!builder.path("image.sqfs").exists());
}

#[test]
fn nothing_is_told_when_quiet_and_what_tools_print_when_verbose() {
    let builder = Builder::new(Who::WithoutIds);
    let definition = "Bootstrap: busybox\n\n%post\n    echo words of a tool\n";
    builder
        .build_with(&["-q"], "quiet.sqfs", definition)
        .succeeded()
        .quietly();
    let told = builder.build("told.sqfs", definition);
    assert!(
        !told.succeeded().stderr().contains("words of a tool\n"),
        "{told}"
    );
    let verbose = builder.build_with(&["-v"], "verbose.sqfs", definition);
    assert!(
        verbose.succeeded().stderr().contains("\nwords of a tool\n"),
        "{verbose}"
    );
    let logs = builder.path(".local/state/singularity");
    assert_eq!(
        fs::read_dir(logs).expect("there").count(),
        0,
        "no log is kept"
    );
}

#[test]
fn who_has_ids_and_no_tools_for_them_builds_with_one() {
    let builder = Builder::new(Who::WithIds);
    builder.prepare(
        &[],
        "image.sqfs",
        "Bootstrap: busybox\n\n%post\n    touch /owned && chown 5:7 /owned\n",
    );
    let mut stage = builder.ground.on_stage(
        "mount --bind /dev/null /usr/bin/newuidmap",
        ["build", "image.sqfs", "image.sqfs.def"],
    );
    let output = capture_within(LIMIT, &mut stage, b"");
    assert!(
        output.succeeded().stderr().starts_with(
            "singularity: warning: subordinate ids are not used: run newuidmap: it is not \
             installed; install it (Debian's package uidmap), or ask the administrator\n"
        ),
        "{output}"
    );
    assert_eq!(builder.owner("image.sqfs", "/owned"), "-rw-r--r-- 0/0");
}

#[test]
fn root_of_a_namespace_that_somebody_made_builds_as_its_users_do() {
    for (who, options) in [
        (Who::WithoutIds, "--map-root-user"),
        (Who::WithIds, "--map-root-user --map-auto"),
    ] {
        let builder = Builder::new(who);
        builder.prepare(
            &[],
            "image.sqfs",
            "Bootstrap: busybox\n\n%post\n    touch /owned && chown 5:7 /owned && mknod /n c 1 3\n",
        );
        let mut shell = builder.ground.user().shell(&format!(
            "exec unshare {options} singularity build image.sqfs image.sqfs.def"
        ));
        capture_within(LIMIT, &mut shell, b"").succeeded();
        let owner = if who.has_owners() { "5/7" } else { "0/0" };
        assert_eq!(
            builder.owner("image.sqfs", "/owned"),
            format!("-rw-r--r-- {owner}")
        );
    }
}

#[test]
fn a_place_where_nothing_may_run_is_told_so() {
    let builder = Builder::new(Who::WithoutIds);
    let work = builder.ground.user().directory("noexec");
    builder.prepare(&[], "image.sqfs", "Bootstrap: busybox\n");
    let scene = format!("mount -t tmpfs -o noexec,mode=777 none {}", text_of(&work));
    let words = [
        "build",
        "--tmpdir",
        text_of(&work),
        "image.sqfs",
        "image.sqfs.def",
    ];
    let mut stage = builder.ground.on_stage(&scene, words);
    let output = capture_within(LIMIT, &mut stage, b"");
    let stderr = output.exited_with(255).stderr();
    assert!(
        stderr.contains(": its file system is mounted noexec\n")
            && stderr.ends_with(
                "hint: --tmpdir, SINGULARITY_TMPDIR or TMPDIR names a place on another to work in\n"
            ),
        "{output}"
    );
}

#[test]
fn a_full_disk_is_told_and_nothing_stays_on_it() {
    let builder = Builder::new(Who::WithIds);
    let work = builder.ground.user().directory("small");
    builder.prepare(
        &[],
        "image.sqfs",
        "Bootstrap: busybox\n\n%post\n    head -c 20000000 /dev/zero >/srv/large\n",
    );
    let small = text_of(&work);
    let scene = format!("mount -t tmpfs -o size=8m,mode=777 none {small}");
    let text = format!(
        "{} build --tmpdir {small} image.sqfs image.sqfs.def; echo \"$? $(ls -A {small})\"",
        text_of(command())
    );
    let mut stage = Command::new("unshare");
    stage
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!(
            "{scene}; exec setpriv --reuid={0} --regid={1} --clear-groups -- env -i \
             HOME=\"$PWD\" PATH=\"$PATH\" sh -c '{text}'",
            builder.ground.user().uid(),
            builder.ground.user().gid(),
        ))
        .current_dir(builder.ground.user().work());
    let output = capture_within(LIMIT, &mut stage, b"");
    assert_eq!(output.stdout(), "255 \n", "{output}");
    // Beside the line of the script that failed, what stands in the way of it.
    let hint = output.stderr();
    let hint = hint.lines().find(|line| line.starts_with("hint: "));
    let is_told = |hint: &str| hint.contains("the file system of ") && hint.contains(" is full: ");
    assert!(hint.is_some_and(is_told), "{output}");
    assert!(!builder.path("image.sqfs").exists());
}
