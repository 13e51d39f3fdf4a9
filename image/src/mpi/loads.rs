//! Which MPI a program loads that it is not linked with: by dlopen(3).
//!
//! Owns: whether a program or one of its libraries can load others, and the names of
//! MPI among its texts. Never: follows what it computes; a name that is put together
//! while it runs is not seen.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::elf;
use crate::read::{FileAt, Windows};

use super::known::{self, base_name, Name};
use super::loader::{Loader, Object};
use super::{library, of_elf, Depth, Family, Mpi};

/// More of the names of symbols than this is not searched.
const MOST_NAMES: u64 = 16 << 20;
/// More data than this is not searched, of a program and its libraries together.
const MOST_DATA: u64 = 64 << 20;
/// More names of libraries are not looked for.
const MOST_LIBRARIES: usize = 32;
/// The longest name that is taken.
const LONGEST_NAME: usize = 100;

/// What a program may load.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// MPIs that its texts name and the root has, in the order of the texts.
    pub mpis: Vec<Mpi>,
    /// Whether it names one that is not where the loader looks, or takes any.
    pub any: bool,
    /// Whether a language's interpreter is among its libraries.
    pub interprets: bool,
}

/// What a program that is linked with no MPI may load.
pub(super) fn by(loader: &Loader<'_>, program: Object, depth: Depth) -> Loaded {
    let mut loaded = Loaded::default();
    let mut left = MOST_DATA;
    let mut seen = HashSet::new();
    let is_worth_it = |name: &OsStr| known::by_name(name) == Name::Other;
    loader.each_object(program, is_worth_it, |object| {
        let needed = object.elf.needed.iter();
        loaded.interprets |= needed.clone().any(|name| is_interpreter(name));
        // Its library is named by a variable (MPItrampoline: `MPITRAMPOLINE_LIB`).
        let is_trampoline = |name: &OsString| name.as_bytes().starts_with(b"libmpitrampoline.so");
        loaded.any |= needed.clone().any(is_trampoline);
        if !loads(&object.file) {
            return;
        }
        for name in names(&object.file, &mut left) {
            if seen.len() >= MOST_LIBRARIES || !seen.insert(name.clone()) {
                continue;
            }
            match found(loader, &name, object, depth) {
                Some(mpi) => {
                    let is_it =
                        |known: &Mpi| (known.family, known.version) == (mpi.family, mpi.version);
                    if !loaded.mpis.iter().any(is_it) {
                        loaded.mpis.push(mpi);
                    }
                }
                None => loaded.any |= matches!(known::by_name(base(&name)), Name::Mpi(_)),
            }
        }
    });
    loaded
}

/// Libraries that make an interpreter of whoever needs them.
fn is_interpreter(name: &OsStr) -> bool {
    [
        "libpython",
        "libR.so",
        "libjulia",
        "libjvm.so",
        "liboctinterp",
    ]
    .iter()
    .any(|beginning| name.as_bytes().starts_with(beginning.as_bytes()))
}

/// Whether an object can load others while it runs: it names dlopen(3) among its symbols.
fn loads(file: &File) -> bool {
    let Ok(input) = FileAt::new(file) else {
        return false;
    };
    let Ok(Some(place)) = elf::dynamic_names(&Windows::new(&input)) else {
        return false;
    };
    let mut is_named = false;
    known::through(file, &[place], MOST_NAMES, |piece| {
        is_named = [&b"\0dlopen\0"[..], b"\0dlmopen\0"]
            .iter()
            .any(|name| known::find(piece, name).is_some());
        is_named.then_some(())
    });
    is_named
}

/// The names of libraries of MPI, and of others with MPI in their names, among the texts
/// of a file; `left` is how much may still be read.
fn names(file: &File, left: &mut u64) -> Vec<OsString> {
    let mut found = Vec::new();
    let Ok(input) = FileAt::new(file) else {
        return found;
    };
    let parts = elf::data(&input).unwrap_or_default();
    known::through(file, &parts, *left, |piece| {
        let mut at = 0;
        while let Some(place) = known::find(piece.get(at..)?, b".so") {
            let place = at + place;
            at = place + 3;
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+$%{}~@".contains(byte);
            let before = piece.get(..place)?;
            let start = before.iter().rposition(|byte| !is_part(byte));
            let start = start.map_or(0, |before| before + 1);
            // What the end of the piece cuts off is whole in the next.
            let after = piece.get(place..)?;
            let Some(end) = after.iter().position(|byte| !is_part(byte)) else {
                continue;
            };
            let name = piece.get(start..place + end)?;
            if name.len() <= LONGEST_NAME && is_of_mpi(base_name(OsStr::from_bytes(name))) {
                found.push(OsString::from_vec(name.to_vec()));
            }
        }
        (found.len() >= MOST_LIBRARIES).then_some(())
    });
    let read: u64 = parts.iter().map(|(_, length)| *length).sum();
    *left = left.saturating_sub(read);
    found
}

fn is_of_mpi(name: &OsStr) -> bool {
    let lower = name.as_bytes().to_ascii_lowercase();
    lower.windows(3).any(|word| word == b"mpi")
}

/// What the loader would be asked for: of a path that is made while the program runs, the
/// last part.
fn base(name: &OsStr) -> &OsStr {
    let is_made = name.as_bytes().iter().any(|byte| b"%{~@".contains(byte));
    let is_relative = name.as_bytes().contains(&b'/') && !name.as_bytes().starts_with(b"/");
    let has_token = name.as_bytes().starts_with(b"$");
    match is_made || (is_relative && !has_token) {
        true => base_name(name),
        false => name,
    }
}

/// The MPI that a library of this name is, or needs.
fn found(loader: &Loader<'_>, name: &OsStr, by: &Object, depth: Depth) -> Option<Mpi> {
    let name = base(name);
    let object = loader.library(name, by)?;
    if let Name::Mpi(hint) = known::by_name(base_name(name)) {
        let mpi = library(loader, name, by, hint, depth);
        if let Some(mpi) = mpi.filter(|mpi| mpi.family != Family::Unknown) {
            return Some(mpi);
        }
    }
    of_elf(loader, object, depth)
}
