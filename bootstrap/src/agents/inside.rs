//! Packages by the package manager that is in the root.
//!
//! Owns: which that is, and its command lines.

use std::fs;
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::{local, Site};
use crate::definition::Header;
use crate::place;
use crate::space::RootCommand;

/// Package managers, and the commands that bring their lists up to date, install,
/// and install what is newer.
const MANAGERS: [(&str, Manager); 6] = [
    (
        "usr/bin/apt-get",
        Manager {
            refresh: Some(&["apt-get", "update", "--error-on=any"]),
            install: &[
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                "--",
            ],
            upgrade: &["apt-get", "dist-upgrade", "--yes"],
        },
    ),
    (
        "usr/bin/dnf",
        Manager {
            refresh: None,
            install: &["dnf", "--assumeyes", "install", "--"],
            upgrade: &["dnf", "--assumeyes", "upgrade"],
        },
    ),
    (
        "usr/bin/microdnf",
        Manager {
            refresh: None,
            install: &["microdnf", "--assumeyes", "install"],
            upgrade: &["microdnf", "--assumeyes", "upgrade"],
        },
    ),
    (
        "usr/bin/yum",
        Manager {
            refresh: None,
            install: &["yum", "--assumeyes", "install", "--"],
            upgrade: &["yum", "--assumeyes", "update"],
        },
    ),
    (
        "usr/bin/zypper",
        Manager {
            refresh: None,
            install: &["zypper", "--non-interactive", "install", "--"],
            upgrade: &["zypper", "--non-interactive", "update"],
        },
    ),
    (
        "sbin/apk",
        Manager {
            refresh: None,
            install: &["apk", "add", "--no-cache"],
            upgrade: &["apk", "upgrade", "--no-cache"],
        },
    ),
];

#[derive(Clone, Copy)]
struct Manager {
    refresh: Option<&'static [&'static str]>,
    install: &'static [&'static str],
    upgrade: &'static [&'static str],
}

/// Installs packages.
///
/// # Errors
/// No package manager that is known is there, or it failed.
pub fn install(header: &Header, packages: &[&str], site: &Site<'_>) -> Result<(), Error> {
    let manager = find(site.root).ok_or_else(|| {
        Error::new(
            format!("install {}", packages.join(" ")),
            "no package manager is in the root",
        )
        .hint("apt-get, dnf, microdnf, yum, zypper and apk are known; %files can put programs in")
    })?;
    if let Some(refresh) = manager.refresh {
        command(refresh, header, site)?
            .doing("fetch the lists of packages")
            .run(site.log)?;
    }
    command(manager.install, header, site)?
        .args(packages)
        .doing(format!("install {}", packages.join(" ")))
        .run(site.log)
}

/// Installs what is newer than what is there.
///
/// # Errors
/// As [`install`].
pub fn upgrade(header: &Header, site: &Site<'_>) -> Result<(), Error> {
    let Some(manager) = find(site.root) else {
        return Ok(());
    };
    if let Some(refresh) = manager.refresh {
        command(refresh, header, site)?
            .doing("fetch the lists of packages")
            .run(site.log)?;
    }
    command(manager.upgrade, header, site)?
        .doing("install updates")
        .run(site.log)
}

fn find(root: &Path) -> Option<Manager> {
    let opened = open_root(root).ok()?;
    MANAGERS
        .iter()
        .find(|(path, _)| place::within(&opened, Path::new(path), OFlag::O_PATH).is_ok())
        .map(|(_, manager)| *manager)
}

fn command<'a>(words: &[&str], header: &Header, site: &Site<'a>) -> Result<RootCommand<'a>, Error> {
    let mut command = site.root()?.command(words[0]).args(&words[1..]);
    // An archive on the host's disk is in the lists by its path.
    for mirror in &header.mirrors {
        let url = super::address(&mirror.url.value, header)?;
        if let Some(path) = url.split(' ').find_map(local).filter(|path| path.is_dir()) {
            command = command.bind(path, path);
        }
    }
    Ok(command)
}

fn open_root(root: &Path) -> Result<std::os::fd::OwnedFd, nix::errno::Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(root, flags, Mode::empty())
}

/// Writes a file of a root anew, in a directory that is there; links on the way to
/// it stay in the root, and none is followed at its end.
///
/// # Errors
/// As open(2) and write(2).
pub fn write(root: &Path, file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let step = || format!("write {} in {}", Shown::new(file), Shown::new(root));
    let parent = file.parent().unwrap_or(Path::new(""));
    let place: PathBuf = open_root(root)
        .and_then(|root| place::within(&root, parent, OFlag::O_PATH | OFlag::O_DIRECTORY))
        .map(|directory| {
            let path = place::named(&directory).join(file.file_name().unwrap_or_default());
            // Whatever is there is replaced. The descriptor has to outlive the path.
            let _ = fs::remove_file(&path);
            fs::write(&path, bytes).map(|()| path)
        })
        .map_err(|errno| Error::call(step(), errno))?
        .map_err(|error| Error::io(step(), &error))?;
    tracing::debug!("wrote {}", place.display());
    Ok(())
}
