//! Messages between two ranks, for each size, on the host and in an image.

use serde::Serialize;
use test_support::Form;

use crate::section::{Builder, Effort};
use crate::stage::{Stage, Who};

const ROUNDS: usize = 7;

/// One size of message.
#[derive(Debug, Serialize)]
pub struct Size {
    /// Of a message.
    pub bytes: u64,
    /// In the order of [`Messages::contenders`].
    pub results: Vec<Exchange>,
}

/// How one contender fared with one size.
#[derive(Debug, Serialize)]
pub struct Exchange {
    /// Half of a ping-pong, in microseconds, one for each round.
    pub latency: Vec<f64>,
    /// 10^6 bytes a second, one for each round.
    pub bandwidth: Vec<f64>,
    /// The least of the latencies. Two ranks that poll keep two cores busy;
    /// whatever else runs adds to the time, and nothing takes from it.
    pub least_latency: f64,
    /// The most of the bandwidths.
    pub most_bandwidth: f64,
    /// Of the least latency to the host's.
    pub latency_ratio: f64,
    /// Of the most bandwidth to the host's.
    pub bandwidth_ratio: f64,
}

/// All sizes.
#[derive(Debug, Serialize)]
pub struct Messages {
    /// Who sent messages; the first is the host.
    pub contenders: Vec<String>,
    /// Smallest first.
    pub sizes: Vec<Size>,
}

/// Measures them.
///
/// # Errors
/// The first contender that failed, or a table that cannot be read.
pub fn measure(stage: &Stage, effort: Effort) -> Result<Messages, String> {
    let mut builder = Builder::new("messages between two ranks", Who::User);
    builder.pause = 30;
    let mpirun = stage.mpirun(Who::User, 2);
    let mut options = Vec::new();
    if effort.quick {
        options.push("--quick".to_owned());
    }
    let contenders = [
        (
            "host",
            Vec::new(),
            stage.mpi.latency().display().to_string(),
        ),
        (
            "directory",
            stage.exec(&[], &stage.directory),
            "/usr/local/bin/latency".to_owned(),
        ),
        (
            "squashfs by FUSE",
            stage.exec(&[], &stage.image(Form::Squashfs)),
            "/usr/local/bin/latency".to_owned(),
        ),
    ];
    for (name, launcher, program) in &contenders {
        let mut words = mpirun.clone();
        words.extend(launcher.iter().cloned());
        words.push(program.clone());
        builder.add(name, &words, &options).keep_output = true;
    }
    let (_, measured) = builder.run(stage, effort, ROUNDS)?;
    let tables = measured
        .outputs
        .iter()
        .map(|rounds| rounds.iter().map(|text| read(text)).collect())
        .collect::<Result<Vec<Vec<_>>, String>>()?;
    Ok(Messages {
        contenders: contenders
            .iter()
            .map(|(name, ..)| (*name).to_owned())
            .collect(),
        sizes: by_size(&tables),
    })
}

/// A line of the table: bytes, latency, bandwidth.
type Line = (u64, f64, f64);

/// Reads what examples/ring/latency.c prints.
fn read(text: &str) -> Result<Vec<Line>, String> {
    let lines: Vec<Line> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let bytes = fields.next()?.parse().ok()?;
            Some((
                bytes,
                fields.next()?.parse().ok()?,
                fields.next()?.parse().ok()?,
            ))
        })
        .collect();
    if lines.is_empty() {
        return Err(format!("latency printed no table:\n{text}"));
    }
    Ok(lines)
}

/// `tables`: for each contender and round, the lines.
fn by_size(tables: &[Vec<Vec<Line>>]) -> Vec<Size> {
    let sizes: Vec<u64> = tables
        .first()
        .and_then(|rounds| rounds.first())
        .map(|lines| lines.iter().map(|(bytes, ..)| *bytes).collect())
        .unwrap_or_default();
    let of = |contender: &[Vec<Line>], bytes: u64, field: fn(&Line) -> f64| -> Vec<f64> {
        contender
            .iter()
            .flatten()
            .filter(|line| line.0 == bytes)
            .map(field)
            .collect()
    };
    let least = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |samples: &[f64]| samples.iter().copied().fold(0.0, f64::max);
    sizes
        .into_iter()
        .map(|bytes| {
            let latencies = |contender: &[Vec<Line>]| of(contender, bytes, |line| line.1);
            let bandwidths = |contender: &[Vec<Line>]| of(contender, bytes, |line| line.2);
            let host = (least(&latencies(&tables[0])), most(&bandwidths(&tables[0])));
            let exchange = |contender: &Vec<Vec<Line>>| {
                let (latency, bandwidth) = (latencies(contender), bandwidths(contender));
                Exchange {
                    least_latency: least(&latency),
                    most_bandwidth: most(&bandwidth),
                    latency_ratio: least(&latency) / host.0,
                    bandwidth_ratio: most(&bandwidth) / host.1,
                    latency,
                    bandwidth,
                }
            };
            Size {
                bytes,
                results: tables.iter().map(exchange).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "     bytes   latency_us  bandwidth_MBps\n\
         \x20        1         0.12           16.81\n\
         \x20   65536         5.00         9000.00\n";

    #[test]
    fn the_table_is_read_without_its_head() {
        assert_eq!(
            read(TABLE).unwrap(),
            [(1, 0.12, 16.81), (65536, 5.0, 9000.0)]
        );
        assert!(read("mpirun was killed\n").is_err());
    }

    #[test]
    fn sizes_are_compared_with_the_host_size_by_size() {
        let host = read(TABLE).unwrap();
        let image = vec![(1, 0.24, 16.81), (65536, 5.0, 4500.0)];
        let sizes = by_size(&[vec![host.clone(), host], vec![image.clone(), image]]);
        assert_eq!(sizes.len(), 2);
        assert_eq!(sizes[0].results[1].latency_ratio, 2.0);
        assert_eq!(sizes[1].results[1].latency_ratio, 1.0);
        assert_eq!(sizes[1].results[1].bandwidth_ratio, 0.5);
    }

    #[test]
    fn a_disturbed_round_does_not_count() {
        let calm = vec![(1, 0.2, 10.0)];
        let disturbed = vec![(1, 90.0, 0.1)];
        let sizes = by_size(&[
            vec![calm.clone(), disturbed.clone()],
            vec![disturbed.clone(), calm],
        ]);
        assert_eq!(sizes[0].results[1].latency_ratio, 1.0);
        assert_eq!(sizes[0].results[1].bandwidth_ratio, 1.0);
    }
}
