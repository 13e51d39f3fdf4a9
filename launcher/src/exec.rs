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
use crate::scripts;
use crate::sys::process::execve;

/// A command with its arguments and environment, found but not yet executed.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// The program: a path, or a name to look for in `PATH`.
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

const RUNSCRIPTS: [&str; 2] = ["/.singularity.d/runscript", "/singularity"];
const TESTS: [&str; 2] = ["/.singularity.d/test", "/.test"];

/// The words that the request's entry means in the image, whose root is this process's
/// root; `None` for a test that is not there.
///
/// # Errors
/// An image without a runscript.
pub fn words(request: &Request) -> Result<Option<Vec<OsString>>, Error> {
    Ok(match &request.entry {
        Entry::Exec(words) => Some(words.clone()),
        Entry::Run(arguments) => {
            let script = first_present(&RUNSCRIPTS).ok_or_else(|| {
                Error::new(format!("run {}", shown(request.image.path())), "the image has no runscript")
                    .kind(Kind::CommandNotFound)
                    .hint("use singularity exec IMAGE COMMAND, or put a script at /singularity in the image")
            })?;
            Some(with_arguments(script, arguments))
        }
        Entry::Test(arguments) => {
            first_present(&TESTS).map(|script| with_arguments(script, arguments))
        }
        Entry::Shell { program, arguments } => Some(shell(program.as_deref(), arguments)),
    })
}

/// The command that these words are with this environment, once the image's own scripts
/// have been run.
///
/// # Errors
/// What is wrong with a command that scripts of the image would execute.
pub fn resolve(
    request: &Request,
    words: Vec<OsString>,
    scripts: &[PathBuf],
    environment: Environment,
) -> Result<Command, Error> {
    if scripts.is_empty() {
        let mut command = Command::new(words, environment.into_merged());
        command.set_prompt(request);
        return Ok(command);
    }
    let mut command = Command::new(words, environment.clone().into_merged());
    command.set_prompt(request);
    command.after_sourcing(scripts, &environment)
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

fn shell(wanted: Option<&OsStr>, arguments: &[OsString]) -> Vec<OsString> {
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
    words
}

impl Command {
    fn new(words: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> Self {
        Self {
            program: words.first().cloned().unwrap_or_default(),
            arguments: words,
            environment,
        }
    }

    /// Has a shell say which image it is in, unless the user has a prompt.
    fn set_prompt(&mut self, request: &Request) {
        let is_shell = matches!(request.entry, Entry::Shell { .. });
        if !is_shell || self.environment.iter().any(|(name, _)| name == "PS1") {
            return;
        }
        let mut prompt = OsString::from("Singularity ");
        prompt.push(request.image.name());
        // bash and busybox replace it by the current directory.
        prompt.push(":\\w> ");
        self.environment.push(("PS1".into(), prompt));
    }

    /// The same command, executed by the image's shell after it has read the
    /// scripts; what the user set explicitly is set again after them.
    ///
    /// # Errors
    /// What is wrong with a command named by its path: the shell that executes it
    /// would tell it in its own words.
    fn after_sourcing(self, files: &[PathBuf], environment: &Environment) -> Result<Self, Error> {
        if !Path::new("/bin/sh").exists() {
            tracing::warn!("the image has environment scripts but no /bin/sh to read them");
            return Ok(self);
        }
        if self.program.as_bytes().contains(&b'/') {
            refused(Path::new(&self.program))?;
        }
        let (text, set) = scripts::executing(&self.program, files, environment, &self.environment);
        let mut variables = self.environment;
        variables.retain(|(name, _)| scripts::is_shell_name(name));
        variables.extend(set);
        let mut arguments = vec!["/bin/sh".into(), "-c".into(), text, "/bin/sh".into()];
        arguments.extend(self.arguments);
        Ok(Self {
            program: "/bin/sh".into(),
            arguments,
            environment: variables,
        })
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
        refused.unwrap_or_else(|| not_found(&self.program, OsStr::from_bytes(path)))
    }
}

/// A command that is in none of the directories of `path`.
pub(crate) fn not_found(program: &OsStr, path: &OsStr) -> Error {
    Error::new(
        format!("execute {}", shown(Path::new(program))),
        "not found in the image",
    )
    .kind(Kind::CommandNotFound)
    .hint(match program.as_bytes() {
        // What follows the image is the command's; many expect to give options there.
        [b'-', ..] => {
            "options stand before the image: singularity exec OPTION… IMAGE COMMAND".into()
        }
        [] => "the command is an empty string: name one of the image".into(),
        _ => format!(
            "PATH inside is {}; name a command of the image, or give its path",
            shown(Path::new(path))
        ),
    })
}

/// What execve(2) would refuse about the program at `path`, as far as it can be
/// known before.
fn refused(path: &Path) -> Result<(), Error> {
    use nix::unistd::{access, AccessFlags};
    if let Err(errno) = access(path, AccessFlags::X_OK) {
        return Err(cannot_execute(path, errno));
    }
    if path.is_dir() {
        return Err(cannot_execute(path, Errno::EACCES));
    }
    let described = open(path).map(|file| elf::describe_file(&file));
    if matches!(described, Some(Ok(program)) if program.architecture != Architecture::native()) {
        return Err(cannot_execute(path, Errno::ENOEXEC));
    }
    match missing_interpreter(path) {
        Some(interpreter) if !Path::new(&interpreter).exists() => {
            Err(cannot_execute(path, Errno::ENOENT))
        }
        _ => Ok(()),
    }
}

fn pairs(environment: Vec<(OsString, OsString)>) -> impl Iterator<Item = OsString> {
    environment.into_iter().map(|(mut pair, value)| {
        // The NUL of a C string too, so that it grows once.
        pair.reserve_exact(value.len() + 2);
        pair.push("=");
        pair.push(value);
        pair
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
            None => {
                let cause = match path.read_link() {
                    Ok(target) => format!(
                        "not found in the image: it is a symbolic link to {}",
                        shown(&target)
                    ),
                    Err(_) => "not found in the image".into(),
                };
                let hint = if path.starts_with("/scif/apps") {
                    "the image has no such app, or the app no such script: \
                     singularity inspect --list-apps IMAGE"
                } else {
                    "the path is one of the image's; bind the directory if it is the host's (-B)"
                };
                Error::new(&*step, cause)
                    .kind(Kind::CommandNotFound)
                    .hint(hint)
            }
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
        Errno::ETXTBSY => refused("somebody is writing to it".into()).hint("try again later"),
        Errno::ELIBBAD => {
            refused("its interpreter is damaged".into()).hint("build the image again")
        }
        Errno::ELOOP => refused("its symbolic links lead in a circle, or are too many".into())
            .hint("readlink shows where each leads"),
        _ => {
            let error = Error::call(&*step, errno).kind(Kind::CommandNotExecutable);
            match error.remedy() {
                Some(_) => error,
                None => error.hint("the image may be damaged: copy or build it again"),
            }
        }
    }
}

/// Why the kernel would not execute a file of the image that is this process's root, as far
/// as can be told without trying; `None` if nothing speaks against it. For an interpreter
/// of `binfmt_misc` all files count as its own.
pub fn why_not(path: &Path) -> Option<Error> {
    let errno = match path.metadata() {
        Err(_) => Errno::ENOENT,
        Ok(metadata) if !metadata.is_file() => Errno::EACCES,
        Ok(_) if nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_err() => {
            Errno::EACCES
        }
        Ok(_) => match open(path).map(|file| elf::describe_file(&file)) {
            // Executable and not readable is enough for a program.
            None => return None,
            Some(Ok(program)) if !is_for_this_machine(program.architecture) => Errno::ENOEXEC,
            Some(Err(elf::Error::Damaged(_))) => Errno::ENOEXEC,
            Some(_) if !beginning(path).starts_with(b"\x7fELF") && is_neither(path) => {
                Errno::ENOEXEC
            }
            Some(_) => {
                let interpreter = missing_interpreter(path)?;
                if Path::new(&interpreter).exists() {
                    return None;
                }
                Errno::ENOENT
            }
        },
    };
    Some(cannot_execute(path, errno))
}

/// Whether this kernel starts programs of an architecture: of its own, of its 32-bit kin,
/// or by whoever has been registered for others (binfmt_misc in the kernel's
/// documentation).
fn is_for_this_machine(architecture: Architecture) -> bool {
    let others = Path::new("/proc/sys/fs/binfmt_misc").read_dir();
    let native = Architecture::native();
    architecture == native
        || matches!(
            (architecture, native),
            (Architecture::I386, Architecture::X86_64) | (Architecture::Arm, Architecture::Aarch64)
        )
        // Beside `register` and `status`.
        || others.is_ok_and(|entries| entries.count() > 2)
}

/// Neither a script nor text, which the shell would read.
fn is_neither(path: &Path) -> bool {
    !beginning(path).starts_with(b"#!") && !is_text(path)
}

fn not_permitted(path: &Path, refused: impl Fn(String) -> Error) -> Error {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            refused("it is a directory".into()).hint("name a program in it")
        }
        Ok(metadata) if metadata.file_type().is_fifo() || metadata.file_type().is_socket() => {
            refused("it is not a regular file".into()).hint("name a program")
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
