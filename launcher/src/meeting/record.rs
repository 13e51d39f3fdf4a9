//! What a rank has found out of its program, for the ranks that join it.
//!
//! Owns: the line in which it is handed on, and what it may be believed for: the same
//! words, search paths and directory, and the same file of the program. The image is the
//! same in all ranks that share a namespace. Never: decides anything, and holds for no
//! longer than a rank of the job lives.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pmi_shim::{Client, Family, Mpi, Program};

use crate::env::Environment;

const FAMILIES: [(char, Family); 6] = [
    ('o', Family::OpenMpi),
    ('m', Family::Mpich),
    ('i', Family::IntelMpi),
    ('v', Family::Mvapich),
    ('c', Family::CrayMpich),
    ('u', Family::Unknown),
];
const CLIENTS: [(char, Client); 3] = [
    ('x', Client::Pmix),
    ('1', Client::Pmi1),
    ('2', Client::Pmi2),
];

/// What the answer follows from, but for the image: a number.
pub fn question(
    words: &[OsString],
    environment: &Environment,
    scripts: &[PathBuf],
    directory: &Path,
    at_terminal: bool,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    let variable = |name| environment.get(name);
    (words, variable("PATH"), variable("LD_LIBRARY_PATH")).hash(&mut hasher);
    (scripts, directory, at_terminal).hash(&mut hasher);
    for name in image::mpi::VARIABLES {
        variable(name).hash(&mut hasher);
    }
    // A file of the host that is bound into the image may be another by now.
    let file = words.first().filter(|word| is_path(word));
    if let Some(data) = file.and_then(|file| std::fs::metadata(file).ok()) {
        let changed = (data.mtime(), data.mtime_nsec(), data.ctime_nsec());
        (data.dev(), data.ino(), data.size(), changed).hash(&mut hasher);
    }
    hasher.finish()
}

fn is_path(word: &OsStr) -> bool {
    word.as_bytes().contains(&b'/')
}

/// The line: the question, what kind of program it is, and an MPI in each further word.
pub fn written(question: u64, program: &Program) -> String {
    let kind = match program {
        Program::Without => 'n',
        Program::With(_) => 'w',
        Program::Perhaps(_) => 'p',
        Program::Hardly(_) => 'h',
    };
    let mut line = format!("{question:016x}{kind}");
    for mpi in program.candidates() {
        let family = FAMILIES.iter().find(|(_, family)| *family == mpi.family);
        line.push(' ');
        line.extend(family.map(|(letter, _)| *letter));
        for client in &mpi.clients {
            let letter = CLIENTS.iter().find(|(_, other)| other == client);
            line.extend(letter.map(|(letter, _)| *letter));
        }
        line.push(':');
        if let Some(major) = mpi.major {
            line.push_str(&major.to_string());
        }
        line.push(':');
        line.push_str(&mpi.shown.replace(' ', "_"));
    }
    line
}

/// What a line says, if it answers this question.
pub fn read(line: &str, question: u64) -> Option<Program> {
    let mut words = line.split(' ');
    let kind = words
        .next()?
        .strip_prefix(format!("{question:016x}").as_str())?;
    let mut candidates = words.map(mpi).collect::<Option<Vec<_>>>()?;
    match (kind, candidates.len()) {
        ("n", 0) => Some(Program::Without),
        ("w", 1) => candidates.pop().map(Program::With),
        ("p", _) => Some(Program::Perhaps(candidates)),
        ("h", _) => Some(Program::Hardly(candidates)),
        _ => None,
    }
}

fn mpi(word: &str) -> Option<Mpi> {
    let mut parts = word.splitn(3, ':');
    let mut letters = parts.next()?.chars();
    let (major, shown) = (parts.next()?, parts.next()?);
    let family = letters.next()?;
    let (_, family) = FAMILIES.iter().find(|(letter, _)| *letter == family)?;
    let client = |letter| {
        let found = CLIENTS.iter().find(|(other, _)| *other == letter);
        found.map(|(_, client)| *client)
    };
    Some(Mpi {
        family: *family,
        major: match major {
            "" => None,
            number => Some(number.parse().ok()?),
        },
        clients: letters.map(client).collect::<Option<Vec<_>>>()?,
        shown: shown.replace('_', " "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(family: Family, major: Option<u32>, clients: &[Client], shown: &str) -> Mpi {
        Mpi {
            family,
            major,
            clients: clients.to_vec(),
            shown: shown.to_owned(),
        }
    }

    #[test]
    fn what_was_found_is_read_back() {
        let open = of(Family::OpenMpi, Some(4), &[], "Open MPI 4.1.4");
        let both = [Client::Pmix, Client::Pmi2];
        let mpich = of(Family::Mpich, None, &both, "MPICH");
        for program in [
            Program::Without,
            Program::With(open.clone()),
            Program::UNKNOWN,
            Program::Perhaps(vec![open.clone(), mpich.clone()]),
            Program::Hardly(vec![mpich]),
        ] {
            let line = written(7, &program);
            assert_eq!(read(&line, 7), Some(program), "{line}");
        }
    }

    #[test]
    fn what_answers_another_question_or_is_no_answer_is_not_believed() {
        let line = written(7, &Program::Without);
        assert_eq!(read(&line, 8), None);
        for line in [
            "".to_owned(),
            "0".to_owned(),
            line.trim_end_matches('n').to_owned(),
            line.replace('n', "w"),
            format!("{line} o:4:Open_MPI"),
            line.replace('n', "p z:4:Open_MPI"),
            line.replace('n', "p oy:4:Open_MPI"),
            line.replace('n', "p o:x:Open_MPI"),
            line.replace('n', "p o:4"),
            line.replace('n', "p "),
        ] {
            assert_eq!(read(&line, 7), None, "{line}");
        }
    }

    #[test]
    fn another_program_or_search_path_is_another_question() {
        let file = std::env::temp_dir().join(format!("record-test-{}", std::process::id()));
        std::fs::write(&file, "one").unwrap();
        let words = [file.clone().into_os_string(), "-n".into()];
        let with = |path: &str| Environment {
            base: vec![("PATH".into(), path.into())],
            overrides: Vec::new(),
            around_path: [None, None],
        };
        let ask = |words: &[OsString], path: &str, directory: &str| {
            question(words, &with(path), &[], Path::new(directory), false)
        };
        let asked = ask(&words, "/bin", "/");
        assert_eq!(asked, ask(&words, "/bin", "/"));
        assert_ne!(asked, ask(&words[..1], "/bin", "/"));
        assert_ne!(asked, ask(&words, "/opt/bin", "/"));
        assert_ne!(asked, ask(&words, "/bin", "/tmp"));
        let mut packages = with("/bin");
        packages.base.push(("R_LIBS".into(), "/opt/R".into()));
        let elsewhere = question(&words, &packages, &[], Path::new("/"), false);
        assert_ne!(asked, elsewhere);
        std::fs::write(&file, "another").unwrap();
        assert_ne!(asked, ask(&words, "/bin", "/"));
        std::fs::remove_file(&file).unwrap();
    }
}
