//! What a library is, told by its name and its content.
//!
//! Owns: the names of MPI, PMI and fabric libraries, the texts that only an MPI
//! library holds, and reading a version out of one. Never: opens a file by name.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use crate::elf;
use crate::read::{FileAt, Windows};

use super::{Family, Version};

/// More of a program's data than this is not searched.
const MOST_DATA: u64 = 256 << 20;
/// How much of it is in memory at a time.
const PIECE: usize = 64 << 10;

/// What a name of a library says, before the file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// An MPI library, or one that needs one of the same family.
    Mpi(Hint),
    /// libpmix.
    Pmix,
    /// libpmi: PMI-1.
    Pmi1,
    /// libpmi2.
    Pmi2,
    /// libucp of UCX.
    Ucx,
    /// libfabric.
    Libfabric,
    /// A part of the C library, which needs no MPI.
    System,
    /// Any other.
    Other,
}

/// What a name of an MPI library says about its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// Open MPI, and nobody else.
    OpenMpi,
    /// One that descends from MPICH, or keeps to its binary interface.
    Mpich,
    /// Anybody's: the standard's own binary interface.
    Any,
}

/// Says what a library is by the name that programs ask for.
pub(super) fn by_name(name: &OsStr) -> Name {
    let Some((stem, version)) = split(name) else {
        return Name::Other;
    };
    let major: Option<u32> = version.split('.').next().and_then(|n| n.parse().ok());
    match stem {
        "libc" | "libm" | "libdl" | "librt" | "libpthread" | "libutil" | "libresolv"
        | "libgcc_s" | "libstdc++" | "libz" => Name::System,
        "libpmix" => Name::Pmix,
        "libpmi" => Name::Pmi1,
        "libpmi2" => Name::Pmi2,
        "libucp" => Name::Ucx,
        "libfabric" => Name::Libfabric,
        "libmpi_abi" => Name::Mpi(Hint::Any),
        "libmpich" | "libmpichf90" | "libmpichcxx" | "libmpichfort" | "libmpi_cray"
        | "libmpicxx" | "libmpifort" | "libmpigf" | "libmpi_mt" | "libmpi_dbg" | "libmpi_ilp64" => {
            Name::Mpi(Hint::Mpich)
        }
        "libmpi_ibm"
        | "libmpi_cxx"
        | "libmpi_mpifh"
        | "libmpi_usempif08"
        | "libmpi_usempi"
        | "libmpi_usempi_ignore_tkr"
        | "libmpi_usempi_ignore_tkr-gfortran"
        | "liboshmem" => Name::Mpi(Hint::OpenMpi),
        // 12 was also Open MPI 1.10's, whose content then says so.
        "libmpi" => match major {
            Some(20 | 40) => Name::Mpi(Hint::OpenMpi),
            Some(12) => Name::Mpi(Hint::Mpich),
            _ => Name::Mpi(Hint::Any),
        },
        _ if stem.starts_with("libmpi_gnu") || stem.starts_with("libmpi_intel") => {
            Name::Mpi(Hint::Mpich)
        }
        _ => Name::Other,
    }
}

/// `libmpi.so.40` into `libmpi` and `40`.
fn split(name: &OsStr) -> Option<(&str, &str)> {
    let name = name.to_str()?;
    let (stem, version) = match name.split_once(".so.") {
        Some(parts) => parts,
        None => (name.strip_suffix(".so")?, ""),
    };
    Some((without_digest(stem), version))
}

/// Wheels rename what they bring: libmpi-1a2b3c4d.so.40 stays one of MPI (auditwheel,
/// `repair.py`: eight digits of a SHA-256).
fn without_digest(stem: &str) -> &str {
    match stem.rsplit_once('-') {
        Some((name, digest))
            if digest.len() == 8 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            name
        }
        _ => stem,
    }
}

/// The family and version of the MPI library in a file; `None` if it is none.
/// `thorough`: search it for a version that no symbol tells.
pub(super) fn by_content(file: &File, thorough: bool) -> Option<(Family, Option<Version>)> {
    let input = FileAt::new(file).ok()?;
    let input = Windows::new(&input);
    let described = elf::describe(&input).ok()?;
    let symbols = elf::symbols(&input).ok()?;
    let symbol = |name: &str| symbols.as_ref().and_then(|all| all.text(name));
    let has = |name: &str| symbols.as_ref().is_some_and(|all| all.has(name));
    let version = |text: Option<String>| text.as_deref().and_then(Version::parse);
    if has("ompi_mpi_comm_world") {
        let of_layer = described
            .needed
            .iter()
            .find_map(|name| major_of_layer(name));
        let told = version(symbol("ompi_version_string")).or(of_layer);
        return Some((Family::OpenMpi, told));
    }
    if has("I_MPI_Check_image_status") {
        let told = thorough.then(|| search(file).and_then(|found| found.version));
        return Some((Family::IntelMpi, told.flatten()));
    }
    let told = version(symbol("MPII_Version_string"));
    if told.is_none() || thorough {
        if let Some(found) = search(file) {
            return Some((found.family, told.or(found.version)));
        }
    }
    // A library of calls for another language stands before the real one.
    let is_mpich = told.is_some() || has("MPIR_Process") || has("MPIR_F_MPI_BOTTOM");
    is_mpich.then_some((Family::Mpich, told))
}

/// Open MPI's portability layer tells the generation, where the version is hidden.
fn major_of_layer(name: &OsStr) -> Option<Version> {
    let major = match name.to_str()? {
        "libopen-pal.so.80" => 5,
        "libopen-pal.so.40" | "libopen-rte.so.40" => 4,
        "libopen-pal.so.20" | "libopen-rte.so.20" => 2,
        "libopen-pal.so.13" | "libopen-rte.so.12" => 1,
        _ => return None,
    };
    Some(Version {
        major,
        ..Version::default()
    })
}

/// The version in the name of a library file: libpmix counts its releases in it.
/// (openpmix, `VERSION`: `libpmix_so_version` of each release.)
pub(super) fn pmix_by_file(file: &File) -> Option<Version> {
    let input = FileAt::new(file).ok()?;
    let input = Windows::new(&input);
    let symbols = elf::symbols(&input).ok()??;
    let told = symbols.text("pmix_version_string");
    if let Some(version) = told.as_deref().and_then(Version::parse) {
        return Some(version);
    }
    let mut found = None;
    through_data(file, |piece| {
        let at = find(piece, &unmask(PMIX))?;
        let text = piece.get(at + PMIX.len()..)?;
        found = Version::parse(&leading_text(text));
        found.map(|_| ())
    });
    found
}

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Whose library it is, or has been linked into the program.
    pub family: Family,
    /// Its version, where a text tells it.
    pub version: Option<Version>,
}

// Texts that an MPI library says and nothing else does. They are kept masked: this
// program holds them too, and is not an MPI program.
const MPICH: [u8; 32] = masked(b"Attempting to use an MPI routine");
const OPEN_MPI: [u8; 18] = masked(b"Open MPI v%d.%d.%d");
const INTEL: [u8; 20] = masked(b"Intel(R) MPI Library");
const MVAPICH: [u8; 7] = masked(b"MVAPICH");
const CRAY: [u8; 10] = masked(b"CRAY MPICH");
const PMIX: [u8; 9] = masked(b"OpenPMIx ");

const fn masked<const N: usize>(text: &[u8; N]) -> [u8; N] {
    let mut hidden = [0; N];
    let mut at = 0;
    while at < N {
        hidden[at] = !text[at];
        at += 1;
    }
    hidden
}

fn unmask<const N: usize>(hidden: [u8; N]) -> [u8; N] {
    hidden.map(|byte| !byte)
}

/// Searches the data of a program or library for an MPI inside.
pub(super) fn search(file: &File) -> Option<Found> {
    let (mpich, open_mpi) = (unmask(MPICH), unmask(OPEN_MPI));
    let mut family = None;
    through_data(file, |piece| {
        family = if find(piece, &mpich).is_some() {
            Some(Family::Mpich)
        } else {
            find(piece, &open_mpi).map(|_| Family::OpenMpi)
        };
        family.map(|_| ())
    });
    match family? {
        Family::Mpich => Some(refine(file)),
        family => Some(Found {
            family,
            version: None,
        }),
    }
}

/// Which descendant of MPICH it is, and of which version.
fn refine(file: &File) -> Found {
    let (intel, mvapich, cray) = (unmask(INTEL), unmask(MVAPICH), unmask(CRAY));
    let (mut family, mut year, mut plain, mut source) = (Family::Mpich, None, None, None);
    through_data(file, |piece| {
        if find(piece, &intel).is_some() {
            family = Family::IntelMpi;
        } else if family == Family::Mpich && find(piece, &mvapich).is_some() {
            family = Family::Mvapich;
        } else if family == Family::Mpich && find(piece, &cray).is_some() {
            family = Family::CrayMpich;
        }
        for text in piece.split(|&byte| byte == 0) {
            if text.len() > 64 {
                continue;
            }
            match text.first() {
                Some(b'2') if year.is_none() => year = intel_version(text),
                Some(b'3'..=b'9') if plain.is_none() => plain = plain_version(text),
                Some(b'/') if source.is_none() => source = version_in_path(text),
                _ => {}
            }
        }
        None
    });
    Found {
        family,
        version: match family {
            Family::IntelMpi => year,
            // A build remembers the directory of its source, whose name is certain; a
            // lone number may be another library's.
            _ => source.or(plain),
        },
    }
}

fn intel_version(text: &[u8]) -> Option<Version> {
    let version = Version::parse(std::str::from_utf8(text).ok()?)?;
    (2017..2100).contains(&version.major).then_some(version)
}

fn plain_version(text: &[u8]) -> Option<Version> {
    let digits = text.iter().filter(|byte| **byte == b'.').count() >= 1;
    let allowed = text
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'.');
    (digits && allowed && text.len() <= 12)
        .then(|| Version::parse(std::str::from_utf8(text).ok()?))
        .flatten()
}

/// `/build/mpich-4.3.2/src/…`
fn version_in_path(text: &[u8]) -> Option<Version> {
    let text = std::str::from_utf8(text).ok()?;
    text.split('/')
        .find_map(|part| Version::parse(part.strip_prefix("mpich-")?))
}

fn leading_text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(64)
        .take_while(|byte| byte.is_ascii_graphic())
        .map(|&byte| char::from(byte))
        .collect()
}

/// Shows `look` the data of a program piece by piece, each overlapping the last, until
/// it has seen enough.
fn through_data(file: &File, look: impl FnMut(&[u8]) -> Option<()>) {
    let Ok(input) = FileAt::new(file) else { return };
    let parts = elf::data(&input).unwrap_or_default();
    through(file, &parts, MOST_DATA, look);
}

/// Shows `look` these parts of a file, at most `left` bytes of them.
pub(super) fn through(
    file: &File,
    parts: &[(u64, u64)],
    mut left: u64,
    mut look: impl FnMut(&[u8]) -> Option<()>,
) {
    const OVERLAP: usize = 128;
    let mut buffer = vec![0; PIECE];
    for &(offset, length) in parts {
        let (mut at, end) = (offset, offset.saturating_add(length.min(left)));
        left = left.saturating_sub(length.min(left));
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let Some(piece) = buffer.get_mut(..want) else {
                return;
            };
            let got = match file.read_at(piece, at) {
                Ok(0) | Err(_) => break,
                Ok(got) => got,
            };
            if look(piece.get(..got).unwrap_or_default()).is_some() {
                return;
            }
            let step = if got > OVERLAP && at.saturating_add(got as u64) < end {
                got - OVERLAP
            } else {
                got
            };
            at = at.saturating_add(step as u64);
        }
    }
}

/// Where `wanted` begins (Horspool's algorithm: a whole word is skipped at a time).
pub(super) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let (&last, rest) = wanted.split_last()?;
    let mut skip = [wanted.len(); 256];
    for (at, &byte) in rest.iter().enumerate() {
        if let Some(entry) = skip.get_mut(usize::from(byte)) {
            *entry = rest.len() - at;
        }
    }
    let mut at = rest.len();
    while let Some(&byte) = text.get(at) {
        if byte == last {
            let start = at - rest.len();
            if text.get(start..at) == Some(rest) {
                return Some(start);
            }
        }
        at += skip.get(usize::from(byte)).copied().unwrap_or(1).max(1);
    }
    None
}

/// The last part of a path, as far as it is text.
pub(super) fn base_name(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    let start = bytes.iter().rposition(|&byte| byte == b'/');
    OsStr::from_bytes(
        bytes
            .get(start.map_or(0, |at| at + 1)..)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_wherever_it_is() {
        for (text, wanted, at) in [
            ("abcabd", "abd", Some(3)),
            ("abd", "abd", Some(0)),
            ("aab", "ab", Some(1)),
            ("abc", "abd", None),
            ("", "a", None),
            ("ab", "abc", None),
        ] {
            assert_eq!(find(text.as_bytes(), wanted.as_bytes()), at, "{text}");
        }
    }

    #[test]
    fn names_tell_families_apart() {
        for (name, expected) in [
            ("libmpi.so.40", Name::Mpi(Hint::OpenMpi)),
            ("libmpi.so.12", Name::Mpi(Hint::Mpich)),
            ("libmpich.so.12", Name::Mpi(Hint::Mpich)),
            ("libmpi_abi.so.1", Name::Mpi(Hint::Any)),
            ("libmpi_mpifh.so.40", Name::Mpi(Hint::OpenMpi)),
            ("libpmix.so.2", Name::Pmix),
            ("libpmi2.so.0", Name::Pmi2),
            ("libmpi-1a2b3c4d.so.40.30.4", Name::Mpi(Hint::OpenMpi)),
            ("libmpi-wrapper.so.12", Name::Other),
            ("libmpiwrapper.so", Name::Other),
            ("libc.so.6", Name::System),
        ] {
            assert_eq!(by_name(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_build_directory_names_its_version() {
        let version = |text: &str| version_in_path(text.as_bytes()).map(|v| v.to_string());
        assert_eq!(
            version("/mpich-4.3.2/src/mpi_t/mpit.c"),
            Some("4.3.2".into())
        );
        assert_eq!(version("/src/mpi/init"), None);
    }
}
