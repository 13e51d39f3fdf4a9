//! Which of several images is the one for a machine.
//!
//! Owns: the names of architectures in registries, which are Go's. Never: asks the
//! processor for more than its family: an image that is made on a new login node
//! runs on old compute nodes too.

use image::Architecture;
use launcher::Error;
use serde::Deserialize;

/// A platform, as in an index or an image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The architecture, as in `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The architecture's version, as in `v7`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// As people write it: `arm/v7`.
    pub fn shown(&self) -> String {
        let shown: String = match &self.variant {
            Some(variant) => format!("{}/{variant}", self.architecture),
            None => self.architecture.clone(),
        };
        image::Shown::new(&shown).to_string()
    }
}

/// The platform to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    architecture: String,
    variant: Option<String>,
    /// It was asked for by name.
    pub named: bool,
}

impl Wanted {
    /// What `--arch` names, in Go's words or those of uname(1), with a variant behind
    /// a slash; or this machine's.
    ///
    /// # Errors
    /// A name that is none.
    pub fn new(named: Option<&str>) -> Result<Self, Error> {
        let Some(text) = named else {
            return Ok(Self {
                architecture: go_name(&Architecture::native().to_string()).to_owned(),
                variant: None,
                named: false,
            });
        };
        let text = text.strip_prefix("linux/").unwrap_or(text);
        let (architecture, variant) = match text.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant.to_owned())),
            None => (text, None),
        };
        let (architecture, variant) = match architecture {
            "armv7" | "armv7l" | "armhf" => ("arm", variant.or(Some("v7".into()))),
            "armv6" | "armv6l" | "armel" => ("arm", variant.or(Some("v6".into()))),
            other => (go_name(other), variant),
        };
        if architecture.is_empty() || !architecture.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::new(
                format!("architecture {}", image::Shown::new(text)),
                "this is no name of one",
            )
            .hint("--arch takes names as amd64, arm64, arm/v7, ppc64le, s390x or riscv64"));
        }
        Ok(Self {
            architecture: architecture.to_owned(),
            variant,
            named: true,
        })
    }

    /// How well a platform fits; smaller is better, none is not at all.
    pub fn fit(&self, platform: &Platform) -> Option<usize> {
        if platform.os != "linux" || platform.architecture != self.architecture {
            return None;
        }
        let variant = platform
            .variant
            .as_deref()
            .unwrap_or(match &self.architecture[..] {
                "arm64" => "v8",
                "amd64" => "v1",
                _ => "",
            });
        if let Some(wanted) = &self.variant {
            return (variant == wanted).then_some(0);
        }
        let order: &[&str] = match &self.architecture[..] {
            "arm" => &["v7", "", "v6", "v5"],
            "arm64" => &["v8"],
            // Programs for later versions stop on earlier processors.
            "amd64" => &["v1"],
            _ => return Some(usize::from(!variant.is_empty())),
        };
        order.iter().position(|known| *known == variant)
    }

    /// As people write it.
    pub fn shown(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}/{variant}", self.architecture),
            None => self.architecture.clone(),
        }
    }
}

/// Go's name of an architecture that has another in uname(1).
fn go_name(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "i386" | "i686" | "x86" => "386",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "mips64el" => "mips64le",
        "mipsel" => "mipsle",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut words = text.split('/');
        Platform {
            os: words.next().unwrap().into(),
            architecture: words.next().unwrap().into(),
            variant: words.next().map(Into::into),
        }
    }

    #[test]
    fn the_best_of_several_is_taken() {
        for (wanted, offers, best) in [
            ("amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("x86_64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            ("amd64/v3", &["linux/amd64/v3", "linux/amd64"], Some(0)),
            ("amd64", &["linux/amd64/v3", "windows/amd64"], None),
            ("aarch64", &["linux/arm64/v8"], Some(0)),
            (
                "arm",
                &["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"],
                Some(2),
            ),
            ("arm", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("armv6l", &["linux/arm/v7", "linux/arm/v6"], Some(1)),
            ("s390x", &["unknown/unknown", "linux/s390x"], Some(1)),
        ] {
            let wanted = Wanted::new(Some(wanted)).unwrap();
            let fits = offers.iter().enumerate();
            let found = fits
                .filter_map(|(at, offer)| Some((wanted.fit(&platform(offer))?, at)))
                .min();
            assert_eq!(found.map(|(_, at)| at), best, "{wanted:?} {offers:?}");
        }
        for wrong in ["", "a b", "../x"] {
            assert!(Wanted::new(Some(wrong)).is_err(), "{wrong}");
        }
        assert!(!Wanted::new(None).unwrap().named);
    }
}
