//! What is printed and written.

use std::fmt::Write as _;

use serde::Serialize;

use crate::latency::Messages;
use crate::section::Section;
use bench::machine::Machine;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// Whether it was only a trial, whose times mean nothing.
    pub quick: bool,
    /// Times of commands.
    pub sections: Vec<Section>,
    /// Messages between ranks.
    pub messages: Option<Messages>,
}

impl Report {
    /// The report as people read it.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        writeln!(text, "{}", machine.line())?;
        for (program, version) in &machine.versions {
            writeln!(text, "  {program}: {version}")?;
        }
        for section in &self.sections {
            write_section(text, section)?;
        }
        if let Some(messages) = &self.messages {
            write_messages(text, messages)?;
        }
        Ok(())
    }
}

fn write_section(text: &mut String, section: &Section) -> std::fmt::Result {
    writeln!(text, "\n{}", section.title)?;
    writeln!(
        text,
        "  {:<34} {:>9} {:>9} {:>9} {:>9}   ratio to {} (95 %)",
        "milliseconds", "median", "25 %", "75 %", "least", section.baseline
    )?;
    for outcome in &section.results {
        let Some(summary) = outcome.summary else {
            continue;
        };
        write!(text, "  {:<34}", outcome.name)?;
        for time in [
            summary.median,
            summary.lower_quartile,
            summary.upper_quartile,
            summary.least,
        ] {
            write!(text, " {:>9.3}", time / 1000.0)?;
        }
        if let Some(ratio) = outcome.ratio {
            write!(
                text,
                "   {:>5.2}  {:.2}-{:.2}",
                ratio.value, ratio.low, ratio.high
            )?;
        }
        writeln!(text)?;
    }
    for target in &section.targets {
        let promise = format!(
            "{} at most {} of {}",
            target.contender, target.most, target.baseline
        );
        match section.judge(target) {
            Some(ratio) => {
                // Only what the range says is said; the rest is noise.
                let verdict = if ratio.value <= target.most {
                    "kept"
                } else if ratio.low <= target.most {
                    "open: within the noise"
                } else {
                    "missed"
                };
                writeln!(
                    text,
                    "  target: {promise}: {:.3} ({:.3}-{:.3}), {verdict}",
                    ratio.value, ratio.low, ratio.high
                )?;
            }
            None => writeln!(text, "  target: {promise}: not measured")?,
        }
    }
    for missing in &section.missing {
        writeln!(text, "  not measured: {missing}")?;
    }
    Ok(())
}

fn write_messages(text: &mut String, messages: &Messages) -> std::fmt::Result {
    writeln!(
        text,
        "\nmessages between two ranks (least latency, most bandwidth; ratios to the host's)"
    )?;
    write!(
        text,
        "  {:>8}  {:>11} {:>11}",
        "bytes", "latency us", "MB/s"
    )?;
    for contender in messages.contenders.iter().skip(1) {
        write!(text, "   {:>24}", contender)?;
    }
    writeln!(text)?;
    write!(text, "  {:>8}  {:>11} {:>11}", "", "host", "host")?;
    for _ in messages.contenders.iter().skip(1) {
        write!(text, "   {:>11} {:>12}", "latency", "bandwidth")?;
    }
    writeln!(text)?;
    for size in &messages.sizes {
        write!(text, "  {:>8}", size.bytes)?;
        for (index, exchange) in size.results.iter().enumerate() {
            if index == 0 {
                write!(
                    text,
                    "  {:>11.2} {:>11.1}",
                    exchange.least_latency, exchange.most_bandwidth
                )?;
            } else {
                write!(
                    text,
                    "   {:>11.2} {:>12.2}",
                    exchange.latency_ratio, exchange.bandwidth_ratio
                )?;
            }
        }
        writeln!(text)?;
    }
    Ok(())
}
