//! Environments that were recorded under real launchers, from `tests/data`.

#![allow(dead_code)]

use std::ffi::OsString;
use std::path::Path;

use pmi_shim::{detect, Environment, Host};

/// An environment with the descriptors that were sockets.
pub struct Recorded {
    pub pairs: Vec<(OsString, OsString)>,
    pub sockets: Vec<i32>,
}

impl Recorded {
    pub fn environment(&self) -> Environment<'_> {
        Environment::of(&self.pairs)
    }

    pub fn host(&self) -> Host {
        detect(&self.environment(), |number| self.sockets.contains(&number))
    }

    pub fn without_sockets(mut self) -> Self {
        self.sockets.clear();
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.pairs.retain(|(other, _)| other != name);
        self.pairs.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.pairs.retain(|(other, _)| other != name);
        self
    }
}

pub fn recorded(name: &str) -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(format!("{name}.env"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let sockets = text
        .lines()
        .find_map(|line| line.strip_prefix("# sockets:"))
        .unwrap_or_else(|| panic!("{path:?} does not say its sockets"))
        .split_whitespace()
        .map(|number| number.parse().expect("a descriptor number"))
        .collect();
    let pairs = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    Recorded { pairs, sockets }
}
