//! The documents that describe an image: indexes, manifests and configurations.
//!
//! Owns: reading those of the OCI image specification and of Docker (schema 2),
//! and refusing what is neither. Never: fetches one.

use std::collections::BTreeMap;

use image::Shown;
use launcher::Error;
use serde::Deserialize;

use super::digest::Digest;
use super::platform::{Platform, Wanted};

/// The largest index, manifest or configuration; registries allow 4 MiB.
pub const MOST_BYTES: u64 = 8 << 20;

/// The most layers; Docker stops at 127.
const MOST_LAYERS: usize = 1000;

/// What may be asked for, in a registry's header `Accept`.
pub const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A pointer to bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What they are.
    #[serde(default)]
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// How many.
    pub size: u64,
    /// In an index: for which machines.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// In an index: more about it.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where else they are.
    #[serde(default)]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    /// An annotation, if it is there.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// An index or a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several images.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Everything that a document may have. Unknown members are left alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<serde_json::Value>,
}

impl Document {
    /// Reads one; `name` is the image's, for messages.
    ///
    /// # Errors
    /// It is damaged, of another kind, or ambiguous.
    pub fn read(bytes: &[u8], name: &str) -> Result<Self, Error> {
        let wrong = |cause: String| {
            Error::new(format!("manifest of {name}"), cause)
                .hint("whoever made the image has to write it again")
        };
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("it is no manifest: {error}")))?;
        let old = raw.schema_version == Some(1) || raw.fs_layers.is_some();
        if old {
            return Err(Error::new(
                format!("manifest of {name}"),
                "it has Docker's schema 1, which was given up in 2017",
            )
            .hint("push the image again with a tool of today"));
        }
        match (raw.manifests, raw.config, raw.layers) {
            // Readers differ in which they take: CVE-2021-41190.
            (Some(_), None, Some(_)) | (Some(_), Some(_), _) => {
                Err(wrong("it is an index and a manifest at once".into()))
            }
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                if layers.len() > MOST_LAYERS {
                    return Err(wrong(format!("it has {} layers", layers.len())));
                }
                let what = raw.artifact_type.as_deref().unwrap_or(&config.media_type);
                if !is_of_an_image(&config.media_type) {
                    return Err(Error::new(
                        format!("manifest of {name}"),
                        format!("it is of no container image but of {}", Shown::new(what)),
                    )
                    .hint("registries hold other things too; check the name"));
                }
                for layer in &layers {
                    if layer.media_type.contains("encrypted") {
                        return Err(wrong(
                            "its layers are encrypted, which is not supported".into(),
                        ));
                    }
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ => Err(wrong(match raw.media_type {
                Some(kind) => format!("it is of the unknown kind {}", Shown::new(&kind)),
                None => "it names neither layers nor manifests".into(),
            })),
        }
    }
}

fn is_of_an_image(media_type: &str) -> bool {
    matches!(
        media_type,
        "" | "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            // As very old tools wrote it.
            | "application/octet-stream"
    )
}

/// The one of an index that fits the machine.
///
/// # Errors
/// None does, with those that there are.
pub fn choose<'a>(
    manifests: &'a [Descriptor],
    wanted: &Wanted,
    name: &str,
) -> Result<&'a Descriptor, Error> {
    let fits = manifests.iter().enumerate().filter_map(|(at, manifest)| {
        let fit = match &manifest.platform {
            Some(platform) => wanted.fit(platform)?,
            // Only its configuration tells.
            None => 100,
        };
        Some((fit, at, manifest))
    });
    let best = fits.min_by_key(|(fit, at, _)| (*fit, *at));
    best.map(|(_, _, manifest)| manifest).ok_or_else(|| {
        let mut there: Vec<_> = manifests
            .iter()
            .filter_map(|manifest| manifest.platform.as_ref())
            .filter(|platform| platform.os == "linux")
            .map(Platform::shown)
            .collect();
        there.dedup();
        let hint = if there.is_empty() {
            "it has none for Linux".to_owned()
        } else {
            format!("there are {}; --arch takes one", there.join(", "))
        };
        Error::new(
            format!("image {name}"),
            format!("there is none for {}", wanted.shown()),
        )
        .hint(hint)
    })
}

/// An image's configuration, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// For which machines.
    #[serde(flatten)]
    pub platform: Platform,
    /// How it is run.
    #[serde(default)]
    pub config: Option<Running>,
    /// Its layers, uncompressed.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// How an image is run. The names are Docker's, upper case and all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Running {
    /// The program, with arguments that always come first.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The arguments when there are no others; or the program.
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
    /// Variables, `NAME=VALUE`.
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Where it starts.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// As whom.
    #[serde(default)]
    pub user: Option<String>,
    /// Names and values.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// The layers as their archives are before compression.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// Their digests, the lowest layer's first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads one; `name` is the image's, for messages.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(bytes: &[u8], name: &str) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::new(format!("configuration of {name}"), error.to_string())
                .hint("whoever made the image has to write it again")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(more: &str) -> String {
        format!("{{\"digest\":\"sha256:{HEX}\",\"size\":7{more}}}")
    }

    fn read(text: &str) -> Result<Document, String> {
        Document::read(text.as_bytes(), "it").map_err(|error| error.to_string())
    }

    #[test]
    fn manifests_and_indexes_are_told_apart_by_what_is_in_them() {
        let one = descriptor("");
        let manifest = format!("{{\"schemaVersion\":2,\"config\":{one},\"layers\":[{one},{one}]}}");
        let Document::Manifest(manifest) = read(&manifest).unwrap() else {
            panic!("no manifest")
        };
        assert_eq!(manifest.layers.len(), 2);
        let arm = descriptor(",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}");
        let amd = descriptor(",\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}");
        let Document::Index(all) = read(&format!("{{\"manifests\":[{arm},{amd}]}}")).unwrap()
        else {
            panic!("no index")
        };
        let wanted = |name| Wanted::new(Some(name)).unwrap();
        assert_eq!(choose(&all, &wanted("amd64"), "it").unwrap(), &all[1]);
        let error = choose(&all, &wanted("s390x"), "it").unwrap_err();
        assert_eq!(error.to_string(), "image it: there is none for s390x");
        assert_eq!(
            error.remedy(),
            Some("there are arm64, amd64; --arch takes one")
        );
    }

    #[test]
    fn what_is_no_container_image_is_refused_in_words() {
        let one = descriptor("");
        let chart = descriptor(",\"mediaType\":\"application/vnd.cncf.helm.config.v1+json\"");
        let secret =
            descriptor(",\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip+encrypted\"");
        for (text, cause) in [
            ("", "it is no manifest"),
            ("[]", "it is no manifest"),
            ("{}", "it names neither layers nor manifests"),
            ("{\"schemaVersion\":1,\"fsLayers\":[]}", "schema 1"),
            (
                &format!("{{\"manifests\":[],\"layers\":[{one}]}}"),
                "at once",
            ),
            (
                &format!("{{\"manifests\":[],\"config\":{one},\"layers\":[]}}"),
                "at once",
            ),
            (
                &format!("{{\"config\":{chart},\"layers\":[]}}"),
                "of no container image but of application/vnd.cncf",
            ),
            (
                &format!("{{\"config\":{one},\"layers\":[{secret}]}}"),
                "encrypted",
            ),
            (
                "{\"config\":{\"digest\":\"sha256:..\",\"size\":1},\"layers\":[]}",
                "it is no manifest: a digest is",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    #[test]
    fn a_configuration_may_leave_out_nearly_everything() {
        assert_eq!(Config::read(b"{}", "it").unwrap(), Config::default());
        let text = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":["A=1"],
            "Entrypoint":["/x"],"Volumes":{"/v":{}}},"history":[{}]}"#;
        let config = Config::read(text, "it").unwrap();
        assert_eq!(config.platform.shown(), "amd64");
        assert_eq!(config.config.unwrap().entrypoint.unwrap(), ["/x"]);
    }
}
