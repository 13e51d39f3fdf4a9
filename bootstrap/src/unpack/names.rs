//! Names of archive members: where they lead, and what they mean in a layer.
//!
//! Owns: refusing names that lead out of an archive, and reading whiteouts. Never:
//! looks at a file.

/// What a name in a layer begins with that takes a file of a layer below away.
/// See "Whiteouts" in the image specification's layer.md.
const WHITEOUT: &[u8] = b".wh.";

/// In a directory: nothing of the layers below shows.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What other names of the union file system's own begin with.
const META: &[u8] = b".wh..wh.";

/// The parts of a member's name, or why it is refused. No parts: the top itself.
///
/// An absolute name begins at the top of the tree. `..` is refused even where it
/// would stay inside: no tool writes it, and readers differ in what it means.
///
/// # Errors
/// The reason.
pub fn parts(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if name.contains(&0) {
        return Err("its name has a NUL in it");
    }
    let parts: Vec<_> = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return Err("its name leads out of the archive by ..");
    }
    Ok(parts)
}

/// What a name means where whiteouts count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A file as any other.
    File,
    /// This entry of the same directory goes.
    Removes(&'a [u8]),
    /// All entries of the same directory go.
    RemovesAll,
    /// Nothing: the union file system's own.
    Nothing,
}

/// What the last part of a name means in a layer.
///
/// # Errors
/// It takes away something that is not an entry of the directory.
pub fn meaning(name: &[u8]) -> Result<Meaning<'_>, &'static str> {
    if name == OPAQUE {
        return Ok(Meaning::RemovesAll);
    }
    if name.starts_with(META) {
        return Ok(Meaning::Nothing);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::File),
        Some(b"" | b"." | b"..") => Err("a whiteout of no entry of the directory"),
        Some(entry) => Ok(Meaning::Removes(entry)),
    }
}
