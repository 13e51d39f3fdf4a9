//! The text of `singularity.conf`: `key = value` lines, and comments.
//!
//! Owns: this syntax. Never: opens files; an unknown key, a key given twice or a
//! value of the wrong form is a [`Mistake`] with its line and column.

use super::table::KEYS;
use super::Site;

/// The most a file may hold. A site's rules are a few lines.
pub const MOST_BYTES: u64 = 1 << 20;

/// What is wrong, and where: lines and columns count from one, columns in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line.
    pub line: usize,
    /// The column in it.
    pub column: usize,
    /// What is wrong there.
    pub cause: String,
    /// What to write instead.
    pub hint: String,
}

impl Site {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn parse(text: &[u8]) -> Result<Self, Mistake> {
        let mut site = Self::default();
        let mut given: Vec<(&str, usize)> = Vec::new();
        for (number, line) in text.split(|&b| b == b'\n').enumerate() {
            let number = number + 1;
            let at = |column: usize, cause: String, hint: String| Mistake {
                line: number,
                column: column + 1,
                cause,
                hint,
            };
            let line = std::str::from_utf8(line).map_err(|error| {
                at(
                    error.valid_up_to(),
                    "not UTF-8 text".to_owned(),
                    "write plain text".to_owned(),
                )
            })?;
            if let Some(column) = line.find(|c: char| c.is_control() && c != '\t' && c != '\r') {
                let hint = "write plain text".to_owned();
                return Err(at(column, "a control character".to_owned(), hint));
            }
            let begin = line.len() - line.trim_start().len();
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let Some((name, value)) = content.split_once('=') else {
                let hint = "write KEY = VALUE, or # in front of a comment".to_owned();
                return Err(at(
                    begin + content.len(),
                    "no = follows the key".to_owned(),
                    hint,
                ));
            };
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            let Some(key) = KEYS.iter().find(|key| key.name == name) else {
                return Err(at(
                    begin,
                    format!("unknown key '{name}'"),
                    suggestion(&name),
                ));
            };
            if let Some((_, first)) = given
                .iter()
                .find(|(other, _)| *other == key.name && !key.repeatable)
            {
                let cause = format!("'{}' is given twice, first in line {first}", key.name);
                return Err(at(begin, cause, "leave one of the two lines".to_owned()));
            }
            given.push((key.name, number));
            let offset = line.len() - value.trim_start().len();
            let column = offset.min(line.trim_end().len());
            (key.take)(&mut site, value.trim()).map_err(|cause| {
                let hint = format!("{} = {}", key.name, key.form);
                at(
                    column,
                    format!("'{}': {cause}", key.name),
                    format!("the form is {hint}"),
                )
            })?;
        }
        Ok(site)
    }
}

/// The key that was meant, if one is near.
fn suggestion(name: &str) -> String {
    let plain = name.replace(['_', '-'], " ");
    let nearest = KEYS
        .iter()
        .map(|key| (distance(key.name, &plain), key.name))
        .min()
        .filter(|(distance, _)| *distance <= plain.len() / 2);
    match nearest {
        Some((_, key)) => format!("did you mean '{key}'? singularity config show lists the keys"),
        None => "singularity config show lists the keys".to_owned(),
    }
}

/// How many letters have to be put in, taken out or changed to make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(80).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::table;
    use super::*;
    use crate::site::{Dev, Owner};

    fn wrong(text: &str) -> (usize, usize, String) {
        let mistake = Site::parse(text.as_bytes()).unwrap_err();
        (mistake.line, mistake.column, mistake.cause)
    }

    #[test]
    fn an_empty_file_and_the_annotated_example_are_the_defaults() {
        assert_eq!(Site::parse(b"").unwrap(), Site::default());
        assert_eq!(
            Site::parse(table::example().as_bytes()).unwrap(),
            Site::default()
        );
        let uncommented: String = table::example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => String::new(),
            })
            .collect();
        assert_eq!(uncommented.lines().count(), KEYS.len());
        assert_eq!(
            Site::parse(uncommented.as_bytes()).unwrap(),
            Site::default()
        );
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let text =
            "allow setuid = no\nbind path = /a,  /b\\,  1:/c:ro\nlimit image owners = self, 0\n\
                    mount dev = minimal\nmount tmp = no\nmax loop devices = 3\n\
                    allow privileged formats = none\nkeep environment = A, B*\n\
                    image driver = fuse\nmount points = underlay\n";
        let site = Site::parse(text.as_bytes()).unwrap();
        assert_eq!(site.images.owners, [Owner::Own, Owner::Id(0)]);
        assert_eq!(site.dev, Dev::Minimal);
        assert_eq!(site.binds.len(), 2);
        let source = site.binds[1].source.as_path();
        assert_eq!(source, Path::new("/b,  1"));
        assert_eq!(Site::parse(table::shown(&site).as_bytes()).unwrap(), site);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_column() {
        for (text, line, column, cause) in [
            ("\n  allow set-id = yes", 2, 3, "unknown key 'allow set-id'"),
            ("allow setuid", 1, 13, "no = follows the key"),
            (
                "allow setuid =   maybe",
                1,
                18,
                "'allow setuid': write yes or no",
            ),
            ("allow setuid =", 1, 15, "'allow setuid': write yes or no"),
            (
                "audit log = no\naudit log = no",
                2,
                1,
                "'audit log' is given twice, first in line 1",
            ),
            (
                "limit image directories = here",
                1,
                27,
                "'limit image directories': write an absolute path",
            ),
            ("allow setuid = y\u{1}", 1, 17, "a control character"),
        ] {
            assert_eq!(wrong(text), (line, column, cause.to_owned()), "{text:?}");
        }
        let mistake = Site::parse(b"allow setuid = \xff").unwrap_err();
        assert_eq!((mistake.line, mistake.column), (1, 16));
    }

    #[test]
    fn spaces_around_and_within_a_key_do_not_matter() {
        let site = Site::parse(b"\tallow   setuid=no\r\n").unwrap();
        assert!(!site.allow_setuid);
    }
}
