//! The report as one HTML file that needs no other: graphs as SVG within it.
//!
//! Owns: its layout. Pure. No scripts, nothing is loaded.

use std::fmt::Write as _;

use crate::data::{Data, Measure, Way};
use crate::figures::{bytes, figures, Figure};
use crate::plot::Graph;
use crate::progress::brief;
use crate::promises::promises;
use crate::statistics::Verdict;

/// The page.
pub fn page(data: &Data, graphs: &[Graph]) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_page(&mut text, data, graphs);
    text
}

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;color:#111;background:#fff;max-width:70rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.5rem;border-bottom:1px solid #ccc}\
table{border-collapse:collapse;font-size:.9rem;margin:1rem 0}\
th,td{padding:.2rem .7rem;text-align:left;border-bottom:1px solid #e2e2e2;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
thead th{border-bottom:2px solid #888}\
.worse{color:#a33b00;font-weight:600}.better{color:#00664b;font-weight:600}.small{color:#555;font-size:.85rem}\
.kept::before{content:'\\2713  '}.missed::before{content:'\\2717  '}.open::before{content:'?  '}\
.missed{color:#a33b00;font-weight:600}\
figure{margin:1rem 0;break-inside:avoid}figure svg{width:100%;height:auto}\
details{margin:.5rem 0}.scroll{overflow-x:auto}\
@media print{body{margin:0;max-width:none}details>*{display:block}}";

fn write_page(text: &mut String, data: &Data, graphs: &[Graph]) -> std::fmt::Result {
    write!(
        text,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>singularity bench</title><style>{STYLE}</style></head><body>\n\
         <h1>MPI on the host and in images</h1>\n"
    )?;
    if data.quick {
        text.push_str("<p><strong>A first look: the intervals are wide.</strong></p>\n");
    }
    write_circumstances(text, data)?;
    write_promises(text, data)?;
    for graph in graphs {
        // The XML declaration and a document type belong to files.
        let svg = graph.svg.find("<svg").map_or("", |at| &graph.svg[at..]);
        let svg = svg.replacen("<svg", &sized(svg), 1);
        writeln!(
            text,
            "<figure role=\"img\" aria-label=\"{}\">{svg}</figure>",
            escaped(&graph.alternative)
        )?;
        if let Some(measure) = Measure::ALL.into_iter().find(|m| m.name() == graph.name) {
            text.push_str("<details><summary>Figures</summary>\n");
            write_measure(text, data, measure)?;
            text.push_str("</details>\n");
        }
    }
    for measure in Measure::ALL {
        if graphs.iter().any(|graph| graph.name == measure.name())
            || data.ways_of(measure).is_empty()
        {
            continue;
        }
        writeln!(text, "<h2>{}</h2>", measure.title())?;
        write_measure(text, data, measure)?;
    }
    if !data.files.is_empty() {
        text.push_str("<h2>What a start asks of the image's file system</h2>\n");
        writeln!(
            text,
            "<pre class=\"scroll\">{}</pre>",
            escaped(&crate::files::table(&data.files))
        )?;
    }
    if !data.calls.is_empty() {
        let table = crate::calls::table(&data.calls);
        let (title, table) = table.split_once('\n').unwrap_or_default();
        writeln!(
            text,
            "<h2>{title}</h2>\n<pre class=\"scroll\">{}</pre>",
            escaped(table)
        )?;
    }
    if !data.notes.is_empty() {
        text.push_str("<h2>Not measured</h2>\n<ul>\n");
        for note in &data.notes {
            writeln!(text, "<li>{}</li>", escaped(note))?;
        }
        text.push_str("</ul>\n");
    }
    text.push_str(
        "<h2>How to read this</h2>\n<p>All ways ran by turns, in another order each round. \
         A figure is the median over the rounds, with the range that holds the true one in 95 of \
         100 cases (bootstrap). A ratio compares medians of the same rounds; its range comes from \
         drawing rounds as a whole. <em>Better</em> and <em>worse</em> are said only where the range \
         excludes 1 even when all sizes are looked at together (Bonferroni), and after as many rounds \
         as that takes: six for one figure, ten for one of 25 sizes; otherwise there is no difference \
         that can be told from noise. data.json has all \
         samples: <code>singularity bench --from data.json --out DIR</code> makes this page anew.</p>\n</body></html>\n",
    );
    Ok(())
}

/// The opening of an SVG that scales with the page.
fn sized(svg: &str) -> String {
    let attribute = |name: &str| {
        let at = svg.find(&format!("{name}=\""))? + name.len() + 2;
        svg[at..].split('"').next()
    };
    match (
        attribute("width"),
        attribute("height"),
        svg.contains("viewBox"),
    ) {
        (Some(width), Some(height), false) => {
            format!("<svg viewBox=\"0 0 {width} {height}\"")
        }
        _ => "<svg".to_owned(),
    }
}

fn write_circumstances(text: &mut String, data: &Data) -> std::fmt::Result {
    let machine = &data.machine;
    text.push_str("<h2>Circumstances</h2>\n<table>\n");
    let mut row = |name: &str, value: &str| {
        writeln!(
            text,
            "<tr><th>{}</th><td>{}</td></tr>",
            escaped(name),
            escaped(value)
        )
    };
    row(
        "machine",
        &format!(
            "{} cores, {}, {} MiB",
            machine.cores, machine.processor, machine.memory
        ),
    )?;
    row(
        "kernel",
        &format!("Linux {}, {}", machine.kernel, machine.system),
    )?;
    row("load before", &format!("{:.2}", machine.load))?;
    row(
        "launcher",
        &format!("{}: {}", data.launcher.words, data.launcher.version),
    )?;
    for (program, version) in &machine.versions {
        row(program, version)?;
    }
    text.push_str("</table>\n<div class=\"scroll\"><table><thead><tr><th>way</th><th>entering</th><th>image format</th><th>MPI</th><th>CMA</th><th class=\"n\">nodes</th></tr></thead>\n");
    for way in &data.ways {
        let size = match way.bytes {
            0 => String::new(),
            size => format!(", {:.0} MB", size as f64 / 1e6),
        };
        writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}{size}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td></tr>",
            escaped(&way.name),
            escaped(&way.entering),
            escaped(&way.format),
            escaped(&way.mpi),
            escaped(&way.cma),
            way.nodes
        )?;
    }
    text.push_str("</table></div>\n<p class=\"small\">CMA: whether one rank can copy from another's memory (process_vm_readv), which large messages on a node need to be copied once only.</p>\n");
    Ok(())
}

fn write_promises(text: &mut String, data: &Data) -> std::fmt::Result {
    let promised = promises(data);
    if promised.is_empty() {
        return Ok(());
    }
    text.push_str("<h2>What was promised</h2>\n<div class=\"scroll\"><table><thead><tr><th>what</th><th>way</th><th>target</th><th>found</th><th>95 %</th><th></th></tr></thead>\n");
    for promise in promised {
        writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"{}\">{}</td></tr>",
            escaped(&promise.what),
            escaped(&promise.way),
            escaped(&promise.target),
            escaped(&promise.found),
            escaped(&promise.range),
            promise.verdict.split(' ').next().unwrap_or_default(),
            promise.verdict
        )?;
    }
    text.push_str("</table></div>\n");
    Ok(())
}

fn write_measure(text: &mut String, data: &Data, measure: Measure) -> std::fmt::Result {
    let rows: Vec<(&Way, Vec<Figure>)> = data
        .ways_of(measure)
        .into_iter()
        .map(|way| (way, figures(data, measure, way)))
        .collect();
    let Some(longest) = rows
        .iter()
        .map(|(_, figures)| figures)
        .max_by_key(|f| f.len())
    else {
        return Ok(());
    };
    let label = if measure.by_bytes() { "size" } else { "ranks" };
    write!(
        text,
        "<div class=\"scroll\"><table><thead><tr><th class=\"n\">{label}</th>"
    )?;
    for (way, _) in &rows {
        write!(
            text,
            "<th class=\"n\">{}, {}</th>",
            escaped(&way.name),
            measure.unit()
        )?;
        if !way.is_host() {
            text.push_str("<th class=\"n\">ratio</th>");
        }
    }
    text.push_str("</tr></thead>\n");
    for figure in longest {
        let x = match measure.by_bytes() {
            true => bytes(figure.x),
            false => figure.x.to_string(),
        };
        write!(text, "<tr><td class=\"n\">{x}</td>")?;
        for (way, figures) in &rows {
            let found = figures.iter().find(|other| other.x == figure.x);
            let median = found.map_or(String::new(), |f| {
                format!(
                    "{} <span class=\"small\">({}–{})</span>",
                    brief(f.median.value),
                    brief(f.median.low),
                    brief(f.median.high)
                )
            });
            write!(text, "<td class=\"n\">{median}</td>")?;
            if !way.is_host() {
                let ratio = found.and_then(|f| f.ratio).map_or(String::new(), |(ratio, verdict)| {
                    let word = word(measure, verdict);
                    format!(
                        "<span class=\"{word}\">{:.2} {word}</span> <span class=\"small\">({:.2}–{:.2})</span>",
                        ratio.value, ratio.low, ratio.high
                    )
                });
                write!(text, "<td class=\"n\">{ratio}</td>")?;
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table></div>\n");
    Ok(())
}

fn word(measure: Measure, verdict: Verdict) -> &'static str {
    match (verdict, measure.more_is_better()) {
        (Verdict::TooFew | Verdict::NoDifference, _) => "",
        (Verdict::More, true) | (Verdict::Less, false) => "better",
        (Verdict::More, false) | (Verdict::Less, true) => "worse",
    }
}

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut all, letter| {
        match letter {
            '&' => all.push_str("&amp;"),
            '<' => all.push_str("&lt;"),
            '>' => all.push_str("&gt;"),
            '"' => all.push_str("&quot;"),
            other => all.push(other),
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_write_into_the_page() {
        assert_eq!(escaped("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
