//! Becoming the program.
//!
//! Owns: finding the command in the image, executing it, and saying why it could
//! not be. Never: forks; the program has this process's pid.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use image::{elf, Architecture};
use nix::errno::Errno;

use crate::env::Environment;
use crate::error::{shown, Error, Kind};
use crate::privilege::Unprivileged;
use crate::request::{Entry, Request};
use crate::sys::process::execve;

/// A command with its arguments and environment, found but not yet executed.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// The program: a path, or a name to look for in `PATH`.
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

/// What a test that is not there comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Execute this.
    Command(Command),
    /// The image has no test, which is no failure.
    NoTest,
}

const RUNSCRIPTS: [&str; 2] = ["/.singularity.d/runscript", "/singularity"];
const TESTS: [&str; 2] = ["/.singularity.d/test", "/.test"];

/// Finds what the request's entry means in the image, whose root is this
/// process's root.
///
/// # Errors
/// An image without a runscript.
pub fn resolve(request: &Request, environment: Environment) -> Result<Resolved, Error> {
    let mut command = match &request.entry {
        Entry::Exec(words) => Command::new(words.clone(), &environment),
        Entry::Run(arguments) => {
            let script = first_present(&RUNSCRIPTS).ok_or_else(|| {
                Error::new(format!("run {}", shown(request.image.path())), "the image has no runscript")
                    .kind(Kind::CommandNotFound)
                    .hint("use singularity exec IMAGE COMMAND, or put a script at /singularity in the image")
            })?;
            Command::new(with_arguments(script, arguments), &environment)
        }
        Entry::Test(arguments) => match first_present(&TESTS) {
            Some(script) => Command::new(with_arguments(script, arguments), &environment),
            None => return Ok(Resolved::NoTest),
        },
        Entry::Shell { program, arguments } => {
            shell(request, program.as_deref(), arguments, &environment)
        }
    };
    if !request.environment.ignore_image {
        let scripts = environment_scripts();
        if !scripts.is_empty() {
            command = command.after_sourcing(&scripts, environment);
        }
    }
    Ok(Resolved::Command(command))
}

fn with_arguments(script: &str, arguments: &[OsString]) -> Vec<OsString> {
    std::iter::once(script.into())
        .chain(arguments.iter().cloned())
        .collect()
}

fn first_present(candidates: &[&'static str]) -> Option<&'static str> {
    candidates
        .iter()
        .find(|path| Path::new(path).exists())
        .copied()
}

fn shell(
    request: &Request,
    wanted: Option<&OsStr>,
    arguments: &[OsString],
    environment: &Environment,
) -> Command {
    let program = wanted.map_or_else(
        || {
            if Path::new("/bin/bash").exists() {
                "/bin/bash".into()
            } else {
                "/bin/sh".into()
            }
        },
        OsStr::to_owned,
    );
    let mut words = vec![program.clone()];
    // The user's .bashrc is written for the host, and would set the host's prompt.
    if Path::new(&program).file_name() == Some(OsStr::new("bash")) {
        words.push("--norc".into());
    }
    words.extend(arguments.iter().cloned());
    let mut command = Command::new(words, environment);
    if !command.environment.iter().any(|(name, _)| name == "PS1") {
        let mut prompt = OsString::from("Singularity ");
        prompt.push(request.image.name());
        prompt.push(":\\w> ");
        command.environment.push(("PS1".into(), prompt));
    }
    command
}

/// The image's environment scripts in the order they are run. Newer images link
/// /environment to one of the directory, so it counts only without the directory.
pub fn environment_scripts() -> Vec<PathBuf> {
    if let Ok(entries) = std::fs::read_dir("/.singularity.d/env") {
        let mut scripts: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension() == Some(OsStr::new("sh")))
            .collect();
        scripts.sort();
        return scripts;
    }
    let single = PathBuf::from("/environment");
    if single.is_file() {
        vec![single]
    } else {
        Vec::new()
    }
}

impl Command {
    fn new(words: Vec<OsString>, environment: &Environment) -> Self {
        Self {
            program: words.first().cloned().unwrap_or_default(),
            arguments: words,
            environment: environment.merged(),
        }
    }

    /// The same command, executed by the image's shell after it has read the
    /// scripts; what the user set explicitly is set again after them.
    fn after_sourcing(self, scripts: &[PathBuf], environment: Environment) -> Self {
        if !Path::new("/bin/sh").exists() {
            tracing::warn!("the image has environment scripts but no /bin/sh to read them");
            return self;
        }
        let mut text = sourcing(scripts, &environment.overrides);
        text.push("exec \"$@\"\n");
        let mut arguments = vec!["/bin/sh".into(), "-c".into(), text, "/bin/sh".into()];
        arguments.extend(self.arguments);
        Self {
            program: "/bin/sh".into(),
            arguments,
            environment: self.environment,
        }
    }

    /// Executes the command; returns only why it could not.
    pub fn execute(self, _proof: Unprivileged) -> Error {
        let (arguments, environment) = (
            c_strings(self.arguments),
            c_strings(pairs(self.environment)),
        );
        let name = self.program.as_bytes();
        if name.contains(&b'/') {
            return attempt(Path::new(&self.program), &arguments, &environment).1;
        }
        let path = environment
            .iter()
            .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
            .unwrap_or_default();
        let mut refused = None;
        for directory in path.split(|&b| b == b':').filter(|_| !name.is_empty()) {
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            let candidate = Path::new(OsStr::from_bytes(directory)).join(&self.program);
            match attempt(&candidate, &arguments, &environment) {
                (Errno::ENOENT | Errno::ENOTDIR, error) if is_present(&candidate) => return error,
                (Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE, _) => {}
                // As execvp(3): go on looking, but remember that there was one.
                (Errno::EACCES, error) => refused = refused.or(Some(error)),
                (_, error) => return error,
            }
        }
        refused.unwrap_or_else(|| {
            Error::new(
                format!("execute {}", shown(Path::new(&self.program))),
                "not found in the image",
            )
            .kind(Kind::CommandNotFound)
            .hint(format!(
                "PATH inside is {}; name a command of the image, or give its path",
                shown(Path::new(OsStr::from_bytes(path)))
            ))
        })
    }
}

/// What a shell has to read so that the scripts are applied, and the user's own
/// variables after them.
pub fn sourcing(scripts: &[PathBuf], overrides: &[(OsString, OsString)]) -> OsString {
    let mut text = OsString::new();
    for script in scripts {
        text.push(". ");
        text.push(quoted(script.as_os_str()));
        text.push("\n");
    }
    for (name, value) in overrides {
        if is_shell_name(name) {
            text.push("export ");
            text.push(name);
            text.push("=");
            text.push(quoted(value));
            text.push("\n");
        }
    }
    text
}

/// Whether a shell takes this as the name of a variable.
pub fn is_shell_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.first().is_none_or(u8::is_ascii_digit)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// A word as a shell reads it back.
pub fn quoted(text: &OsStr) -> OsString {
    let mut bytes = vec![b'\''];
    for &b in text.as_bytes() {
        if b == b'\'' {
            bytes.extend(b"'\\''");
        } else {
            bytes.push(b);
        }
    }
    bytes.push(b'\'');
    OsString::from_vec(bytes)
}

fn pairs(environment: Vec<(OsString, OsString)>) -> impl Iterator<Item = OsString> {
    environment.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    })
}

/// Arguments and variables come from C strings, so none holds a NUL.
fn c_strings(strings: impl IntoIterator<Item = OsString>) -> Vec<CString> {
    strings
        .into_iter()
        .filter_map(|s| CString::new(s.into_vec()).ok())
        .collect()
}

fn attempt(path: &Path, arguments: &[CString], environment: &[CString]) -> (Errno, Error) {
    let Ok(program) = CString::new(path.as_os_str().as_bytes()) else {
        return (
            Errno::EINVAL,
            Error::call(format!("execute {}", shown(path)), Errno::EINVAL),
        );
    };
    let errno = execve(&program, arguments, environment);
    if errno == Errno::ENOEXEC && is_text(path) {
        // As execvp(3): a script without a #! line is for the shell.
        let script = [c"/bin/sh".to_owned(), program].into_iter();
        let arguments: Vec<_> = script.chain(arguments.iter().skip(1).cloned()).collect();
        let errno = execve(c"/bin/sh", &arguments, environment);
        return (errno, cannot_execute(Path::new("/bin/sh"), errno));
    }
    (errno, cannot_execute(path, errno))
}

fn is_present(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn open(path: &Path) -> Option<File> {
    File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(path)
        .ok()
}

fn beginning(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(file) = open(path) {
        let _ = file.take(256).read_to_end(&mut bytes);
    }
    bytes
}

fn is_text(path: &Path) -> bool {
    let bytes = beginning(path);
    !bytes.is_empty() && !bytes.contains(&0)
}

/// Why execve(2) refused, in words.
fn cannot_execute(path: &Path, errno: Errno) -> Error {
    let step = format!("execute {}", shown(path));
    let refused = |cause: String| Error::new(&*step, cause).kind(Kind::CommandNotExecutable);
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => match missing_interpreter(path) {
            Some(interpreter) => refused(format!(
                "its interpreter {} is not in the image",
                shown(Path::new(&interpreter))
            ))
            .hint("it may be a program of the host, or of another distribution than the image's"),
            None => Error::new(&*step, "not found in the image")
                .kind(Kind::CommandNotFound)
                .hint(
                    "the path is one of the image's; bind the directory if it is the host's (-B)",
                ),
        },
        Errno::EACCES => not_permitted(path, refused),
        Errno::ENOEXEC => match open(path).map(|file| elf::describe_file(&file)) {
            Some(Ok(program)) if program.architecture != Architecture::native() => {
                refused(format!(
                    "it is built for {}, this machine is {}",
                    program.architecture,
                    Architecture::native()
                ))
                .hint("use an image built for this machine")
            }
            _ => refused("it is neither a program of this machine nor a script".into())
                .hint("the file may be damaged"),
        },
        Errno::E2BIG => refused("arguments and environment are too long together".into())
            .hint("--cleanenv drops most of the environment"),
        Errno::ETXTBSY => refused("somebody is writing to it".into()),
        Errno::ELIBBAD => refused("its interpreter is damaged".into()),
        _ => Error::call(&*step, errno).kind(Kind::CommandNotExecutable),
    }
}

fn not_permitted(path: &Path, refused: impl Fn(String) -> Error) -> Error {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => refused("it is a directory".into()),
        Ok(metadata) if metadata.file_type().is_fifo() || metadata.file_type().is_socket() => {
            refused("it is not a regular file".into())
        }
        Ok(metadata) => {
            use std::os::unix::fs::PermissionsExt;
            if metadata.permissions().mode() & 0o111 == 0 {
                refused("it is not executable".into()).hint("chmod +x it, or name its interpreter")
            } else {
                refused("permission denied".into())
                    .hint("you may not execute it, or it is on a noexec file system")
            }
        }
        Err(_) => refused("permission denied".into())
            .hint("a directory above it cannot be searched by you"),
    }
}

/// The interpreter a present file asks for, from its ELF header or `#!` line.
fn missing_interpreter(path: &Path) -> Option<OsString> {
    let file = open(path)?;
    if let Ok(program) = elf::describe_file(&file) {
        return program.interpreter;
    }
    let bytes = beginning(path);
    let line = bytes.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let mut words = line
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    Some(OsStr::from_bytes(words.next()?).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_a_shell() {
        let nasty = OsString::from_vec(b"a'b $(c) \\ \n\xff".to_vec());
        let mut script = OsString::from("printf %s ");
        script.push(quoted(&nasty));
        let output = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap();
        assert_eq!(output.stdout, nasty.into_vec());
    }

    #[test]
    fn only_shell_names_are_exported_by_the_shell() {
        for (name, fits) in [
            ("A", true),
            ("_a1", true),
            ("1A", false),
            ("", false),
            ("A-B", false),
        ] {
            assert_eq!(is_shell_name(OsStr::new(name)), fits, "{name}");
        }
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let directory = std::env::temp_dir().join(format!("exec-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let script = directory.join("script");
        std::fs::write(&script, "#! /no/such/interpreter -x\n").unwrap();
        assert_eq!(
            missing_interpreter(&script),
            Some("/no/such/interpreter".into())
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
