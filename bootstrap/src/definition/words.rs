//! Words as a shell splits them: quotes, backslashes, comments, variables.
//!
//! Owns: the splitting. Never: runs anything, or reads the environment.

use super::text::{Fault, Place};

/// A word, where it begins, and what of it is a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word without its quotes.
    pub text: String,
    /// The word as a pattern of file names: what was quoted stands for itself.
    pub pattern: String,
    /// Where it begins.
    pub at: Place,
}

/// Characters of one logical line, each with its place; what continues over a line
/// end has been put together.
pub type Line = Vec<(char, Place)>;

/// Finds the value of a variable.
pub type LookUp<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What else than words and quotes may be there.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// Looks a variable up; `None` where a dollar sign is a character like another.
    pub variables: Option<&'a LookUp<'a>>,
    /// Whether a shell's operators are refused.
    pub refuse_operators: bool,
}

/// Puts a line with its continuations together: a backslash at the end of a line
/// joins the next one. `lines` yields the line and, if it is continued, the next.
pub fn joined<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Option<Line> {
    let (mut number, mut text) = lines.next()?;
    let mut line = Line::new();
    loop {
        let backslashes = text.len() - text.trim_end_matches('\\').len();
        // Nothing after the sign of a comment continues.
        let continued = backslashes % 2 == 1 && !text.trim_start().starts_with('#');
        let end = text.len() - usize::from(continued);
        line.extend(text[..end].chars().enumerate().map(|(index, character)| {
            let column = index + 1;
            (
                character,
                Place {
                    line: number,
                    column,
                },
            )
        }));
        if !continued {
            return Some(line);
        }
        match lines.next() {
            Some(next) => (number, text) = next,
            None => return Some(line),
        }
    }
}

/// Splits a line into words.
///
/// # Errors
/// A quote that is not closed, and what the rules refuse.
pub fn split(line: &[(char, Place)], rules: Rules<'_>) -> Result<Vec<Word>, Fault> {
    let mut words = Vec::new();
    let mut reader = Reader {
        line,
        position: 0,
        rules,
    };
    while let Some((character, at)) = reader.peek() {
        if character.is_whitespace() {
            reader.position += 1;
        } else if character == '#' {
            break;
        } else {
            words.push(reader.word(at)?);
        }
    }
    Ok(words)
}

struct Reader<'a> {
    line: &'a [(char, Place)],
    position: usize,
    rules: Rules<'a>,
}

impl Word {
    fn quoted(&mut self, character: char) {
        self.text.push(character);
        if matches!(character, '*' | '?' | '[' | ']') {
            self.pattern.extend(['[', character, ']']);
        } else {
            self.pattern.push(character);
        }
    }

    fn bare(&mut self, character: char) {
        self.text.push(character);
        self.pattern.push(character);
    }
}

impl Reader<'_> {
    fn peek(&self) -> Option<(char, Place)> {
        self.line.get(self.position).copied()
    }

    fn next(&mut self) -> Option<(char, Place)> {
        let next = self.peek();
        self.position += 1;
        next
    }

    fn word(&mut self, at: Place) -> Result<Word, Fault> {
        let mut word = Word {
            text: String::new(),
            pattern: String::new(),
            at,
        };
        while let Some((character, place)) = self.peek() {
            match character {
                _ if character.is_whitespace() => break,
                '\'' => self.single(&mut word, place)?,
                '"' => self.double(&mut word, place)?,
                '\\' => {
                    self.position += 1;
                    if let Some((next, _)) = self.next() {
                        word.quoted(next);
                    }
                }
                '$' if self.rules.variables.is_some() => {
                    let value = self.variable(place)?;
                    value.chars().for_each(|c| word.bare(c));
                }
                ';' | '|' | '&' | '<' | '>' | '(' | ')' | '`' if self.rules.refuse_operators => {
                    return Err(operator(character, place))
                }
                _ => {
                    self.position += 1;
                    word.bare(character);
                }
            }
        }
        Ok(word)
    }

    fn single(&mut self, word: &mut Word, opened: Place) -> Result<(), Fault> {
        self.position += 1;
        loop {
            match self.next() {
                Some(('\'', _)) => return Ok(()),
                Some((character, _)) => word.quoted(character),
                None => return Err(unclosed('\'', opened)),
            }
        }
    }

    fn double(&mut self, word: &mut Word, opened: Place) -> Result<(), Fault> {
        self.position += 1;
        loop {
            match self.peek() {
                Some(('"', _)) => {
                    self.position += 1;
                    return Ok(());
                }
                Some(('\\', _)) => {
                    self.position += 1;
                    match self.next() {
                        Some((next @ ('"' | '\\' | '$' | '`'), _)) => word.quoted(next),
                        Some((next, _)) => {
                            word.quoted('\\');
                            word.quoted(next);
                        }
                        None => return Err(unclosed('"', opened)),
                    }
                }
                Some(('$', place)) if self.rules.variables.is_some() => {
                    let value = self.variable(place)?;
                    value.chars().for_each(|c| word.quoted(c));
                }
                Some(('`', place)) if self.rules.refuse_operators => {
                    return Err(operator('`', place))
                }
                Some((character, _)) => {
                    self.position += 1;
                    word.quoted(character);
                }
                None => return Err(unclosed('"', opened)),
            }
        }
    }

    /// The value of a variable, with the reader behind it.
    fn variable(&mut self, at: Place) -> Result<String, Fault> {
        self.position += 1;
        let name_of = |reader: &mut Self| {
            let mut name = String::new();
            while let Some((c, _)) = reader.peek() {
                let fits = c == '_' || c.is_ascii_alphabetic();
                if !(fits || !name.is_empty() && c.is_ascii_digit()) {
                    break;
                }
                name.push(c);
                reader.position += 1;
            }
            name
        };
        match self.peek().map(|(c, _)| c) {
            Some('{') => {
                self.position += 1;
                let name = name_of(self);
                let mut rest = String::new();
                loop {
                    match self.next() {
                        Some(('}', _)) => break,
                        Some((c, _)) => rest.push(c),
                        None => return Err(unclosed('{', at)),
                    }
                }
                let default = rest.strip_prefix(":-");
                if name.is_empty() || default.is_none() && !rest.is_empty() {
                    return Err(Fault::new(
                        at,
                        "not the name of a variable",
                        r"write ${NAME} or ${NAME:-DEFAULT}, or \$ for a dollar sign",
                    ));
                }
                match (self.look_up(&name), default) {
                    (Some(value), _) if !value.is_empty() || default.is_none() => Ok(value),
                    (_, Some(default)) => Ok(default.to_owned()),
                    (_, None) => Err(unknown(&name, at)),
                }
            }
            Some('(') => Err(operator('$', at)),
            Some(c) if c == '_' || c.is_ascii_alphabetic() => {
                let name = name_of(self);
                self.look_up(&name).ok_or_else(|| unknown(&name, at))
            }
            Some(c) if c.is_ascii_digit() || "@*#?!-".contains(c) => Err(Fault::new(
                at,
                "a definition file gets no arguments",
                r"write a value, or \$ for a dollar sign",
            )),
            _ => Ok("$".to_owned()),
        }
    }

    fn look_up(&self, name: &str) -> Option<String> {
        self.rules.variables.and_then(|variables| variables(name))
    }
}

fn unclosed(quote: char, at: Place) -> Fault {
    let closing = if quote == '{' { '}' } else { quote };
    Fault::new(
        at,
        format!("{quote} is not closed"),
        format!("close it with {closing}, or put a backslash before it"),
    )
}

fn unknown(name: &str, at: Place) -> Fault {
    Fault::new(
        at,
        format!("the variable {name} is not set"),
        format!(r"set it above ({name}=VALUE), or write \${name} if it is for a program"),
    )
}

fn operator(character: char, at: Place) -> Fault {
    Fault::new(
        at,
        format!("{character} is for a shell, which a list of directives is not"),
        "quote it, or give a whole line to a shell: RunCmd sh -c 'LINE'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>, Fault> {
        let variables = |name: &str| match name {
            "A" => Some("a b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let mut lines = text.split('\n').enumerate().map(|(i, l)| (i + 1, l));
        let line = joined(&mut lines).unwrap();
        let rules = Rules {
            variables: Some(&variables),
            refuse_operators: true,
        };
        Ok(split(&line, rules)?.into_iter().map(|w| w.text).collect())
    }

    #[test]
    fn words_are_split_as_by_a_shell() {
        for (text, expected) in [
            ("", &[][..]),
            ("  a\tb  ", &["a", "b"]),
            ("a # b", &["a"]),
            ("a#b", &["a#b"]),
            ("'a b' \"c d\" e\\ f", &["a b", "c d", "e f"]),
            ("'a'\"b\"c", &["abc"]),
            ("''", &[""]),
            (r#""a\"b\\c\nd""#, &[r#"a"b\c\nd"#]),
            (r"'a\b'", &[r"a\b"]),
            ("a\\\nb", &["ab"]),
            ("a \\\n  b", &["a", "b"]),
            ("$A", &["a b"]),
            ("x${A}y", &["xa by"]),
            ("\"${B:-none}\"", &["none"]),
            ("${EMPTY:-none}", &["none"]),
            ("'s/$/ x/'", &["s/$/ x/"]),
            ("a$ $/", &["a$", "$/"]),
            (r#""\$basearch" \$x"#, &["$basearch", "$x"]),
            ("'a;b' \"c|d\" e\\&f", &["a;b", "c|d", "e&f"]),
        ] {
            let found = words(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_split_is_named_by_its_place() {
        for (text, line, column) in [
            ("a 'b", 1, 3),
            ("a \\\n \"b", 2, 2),
            ("echo $B", 1, 6),
            ("${", 1, 1),
            ("${A+x}", 1, 1),
            ("a $(b)", 1, 3),
            ("a `b`", 1, 3),
            ("\"`b`\"", 1, 2),
            ("a > b", 1, 3),
            ("a; b", 1, 2),
            ("$1", 1, 1),
        ] {
            let fault = words(text).unwrap_err();
            assert_eq!(fault.at, Place { line, column }, "{text}: {fault:?}");
        }
    }

    #[test]
    fn what_is_quoted_is_no_pattern() {
        let mut lines = [(1, r"a* '*'b \? [c]")].into_iter();
        let line = joined(&mut lines).unwrap();
        let rules = Rules {
            variables: None,
            refuse_operators: false,
        };
        let words = split(&line, rules).unwrap();
        let patterns: Vec<_> = words.iter().map(|word| word.pattern.as_str()).collect();
        assert_eq!(patterns, ["a*", "[*]b", "[?]", "[c]"]);
    }
}
