//! What is written to name a container image.
//!
//! Owns: the notations `docker://`, `oci:`, `oci-archive:` and `docker-archive:`.
//! Never: reaches out to anything; it does look which file is there where a name
//! could be cut in several places.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use image::Shown;
use launcher::Error;

use super::digest::Digest;

/// The variable that names the registry of references without a host.
pub const DEFAULT_REGISTRY: &str = "SINGULARITY_DOCKER_REGISTRY";

/// The longest name of an image, and the longest tag; as in the specification of
/// distribution.
const MOST_NAME: usize = 255;
const MOST_TAG: usize = 128;

/// Where a container image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A registry.
    Registry(Reference),
    /// A directory in the OCI image layout.
    Layout(Stored),
    /// The same, in a tar archive.
    OciArchive(Stored),
    /// What `docker save` writes.
    DockerArchive(Stored),
}

/// A file or directory with images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it is.
    pub path: PathBuf,
    /// Which of the images; needed where there are several.
    pub tag: Option<String>,
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The host, with its port if it has one.
    pub host: String,
    /// The image's name there.
    pub name: String,
    /// Its tag.
    pub tag: Option<String>,
    /// Its digest, which is stronger than the tag.
    pub digest: Option<Digest>,
}

impl Source {
    /// Reads `docker://…`, `oci:…`, `oci-archive:…` and `docker-archive:…`. None:
    /// it is something else, such as a file.
    ///
    /// # Errors
    /// It is one of them and wrong, or one that nobody here can read.
    pub fn parse(text: &OsStr) -> Result<Option<Self>, Error> {
        let bytes = text.as_bytes();
        let scheme = bytes
            .iter()
            .take(20)
            .position(|byte| *byte == b':')
            .and_then(|end| std::str::from_utf8(bytes.get(..end)?).ok());
        let Some(scheme) = scheme else {
            return Ok(None);
        };
        let rest = bytes.get(scheme.len() + 1..).unwrap_or_default();
        let path = || Stored::parse(scheme, rest);
        let refused = |cause: &str, hint: &str| {
            Err(Error::new(format!("source {}", Shown::new(text)), cause).hint(hint))
        };
        Ok(Some(match scheme {
            "docker" => {
                let default = std::env::var(DEFAULT_REGISTRY).ok();
                Self::Registry(Reference::read(text, default.as_deref())?)
            }
            "oci" => Self::Layout(path()?),
            "oci-archive" => Self::OciArchive(path()?),
            "docker-archive" => Self::DockerArchive(path()?),
            "docker-daemon" | "containers-storage" => {
                return refused(
                    "images inside of Docker or Podman are not read",
                    "write it to a file first: docker save NAME -o FILE, then docker-archive:FILE",
                )
            }
            "library" | "shub" | "oras" => {
                return refused(
                    "this sort of registry is not supported",
                    "docker://HOST/NAME:TAG reads from registries that hold container images",
                )
            }
            "http" | "https" => {
                return refused(
                    "files are not downloaded",
                    "download it first; for a registry write docker://HOST/NAME:TAG",
                )
            }
            _ => return Ok(None),
        }))
    }

    /// As it is written, for messages and for `cache list`.
    pub fn shown(&self) -> String {
        let stored = |scheme: &str, stored: &Stored| {
            let path = Shown::new(&stored.path);
            match &stored.tag {
                Some(tag) => format!("{scheme}:{path}:{tag}"),
                None => format!("{scheme}:{path}"),
            }
        };
        match self {
            Self::Registry(reference) => reference.to_string(),
            Self::Layout(it) => stored("oci", it),
            Self::OciArchive(it) => stored("oci-archive", it),
            Self::DockerArchive(it) => stored("docker-archive", it),
        }
    }
}

impl Stored {
    /// `PATH[:TAG]`, cut at the first colon that has something before it that is there.
    fn parse(scheme: &str, text: &[u8]) -> Result<Self, Error> {
        let text = text
            .strip_prefix(b"//")
            .filter(|rest| rest.starts_with(b"/"))
            .unwrap_or(text);
        if text.is_empty() {
            return Err(Error::new(format!("source {scheme}:"), "a path is missing")
                .hint(format!("write {scheme}:PATH, or {scheme}:PATH:TAG")));
        }
        let whole = Path::new(OsStr::from_bytes(text));
        let colons = text.iter().enumerate().filter(|(_, byte)| **byte == b':');
        if !whole.exists() {
            for (at, _) in colons {
                let (path, tag) = text.split_at(at);
                let path = PathBuf::from(OsString::from_vec(path.to_vec()));
                if !path.as_os_str().is_empty() && path.exists() {
                    let tag = String::from_utf8_lossy(tag.get(1..).unwrap_or_default());
                    return Ok(Self {
                        path,
                        tag: Some(tag.into_owned()).filter(|tag| !tag.is_empty()),
                    });
                }
            }
        }
        Ok(Self {
            path: whole.to_owned(),
            tag: None,
        })
    }
}

impl Reference {
    /// Reads `docker://[HOST[:PORT]/]NAME[:TAG][@DIGEST]`. Without a host it is
    /// `default`'s.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &OsStr, default: Option<&str>) -> Result<Self, Error> {
        let step = || format!("reference {}", Shown::new(text));
        let form = "the form is docker://HOST[:PORT]/NAME[:TAG][@DIGEST]";
        let wrong = |cause: &str| Error::new(step(), cause).hint(form);
        let text = text.to_str().ok_or_else(|| wrong("it is not UTF-8"))?;
        let rest = text.strip_prefix("docker:").unwrap_or(text);
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (first, name) = rest.split_once('/').unwrap_or(("", rest));
        // As everywhere: without one of these it is a part of the name.
        let is_host = first.contains(['.', ':']) || first == "localhost";
        let (host, name) = if is_host {
            (first.to_owned(), name)
        } else {
            match default.map(str::trim).filter(|host| !host.is_empty()) {
                Some(host) => (host.trim_end_matches('/').to_owned(), rest),
                None => {
                    return Err(
                        Error::new(step(), "it does not say which registry").hint(format!(
                            "write docker://HOST/{rest}, or set {DEFAULT_REGISTRY} to the host of \
                         your registry"
                        )),
                    )
                }
            }
        };
        // The variable may have a directory behind the host.
        let (host, name) = match host.split_once('/') {
            Some((host, directory)) => (host.to_owned(), format!("{directory}/{name}")),
            None => (host, name.to_owned()),
        };
        check_host(&host).map_err(wrong)?;
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name.to_owned(), Some(digest.parse().map_err(wrong)?)),
            None => (name, None),
        };
        let (name, tag) = match name.split_once(':') {
            Some((name, tag)) => (name.to_owned(), Some(tag.to_owned())),
            None => (name, None),
        };
        check_name(&name).map_err(wrong)?;
        if let Some(tag) = &tag {
            check_tag(tag).map_err(wrong)?;
        }
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self {
            host,
            name,
            tag,
            digest,
        })
    }

    /// As [`Reference::read`], for the values of a definition's header.
    ///
    /// # Errors
    /// As [`Reference::read`].
    pub fn of_header(
        from: &str,
        registry: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Self, Error> {
        let from = from.strip_prefix("docker://").unwrap_or(from);
        let mut text = String::from("docker://");
        for part in [registry, namespace].into_iter().flatten() {
            let part = part.trim().trim_start_matches("docker://");
            text.push_str(part.trim_matches('/'));
            text.push('/');
        }
        text.push_str(from);
        let default = std::env::var(DEFAULT_REGISTRY).ok();
        Self::read(OsStr::new(&text), default.as_deref())
    }

    /// What stands behind `/manifests/` in a request for it.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The name for an image file: `NAME_TAG`.
    pub fn file_name(&self) -> String {
        let name = self.name.rsplit('/').next().unwrap_or(&self.name);
        match (&self.tag, &self.digest) {
            (Some(tag), _) => format!("{name}_{tag}"),
            (None, Some(digest)) => format!("{name}_{}", digest.short()),
            (None, None) => name.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docker://{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A host with its port, and nothing that would make another address of it.
fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the host's ] is missing")?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| "the host in [] is no IPv6 address")?;
            (
                "six",
                after
                    .strip_prefix(':')
                    .or_else(|| (!after.is_empty()).then_some("x")),
            )
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.is_empty() || !name.bytes().all(is_of_name) {
        return Err("the host has a character that no host name has");
    }
    match port {
        None => Ok(()),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .map(drop)
            .ok_or("the port is no number from 1 to 65535"),
        Some(_) => Err("the port is no number from 1 to 65535"),
    }
}

/// Parts of lower-case letters and digits, with separators between them.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the image's name is missing");
    }
    if name.len() > MOST_NAME {
        return Err("the image's name is longer than 255 characters");
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the image's name has upper-case letters, which registries do not allow");
    }
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    for part in name.split('/') {
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        if ends
            .iter()
            .any(|byte| !byte.is_some_and(|byte| is_letter(*byte)))
        {
            return Err("a part of the image's name does not begin and end with a letter or digit");
        }
        for separator in part.split(|c: char| is_letter(c as u8) && c.is_ascii()) {
            let allowed = matches!(separator, "" | "." | "_" | "__")
                || separator.bytes().all(|byte| byte == b'-');
            if !allowed {
                return Err("the image's name has a character that is not allowed there");
            }
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let allowed = |byte: u8| is_word(byte) || matches!(byte, b'.' | b'-');
    match tag.as_bytes() {
        [] => Err("the tag behind : is missing"),
        bytes if bytes.len() > MOST_TAG => Err("the tag is longer than 128 characters"),
        [first, rest @ ..] if is_word(*first) && rest.iter().all(|byte| allowed(*byte)) => Ok(()),
        _ => Err("the tag has a character that is not allowed there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Reference, String> {
        Reference::read(OsStr::new(text), None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_reference_has_a_host_a_name_and_a_tag_or_digest() {
        let hex = "a".repeat(64);
        for (text, host, name, tag, digest) in [
            (
                "docker://localhost:5000/ring",
                "localhost:5000",
                "ring",
                Some("latest"),
                false,
            ),
            (
                "docker://localhost/a/b:1.0",
                "localhost",
                "a/b",
                Some("1.0"),
                false,
            ),
            (
                "docker://r.example/a-b__c.d/e:T_1-x",
                "r.example",
                "a-b__c.d/e",
                Some("T_1-x"),
                false,
            ),
            (
                "docker://[::1]:5000/ring:1",
                "[::1]:5000",
                "ring",
                Some("1"),
                false,
            ),
            (
                &format!("docker://127.0.0.1:80/x@sha256:{hex}"),
                "127.0.0.1:80",
                "x",
                None,
                true,
            ),
            (
                &format!("docker://h.x/x:1@sha256:{hex}"),
                "h.x",
                "x",
                Some("1"),
                true,
            ),
        ] {
            let reference = read(text).unwrap();
            assert_eq!(
                (&reference.host[..], &reference.name[..]),
                (host, name),
                "{text}"
            );
            assert_eq!(
                (reference.tag.as_deref(), reference.digest.is_some()),
                (tag, digest)
            );
            assert_eq!(read(&reference.to_string()), Ok(reference));
        }
    }

    #[test]
    fn what_is_wrong_with_a_reference_is_said() {
        for (text, cause) in [
            ("docker://debian", "it does not say which registry"),
            ("docker://library/debian", "it does not say which registry"),
            ("docker://h.x/", "the image's name is missing"),
            ("docker://h.x/A", "upper-case letters"),
            ("docker://h.x/a//b", "does not begin and end with"),
            ("docker://h.x/a/../b", "does not begin and end with"),
            ("docker://h.x/a___b", "a character that is not allowed"),
            ("docker://h.x/a b", "a character that is not allowed"),
            ("docker://h.x/a\u{e4}b", "a character that is not allowed"),
            ("docker://h.x/a:", "the tag behind : is missing"),
            ("docker://h.x/a:b:c", "the tag has a character"),
            ("docker://h.x/a:-b", "the tag has a character"),
            (
                "docker://h.x/a@sha256:12",
                "a digest is 64 hexadecimal digits",
            ),
            ("docker://h.x:port/a", "the port is no number"),
            ("docker://h.x:99999/a", "the port is no number"),
            ("docker://user@h.x:80/a", "the host has a character"),
            ("docker://[::1/a", "the host's ] is missing"),
            ("docker://[::1]x/a", "the port is no number"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    #[test]
    fn a_site_names_the_registry_of_references_without_one() {
        let read = |text: &str, default| {
            Reference::read(OsStr::new(text), Some(default)).map(|it| it.to_string())
        };
        let same = "docker://localhost:5000/a/b:1";
        assert_eq!(read("docker://a/b:1", "localhost:5000").unwrap(), same);
        assert_eq!(read("docker://b:1", "localhost:5000/a/").unwrap(), same);
        assert_eq!(
            read("docker://localhost:5000/a/b:1", "other.x").unwrap(),
            same
        );
        let header = Reference::of_header("b:1", Some("localhost:5000"), Some("a"));
        assert_eq!(header.unwrap().to_string(), same);
    }

    #[test]
    fn sources_are_told_by_what_stands_before_the_colon() {
        let parse = |text: &str| Source::parse(OsStr::new(text));
        for other in ["image.sqfs", "./docker:x", "a:b", "-"] {
            assert_eq!(parse(other).unwrap(), None, "{other}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a:b");
        std::fs::create_dir(&path).unwrap();
        for (tag, expected) in [("", None), (":1", Some("1")), (":r/n:1", Some("r/n:1"))] {
            let text = format!("oci:{}{tag}", path.display());
            let Some(Source::Layout(stored)) = parse(&text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!(
                (stored.path, stored.tag.as_deref()),
                (path.clone(), expected)
            );
        }
        for refused in ["docker-daemon:x:1", "library://x", "https://x", "oci:"] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
