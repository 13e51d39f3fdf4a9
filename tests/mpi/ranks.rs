//! What ranks say of themselves.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
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
    launcher
        .arg(test_support::command())
        .arg("exec")
        .args(options)
        .arg(image);
    launcher.args(["sh", "-c", WHERE]);
    let output = run(launcher);
    output.succeeded();
    told(&output)
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
