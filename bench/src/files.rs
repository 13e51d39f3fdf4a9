//! What a start costs the file system that an image is on: opens, looks and reads
//! of the image, counted by strace(1), and the bytes that came into the page
//! cache.
//!
//! Owns: which system calls reach the image, and adding them up. Never: guesses:
//! what cannot be known here is left out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use serde::{Deserialize, Serialize};

use crate::launcher::on_path;
use crate::round::Contender;

/// What one job did to the file system of its image, on one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// The way.
    pub way: String,
    /// Whether the image is a directory there.
    pub directory: bool,
    /// Ranks of the job.
    pub ranks: u32,
    /// Opens that succeeded, of files and directories.
    pub opens: u64,
    /// Names that were looked up otherwise, or not found: stat, access, readlink,
    /// open of what is not there.
    pub looks: u64,
    /// read(2) and its like.
    pub reads: u64,
    /// Different files that were opened.
    pub files: u64,
    /// Bytes of the image that came into the page cache; `None` where the kernel
    /// does not tell this user.
    pub bytes: Option<u64>,
}

/// Counts what this job does to the image.
///
/// # Errors
/// No strace, or a job that failed.
pub fn count(contender: &Contender, image: &Path, ranks: u32) -> Result<Counts, String> {
    let strace = on_path("strace").ok_or("strace is needed to count: install strace")?;
    let place =
        std::env::temp_dir().join(format!("singularity-bench-{}.strace", std::process::id()));
    crate::watch::remove_at_the_end(&place);
    let directory = image.is_dir();
    let cold = forget(image);
    let status = Command::new(strace)
        .args(["-f", "--seccomp-bpf", "-qq", "-y", "-s", "0"])
        .arg("-e")
        .arg("trace=%file,%process,read,pread64,readv,preadv,preadv2,getdents64,setns,open_tree")
        .arg("-e")
        .arg("signal=none")
        .arg("-o")
        .arg(&place)
        .args(&contender.words)
        .envs(contender.variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: strace: {error}", contender.name))?;
    let text = fs::read(&place).map_err(|error| format!("read what strace wrote: {error}"))?;
    let _ = fs::remove_file(&place);
    if !status.status.success() {
        let said = String::from_utf8_lossy(&status.stderr);
        return Err(format!("{}: {}\n{said}", contender.name, status.status));
    }
    let mut tally = Tally::new(image, directory);
    for line in String::from_utf8_lossy(&text).lines() {
        tally.take(line);
    }
    let files: Vec<PathBuf> = match directory {
        false => vec![image.to_owned()],
        true => tally
            .opened
            .iter()
            .map(|path| image.join(path.trim_start_matches('/')))
            .collect(),
    };
    Ok(Counts {
        way: contender.name.clone(),
        directory,
        ranks,
        opens: tally.opens,
        looks: tally.looks,
        reads: tally.reads,
        files: tally.opened.len() as u64,
        bytes: if cold { resident(&files) } else { None },
    })
}

/// Takes an image out of the page cache; false where that may not be known to
/// this user (mincore(2): only for files that one owns or may write).
fn forget(image: &Path) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return false;
    }
    nix::unistd::sync();
    if image.is_dir() {
        return fs::write("/proc/sys/vm/drop_caches", "1").is_ok();
    }
    File::open(image).is_ok_and(|file| {
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).is_ok()
    })
}

/// Bytes of these files in the page cache, by fincore(1).
fn resident(files: &[PathBuf]) -> Option<u64> {
    let fincore = on_path("fincore")?;
    let mut sum = 0;
    let real: BTreeSet<PathBuf> = files
        .iter()
        .filter_map(|file| file.canonicalize().ok())
        .filter(|file| file.is_file())
        .collect();
    for some in real.into_iter().collect::<Vec<_>>().chunks(500) {
        let output = Command::new(&fincore)
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .args(some)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        sum += text
            .lines()
            .filter_map(|line| line.trim().parse::<u64>().ok())
            .sum::<u64>();
    }
    Some(sum)
}

/// Adds up the lines of a trace.
#[derive(Debug)]
struct Tally {
    image: String,
    directory: bool,
    /// Processes whose root is the image's.
    inside: HashSet<u32>,
    /// The beginnings of calls that another process interrupted.
    unfinished: HashMap<u32, String>,
    opened: HashSet<String>,
    opens: u64,
    looks: u64,
    reads: u64,
}

/// Where the host is seen in an image; what is below is not the image's.
const NOT_THE_IMAGE: [&str; 10] = [
    "/dev",
    "/proc",
    "/sys",
    "/tmp",
    "/var/tmp",
    "/home",
    "/root",
    "/run",
    "/etc/passwd",
    "/etc/group",
];

impl Tally {
    fn new(image: &Path, directory: bool) -> Self {
        Self {
            image: image.display().to_string(),
            directory,
            inside: HashSet::new(),
            unfinished: HashMap::new(),
            opened: HashSet::new(),
            opens: 0,
            looks: 0,
            reads: 0,
        }
    }

    /// A line of `strace -f -y`: `PID call(arguments) = result`.
    fn take(&mut self, line: &str) {
        let Some((pid, rest)) = line.split_once(' ') else {
            return;
        };
        let Ok(pid) = pid.parse::<u32>() else { return };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            self.unfinished.insert(pid, begun.to_owned());
            return;
        }
        let whole = match rest.strip_prefix("<... ") {
            None => rest.to_owned(),
            Some(resumed) => {
                let end = resumed.split_once(" resumed>").map_or("", |(_, end)| end);
                self.unfinished.remove(&pid).unwrap_or_default() + end
            }
        };
        self.take_call(pid, &whole);
    }

    fn take_call(&mut self, pid: u32, call: &str) {
        let Some((name, rest)) = call.split_once('(') else {
            return;
        };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else {
            return;
        };
        let succeeded = !result.starts_with('-') && !result.starts_with('?');
        match name {
            "clone" | "clone3" | "fork" | "vfork" => {
                if let (true, Ok(child)) = (self.inside.contains(&pid), result.trim().parse()) {
                    self.inside.insert(child);
                }
            }
            "pivot_root" | "chroot" if succeeded => {
                self.inside.insert(pid);
            }
            // The network's and the user's are not the root's.
            "setns"
                if succeeded && arguments.contains("mnt") | arguments.contains("CLONE_NEWNS") =>
            {
                self.inside.insert(pid);
            }
            "exit" | "exit_group" | "wait4" | "waitid" | "kill" => {}
            "read" | "pread64" | "readv" | "preadv" | "preadv2" | "getdents64" => {
                let path = descriptor_path(arguments).unwrap_or_default();
                if succeeded && self.reaches_image(pid, &path) {
                    self.reads += 1;
                }
            }
            _ => {
                let Some(path) = named_path(arguments) else {
                    return;
                };
                if !self.reaches_image(pid, &path) {
                    return;
                }
                let opens = name.starts_with("open") || name.starts_with("execve");
                if opens && succeeded {
                    self.opens += 1;
                    let below = path.strip_prefix(&self.image).unwrap_or(&path);
                    self.opened.insert(below.to_owned());
                } else {
                    self.looks += 1;
                }
            }
        }
    }

    /// Whether a path, as a process names it, is the image's on the host's file
    /// system. In an image from a file, what a rank opens asks the mount, which is
    /// the node's own; only what the server or we do with the file counts.
    fn reaches_image(&self, pid: u32, path: &str) -> bool {
        let below = |place: &str| {
            path.strip_prefix(place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if self.inside.contains(&pid) {
            return self.directory
                && path.starts_with('/')
                && !NOT_THE_IMAGE.iter().any(|place| below(place));
        }
        below(&self.image)
    }
}

/// The path in `3</path>, …`.
fn descriptor_path(arguments: &str) -> Option<String> {
    let (number, rest) = arguments.split_once('<')?;
    number.parse::<u32>().ok()?;
    rest.split_once('>').map(|(path, _)| path.to_owned())
}

/// The path that a call names: its first string, which is relative to the
/// descriptor before it, if there is one.
fn named_path(arguments: &str) -> Option<String> {
    let (before, rest) = arguments.split_once('"')?;
    let (text, _) = rest.split_once('"')?;
    if text.starts_with('/') {
        return Some(text.to_owned());
    }
    let base = before.trim_end_matches([',', ' ']);
    let base = match base.strip_prefix("AT_FDCWD<") {
        Some(rest) => rest.trim_end_matches('>').to_owned(),
        None => descriptor_path(base)?,
    };
    match text {
        "" => Some(base),
        text => Some(format!("{}/{text}", base.trim_end_matches('/'))),
    }
}

/// All counts, for people.
pub fn table(all: &[Counts]) -> String {
    let mut text = format!(
        "What a start asks of the file system that the image is on, on one node\n  {:<28} {:>5} {:>9} {:>9} {:>9} {:>7} {:>10} {:>14}\n",
        "", "ranks", "opens", "looks", "reads", "files", "MiB", "calls per rank"
    );
    for counts in all {
        let calls = counts.opens + counts.looks + counts.reads;
        let bytes = counts.bytes.map_or("unknown".to_owned(), |bytes| {
            format!("{:.1}", bytes as f64 / 1048576.0)
        });
        text += &format!(
            "  {:<28} {:>5} {:>9} {:>9} {:>9} {:>7} {:>10} {:>14.1}\n",
            counts.way,
            counts.ranks,
            counts.opens,
            counts.looks,
            counts.reads,
            counts.files,
            bytes,
            calls as f64 / f64::from(counts.ranks)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(directory: bool, lines: &[&str]) -> Tally {
        let mut tally = Tally::new(Path::new("/images/a"), directory);
        lines.iter().for_each(|line| tally.take(line));
        tally
    }

    const START: [&str; 9] = [
        r#"10 execve("/usr/bin/singularity", ["singularity"], 0x7ff /* 9 vars */) = 0"#,
        r#"10 openat(AT_FDCWD</home/me>, "/images/a", O_RDONLY|O_CLOEXEC) = 3</images/a>"#,
        r#"10 newfstatat(3</images/a>, "etc/hosts", 0x7f, 0) = -1 ENOENT (No such file or directory)"#,
        r#"10 pread64(3</images/a>, ""..., 4096, 0) = 4096"#,
        r#"10 pivot_root(".", ".") = 0"#,
        r#"10 openat(AT_FDCWD</>, "/lib/libc.so.6", O_RDONLY) = 4</lib/libc.so.6>"#,
        r#"10 openat(AT_FDCWD</>, "/proc/self/maps", O_RDONLY) = 5</proc/10/maps>"#,
        r#"10 access("/etc/ld.so.preload", R_OK) = -1 ENOENT (No such file or directory)"#,
        r#"10 read(4</lib/libc.so.6>, ""..., 832) = 832"#,
    ];

    #[test]
    fn what_ranks_do_in_a_directory_reaches_its_file_system() {
        let tally = tally(true, &START);
        assert_eq!((tally.opens, tally.looks, tally.reads), (2, 2, 2));
        assert!(tally.opened.contains("/lib/libc.so.6"), "{tally:?}");
    }

    #[test]
    fn what_ranks_do_in_a_file_stays_on_the_node() {
        let tally = tally(false, &START);
        assert_eq!((tally.opens, tally.looks, tally.reads), (1, 1, 1));
    }

    #[test]
    fn children_of_a_rank_are_inside_too() {
        let tally = tally(
            true,
            &[
                r#"10 openat(AT_FDCWD</>, "/lib/x", O_RDONLY) = 3</lib/x>"#,
                r#"10 setns(5<mnt:[4026531841]>, CLONE_NEWNS) = 0"#,
                r#"10 clone(child_stack=NULL, flags=SIGCHLD) = 11"#,
                r#"11 openat(AT_FDCWD</>, "/lib/x", O_RDONLY) = 3</lib/x>"#,
            ],
        );
        assert_eq!(tally.opens, 1);
    }

    #[test]
    fn a_call_that_was_interrupted_is_put_together() {
        let tally = tally(
            true,
            &[
                r#"10 openat(AT_FDCWD</>, "/images/a/x", O_RDONLY <unfinished ...>"#,
                r#"11 close(3) = 0"#,
                r#"10 <... openat resumed>) = 3</images/a/x>"#,
            ],
        );
        assert_eq!(tally.opens, 1);
    }

    #[test]
    fn another_image_with_the_same_beginning_is_not_this_one() {
        let tally = tally(
            true,
            &[r#"1 openat(AT_FDCWD</>, "/images/ab", O_RDONLY) = 3</images/ab>"#],
        );
        assert_eq!(tally.opens, 0);
    }
}
