//! Where the dynamic loader would find a library, without running it.
//!
//! Owns: the order of ld.so(8): `DT_RPATH`, `LD_LIBRARY_PATH`, `DT_RUNPATH`, the
//! cache, the default directories; musl's where that is the interpreter. Never:
//! follows a link out of the root, or looks at more files than [`MOST_OPENED`].

use std::cell::{Cell, OnceCell};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::elf::{self, Elf};

use super::known::base_name;
use super::ld_cache::LdCache;
use super::root::Root;

/// A program that needs more look-ups than this is not followed further.
const MOST_OPENED: u32 = 2048;
/// More directories in one search path than this are not tried.
const MOST_DIRECTORIES: usize = 256;

const DEFAULTS: [&str; 12] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/powerpc64le-linux-gnu",
    "/usr/lib/powerpc64le-linux-gnu",
    "/lib/riscv64-linux-gnu",
    "/usr/lib/riscv64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
const DEFAULTS_OF_MUSL: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];

/// A program or library that was found.
#[derive(Debug)]
pub(super) struct Object {
    /// Where, in the root's own words.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// Its header and dynamic section.
    pub elf: Elf,
    /// The search paths of `DT_RPATH` that hold for what it needs: its own and those
    /// of whoever needed it.
    rpaths: Vec<PathBuf>,
}

/// Finds libraries in one root.
#[derive(Debug)]
pub(super) struct Loader<'r> {
    root: &'r Root,
    library_path: Vec<PathBuf>,
    cache: OnceCell<Vec<u8>>,
    is_musl: Cell<bool>,
    opened: Cell<u32>,
}

impl<'r> Loader<'r> {
    /// `library_path` is `LD_LIBRARY_PATH` as the program will find it.
    pub fn new(root: &'r Root, library_path: Option<&OsStr>) -> Self {
        let directories = library_path.unwrap_or_default().as_bytes();
        Self {
            root,
            library_path: directories
                .split(|&byte| byte == b':' || byte == b';')
                .filter(|directory| !directory.is_empty())
                .take(MOST_DIRECTORIES)
                .map(|directory| Path::new(OsStr::from_bytes(directory)).to_owned())
                .collect(),
            cache: OnceCell::new(),
            is_musl: Cell::new(false),
            opened: Cell::new(0),
        }
    }

    /// The root that is searched.
    pub fn root(&self) -> &'r Root {
        self.root
    }

    /// The directories of `LD_LIBRARY_PATH`.
    pub fn library_path(&self) -> &[PathBuf] {
        &self.library_path
    }

    /// Takes an open program as what the search starts from.
    pub fn program(&self, path: &Path, file: File) -> Option<Object> {
        let elf = elf::describe_file(&file).ok()?;
        let musl = elf
            .interpreter
            .as_deref()
            .is_some_and(|name| base_name(name).as_bytes().starts_with(b"ld-musl"));
        self.is_musl.set(musl);
        let path = self.root.path_of(&file).unwrap_or_else(|| path.to_owned());
        Some(self.object(path, file, elf, &[]))
    }

    fn object(&self, path: PathBuf, file: File, elf: Elf, above: &[PathBuf]) -> Object {
        let mut rpaths = Vec::new();
        if elf.is_rpath {
            rpaths.extend(directories(&elf, &path));
        }
        rpaths.extend_from_slice(above);
        rpaths.truncate(MOST_DIRECTORIES);
        Object {
            path,
            file,
            elf,
            rpaths,
        }
    }

    /// The library that `needed_by` would get for a name.
    pub fn library(&self, name: &OsStr, needed_by: &Object) -> Option<Object> {
        if name.as_bytes().contains(&b'/') {
            let path = expanded(name, &needed_by.path)?;
            return self.matching(Path::new(&path), needed_by);
        }
        let has_runpath = needed_by.elf.runpath.is_some() && !needed_by.elf.is_rpath;
        if !has_runpath {
            if let Some(found) = self.first(name, &needed_by.rpaths, needed_by) {
                return Some(found);
            }
        }
        if let Some(found) = self.first(name, &self.library_path, needed_by) {
            return Some(found);
        }
        if has_runpath {
            let own: Vec<_> = directories(&needed_by.elf, &needed_by.path).collect();
            if let Some(found) = self.first(name, &own, needed_by) {
                return Some(found);
            }
        }
        if self.is_musl.get() {
            let default = DEFAULTS_OF_MUSL.map(PathBuf::from);
            return self.first(name, &default, needed_by);
        }
        let cache = LdCache::of(self.cache());
        let cached = cache.paths(name).take(MOST_DIRECTORIES);
        for path in cached {
            if let Some(found) = self.matching(Path::new(&path), needed_by) {
                return Some(found);
            }
        }
        self.first(name, &DEFAULTS.map(PathBuf::from), needed_by)
    }

    /// The bytes of the loader's cache, read once.
    pub fn cache(&self) -> &[u8] {
        self.cache.get_or_init(|| {
            self.root
                .content(Path::new("/etc/ld.so.cache"), u64::MAX)
                .unwrap_or_default()
        })
    }

    fn first(&self, name: &OsStr, directories: &[PathBuf], by: &Object) -> Option<Object> {
        directories
            .iter()
            .find_map(|directory| self.matching(&directory.join(name), by))
    }

    /// Opens a library, if it is one for the same machine.
    fn matching(&self, path: &Path, needed_by: &Object) -> Option<Object> {
        if self.opened.get() >= MOST_OPENED {
            return None;
        }
        self.opened.set(self.opened.get() + 1);
        let file = self.root.file(path)?;
        let elf = elf::describe_file(&file).ok()?;
        let wanted = &needed_by.elf;
        if (elf.class, elf.machine) != (wanted.class, wanted.machine) {
            return None;
        }
        Some(self.object(path.to_owned(), file, elf, &needed_by.rpaths))
    }

    /// Calls `look` with each library that a program needs, itself and those that its
    /// libraries need, nearest first, until it answers. The name, and who needs it.
    pub fn each_needed<T>(
        &self,
        program: Object,
        look: impl FnMut(&OsStr, &Object) -> Look<T>,
    ) -> Option<T> {
        self.walk(program, |_| (), look)
    }

    /// Shows `look` a program and each library that it and its libraries need, nearest
    /// first, but for those whose names `passes` says no to.
    pub fn each_object(
        &self,
        program: Object,
        passes: impl Fn(&OsStr) -> bool,
        look: impl FnMut(&Object),
    ) {
        self.walk(program, look, |name, _| match passes(name) {
            true => Look::<()>::Follow,
            false => Look::Pass,
        });
    }

    /// Shows `reached` each object, nearest first, and asks `look` once about each name
    /// that one of them needs.
    fn walk<T>(
        &self,
        program: Object,
        mut reached: impl FnMut(&Object),
        mut look: impl FnMut(&OsStr, &Object) -> Look<T>,
    ) -> Option<T> {
        let mut seen = HashSet::new();
        let mut waiting = std::collections::VecDeque::from([program]);
        while let Some(object) = waiting.pop_front() {
            reached(&object);
            for name in &object.elf.needed {
                if !seen.insert(name.clone()) {
                    continue;
                }
                match look(name, &object) {
                    Look::Found(answer) => return Some(answer),
                    Look::Pass => {}
                    Look::Follow => waiting.extend(self.library(name, &object)),
                }
            }
        }
        None
    }
}

/// What is to be done about a needed library.
pub(super) enum Look<T> {
    /// This is the answer.
    Found(T),
    /// It needs nothing of interest.
    Pass,
    /// Look at what it needs.
    Follow,
}

/// The directories of an object's own search path.
fn directories<'a>(elf: &'a Elf, path: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    elf.runpath
        .as_deref()
        .unwrap_or_default()
        .as_bytes()
        .split(|&byte| byte == b':')
        .filter(|directory| !directory.is_empty())
        .take(MOST_DIRECTORIES)
        .filter_map(|directory| expanded(OsStr::from_bytes(directory), path))
        .map(PathBuf::from)
}

/// `$ORIGIN` and `$LIB` replaced, as ld.so(8) does ("Dynamic string tokens").
fn expanded(text: &OsStr, object: &Path) -> Option<OsString> {
    if !text.as_bytes().contains(&b'$') {
        return Some(text.to_owned());
    }
    let text = text.to_str()?;
    let origin = object.parent()?.to_str()?;
    let machine = std::env::consts::ARCH;
    let lib = format!("lib/{machine}-linux-gnu");
    let mut result = text.to_owned();
    for (token, value) in [
        ("ORIGIN", origin),
        ("LIB", lib.as_str()),
        ("PLATFORM", machine),
    ] {
        result = result.replace(&format!("${{{token}}}"), value);
        result = result.replace(&format!("${token}"), value);
    }
    Some(OsString::from_vec(result.into_bytes()))
}
