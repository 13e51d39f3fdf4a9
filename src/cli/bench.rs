//! What can be typed to measure.
//!
//! Owns: syntax. What is done is `bench`'s, a program of its own that the command
//! becomes (see [`crate::cmd::builder`]); it parses by this definition too.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Measure MPI programs on the host and in images, by turns, with graphs
#[derive(Debug, Args)]
pub struct Bench {
    /// The images to compare with the host: the same tree as a directory and as files, say
    #[arg(value_name = "IMAGE", value_hint = ValueHint::AnyPath, required_unless_present_any = ["from", "compare", "model"])]
    pub images: Vec<PathBuf>,

    /// A minute or two for a first look; wide intervals
    #[arg(long, help_heading = "How much", conflicts_with_all = ["minutes", "rounds"])]
    pub quick: bool,
    /// Take about N minutes [default: 10]
    #[arg(long, help_heading = "How much", value_name = "N", value_parser = minutes)]
    pub minutes: Option<f64>,
    /// Rounds of each measure, however long they take; with --minutes at least so many
    #[arg(long, help_heading = "How much", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// What to measure: latency, bandwidth, bidirectional, allreduce, alltoall, barrier, enter, init, launch, ring, memory, cold, files, calls, fence, phases, or all; comma lists [default: the first eleven]
    #[arg(
        long,
        help_heading = "How much",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub measure: Vec<String>,
    /// Numbers of ranks for start-up, launch and memory; comma list
    #[arg(long, help_heading = "How much", value_name = "N", value_delimiter = ',', default_value = "2,8,32", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub ranks: Vec<u32>,
    /// The largest message: 4M, 16M; up to 64M
    #[arg(long, help_heading = "How much", value_name = "BYTES", default_value = "4M", value_parser = bytes)]
    pub most: u64,

    /// What starts the ranks, without their number, as in 'mpirun --map-by core' [default: srun in a Slurm allocation, else mpirun]
    #[arg(long, help_heading = "What is compared", value_name = "WORDS")]
    pub launcher: Option<String>,
    /// Our own ways to enter the image: userns, setuid, plugin, bridge; comma list [default: all that are there, without the bridge where none is needed]
    #[arg(
        long,
        help_heading = "What is compared",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub enter: Vec<String>,
    /// One more way to enter the image, as in 'bwrap=bwrap --ro-bind {image} / --dev /dev --proc /proc --bind /tmp /tmp {program}'; {launcher} may stand in front, for launchers with options of their own; repeatable
    #[arg(
        long,
        help_heading = "What is compared",
        value_name = "NAME=TEMPLATE",
        allow_hyphen_values = true
    )]
    pub way: Vec<String>,
    /// Compare with these, where they are installed: bwrap, ch-run, apptainer, or found for those that are; comma list
    #[arg(
        long,
        help_heading = "What is compared",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub peers: Vec<String>,
    /// Options for singularity exec
    #[arg(
        long,
        help_heading = "What is compared",
        value_name = "OPTIONS",
        allow_hyphen_values = true
    )]
    pub options: Option<String>,
    /// Run by root: do the part of ordinary users as USER, beside root's
    #[arg(long = "as", help_heading = "What is compared", value_name = "USER")]
    pub as_user: Option<String>,
    /// The compiler of the host's MPI, that which belongs to the launcher
    #[arg(
        long,
        help_heading = "What is compared",
        value_name = "PROGRAM",
        default_value = "mpicc"
    )]
    pub mpicc: String,
    /// The host's compiled programs, in a directory, instead of compiling them with its mpicc
    #[arg(long, help_heading = "What is compared", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub host_program: Option<PathBuf>,
    /// The same for the images, as they see it, instead of compiling with their mpicc
    #[arg(long, help_heading = "What is compared", value_name = "DIR")]
    pub image_program: Option<PathBuf>,

    /// Write report.html, graphs and data.json to DIR
    #[arg(long, help_heading = "What comes out", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Write all samples to FILE, - for standard output
    #[arg(long, help_heading = "What comes out", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Show what is in FILE, as --json or --out wrote it, instead of measuring; repeatable
    #[arg(long, help_heading = "What comes out", value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["images", "compare"])]
    pub from: Vec<PathBuf>,
    /// Print what was promised, what was found and whether that keeps it, as a table in Markdown, instead of all figures
    #[arg(long, help_heading = "What comes out")]
    pub targets: bool,
    /// Say what differs between two such files
    #[arg(long, help_heading = "What comes out", num_args = 2, value_names = ["A", "B"], value_hint = ValueHint::FilePath, conflicts_with_all = ["images", "from"])]
    pub compare: Vec<PathBuf>,
    /// Print what a start costs a shared file system on many nodes; with --from or images, from their counts
    #[arg(long, help_heading = "What comes out")]
    pub model: bool,
    /// Nodes of the model; comma list
    #[arg(long, help_heading = "What comes out", value_name = "N", value_delimiter = ',', default_value = "1,10,100,1000,10000", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub nodes: Vec<u64>,
    /// Change an assumption of the model, as in metadata=20000; repeatable, comma lists
    #[arg(
        long,
        help_heading = "What comes out",
        value_name = "NAME=VALUE",
        value_delimiter = ','
    )]
    pub assume: Vec<String>,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=100_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("a number of minutes, 0.1 or more".to_owned()),
    }
}

/// A number of bytes with K, M or G behind it.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((end, 'K' | 'k')) => (&text[..end], 1 << 10),
        Some((end, 'M' | 'm')) => (&text[..end], 1 << 20),
        _ => (text, 1),
    };
    match digits.parse::<u64>() {
        Ok(number @ 1..=67_108_864) if number * factor <= 64 << 20 => Ok(number * factor),
        _ => Err("a number from 1 to 64M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_unit() {
        assert_eq!(bytes("1"), Ok(1));
        assert_eq!(bytes("4K"), Ok(4096));
        assert_eq!(bytes("16M"), Ok(16 << 20));
        for wrong in ["", "0", "M", "65M", "-1", "99999999999999999999"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn minutes_are_more_than_a_moment() {
        assert_eq!(minutes("2.5"), Ok(2.5));
        for wrong in ["0", "-3", "nan", "inf", "soon"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
