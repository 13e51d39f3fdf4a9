//! The text of a definition file, and places in it.
//!
//! Owns: lines and columns, and errors that show them. Never: knows what a line
//! means.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;

/// A place in a definition file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Something a definition says, and where it says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// What it says.
    pub value: T,
    /// Where.
    pub at: Place,
}

impl<T> Located<T> {
    /// A value with its place.
    pub fn new(value: T, at: Place) -> Self {
        Self { value, at }
    }
}

/// What is wrong with a definition, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: Place,
    /// What is wrong.
    pub cause: String,
    /// What to do.
    pub hint: String,
}

impl Fault {
    /// A fault at a place.
    pub fn new(at: Place, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            at,
            cause: cause.into(),
            hint: hint.into(),
        }
    }
}

/// How much of a long line is shown on each side of the place.
const SHOWN_AROUND: usize = 100;

/// The lines of a definition file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    name: PathBuf,
    lines: Vec<String>,
}

impl Text {
    /// Takes the bytes of a file; `name` is for messages.
    ///
    /// Line ends of DOS are taken for line ends, and a byte order mark is dropped.
    ///
    /// # Errors
    /// Bytes that are no text.
    pub fn new(name: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let mut lines = Vec::new();
        for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (text, fault) = match std::str::from_utf8(line) {
                Ok(text) if !text.contains('\0') => (text.to_owned(), None),
                Ok(text) => (text.to_owned(), text.chars().position(|c| c == '\0')),
                Err(error) => {
                    let good = String::from_utf8_lossy(&line[..error.valid_up_to()]);
                    let column = good.chars().count();
                    (String::from_utf8_lossy(line).into_owned(), Some(column))
                }
            };
            lines.push(text);
            if let Some(column) = fault {
                let at = Place {
                    line: index + 1,
                    column: column + 1,
                };
                let text = Self {
                    name: name.to_owned(),
                    lines,
                };
                return Err(text.complain(Fault::new(
                    at,
                    "a byte that is no text",
                    "a definition file is text in UTF-8 (file(1) tells what this is)",
                )));
            }
        }
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        if let Some(first) = lines.first_mut() {
            if let Some(rest) = first.strip_prefix('\u{feff}') {
                *first = rest.to_owned();
            }
        }
        Ok(Self {
            name: name.to_owned(),
            lines,
        })
    }

    /// The file's name, as it was given.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The lines with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines
            .iter()
            .enumerate()
            .map(|(index, line)| (index + 1, line.as_str()))
    }

    /// All of it, each line ended.
    pub fn all(&self) -> String {
        let mut all = String::new();
        for line in &self.lines {
            all.push_str(line);
            all.push('\n');
        }
        all
    }

    /// Changes the text of a line.
    pub(super) fn replace(&mut self, line: usize, text: String) {
        if let Some(old) = self.lines.get_mut(line.wrapping_sub(1)) {
            *old = text;
        }
    }

    /// A fault as an error: file, line and column, the line with a caret below the
    /// place, and what to do.
    pub fn complain(&self, fault: Fault) -> Error {
        let Place { line, column } = fault.at;
        let step = format!("{}:{line}:{column}", Shown::new(&self.name));
        let mut cause = fault.cause;
        if let Some(text) = self.lines.get(line.wrapping_sub(1)) {
            let from = column.saturating_sub(1 + SHOWN_AROUND);
            let shown: String = text
                .chars()
                .skip(from)
                .take(2 * SHOWN_AROUND)
                .map(|c| if c.is_control() && c != '\t' { '?' } else { c })
                .collect();
            // Tabs stay tabs, so that the caret is below its place whatever they are worth.
            let under: String = text
                .chars()
                .skip(from)
                .take((column - 1).saturating_sub(from))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let _ = write!(cause, "\n{line:5} | {}\n      | {under}^", shown.trim_end());
        }
        Error::new(step, cause).hint(fault.hint)
    }
}

/// The name among `known` that was probably meant by `word`.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&word, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1.max(name.len().max(word.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many characters have to be put in, left out, replaced or swapped with their
/// neighbour to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let differs = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1)
                    .min(rows[i][j - 1] + 1)
                    .min(rows[i - 1][j - 1] + differs);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_shown_with_a_caret_below_the_place() {
        let text = Text::new(Path::new("a.def"), b"one\n\ttwo words\n").unwrap();
        let at = Place { line: 2, column: 6 };
        let error = text.complain(Fault::new(at, "wrong", "better"));
        assert_eq!(
            error.to_string(),
            "a.def:2:6: wrong\n    2 | \ttwo words\n      | \t    ^"
        );
        assert_eq!(error.remedy(), Some("better"));
    }

    #[test]
    fn bytes_that_are_no_text_are_named_by_their_place() {
        let error = Text::new(Path::new("a"), b"ok\nab\xffc").unwrap_err();
        assert!(error.to_string().starts_with("a:2:3: "), "{error}");
        let error = Text::new(Path::new("a"), b"\0").unwrap_err();
        assert!(error.to_string().starts_with("a:1:1: "), "{error}");
    }

    #[test]
    fn a_slip_of_the_finger_is_understood_and_nonsense_is_not() {
        let known = ["RunCmd", "RunScript", "Cleanup"];
        for (word, expected) in [
            ("runcmd", Some("RunCmd")),
            ("RunCdm", Some("RunCmd")),
            ("RunSkript", Some("RunScript")),
            ("Clean", Some("Cleanup")),
            ("echo", None),
            ("", None),
        ] {
            assert_eq!(meant(word, known), expected, "{word}");
        }
    }
}
