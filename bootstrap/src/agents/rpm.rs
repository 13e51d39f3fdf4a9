//! RPM distributions, by dnf or yum of the host, which installs into the root from
//! outside.
//!
//! Owns: its configuration, which is made for this one build, and its command line.
//! Never: uses the host's repositories or keys.

use std::fs;
use std::path::Path;

use image::Shown;
use launcher::Error;

use super::{address, first_of, local, Site};
use crate::definition::{Agent, Header};
use crate::tool::{self, Tool};

/// What makes a system out of packages, where the repositories have it: a release's
/// own files, a shell and its tools, and a package manager.
const BASE: [&str; 4] = ["system-release", "bash", "coreutils", "dnf"];

/// A repository.
#[derive(Debug)]
struct Repository {
    name: String,
    url: String,
}

/// Installs packages, and, where the root is still empty, the base system.
///
/// # Errors
/// MirrorURL is missing, no tool is there, or it failed.
pub fn install(header: &Header, packages: Vec<&str>, site: &Site<'_>) -> Result<(), Error> {
    let tool = match header.agent.as_ref().map(|agent| agent.value) {
        Some(Agent::Dnf) => first_of(&["dnf", "dnf-3", "dnf4", "dnf5"])?,
        _ => first_of(&["dnf", "yum", "dnf-3", "dnf4", "dnf5"])?,
    };
    let repositories = repositories(header)?;
    let key = header.keyring.as_ref().map(|key| key.value.as_str());
    let manager = Manager {
        tool,
        site,
        version: header
            .version
            .as_ref()
            .map(|version| version.value.as_str()),
    };
    manager.configure(&repositories, key)?;
    let is_new = !site.root.join("var/lib/rpm").exists();
    let mut wanted: Vec<String> = packages.iter().map(|&name| name.to_owned()).collect();
    if is_new {
        manager.run(
            &["makecache"],
            &[],
            "fetch the lists of packages".to_owned(),
        )?;
        wanted.extend(manager.base()?);
        if wanted.is_empty() {
            return Err(Error::new(
                "install the base system",
                "the repositories have nothing of one, and no packages are asked for",
            )
            .hint("Include names packages to install; MirrorURL may lead to another repository"));
        }
    }
    let what = match (is_new, packages.as_slice()) {
        (true, _) => format!("install the base system with {tool}"),
        (false, packages) => format!("install {}", packages.join(" ")),
    };
    manager.run(&["install", "--"], &wanted, what)?;
    if is_new {
        manager.leave_configured(&repositories, key)?;
    }
    super::clean(site.root)?;
    settle(site.root)
}

/// Removes what is another at each build and of no use in an image: shared memory of
/// the database's, an empty journal of it, and, where bytes are to be the same
/// (`SOURCE_DATE_EPOCH`), the times at which packages were installed.
fn settle(root: &Path) -> Result<(), Error> {
    let database = Path::new("var/lib/rpm");
    let journal = database.join("rpmdb.sqlite-wal");
    if root
        .join(&journal)
        .symlink_metadata()
        .is_ok_and(|data| data.len() == 0)
    {
        super::remove(root, &journal)?;
        super::remove(root, &database.join("rpmdb.sqlite-shm"))?;
    }
    if std::env::var_os("SOURCE_DATE_EPOCH").is_some() {
        for end in ["", "-shm", "-wal"] {
            let history = format!("var/lib/dnf/history.sqlite{end}");
            super::remove(root, Path::new(&history))?;
        }
    }
    Ok(())
}

fn repositories(header: &Header) -> Result<Vec<Repository>, Error> {
    let mut repositories = Vec::new();
    for (number, mirror) in header.mirrors.iter().enumerate() {
        let name = match (&mirror.name, number) {
            // The section of the package manager's own settings has that name.
            (Some(name), _) if name == "main" => "main-packages".to_owned(),
            (Some(name), _) => name.clone(),
            (None, 0) => "base".to_owned(),
            (None, number) => format!("base-{number}"),
        };
        let url = address(&mirror.url.value, header)?;
        repositories.push(Repository { name, url });
    }
    for (number, url) in header.updates.iter().enumerate() {
        let name = match number {
            0 => "updates".to_owned(),
            number => format!("updates-{number}"),
        };
        let url = address(&url.value, header)?;
        repositories.push(Repository { name, url });
    }
    for repository in &repositories {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if !repository.name.chars().all(is_fit) {
            return Err(Error::new(
                format!("name a repository {:?}", repository.name),
                "letters, digits and -_.: only",
            )
            .hint("change the name after MirrorURL's address"));
        }
    }
    if repositories.is_empty() {
        return Err(Error::new(
            "install the base system",
            "the definition does not say where packages come from",
        )
        .hint("add MirrorURL, the address of a repository: the directory that holds repodata"));
    }
    Ok(repositories)
}

struct Manager<'a> {
    tool: &'a str,
    site: &'a Site<'a>,
    version: Option<&'a str>,
}

impl Manager<'_> {
    /// Writes the configuration of this build.
    fn configure(&self, repositories: &[Repository], key: Option<&str>) -> Result<(), Error> {
        let scratch = self.site.scratch;
        let write = |name: &str, text: String| {
            let path = scratch.join(name);
            let made = path
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&path, text));
            made.map_err(|error| Error::io(format!("write {}", Shown::new(&path)), &error))
        };
        let here = scratch.display();
        write(
            "dnf.conf",
            format!(
                "[main]\nreposdir={here}/repos\ncachedir=/var/cache/dnf\npersistdir=/var/lib/dnf\n\
                 varsdir={here}/vars\npluginconfpath={here}/plugins\nplugins=0\nassumeyes=1\n\
                 retries=2\ntimeout=30\nkeepcache=0\ninstall_weak_deps=0\nbest=1\nclean_requirements_on_remove=0\n"
            ),
        )?;
        for repository in repositories {
            let key = key.map(key_address).transpose()?;
            if key.is_none()
                && !repository.url.starts_with("https:")
                && local(&repository.url).is_none()
            {
                tracing::warn!(
                    "packages of {} are not checked: Keyring in the definition names the key they are signed with",
                    repository.url
                );
            }
            let name = format!("repos/{}.repo", repository.name);
            write(&name, repository.configuration(key.as_deref()))?;
        }
        // Debian's rpm has its database in the home directory, unless told.
        write("home/.rpmmacros", "%_dbpath /var/lib/rpm\n".to_owned())
    }

    fn options(&self) -> Vec<String> {
        let site = self.site;
        let mut options = vec![
            format!("--config={}", site.scratch.join("dnf.conf").display()),
            format!("--installroot={}", site.root.display()),
            // Said here, it is not looked for in the root.
            format!("--setopt=reposdir={}", site.scratch.join("repos").display()),
            format!("--setopt=varsdir={}", site.scratch.join("vars").display()),
            "--assumeyes".to_owned(),
        ];
        options.push(format!("--releasever={}", self.version.unwrap_or("1")));
        options
    }

    fn run(&self, words: &[&str], packages: &[String], what: String) -> Result<(), Error> {
        self.site
            .root()?
            .command_beside(self.tool)
            .env("HOME", self.site.scratch.join("home"))
            .env("TMPDIR", self.site.scratch)
            .env("LC_ALL", "C.UTF-8")
            .args(self.options())
            .args(words)
            .args(packages)
            .doing(what)
            .run(self.site.log)
    }

    /// What of the base system the repositories have. The old yum cannot tell: it
    /// is asked for all.
    fn base(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        if self.tool == "yum" && !is_dnf(self.tool) {
            return Ok(BASE
                .map(|name| if name == "dnf" { "yum" } else { name }.to_owned())
                .into());
        }
        for name in BASE {
            let output = Tool::new(self.tool)
                .env("HOME", self.site.scratch.join("home"))
                .env("TMPDIR", self.site.scratch)
                .env("LC_ALL", "C.UTF-8")
                .args(self.options())
                .args([
                    "--quiet",
                    "--cacheonly",
                    "repoquery",
                    "--available",
                    "--whatprovides",
                    name,
                ])
                .output(self.site.log)?;
            if !output.trim_ascii().is_empty() {
                found.push(name.to_owned());
            }
        }
        Ok(found)
    }

    /// Leaves the repositories to the package manager in the root, if one is there
    /// that has none: they are what it was made from.
    fn leave_configured(
        &self,
        repositories: &[Repository],
        key: Option<&str>,
    ) -> Result<(), Error> {
        let directory = Path::new("etc/yum.repos.d");
        let root = self.site.root;
        let is_fresh =
            fs::read_dir(root.join(directory)).is_ok_and(|mut entries| entries.next().is_none());
        if !is_fresh {
            return Ok(());
        }
        for repository in repositories {
            // A path of the host's means nothing in the image.
            if local(&repository.url).is_some() {
                continue;
            }
            let key = key.filter(|key| key.contains("://") && local(key).is_none());
            let file = directory.join(format!("{}.repo", repository.name));
            super::inside::write(root, &file, repository.configuration(key).as_bytes())?;
        }
        Ok(())
    }
}

/// Whether a `yum` is dnf by another name.
fn is_dnf(tool: &str) -> bool {
    tool::find(tool)
        .and_then(|path| path.canonicalize().ok())
        .is_some_and(|path| path.to_string_lossy().contains("dnf"))
}

impl Repository {
    fn configuration(&self, key: Option<&str>) -> String {
        let Self { name, url } = self;
        let url = match local(url) {
            Some(path) => format!("file://{}", path.display()),
            None => url.clone(),
        };
        let check = match key {
            Some(key) => format!("gpgcheck=1\ngpgkey={key}\n"),
            None => "gpgcheck=0\n".to_owned(),
        };
        format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\n{check}")
    }
}

/// A key as an address: a path becomes one.
fn key_address(key: &str) -> Result<String, Error> {
    if key.contains("://") {
        return Ok(key.to_owned());
    }
    let path = Path::new(key)
        .canonicalize()
        .map_err(|error| Error::io(format!("read the key {}", Shown::new(key)), &error))?;
    Ok(format!("file://{}", path.display()))
}
