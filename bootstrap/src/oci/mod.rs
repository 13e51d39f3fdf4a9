//! Container images: from registries, in the OCI image layout, and as Docker saves
//! them.
//!
//! ```no_run
//! # fn main() -> Result<(), launcher::Error> {
//! # let registry: command::cli::images::Registry = unimplemented!();
//! # let progress = bootstrap::progress::Progress::new();
//! use bootstrap::oci;
//! let source = oci::Source::parse("docker://localhost:5000/ring:1".as_ref())?;
//! if let Some(source) = source {
//!     let image = oci::fetch(&source, &registry, None, &progress)?;
//!     image.unpack_into("a-new-directory".as_ref(), &progress)?;
//!     let runscript = image.runscript();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Owns: the way from a reference to a tree and to what is run in it. Never: writes
//! an image; and nothing of it is in the launching path. Enter the [`crate::space`]
//! before [`fetch`], which starts threads.

pub mod auth;
pub mod cache;
pub mod client;
pub mod digest;
mod download;
mod layout;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod runtime;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use command::cli::images::Registry;
use launcher::Error;

pub use reference::{Reference, Source};

use crate::definition::Script;
use crate::metadata::Metadata;
use crate::progress::Progress;
use crate::tree::extract::Lost;
use crate::unpack;
use cache::{Blob, Cache};
use digest::{Checked, Digest};
use manifest::Config;
use platform::Wanted;

/// A container image whose bytes are at hand.
#[derive(Debug)]
pub struct Image {
    name: String,
    digest: Option<Digest>,
    config: Config,
    layers: Vec<Layer>,
}

/// A layer: a tar archive, in most cases compressed.
#[derive(Debug)]
struct Layer {
    section: Section,
    /// What it is checked against while it is read, unless it was before.
    digest: Option<Digest>,
    /// The same, uncompressed.
    diff_id: Option<Digest>,
}

/// A part of a file.
#[derive(Debug, Clone)]
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// Keeps the cache from removing it.
    _blob: Option<Arc<Blob>>,
}

impl Section {
    fn of_file(file: Arc<File>, at: u64, size: u64) -> Self {
        Self {
            file,
            at,
            end: at.saturating_add(size),
            _blob: None,
        }
    }

    fn of_blob(blob: Arc<Blob>) -> Result<Self, Error> {
        let file = blob
            .file
            .try_clone()
            .map_err(|error| Error::io("read from the cache", &error))?;
        Ok(Self {
            file: Arc::new(file),
            at: 0,
            end: blob.size,
            _blob: Some(blob),
        })
    }

    fn size(&self) -> u64 {
        self.end - self.at
    }

    fn reader(&self) -> Self {
        self.clone()
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let place = buffer.get_mut(..most).unwrap_or_default();
        let length = self.file.read_at(place, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Gets an image's bytes: fetches what is not in the cache, or finds them in a
/// directory or archive. `tmpdir` is for what needs a place for a while.
///
/// # Errors
/// It is not there, not to be had, damaged, or for other machines.
pub fn fetch(
    source: &Source,
    registry: &Registry,
    tmpdir: Option<&Path>,
    progress: &Progress,
) -> Result<Image, Error> {
    let wanted = Wanted::new(registry.arch.as_deref())?;
    let cache = |used| Cache::open(used, tmpdir);
    match source {
        Source::Registry(reference) => {
            let cache = cache(!registry.disable_cache)?;
            download::image(reference, registry, &cache, &wanted, progress)
        }
        Source::Layout(stored) | Source::OciArchive(stored) | Source::DockerArchive(stored) => {
            layout::image(source, stored, &cache(false)?, &wanted, progress)
        }
    }
}

impl Image {
    /// As it is written, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its manifest's digest, where it has a manifest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What `run` becomes, without the `#!` line; see [`runtime::runscript`].
    pub fn runscript(&self) -> Option<String> {
        runtime::runscript(&self.config)
    }

    /// The script for `/.singularity.d/env/10-base.sh`; see [`runtime::environment`].
    pub fn environment(&self) -> Option<String> {
        runtime::environment(&self.config)
    }

    /// The image's labels, and where it comes from.
    pub fn labels(&self) -> Vec<(String, String)> {
        let mut labels = runtime::labels(&self.config);
        labels.push(("oci.reference".to_owned(), self.name.clone()));
        if let Some(digest) = &self.digest {
            labels.push(("oci.digest".to_owned(), digest.to_string()));
        }
        labels
    }

    /// What makes `run` and `exec` treat the tree as a container would be treated:
    /// the runscript, the environment and the labels.
    pub fn metadata(&self) -> Metadata {
        Metadata {
            runscript: self.runscript().map(Script::new),
            base_environment: self.environment(),
            labels: self.labels(),
            ..Metadata::default()
        }
    }

    /// Unpacks all layers into the directory `tree`, which is there and empty.
    /// What it could not be given is returned.
    ///
    /// # Errors
    /// A damaged layer, or one that reaches out of the tree; a full disk.
    pub fn unpack_into(&self, tree: &Path, progress: &Progress) -> Result<Lost, Error> {
        let total = self.layers.iter().map(|layer| layer.section.size()).sum();
        let step = Arc::new(progress.bytes(format!("unpack {}", self.name), total));
        let mut lost = Lost::default();
        for (number, layer) in self.layers.iter().enumerate() {
            let name = format!("layer {} of {}", number + 1, self.name);
            let counted = Counted {
                reader: layer.section.reader(),
                step: Arc::clone(&step),
            };
            let plain = match &layer.digest {
                Some(digest) => {
                    let checked = Checked::new(counted, digest.clone(), format!("read {name}"));
                    unpack::decompress(checked, &name)?
                }
                None => unpack::decompress(counted, &name)?,
            };
            let plain: Box<dyn Read + Send> = match &layer.diff_id {
                Some(id) => Box::new(Checked::new(
                    plain,
                    id.clone(),
                    format!("read {name}, uncompressed"),
                )),
                None => plain,
            };
            let options = unpack::tar::Options {
                whiteouts: true,
                ..unpack::tar::Options::named(name)
            };
            let ahead = unpack::decompress::ReadAhead::new(plain);
            let more = unpack::tar::tar(ahead, tree, &options)?;
            lost.owners.extend(more.owners);
            lost.devices.extend(more.devices);
            lost.attributes.extend(more.attributes);
        }
        // Docker makes it when a container starts.
        if let Some(directory) = runtime::directory(&self.config) {
            let options = unpack::tar::Options::named(&self.name);
            unpack::tar::make_directory(tree, directory.as_bytes(), &options)?;
        }
        if let Some(step) = Arc::into_inner(step) {
            step.done();
        }
        Ok(lost)
    }
}

/// A reader that moves a bar.
struct Counted<R> {
    reader: R,
    step: Arc<crate::progress::Step>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.step.more(length as u64);
        Ok(length)
    }
}

/// The layers with the digests that the configuration gives them.
fn layers_of(
    sections: Vec<(Section, Option<Digest>)>,
    config: &Config,
    name: &str,
) -> Result<Vec<Layer>, Error> {
    let ids = &config.rootfs.diff_ids;
    if !ids.is_empty() && ids.len() != sections.len() {
        return Err(Error::new(
            format!("image {name}"),
            format!(
                "its configuration tells of {} layers, and there are {}",
                ids.len(),
                sections.len()
            ),
        )
        .hint("whoever made the image has to write it again"));
    }
    let with_ids = sections.into_iter().enumerate();
    Ok(with_ids
        .map(|(at, (section, digest))| Layer {
            section,
            digest,
            diff_id: ids.get(at).cloned(),
        })
        .collect())
}

/// An image for another machine is refused if one was asked for by name.
fn check_platform(config: &Config, wanted: &Wanted, name: &str) -> Result<(), Error> {
    let platform = &config.platform;
    let other_system = !matches!(&platform.os[..], "" | "linux");
    let fits = platform.architecture.is_empty() || wanted.fit(platform).is_some();
    if other_system {
        let os = image::Shown::new(&platform.os).to_string();
        return Err(
            Error::new(format!("image {name}"), format!("it is for {os}"))
                .hint("only images for Linux can be used"),
        );
    }
    // A variant is a promise of speed that this machine may keep.
    let same = Wanted::new(Some(&platform.architecture))
        .is_ok_and(|theirs| theirs.shown().split('/').next() == wanted.shown().split('/').next());
    match (fits || same, wanted.named) {
        (true, _) => Ok(()),
        (false, true) => Err(Error::new(
            format!("image {name}"),
            format!("it is for {}, not for {}", platform.shown(), wanted.shown()),
        )
        .hint("this image is for one architecture only")),
        (false, false) => {
            tracing::warn!(
                "{name} is for {}, and this machine is {}: its programs will not run here",
                platform.shown(),
                wanted.shown()
            );
            Ok(())
        }
    }
}
