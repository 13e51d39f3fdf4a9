//! Putting files into a root: `%files`, `%files from STAGE`, `%appfiles` and
//! `InstallFile`.
//!
//! Owns: which files a pattern names, where each goes, and what becomes of links,
//! modes and owners. Never: follows a link of the root or of a stage out of it.
//!
//! What comes from the host becomes root's and loses set-id bits; what comes from a
//! stage stays as it is there, with owners and attributes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use image::Shown;
use launcher::Error;
use rustix::fs::{
    fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, openat, readlinkat, statat,
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, CWD,
};
use rustix::io::Errno;

use crate::confined::{names_in, Confined};
use crate::definition::{Copying, Definition};
use crate::failure::call;

/// Directories may be this deep.
const DEEPEST: usize = 512;

/// Where files come from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// The host; relative names begin at this directory.
    Host(&'a Path),
    /// The root of another stage.
    Stage(&'a Confined),
}

/// Puts what is listed into the root; destinations that are no absolute paths begin
/// at `base`.
///
/// # Errors
/// A pattern that nothing fits, shown in the definition; something is in the way; a
/// file that cannot be read; a full disk.
pub fn put_in(
    list: &[Copying],
    origin: &Origin<'_>,
    root: &Confined,
    base: &Path,
    definition: &Definition,
) -> Result<(), Error> {
    for copying in list {
        let pattern = &copying.source.value;
        let found = origin.expand(pattern);
        if found.is_empty() {
            let place = match origin {
                Origin::Host(directory) => format!("of the host, from {}", Shown::new(*directory)),
                Origin::Stage(_) => "of that stage".to_owned(),
            };
            return Err(definition.complain(
                copying.source.at,
                format!("no file {place}, is called {}", unescaped(pattern)),
                origin.hint(pattern, definition),
            ));
        }
        let several = found.len() > 1;
        for source in found {
            let destination = match &copying.destination {
                Some(destination) => into(&source, base, &destination.value, root, several),
                None => own_place(&source, base),
            };
            let destination = destination.ok_or_else(|| {
                definition.complain(
                    copying.source.at,
                    "nothing says where to put it",
                    "add the destination, a path in the image, behind it",
                )
            })?;
            let opened = origin.open(&source).map_err(|errno| {
                let step = format!("open {}", Shown::new(&source));
                call(step, errno)
            })?;
            let copy = Copy {
                from_host: matches!(origin, Origin::Host(_)),
                root,
            };
            let depth = source.components().count();
            copy.object(opened, &source, &destination, depth, &mut Vec::new())?;
        }
    }
    Ok(())
}

/// Where a file goes that has no destination: where it is.
fn own_place(source: &Path, base: &Path) -> Option<PathBuf> {
    let has_parents = source
        .components()
        .any(|part| matches!(part, Component::ParentDir));
    (!has_parents).then(|| base.join(source))
}

/// Where a file goes whose destination is given: into a directory, or to that name.
fn into(
    source: &Path,
    base: &Path,
    destination: &str,
    root: &Confined,
    several: bool,
) -> Option<PathBuf> {
    let place = base.join(destination);
    // `directory/.` is what is in it.
    if source.as_os_str().as_bytes().ends_with(b"/.") {
        return Some(place);
    }
    if several || destination.ends_with('/') || root.is_directory(&place) {
        return Some(place.join(source.file_name()?));
    }
    Some(place)
}

impl Origin<'_> {
    fn on_host(directory: &Path, path: &Path) -> PathBuf {
        directory.join(path)
    }

    /// The paths that fit a pattern, sorted.
    fn expand(&self, pattern: &str) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from(if pattern.starts_with('/') {
            "/"
        } else {
            ""
        })];
        let parts: Vec<_> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            if let Some(name) = literal(part) {
                for path in &mut found {
                    // A dot at the end means something, elsewhere nothing.
                    if name != "." || last {
                        let mut text = path.as_os_str().to_owned();
                        if !text.is_empty() && !text.as_bytes().ends_with(b"/") {
                            text.push("/");
                        }
                        text.push(&name);
                        *path = text.into();
                    }
                }
                continue;
            }
            let Ok(matcher) = glob::Pattern::new(part) else {
                return Vec::new();
            };
            let options = glob::MatchOptions {
                require_literal_leading_dot: true,
                ..glob::MatchOptions::default()
            };
            found = found
                .iter()
                .flat_map(|path| {
                    let names = self.names(path);
                    names.into_iter().filter_map(|name| {
                        // A pattern is text; a name that is not fits none but `*`.
                        let text = name.to_string_lossy().into_owned();
                        let fits = matcher.matches_with(&text, options);
                        fits.then(|| path.join(&name))
                    })
                })
                .collect();
        }
        found.retain(|path| self.is_there(path));
        found
    }

    fn names(&self, path: &Path) -> Vec<OsString> {
        match self {
            Origin::Host(directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let path = Self::on_host(directory, path);
                let opened = openat(CWD, &path, flags, Mode::empty());
                opened.map(names_in).unwrap_or_default()
            }
            Origin::Stage(root) => root.names(path),
        }
    }

    fn is_there(&self, path: &Path) -> bool {
        match self {
            Origin::Host(directory) => Self::on_host(directory, path).symlink_metadata().is_ok(),
            Origin::Stage(root) => root.stat(path).or_else(|| root.stat_link(path)).is_some(),
        }
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match self {
            Origin::Host(directory) => {
                openat(CWD, Self::on_host(directory, path), flags, Mode::empty())
            }
            Origin::Stage(root) => root.open(path, flags),
        }
    }

    fn hint(&self, pattern: &str, definition: &Definition) -> String {
        let beside = definition
            .name()
            .parent()
            .is_some_and(|directory| directory.join(unescaped(pattern)).exists());
        match self {
            Origin::Host(_) if beside => {
                "it is beside the definition: build from that directory, where relative names begin"
                    .to_owned()
            }
            Origin::Host(_) => {
                "relative names begin at the current directory; quotes keep spaces together"
                    .to_owned()
            }
            Origin::Stage(_) => "check what the stage has installed, and where".to_owned(),
        }
    }
}

/// The name that a part of a pattern stands for, if it stands for one only.
fn literal(part: &str) -> Option<String> {
    let mut name = String::new();
    for piece in pieces(part) {
        match piece {
            Piece::Itself(character) => name.push(character),
            Piece::Bare('*' | '?' | '[') => return None,
            Piece::Bare(character) => name.push(character),
        }
    }
    Some(name)
}

/// A pattern as it may have been written.
fn unescaped(pattern: &str) -> String {
    pieces(pattern)
        .map(|piece| match piece {
            Piece::Itself(character) | Piece::Bare(character) => character,
        })
        .collect()
}

/// A character of a pattern.
enum Piece {
    /// It was quoted, and stands for itself.
    Itself(char),
    /// It was not.
    Bare(char),
}

fn pieces(pattern: &str) -> impl Iterator<Item = Piece> + '_ {
    let mut rest = pattern;
    std::iter::from_fn(move || {
        let escape = ["[*]", "[?]", "[[]", "[]]"]
            .iter()
            .find_map(|escape| Some((rest.strip_prefix(escape)?, escape.chars().nth(1)?)));
        if let Some((after, character)) = escape {
            rest = after;
            return Some(Piece::Itself(character));
        }
        let character = rest.chars().next()?;
        rest = &rest[character.len_utf8()..];
        Some(Piece::Bare(character))
    })
}

struct Copy<'a> {
    from_host: bool,
    root: &'a Confined,
}

impl Copy<'_> {
    /// Copies a file, or a directory with all that is in it. `top` is the depth of
    /// what the definition names; `above` are the directories that it is in.
    fn object(
        &self,
        opened: OwnedFd,
        source: &Path,
        destination: &Path,
        top: usize,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), Error> {
        let failed = |errno| call(format!("copy {}", Shown::new(source)), errno);
        let stat = fstat(&opened).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(opened, &stat, source, destination),
            FileType::Directory => {
                let identity = (stat.st_dev, stat.st_ino);
                if above.contains(&identity) || above.len() > DEEPEST {
                    return Err(Error::new(
                        format!("copy {}", Shown::new(source)),
                        "a link in it leads back to where it is",
                    )
                    .hint("name the directories one by one, without the link"));
                }
                above.push(identity);
                let copied = self.directory(opened, &stat, source, destination, top, above);
                above.pop();
                copied
            }
            _ => Err(Error::new(
                format!("copy {}", Shown::new(source)),
                "it is neither a file nor a directory",
            )
            .hint("leave it out; a script can make such things in the image")),
        }
    }

    fn file(
        &self,
        opened: OwnedFd,
        stat: &Stat,
        source: &Path,
        destination: &Path,
    ) -> Result<(), Error> {
        let made = self.root.create(destination, 0o600)?;
        let (mut from, mut to) = (File::from(opened), File::from(made));
        std::io::copy(&mut from, &mut to).map_err(|error| {
            Error::io(
                format!(
                    "copy {} to {} in the image",
                    Shown::new(source),
                    Shown::new(destination)
                ),
                &error,
            )
        })?;
        self.attributes(&from.into(), stat, &to.into())
            .map_err(|errno| call(format!("copy {}", Shown::new(source)), errno))
    }

    /// Owner, mode, attributes and time, in the order in which one does not undo
    /// another.
    fn attributes(&self, from: &OwnedFd, stat: &Stat, to: &OwnedFd) -> Result<(), Errno> {
        let mut mode = stat.st_mode & 0o7777;
        if self.from_host {
            mode &= 0o1777;
        } else {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            fchown(to, Some(uid), Some(gid))?;
        }
        fchmod(to, Mode::from_raw_mode(mode))?;
        if !self.from_host {
            copy_attributes(from, to)?;
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: stat.st_mtime,
                #[allow(clippy::unnecessary_cast)]
                tv_nsec: stat.st_mtime_nsec as _,
            },
            last_modification: Timespec {
                tv_sec: stat.st_mtime,
                #[allow(clippy::unnecessary_cast)]
                tv_nsec: stat.st_mtime_nsec as _,
            },
        };
        futimens(to, &times)
    }

    fn directory(
        &self,
        opened: OwnedFd,
        stat: &Stat,
        source: &Path,
        destination: &Path,
        top: usize,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), Error> {
        let failed = |errno| call(format!("copy {}", Shown::new(source)), errno);
        let is_new = self.root.stat(destination).is_none();
        self.root.make_directories(destination)?;
        let names = names_in(rustix::io::dup(&opened).map_err(failed)?);
        for name in names {
            let (from, to) = (source.join(&name), destination.join(&name));
            let failed = |errno| call(format!("copy {}", Shown::new(&from)), errno);
            let inner = statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            if FileType::from_raw_mode(inner.st_mode).is_symlink() {
                let target = readlinkat(&opened, &name, Vec::new()).map_err(failed)?;
                let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                let kept = !self.from_host || stays_below(&from, &target, top);
                let there = || {
                    openat(
                        &opened,
                        &name,
                        OFlags::PATH | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                };
                if kept || there().is_err() {
                    self.root.link(&to, &target)?;
                    continue;
                }
            } else {
                flags |= OFlags::NOFOLLOW;
            }
            let inner = openat(&opened, &name, flags, Mode::empty()).map_err(failed)?;
            self.object(inner, &from, &to, top, above)?;
        }
        // What was there before keeps its mode and owner.
        if is_new {
            let made = self
                .root
                .open(destination, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(failed)?;
            self.attributes(&opened, stat, &made).map_err(failed)?;
        }
        Ok(())
    }
}

/// Whether a link at a path leads to something below what is copied with it, whose
/// path has so many parts.
fn stays_below(link: &Path, target: &Path, top: usize) -> bool {
    if target.is_absolute() {
        return false;
    }
    // The directory that the link is in is so many steps below what is copied.
    let Some(mut depth) = link.components().count().checked_sub(top + 1) else {
        return false;
    };
    for part in target.components() {
        match part {
            Component::ParentDir if depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    true
}

/// Extended attributes, such as the capabilities of a program.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0_u8; 65536];
    let length = match flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0_u8; 65536];
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Labels of the host's security module, and what this user may not set.
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {
                tracing::debug!(
                    "attribute {} of descriptor {} is left out",
                    Shown::bytes(name),
                    from.as_raw_fd()
                );
            }
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{symlink, PermissionsExt};

    use super::*;
    use crate::definition::Arguments;

    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            std::fs::create_dir_all(path.join("root/opt")).unwrap();
            std::fs::create_dir_all(path.join("host/dir/sub")).unwrap();
            for name in [
                "a.c",
                "b.c",
                "with space",
                "star*",
                ".hidden",
                "dir/f",
                "dir/sub/g",
            ] {
                std::fs::write(path.join("host").join(name), name).unwrap();
            }
            symlink("sub/g", path.join("host/dir/inner")).unwrap();
            symlink("../a.c", path.join("host/dir/outer")).unwrap();
            symlink("nowhere", path.join("host/dir/dangling")).unwrap();
            symlink("a.c", path.join("host/link")).unwrap();
            symlink("/etc", path.join("root/escape")).unwrap();
            Self { directory }
        }

        fn put(&self, lines: &str) -> Result<(), Error> {
            let text = format!("Bootstrap: scratch\n%files\n{lines}\n");
            let name = self.directory.path().join("a.def");
            let definition =
                Definition::parse(&name, text.as_bytes(), &Arguments::default()).unwrap();
            let crate::definition::Step::Files(files) = &definition.last().steps[0] else {
                panic!("no files");
            };
            let root = Confined::new(&self.directory.path().join("root")).unwrap();
            let host = self.directory.path().join("host");
            let origin = Origin::Host(&host);
            put_in(&files.list, &origin, &root, Path::new("/"), &definition)
        }

        fn found(&self, name: &str) -> String {
            let path = self.directory.path().join("root").join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
        }
    }

    #[test]
    fn files_go_where_cp_would_put_them() {
        for (line, expected) in [
            ("a.c /opt", &["opt/a.c"][..]),
            ("a.c /opt/", &["opt/a.c"]),
            ("a.c /new/", &["new/a.c"]),
            ("a.c /new", &["new"]),
            ("a.c", &["a.c"]),
            ("./a.c", &["a.c"]),
            ("*.c /new", &["new/a.c", "new/b.c"]),
            ("[ab].c /opt", &["opt/a.c", "opt/b.c"]),
            ("'with space' /opt", &["opt/with space"]),
            ("'star*' /opt", &["opt/star*"]),
            ("star\\* /x", &["x"]),
            ("dir /opt", &["opt/dir/f", "opt/dir/sub/g"]),
            ("dir/ /new", &["new/f", "new/sub/g"]),
            ("dir/. /opt", &["opt/f", "opt/sub/g"]),
            ("dir/*/g /opt", &["opt/g"]),
            ("link /opt/x", &["opt/x"]),
            ("a.c opt", &["opt/a.c"]),
            ("a.c ../../opt/x", &["opt/x"]),
            ("a.c /escape/x", &["etc/x"]),
        ] {
            let place = Place::new();
            place.put(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            for name in expected {
                place.found(name);
            }
            assert!(!Path::new("/etc/x").exists());
        }
    }

    #[test]
    fn links_that_stay_inside_are_kept_and_others_followed() {
        let place = Place::new();
        place.put("dir /opt").unwrap();
        let copied = place.directory.path().join("root/opt/dir");
        assert_eq!(
            copied.join("inner").read_link().unwrap(),
            Path::new("sub/g")
        );
        assert!(copied.join("outer").symlink_metadata().unwrap().is_file());
        assert_eq!(place.found("opt/dir/outer"), "a.c");
        assert_eq!(
            copied.join("dangling").read_link().unwrap(),
            Path::new("nowhere")
        );
    }

    #[test]
    fn set_id_bits_of_the_host_are_dropped_and_modes_kept() {
        let place = Place::new();
        let host = place.directory.path().join("host/a.c");
        std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o4751)).unwrap();
        place.put("a.c /opt").unwrap();
        let copied = place.directory.path().join("root/opt/a.c");
        let mode = copied.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o751);
    }

    #[test]
    fn a_file_that_is_not_there_is_shown_in_the_definition() {
        let place = Place::new();
        let error = place.put("  nothing.c /opt").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("a.def:3:3: no file of the host, from"),
            "{text}"
        );
        assert!(text.ends_with("nothing.c /opt\n      |   ^"), "{text}");
        let error = place.put("a.c /opt\ndir /opt/a.c").unwrap_err();
        assert_eq!(
            error.to_string(),
            "make directory /opt/a.c in the image: something on the way to it is no directory"
        );
        std::fs::create_dir_all(place.directory.path().join("root/opt/b.c")).unwrap();
        // As cp(1): a file does not replace a directory.
        let error = place.put("*.c /opt").unwrap_err();
        assert_eq!(
            error.to_string(),
            "write /opt/b.c in the image: is a directory"
        );
    }
}
