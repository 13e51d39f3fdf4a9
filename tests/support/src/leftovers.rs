//! What was not there before.

use crate::place::store;
use crate::proc::{self, Process};
use crate::user::{files_of, SCRATCH};
use crate::User;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What ends by itself is given this long to do so: a FUSE server notices the
/// end of its mount only then.
const GRACE: Duration = Duration::from_secs(15);

/// The source by which a file system in memory is known that a test mounts as a disk.
pub const DISK: &str = "disk-of-a-test";

/// The FUSE servers that serve images. Root's are looked at too.
const SERVERS: [&str; 5] = [
    "image-server",
    "squashfuse_ll",
    "squashfuse",
    "erofsfuse",
    "fuse2fs",
];

/// Everything that programs of some users could leave on this machine, at one
/// moment.
///
/// Tests run side by side, so only these users' things count: their processes
/// (in any PID namespace), files directly in /tmp, /var/tmp and /dev/shm, System
/// V shared memory, sockets in the abstract namespace, and the mount, network
/// and user namespaces that their processes are in. Mounts in the machine's own
/// mount namespace, named network namespaces, root's FUSE servers, and loop devices of
/// the users' files and of the shared images count whosesoever they are, if they are
/// there from the first look to the last: what another test has made since then is no
/// leftover of this one. So tests that have the kernel mount an image for longer than
/// a moment take one of their user's own: [`Image::file_for`](crate::Image::file_for).
#[derive(Debug)]
pub struct Leftovers {
    users: Vec<u32>,
    /// Where images are that these users may have mounted.
    places: Vec<PathBuf>,
    before: Seen,
}

/// What there is at one moment.
#[derive(Debug)]
struct Seen {
    /// What can be nobody's but these users'.
    theirs: BTreeSet<String>,
    /// What another test, running at the same time, may have made.
    machines: BTreeSet<String>,
}

impl Leftovers {
    /// Remember what there is now of this user.
    pub fn snapshot(user: &User) -> Leftovers {
        Leftovers::snapshot_of(&[user])
    }

    /// Remember what there is now of these users.
    pub fn snapshot_of(users: &[&User]) -> Leftovers {
        let places: Vec<_> = users
            .iter()
            .flat_map(|user| [user.home(), user.work()])
            .chain([store()])
            .map(Path::to_owned)
            .collect();
        let users: Vec<_> = users.iter().map(|user| user.uid()).collect();
        let before = look(&users, &places);
        Leftovers {
            users,
            places,
            before,
        }
    }

    /// What there is now and was not then. It is given a few seconds to go.
    pub fn left(&self) -> Vec<String> {
        let end = Instant::now() + GRACE;
        let mut machines: Option<BTreeSet<String>> = None;
        loop {
            let now = look(&self.users, &self.places);
            let new = &now.machines - &self.before.machines;
            let new = match machines {
                Some(until_now) => &until_now & &new,
                None => new,
            };
            let left = &(&now.theirs - &self.before.theirs) | &new;
            if left.is_empty() || Instant::now() > end {
                return left.into_iter().collect();
            }
            machines = Some(new);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fail with a list, unless all that came has gone.
    #[track_caller]
    pub fn assert_nothing_new(&self) {
        let left = self.left();
        assert!(
            left.is_empty(),
            "left behind, {GRACE:?} after:\n  {}",
            left.join("\n  ")
        );
    }
}

fn look(users: &[u32], places: &[PathBuf]) -> Seen {
    let processes = proc::all();
    let theirs: Vec<_> = processes
        .iter()
        .filter(|process| users.contains(&process.uid))
        .collect();
    let mut seen = Seen {
        theirs: theirs.iter().map(|process| describe(process)).collect(),
        machines: servers_of_root(&processes, users),
    };
    seen.theirs.extend(namespaces(&theirs, &processes));
    seen.theirs.extend(files(users));
    seen.theirs.extend(shared_memory(users));
    seen.machines.extend(abstract_sockets(users));
    seen.machines.extend(mounts());
    let others = others(&processes, users);
    seen.machines.extend(loop_devices(places, &others));
    seen.machines.extend(named_networks());
    seen
}

fn describe(process: &Process) -> String {
    format!(
        "process {} of uid {}: {}",
        process.pid,
        process.uid,
        process.command_line()
    )
}

/// Namespaces that these processes are in and this process is not, with what is
/// mounted there. Those of hosts and clusters, which have processes of root's
/// too, go with these.
fn namespaces(theirs: &[&Process], all: &[Process]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in ["mnt", "net", "user"] {
        let others: BTreeSet<_> = all
            .iter()
            .filter(|process| !theirs.contains(process))
            .filter_map(|process| process.namespace(kind))
            .collect();
        for process in theirs {
            let Some(name) = process.namespace(kind) else {
                continue;
            };
            if others.contains(&name) {
                continue;
            }
            found.insert(format!("namespace {name}"));
            if kind == "mnt" {
                let mounts = fs::read_to_string(process.directory().join("mountinfo"));
                let mounts = mounts.unwrap_or_default();
                let images = mounts.lines().filter(|line| line.contains(" - fuse"));
                found.extend(images.map(|line| format!("mount in {name}: {line}")));
            }
        }
    }
    found
}

/// Root's FUSE servers: with a single user in sight they can only be this test's
/// if that user is root, who is in nobody's list, so they count for all. What a test
/// has started by itself is its child; the launcher's servers are nobody's.
fn servers_of_root(all: &[Process], users: &[u32]) -> BTreeSet<String> {
    all.iter()
        .filter(|process| process.uid == 0 && !users.contains(&0))
        .filter(|process| SERVERS.contains(&process.name.as_str()))
        .filter(|process| process.parent == 1)
        .map(describe)
        .collect()
}

fn files(users: &[u32]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for &uid in users {
        let runtime = format!("/run/user/{uid}");
        for place in SCRATCH.into_iter().chain([runtime.as_str()]) {
            let paths = files_of(place, uid).into_iter();
            all.extend(paths.map(|path| format!("file {}", path.display())));
        }
    }
    all
}

fn shared_memory(users: &[u32]) -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            // key shmid perms size cpid lpid nattch uid …
            let fields: Vec<_> = line.split_whitespace().collect();
            let uid = fields.get(7)?.parse().ok()?;
            let id = fields.get(1)?;
            users
                .contains(&uid)
                .then(|| format!("System V shared memory {id} of uid {uid}"))
        })
        .collect()
}

/// Sockets of ours in the abstract namespace, unless another user holds them.
fn abstract_sockets(users: &[u32]) -> BTreeSet<String> {
    let before = singularity_sockets();
    if before.is_empty() {
        return BTreeSet::new();
    }
    // Whoever holds a socket from the first look to the second is seen between.
    let strangers: Vec<_> = proc::all()
        .iter()
        .filter(|process| !users.contains(&process.uid))
        .flat_map(Process::descriptors)
        .collect();
    singularity_sockets()
        .intersection(&before)
        .filter(|(link, _)| !strangers.contains(link))
        .map(|(_, name)| format!("socket {name}"))
        .collect()
}

/// What /proc shows at a holder of each, and its name.
fn singularity_sockets() -> BTreeSet<(PathBuf, String)> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            // Num RefCount Protocol Flags Type St Inode Path
            let mut fields = line.split_whitespace().skip(6);
            let link = PathBuf::from(format!("socket:[{}]", fields.next()?));
            let name = fields.next()?;
            name.starts_with("@singularity")
                .then(|| (link, name.to_owned()))
        })
        .collect()
}

/// Without the disks that other tests, running at the same time, have mounted, and
/// without what the kernel shows of itself: whoever asks for it first has it mounted.
fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let of_a_test = format!(" - tmpfs {DISK} ");
    let is_ours = |line: &&str| {
        // Mount, parent, device, root, place, …: proc_pid_mountinfo(5).
        let place = line.split(' ').nth(4).unwrap_or_default();
        let of_the_kernel = place.starts_with("/sys/") || place.starts_with("/proc/");
        !of_the_kernel && !line.contains(&of_a_test)
    };
    let lines = table.lines().filter(is_ours);
    lines.map(|line| format!("mount {line}")).collect()
}

/// Processes of neither root nor these users.
fn others<'a>(all: &'a [Process], users: &[u32]) -> Vec<&'a Process> {
    all.iter()
        .filter(|process| process.uid != 0 && !users.contains(&process.uid))
        .collect()
}

/// Those of files in these directories, unless one of these others uses them. What
/// root has may be ours: root mounts for users.
fn loop_devices(of: &[PathBuf], others: &[&Process]) -> BTreeSet<String> {
    let found: Vec<_> = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let read = |name| fs::read_to_string(entry.path().join(name)).ok();
            let (file, number) = (read("loop/backing_file")?, read("dev")?);
            let name = entry.file_name().to_string_lossy().into_owned();
            let line = format!("loop device {name} of {}", file.trim_end());
            of.iter()
                .any(|place| Path::new(&file).starts_with(place))
                .then(|| (number.trim_end().to_owned(), line))
        })
        .collect();
    if found.is_empty() {
        return BTreeSet::new();
    }
    let mounted: BTreeSet<String> = others
        .iter()
        .flat_map(|process| process.mounted_devices())
        .collect();
    found
        .into_iter()
        .filter(|(number, _)| !mounted.contains(number))
        .map(|(_, line)| line)
        .collect()
}

fn named_networks() -> BTreeSet<String> {
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| format!("network namespace {}", entry.path().display()))
        .collect()
}
