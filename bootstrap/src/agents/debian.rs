//! Debian and its relatives, by debootstrap or mmdebstrap.
//!
//! Owns: their command lines. Never: downloads or unpacks a package itself.

use std::fs;
use std::path::Path;

use image::Shown;
use launcher::Error;

use super::{address, first_of, words, Site};
use crate::definition::{Agent, Header};
use crate::space::{Kind, RootCommand};

/// What is installed where nothing is said: the essential packages, and apt.
const VARIANT: &str = "minbase";

/// Where packages are where nothing is said.
const COMPONENTS: &str = "main";

/// What mmdebstrap does for devices, where there is one id only: with the options
/// that it gives devpts, a terminal belongs to a group that is not there.
const DEVICES: &str = r#"set -e
dev=$1/dev
mount -t tmpfs -o mode=755,nosuid,noexec dev "$dev"
for name in null zero full random urandom tty; do
    [ -e "/dev/$name" ] || continue
    : >"$dev/$name"
    mount --bind "/dev/$name" "$dev/$name"
done
ln -s /proc/self/fd "$dev/fd"
ln -s /proc/self/fd/0 "$dev/stdin"
ln -s /proc/self/fd/1 "$dev/stdout"
ln -s /proc/self/fd/2 "$dev/stderr"
ln -s pts/ptmx "$dev/ptmx"
mkdir "$dev/pts" "$dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 pts "$dev/pts"
mount -t tmpfs -o mode=1777,nosuid,noexec shm "$dev/shm""#;

/// Makes the base system.
///
/// # Errors
/// OSVersion is missing, neither tool is there, or it failed.
pub fn install(agent: Agent, header: &Header, site: &Site<'_>) -> Result<(), Error> {
    let tool = match agent {
        Agent::Mmdebstrap => first_of(&["mmdebstrap"])?,
        _ => first_of(&["debootstrap", "mmdebstrap"])?,
    };
    let Some(suite) = header
        .version
        .as_ref()
        .map(|version| version.value.as_str())
    else {
        return Err(Error::new(
            "install the base system",
            "the definition does not say which release",
        )
        .hint("add OSVersion, as in OSVersion: bookworm"));
    };
    let asked = Asked {
        suite,
        mirrors: header
            .mirrors
            .iter()
            .map(|mirror| address(&mirror.url.value, header))
            .collect::<Result<_, _>>()?,
        updates: header
            .updates
            .iter()
            .map(|url| {
                Ok(source(
                    &address(&url.value, header)?,
                    &pocket(&url.value, suite),
                    header,
                ))
            })
            .collect::<Result<_, Error>>()?,
        header,
    };
    if tool == "mmdebstrap" {
        asked.by_mmdebstrap(site)
    } else {
        asked.by_debootstrap(site)
    }
}

/// What a definition asks for.
#[derive(Debug)]
struct Asked<'a> {
    suite: &'a str,
    mirrors: Vec<String>,
    /// Lines of sources.list(5).
    updates: Vec<String>,
    header: &'a Header,
}

impl Asked<'_> {
    fn variant(&self) -> &str {
        let named = self.header.variant.as_ref();
        named.map_or(VARIANT, |variant| variant.value.as_str())
    }

    /// The options that both tools have.
    fn options<'a>(&self, mut command: RootCommand<'a>) -> Result<RootCommand<'a>, Error> {
        command = command
            .arg(format!("--variant={}", self.variant()))
            .arg(format!("--components={}", components(self.header, ",")));
        if !self.header.include.is_empty() {
            let packages = words(&self.header.include).join(",");
            command = command.arg(format!("--include={packages}"));
        }
        if let Some(keyring) = &self.header.keyring {
            let keyring = Path::new(&keyring.value);
            let there = keyring.canonicalize().map_err(|error| {
                Error::io(format!("read the keyring {}", Shown::new(keyring)), &error)
            })?;
            command = command.arg(format!("--keyring={}", there.display()));
        }
        Ok(command)
    }

    fn doing(&self, tool: &str) -> String {
        format!("install {} with {tool}", self.suite)
    }

    fn by_mmdebstrap(&self, site: &Site<'_>) -> Result<(), Error> {
        let mut command = site.root()?.command_of_host("mmdebstrap");
        if site.space.kind() == Kind::Single {
            let hook = format!("--extract-hook={DEVICES}");
            command = command.args(["--skip=chroot/mount/dev", &hook]);
        }
        let command = command
            .env("TMPDIR", site.scratch)
            .env("LC_ALL", "C.UTF-8")
            // It is root here, and need not make itself be.
            .args(["--mode=root", "--format=directory", "--skip=check/qemu"]);
        let mut command = self.options(command)?.arg(self.suite).arg(site.root);
        match (self.mirrors.as_slice(), self.updates.as_slice()) {
            ([], []) => {}
            // The tool knows where the release's archive is.
            ([], updates) => command = command.arg("").args(updates),
            ([mirror], []) if !mirror.starts_with("deb ") => {
                command = command.arg(copied(mirror));
            }
            (mirrors, updates) => {
                for mirror in mirrors {
                    let line = source(mirror, self.suite, self.header);
                    command = command.arg(copied(&line));
                }
                command = command.args(updates.iter().map(|line| copied(line)));
            }
        }
        command.doing(self.doing("mmdebstrap")).run(site.log)
    }

    fn by_debootstrap(&self, site: &Site<'_>) -> Result<(), Error> {
        let root = site.root()?;
        // Where no devices can be made, those of the host are shown to it.
        let command = match site.space.kind() {
            Kind::Root | Kind::Plain => root.command_of_host("debootstrap"),
            Kind::Subordinate | Kind::Single => root.command_beside("debootstrap"),
        };
        let mut command = command
            .env("TMPDIR", site.scratch)
            .env("LC_ALL", "C")
            // Here it goes on where it cannot make a device, and, on a host that is a
            // docker container itself, leaves /proc in the root alone.
            .env("container", "lxc");
        // Else it takes an archive that does not say who made it.
        command = self.options(command.arg("--force-check-gpg"))?;
        command = command.arg(self.suite).arg(site.root);
        if let Some(mirror) = self.mirrors.first() {
            if mirror.starts_with("deb ") {
                return Err(Error::new(
                    format!("install from {mirror}"),
                    "debootstrap takes an address, not a line of sources.list",
                )
                .hint("take Bootstrap: mmdebstrap, or make it the second MirrorURL"));
            }
            command = command.arg(mirror);
        }
        let what = self.doing("debootstrap");
        let status = command.doing(what.clone()).status(site.log)?;
        if !status.success() {
            tell_its_log(site);
            return Err(root.failure(what, status, site.log));
        }
        self.add_sources(site)?;
        super::clean(site.root)?;
        // debootstrap leaves those of the machine it runs on.
        for file in ["hostname", "resolv.conf"] {
            super::remove(site.root, &Path::new("etc").join(file))?;
        }
        Ok(())
    }

    /// debootstrap takes one archive: what is in the others is added afterwards.
    fn add_sources(&self, site: &Site<'_>) -> Result<(), Error> {
        let mut sources: Vec<String> = self
            .mirrors
            .iter()
            .skip(1)
            .map(|mirror| source(mirror, self.suite, self.header))
            .collect();
        sources.extend(self.updates.iter().cloned());
        if sources.is_empty() {
            return Ok(());
        }
        let file = Path::new("etc/apt/sources.list.d/updates.list");
        let text = sources.join("\n") + "\n";
        super::inside::write(site.root, file, text.as_bytes())?;
        super::inside::upgrade(self.header, site)
    }
}

/// What goes wrong late, debootstrap writes to a log of its own, in the root.
fn tell_its_log(site: &Site<'_>) {
    let path = site.root.join("debootstrap/debootstrap.log");
    let text = fs::read(path).unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines() {
        site.log.line(line);
    }
}

/// A line of sources.list(5) for an archive; one that is a line already stays.
fn source(url: &str, suite: &str, header: &Header) -> String {
    if url.starts_with("deb ") {
        return url.to_owned();
    }
    let components = components(header, " ");
    match &header.keyring {
        Some(keyring) => format!(
            "deb [signed-by={}] {url} {suite} {components}",
            keyring.value
        ),
        None => format!("deb {url} {suite} {components}"),
    }
}

/// An archive on a disk of the host's, as mmdebstrap can use it: in the root nobody
/// finds the path, so the packages have to be copied there before.
fn copied(mirror: &str) -> String {
    let words: Vec<_> = mirror
        .split(' ')
        .map(|word| match super::local(word) {
            Some(path) => format!("copy:{}", path.display()),
            None => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

/// Which suite of an archive of updates is the release's: security archives call it
/// `SUITE-security`, the others `SUITE-updates`.
fn pocket(url: &str, suite: &str) -> String {
    let kind = if url.contains("security") {
        "security"
    } else {
        "updates"
    };
    format!("{suite}-{kind}")
}

fn components(header: &Header, between: &str) -> String {
    if header.components.is_empty() {
        return COMPONENTS.to_owned();
    }
    words(&header.components).join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_of_the_host_are_copied_from() {
        assert_eq!(copied("file:///srv/debian"), "copy:/srv/debian");
        assert_eq!(
            copied("deb [trusted=yes] file:/srv/packages ./"),
            "deb [trusted=yes] copy:/srv/packages ./"
        );
        assert_eq!(copied("http://host/file:/x"), "http://host/file:/x");
    }

    #[test]
    fn updates_are_in_the_suite_that_their_archive_calls_them() {
        assert_eq!(
            pocket("http://host/debian-security", "bookworm"),
            "bookworm-security"
        );
        assert_eq!(pocket("http://host/debian", "bookworm"), "bookworm-updates");
    }
}
