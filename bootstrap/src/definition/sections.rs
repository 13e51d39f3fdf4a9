//! The newer syntax: a header of keys, and sections that begin with a percent sign
//! at the very beginning of a line.
//!
//! Owns: keys, sections, stages. Never: reads what is in a script.

use super::arguments::unquoted;
use super::text::{meant, Fault, Located, Place, Text};
use super::words::{joined, split, Rules, Word};
use super::{Agent, App, Copying, Files, Header, Mirror, Script, Stage, Step, SHELL};

/// The keys of a header.
pub(super) const KEYS: [&str; 12] = [
    "Bootstrap",
    "From",
    "MirrorURL",
    "UpdateURL",
    "OSVersion",
    "Include",
    "Variant",
    "Components",
    "Keyring",
    "Stage",
    "Registry",
    "Namespace",
];

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

/// Whether a word is a key, in any case.
pub(super) fn is_key(word: &str) -> bool {
    KEYS.iter().any(|key| key.eq_ignore_ascii_case(word))
}

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

// --- header -------------------------------------------------------------------

fn header(block: &Block<'_>) -> Result<(Header, Option<Located<String>>), Fault> {
    let mut header = Header::default();
    let mut stage = None;
    let (mut registry, mut namespace) = (None, None);
    let mut lines = block.lines.iter().copied();
    while let Some(line) = joined(&mut lines) {
        let Some(start) = line
            .iter()
            .position(|(c, _)| !c.is_whitespace())
            .filter(|&start| line[start].0 != '#')
        else {
            continue;
        };
        let (key, mut words) = key_and_words(&line[start..])?;
        let at = key.at;
        let once = |there: bool| {
            let cause = format!("{} is there a second time", key.value);
            let fault = Fault::new(at, cause, "leave one of them");
            if there {
                Err(fault)
            } else {
                Ok(())
            }
        };
        let known = KEYS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(&key.value));
        match known.copied() {
            Some("Include") => {
                header.include.extend(words);
                continue;
            }
            Some("Components") => {
                header.components.extend(words);
                continue;
            }
            Some("MirrorURL") => {
                if words.is_empty() {
                    return Err(empty(&key));
                }
                let url = words.remove(0);
                let name = (!words.is_empty()).then(|| words.remove(0).value);
                header.mirrors.push(Mirror { url, name });
                no_more(&key, &words)?;
                continue;
            }
            _ => {}
        }
        let mut words = words.into_iter();
        let value = words.next().ok_or_else(|| empty(&key))?;
        let rest: Vec<_> = words.collect();
        match known.copied() {
            Some("Bootstrap") => {
                once(header.agent.is_some())?;
                header.agent = Some(Agent::named(&value, &Agent::NAMES)?);
            }
            Some("From") => {
                once(header.from.is_some())?;
                header.from = Some(value);
            }
            Some("OSVersion") => {
                once(header.version.is_some())?;
                header.version = Some(value);
            }
            Some("Variant") => {
                once(header.variant.is_some())?;
                header.variant = Some(value);
            }
            Some("Keyring") => {
                once(header.keyring.is_some())?;
                header.keyring = Some(value);
            }
            Some("UpdateURL") => header.updates.push(value),
            Some("Stage") => {
                once(stage.is_some())?;
                stage = Some(value);
            }
            Some("Registry") => {
                once(registry.is_some())?;
                registry = Some(value);
            }
            Some("Namespace") => {
                once(namespace.is_some())?;
                namespace = Some(value);
            }
            _ => {
                let hint = match meant(&key.value, KEYS) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("there are {}", KEYS.join(", ")),
                };
                return Err(Fault::new(at, format!("unknown key {:?}", key.value), hint));
            }
        }
        no_more(&key, &rest)?;
    }
    complete(&mut header, registry, namespace)?;
    Ok((header, stage))
}

fn no_more(key: &Located<String>, rest: &[Located<String>]) -> Result<(), Fault> {
    match rest.first() {
        None => Ok(()),
        Some(word) => Err(Fault::new(
            word.at,
            format!("{} takes no more words", key.value),
            "put quotes around a value with spaces; a comment begins with #",
        )),
    }
}

/// Puts together what two keys say of one thing.
fn complete(
    header: &mut Header,
    registry: Option<Located<String>>,
    namespace: Option<Located<String>>,
) -> Result<(), Fault> {
    let agent = header.agent.as_ref().map(|agent| agent.value);
    for part in [namespace, registry].into_iter().flatten() {
        match (&mut header.from, agent) {
            (Some(from), Some(Agent::Docker)) => {
                from.value = format!("{}/{}", part.value.trim_end_matches('/'), from.value);
            }
            _ => {
                return Err(Fault::new(
                    part.at,
                    "a registry, but nothing that comes from one",
                    "it goes with Bootstrap: docker and From: NAME:TAG",
                ))
            }
        }
    }
    let needs_from = matches!(
        agent,
        Some(
            Agent::LocalImage
                | Agent::Docker
                | Agent::Oci
                | Agent::OciArchive
                | Agent::DockerArchive
        )
    );
    if let (true, Some(agent), None) = (needs_from, &header.agent, &header.from) {
        return Err(Fault::new(
            agent.at,
            format!("{} without From:", agent.value.name()),
            "add a line From: with the image that is the base",
        ));
    }
    // As in the repository files of yum, which knows no such variable itself.
    if let Some(version) = &header.version {
        let urls = header.mirrors.iter_mut().map(|mirror| &mut mirror.url);
        for url in urls.chain(&mut header.updates) {
            url.value = url.value.replace("%{OSVERSION}", &version.value);
        }
    }
    Ok(())
}

fn empty(key: &Located<String>) -> Fault {
    Fault::new(
        key.at,
        format!("{} has no value", key.value),
        "write the value behind the colon, or leave the line out",
    )
}

fn key_and_words(line: &[(char, Place)]) -> Result<(Located<String>, Vec<Located<String>>), Fault> {
    let at = line[0].1;
    let colon = line.iter().position(|(c, _)| *c == ':');
    let key: String = line[..colon.unwrap_or(line.len())]
        .iter()
        .map(|(c, _)| *c)
        .collect();
    let key = key.trim_end();
    let is_word = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let Some(colon) = colon.filter(|_| is_word && !key.is_empty()) else {
        let word = key.split_whitespace().next().unwrap_or_default();
        let hint = match (word.starts_with('%'), meant(word, KEYS)) {
            (true, _) => "a section begins at the very beginning of a line".to_owned(),
            (_, Some(meant)) => format!("write {meant}: VALUE"),
            _ => "a header has lines KEY: VALUE; sections begin with %NAME".to_owned(),
        };
        return Err(Fault::new(at, "not a key with its value", hint));
    };
    let rules = Rules {
        variables: None,
        refuse_operators: false,
    };
    let words = split(&line[colon + 1..], rules)?
        .into_iter()
        .map(|word| Located::new(word.text, word.at))
        .collect();
    Ok((Located::new(key.to_owned(), at), words))
}

// --- sections -----------------------------------------------------------------

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

/// The words behind a section's name, which ends before the column.
fn words_of(number: usize, line: &str, name: usize) -> Result<Vec<Word>, Fault> {
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

fn none(words: &[Word]) -> Result<(), Fault> {
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
fn script(at: Place, words: Vec<Word>, block: &Block<'_>) -> Result<Option<Script>, Fault> {
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
fn plain(at: Place, words: &[Word], block: &Block<'_>) -> Result<Option<Script>, Fault> {
    none(words)?;
    let mut found = script(at, Vec::new(), block)?;
    if let Some(script) = &mut found {
        script.interpreter = vec![SHELL.to_owned()];
    }
    Ok(found)
}

/// Takes a `#!` line that begins a script for its interpreter.
pub(super) fn take_interpreter(script: &mut Script) {
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
fn append(there: &mut Option<Script>, more: Option<Script>) -> Result<(), Fault> {
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

fn add_help(help: &mut Option<String>, block: &Block<'_>) {
    help.get_or_insert_default().push_str(&body(block));
}

fn content<'a>(block: &'a Block<'_>) -> impl Iterator<Item = (usize, &'a str)> {
    block.lines[1..].iter().copied().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    })
}

fn labels(block: &Block<'_>) -> Result<Vec<(String, String)>, Fault> {
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

fn source_stage(words: Vec<Word>, stages: &[String]) -> Result<Option<Located<String>>, Fault> {
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

fn copyings(block: &Block<'_>) -> Result<Vec<Copying>, Fault> {
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
