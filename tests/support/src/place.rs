//! Where things are: the source tree, the built command, what is kept between
//! runs, and the programs that tests call.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The top of the source tree.
pub fn top() -> &'static Path {
    static TOP: OnceLock<PathBuf> = OnceLock::new();
    TOP.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.ancestors()
            .nth(2)
            .expect("this crate is at tests/support")
            .to_owned()
    })
}

/// The directory for images and programs that are kept between runs. Every user
/// of the machine can read there, also where the source tree is out of sight.
pub fn store() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = PathBuf::from(script("tests/images/image", &["where"]));
        fs::create_dir_all(&store).unwrap_or_else(|e| panic!("make {}: {e}", store.display()));
        store
    })
}

/// The built `singularity`, at a path that every user can execute.
///
/// That is `$SINGULARITY_BIN`, which `make test` sets, or else the newest of
/// those that `make build` and `cargo build` leave.
pub fn command() -> &'static Path {
    static COMMAND: OnceLock<PathBuf> = OnceLock::new();
    COMMAND.get_or_init(|| for_everybody(&built()))
}

/// Whether [`command()`] has its set-id starter beside it, which it then uses for
/// users: what the kernel is asked for differs then, and nothing else.
pub fn is_privileged() -> bool {
    let starter = command()
        .parent()
        .and_then(Path::parent)
        .map(|prefix| prefix.join("libexec/singularity/starter"));
    let mode = starter.and_then(|path| fs::metadata(path).ok());
    mode.is_some_and(|data| data.uid() == 0 && data.mode() & 0o4000 != 0)
}

/// The `PATH` that tests give to users: the built command first, then the FUSE
/// servers this project had to build itself, then the system's.
pub fn search_path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        script(
            "packages/erofsfuse",
            &[store().join("tools").to_str().expect("a printable path")],
        );
        let own = command().parent().expect("a command is in a directory");
        format!(
            "{}:{}:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            own.display(),
            store().join("tools/bin").display()
        )
    })
}

fn built() -> PathBuf {
    if let Some(path) = std::env::var_os("SINGULARITY_BIN") {
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "SINGULARITY_BIN={} is no file",
            path.display()
        );
        return path;
    }
    let target = target();
    let triples = fs::read_dir(&target)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("release/singularity"));
    triples
        .chain([
            target.join("release/singularity"),
            target.join("dist/bin/singularity"),
        ])
        .filter_map(|path| Some((modified(&path)?, path)))
        .max()
        .map(|(_, path)| path)
        .unwrap_or_else(|| {
            panic!(
                "no singularity is built under {}: run make build",
                target.display()
            )
        })
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => top().join(dir),
        None => top().join("target"),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The same file, or a copy of it where others can reach it. The programs that it
/// becomes or starts are beside it, as they are where it is installed.
fn for_everybody(path: &Path) -> PathBuf {
    let prefix = path.parent().and_then(Path::parent);
    let beside = prefix.map(|prefix| programs(&prefix.join("libexec/singularity")));
    let (programs, here) = match beside {
        Some(programs) if !programs.is_empty() => (programs, true),
        _ => (built_programs(), false),
    };
    if here && reachable(path) {
        return path.to_owned();
    }
    let key: Vec<_> = std::iter::once(path)
        .chain(programs.iter().map(PathBuf::as_path))
        .map(|path| {
            let data = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            format!("{}.{}.{}", data.ino(), data.size(), data.mtime_nsec())
        })
        .collect();
    let directory = store().join("bin").join(key.join("-"));
    let copy = directory.join("bin/singularity");
    if !copy.exists() {
        for program in &programs {
            let name = program.file_name().expect("a program has a name");
            copy_to(program, &directory.join("libexec/singularity").join(name));
        }
        copy_to(path, &copy);
    }
    copy
}

/// Copies a program to where none is, or the same.
fn copy_to(from: &Path, to: &Path) {
    let directory = to.parent().expect("a file is in a directory");
    fs::create_dir_all(directory).unwrap_or_else(|e| panic!("make {}: {e}", directory.display()));
    let new = directory.join(format!("new.{}", std::process::id()));
    fs::copy(from, &new).unwrap_or_else(|e| panic!("copy to {}: {e}", new.display()));
    fs::rename(&new, to).unwrap_or_else(|e| panic!("rename to {}: {e}", to.display()));
}

/// The files of a directory, if there is one, sorted.
fn programs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut programs: Vec<_> = entries.map(|entry| entry.path()).collect();
    programs.sort();
    programs
}

/// What cargo has built of the programs of `libexec`, where `make build` was not run.
fn built_programs() -> Vec<PathBuf> {
    let target = target();
    ["builder", "image-server", "pmi-bridge"]
        .iter()
        .filter_map(|name| {
            ["tools", "release", "debug"]
                .iter()
                .map(|profile| target.join(profile).join(name))
                .filter_map(|path| Some((modified(&path)?, path)))
                .max()
                .map(|(_, path)| path)
        })
        .collect()
}

/// True if any user may pass through every directory above `path`.
fn reachable(path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .filter(|dir| !dir.as_os_str().is_empty())
        .all(|dir| fs::metadata(dir).is_ok_and(|data| data.mode() & 0o001 != 0))
}

/// Run one of the tree's scripts and give what it printed. Its messages go where
/// the test's go.
pub(crate) fn script(path: &str, arguments: &[&str]) -> String {
    let output = Command::new(top().join(path))
        .args(arguments)
        .current_dir(top())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(
        output.status.success(),
        "{path} {}: {}",
        arguments.join(" "),
        output.status
    );
    let text = String::from_utf8(output.stdout).expect("scripts print text");
    text.trim_end_matches('\n').to_owned()
}

/// The full path of a program of the host's.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no {name} on this machine: apt-get install {package}"))
}
