//! What ranks say of themselves.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use test_support::{capture_within, Leftovers, Output};

/// No job of these tests takes as long, on two cores that run others as well.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Prints where a rank is, once all of its job are there: a rank that has ended
/// holds no namespace, and the next would found another.
const WHERE: &str = "sleep 1; \
    echo rank $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/user) $PPID";

/// Where one rank is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Its mount namespace.
    pub mount: String,
    /// Its user namespace.
    pub user: String,
}

/// Runs a job to its end.
pub fn run(command: &mut Command) -> Output {
    capture_within(LIMIT, command, b"")
}

/// Has every rank of `launcher` enter the image with these options and say where
/// it is.
pub fn places(launcher: &mut Command, options: &[&str], image: &Path) -> Vec<Rank> {
    places_by(launcher, options, image, WHERE)
}

/// The same by another text of a shell: [`together`] where the ranks may be in
/// different places.
pub fn places_by(launcher: &mut Command, options: &[&str], image: &Path, text: &str) -> Vec<Rank> {
    launcher
        .arg(test_support::command())
        .arg("exec")
        .args(options)
        .arg(image);
    launcher.args(["sh", "-c", text]);
    let output = run(launcher);
    output.succeeded();
    told(&output)
}

/// The text of a shell that says where it is while `count` shells of this text, on
/// one host, are where they are. The number of a namespace that has ended is soon
/// another's: of shells that were there one after another it says nothing.
pub fn together(count: usize) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    // The seconds that a program of each shell sleeps, by which others know it.
    let mark = u64::from(std::process::id()) * 1000
        + u64::from(NUMBER.fetch_add(1, Ordering::Relaxed))
        + 1_000_000;
    format!(
        "sleep {mark} & mark=$!; for i in $(seq 300); do \
         there=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cx {mark}); \
         test $there -ge {count} && break; sleep 0.1; done; \
         echo rank $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/user); sleep 1; kill $mark"
    )
}

/// The ranks that said where they are.
pub fn told(output: &Output) -> Vec<Rank> {
    let words = |line: &str| -> Option<Rank> {
        let mut words = line.strip_prefix("rank ")?.split(' ').map(str::to_owned);
        Some(Rank {
            mount: words.next()?,
            user: words.next()?,
        })
    };
    output.stdout().lines().filter_map(words).collect()
}

/// How many different places these are.
pub fn different(ranks: &[Rank]) -> usize {
    ranks.iter().collect::<BTreeSet<_>>().len()
}

/// Two ranks of the ring ran on each of the two hosts.
#[track_caller]
pub fn assert_two_on_each_host(output: &Output) {
    for host in ["one", "two"] {
        let there = output.stdout().matches(&format!(" on {host},")).count();
        assert_eq!(there, 2, "{output}");
    }
}

/// Fails unless the output is that of one world of `ranks` ranks whose library
/// says `library`, with a clean standard error.
#[track_caller]
pub fn assert_one_world(output: &Output, ranks: usize, library: &str) {
    output.succeeded().quietly();
    let text = output.stdout();
    for rank in 0..ranks {
        let beginning = format!("rank {rank} of {ranks} on ");
        let line = text.lines().find(|line| line.starts_with(&beginning));
        assert!(
            line.is_some_and(|line| line.contains(library)),
            "rank {rank}, {library}: {output}"
        );
    }
    assert!(
        text.contains(&format!("ring of {ranks} ranks: token ")),
        "{output}"
    );
    assert_eq!(text.lines().count(), ranks + 1, "{output}");
}

/// Fails if anything is left but what Open MPI itself leaves, on the host as in
/// an image: segments of ranks that were killed, and session directories that
/// ranks of Open MPI 5 make under mpirun 4.
#[track_caller]
pub fn assert_nothing_of_ours(before: &Leftovers) {
    let open_mpis = |thing: &String| {
        thing.starts_with("file /dev/shm/vader_segment.") || thing.starts_with("file /tmp/ompi.")
    };
    // Ordinary users make no loop devices; a test beside this one is root's.
    let roots = |thing: &String| thing.starts_with("loop device ");
    let look = || -> Vec<String> {
        let left = before.left().into_iter();
        left.filter(|thing| !open_mpis(thing) && !roots(thing))
            .collect()
    };
    // Jobs of tests beside this one come and go; what is left behind stays.
    let mut left = look();
    if !left.is_empty() {
        let still = look();
        left.retain(|thing| still.contains(thing));
    }
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}
