//! From samples to what is shown: medians with intervals, ratios to the host with
//! what may be said of them, and what was promised.
//!
//! Owns: which figures are compared with which. Pure.

use serde::Serialize;

use crate::data::{Data, Measure, Way};
use crate::statistics::{judge, median, Ratio, Verdict, ENOUGH};

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

/// A promise, and how it was kept.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// What was promised of which way.
    pub text: String,
    /// What was found.
    pub found: String,
    /// "kept", "missed", "open" where the interval allows both, "few rounds".
    pub verdict: &'static str,
}

/// The promises that this run can judge.
pub fn promises(data: &Data) -> Vec<Promise> {
    let mut all = Vec::new();
    for way in data.ways.iter().filter(|way| way.own && !way.is_host()) {
        for (measure, best) in [
            (Measure::Latency, false),
            (Measure::Bandwidth, true),
            (Measure::Bidirectional, true),
        ] {
            all.extend(within_the_noise(data, measure, way, best));
        }
        for figure in figures(data, Measure::Init, way) {
            let name = format!("MPI_Init of {} ranks", figure.x);
            all.extend(at_most(&name, way, &figure, 1.05));
        }
        let ring = match way.entering.as_str() {
            entering if entering.contains("FUSE") => 1.15,
            entering if entering.contains("kernel") => 1.05,
            _ => 1.02,
        };
        for figure in figures(data, Measure::Ring, way) {
            all.extend(at_most("ring of 4 ranks", way, &figure, ring));
        }
        for figure in figures(data, Measure::Cold, way) {
            all.extend(at_most(
                "first start, cold, to the directory's",
                way,
                &figure,
                1.2,
            ));
        }
        all.extend(memory(data, way));
    }
    all
}

/// As good as the host at every size: nowhere a difference for the worse.
fn within_the_noise(data: &Data, measure: Measure, way: &Way, best: bool) -> Option<Promise> {
    let figures = figures(data, measure, way);
    let worse: Vec<&Figure> = figures
        .iter()
        .filter(|figure| {
            matches!(
                (figure.ratio, best),
                (Some((_, Verdict::More)), false) | (Some((_, Verdict::Less)), true)
            )
        })
        .collect();
    let ratios: Vec<f64> = figures
        .iter()
        .filter_map(|f| Some(f.ratio?.0.value))
        .collect();
    let middle = median(&ratios)?.value;
    let found = match worse.first() {
        None => format!(
            "no difference at {} sizes, ratio {middle:.3}",
            figures.len()
        ),
        Some(figure) => {
            let (ratio, _) = figure.ratio?;
            format!(
                "worse at {} of {} sizes, as {:.3} ({:.3}-{:.3}) at {}; ratio {middle:.3}",
                worse.len(),
                figures.len(),
                ratio.value,
                ratio.low,
                ratio.high,
                bytes(figure.x)
            )
        }
    };
    Some(Promise {
        text: format!("{}, {}: as the host's", way.name, measure.name()),
        found,
        verdict: match (figures.iter().any(|f| f.rounds < ENOUGH), worse.is_empty()) {
            (true, _) => "few rounds",
            (_, true) => "kept",
            (_, false) => "missed",
        },
    })
}

fn at_most(name: &str, way: &Way, figure: &Figure, most: f64) -> Option<Promise> {
    let (ratio, _) = figure.ratio?;
    let verdict = if figure.rounds < ENOUGH {
        "few rounds"
    } else if ratio.value <= most {
        "kept"
    } else if ratio.low <= most {
        "open"
    } else {
        "missed"
    };
    Some(Promise {
        text: format!("{}, {name}: at most {most}", way.name),
        found: format!("{:.3} ({:.3}-{:.3})", ratio.value, ratio.low, ratio.high),
        verdict,
    })
}

/// At most 100 KiB for each added rank, and no process for each.
fn memory(data: &Data, way: &Way) -> Vec<Promise> {
    let mut all = Vec::new();
    let host = data.way(&way.baseline);
    let each = for_each_rank(data, Measure::Memory, way);
    let hosts = host.and_then(|host| for_each_rank(data, Measure::Memory, host));
    if let (Some(each), Some(hosts)) = (each, hosts) {
        all.push(Promise {
            text: format!(
                "{}, memory of an added rank: at most 100 KiB more",
                way.name
            ),
            found: format!("{:+.0} KiB ({each:.0}, host {hosts:.0})", each - hosts),
            verdict: if each - hosts <= 100.0 {
                "kept"
            } else {
                "missed"
            },
        });
    }
    if let Some(each) = for_each_rank(data, Measure::Helpers, way) {
        let most = figures(data, Measure::Helpers, way)
            .iter()
            .map(|figure| figure.median.value)
            .fold(0.0, f64::max);
        all.push(Promise {
            text: format!("{}, processes for each rank: none", way.name),
            found: format!("{most:.0} for all ranks of the node"),
            verdict: if each == 0.0 { "kept" } else { "missed" },
        });
    }
    all
}

/// A size as people say it.
pub fn bytes(size: f64) -> String {
    match size {
        size if size >= f64::from(1 << 20) => format!("{} MiB", size / f64::from(1 << 20)),
        size if size >= 1024.0 => format!("{} KiB", size / 1024.0),
        size => format!("{size} B"),
    }
}
