//! What a start of one job costs a shared file system on many nodes: a small model
//! with its assumptions, for a directory, an image file, and a file that is sent to
//! every node's own disk first.
//!
//! Owns: the arithmetic. Pure: the same counts and assumptions give the same times.

use std::fmt::Write as _;

use launcher::Error;

use crate::data::Data;
use crate::files::Counts;

/// What is assumed of the file system, the network and the node. All may be
/// changed by `--assume NAME=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumptions {
    /// Opens and looks that the metadata servers answer a second, of all nodes.
    pub metadata: f64,
    /// Bytes a second that the data servers deliver to all nodes together.
    pub bandwidth: f64,
    /// Reads a second that the data servers answer, of all nodes.
    pub requests: f64,
    /// Bytes a second that one node can receive.
    pub link: f64,
    /// Seconds that one question takes on an idle system; a rank asks one at a time.
    pub latency: f64,
    /// The part of a node's names that it asks for once and then knows (0: none, as
    /// where every open is checked with the server; 1: all).
    pub cached: f64,
    /// Nodes that a broadcast is passed on to by each that has it.
    pub fanout: f64,
    /// Bytes a second that a node's own disk takes and gives.
    pub disk: f64,
    /// Ranks of a node.
    pub ranks: f64,
    /// Bytes of the image file.
    pub image: f64,
}

/// Each assumption: its name, what it is, and where it is.
type Named = (&'static str, &'static str, fn(&mut Assumptions) -> &mut f64);

const NAMES: [Named; 10] = [
    ("metadata", "opens and looks a second, all nodes", |a| {
        &mut a.metadata
    }),
    ("bandwidth", "bytes a second, all nodes", |a| {
        &mut a.bandwidth
    }),
    ("requests", "reads a second, all nodes", |a| &mut a.requests),
    ("link", "bytes a second, one node", |a| &mut a.link),
    ("latency", "seconds a question", |a| &mut a.latency),
    (
        "cached",
        "part of the names that a node asks for once",
        |a| &mut a.cached,
    ),
    ("fanout", "nodes that each sends a broadcast on to", |a| {
        &mut a.fanout
    }),
    ("disk", "bytes a second, a node's own disk", |a| &mut a.disk),
    ("ranks", "ranks a node", |a| &mut a.ranks),
    ("image", "bytes of the image file", |a| &mut a.image),
];

impl Default for Assumptions {
    /// A middling parallel file system, and a node of two sockets.
    fn default() -> Self {
        Self {
            metadata: 100_000.0,
            bandwidth: 100e9,
            requests: 1_000_000.0,
            link: 10e9,
            latency: 300e-6,
            cached: 0.9,
            fanout: 50.0,
            disk: 1e9,
            ranks: 128.0,
            image: 170e6,
        }
    }
}

impl Assumptions {
    /// With these changed, each `NAME=VALUE`.
    ///
    /// # Errors
    /// A name that is none, or a value that is no positive number.
    pub fn with(mut self, changes: &[String]) -> Result<Self, Error> {
        for change in changes {
            let step = || format!("--assume {change}");
            let names: Vec<_> = NAMES.iter().map(|(name, ..)| *name).collect();
            let hint = format!("one of {}, as in metadata=20000", names.join(", "));
            let (name, value) = change
                .split_once('=')
                .ok_or_else(|| Error::new(step(), "it has no value").hint(hint.clone()))?;
            let (.., place) = NAMES
                .iter()
                .find(|(known, ..)| *known == name.trim())
                .ok_or_else(|| Error::new(step(), "no such assumption").hint(hint.clone()))?;
            let number: f64 = value.trim().parse().unwrap_or(f64::NAN);
            let fits = match name.trim() {
                "cached" => (0.0..=1.0).contains(&number),
                "latency" => (0.0..1e6).contains(&number),
                "fanout" => (1.0..1e6).contains(&number),
                _ => number.is_finite() && number > 0.0,
            };
            if !fits {
                return Err(Error::new(step(), "not a number that it can be").hint(hint));
            }
            *place(&mut self) = number;
        }
        Ok(self)
    }
}

/// What the starts of one node ask for: so much, and so much more for each rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Opens and looks of the node whatever its ranks.
    pub names: f64,
    /// The same for each rank.
    pub names_each: f64,
    /// Reads of the node.
    pub reads: f64,
    /// The same for each rank.
    pub reads_each: f64,
    /// Bytes of the node: the page cache keeps them for its other ranks.
    pub bytes: f64,
}

/// Counted once for this model: a program of Open MPI 4.1 from Debian 12, a directory
/// and squashfs served by FUSE; as docs/SCALE.md has it. Newer counts come from
/// `--measure files`.
const DIRECTORY: Cost = Cost {
    names: 0.0,
    names_each: 525.0,
    reads: 0.0,
    reads_each: 175.0,
    bytes: 32.6e6,
};
const FILE: Cost = Cost {
    names: 0.0,
    names_each: 3.0,
    reads: 729.0,
    reads_each: 17.5,
    bytes: 49.5e6,
};

/// Ranks of a large node, which the counts are extended to.
const MANY_RANKS: f64 = 256.0;

impl Cost {
    /// From counts with few and with many ranks, by the line through them.
    fn of(few: &Counts, many: &Counts) -> Option<Self> {
        let more = f64::from(many.ranks) - f64::from(few.ranks);
        (more > 0.0).then_some(())?;
        let line = |few: f64, many: f64, ranks: f64| {
            let each = ((many - few) / more).max(0.0);
            ((few - each * ranks).max(0.0), each)
        };
        let ranks = f64::from(few.ranks);
        let name = |counts: &Counts| (counts.opens + counts.looks) as f64;
        let (names, names_each) = line(name(few), name(many), ranks);
        let (reads, reads_each) = line(few.reads as f64, many.reads as f64, ranks);
        Some(Self {
            names,
            names_each,
            reads,
            reads_each,
            bytes: many.bytes.or(few.bytes)? as f64,
        })
    }

    /// The costs of directories and of files in a run; those that are known where
    /// it has none.
    fn from_run(data: Option<&Data>) -> (Self, Self, bool) {
        let of = |directory: bool| {
            let mut counts: Vec<&Counts> = data?
                .files
                .iter()
                .filter(|counts| counts.directory == directory)
                .collect();
            let way = counts.first()?.way.clone();
            counts.retain(|counts| counts.way == way);
            counts.sort_by_key(|counts| counts.ranks);
            Self::of(counts.first()?, counts.last()?)
        };
        match (of(true), of(false)) {
            (Some(directory), Some(file)) => (directory, file, true),
            _ => (DIRECTORY, FILE, false),
        }
    }
}

/// Opens and looks of one node that reach the servers: what its other ranks ask for
/// again is answered by the node itself, in part.
fn node_names(cost: &Cost, given: &Assumptions) -> f64 {
    cost.names + cost.names_each * ((1.0 - given.cached) * (given.ranks - 1.0) + 1.0)
}

/// Seconds until the last rank of so many nodes has started, as far as the image
/// is concerned: the slowest of what the servers must answer in all, what the data
/// servers must deliver, and what a node waits for by itself.
pub fn shared(cost: &Cost, given: &Assumptions, nodes: f64) -> f64 {
    let node_reads = cost.reads + cost.reads_each;
    // Ranks of a node ask side by side; each waits for its own questions.
    let asks = cost.names + cost.names_each + node_reads;
    let node = asks * given.latency + cost.bytes / given.link;
    let metadata = nodes * node_names(cost, given) / given.metadata;
    let requests = nodes * node_reads / given.requests;
    let data = nodes * cost.bytes / given.bandwidth;
    node.max(metadata).max(requests).max(data)
}

/// The same where every node copies the whole file to its own disk first, as by
/// `--stage`. Each rank still opens the original, to see that it is the same image.
pub fn staged(cost: &Cost, given: &Assumptions, nodes: f64) -> f64 {
    let deliver = (nodes * given.image / given.bandwidth).max(given.image / given.link);
    let opens = nodes * node_names(cost, given) / given.metadata;
    deliver.max(opens).max(given.image / given.disk) + local(cost, given)
}

/// The same where one node reads the file and it is passed on from node to node.
pub fn broadcast(cost: &Cost, given: &Assumptions, nodes: f64) -> f64 {
    // Each level of the tree sends to `fanout` others over one link, in pieces, so
    // that levels overlap but for their first piece.
    let levels = (nodes.max(1.0).ln() / (given.fanout + 1.0).ln())
        .ceil()
        .max(1.0);
    let receivers = given.fanout.min(nodes.max(1.0));
    let piece = 8e6_f64.min(given.image);
    let send = receivers * given.image / given.link;
    let rest = (levels - 1.0) * receivers * piece / given.link;
    (send + rest).max(given.image / given.disk) + local(cost, given)
}

/// A start from the node's own disk.
fn local(cost: &Cost, given: &Assumptions) -> f64 {
    cost.bytes / given.disk
}

/// The table, with its assumptions.
pub fn report(data: Option<&Data>, given: &Assumptions, nodes: &[u64]) -> String {
    let (directory, file, measured) = Cost::from_run(data);
    let mut text = String::new();
    let _ = write_report(&mut text, (&directory, &file, measured), given, nodes);
    text
}

fn write_report(
    text: &mut String,
    (directory, file, measured): (&Cost, &Cost, bool),
    given: &Assumptions,
    nodes: &[u64],
) -> std::fmt::Result {
    writeln!(text, "Assumed (change one by --assume NAME=VALUE):")?;
    let mut shown = *given;
    for (name, what, place) in NAMES {
        writeln!(
            text,
            "  {name:<10} {:>12}  {what}",
            number(*place(&mut shown))
        )?;
    }
    let from = match measured {
        true => "counted in this run",
        false => "counted for docs/SCALE.md; count your own by --measure files",
    };
    writeln!(text, "\nOne node's start ({from}):")?;
    for (name, cost) in [("directory", directory), ("image file", file)] {
        writeln!(
            text,
            "  {name:<10} {:.0} + {:.1} a rank opens and looks, {:.0} + {:.1} a rank reads, {:.1} MB; with {MANY_RANKS} ranks {:.0} and {:.0}",
            cost.names,
            cost.names_each,
            cost.reads,
            cost.reads_each,
            cost.bytes / 1e6,
            cost.names + cost.names_each * MANY_RANKS,
            cost.reads + cost.reads_each * MANY_RANKS,
        )?;
    }
    writeln!(
        text,
        "\nSeconds until the last rank has started, as far as the image is concerned:\n  {:>9} {:>11} {:>12} {:>12} {:>14} {:>14}",
        "nodes", "ranks", "directory", "image file", "--stage", "sbcast"
    )?;
    for &count in nodes {
        let many = count as f64;
        writeln!(
            text,
            "  {count:>9} {:>11} {:>12} {:>12} {:>14} {:>14}",
            many * given.ranks,
            seconds(shared(directory, given, many)),
            seconds(shared(file, given, many)),
            seconds(staged(file, given, many)),
            seconds(broadcast(file, given, many))
        )?;
    }
    Ok(())
}

fn seconds(time: f64) -> String {
    match time {
        time if time < 10.0 => format!("{time:.2}"),
        time if time < 100.0 => format!("{time:.1}"),
        time => format!("{time:.0}"),
    }
}

fn number(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{}e9", value / 1e9),
        value if value >= 1e6 => format!("{}e6", value / 1e6),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Assumptions = Assumptions {
        metadata: 1000.0,
        bandwidth: 1e9,
        requests: 1e6,
        link: 1e9,
        latency: 0.001,
        cached: 1.0,
        fanout: 10.0,
        disk: 1e9,
        ranks: 10.0,
        image: 1e9,
    };
    const COST: Cost = Cost {
        names: 100.0,
        names_each: 100.0,
        reads: 0.0,
        reads_each: 0.0,
        bytes: 1e6,
    };

    #[test]
    fn one_node_waits_for_its_own_questions() {
        // 200 questions of a millisecond, and a megabyte.
        assert!((shared(&COST, &ROUND, 1.0) - 0.201).abs() < 1e-9);
    }

    #[test]
    fn many_nodes_wait_for_the_metadata_servers() {
        // 200 names of each of 1000 nodes, of which 1000 a second are answered.
        assert!((shared(&COST, &ROUND, 1000.0) - 200.0).abs() < 1e-9);
        // Where nothing is cached, each of ten ranks asks.
        let forgetful = Assumptions {
            cached: 0.0,
            ..ROUND
        };
        assert!((shared(&COST, &forgetful, 1000.0) - 1100.0).abs() < 1e-9);
    }

    #[test]
    fn a_broadcast_does_not_grow_with_nodes_as_copying_does() {
        let copied = staged(&COST, &ROUND, 1000.0);
        assert!((copied - 1000.001).abs() < 1e-6, "{copied}");
        // Where the names take longer than the file, they are what is waited for.
        let slow = Assumptions {
            metadata: 10.0,
            ..ROUND
        };
        let named = staged(&COST, &slow, 1000.0);
        assert!((named - 20_000.001).abs() < 1e-6, "{named}");
        let few = broadcast(&COST, &ROUND, 100.0);
        let many = broadcast(&COST, &ROUND, 10_000.0);
        assert!(many < few * 1.1, "{few} {many}");
    }

    #[test]
    fn an_assumption_that_is_none_is_refused() {
        let with = |text: &str| Assumptions::default().with(&[text.to_owned()]);
        assert_eq!(with("metadata=5").unwrap().metadata, 5.0);
        for wrong in [
            "metadata",
            "metadata=",
            "metadata=-1",
            "metadata=nan",
            "colour=1",
            "cached=2",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn costs_are_the_line_through_two_counts() {
        let counts = |ranks, opens| Counts {
            ranks,
            opens,
            bytes: Some(5),
            ..Counts::default()
        };
        let cost = Cost::of(&counts(2, 30), &counts(10, 110)).unwrap();
        assert_eq!((cost.names, cost.names_each), (10.0, 10.0));
        assert!(Cost::of(&counts(2, 30), &counts(2, 30)).is_none());
    }

    #[test]
    fn the_table_has_a_line_for_each_number_of_nodes() {
        let text = report(None, &Assumptions::default(), &[1000, 10_000]);
        let line = |start: &str| {
            text.lines()
                .any(|line| line.trim_start().starts_with(start))
        };
        assert!(line("1000 ") && line("10000 "), "{text}");
    }
}
