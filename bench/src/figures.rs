//! From samples to what is shown: medians with intervals, ratios to the host with
//! what may be said of them.
//!
//! Owns: which figures are compared with which. Pure.

use crate::data::{Data, Measure, Way};
use crate::statistics::{judge, median, Ratio, Verdict};

/// One figure of a way.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Bytes of a message, or ranks.
    pub x: f64,
    /// Its median, with its interval.
    pub median: Ratio,
    /// Its ratio to the baseline's, and what may be said of it.
    pub ratio: Option<(Ratio, Verdict)>,
    /// Rounds.
    pub rounds: usize,
}

/// The figures of a way, smallest message or fewest ranks first.
pub fn figures(data: &Data, measure: Measure, way: &Way) -> Vec<Figure> {
    let points = data.points(measure, way);
    let comparisons = points.len();
    points
        .iter()
        .filter_map(|point| {
            Some(Figure {
                x: point.x,
                median: median(point.samples)?,
                ratio: match way.is_host() {
                    true => None,
                    false => judge(point.samples, point.baseline, comparisons),
                },
                rounds: point.samples.len(),
            })
        })
        .collect()
}

/// What adding ranks costs: KiB or milliseconds a rank, from the fewest to the
/// most ranks measured.
pub fn for_each_rank(data: &Data, measure: Measure, way: &Way) -> Option<f64> {
    let points = data.points(measure, way);
    let (first, last) = (points.first()?, points.last()?);
    let middle = |samples: &[f64]| Some(median(samples)?.value);
    let rise = middle(last.samples)? - middle(first.samples)?;
    (last.x > first.x).then(|| rise / (last.x - first.x))
}

/// A size as people say it.
pub fn bytes(size: f64) -> String {
    match size {
        size if size >= f64::from(1 << 20) => format!("{} MiB", size / f64::from(1 << 20)),
        size if size >= 1024.0 => format!("{} KiB", size / 1024.0),
        size => format!("{size} B"),
    }
}
