//! The values of a request's fields, written and read.
//!
//! Owns: lists, paths, and what they stand for. Never: trusts a length.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::Malformed;
use crate::fds::Inherited;
use crate::host::Account;
use crate::request::{Access, Bind, Entry, Home, HostPath, ImagePath, Share, Standard};

pub(super) fn list(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        bytes.extend((item.len() as u32).to_le_bytes());
        bytes.extend(item);
    }
    bytes
}

pub(super) fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

pub(super) fn host_path(path: &Option<HostPath>) -> Option<Vec<u8>> {
    path.as_ref().map(|path| path_bytes(path.as_path()))
}

pub(super) fn pairs(pairs: &[(OsString, OsString)]) -> Vec<u8> {
    list(
        pairs
            .iter()
            .flat_map(|(name, value)| [name.as_bytes().to_vec(), value.as_bytes().to_vec()]),
    )
}

pub(super) fn entry_bytes(entry: &Entry) -> Vec<u8> {
    let (kind, words, program) = match entry {
        Entry::Exec(words) => (0, words, None),
        Entry::Run(words) => (1, words, None),
        Entry::Test(words) => (2, words, None),
        Entry::Shell {
            program: None,
            arguments,
        } => (3, arguments, None),
        Entry::Shell {
            program: Some(program),
            arguments,
        } => (4, arguments, Some(program)),
    };
    let words = program.into_iter().chain(words);
    list(std::iter::once(vec![kind]).chain(words.map(|word| word.as_bytes().to_vec())))
}

// --- reading ------------------------------------------------------------------

/// The item at the beginning, and what follows it.
pub(super) fn item(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let cut = Malformed("it is cut short");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length).ok_or(cut)
}

pub(super) fn items(mut bytes: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (value, rest) = item(bytes)?;
        found.push(value);
        bytes = rest;
    }
    Ok(found)
}

/// What was a C string, or a path or a part of one: it holds no NUL.
pub(super) fn words(bytes: &[u8]) -> Result<OsString, Malformed> {
    if bytes.contains(&0) {
        return Err(Malformed("it has a NUL in a string"));
    }
    Ok(OsStr::from_bytes(bytes).to_owned())
}

pub(super) fn at_most_one(bytes: &[u8]) -> Result<Option<OsString>, Malformed> {
    match items(bytes)?.as_slice() {
        [] => Ok(None),
        [one] => words(one).map(Some),
        _ => Err(Malformed("it has several of what there is one of")),
    }
}

pub(super) fn image_path(bytes: &[u8]) -> Result<ImagePath, Malformed> {
    ImagePath::new(words(bytes)?).ok_or(Malformed("a path in the image is not absolute"))
}

pub(super) fn binds(bytes: &[u8]) -> Result<Vec<Bind>, Malformed> {
    let found = items(bytes)?;
    let triples = found.chunks_exact(3);
    if !triples.remainder().is_empty() {
        return Err(Malformed("a bind of it is not whole"));
    }
    triples
        .map(|bind| {
            Ok(Bind {
                source: HostPath::new(words(bind[0])?),
                destination: image_path(bind[1])?,
                read_only: match bind[2] {
                    [0] => false,
                    [1] => true,
                    _ => return Err(Malformed("a bind of it is neither ro nor rw")),
                },
            })
        })
        .collect()
}

pub(super) fn home(bytes: &[u8]) -> Result<Home, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [[0]] => Home::Own,
        [[1]] => Home::None,
        [[2], source, destination] => Home::Instead {
            source: HostPath::new(words(source)?),
            destination: image_path(destination)?,
        },
        _ => return Err(Malformed("its home is of no known kind")),
    })
}

pub(super) fn access(bytes: &[u8]) -> Result<Access, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [[0]] => Access::ReadOnly,
        [[1]] => Access::Writable,
        [[2]] => Access::WritableTmpfs,
        [[3], path] => Access::Overlay(HostPath::new(words(path)?)),
        _ => return Err(Malformed("its access is of no known kind")),
    })
}

/// How launcher and MPI meet, and whether variables are changed for it.
pub(super) fn mpi(value: &[u8]) -> Result<(pmi_shim::Choice, bool), Malformed> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    match items(value)?.as_slice() {
        [name, [hygiene @ (0 | 1)]] => pmi_shim::Choice::named(OsStr::from_bytes(name))
            .map(|choice| (choice, *hygiene == 1))
            .ok_or(Malformed("it has a way to meet that is unknown")),
        _ => Err(Malformed("its way to meet is malformed")),
    }
}

/// Where the image is copied to, which the caller has made absolute.
pub(super) fn stage(bytes: &[u8]) -> Result<Option<crate::stage::Stage>, Malformed> {
    use std::path::Path;
    let Some(text) = at_most_one(bytes)? else {
        return Ok(None);
    };
    crate::stage::Stage::parse(&text, None, None, Path::new("/"))
        .map(Some)
        .ok_or(Malformed("its place to copy to is malformed"))
}

pub(super) fn share(bytes: &[u8]) -> Result<Share, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [[0]] => Share::Auto,
        [[1]] => Share::Off,
        [[2], name] => Share::Name(words(name)?),
        _ => return Err(Malformed("its sharing is of no known kind")),
    })
}

pub(super) fn entry(bytes: &[u8]) -> Result<Entry, Malformed> {
    let found = items(bytes)?;
    let unknown = Malformed("what it starts is of no known kind");
    let (&[kind], rest) = found
        .split_first()
        .ok_or(unknown)
        .and_then(|(kind, rest)| {
            let kind: &[u8; 1] = (*kind).try_into().map_err(|_| unknown)?;
            Ok((kind, rest))
        })?;
    let mut rest: Vec<OsString> = rest.iter().map(|b| words(b)).collect::<Result<_, _>>()?;
    Ok(match kind {
        0 if !rest.is_empty() => Entry::Exec(rest),
        1 => Entry::Run(rest),
        2 => Entry::Test(rest),
        3 => Entry::Shell {
            program: None,
            arguments: rest,
        },
        4 if !rest.is_empty() => Entry::Shell {
            program: Some(rest.remove(0)),
            arguments: rest,
        },
        _ => return Err(unknown),
    })
}

pub(super) fn without(bytes: &[u8]) -> Result<Vec<Standard>, Malformed> {
    items(bytes)?
        .into_iter()
        .map(|name| {
            let mut known = Standard::NAMES.iter();
            let known = known.find(|(known, _)| known.as_bytes() == name);
            known
                .map(|(_, standard)| *standard)
                .ok_or(Malformed("it leaves out a mount of no known name"))
        })
        .collect()
}

pub(super) fn read_pairs(bytes: &[u8]) -> Result<Vec<(OsString, OsString)>, Malformed> {
    let found = items(bytes)?;
    let pairs = found.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Malformed("a variable of it is not whole"));
    }
    pairs
        .map(|pair| Ok((words(pair[0])?, words(pair[1])?)))
        .collect()
}

pub(super) fn limits(bytes: &[u8]) -> Result<Inherited, Malformed> {
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    let numbers: Vec<u64> = chunks
        .filter_map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?)))
        .collect();
    match (numbers.as_slice(), rest) {
        (&[files, file_size, stack, umask @ 0..=0o777], []) => Ok(Inherited {
            files,
            file_size,
            stack,
            umask: umask as u32,
        }),
        _ => Err(Malformed("its limits are not four numbers")),
    }
}

/// The ids are not told: they are the calling process's.
pub(super) fn account(bytes: &[u8]) -> Result<Option<Account>, Malformed> {
    Ok(match items(bytes)?.as_slice() {
        [] => None,
        [name, gecos, home, shell] => Some(Account {
            name: words(name)?.into_vec(),
            uid: u32::MAX,
            gid: u32::MAX,
            gecos: words(gecos)?.into_vec(),
            home: words(home)?.into(),
            shell: words(shell)?.into(),
        }),
        _ => return Err(Malformed("its account is not whole")),
    })
}

pub(super) fn groups(bytes: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, Malformed> {
    let found = items(bytes)?;
    let pairs = found.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Malformed("a group of it is not whole"));
    }
    pairs
        .map(|pair| {
            let gid: &[u8; 4] = pair[0]
                .try_into()
                .map_err(|_| Malformed("a group of it has no number"))?;
            Ok((u32::from_le_bytes(*gid), words(pair[1])?.into_vec()))
        })
        .collect()
}
