//! Build arguments: `{{ NAME }}` in a definition is replaced by a value, from the
//! command line, or from the section `%arguments`.
//!
//! Owns: names, values, and their place in the text. Never: reads files.

use std::collections::BTreeSet;

use super::sections::{begins_header, section_name};
use super::text::{meant, Fault, Place, Text};

/// A value that was given for a build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where it was given, as in `--build-arg` or a file and line.
    pub given_by: String,
}

/// The values that were given; of two for one name the later one counts.
pub type Arguments = Vec<Argument>;

/// Whether a build argument can have this name.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Default {
    name: String,
    value: String,
}

/// Replaces the arguments in the text.
pub(super) fn replace(text: &mut Text, given: &Arguments) -> Result<(), Fault> {
    let defaults = defaults(text)?;
    let mut used = BTreeSet::new();
    let mut changed = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines() {
        if section_name(line).is_some() || begins_header(line) {
            inside = section_name(line) == Some("arguments");
        }
        if inside || !line.contains("{{") {
            continue;
        }
        let value_of = |name: &str| {
            let given = given.iter().rev().find(|argument| argument.name == name);
            let default = defaults.iter().rev().find(|default| default.name == name);
            given
                .map(|argument| argument.value.clone())
                .or_else(|| default.map(|default| default.value.clone()))
        };
        changed.push((number, line_with(line, number, &value_of, &mut used)?));
    }
    let known = || defaults.iter().map(|default| default.name.as_str());
    for argument in given {
        if !used.contains(&argument.name) && !known().any(|name| name == argument.name) {
            let names = || known().chain(used.iter().map(String::as_str));
            let hint = match meant(&argument.name, names()) {
                Some(name) => format!("did you mean {name}?"),
                None if names().next().is_none() => "the definition has no build arguments".into(),
                None => format!("it has {}", names().collect::<Vec<_>>().join(", ")),
            };
            return Err(Fault::new(
                Place { line: 1, column: 1 },
                format!(
                    "the definition has no build argument {} ({})",
                    argument.name, argument.given_by
                ),
                hint,
            ));
        }
    }
    for (number, line) in changed {
        text.replace(number, line);
    }
    Ok(())
}

/// A line with its arguments replaced. `\{{` stands for `{{`.
fn line_with(
    line: &str,
    number: usize,
    value_of: &impl Fn(&str) -> Option<String>,
    used: &mut BTreeSet<String>,
) -> Result<String, Fault> {
    let mut result = String::new();
    let mut rest = line;
    while let Some(start) = rest.find("{{") {
        let column = line[..line.len() - rest.len() + start].chars().count() + 1;
        if let Some(before) = rest[..start].strip_suffix('\\') {
            result.push_str(before);
            result.push_str("{{");
            rest = &rest[start + 2..];
            continue;
        }
        let name = rest[start + 2..]
            .find("}}")
            .map(|end| rest[start + 2..start + 2 + end].trim())
            .filter(|name| is_name(name));
        let Some(name) = name else {
            // Braces of another language.
            result.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            continue;
        };
        used.insert(name.to_owned());
        let value = value_of(name).ok_or_else(|| {
            Fault::new(
                Place {
                    line: number,
                    column,
                },
                format!("the build argument {name} has no value"),
                format!(
                    "give it with --build-arg {name}=VALUE, or a default in %arguments; \\{{{{ stands for {{{{"
                ),
            )
        })?;
        result.push_str(&rest[..start]);
        result.push_str(&value);
        let end = rest[start..]
            .find("}}")
            .map_or(rest.len(), |end| start + end + 2);
        rest = &rest[end..];
    }
    result.push_str(rest);
    Ok(result)
}

fn defaults(text: &Text) -> Result<Vec<Default>, Fault> {
    let mut defaults = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines() {
        if section_name(line).is_some() || begins_header(line) {
            inside = section_name(line) == Some("arguments");
            continue;
        }
        let content = line.trim();
        if !inside || content.is_empty() || content.starts_with('#') {
            continue;
        }
        let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
        let at = Place {
            line: number,
            column,
        };
        let (name, value) = content
            .split_once('=')
            .map(|(name, value)| (name.trim_end(), value.trim_start()))
            .filter(|(name, _)| is_name(name))
            .ok_or_else(|| {
                Fault::new(
                    at,
                    "not a build argument with its default",
                    "write NAME=VALUE, with letters, digits and _ in the name",
                )
            })?;
        defaults.push(Default {
            name: name.to_owned(),
            value: unquoted(value).to_owned(),
        });
    }
    Ok(defaults)
}

/// A value without the quotes that are around all of it.
pub(super) fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        match inner {
            Some(inner) if !inner.contains(quote) => return inner,
            _ => {}
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn replaced(text: &str, given: &[(&str, &str)]) -> Result<String, Fault> {
        let mut text = Text::new(Path::new("a"), text.as_bytes()).unwrap();
        let given = given
            .iter()
            .map(|(name, value)| Argument {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
                given_by: "--build-arg".to_owned(),
            })
            .collect();
        replace(&mut text, &given)?;
        Ok(text.all())
    }

    #[test]
    fn values_take_the_place_of_names() {
        for (text, given, expected) in [
            ("a {{ X }} b\n", &[("X", "1")][..], "a 1 b\n"),
            ("{{X}}{{ X}}\n", &[("X", "1")], "11\n"),
            ("{{ X }}\n", &[("X", "1"), ("X", "2")], "2\n"),
            ("{{ X }}\n", &[("X", "{{ X }}")], "{{ X }}\n"),
            (
                "{{ .Y }} {{}} {{ a b }} {{\n",
                &[],
                "{{ .Y }} {{}} {{ a b }} {{\n",
            ),
            ("\\{{ X }}\n", &[], "{{ X }}\n"),
            (
                "{{ X }}\n%arguments\n X = \"d e\"\n%post\n{{ X }}\n",
                &[],
                "d e\n%arguments\n X = \"d e\"\n%post\nd e\n",
            ),
            (
                "{{ X }}\n%arguments\n# c\nX=d\n",
                &[("X", "1")],
                "1\n%arguments\n# c\nX=d\n",
            ),
        ] {
            assert_eq!(replaced(text, given).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_missing_or_unknown_argument_is_an_error() {
        let fault = replaced("x {{ VERSION }}\n", &[]).unwrap_err();
        assert_eq!(fault.at, Place { line: 1, column: 3 });
        let fault = replaced("{{ VERSION }}\n", &[("VERSION", "1"), ("VERSOIN", "1")]).unwrap_err();
        assert_eq!(fault.hint, "did you mean VERSION?");
        let fault = replaced("%arguments\nA B\n", &[]).unwrap_err();
        assert_eq!(fault.at, Place { line: 2, column: 1 });
    }
}
