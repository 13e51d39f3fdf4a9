//! From the words of a command to the program that will call MPI.
//!
//! Owns: what shells, interpreters and wrappers make of their words, as far as it can
//! be known without running them. Never: expands or executes; a guess is called one.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::commands;
use super::known::base_name;
use super::loader::Loader;
use super::root::beginning;
use super::{languages, loads, of_elf, python, survey, Depth, Mpi, ProgramMpi, Question};

/// `#!` lines and wrappers are followed so often; the kernel follows five.
const DEEPEST: u32 = 8;
/// So much of a script is looked through.
const MOST_SCRIPT: u64 = 64 << 10;
/// So many words of scripts are looked for among the programs of the root.
const MOST_CANDIDATES: usize = 128;
/// So many directories are searched besides the usual ones.
const MOST_PLACES: usize = 32;
/// So many words of a wrapper are tried as the command it executes.
const MOST_WORDS: usize = 64;

/// What a program does with its words, by its name.
enum Kind {
    /// Executes commands that it is told as text.
    Shell,
    /// Executes the command that stands somewhere behind its options.
    Wrapper,
    /// May load an MPI library itself.
    Interpreter,
    /// Anything else.
    Program,
}

fn kind(name: &OsStr) -> Kind {
    let Some(name) = name.to_str() else {
        return Kind::Program;
    };
    match name {
        "sh" | "bash" | "dash" | "ash" | "ksh" | "mksh" | "zsh" | "fish" | "csh" | "tcsh"
        | "rbash" | "yash" => Kind::Shell,
        "env" | "time" | "nice" | "ionice" | "taskset" | "numactl" | "strace" | "ltrace"
        | "gdb" | "valgrind" | "perf" | "stdbuf" | "timeout" | "setarch" | "linux64" | "chrt"
        | "nohup" | "setsid" | "prlimit" | "busybox" | "catchsegv" | "hpcrun" | "nsys"
        | "scorep" | "tau_exec" | "vtune" | "rocprof" | "ld.so" | "xargs" | "command" => {
            Kind::Wrapper
        }
        "perl" | "ruby" | "julia" | "R" | "Rscript" | "octave" | "octave-cli" | "java" | "node"
        | "lua" | "tclsh" | "guile" | "matlab" | "ipython" | "ipython3" | "conda" | "mamba"
        | "micromamba" | "make" | "pypy" | "pypy3" => Kind::Interpreter,
        _ if name.starts_with("python") => Kind::Interpreter,
        _ if name.starts_with("ld-linux") || name.starts_with("ld-musl") => Kind::Wrapper,
        _ => Kind::Program,
    }
}

/// What starts ranks of its own, in the image, whatever started this.
fn is_launcher(name: &OsStr) -> bool {
    const BEGINNINGS: [&str; 6] = ["mpirun", "mpiexec", "orterun", "prterun", "prun", "srun"];
    let name = name.as_bytes();
    BEGINNINGS
        .iter()
        .any(|beginning| name.starts_with(beginning.as_bytes()))
}

/// Which MPI the command uses.
pub(super) fn judge(loader: &Loader<'_>, question: &Question<'_>) -> ProgramMpi {
    let judge = Judge {
        loader,
        question,
        tried: RefCell::default(),
        left: Cell::new(MOST_CANDIDATES),
    };
    judge.words(question.words, DEEPEST)
}

struct Judge<'a, 'r> {
    loader: &'a Loader<'r>,
    question: &'a Question<'a>,
    /// Words of scripts that were looked for.
    tried: RefCell<HashSet<OsString>>,
    /// How many more may be.
    left: Cell<usize>,
}

/// What a shell's text says of MPI.
enum Told {
    /// It names a program with this one.
    With(Mpi),
    /// It may use any: it hides what it executes.
    Anything,
    /// It names an interpreter, or a program that loads its MPI, that may use these.
    Loads(Vec<Mpi>),
    /// It starts a launcher of its own.
    Launches,
    /// Its words name nothing that could use MPI.
    Nothing,
}

impl Told {
    /// What counts of several.
    fn weight(&self) -> u8 {
        match self {
            Told::Nothing => 0,
            Told::Launches => 1,
            Told::Loads(_) => 2,
            Told::Anything => 3,
            Told::With(_) => 4,
        }
    }
}

impl Judge<'_, '_> {
    fn words(&self, words: &[OsString], deeper: u32) -> ProgramMpi {
        let Some((program, arguments)) = words.split_first() else {
            return ProgramMpi::Without;
        };
        // What cannot be executed will be told by who tries.
        let Some((path, file)) = self.executable(program) else {
            return ProgramMpi::Without;
        };
        let name = base_name(program);
        if languages::is_r(name) {
            return self.interpreter(name, &path);
        }
        let head = beginning(&file, 256).unwrap_or_default();
        if let Some(line) = head.strip_prefix(b"#!") {
            let Some(deeper) = deeper.checked_sub(1) else {
                return self.unknown(&path);
            };
            return self.words(&through_interpreter(line, &path, arguments), deeper);
        }
        if !head.starts_with(b"\x7fELF") {
            // execvp(3) has the shell read it.
            return self.script(&path, &file, arguments, deeper);
        }
        let (mpi, file) = self.linked(&path, file);
        if let Some(mpi) = mpi {
            return ProgramMpi::With(mpi);
        }
        match kind(name) {
            Kind::Program if is_launcher(name) => ProgramMpi::Without,
            Kind::Program => self.loaded(&path, file),
            Kind::Shell => self.shell(&path, arguments, deeper),
            Kind::Interpreter => self.interpreter(name, &path),
            Kind::Wrapper => {
                let Some(deeper) = deeper.checked_sub(1) else {
                    return self.unknown(&path);
                };
                let rest = (0..arguments.len().min(MOST_WORDS))
                    .filter_map(|at| arguments.get(at..))
                    .find(|rest| rest.first().is_some_and(|word| self.is_command(word)));
                rest.map_or(ProgramMpi::Without, |rest| self.words(rest, deeper))
            }
        }
    }

    /// What an interpreter of this name would load: where it tells, that alone.
    fn interpreter(&self, name: &OsStr, path: &Path) -> ProgramMpi {
        match self.of_packages(name, path) {
            found if found.is_empty() => self.unknown(path),
            found => ProgramMpi::Unknown(found),
        }
    }

    /// The MPIs that an interpreter's own packages for it have.
    fn of_packages(&self, name: &OsStr, path: &Path) -> Vec<Mpi> {
        let begins = |beginning: &&str| name.as_bytes().starts_with(beginning.as_bytes());
        if ["python", "ipython", "pypy"].iter().any(begins) {
            return python::mpi(self.loader, self.question, path)
                .into_iter()
                .collect();
        }
        match languages::is_r(name) {
            true => languages::of_r(self.loader, self.question, path),
            false => Vec::new(),
        }
    }

    /// What it means that a shell's text names an interpreter.
    fn loads(&self, name: &OsStr, path: &Path) -> Told {
        match self.of_packages(name, path) {
            found if found.is_empty() => Told::Anything,
            found => Told::Loads(found),
        }
    }

    /// What a program that is linked with no MPI may load while it runs.
    fn loaded(&self, path: &Path, file: Option<File>) -> ProgramMpi {
        let object = file.and_then(|file| self.loader.program(path, file));
        let Some(object) = object else {
            return ProgramMpi::Without;
        };
        let loaded = loads::by(self.loader, object, self.question.depth);
        match loaded.mpis.is_empty() {
            // Those that its texts name are the ones that it tries.
            false => ProgramMpi::Unknown(loaded.mpis),
            true if loaded.any || loaded.interprets => self.unknown(path),
            true => ProgramMpi::Without,
        }
    }

    /// A word that is the command of a wrapper, and not an option or a setting.
    fn is_command(&self, word: &OsStr) -> bool {
        let is_option = word.as_bytes().starts_with(b"-") || word.as_bytes().contains(&b'=');
        // busybox carries its commands in itself.
        !is_option && (self.executable(word).is_some() || matches!(kind(word), Kind::Shell))
    }

    /// The path and the file that execvp(3) would find.
    fn executable(&self, program: &OsStr) -> Option<(PathBuf, File)> {
        let root = self.loader.root();
        let open = |path: PathBuf| {
            let path = self.question.directory.join(path);
            Some((path.clone(), root.executable(&path)?))
        };
        if program.as_bytes().contains(&b'/') {
            return open(program.into());
        }
        if program.is_empty() {
            return None;
        }
        self.question
            .path
            .as_bytes()
            .split(|&byte| byte == b':')
            .find_map(|directory| open(Path::new(OsStr::from_bytes(directory)).join(program)))
    }

    /// The MPI that a program is linked with, and the file again.
    fn linked(&self, path: &Path, file: File) -> (Option<Mpi>, Option<File>) {
        let again = file.try_clone().ok();
        let object = self.loader.program(path, file);
        let mpi = object.and_then(|object| of_elf(self.loader, object, self.question.depth));
        (mpi, again)
    }

    /// A shell with these arguments.
    fn shell(&self, shell: &Path, arguments: &[OsString], deeper: u32) -> ProgramMpi {
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            if bytes.starts_with(b"-") && !bytes.starts_with(b"--") && bytes.contains(&b'c') {
                let text = words.next().map(|text| text.as_bytes()).unwrap_or_default();
                return self.said(shell, self.text(text, words.as_slice(), deeper));
            }
            if bytes.starts_with(b"-") || bytes.starts_with(b"+") {
                continue;
            }
            let path = self.question.directory.join(word);
            return match self.loader.root().file(&path) {
                Some(file) => self.script(shell, &file, words.as_slice(), deeper),
                None => ProgramMpi::Without,
            };
        }
        // It reads what it is to do.
        self.said(
            shell,
            match self.question.at_terminal {
                true => Told::Nothing,
                false => Told::Anything,
            },
        )
    }

    fn script(&self, shell: &Path, file: &File, arguments: &[OsString], deeper: u32) -> ProgramMpi {
        let text = beginning(file, MOST_SCRIPT).unwrap_or_default();
        self.said(shell, self.text(&text, arguments, deeper))
    }

    fn said(&self, shell: &Path, told: Told) -> ProgramMpi {
        match told {
            Told::With(mpi) => ProgramMpi::With(mpi),
            Told::Loads(found) => ProgramMpi::Unknown(found),
            Told::Anything => self.unknown(shell),
            Told::Launches => ProgramMpi::Without,
            Told::Nothing => match self.unknown(shell) {
                ProgramMpi::Unknown(candidates) => ProgramMpi::Unlikely(candidates),
                other => other,
            },
        }
    }

    /// Looks for a program with MPI among the words of a shell's text, and among its
    /// arguments: `exec "$@"` is what many scripts end with. Scripts that it names are
    /// looked through in turn.
    fn text(&self, text: &[u8], arguments: &[OsString], deeper: u32) -> Told {
        let of_text = commands::words(text).map(OsStr::from_bytes);
        let of_arguments = arguments.iter().take(MOST_WORDS).map(OsString::as_os_str);
        let mut told = match commands::hides_one(text) {
            true => Told::Anything,
            false => Told::Nothing,
        };
        for word in of_text.chain(of_arguments) {
            if !self.tried.borrow_mut().insert(word.to_owned()) {
                continue;
            }
            let Some(left) = self.left.get().checked_sub(1) else {
                return Told::Anything;
            };
            self.left.set(left);
            match self.word(word, deeper) {
                Told::With(mpi) => return Told::With(mpi),
                Told::Nothing => {}
                other if other.weight() > told.weight() => told = other,
                _ => {}
            }
        }
        told
    }

    /// What a word of a shell's text may stand for.
    fn word(&self, word: &OsStr, deeper: u32) -> Told {
        let is_sourced = || word.as_bytes().ends_with(b".sh");
        let file = self.executable(word).or_else(|| {
            let path = self.question.directory.join(word);
            let file = is_sourced().then(|| self.loader.root().file(&path))??;
            Some((path, file))
        });
        let Some((path, file)) = file else {
            return Told::Nothing;
        };
        if languages::is_r(base_name(word)) {
            return self.loads(base_name(word), &path);
        }
        let head = beginning(&file, 256).unwrap_or_default();
        if head.starts_with(b"\x7fELF") {
            let name = base_name(word);
            let (mpi, file) = self.linked(&path, file);
            return match (mpi, kind(name)) {
                (Some(mpi), _) => Told::With(mpi),
                (None, Kind::Interpreter) => self.loads(name, &path),
                (None, _) if is_launcher(name) => Told::Launches,
                (None, Kind::Program) => match self.loaded(&path, file) {
                    ProgramMpi::Unknown(found) => Told::Loads(found),
                    _ => Told::Nothing,
                },
                (None, Kind::Shell | Kind::Wrapper) => Told::Nothing,
            };
        }
        let Some(deeper) = deeper.checked_sub(1) else {
            return Told::Anything;
        };
        let of_script = head.strip_prefix(b"#!").map(|line| {
            let words = through_interpreter(line, &path, &[]);
            let named = |word: &&OsString| {
                !word.as_bytes().starts_with(b"-")
                    && !matches!(kind(base_name(word)), Kind::Wrapper)
            };
            words.iter().find(named).cloned()
        });
        let of_script = of_script.map(|word| word.map(|word| (kind(base_name(&word)), word)));
        match of_script {
            _ if is_launcher(base_name(word)) => Told::Launches,
            Some(Some((Kind::Shell, _))) | None => {
                let text = beginning(&file, MOST_SCRIPT).unwrap_or_default();
                self.text(&text, &[], deeper)
            }
            Some(Some((Kind::Interpreter, word))) => match self.executable(&word) {
                Some((path, _)) => self.loads(&word, &path),
                None => Told::Anything,
            },
            Some(_) => Told::Nothing,
        }
    }

    /// Where Julia has libraries, if this is it.
    fn of_julia(&self, program: &Path) -> Vec<PathBuf> {
        match base_name(program.as_os_str()) == "julia" {
            true => {
                let root = self.loader.root();
                let file = root.file(program);
                let real = file.and_then(|file| root.path_of(&file));
                languages::of_julia(
                    self.loader,
                    self.question,
                    real.as_deref().unwrap_or(program),
                )
            }
            false => Vec::new(),
        }
    }

    /// What the root holds, one of each family and version; near this program too, which
    /// is how virtual environments have one.
    fn unknown(&self, program: &Path) -> ProgramMpi {
        let near = |bin: &Path| ["lib", "lib64"].map(|name| bin.join("..").join(name));
        let on_path = self.question.path.as_bytes().split(|&byte| byte == b':');
        let on_path = on_path.map(|directory| Path::new(OsStr::from_bytes(directory)));
        let more: Vec<PathBuf> = on_path
            .chain(program.parent())
            .filter(|bin| {
                bin.ends_with("bin") && !bin.starts_with("/usr") && *bin != Path::new("/bin")
            })
            .take(MOST_PLACES)
            .flat_map(near)
            .chain(self.loader.library_path().iter().take(MOST_PLACES).cloned())
            .chain(self.of_julia(program))
            .collect();
        let mut found: Vec<Mpi> = Vec::new();
        for mpi in survey::of_mpi(self.loader, &more, self.question.depth == Depth::Thorough) {
            let is_known = |known: &Mpi| known.family == mpi.family && known.version == mpi.version;
            if !found.iter().any(is_known) {
                found.push(mpi);
            }
        }
        match found.is_empty() {
            true => ProgramMpi::Without,
            false => ProgramMpi::Unknown(found),
        }
    }
}

/// The words that the kernel makes of a script with this `#!` line.
fn through_interpreter(line: &[u8], script: &Path, arguments: &[OsString]) -> Vec<OsString> {
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.trim_ascii();
    let (interpreter, option) = match line.iter().position(u8::is_ascii_whitespace) {
        Some(end) => line.split_at(end),
        None => (line, &[][..]),
    };
    // Linux hands all that follows on as one word; env -S and our guess split it.
    let options = option
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    std::iter::once(interpreter)
        .chain(options)
        .map(|word| OsStr::from_bytes(word).to_owned())
        .chain([script.as_os_str().to_owned()])
        .chain(arguments.iter().cloned())
        .collect()
}
