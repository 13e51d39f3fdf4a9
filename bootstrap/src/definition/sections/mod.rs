//! The newer syntax: a header of keys, and sections that begin with a percent sign
//! at the very beginning of a line.
//!
//! Owns: keys, sections, stages. Never: reads what is in a script.

mod content;
mod header;

use self::content::{
    add_help, append, copyings, labels, none, plain, script, source_stage, words_of,
};
use self::header::header;
use super::text::{meant, Fault, Place, Text};
use super::words::Word;
use super::{App, Files, Script, Stage, Step};

pub(super) use self::content::take_interpreter;
pub(super) use self::header::{is_key, KEYS};

/// The sections.
const SECTIONS: [&str; 20] = [
    "pre",
    "setup",
    "files",
    "post",
    "environment",
    "runscript",
    "startscript",
    "test",
    "labels",
    "help",
    "arguments",
    "appinstall",
    "apprun",
    "appenv",
    "apptest",
    "appfiles",
    "applabels",
    "apphelp",
    "appstart",
    "appenvironment",
];

/// The name in a line that begins a section.
pub(super) fn section_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('%')?;
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    let ends = after.chars().next().is_none_or(char::is_whitespace);
    (ends && name.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(name)
}

/// Whether a line begins the header of a stage.
pub(super) fn begins_header(line: &str) -> bool {
    line.split_once(':').is_some_and(|(key, _)| {
        let key = key.trim_end();
        key.eq_ignore_ascii_case("bootstrap") || key.eq_ignore_ascii_case("stage")
    })
}

/// The lines of one section, or of a header.
struct Block<'a> {
    lines: Vec<(usize, &'a str)>,
}

/// Reads all stages.
pub(super) fn parse(text: &Text) -> Result<Vec<Stage>, Fault> {
    let mut stages: Vec<Reading> = Vec::new();
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (number, line) in text.lines() {
        let in_header = blocks
            .last()
            .is_some_and(|block| section_name(block.lines[0].1).is_none());
        let begins = section_name(line).is_some() || begins_header(line) && !in_header;
        match blocks.last_mut() {
            Some(block) if !begins => block.lines.push((number, line)),
            _ => blocks.push(Block {
                lines: vec![(number, line)],
            }),
        }
    }
    for block in &blocks {
        let (_, first) = block.lines[0];
        if section_name(first).is_some() {
            if stages.is_empty() {
                stages.push(Reading::default());
            }
            let known: Vec<String> = stages[..stages.len() - 1]
                .iter()
                .filter_map(|reading| Some(reading.stage.name.as_ref()?.value.clone()))
                .collect();
            let reading = stages.last_mut().unwrap_or_else(|| unreachable!());
            reading.section(block, &known)?;
        } else if block
            .lines
            .iter()
            .any(|(_, line)| super::significant(line).is_some())
        {
            let (header, name) = header(block)?;
            let taken = |stage: &Reading| {
                let (mine, theirs) = (name.as_ref(), stage.stage.name.as_ref());
                matches!((mine, theirs), (Some(a), Some(b)) if a.value == b.value)
            };
            if let (Some(name), true) = (&name, stages.iter().any(taken)) {
                return Err(Fault::new(
                    name.at,
                    format!("another stage is called {}", name.value),
                    "give it a name of its own",
                ));
            }
            let mut reading = Reading::default();
            reading.stage.header = header;
            reading.stage.name = name;
            stages.push(reading);
        }
    }
    Ok(stages.into_iter().map(Reading::end).collect())
}

#[derive(Default)]
struct Reading {
    stage: Stage,
    setup: Option<Script>,
    files: Vec<Files>,
    post: Option<Script>,
}

impl Reading {
    fn section(&mut self, block: &Block<'_>, stages: &[String]) -> Result<(), Fault> {
        let (number, first) = block.lines[0];
        let at = Place {
            line: number,
            column: 1,
        };
        let name = section_name(first).unwrap_or_default();
        let name = SECTIONS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(name))
            .copied()
            .ok_or_else(|| unknown_section(name, at))?;
        let words = words_of(number, first, name.len() + 1)?;
        if name.starts_with("app") {
            return self.app(name, at, words, block);
        }
        match name {
            "pre" => {
                let script = script(at, words, block)?;
                self.stage.pre.extend(script);
            }
            "setup" => append(&mut self.setup, script(at, words, block)?)?,
            "post" => append(&mut self.post, script(at, words, block)?)?,
            "environment" => append(&mut self.stage.environment, plain(at, &words, block)?)?,
            "runscript" => append(&mut self.stage.runscript, script(at, words, block)?)?,
            "startscript" => append(&mut self.stage.startscript, script(at, words, block)?)?,
            "test" => append(&mut self.stage.test, script(at, words, block)?)?,
            "labels" => {
                none(&words)?;
                self.stage.labels.extend(labels(block)?);
            }
            "help" => {
                none(&words)?;
                add_help(&mut self.stage.help, block);
            }
            "files" => {
                let from = source_stage(words, stages)?;
                let list = copyings(block)?;
                self.files.push(Files { from, list });
            }
            // Read before, as its values are in what is read here.
            _ => none(&words)?,
        }
        Ok(())
    }

    fn app(
        &mut self,
        section: &str,
        at: Place,
        mut words: Vec<Word>,
        block: &Block<'_>,
    ) -> Result<(), Fault> {
        if words.is_empty() {
            return Err(Fault::new(
                at,
                format!("%{section} without the name of an app"),
                format!("write %{section} NAME"),
            ));
        }
        let name = words.remove(0);
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-+.".contains(c);
        if !name.text.chars().all(fits) || name.text.starts_with(['.', '-']) {
            return Err(Fault::new(
                name.at,
                "not a name of an app",
                "letters, digits and _ - + . make a name, which is that of a directory",
            ));
        }
        let position = self
            .stage
            .apps
            .iter()
            .position(|app| app.name == name.text)
            .unwrap_or_else(|| {
                self.stage.apps.push(App {
                    name: name.text.clone(),
                    ..App::default()
                });
                self.stage.apps.len() - 1
            });
        let app = &mut self.stage.apps[position];
        match section {
            "appinstall" => append(&mut app.install, script(at, words, block)?)?,
            "apprun" => append(&mut app.runscript, script(at, words, block)?)?,
            "apptest" => append(&mut app.test, script(at, words, block)?)?,
            "appstart" => append(&mut app.startscript, script(at, words, block)?)?,
            "appfiles" => {
                none(&words)?;
                app.files.extend(copyings(block)?);
            }
            "applabels" => {
                none(&words)?;
                app.labels.extend(labels(block)?);
            }
            "apphelp" => {
                none(&words)?;
                add_help(&mut app.help, block);
            }
            _ => append(&mut app.environment, plain(at, &words, block)?)?,
        }
        Ok(())
    }

    /// Puts what is done in its order: on the host, files, in the root, apps.
    fn end(mut self) -> Stage {
        let steps = &mut self.stage.steps;
        steps.extend(self.setup.map(Step::Setup));
        steps.extend(self.files.into_iter().map(Step::Files));
        steps.extend(self.post.map(Step::Post));
        for app in &self.stage.apps {
            steps.push(Step::App(app.name.clone()));
        }
        self.stage
    }
}

fn unknown_section(name: &str, at: Place) -> Fault {
    let hint = match meant(name, SECTIONS) {
        Some(meant) => format!("did you mean %{meant}? A line of a script can be indented"),
        None => format!(
            "there are %{}; indent the line, if it belongs to a script",
            SECTIONS[..19].join(", %")
        ),
    };
    Fault::new(at, format!("unknown section %{name}"), hint)
}
