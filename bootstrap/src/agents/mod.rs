//! The distributions' own tools, which make a base system and add packages to it.
//!
//! Owns: what they are called with, and whether what they need is there. Never:
//! decides what is installed, or touches anything outside of the root and of the
//! directory for temporary files.

mod busybox;
mod debian;
mod inside;
mod rpm;

use std::ffi::OsStr;
use std::path::Path;

use image::Shown;
use launcher::Error;
use nix::fcntl::OFlag;

use crate::definition::{Agent, Header};
use crate::log::Log;
use crate::place;
use crate::space::{Root, Space};
use crate::workdir;

/// Where an agent works.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Where the builder is root.
    pub space: &'a Space,
    /// The root of the image: a directory that is there.
    pub root: &'a Path,
    /// A directory for temporary files, in the same work directory; not in the root.
    pub scratch: &'a Path,
    /// Where what the tools print goes.
    pub log: &'a Log,
}

impl<'a> Site<'a> {
    fn root(&self) -> Result<Root<'a>, Error> {
        Root::new(self.space, self.root)
    }
}

/// Whether [`install`] makes base systems of this kind; the others are images, which
/// are fetched and unpacked.
pub fn makes(agent: Agent) -> bool {
    use Agent::{Busybox, Debootstrap, Dnf, Mmdebstrap, Scratch, Yum};
    matches!(
        agent,
        Debootstrap | Mmdebstrap | Yum | Dnf | Busybox | Scratch
    )
}

/// Makes the base system that a definition's header asks for, with the packages of
/// its `Include`.
///
/// # Errors
/// The tool is missing, something that it needs is not said, or it failed.
pub fn install(header: &Header, site: &Site<'_>) -> Result<(), Error> {
    let Some(agent) = header.agent.as_ref().map(|agent| agent.value) else {
        return add(header, words(&header.include), site);
    };
    let installed = match agent {
        Agent::Debootstrap | Agent::Mmdebstrap => {
            is_empty(site.root).and_then(|()| debian::install(agent, header, site))
        }
        Agent::Yum | Agent::Dnf => rpm::install(header, words(&header.include), site),
        Agent::Busybox => is_empty(site.root).and_then(|()| busybox::install(header, site)),
        Agent::Scratch => match header.include.first() {
            None => Ok(()),
            Some(package) => Err(Error::new(
                format!("install {}", package.value),
                "nothing is there that could install a package",
            )
            .hint("Include needs a base system: another Bootstrap than scratch")),
        },
        Agent::LocalImage
        | Agent::Docker
        | Agent::Oci
        | Agent::OciArchive
        | Agent::DockerArchive => return add(header, words(&header.include), site),
    };
    installed.map_err(advised)
}

/// That nothing is in a root yet: what makes a base system follows the links of what
/// is there, and those may lead to the host's files.
fn is_empty(root: &Path) -> Result<(), Error> {
    let step = || format!("install a base system in {}", Shown::new(root));
    for entry in std::fs::read_dir(root).map_err(|error| Error::io(step(), &error))? {
        let entry = entry.map_err(|error| Error::io(step(), &error))?;
        let name = entry.file_name();
        // A new file system has it.
        if name != "lost+found" {
            let cause = format!("it is not empty: {} is there", Shown::new(&name));
            return Err(Error::new(step(), cause)
                .hint("take a new image (singularity create), or leave the base system out"));
        }
    }
    Ok(())
}

/// What a tool's words mean for whoever wrote the definition.
const ADVICE: [(&[&str], &str); 6] = [
    (
        &[
            "resolve",
            "onnection refused",
            "ould not connect",
            "ouldn't connect",
            "ailed to connect",
            "getting release file",
            "download repomd",
            "url error",
            "timed out",
        ],
        "check MirrorURL, and that this machine reaches it (http_proxy names a proxy)",
    ),
    (
        &["have a Release file", "No such script"],
        "check OSVersion: MirrorURL has no release of that name",
    ),
    (
        &[
            "locate package",
            "installation candidate",
            "No match for argument",
            "Couldn't find these debs",
        ],
        "check the names of the packages, and which Components they are in",
    ),
    (
        &["did not find any indices", "no valid components"],
        "check Components: MirrorURL has none of that name",
    ),
    (
        &["NO_PUBKEY", "not signed", "GPG", "public key"],
        "Keyring names the file with the keys that the packages are signed with",
    ),
    (
        &["o space left", "quota exceeded"],
        "--tmpdir, SINGULARITY_TMPDIR or TMPDIR names a place on a disk with more space",
    ),
];

/// The error with advice, before what its hint says already.
fn advised(error: Error) -> Error {
    let text = error.to_string();
    let advice = ADVICE
        .iter()
        .find(|(words, _)| words.iter().any(|words| text.contains(words)));
    match (advice, error.remedy()) {
        (Some((_, advice)), Some(hint)) => {
            let hint = format!("{advice}; {hint}");
            error.hint(hint)
        }
        (Some((_, advice)), None) => error.hint(*advice),
        (None, _) => error,
    }
}

/// Adds packages to a root, by the package manager that made it, or, where it came
/// from elsewhere, by that in it.
///
/// # Errors
/// As [`install`]; or there is no package manager.
pub fn add(header: &Header, packages: Vec<&str>, site: &Site<'_>) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    let added = match header.agent.as_ref().map(|agent| agent.value) {
        Some(Agent::Yum | Agent::Dnf) => rpm::install(header, packages, site),
        _ => inside::install(header, &packages, site),
    };
    added.map_err(advised)
}

/// Removes what package managers have downloaded into a root, and what they have
/// logged, which is another at each build.
///
/// # Errors
/// What cannot be removed.
pub fn clean(root: &Path) -> Result<(), Error> {
    for (directory, which) in [
        ("var/cache/apt", Which::All),
        ("var/lib/apt/lists", Which::All),
        ("var/cache/dnf", Which::All),
        ("var/cache/libdnf5", Which::All),
        ("var/cache/yum", Which::All),
        ("var/cache/apk", Which::All),
        ("var/cache/zypp", Which::All),
        ("var/cache/ldconfig", Which::All),
        ("var/log/apt", Which::All),
        (
            "var/log",
            Which::LogsOf(&["dnf", "hawkey", "yum", "dpkg", "alternatives", "bootstrap"]),
        ),
    ] {
        empty(root, Path::new(directory), which)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Which {
    All,
    LogsOf(&'static [&'static str]),
}

impl Which {
    fn has(self, name: &OsStr) -> bool {
        let Which::LogsOf(tools) = self else {
            return true;
        };
        let Some(name) = name.to_str() else {
            return false;
        };
        tools
            .iter()
            .any(|tool| name.starts_with(tool) && name.ends_with(".log"))
    }
}

/// Removes what is in a directory of a root, if it is there. Links on the way to it
/// stay in the root.
fn empty(root: &Path, directory: &Path, which: Which) -> Result<(), Error> {
    let step = || format!("empty {} in {}", Shown::new(directory), Shown::new(root));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(root, flags, nix::sys::stat::Mode::empty())
        .map_err(|errno| Error::call(step(), errno))?;
    // That it is not there, or is something else, is nothing to remove.
    let Ok(opened) = place::within(&opened, directory, flags) else {
        return Ok(());
    };
    let here = place::named(&opened);
    let entries = std::fs::read_dir(&here).map_err(|error| Error::io(step(), &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Error::io(step(), &error))?;
        if which.has(&entry.file_name()) {
            workdir::remove(&here.join(entry.file_name()))
                .map_err(|error| Error::io(step(), &error))?;
        }
    }
    Ok(())
}

/// Removes a file of a root, if it is there. Links on the way to it stay in the root.
fn remove(root: &Path, file: &Path) -> Result<(), Error> {
    let parent = file.parent().unwrap_or(Path::new(""));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(opened) = nix::fcntl::open(root, flags, nix::sys::stat::Mode::empty())
        .and_then(|root| place::within(&root, parent, flags))
    else {
        return Ok(());
    };
    let path = place::named(&opened).join(file.file_name().unwrap_or_default());
    workdir::remove(&path).map_err(|error| {
        let step = format!("remove {} in {}", Shown::new(file), Shown::new(root));
        Error::io(step, &error)
    })
}

/// What a header's list holds.
fn words(list: &[crate::definition::Located<String>]) -> Vec<&str> {
    list.iter().map(|word| word.value.as_str()).collect()
}

/// A mirror's address with the release put in: `%{OSVERSION}` stands for it, as it
/// does in the definitions of old.
fn address(url: &str, header: &Header) -> Result<String, Error> {
    let version = header
        .version
        .as_ref()
        .map(|version| version.value.as_str());
    if version.is_none() && url.contains("%{OSVERSION}") {
        return Err(Error::new(
            format!("read the address {url}"),
            "no OSVersion is there to put into it",
        )
        .hint("add OSVersion to the definition"));
    }
    Ok(url.replace("%{OSVERSION}", version.unwrap_or_default()))
}

/// The directory that a `file:` address names.
fn local(url: &str) -> Option<&Path> {
    let path = url
        .strip_prefix("file:")
        .or_else(|| url.strip_prefix("copy:"))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    path.starts_with('/').then(|| Path::new(path))
}

/// The first of these tools that is installed.
fn first_of<'a>(names: &[&'a str]) -> Result<&'a str, Error> {
    names
        .iter()
        .copied()
        .find(|name| crate::tool::find(name).is_some())
        .ok_or_else(|| crate::tool::missing(names[0], None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_host_are_told_from_others() {
        assert_eq!(local("file:///srv/repo"), Some(Path::new("/srv/repo")));
        assert_eq!(local("file:/srv/repo"), Some(Path::new("/srv/repo")));
        assert_eq!(local("copy:/srv/repo"), Some(Path::new("/srv/repo")));
        assert_eq!(local("file://host"), None);
        assert_eq!(local("http://host/repo"), None);
    }

    #[test]
    fn a_base_system_is_installed_where_nothing_is() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("lost+found")).expect("made");
        is_empty(root.path()).expect("as a new file system is");
        std::os::unix::fs::symlink("/etc", root.path().join("etc")).expect("linked");
        let refused = is_empty(root.path()).expect_err("a link is there");
        assert!(refused
            .to_string()
            .ends_with("it is not empty: etc is there"));
    }

    #[test]
    fn cleaning_stays_in_the_root() {
        let outside = tempfile::tempdir().expect("a directory");
        let root = outside.path().join("root");
        let here = outside.path().join("apt");
        for directory in [&root.join("var/lib/apt/lists/partial"), &here] {
            std::fs::create_dir_all(directory).expect("made");
        }
        std::fs::create_dir_all(root.join("var/log")).expect("made");
        std::fs::create_dir_all(root.join("var/cache")).expect("made");
        for file in ["dnf.rpm.log", "dnf.txt", "messages"] {
            std::fs::write(root.join("var/log").join(file), "x").expect("written");
        }
        std::fs::write(root.join("var/lib/apt/lists/x_Packages"), "x").expect("written");
        std::fs::write(here.join("kept"), "x").expect("written");
        std::os::unix::fs::symlink(&here, root.join("var/cache/apt")).expect("linked");
        clean(&root).expect("cleaned");
        assert!(here.join("kept").exists());
        assert!(!root.join("var/log/dnf.rpm.log").exists());
        assert!(root.join("var/log/dnf.txt").exists());
        assert!(root.join("var/log/messages").exists());
        let lists = std::fs::read_dir(root.join("var/lib/apt/lists")).expect("there");
        assert_eq!(lists.count(), 0);
    }
}
