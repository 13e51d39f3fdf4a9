//! An image of a registry becomes checked bytes on this machine.
//!
//! Owns: which documents and layers are needed, fetching them side by side, and
//! going on where a download was interrupted. Never: lets a byte through whose
//! digest was not checked.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use command::cli::images::Registry;
use image::Shown;
use launcher::Error;
use serde::Deserialize;
use ureq::http::{header, StatusCode};

use super::cache::{Begun, Blob, Cache, Partial, Record};
use super::client::{broken, Client};
use super::digest::{mismatch, Digest};
use super::manifest::{choose, Config, Descriptor, Document, Manifest, ACCEPTED, MOST_BYTES};
use super::platform::Wanted;
use super::reference::Reference;
use super::{check_platform, layers_of, Image, Section};
use crate::progress::{Progress, Step};

/// How many layers are fetched at the same time.
const AT_ONCE: usize = 4;

/// How often a download may break without having come further.
const BREAKS: u32 = 5;

/// How deep indexes in indexes are followed.
const DEPTH: usize = 4;

/// How many tags a hint tells.
const TAGS: usize = 8;

struct Download<'a> {
    client: Client,
    reference: &'a Reference,
    cache: &'a Cache,
    name: String,
}

/// Fetches what is missing of an image in a registry.
///
/// # Errors
/// What the registry, the network or the disk says.
pub fn image(
    reference: &Reference,
    registry: &Registry,
    cache: &Cache,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Image, Error> {
    let download = Download {
        client: Client::new(reference, registry)?,
        reference,
        cache,
        name: reference.to_string(),
    };
    let (digest, manifest) = download.manifest(wanted)?;
    let config = download.document("blobs", &manifest.config)?;
    let config = Config::read(&config, &download.name)?;
    check_platform(&config, wanted, &download.name)?;
    let blobs = download.layers(&manifest.layers, progress)?;
    let all = [&digest, &manifest.config.digest];
    let record = Record {
        name: download.name.clone(),
        blobs: all
            .into_iter()
            .chain(manifest.layers.iter().map(|layer| &layer.digest))
            .cloned()
            .collect(),
    };
    cache.record(&digest, &record);
    let mut sections = Vec::new();
    for blob in manifest
        .layers
        .iter()
        .filter_map(|layer| blobs.get(&layer.digest))
    {
        sections.push((Section::of_blob(Arc::clone(blob))?, None));
    }
    let layers = layers_of(sections, &config, &download.name)?;
    Ok(Image {
        name: download.name,
        digest: Some(digest),
        config,
        layers,
    })
}

impl Download<'_> {
    /// The manifest for the machine, with its digest.
    fn manifest(&self, wanted: &Wanted) -> Result<(Digest, Manifest), Error> {
        let version = self.reference.version();
        let path = format!("manifests/{version}");
        let cached = self
            .reference
            .digest
            .as_ref()
            .and_then(|digest| self.kept(digest));
        let mut bytes = match cached {
            Some(bytes) => bytes,
            None => self
                .client
                .document(&path, &ACCEPTED, MOST_BYTES)
                .map_err(|failure| match failure.status {
                    Some(StatusCode::NOT_FOUND) => self.not_found(failure.error),
                    _ => failure.error,
                })?,
        };
        let mut digest = match &self.reference.digest {
            Some(digest) if digest.is_of(&bytes) => digest.clone(),
            Some(digest) => {
                return Err(mismatch(
                    &self.client.step(&path),
                    digest,
                    &Digest::of(&bytes),
                ))
            }
            None => Digest::of(&bytes),
        };
        for _ in 0..DEPTH {
            self.keep(&digest, &bytes)?;
            match Document::read(&bytes, &self.name)? {
                Document::Manifest(manifest) => return Ok((digest, manifest)),
                Document::Index(manifests) => {
                    let chosen = choose(&manifests, wanted, &self.name)?;
                    bytes = self.document("manifests", chosen)?;
                    digest = chosen.digest.clone();
                }
            }
        }
        Err(Error::new(
            format!("manifest of {}", self.name),
            "it is an index of indexes without end",
        )
        .hint("whoever made the image has to write it again"))
    }

    /// Says whether it is the name or the tag that is not there.
    fn not_found(&self, error: Error) -> Error {
        #[derive(Deserialize)]
        struct List {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let Reference { host, name, .. } = self.reference;
        let version = self.reference.version();
        let list = self.client.document("tags/list", &[], MOST_BYTES);
        let step = format!("fetch {}", self.name);
        match list {
            Ok(bytes) => {
                let list: Option<List> = serde_json::from_slice(&bytes).ok();
                let mut tags = list.and_then(|list| list.tags).unwrap_or_default();
                let more = if tags.len() > TAGS { ", …" } else { "" };
                tags.truncate(TAGS);
                let error = Error::new(step, format!("{name} has no {version} there"));
                if tags.is_empty() {
                    error.hint("it has no tags at all; check the name")
                } else {
                    let tags: Vec<_> = tags.iter().map(|tag| Shown::new(tag).to_string()).collect();
                    error.hint(format!("there are {}{more}", tags.join(", ")))
                }
            }
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND) => {
                Error::new(step, format!("{host} has no image {name}")).hint("check the name")
            }
            Err(_) => error,
        }
    }

    /// A document that another one points to: from the cache, or from the registry.
    fn document(&self, kind: &str, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let digest = &descriptor.digest;
        if let Some(bytes) = self.kept(digest) {
            return Ok(bytes);
        }
        let path = format!("{kind}/{digest}");
        let accept: &[&str] = if kind == "manifests" { &ACCEPTED } else { &[] };
        let bytes = self.client.document(&path, accept, MOST_BYTES)?;
        if !digest.is_of(&bytes) {
            return Err(mismatch(
                &self.client.step(&path),
                digest,
                &Digest::of(&bytes),
            ));
        }
        self.keep(digest, &bytes)?;
        Ok(bytes)
    }

    fn kept(&self, digest: &Digest) -> Option<Vec<u8>> {
        let blob = self.cache.find(digest)?;
        let mut bytes = Vec::new();
        (&blob.file).take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if let Begun::Missing(mut partial) = self.cache.begin(digest)? {
            partial.restart(digest)?;
            partial.append(bytes)?;
            partial.finish(digest, &self.name)?;
        }
        Ok(())
    }

    /// All layers, each once.
    fn layers(
        &self,
        layers: &[Descriptor],
        progress: &Progress,
    ) -> Result<HashMap<Digest, Arc<Blob>>, Error> {
        let mut unique: Vec<&Descriptor> = Vec::new();
        for layer in layers {
            if !unique.iter().any(|known| known.digest == layer.digest) {
                unique.push(layer);
            }
        }
        let found = side_by_side(&unique, |layer| Ok(self.cache.find(&layer.digest)))?;
        let mut blobs = HashMap::new();
        let mut missing = Vec::new();
        for (layer, blob) in unique.into_iter().zip(found) {
            match blob {
                Some(blob) => drop(blobs.insert(layer.digest.clone(), Arc::new(blob))),
                None => missing.push(layer),
            }
        }
        if missing.is_empty() {
            return Ok(blobs);
        }
        let total = missing.iter().map(|layer| layer.size).sum();
        let step = progress.bytes(format!("fetch {}", self.name), total);
        let fetched = side_by_side(&missing, |layer| self.layer(layer, &step).map(Some))?;
        step.done();
        for (layer, blob) in missing.into_iter().zip(fetched) {
            if let Some(blob) = blob {
                blobs.insert(layer.digest.clone(), Arc::new(blob));
            }
        }
        Ok(blobs)
    }

    fn layer(&self, layer: &Descriptor, step: &Step) -> Result<Blob, Error> {
        let digest = &layer.digest;
        let mut partial = match self.cache.begin(digest)? {
            Begun::Ready(blob) => {
                step.more(layer.size);
                return Ok(blob);
            }
            Begun::Missing(partial) => *partial,
        };
        let path = format!("blobs/{digest}");
        let mut breaks = 0;
        let mut pause = Duration::from_millis(200);
        let mut whole = partial.have() == 0;
        step.more(partial.have().min(layer.size));
        loop {
            if partial.have() > layer.size {
                partial.restart(digest)?;
                whole = true;
            }
            if partial.have() == layer.size {
                if whole {
                    return partial.finish(digest, &self.client.step(&path));
                }
                // What an earlier run left may be damaged; what this one fetches not.
                match self.finish_resumed(partial, layer, &path)? {
                    Ok(blob) => return Ok(blob),
                    Err(again) => partial = again,
                }
                whole = true;
            }
            let before = partial.have();
            match self.more(&mut partial, layer, &path, step) {
                Ok(()) => {}
                Err(More::Failed(error)) => return Err(error),
                Err(More::Broken(error)) => {
                    if partial.have() > before {
                        (breaks, pause) = (0, Duration::from_millis(200));
                    }
                    breaks += 1;
                    if breaks >= BREAKS {
                        return Err(error);
                    }
                    tracing::info!("{error}; going on at byte {}", partial.have());
                    thread::sleep(pause);
                    pause *= 2;
                }
            }
            if STOP.with(|stop| {
                stop.borrow()
                    .as_ref()
                    .is_some_and(|stop| stop.load(Ordering::Relaxed))
            }) {
                return Err(Error::new(
                    self.client.step(&path),
                    "another part has failed",
                ));
            }
        }
    }

    /// Finishes a download whose beginning is an earlier run's, or empties it.
    fn finish_resumed(
        &self,
        partial: Partial,
        layer: &Descriptor,
        path: &str,
    ) -> Result<Result<Blob, Partial>, Error> {
        match partial.finish(&layer.digest, &self.client.step(path)) {
            Ok(blob) => Ok(Ok(blob)),
            Err(error) => {
                tracing::info!("{error}; fetching it again");
                match self.cache.begin(&layer.digest)? {
                    Begun::Ready(blob) => Ok(Ok(blob)),
                    Begun::Missing(mut partial) => {
                        partial.restart(&layer.digest)?;
                        Ok(Err(*partial))
                    }
                }
            }
        }
    }

    /// One request for what is missing of a layer.
    fn more(
        &self,
        partial: &mut Partial,
        layer: &Descriptor,
        path: &str,
        step: &Step,
    ) -> Result<(), More> {
        let from = partial.have();
        let response = match self.client.get(path, &[], from) {
            Ok(response) => response,
            Err(failure)
                if failure.status == Some(StatusCode::RANGE_NOT_SATISFIABLE) && from > 0 =>
            {
                return partial.restart(&layer.digest).map_err(More::Failed);
            }
            Err(failure) => {
                let elsewhere = layer.urls.as_ref().is_some_and(|urls| !urls.is_empty());
                let error = failure.error;
                return Err(More::Failed(match failure.status {
                    Some(StatusCode::NOT_FOUND) if elsewhere => error
                        .hint("this layer is kept elsewhere, from where it may not be passed on"),
                    Some(StatusCode::NOT_FOUND) => error.hint(
                        "the registry has lost a part of the image: it has to be pushed again",
                    ),
                    _ => error,
                }));
            }
        };
        if from > 0 {
            let range = response
                .headers()
                .get(header::CONTENT_RANGE)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
                && range.trim_start().starts_with(&format!("bytes {from}-"));
            if goes_on {
                tracing::info!("{}: going on at byte {from}", self.client.step(path));
            } else {
                // A registry that sends everything again.
                partial.restart(&layer.digest).map_err(More::Failed)?;
            }
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        while partial.have() <= layer.size {
            let length = reader
                .read(&mut buffer)
                .map_err(|error| More::Broken(broken(self.client.step(path), &error)))?;
            if length == 0 {
                break;
            }
            partial
                .append(buffer.get(..length).unwrap_or_default())
                .map_err(More::Failed)?;
            step.more(length as u64);
            if STOP.with(|stop| {
                stop.borrow()
                    .as_ref()
                    .is_some_and(|stop| stop.load(Ordering::Relaxed))
            }) {
                return Ok(());
            }
        }
        if partial.have() > layer.size {
            let cause = format!("more comes than the {} bytes it should have", layer.size);
            partial.restart(&layer.digest).map_err(More::Failed)?;
            return Err(More::Failed(
                Error::new(self.client.step(path), cause).hint(
                    "the registry sends something else than its manifest says: tell who runs it",
                ),
            ));
        }
        if partial.have() < layer.size {
            let end = std::io::ErrorKind::UnexpectedEof.into();
            return Err(More::Broken(broken(self.client.step(path), &end)));
        }
        Ok(())
    }
}

/// Why a request brought not all.
enum More {
    /// Another request may bring the rest.
    Broken(Error),
    Failed(Error),
}

thread_local! {
    /// Set when another thread of the same work has failed.
    static STOP: std::cell::RefCell<Option<Arc<AtomicBool>>> = const { std::cell::RefCell::new(None) };
}

/// Does the same for several things, some at a time, and returns what came of each;
/// or the first error, after the others were told to stop.
fn side_by_side<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&T) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let next = AtomicUsize::new(0);
    let stop = Arc::new(AtomicBool::new(false));
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(all.len()) {
            scope.spawn(|| {
                STOP.with(|it| *it.borrow_mut() = Some(Arc::clone(&stop)));
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(thing) = all.get(at).filter(|_| !stop.load(Ordering::Relaxed)) else {
                        return;
                    };
                    match work(thing) {
                        Ok(result) => done
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((at, result)),
                        Err(error) => {
                            if !stop.swap(true, Ordering::Relaxed) {
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(error);
                            }
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
