//! The older syntax: a list of directives, carried out in their order.
//!
//! Such files were read by a shell in which each directive was a function. Here
//! they are not: words are split and variables are set as by a shell, and nothing
//! else of one is there.

use std::collections::HashMap;

use super::sections::take_interpreter;
use super::text::{meant, Fault, Located, Place, Text};
use super::words::{joined, split, Line, Rules, Word};
use super::{Agent, Copying, Files, Mirror, Script, Stage, Step, SHELL};

/// The directives.
pub(super) const NAMES: [&str; 10] = [
    "DistType",
    "MirrorURL",
    "OSVersion",
    "Setup",
    "Bootstrap",
    "InstallPkgs",
    "InstallFile",
    "RunCmd",
    "RunScript",
    "Cleanup",
];

#[derive(Default)]
struct Reading {
    stage: Stage,
    variables: HashMap<String, String>,
    distribution: Option<Located<Agent>>,
    script: Option<Script>,
}

/// Reads a list of directives.
pub(super) fn parse(text: &Text) -> Result<Stage, Fault> {
    let mut reading = Reading::default();
    let mut lines = text.lines();
    while let Some(line) = joined(&mut lines) {
        reading.line(&line)?;
    }
    reading.end()
}

impl Reading {
    fn line(&mut self, line: &Line) -> Result<(), Fault> {
        let Some(start) = line.iter().position(|(c, _)| !c.is_whitespace()) else {
            return Ok(());
        };
        let line = &line[start..];
        let at = line[0].1;
        let end = line
            .iter()
            .position(|(c, _)| c.is_whitespace())
            .unwrap_or(line.len());
        let name: String = line[..end].iter().map(|(c, _)| *c).collect();
        if name.starts_with('#') {
            return Ok(());
        }
        if name == "RunScript" {
            // A line of a script, which belongs to the shell of the image.
            return self.run_script(&line[end..], at);
        }
        if let Some((variable, _)) = assignment(&name) {
            let variable = variable.to_owned();
            return self.assign(line, &variable);
        }
        if !NAMES.contains(&name.as_str()) {
            return Err(unknown(&name, at));
        }
        let words = self.words(&line[end..])?;
        self.directive(&name, at, words)
    }

    fn words(&self, line: &[(char, Place)]) -> Result<Vec<Word>, Fault> {
        let variables = |name: &str| self.variables.get(name).cloned();
        let rules = Rules {
            variables: Some(&variables),
            refuse_operators: true,
        };
        split(line, rules)
    }

    fn assign(&mut self, line: &[(char, Place)], variable: &str) -> Result<(), Fault> {
        let words = self.words(line)?;
        if let Some(second) = words.get(1) {
            return Err(Fault::new(
                second.at,
                "a word after a variable was set",
                "quote the value, if it has spaces; one variable a line",
            ));
        }
        let text = words.first().map_or("", |word| word.text.as_str());
        let value = text.split_once('=').map_or("", |(_, value)| value);
        self.variables.insert(variable.to_owned(), value.to_owned());
        Ok(())
    }

    fn run_script(&mut self, rest: &[(char, Place)], at: Place) -> Result<(), Fault> {
        let mut text = String::new();
        // One space parts it from the directive; more belong to the script.
        let mut line = rest.first().map_or(at.line, |(_, place)| place.line);
        for (character, place) in rest.iter().skip(1) {
            if place.line != line {
                text.push_str("\\\n");
                line = place.line;
            }
            text.push(*character);
        }
        if text.trim().is_empty() {
            return Err(missing("RunScript", at, "a line of the script"));
        }
        // A line that is one quoted word is what is in the quotes.
        let rules = Rules {
            variables: None,
            refuse_operators: false,
        };
        if text.trim().starts_with(['"', '\'']) {
            if let Ok([word]) = split(rest, rules).as_deref() {
                text.clone_from(&word.text);
            }
        }
        text.push('\n');
        let script = self.script.get_or_insert_with(|| Script {
            text: String::new(),
            interpreter: vec![SHELL.to_owned()],
            at,
        });
        script.text.push_str(&text);
        Ok(())
    }

    fn directive(&mut self, name: &str, at: Place, words: Vec<Word>) -> Result<(), Fault> {
        let mut words = words.into_iter();
        match name {
            "DistType" => {
                let word = words
                    .next()
                    .ok_or_else(|| missing(name, at, "a distribution, such as \"debian\""))?;
                if self.distribution.is_some() {
                    return Err(twice(name, at));
                }
                self.distribution = Some(Agent::named(&located(word), &Agent::DISTRIBUTIONS)?);
            }
            "MirrorURL" => {
                let url = words
                    .next()
                    .ok_or_else(|| missing(name, at, "the address of a package archive"))?;
                let name = words.next().map(|word| word.text);
                let url = located(url);
                self.stage.header.mirrors.push(Mirror { url, name });
            }
            "OSVersion" => {
                let word = words
                    .next()
                    .ok_or_else(|| missing(name, at, "a release, such as \"bookworm\""))?;
                if self.stage.header.version.is_some() {
                    return Err(twice(name, at));
                }
                self.stage.header.version = Some(located(word));
            }
            // Directories and devices are always set up.
            "Setup" => {}
            "Bootstrap" => {
                let agent = self.distribution.clone().ok_or_else(|| {
                    Fault::new(
                        at,
                        "nothing says which distribution",
                        "put DistType \"NAME\" before it",
                    )
                })?;
                if self.stage.header.agent.is_some() {
                    return Err(twice(name, at));
                }
                if !self.stage.steps.is_empty() {
                    return Err(Fault::new(
                        at,
                        "Bootstrap has to come before what changes the image",
                        "move it up, below DistType, MirrorURL and OSVersion",
                    ));
                }
                self.stage.header.agent = Some(agent);
                self.stage.header.include = words.by_ref().map(located).collect();
            }
            "InstallPkgs" => {
                let packages: Vec<_> = words.by_ref().map(located).collect();
                if packages.is_empty() {
                    return Err(missing(name, at, "the names of packages"));
                }
                self.stage.steps.push(Step::Packages(packages));
            }
            "InstallFile" => {
                let source = words.next().ok_or_else(|| missing(name, at, "a file"))?;
                let copying = Copying {
                    source: Located::new(source.pattern, source.at),
                    destination: words.next().map(located),
                };
                self.stage.steps.push(Step::Files(Files {
                    from: None,
                    list: vec![copying],
                }));
            }
            "RunCmd" => {
                let command: Vec<_> = words.by_ref().map(located).collect();
                if command.is_empty() {
                    return Err(missing(name, at, "a command"));
                }
                self.stage.steps.push(Step::Command(command));
            }
            _ => self.stage.steps.push(Step::Cleanup(at)),
        }
        match words.next() {
            None => Ok(()),
            Some(word) => Err(Fault::new(
                word.at,
                format!("{name} takes no more words"),
                "quote what belongs together; a comment begins with #",
            )),
        }
    }

    fn end(mut self) -> Result<Stage, Fault> {
        if let (Some(distribution), None) = (&self.distribution, &self.stage.header.agent) {
            return Err(Fault::new(
                distribution.at,
                "DistType is there, but nothing makes its base system",
                "add a line with Bootstrap below it, or leave it out",
            ));
        }
        if let Some(script) = &mut self.script {
            take_interpreter(script);
        }
        self.stage.runscript = self.script;
        Ok(self.stage)
    }
}

fn located(word: Word) -> Located<String> {
    Located::new(word.text, word.at)
}

/// The name and value of `NAME=VALUE`.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let first = name.chars().next()?;
    let fits = (first == '_' || first.is_ascii_alphabetic())
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    fits.then_some((name, value))
}

fn unknown(name: &str, at: Place) -> Fault {
    let word = name.trim_end_matches(':');
    let hint = if name.starts_with('%') || name.ends_with(':') {
        "sections and keys with a colon are another syntax, which cannot be mixed with directives"
            .to_owned()
    } else {
        match meant(word, NAMES) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("there are {}, and NAME=VALUE", NAMES.join(", ")),
        }
    };
    Fault::new(at, format!("{name:?} is no directive"), hint)
}

fn missing(name: &str, at: Place, what: &str) -> Fault {
    Fault::new(
        at,
        format!("{name} without a word after it"),
        format!("{name} takes {what}"),
    )
}

fn twice(name: &str, at: Place) -> Fault {
    Fault::new(
        at,
        format!("{name} is there a second time"),
        "leave one of them",
    )
}
