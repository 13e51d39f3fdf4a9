//! What is in the lines of a section: scripts, labels, files.
//!
//! Owns: the forms of these lines. Never: knows which section has which.

use super::Block;
use crate::definition::arguments::unquoted;
use crate::definition::text::{meant, Fault, Located, Place};
use crate::definition::words::{joined, split, Rules, Word};
use crate::definition::{Copying, Script, SHELL};

/// The words behind a section's name, which ends before the column.
pub(super) fn words_of(number: usize, line: &str, name: usize) -> Result<Vec<Word>, Fault> {
    let characters: Vec<_> = line
        .chars()
        .enumerate()
        .skip(name)
        .map(|(index, character)| {
            let column = index + 1;
            (
                character,
                Place {
                    line: number,
                    column,
                },
            )
        })
        .collect();
    let rules = Rules {
        variables: None,
        refuse_operators: false,
    };
    split(&characters, rules)
}

pub(super) fn none(words: &[Word]) -> Result<(), Fault> {
    match words.first() {
        None => Ok(()),
        Some(word) => Err(Fault::new(
            word.at,
            "a word that this section does not take",
            "the content of a section begins in the next line",
        )),
    }
}

fn body(block: &Block<'_>) -> String {
    let mut text = String::new();
    for (_, line) in &block.lines[1..] {
        text.push_str(line);
        text.push('\n');
    }
    // Empty lines before the next section are no part of this one.
    text.truncate(text.trim_end().len());
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// A script, with its interpreter from `-c`, or from a `#!` line. None if it is empty.
pub(super) fn script(
    at: Place,
    words: Vec<Word>,
    block: &Block<'_>,
) -> Result<Option<Script>, Fault> {
    let mut words = words.into_iter();
    let mut interpreter = vec![SHELL.to_owned()];
    while let Some(word) = words.next() {
        let wanted = word.text.strip_prefix("-c");
        let value = match wanted {
            Some("") => words.next().map(|next| next.text),
            Some(value) => Some(value.to_owned()),
            None => None,
        };
        let parts: Vec<_> = value
            .iter()
            .flat_map(|value| value.split_whitespace())
            .map(str::to_owned)
            .collect();
        if !parts.first().is_some_and(|path| path.starts_with('/')) {
            return Err(Fault::new(
                word.at,
                "not an option of a script",
                "-c /PATH/OF/INTERPRETER is one; the script begins in the next line",
            ));
        }
        interpreter = parts;
    }
    let mut script = Script {
        text: body(block),
        interpreter,
        at: Place {
            line: at.line + 1,
            column: 1,
        },
    };
    take_interpreter(&mut script);
    let says_something = !script.text.trim().is_empty();
    Ok(says_something.then_some(script))
}

/// Text that a shell reads, which takes no options.
pub(super) fn plain(at: Place, words: &[Word], block: &Block<'_>) -> Result<Option<Script>, Fault> {
    none(words)?;
    let mut found = script(at, Vec::new(), block)?;
    if let Some(script) = &mut found {
        script.interpreter = vec![SHELL.to_owned()];
    }
    Ok(found)
}

/// Takes a `#!` line that begins a script for its interpreter.
pub(in crate::definition) fn take_interpreter(script: &mut Script) {
    let text = script.text.trim_start();
    let Some(rest) = text.strip_prefix("#!") else {
        return;
    };
    let (line, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    if words.first().is_some_and(|path| path.starts_with('/')) {
        let before = &script.text[..script.text.len() - text.len()];
        script.at.line += 1 + before.matches('\n').count();
        script.interpreter = words;
        script.text = rest.to_owned();
    }
}

/// Adds a section to what one of the same name has said before.
pub(super) fn append(there: &mut Option<Script>, more: Option<Script>) -> Result<(), Fault> {
    let Some(more) = more else {
        return Ok(());
    };
    match there {
        None => *there = Some(more),
        Some(there) if there.interpreter == more.interpreter => there.text.push_str(&more.text),
        Some(there) => {
            return Err(Fault::new(
                more.at,
                format!(
                    "a section of the same name is for {}, this one for {}",
                    there.interpreter.join(" "),
                    more.interpreter.join(" ")
                ),
                "one script has one interpreter: put them together, or call one from the other",
            ))
        }
    }
    Ok(())
}

pub(super) fn add_help(help: &mut Option<String>, block: &Block<'_>) {
    help.get_or_insert_default().push_str(&body(block));
}

fn content<'a>(block: &'a Block<'_>) -> impl Iterator<Item = (usize, &'a str)> {
    block.lines[1..].iter().copied().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    })
}

pub(super) fn labels(block: &Block<'_>) -> Result<Vec<(String, String)>, Fault> {
    let mut labels = Vec::new();
    for (number, line) in content(block) {
        let text = line.trim();
        let (name, value) = text
            .split_once(|c: char| c.is_whitespace())
            .unwrap_or((text, ""));
        let value = unquoted(value.trim());
        if value.is_empty() {
            let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
            let at = Place {
                line: number,
                column,
            };
            return Err(Fault::new(
                at,
                "a label without a value",
                "write NAME VALUE in one line",
            ));
        }
        labels.push((unquoted(name).to_owned(), value.to_owned()));
    }
    Ok(labels)
}

pub(super) fn source_stage(
    words: Vec<Word>,
    stages: &[String],
) -> Result<Option<Located<String>>, Fault> {
    let mut words = words.into_iter();
    let Some(from) = words.next() else {
        return Ok(None);
    };
    let name = match (from.text.as_str(), words.next(), words.next()) {
        ("from", Some(name), None) => name,
        _ => {
            return Err(Fault::new(
                from.at,
                "not a source of files",
                "write %files, or %files from STAGE; the files are in the lines below",
            ))
        }
    };
    if !stages.contains(&name.text) {
        let hint = match meant(&name.text, stages.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "a stage above has to have the line Stage: NAME in its header, with this name"
                .into(),
        };
        let cause = format!("no stage above is called {}", name.text);
        return Err(Fault::new(name.at, cause, hint));
    }
    Ok(Some(Located::new(name.text, name.at)))
}

pub(super) fn copyings(block: &Block<'_>) -> Result<Vec<Copying>, Fault> {
    let mut list = Vec::new();
    let mut lines = block.lines[1..].iter().copied();
    let rules = Rules {
        variables: None,
        refuse_operators: false,
    };
    while let Some(line) = joined(&mut lines) {
        let mut words = split(&line, rules)?.into_iter();
        let Some(source) = words.next() else {
            continue;
        };
        let destination = words.next();
        if let Some(third) = words.next() {
            return Err(Fault::new(
                third.at,
                "a third word",
                "a line has a source and a destination; put quotes around a name with spaces",
            ));
        }
        list.push(Copying {
            source: Located::new(source.pattern, source.at),
            destination: destination.map(|word| Located::new(word.text, word.at)),
        });
    }
    Ok(list)
}
