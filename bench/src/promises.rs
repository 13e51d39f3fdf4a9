//! What was promised of a start in an image, and whether a run keeps it.
//!
//! Owns: the numbers that were promised. Pure.

use serde::Serialize;

use crate::data::{Data, Measure, Way};
use crate::figures::{bytes, figures, for_each_rank, Figure};
use crate::statistics::{compare_all, difference, Ratio, Verdict, ENOUGH};

/// Of MPI_Init's time, to the host's.
const INIT: f64 = 1.05;
/// The same over the bridge.
const INIT_BRIDGED: f64 = 1.1;
/// Of latency over the bridge, to the host's.
const LATENCY_BRIDGED: f64 = 1.2;
/// Of an exchange over the bridge, to the host's.
const FENCE_BRIDGED: f64 = 1.5;
/// Milliseconds a rank takes longer over the bridge before its program runs.
const SEAT: f64 = 20.0;
/// Of a first start from a file, to the directory's.
const COLD: f64 = 1.2;
/// KiB for each added rank.
const MEMORY: f64 = 100.0;

/// A promise, and how it was kept.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// Of which way.
    pub way: String,
    /// Of what.
    pub what: String,
    /// What was promised.
    pub target: String,
    /// What was found.
    pub found: String,
    /// The range that holds the true one in 95 of 100 cases, where there is one.
    pub range: String,
    /// "kept", "missed", "open" where the interval allows both, "few rounds".
    pub verdict: &'static str,
}

impl Promise {
    /// In a line.
    pub fn line(&self) -> String {
        let range = match self.range.as_str() {
            "" => String::new(),
            range => format!(" ({range})"),
        };
        format!(
            "{}, {}: {}: {}{range}",
            self.way, self.what, self.target, self.found
        )
    }
}

/// The promises that this run can judge.
pub fn promises(data: &Data) -> Vec<Promise> {
    let mut all = Vec::new();
    for way in data.ways.iter().filter(|way| way.own && !way.is_host()) {
        match way.bridged {
            true => all.extend(of_bridge(data, way)),
            false => all.extend(of_way(data, way)),
        }
        all.extend(memory(data, way));
    }
    all.extend(starter(data));
    all
}

fn of_way(data: &Data, way: &Way) -> Vec<Promise> {
    let mut all = Vec::new();
    for measure in [Measure::Latency, Measure::Bandwidth, Measure::Bidirectional] {
        all.extend(within_the_noise(data, measure, way));
    }
    all.extend(of_init(data, way, INIT));
    let ring = match way.entering.as_str() {
        entering if entering.contains("FUSE") => 1.15,
        entering if entering.contains("kernel") => 1.05,
        _ => 1.02,
    };
    for figure in figures(data, Measure::Ring, way) {
        all.extend(at_most("ring of 4 ranks", way, &figure, ring));
    }
    for figure in figures(data, Measure::Cold, way) {
        let what = "first start with cold caches, to the directory's";
        all.extend(at_most(what, way, &figure, COLD));
    }
    all
}

fn of_init(data: &Data, way: &Way, most: f64) -> Vec<Promise> {
    let promise = |figure: Figure| {
        let what = format!("time to the end of MPI_Init, {} ranks", figure.x);
        at_most(&what, way, &figure, most)
    };
    let figures = figures(data, Measure::Init, way).into_iter();
    figures.filter_map(promise).collect()
}

/// Over the bridge: where the host's MPI is of the same kind, what that takes.
fn of_bridge(data: &Data, way: &Way) -> Vec<Promise> {
    let mut all = Vec::new();
    let kind = |way: &Way| way.mpi.split([' ', ':']).next().map(str::to_owned);
    if data.way(&way.baseline).and_then(kind) == kind(way) {
        all.extend(worst(data, Measure::Latency, way, LATENCY_BRIDGED));
        all.extend(of_init(data, way, INIT_BRIDGED));
    }
    for point in data.points(Measure::Reach, way) {
        let Some(later) = difference(point.samples, point.baseline) else {
            continue;
        };
        let each = |value: f64| value / point.x;
        all.push(Promise {
            way: way.name.clone(),
            what: format!("before its program runs, a rank of {}", point.x),
            target: format!("at most {SEAT} ms more"),
            found: format!("{:+.1} ms", each(later.value)),
            range: format!("{:+.1} to {:+.1}", each(later.low), each(later.high)),
            verdict: verdict(&later, point.samples.len(), SEAT * point.x),
        });
    }
    if way.nodes < 2 {
        return all;
    }
    for figure in figures(data, Measure::Fence, way) {
        let what = format!(
            "exchange (fence) over {} nodes, {} ranks",
            way.nodes, figure.x
        );
        all.extend(at_most(&what, way, &figure, FENCE_BRIDGED));
    }
    all
}

/// As good as the host: over all sizes together, and nowhere a difference for the worse.
fn within_the_noise(data: &Data, measure: Measure, way: &Way) -> Option<Promise> {
    let points = data.points(measure, way);
    let pairs: Vec<_> = points
        .iter()
        .map(|point| (point.samples, point.baseline))
        .collect();
    let overall = compare_all(&pairs)?;
    let figures = figures(data, measure, way);
    let is_worse = |figure: &&Figure| {
        let verdict = figure.ratio.map(|(_, verdict)| verdict);
        match measure.more_is_better() {
            true => verdict == Some(Verdict::Less),
            false => verdict == Some(Verdict::More),
        }
    };
    let worse: Vec<&Figure> = figures.iter().filter(is_worse).collect();
    let at = match worse.first() {
        None => "none is worse".to_owned(),
        Some(figure) => {
            let (ratio, _) = figure.ratio?;
            format!(
                "{} are worse, as {} at {:.3} ({})",
                worse.len(),
                bytes(figure.x),
                ratio.value,
                range(&ratio)
            )
        }
    };
    let is_worse_over_all = match measure.more_is_better() {
        true => overall.high < 1.0,
        false => overall.low > 1.0,
    };
    Some(Promise {
        way: way.name.clone(),
        what: format!("{}, of the host's", measure.name()),
        target: "1.00 within the noise at every size".to_owned(),
        found: format!("{:.3} over {} sizes; {at}", overall.value, figures.len()),
        range: range(&overall),
        verdict: match (
            figures.iter().any(|f| f.rounds < ENOUGH),
            worse.is_empty() && !is_worse_over_all,
        ) {
            (true, _) => "few rounds",
            (_, true) => "kept",
            (_, false) => "missed",
        },
    })
}

/// At every size at most so much of the host's.
fn worst(data: &Data, measure: Measure, way: &Way, most: f64) -> Option<Promise> {
    let figures = figures(data, measure, way);
    let of = |figure: &Figure| figure.ratio.map_or(0.0, |(ratio, _)| ratio.value);
    let figure = figures
        .iter()
        .max_by(|a, b| f64::total_cmp(&of(a), &of(b)))?;
    let what = format!(
        "{}, the worst of {} sizes, {}",
        measure.name(),
        figures.len(),
        bytes(figure.x)
    );
    at_most(&what, way, figure, most)
}

fn at_most(what: &str, way: &Way, figure: &Figure, most: f64) -> Option<Promise> {
    let (ratio, _) = figure.ratio?;
    Some(Promise {
        way: way.name.clone(),
        what: what.to_owned(),
        target: format!("at most {most}"),
        found: format!("{:.3}", ratio.value),
        range: range(&ratio),
        verdict: verdict(&ratio, figure.rounds, most),
    })
}

fn range(ratio: &Ratio) -> String {
    format!("{:.3}-{:.3}", ratio.low, ratio.high)
}

fn verdict(found: &Ratio, rounds: usize, most: f64) -> &'static str {
    if rounds < ENOUGH {
        "few rounds"
    } else if found.value <= most {
        "kept"
    } else if found.low <= most {
        "open"
    } else {
        "missed"
    }
}

/// At most 100 KiB for each added rank, and no process for each.
fn memory(data: &Data, way: &Way) -> Vec<Promise> {
    let mut all = Vec::new();
    let host = data.way(&way.baseline);
    let each = for_each_rank(data, Measure::Memory, way);
    let hosts = host.and_then(|host| for_each_rank(data, Measure::Memory, host));
    if let (Some(each), Some(hosts)) = (each, hosts) {
        all.push(Promise {
            way: way.name.clone(),
            what: "memory (PSS) of an added rank".to_owned(),
            target: format!("at most {MEMORY} KiB more"),
            found: format!("{:+.0} KiB ({each:.0}, host {hosts:.0})", each - hosts),
            range: String::new(),
            verdict: match each - hosts <= MEMORY {
                true => "kept",
                false => "missed",
            },
        });
    }
    if let Some(each) = for_each_rank(data, Measure::Helpers, way) {
        let most = figures(data, Measure::Helpers, way)
            .iter()
            .map(|figure| figure.median.value)
            .fold(0.0, f64::max);
        all.push(Promise {
            way: way.name.clone(),
            what: "processes for each rank".to_owned(),
            target: "none".to_owned(),
            found: match most {
                0.0 => "none".to_owned(),
                most => format!("{most:.0} for all ranks of the node"),
            },
            range: String::new(),
            verdict: if each == 0.0 { "kept" } else { "missed" },
        });
    }
    all
}

/// By the starter one execve(2) more than by a user namespace, no process more;
/// told for directories, which take no FUSE server.
fn starter(data: &Data) -> Option<Promise> {
    let of = |entering: &str| {
        let way = data.ways.iter().find(|way| way.entering == entering)?;
        let calls = data.calls.iter().find(|calls| calls.way == way.name)?;
        Some((way, calls))
    };
    let ((_, usual), (way, ours)) = (of("user namespace")?, of("set-id starter")?);
    let more = |ours: u64, usual: u64| ours as i64 - usual as i64;
    let programs = more(ours.programs, usual.programs);
    let processes = more(ours.processes, usual.processes);
    let figures = |name: &str| data.samples(Measure::Enter, name, 1, 0);
    let later = difference(figures(&way.name), figures(&usual.way));
    Some(Promise {
        way: way.name.clone(),
        what: "a start, beside one by a user namespace".to_owned(),
        target: "one execve more".to_owned(),
        found: format!(
            "{programs:+} execve, {processes:+} processes{}",
            later.map_or(String::new(), |later| format!(", {:+.2} ms", later.value))
        ),
        range: later.map_or(String::new(), |later| {
            format!("{:+.2} to {:+.2} ms", later.low, later.high)
        }),
        verdict: match (programs, processes) {
            (..=1, ..=0) => "kept",
            _ => "missed",
        },
    })
}
