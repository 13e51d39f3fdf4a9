//! Visiting every file of a tree once, and finding one by its path.
//!
//! Owns: the order (a directory before what is in it, names by their bytes) and
//! that a hostile tree comes to an end.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;

use super::{Kind, Node, Part, Tree};

/// No real tree is this deep; Linux allows paths of 4096 bytes.
const DEEPEST: usize = 2048;
/// As many links as the kernel follows on one path, path_resolution(7).
const MOST_LINKS: u32 = 40;

/// What happens at each file.
pub trait Visitor {
    /// A directory, before what is in it, or any other file. `path` is relative
    /// and empty for the top.
    ///
    /// # Errors
    /// Ends the walk.
    fn visit(&mut self, tree: &dyn Tree, path: &Path, node: &Node) -> Result<(), Error>;

    /// A directory again, after what is in it.
    ///
    /// # Errors
    /// Ends the walk.
    fn leave(&mut self, _tree: &dyn Tree, _path: &Path, _node: &Node) -> Result<(), Error> {
        Ok(())
    }
}

/// Visits the top directory and everything below it.
///
/// # Errors
/// What the tree or the visitor says.
pub fn walk(tree: &dyn Tree, visitor: &mut dyn Visitor) -> Result<(), Error> {
    let root = tree.root()?;
    let mut seen = HashSet::new();
    below(tree, visitor, Path::new(""), &root, &mut seen, 0)
}

fn below(
    tree: &dyn Tree,
    visitor: &mut dyn Visitor,
    path: &Path,
    directory: &Node,
    seen: &mut HashSet<(u64, u64)>,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEEPEST || !seen.insert(directory.identity) {
        return Err(Error::new(
            format!("read directory /{}", Shown::new(path)),
            "it is damaged: it turns up again inside itself, or under a second name",
        )
        .hint("copy or build the image again"));
    }
    visitor.visit(tree, path, directory)?;
    for (name, node) in tree.entries(directory)? {
        let path = path.join(OsStr::from_bytes(&name));
        if !is_name(&name) {
            return Err(Error::new(
                format!("read {}", Shown::new(&path)),
                "the image is damaged: no file can have this name",
            )
            .hint("copy or build the image again"));
        }
        // What e2fsck keeps in every ext file system, if there is nothing in it.
        if depth == 0 && name == b"lost+found" && node.kind == Kind::Directory {
            let own = node.uid == 0 && node.mode == 0o700;
            if own && tree.entries(&node)?.is_empty() {
                continue;
            }
        }
        if node.kind == Kind::Directory {
            below(tree, visitor, &path, &node, seen, depth + 1)?;
        } else {
            visitor.visit(tree, &path, &node)?;
        }
    }
    visitor.leave(tree, path, directory)
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// The file at a path, links followed as inside the image: `/` is the tree's top.
/// `None`: there is none.
///
/// # Errors
/// What the tree says.
pub fn find(tree: &dyn Tree, path: &Path) -> Result<Option<Node>, Error> {
    let mut links = 0;
    resolve(tree, path, &mut links)
}

fn resolve(tree: &dyn Tree, path: &Path, links: &mut u32) -> Result<Option<Node>, Error> {
    let mut stack = vec![tree.root()?];
    let mut here = PathBuf::new();
    let mut names: Vec<Vec<u8>> = parts(path.as_os_str().as_bytes());
    names.reverse();
    while let Some(name) = names.pop() {
        if name == b".." {
            if stack.len() > 1 {
                stack.pop();
                here.pop();
            }
            continue;
        }
        let Some(directory) = stack.last().filter(|node| node.kind == Kind::Directory) else {
            return Ok(None);
        };
        let Some((_, node)) = tree
            .entries(directory)?
            .into_iter()
            .find(|(other, _)| *other == name)
        else {
            return Ok(None);
        };
        if node.kind != Kind::Link {
            here.push(OsStr::from_bytes(&name));
            stack.push(node);
            continue;
        }
        *links += 1;
        if *links > MOST_LINKS {
            return Ok(None);
        }
        let target = tree.target(&node)?;
        if target.starts_with(b"/") {
            stack.truncate(1);
            here.clear();
        }
        let mut more = parts(&target);
        more.reverse();
        names.extend(more);
    }
    Ok(stack.pop())
}

fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// The beginning of a regular file, at most so many bytes of it, links followed as
/// inside the image. `None`: there is no such file.
///
/// # Errors
/// What the tree says.
pub fn read(tree: &dyn Tree, path: &Path, most: usize) -> Result<Option<Vec<u8>>, Error> {
    match find(tree, path)? {
        Some(node) if node.kind == Kind::File => beginning(tree, &node, most).map(Some),
        _ => Ok(None),
    }
}

/// The beginning of a file, at most so many bytes of it.
///
/// # Errors
/// What the tree says.
pub fn beginning(tree: &dyn Tree, file: &Node, most: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut content = tree.content(file)?;
    let mut buffer = vec![0; most.min(1 << 16)];
    while bytes.len() < most && !buffer.is_empty() {
        match content.next(&mut buffer)? {
            Part::End => break,
            Part::Hole(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                bytes.resize(bytes.len().saturating_add(length).min(most), 0);
            }
            Part::Data(count) => bytes.extend(buffer.get(..count).unwrap_or_default()),
        }
    }
    bytes.truncate(most);
    Ok(bytes)
}
