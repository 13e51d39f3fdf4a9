//! Which ranks are where, by what they say of it themselves.

use crate::{Image, Mpi, Output, User};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What one rank says ([`layout.c`](layout.c)).
#[derive(Debug)]
struct Seat<'a> {
    host: &'a str,
    node_rank: usize,
    node: Vec<usize>,
    segments: BTreeSet<&'a str>,
    shares_windows: bool,
}

impl<'a> Seat<'a> {
    fn read(line: &'a str) -> Option<Seat<'a>> {
        let (_, rest) = line.split_once(" on ")?;
        let (host, rest) = rest.split_once(" local ")?;
        let (node_rank, rest) = rest.split_once(": ")?;
        let (node, rest) = rest.split_once(" segments:")?;
        let (segments, window) = rest.split_once(" window: ")?;
        let numbers = node.split_whitespace().map(|word| word.parse().ok());
        Some(Seat {
            host,
            node_rank: node_rank.parse().ok()?,
            node: numbers.collect::<Option<_>>()?,
            segments: segments.split_whitespace().collect(),
            shares_windows: window == "shared",
        })
    }
}

/// The program whose ranks say where they are, compiled for the MPI of an image and
/// kept where all hosts see it. Of MPICH only the 5.0 of PyPI has a compiler here.
pub fn layout_program(user: &User, image: Image) -> PathBuf {
    let source = user.file("layout.c", include_str!("layout.c"));
    let program = user.work().join(format!("layout-{}", image.name()));
    if image == Image::WheelMpich5 {
        Mpi::mpich5().compile(&source, &program);
    } else {
        let mut compile = user.singularity();
        compile.arg("exec").arg(image.directory());
        compile
            .args(["mpicc", "-O2", "-o"])
            .arg(&program)
            .arg(&source);
        crate::capture(&mut compile).succeeded();
    }
    program
}

/// Fails unless these ranks are on these hosts, each MPI has the ranks of a host in one
/// node, in this order, and ranks share memory if and only if they share a host.
#[track_caller]
pub fn assert_layout(output: &Output, hosts: &[(&str, &[usize])]) {
    output.succeeded();
    let text = output.stdout();
    let size: usize = hosts.iter().map(|(_, ranks)| ranks.len()).sum();
    let seats: Vec<_> = (0..size)
        .map(|rank| {
            let beginning = format!("rank {rank} of {size} on ");
            text.lines()
                .find(|line| line.starts_with(&beginning))
                .and_then(Seat::read)
                .unwrap_or_else(|| panic!("rank {rank} of {size}: {output}"))
        })
        .collect();
    for (host, ranks) in hosts {
        for (node_rank, rank) in ranks.iter().enumerate() {
            let seat = &seats[*rank];
            assert_eq!(seat.host, *host, "rank {rank}: {output}");
            assert_eq!(seat.node, *ranks, "rank {rank}: {output}");
            assert_eq!(seat.node_rank, node_rank, "rank {rank}: {output}");
            assert!(seat.shares_windows, "rank {rank}: {output}");
        }
    }
    for (one, seat) in seats.iter().enumerate() {
        for (another, other) in seats.iter().enumerate().skip(one + 1) {
            let shares = !seat.segments.is_disjoint(&other.segments);
            assert_eq!(
                shares,
                seat.host == other.host,
                "{one}, {another}: {output}"
            );
        }
    }
}
