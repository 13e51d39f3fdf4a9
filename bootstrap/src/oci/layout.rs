//! Images in directories and archives: the OCI image layout, and what `docker save`
//! writes.
//!
//! Owns: finding documents and layers in them. Layers are read where they lie; only
//! an archive that is compressed as a whole is unpacked before. Never: uses a name
//! of an archive for a file on this machine.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::Shown;
use launcher::Error;
use serde::Deserialize;

use super::cache::Cache;
use super::digest::{mismatch, Digest};
use super::manifest::{choose, Config, Descriptor, Document, Manifest, MOST_BYTES};
use super::platform::Wanted;
use super::reference::{Source, Stored};
use super::{check_platform, layers_of, Image, Section};
use crate::progress::Progress;
use crate::unpack::decompress::{Compression, ENOUGH};
use crate::unpack::members::{Members, Sort};

/// The annotations that hold an image's name in a layout.
const NAMES: [&str; 2] = [
    "org.opencontainers.image.ref.name",
    "io.containerd.image.name",
];

/// How deep indexes in indexes, and links in archives, are followed.
const DEPTH: usize = 8;

/// Where the files are.
enum Store {
    Directory(PathBuf),
    Archive {
        file: Arc<File>,
        index: HashMap<Vec<u8>, Entry>,
    },
}

/// A member of an archive.
enum Entry {
    File { at: u64, size: u64 },
    Link(Vec<u8>),
}

/// Finds an image in a directory or an archive.
///
/// # Errors
/// It is not there, is damaged, or there are several and none is named.
pub fn image(
    source: &Source,
    stored: &Stored,
    cache: &Cache,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Image, Error> {
    let name = source.shown();
    let path = &stored.path;
    let store = match source {
        Source::Layout(_) => {
            if !path.is_dir() {
                return Err(
                    Error::new(format!("read {name}"), "there is no such directory")
                        .hint("check the path; a relative one starts at the current directory"),
                );
            }
            Store::Directory(path.clone())
        }
        _ => Store::of_archive(path, &name, cache, progress)?,
    };
    match source {
        Source::DockerArchive(_) => docker(&store, stored, wanted, name),
        _ => oci(&store, stored, wanted, name),
    }
}

impl Store {
    fn of_archive(
        path: &Path,
        name: &str,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let step = || format!("read {name}");
        let failed = |error: &io::Error| Error::io(step(), error);
        let mut file = File::open(path).map_err(|error| {
            failed(&error).hint("check the path; a relative one starts at the current directory")
        })?;
        let mut first = Vec::new();
        (&mut file)
            .take(ENOUGH as u64)
            .read_to_end(&mut first)
            .map_err(|error| failed(&error))?;
        let compression = Compression::of(&first).map_err(|compressor| {
            Error::new(
                step(),
                format!("it is compressed with {compressor}, which is not read"),
            )
            .hint("compress it with zstd, gzip, xz or bzip2, or not at all")
        })?;
        file.seek(SeekFrom::Start(0))
            .map_err(|error| failed(&error))?;
        let damaged = |error: &io::Error| {
            Error::new(step(), error.to_string())
                .hint("the archive is damaged or not complete: fetch or write it again")
        };
        if compression != Compression::None {
            let shown = progress.step(format!("uncompress {name}"));
            let mut plain = cache.temporary_file()?;
            let mut reader = compression.reader(&file).map_err(|error| failed(&error))?;
            let mut buffer = vec![0; 1 << 18];
            loop {
                let length = reader.read(&mut buffer).map_err(|error| damaged(&error))?;
                if length == 0 {
                    break;
                }
                plain
                    .write_all(buffer.get(..length).unwrap_or_default())
                    .map_err(|error| {
                        Error::io(step(), &error)
                            .hint("--tmpdir names a directory with room for it uncompressed")
                    })?;
                shown.tick();
            }
            drop(reader);
            shown.done();
            plain
                .seek(SeekFrom::Start(0))
                .map_err(|error| failed(&error))?;
            file = plain;
        }
        let mut index = HashMap::new();
        let mut members = Members::new(io::BufReader::with_capacity(1 << 18, &file));
        while let Some(member) = members.next_member().map_err(|error| damaged(&error))? {
            let entry = match member.sort {
                Sort::File if member.pieces.is_none() => Entry::File {
                    at: member.position,
                    size: member.size,
                },
                Sort::HardLink => Entry::Link(normal(&member.link)),
                Sort::Link => Entry::Link(beside(&member.name, &member.link)),
                _ => continue,
            };
            index.insert(normal(&member.name), entry);
        }
        drop(members);
        Ok(Self::Archive {
            file: Arc::new(file),
            index,
        })
    }

    fn open(&self, file: &str, name: &str) -> Result<Section, Error> {
        let missing = || {
            Error::new(
                format!("read {name}"),
                format!("it has no {}", Shown::new(file)),
            )
            .hint("it is not complete, or of another kind")
        };
        match self {
            Self::Directory(directory) => {
                let path = directory.join(file);
                let open = File::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => missing(),
                    _ => Error::io(format!("read {}", Shown::new(&path)), &error),
                })?;
                let size = open
                    .metadata()
                    .map_err(|error| Error::io(format!("read {}", Shown::new(&path)), &error))?
                    .len();
                Ok(Section::of_file(Arc::new(open), 0, size))
            }
            Self::Archive { file: open, index } => {
                let mut wanted = normal(file.as_bytes());
                for _ in 0..DEPTH {
                    match index.get(&wanted) {
                        Some(Entry::File { at, size }) => {
                            return Ok(Section::of_file(Arc::clone(open), *at, *size))
                        }
                        Some(Entry::Link(to)) => wanted.clone_from(to),
                        None => break,
                    }
                }
                Err(missing())
            }
        }
    }

    fn document(&self, file: &str, name: &str) -> Result<Vec<u8>, Error> {
        let section = self.open(file, name)?;
        let step = || format!("read {} of {name}", Shown::new(file));
        if section.size() > MOST_BYTES {
            return Err(
                Error::new(step(), format!("it is larger than {MOST_BYTES} bytes"))
                    .hint("this is no description of an image"),
            );
        }
        let mut bytes = Vec::new();
        section
            .reader()
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(step(), &error))?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor, name: &str) -> Result<Vec<u8>, Error> {
        let digest = &descriptor.digest;
        let bytes = self.document(&blob_path(digest), name)?;
        if digest.is_of(&bytes) {
            Ok(bytes)
        } else {
            let what = format!("read part {} of {name}", digest.short());
            Err(mismatch(&what, digest, &Digest::of(&bytes)))
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm_name(), digest.hex())
}

/// A name without `.`, and without `..` as far as it has something to go up from.
fn normal(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The name that a symbolic link leads to.
fn beside(name: &[u8], link: &[u8]) -> Vec<u8> {
    let name = normal(name);
    let directory = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let mut path = name.get(..directory).unwrap_or_default().to_vec();
    path.push(b'/');
    path.extend(link);
    normal(&path)
}

fn several(name: &str, tags: &[String], wanted: Option<&str>) -> Error {
    let tags: Vec<_> = tags.iter().map(|tag| Shown::new(tag).to_string()).collect();
    let hint = match tags.len() {
        0 => "the images in it have no names".to_owned(),
        _ => format!("there are {}", tags.join(", ")),
    };
    let cause = match wanted {
        Some(tag) => format!("there is no {}", Shown::new(tag)),
        None => "there are several images in it; say which, with :TAG behind the path".to_owned(),
    };
    Error::new(format!("read {name}"), cause).hint(hint)
}

fn oci(store: &Store, stored: &Stored, wanted: &Wanted, name: String) -> Result<Image, Error> {
    let index = store.document("index.json", &name)?;
    let Document::Index(all) = Document::read(&index, &name)? else {
        return Err(
            Error::new(format!("read {name}"), "its index.json is no index")
                .hint("it is not complete, or of another kind"),
        );
    };
    let tag_of = |manifest: &Descriptor| {
        NAMES
            .iter()
            .find_map(|name| manifest.annotation(name))
            .map(str::to_owned)
    };
    let mut tags: Vec<_> = all.iter().filter_map(tag_of).collect();
    tags.dedup();
    let candidates: Vec<Descriptor> = match &stored.tag {
        Some(tag) => all
            .iter()
            .filter(|manifest| {
                NAMES
                    .iter()
                    .any(|name| manifest.annotation(name) == Some(tag))
            })
            .cloned()
            .collect(),
        None if tags.len() > 1 => return Err(several(&name, &tags, None)),
        None => all,
    };
    if candidates.is_empty() {
        return Err(several(
            &name,
            &tags,
            stored.tag.as_deref().or(Some("image")),
        ));
    }
    if candidates.len() > 1 && candidates.iter().all(|one| one.platform.is_none()) {
        return Err(several(&name, &tags, None));
    }
    let mut descriptor = choose(&candidates, wanted, &name)?.clone();
    for _ in 0..DEPTH {
        let bytes = store.blob(&descriptor, &name)?;
        match Document::read(&bytes, &name)? {
            Document::Index(manifests) => {
                descriptor = choose(&manifests, wanted, &name)?.clone();
            }
            Document::Manifest(manifest) => {
                return of_manifest(store, &descriptor.digest, &manifest, wanted, name);
            }
        }
    }
    Err(Error::new(
        format!("read {name}"),
        "it has an index of indexes without end",
    )
    .hint("whoever made the image has to write it again"))
}

fn of_manifest(
    store: &Store,
    digest: &Digest,
    manifest: &Manifest,
    wanted: &Wanted,
    name: String,
) -> Result<Image, Error> {
    let config = Config::read(&store.blob(&manifest.config, &name)?, &name)?;
    check_platform(&config, wanted, &name)?;
    let mut sections = Vec::new();
    for layer in &manifest.layers {
        let section = store.open(&blob_path(&layer.digest), &name)?;
        if section.size() != layer.size {
            let cause = format!("it has {} bytes instead of {}", section.size(), layer.size);
            let step = format!("read part {} of {name}", layer.digest.short());
            return Err(Error::new(step, cause).hint("it is damaged: copy or write it again"));
        }
        sections.push((section, Some(layer.digest.clone())));
    }
    let layers = layers_of(sections, &config, &name)?;
    Ok(Image {
        name,
        digest: Some(digest.clone()),
        config,
        layers,
    })
}

/// Whether a full name is the one meant: tools complete names that have no host.
fn is_named(full: &str, name: &str) -> bool {
    let rest = full.strip_suffix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// An image in what `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker(store: &Store, stored: &Stored, wanted: &Wanted, name: String) -> Result<Image, Error> {
    let bytes = store.document("manifest.json", &name)?;
    let all: Vec<Saved> = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(format!("read manifest.json of {name}"), error.to_string())
            .hint("it is not what docker save writes: oci-archive: reads the other kind")
    })?;
    let tags_of = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
    let tags: Vec<_> = all.iter().flat_map(tags_of).collect();
    let chosen = match &stored.tag {
        Some(tag) => {
            let latest = format!("{tag}:latest");
            let found = all.iter().find(|saved| {
                let tags = tags_of(saved);
                tags.iter()
                    .any(|known| is_named(known, tag) || is_named(known, &latest))
                    || tags
                        .iter()
                        .any(|known| known.rsplit(':').next() == Some(tag))
            });
            found.ok_or_else(|| several(&name, &tags, Some(tag)))?
        }
        None => match &all[..] {
            [one] => one,
            _ => return Err(several(&name, &tags, None)),
        },
    };
    let config = Config::read(&store.document(&chosen.config, &name)?, &name)?;
    check_platform(&config, wanted, &name)?;
    let mut sections = Vec::new();
    for layer in &chosen.layers {
        sections.push((store.open(layer, &name)?, None));
    }
    let layers = layers_of(sections, &config, &name)?;
    Ok(Image {
        name,
        digest: None,
        config,
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_archives_lead_to_members_of_the_archive() {
        for (name, link, expected) in [
            ("a/layer.tar", "../b/layer.tar", "b/layer.tar"),
            ("./a/layer.tar", "../../../b", "b"),
            ("layer.tar", "b", "b"),
            ("a/b/c", "/d", "a/b/d"),
        ] {
            assert_eq!(
                beside(name.as_bytes(), link.as_bytes()),
                expected.as_bytes()
            );
        }
    }
}
