//! Command lines as people type them in an option, and templates of them.
//!
//! Owns: splitting into words, and what stands in for `{image}`, `{program}` and
//! `{launcher}`. Pure.

/// Splits a line into words as a shell does, with quotes and backslashes, and
/// without anything else that a shell knows.
///
/// # Errors
/// A quote that is not closed.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        None => return Err(format!("{letter} is not closed in {line:?}")),
                        Some(end) if end == letter => break,
                        Some('\\') if letter == '"' => word.extend(letters.next()),
                        Some(inner) => word.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// A command line with places for what differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<String>);

impl Template {
    /// The program as it is, under the launcher.
    pub fn host() -> Self {
        Self(vec!["{launcher}".to_owned(), "{program}".to_owned()])
    }

    /// Of words that are all there; `{program}` is one of them.
    pub fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut words: Vec<String> = words.into_iter().map(Into::into).collect();
        if !words.iter().any(|word| word == "{launcher}") {
            words.insert(0, "{launcher}".to_owned());
        }
        Self(words)
    }

    /// As typed after `--way NAME=`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = split(text)?;
        let count = |place: &str| words.iter().filter(|word| *word == place).count();
        if count("{program}") != 1 {
            return Err("{program} has to be one of its words, once".to_owned());
        }
        if count("{launcher}") > 1 {
            return Err("{launcher} may be one of its words once".to_owned());
        }
        Ok(Self::new(words))
    }

    /// Whether what follows the launcher are options of its own.
    pub fn begins_with_options(&self) -> bool {
        let mut words = self.0.iter().skip_while(|word| *word != "{launcher}");
        words.nth(1).is_some_and(|word| word.starts_with('-'))
    }

    /// Whether it needs an image.
    pub fn takes_image(&self) -> bool {
        self.0.iter().any(|word| word.contains("{image}"))
    }

    /// With an image in its place.
    #[must_use]
    pub fn with_image(&self, image: &str) -> Self {
        Self(
            self.0
                .iter()
                .map(|word| word.replace("{image}", image))
                .collect(),
        )
    }

    /// The command line.
    pub fn fill(&self, launcher: &[String], program: &[String]) -> Vec<String> {
        let mut words = Vec::new();
        for word in &self.0 {
            match word.as_str() {
                "{launcher}" => words.extend(launcher.iter().cloned()),
                "{program}" => words.extend(program.iter().cloned()),
                _ => words.push(word.clone()),
            }
        }
        words
    }

    /// As it is shown.
    pub fn line(&self) -> String {
        self.0.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let words = |line| split(line).unwrap();
        assert_eq!(words("  a b\tc "), ["a", "b", "c"]);
        assert_eq!(
            words("'a b' \"c \\\" d\" e\\ f ''"),
            ["a b", "c \" d", "e f", ""]
        );
        assert_eq!(words("--x='1 2'"), ["--x=1 2"]);
        assert!(split("a 'b").is_err());
        assert!(words("").is_empty());
    }

    #[test]
    fn a_template_puts_everything_in_its_place() {
        let template = Template::parse("bwrap --ro-bind {image} / {program}").unwrap();
        assert!(template.takes_image());
        let filled = template.with_image("/i").fill(
            &["mpirun".to_owned(), "-n".to_owned(), "2".to_owned()],
            &["/p".to_owned(), "job".to_owned()],
        );
        assert_eq!(
            filled,
            [
                "mpirun",
                "-n",
                "2",
                "bwrap",
                "--ro-bind",
                "/i",
                "/",
                "/p",
                "job"
            ]
        );
        let srun = Template::parse("{launcher} --image={image} {program}").unwrap();
        assert!(srun.begins_with_options() && !template.begins_with_options());
        assert_eq!(
            srun.with_image("x")
                .fill(&["srun".to_owned()], &["p".to_owned()]),
            ["srun", "--image=x", "p"]
        );
    }

    #[test]
    fn a_template_without_a_program_is_none() {
        for wrong in ["bwrap {image}", "{program} {program}", "'{program}", ""] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
