//! The image's environment scripts, `/.singularity.d/env/*.sh` or `/environment`.
//!
//! Owns: reading the simple ones without a shell: assignments, `export`, `unset`.
//! What is not simple is left to the image's shell, at the price of one execve.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use launcher::env::Environment;
use launcher::{is_shell_name, sourcing};

use crate::environment::Variables;

/// What the scripts came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They are in the environment.
    Applied,
    /// A shell has to read this before the program starts.
    NeedsShell(OsString),
}

/// The most that is read of a script; a longer one is for a shell.
const MOST: u64 = 64 << 10;

/// The scripts of the image whose root is this process's, in order.
pub fn of_image() -> Vec<PathBuf> {
    launcher::environment_scripts()
}

/// Applies the scripts to `environment`, where they are simple.
pub fn apply(scripts: &[PathBuf], environment: &mut Environment) -> Outcome {
    if scripts.is_empty() {
        return Outcome::Applied;
    }
    let mut shell = Shell {
        exported: environment.base.clone(),
        local: Vec::new(),
    };
    let simple = scripts.iter().all(|path| {
        read(path).is_some_and(|text| {
            text.split(|&b| b == b'\n')
                .all(|line| shell.line(line).is_some())
        })
    });
    if simple {
        environment.base = shell.exported;
        environment.surround_path();
        return Outcome::Applied;
    }
    if !Path::new("/bin/sh").exists() {
        return Outcome::Applied;
    }
    let text = sourcing(scripts, environment);
    Outcome::NeedsShell(text)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MOST {
        return None;
    }
    std::fs::read(path).ok()
}

/// As much of a shell as simple scripts need; everything else is `None`.
struct Shell {
    exported: Variables,
    local: Variables,
}

impl Shell {
    fn value(&self, name: &[u8]) -> Option<&OsStr> {
        let name = OsStr::from_bytes(name);
        let both = self.exported.iter().chain(&self.local);
        both.clone()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_os_str())
    }

    fn assign(&mut self, name: &[u8], value: Vec<u8>) {
        let name = OsStr::from_bytes(name);
        let value = OsString::from_vec(value);
        let place = if self.exported.iter().any(|(other, _)| other == name) {
            &mut self.exported
        } else {
            &mut self.local
        };
        match place.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => place.push((name.to_owned(), value)),
        }
    }

    fn export(&mut self, name: &[u8]) {
        let name = OsStr::from_bytes(name);
        if let Some(index) = self.local.iter().position(|(other, _)| other == name) {
            self.exported.push(self.local.remove(index));
        }
    }

    fn unset(&mut self, name: &[u8]) {
        let name = OsStr::from_bytes(name);
        self.exported.retain(|(other, _)| other != name);
        self.local.retain(|(other, _)| other != name);
    }

    fn line(&mut self, line: &[u8]) -> Option<()> {
        let mut rest = line.trim_ascii_start();
        while !rest.is_empty() && rest[0] != b'#' {
            rest = self.command(rest)?.trim_ascii_start();
        }
        Some(())
    }

    /// One command; returns what follows its semicolon.
    fn command<'a>(&mut self, text: &'a [u8]) -> Option<&'a [u8]> {
        let mut verb: Option<&[u8]> = None;
        let mut rest = text;
        let mut first = true;
        loop {
            rest = rest.trim_ascii_start();
            match rest.first() {
                None | Some(b'#') => return Some(b""),
                Some(b';') if rest.get(1) == Some(&b';') => return None,
                Some(b';') => return Some(&rest[1..]),
                _ => {}
            }
            let length = rest
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
                .count();
            let (name, after) = rest.split_at(length);
            match after.first() {
                Some(b'=') if is_shell_name(OsStr::from_bytes(name)) && verb != Some(b"unset") => {
                    let (value, after) = self.word(&after[1..])?;
                    self.assign(name, value);
                    if verb.is_some() {
                        self.export(name);
                    }
                    rest = after;
                }
                Some(b' ' | b'\t' | b';') | None if is_shell_name(OsStr::from_bytes(name)) => {
                    match (verb, name) {
                        (None, b"export" | b"unset") if first => verb = Some(name),
                        (Some(b"export"), _) => self.export(name),
                        (Some(b"unset"), _) => self.unset(name),
                        _ => return None,
                    }
                    rest = after;
                }
                _ => return None,
            }
            first = false;
        }
    }

    /// One word, expanded; ends at a blank or a semicolon.
    fn word<'a>(&self, text: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
        let mut value = Vec::new();
        let mut rest = text;
        loop {
            match rest.first() {
                None | Some(b' ' | b'\t' | b'\r' | b';') => return Some((value, rest)),
                Some(b'\'') => {
                    let end = rest[1..].iter().position(|&b| b == b'\'')?;
                    value.extend(&rest[1..=end]);
                    rest = &rest[end + 2..];
                }
                Some(b'"') => rest = self.double_quoted(&rest[1..], &mut value)?,
                Some(b'$') => rest = self.expansion(&rest[1..], &mut value)?,
                Some(b'\\') => {
                    value.push(*rest.get(1)?);
                    rest = &rest[2..];
                }
                Some(&b)
                    if b.is_ascii_alphanumeric() || b"_-./:,+@%=".contains(&b) || b >= 0x80 =>
                {
                    value.push(b);
                    rest = &rest[1..];
                }
                _ => return None,
            }
        }
    }

    fn double_quoted<'a>(&self, text: &'a [u8], value: &mut Vec<u8>) -> Option<&'a [u8]> {
        let mut rest = text;
        loop {
            match rest.first()? {
                b'"' => return Some(&rest[1..]),
                b'`' => return None,
                b'$' => rest = self.expansion(&rest[1..], value)?,
                b'\\' => {
                    let next = *rest.get(1)?;
                    if !b"$`\"\\".contains(&next) {
                        value.push(b'\\');
                    }
                    value.push(next);
                    rest = &rest[2..];
                }
                &b => {
                    value.push(b);
                    rest = &rest[1..];
                }
            }
        }
    }

    /// `NAME`, `{NAME}` or `{NAME:-word}` with a plain word, after the dollar.
    fn expansion<'a>(&self, text: &'a [u8], value: &mut Vec<u8>) -> Option<&'a [u8]> {
        let braced = text.first() == Some(&b'{');
        let text = if braced { &text[1..] } else { text };
        let length = text
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
            .count();
        let (name, mut rest) = text.split_at(length);
        if !is_shell_name(OsStr::from_bytes(name)) {
            return None;
        }
        let known = self.value(name).map(OsStr::as_bytes);
        if !braced {
            value.extend(known.unwrap_or_default());
            return Some(rest);
        }
        let mut instead: &[u8] = b"";
        if rest.starts_with(b":-") {
            let end = rest.iter().position(|&b| b == b'}')?;
            instead = &rest[2..end];
            if instead.iter().any(|b| b"$`\"'\\".contains(b)) {
                return None;
            }
            rest = &rest[end..];
            value.extend(known.filter(|known| !known.is_empty()).unwrap_or(instead));
        } else {
            value.extend(known.unwrap_or(instead));
        }
        (rest.first() == Some(&b'}')).then(|| &rest[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Option<Vec<String>> {
        let mut shell = Shell {
            exported: vec![("PATH".into(), "/bin".into()), ("E".into(), "".into())],
            local: Vec::new(),
        };
        for line in text.lines() {
            shell.line(line.as_bytes())?;
        }
        Some(
            shell
                .exported
                .iter()
                .map(|(n, v)| format!("{}={}", n.to_str().unwrap(), v.to_str().unwrap()))
                .collect(),
        )
    }

    #[test]
    fn simple_scripts_do_what_a_shell_does() {
        let text = "# comment\n\nexport A=1 # why\nB='a b'\nexport B\nC=x; export C D\nLOCAL=no\n\
                    PATH=/opt/bin:$PATH\nexport L=\"${LOCAL} ${NONE:-def} $A\\\"\"\nunset C\nE=e\n";
        assert_eq!(
            run(text).unwrap(),
            ["PATH=/opt/bin:/bin", "E=e", "A=1", "B=a b", "L=no def 1\""]
        );
        let directory = std::env::temp_dir().join(format!("scripts-{}", std::process::id()));
        std::fs::write(&directory, text).unwrap();
        let output = std::process::Command::new("/bin/sh")
            .env_clear()
            .envs([("PATH", "/bin"), ("E", "")])
            .args(["-c", ". \"$0\"; export -p"])
            .arg(&directory)
            .output()
            .unwrap();
        std::fs::remove_file(&directory).unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        for expected in ["A='1'", "B='a b'", "E='e'", "PATH='/opt/bin:/bin'"] {
            assert!(told.contains(expected), "{expected} not in {told}");
        }
    }

    #[test]
    fn anything_else_is_for_a_shell() {
        for text in [
            "if true; then export A=1; fi",
            "export A=$(date)",
            "export A=`date`",
            "export A=\"$(date)\"",
            ". /other",
            "A=1 program",
            "A=~/x",
            "A=*",
            "A=1 && B=2",
            "export A='open",
            "A=${B:+x}",
            "case a in b) ;; esac",
        ] {
            assert_eq!(run(text), None, "{text}");
        }
    }
}
