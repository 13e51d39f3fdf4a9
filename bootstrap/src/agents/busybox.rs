//! A system of one program: busybox, and links to it.
//!
//! Owns: fetching it, and the few files around it.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;

use super::{address, first_of, local, Site};
use crate::definition::Header;
use crate::tool::{self, Tool};

/// Directories of an image, and their modes.
const DIRECTORIES: [(&str, u32); 17] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("sbin", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/local/bin", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Files of an image.
const FILES: [(&str, &str); 4] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    (
        "etc/os-release",
        "NAME=BusyBox\nID=busybox\nPRETTY_NAME=BusyBox\n",
    ),
    ("etc/shells", "/bin/sh\n/bin/ash\n"),
];

/// Makes the system.
///
/// # Errors
/// It cannot be fetched, or is none that runs by itself.
pub fn install(header: &Header, site: &Site<'_>) -> Result<(), Error> {
    if let Some(package) = header.include.first() {
        return Err(Error::new(
            format!("install {}", package.value),
            "a busybox has no packages",
        )
        .hint("leave Include out, or take another Bootstrap"));
    }
    lay_out(site.root).map_err(|error| {
        Error::io(
            format!("make directories in {}", Shown::new(site.root)),
            &error,
        )
    })?;
    let busybox = site.root.join("bin/busybox");
    match header.mirrors.first() {
        Some(mirror) => fetch(&address(&mirror.url.value, header)?, &busybox, site)?,
        None => {
            let here = tool::find("busybox").ok_or_else(|| tool::missing("busybox", None))?;
            copy(&here, &busybox)?;
        }
    }
    make_executable(&busybox)?;
    link(site)
}

fn lay_out(root: &Path) -> std::io::Result<()> {
    for (directory, mode) in DIRECTORIES {
        let path = root.join(directory);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for parent in ["usr", "usr/local", "var"] {
        fs::set_permissions(root.join(parent), fs::Permissions::from_mode(0o755))?;
    }
    for (file, text) in FILES {
        let path = root.join(file);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|error| Error::io(format!("copy busybox from {}", Shown::new(from)), &error))
}

fn make_executable(busybox: &Path) -> Result<(), Error> {
    fs::set_permissions(busybox, fs::Permissions::from_mode(0o755))
        .map_err(|error| Error::io(format!("make {} executable", Shown::new(busybox)), &error))
}

/// From an address, or from a path of the host's.
fn fetch(source: &str, to: &Path, site: &Site<'_>) -> Result<(), Error> {
    let path = local(source)
        .map(PathBuf::from)
        .or_else(|| (!source.contains("://")).then(|| PathBuf::from(source)));
    if let Some(path) = path {
        return copy(&path, to);
    }
    let step = format!("write {}", Shown::new(to));
    let file = File::create(to).map_err(|error| Error::io(step, &error))?;
    let tool = match first_of(&["curl", "wget"])? {
        "curl" => Tool::new("curl").args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--retry",
            "2",
            "--",
        ]),
        tool => Tool::new(tool).args(["--quiet", "--tries=2", "--output-document=-", "--"]),
    };
    tool.arg(source)
        .doing(format!("fetch {source}"))
        .run_into(site.log, file)
}

/// Makes the links: the program says which it answers to, and where they belong.
fn link(site: &Site<'_>) -> Result<(), Error> {
    let list = site
        .root()?
        .command("/bin/busybox")
        .arg("--list-full")
        .doing("ask busybox what it can do")
        .output(site.log)
        .map_err(|error| {
            error.hint("the file has to be a busybox for this machine that needs no libraries, such as that of Debian's package busybox-static")
        })?;
    for name in String::from_utf8_lossy(&list).lines() {
        let path = Path::new(name.trim_start_matches('/'));
        let is_plain = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_plain || name.is_empty() || name.ends_with("/busybox") {
            continue;
        }
        let place = site.root.join(path);
        let made = place
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| std::os::unix::fs::symlink("/bin/busybox", &place));
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("link {}", Shown::new(&place)), &error));
            }
            _ => {}
        }
    }
    Ok(())
}
