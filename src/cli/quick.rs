//! The usual command lines of ranks, parsed without clap.
//!
//! Each rank of a job parses the same few words, and with clap that is most of what a
//! rank that joins computes: clap makes its whole definition first. This parser knows
//! exec, run and test, and each option of [`super::entering`] written out in full. Of
//! everything else it says nothing, and clap decides: mistakes, help, abbreviations,
//! letters in a row, options that exclude each other, variables whose value is unusual.
//! So there is one meaning of a command line. That this parser never disagrees with
//! clap is tested with many that are put together by chance.
//!
//! Owns: that shortcut. Never: refuses anything.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::entering::{Entering, Opt, OPTIONS};
use super::{Cli, Exec, Run, Test, Verb, DEBUG, QUIET, VERBOSE};

/// What stands before the name of each variable that stands for an option.
const PREFIX: &[u8] = b"SINGULARITY_";

/// Parses a command line, the program's name first, in an environment; `None` where
/// that is not for this parser to say.
pub fn parse(words: &[OsString], environment: &[(OsString, OsString)]) -> Option<Cli> {
    let (verb, rest) = words.get(1..)?.split_first()?;
    let least = match verb.as_bytes() {
        b"exec" => 2,
        b"run" | b"test" => 1,
        _ => return None,
    };
    let mut taking = Taking::default();
    let mut rest = rest.iter();
    let words = loop {
        let all = rest.as_slice();
        let word = rest.next()?;
        match word.as_bytes() {
            // No image has an empty name.
            [] => return None,
            [b'-', option @ ..] => taking.option(option, &mut rest)?,
            // The image: all that follows is for the program.
            _ => break all,
        }
    };
    for (name, value) in environment {
        if name.as_bytes().starts_with(PREFIX) {
            taking.variable(name, value)?;
        }
    }
    let entering = taking.finish()?;
    let words = (words.len() >= least).then(|| words.to_vec())?;
    Some(Cli {
        quiet: false,
        verbose: 0,
        debug: false,
        verb: match verb.as_bytes() {
            b"exec" => Verb::Exec(Exec { entering, words }),
            b"run" => Verb::Run(Run { entering, words }),
            _ => Verb::Test(Test { entering, words }),
        },
    })
}

/// Options, as they are taken.
#[derive(Default)]
struct Taking {
    entering: Entering,
    /// Those on the command line.
    given: Vec<&'static Opt>,
    /// Those of which the environment speaks.
    named: Vec<&'static Opt>,
}

impl Taking {
    /// The option that a word is but for its first `-`; its value may be the next of
    /// `rest`.
    fn option(&mut self, word: &[u8], rest: &mut std::slice::Iter<'_, OsString>) -> Option<()> {
        let (option, joined) = match word {
            [b'-', long @ ..] => {
                let end = long.iter().position(|byte| *byte == b'=');
                let (name, value) = long.split_at(end.unwrap_or(long.len()));
                let option = find(|option| option.long.as_bytes() == name)?;
                (option, value.split_first().map(|(_, value)| value))
            }
            [letter] => {
                let letter = Some(char::from(*letter));
                (find(|option| option.short == letter)?, None)
            }
            _ => return None,
        };
        let value = match (joined, option.alone) {
            _ if !option.has_value() => match joined {
                None => OsString::new(),
                Some(_) => return None,
            },
            (Some(value), _) => OsString::from_vec(value.to_vec()),
            (None, Some(value)) => value.into(),
            (None, None) => {
                let value = rest.next()?;
                // It is more likely an option, and the value was forgotten.
                (!value.as_bytes().starts_with(b"-")).then(|| value.clone())?
            }
        };
        let is_told = !option.has_value() || !value.is_empty();
        self.given.push(option);
        (is_told && (option.field)(&mut self.entering).put(value)).then_some(())
    }

    /// What a variable says, unless the command line says it.
    fn variable(&mut self, name: &OsStr, value: &OsStr) -> Option<()> {
        if [QUIET, VERBOSE, DEBUG].iter().any(|other| name == *other) {
            return None;
        }
        let Some(option) = find(|option| option.variable.is_some_and(|other| name == other)) else {
            return Some(());
        };
        // The first of two variables of the same name counts.
        if self.named.iter().any(|other| other.long == option.long) {
            return None;
        }
        self.named.push(option);
        if value.is_empty() || self.given.iter().any(|other| other.long == option.long) {
            return Some(());
        }
        if !option.has_value() {
            match value.as_bytes() {
                b"1" | b"y" | b"yes" | b"true" | b"on" => {}
                b"0" | b"n" | b"no" | b"false" | b"off" => return Some(()),
                _ => return None,
            }
        }
        self.given.push(option);
        (option.field)(&mut self.entering)
            .put(value.to_owned())
            .then_some(())
    }

    /// The options, if none excludes another.
    fn finish(self) -> Option<Entering> {
        let is_given = |name: &&str| self.given.iter().any(|option| option.long == *name);
        let excluded = self.given.iter().flat_map(|option| option.not_with);
        (!excluded.into_iter().any(is_given)).then_some(self.entering)
    }
}

fn find(is_it: impl Fn(&Opt) -> bool) -> Option<&'static Opt> {
    let mut all = OPTIONS.iter().flat_map(|group| group.options);
    all.find(|option| is_it(option))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;
    use crate::parse as parse_by_definition;

    /// Numbers by chance, the same at each run (Marsaglia, "Xorshift RNGs").
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }

        fn one_in(&mut self, many: usize) -> bool {
            self.below(many) == 0
        }

        fn of<T: Copy>(&mut self, all: &[T]) -> T {
            all[self.below(all.len())]
        }

        fn option(&mut self) -> &'static Opt {
            let options = OPTIONS[self.below(OPTIONS.len())].options;
            &options[self.below(options.len())]
        }
    }

    const VALUES: [&[u8]; 16] = [
        b"",
        b"a",
        b"/x:/y:ro",
        b"A=b=c",
        b"=",
        b"-",
        b"-x",
        b"--",
        b"0",
        b"1",
        b"Off",
        b"yes",
        b"no",
        b"auto",
        b"a,b",
        b"\xff",
    ];
    const ODD_WORDS: [&[u8]; 24] = [
        b"",
        b"-",
        b"--",
        b"-h",
        b"--help",
        b"help",
        b"-V",
        b"--version",
        b"-v",
        b"-vv",
        b"-q",
        b"--debug",
        b"--verbose",
        b"--no",
        b"--clean",
        b"--binds",
        b"-ce",
        b"-Ba",
        b"-B=a",
        b"-x",
        b"--bind=",
        b"--stage=",
        b"--contain=1",
        b"\xff",
    ];

    fn word(bytes: &[u8]) -> OsString {
        OsStr::from_bytes(bytes).to_owned()
    }

    fn joined(parts: [&[u8]; 3]) -> OsString {
        OsString::from_vec(parts.concat())
    }

    /// A command line that is often right, and sometimes odd.
    fn command_line(chance: &mut Chance) -> Vec<OsString> {
        let mut words = vec!["singularity".into()];
        if chance.one_in(12) {
            words.push(word(chance.of(&ODD_WORDS)));
        }
        let verbs = ["exec", "exec", "run", "test", "shell", "exe", "pull"];
        words.push(chance.of(&verbs).into());
        for _ in 0..chance.below(5) {
            let option = chance.option();
            let value = match chance.one_in(3) {
                true => chance.of(&VALUES),
                false => chance.of(&VALUES[1..4]),
            };
            let long = option.long.as_bytes();
            match (chance.below(12), option.short) {
                (0, _) => words.push(word(chance.of(&ODD_WORDS))),
                (1, _) => words.push(joined([b"--", long, b"x"])),
                (2, _) => words.push(joined([b"--", &long[..long.len() - 1], b""])),
                (3, Some(letter)) => words.push(joined([b"-", &[letter as u8], value])),
                (4 | 5, _) if option.has_value() => {
                    words.push(OsString::from_vec([b"--", long, b"=", value].concat()))
                }
                (number, short) => {
                    words.push(match short {
                        Some(letter) if number % 2 == 0 => joined([b"-", &[letter as u8], b""]),
                        _ => joined([b"--", long, b""]),
                    });
                    let is_apart = option.has_value() && option.alone.is_none();
                    if is_apart != chance.one_in(20) {
                        words.push(word(value));
                    }
                }
            }
        }
        let behind: [&[u8]; 9] = [
            b"image.sqfs",
            b"./program",
            b"--",
            b"-n",
            b"--bind",
            b"",
            b"help",
            b"exec",
            b"\xff",
        ];
        for at in 0..chance.below(5) {
            words.push(word(match at {
                0 if !chance.one_in(8) => behind[0],
                _ => chance.of(&behind),
            }));
        }
        words
    }

    fn environment(chance: &mut Chance) -> BTreeMap<OsString, OsString> {
        let mut variables = BTreeMap::new();
        let often = [0, 0, 1, 1, 2, 3];
        for _ in 0..chance.of(&often) {
            let name = match chance.below(12) {
                0 => chance.of(&[QUIET, VERBOSE, DEBUG, "SINGULARITY_SHELL"]),
                1 => chance.of(&["SINGULARITY_BIND", "SINGULARITY_NOHOME", "SINGULARITY_X"]),
                _ => match chance.option().variable {
                    Some(name) => name,
                    None => continue,
                },
            };
            variables.insert(name.into(), word(chance.of(&VALUES)));
        }
        variables
    }

    fn variables_of(command: &clap::Command) -> Vec<OsString> {
        let arguments = command.get_arguments();
        let names = arguments.filter_map(|argument| argument.get_env());
        names.map(OsStr::to_owned).collect()
    }

    // One test: clap reads the environment of the process.
    #[test]
    fn what_is_understood_quickly_is_what_clap_understands() {
        let mut definition = Cli::command();
        definition.build();
        let mut known: Vec<OsString> = [QUIET, VERBOSE, DEBUG].map(OsString::from).into();
        known.extend(
            OPTIONS
                .iter()
                .flat_map(|group| group.options)
                .filter_map(|option| Some(option.variable?.into())),
        );
        for verb in ["exec", "run", "test"] {
            let command = definition.find_subcommand(verb).unwrap();
            for name in variables_of(command)
                .iter()
                .chain(&variables_of(&definition))
            {
                assert!(known.contains(name), "{name:?} is unknown to quick::parse");
            }
        }
        for name in known.iter().chain([&"SINGULARITY_SHELL".into()]) {
            std::env::remove_var(name);
        }

        let mut chance = Chance(0x5eed_1234_abcd_0007);
        let (mut quick, rounds) = (0, 8_000);
        for _ in 0..rounds {
            let words = command_line(&mut chance);
            let variables = environment(&mut chance);
            for (name, value) in &variables {
                std::env::set_var(name, value);
            }
            let all: Vec<_> = std::env::vars_os().collect();
            let quickly = parse(&words, &all);
            if let Some(quickly) = quickly {
                quick += 1;
                let thoroughly = parse_by_definition(&words)
                    .map_err(|error| error.kind())
                    .unwrap_or_else(|kind| panic!("{words:?} {variables:?}: {kind}"));
                assert_eq!(
                    format!("{quickly:?}"),
                    format!("{thoroughly:?}"),
                    "{words:?} {variables:?}"
                );
            }
            for name in variables.keys() {
                std::env::remove_var(name);
            }
        }
        // Else nothing would have been compared.
        assert!(quick > rounds / 10, "{quick} of {rounds}");

        // Each option, as ranks are given it.
        for option in OPTIONS.iter().flat_map(|group| group.options) {
            let mut words = vec!["singularity".into(), "exec".into()];
            words.push(format!("--{}", option.long).into());
            if option.has_value() && option.alone.is_none() {
                words.push("value".into());
            }
            words.extend(["image".into(), "program".into()]);
            let quickly = parse(&words, &[]).map(|cli| format!("{cli:?}"));
            let thoroughly = parse_by_definition(&words).map(|cli| format!("{cli:?}"));
            assert_eq!(quickly, Some(thoroughly.unwrap()), "{words:?}");
        }
    }
}
