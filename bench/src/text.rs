//! The result as text: on standard output, for terminals and for files.
//!
//! Owns: its layout. Pure.

use std::fmt::Write as _;

use crate::data::{Data, Measure, Way};
use crate::figures::{bytes, figures, for_each_rank, Figure};
use crate::progress::{brief, sparkline};
use crate::promises::promises;
use crate::statistics::Verdict;

/// The whole result, its tables of figures no wider than this.
pub fn report(data: &Data, width: usize) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_report(&mut text, data, width);
    text
}

fn write_report(text: &mut String, data: &Data, width: usize) -> std::fmt::Result {
    writeln!(text, "{}", data.machine.line())?;
    for (program, version) in &data.machine.versions {
        writeln!(text, "  {program}: {version}")?;
    }
    writeln!(
        text,
        "launcher: {} ({})",
        data.launcher.words, data.launcher.version
    )?;
    if data.quick {
        writeln!(text, "a first look: the intervals are wide")?;
    }
    writeln!(text)?;
    for way in &data.ways {
        writeln!(
            text,
            "{}: {}; format {}; {}; CMA {}; nodes {}",
            way.name,
            way.entering,
            way.format,
            if way.mpi.is_empty() {
                "MPI unknown"
            } else {
                &way.mpi
            },
            if way.cma.is_empty() {
                "unknown"
            } else {
                &way.cma
            },
            way.nodes
        )?;
    }
    for measure in Measure::ALL {
        write_measure(text, data, measure, width)?;
    }
    let promised = promises(data);
    if !promised.is_empty() {
        writeln!(text, "\nWhat was promised")?;
        for promise in promised {
            writeln!(text, "  {:<10} {}", promise.verdict, promise.line())?;
        }
    }
    if !data.files.is_empty() {
        writeln!(text, "\n{}", crate::files::table(&data.files).trim_end())?;
    }
    if !data.calls.is_empty() {
        writeln!(text, "\n{}", crate::calls::table(&data.calls).trim_end())?;
    }
    for note in &data.notes {
        writeln!(text, "\nnot measured: {note}")?;
    }
    Ok(())
}

/// Columns of a table: a size or a number of ranks, and a way.
const SIZE: usize = 10;
const COLUMN: usize = 29;

fn write_measure(
    text: &mut String,
    data: &Data,
    measure: Measure,
    width: usize,
) -> std::fmt::Result {
    let ways = data.ways_of(measure);
    let rows: Vec<(&Way, Vec<Figure>)> = ways
        .iter()
        .map(|way| (*way, figures(data, measure, way)))
        .collect();
    let Some(longest) = rows
        .iter()
        .map(|(_, figures)| figures)
        .max_by_key(|f| f.len())
    else {
        return Ok(());
    };
    let rounds = longest
        .iter()
        .map(|figure| figure.rounds)
        .max()
        .unwrap_or(0);
    let ranks: Vec<String> = data.ranks(measure).iter().map(u32::to_string).collect();
    writeln!(
        text,
        "\n{}, {} ({} ranks, {rounds} rounds; median, ratio and its 95 % interval)",
        measure.title(),
        measure.unit(),
        ranks.join(", ")
    )?;
    for (way, figures) in &rows {
        let medians: Vec<f64> = figures.iter().map(|figure| figure.median.value).collect();
        write!(text, "  {:<28} {:<24}", way.name, sparkline(&medians, 24))?;
        if measure == Measure::Memory || measure == Measure::Launch {
            if let Some(each) = for_each_rank(data, measure, way) {
                write!(
                    text,
                    " {} {} for each added rank",
                    brief(each),
                    measure.unit()
                )?;
            }
        }
        writeln!(text)?;
    }
    let side_by_side = (width.saturating_sub(SIZE) / COLUMN).max(1);
    for rows in rows.chunks(side_by_side) {
        write_columns(text, measure, rows, longest)?;
    }
    Ok(())
}

fn write_columns(
    text: &mut String,
    measure: Measure,
    rows: &[(&Way, Vec<Figure>)],
    longest: &[Figure],
) -> std::fmt::Result {
    let label = if measure.by_bytes() { "size" } else { "ranks" };
    write!(text, "  {label:>8}")?;
    for (way, _) in rows {
        write!(
            text,
            "  {:>27}",
            way.name.chars().take(27).collect::<String>()
        )?;
    }
    writeln!(text)?;
    for figure in longest {
        let x = match measure.by_bytes() {
            true => bytes(figure.x),
            false => figure.x.to_string(),
        };
        write!(text, "  {x:>8}")?;
        for (way, figures) in rows {
            let found = figures.iter().find(|other| other.x == figure.x);
            let shown = found.map_or_else(String::new, |found| cell(measure, way, found));
            write!(text, "  {shown:>27}")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn cell(measure: Measure, way: &Way, figure: &Figure) -> String {
    let median = brief(figure.median.value);
    if way.is_host() {
        return format!(
            "{median} ({}-{})",
            brief(figure.median.low),
            brief(figure.median.high)
        );
    }
    match figure.ratio {
        None => median,
        Some((ratio, verdict)) => format!(
            "{median} {:.2} ({:.2}-{:.2}) {}",
            ratio.value,
            ratio.low,
            ratio.high,
            sign(measure, verdict)
        ),
    }
}

/// What may be said of a ratio, in a letter: better, worse, the same, or nothing.
fn sign(measure: Measure, verdict: Verdict) -> char {
    match (verdict, measure.more_is_better()) {
        (Verdict::TooFew, _) => '?',
        (Verdict::NoDifference, _) => '=',
        (Verdict::More, true) | (Verdict::Less, false) => '+',
        (Verdict::More, false) | (Verdict::Less, true) => '-',
    }
}

/// What was promised and what was found, of several runs, as a table in Markdown
/// with a part for each.
pub fn targets(runs: &[Data]) -> String {
    let mut text = String::new();
    let _ = write_targets(&mut text, runs);
    text
}

fn write_targets(text: &mut String, runs: &[Data]) -> std::fmt::Result {
    // A bar would end a cell.
    let cell = |text: &str| text.replace('|', "/");
    for data in runs {
        let promised = promises(data);
        if promised.is_empty() {
            continue;
        }
        writeln!(
            text,
            "`{}` ({}), {} cores, Linux {}:\n",
            data.launcher.words, data.launcher.version, data.machine.cores, data.machine.kernel
        )?;
        writeln!(
            text,
            "| what | way | target | found | 95 % | |\n|---|---|---|---|---|---|"
        )?;
        for promise in promised {
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                cell(&promise.what),
                cell(&promise.way),
                promise.target,
                promise.found,
                promise.range,
                promise.verdict
            )?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// What differs between two runs: of each figure that both have, where the
/// intervals say that it does.
pub fn compare(a: &Data, b: &Data) -> String {
    let mut text = String::new();
    let _ = write_comparison(&mut text, a, b);
    text
}

fn write_comparison(text: &mut String, a: &Data, b: &Data) -> std::fmt::Result {
    for (name, data) in [("A", a), ("B", b)] {
        writeln!(
            text,
            "{name}: singularity {}, {}, {}",
            data.version,
            data.machine.line(),
            data.launcher.version
        )?;
    }
    let (mut same, mut only) = (0, 0);
    for measure in Measure::ALL {
        let mut lines = Vec::new();
        for way in a.ways_of(measure) {
            let Some(other) = b.ways_of(measure).into_iter().find(|w| w.name == way.name) else {
                only += a.points(measure, way).len();
                continue;
            };
            let (ours, theirs) = (a.points(measure, way), b.points(measure, other));
            for point in &ours {
                let Some(twin) = theirs.iter().find(|twin| twin.x == point.x) else {
                    only += 1;
                    continue;
                };
                match difference(measure, way, point, twin, ours.len()) {
                    Some(line) => lines.push(line),
                    None => same += 1,
                }
            }
        }
        if !lines.is_empty() {
            writeln!(text, "\n{}, {}: B to A", measure.title(), measure.unit())?;
            lines.iter().try_for_each(|line| writeln!(text, "{line}"))?;
        }
    }
    writeln!(
        text,
        "\n{same} figures do not differ by more than the noise"
    )?;
    if only > 0 {
        writeln!(text, "{only} figures of A are not in B")?;
    }
    Ok(())
}

/// A line, if the two differ. What is compared is the ratio to each run's own
/// baseline, where there is one: the two machines may have differed in speed.
fn difference(
    measure: Measure,
    way: &Way,
    ours: &crate::data::Point<'_>,
    theirs: &crate::data::Point<'_>,
    comparisons: usize,
) -> Option<String> {
    let of_ratios = !way.is_host() && !ours.baseline.is_empty() && !theirs.baseline.is_empty();
    let (a, b) = match of_ratios {
        true => (ratios(ours), ratios(theirs)),
        false => (ours.samples.to_vec(), theirs.samples.to_vec()),
    };
    let (ratio, verdict) = crate::statistics::judge_unpaired(&b, &a, comparisons)?;
    let word = match sign(measure, verdict) {
        '+' => "better",
        '-' => "worse",
        _ => return None,
    };
    let x = match measure.by_bytes() {
        true => bytes(ours.x),
        false => format!("{} ranks", ours.x),
    };
    Some(format!(
        "  {:<28} {x:>10}  {:.3} ({:.3}-{:.3}) {word}{}",
        way.name,
        ratio.value,
        ratio.low,
        ratio.high,
        if of_ratios {
            ", as ratio to the host"
        } else {
            ""
        }
    ))
}

fn ratios(point: &crate::data::Point<'_>) -> Vec<f64> {
    point
        .samples
        .iter()
        .zip(point.baseline)
        .map(|(sample, base)| sample / base)
        .collect()
}
