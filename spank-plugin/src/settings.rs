//! What the options come to: a request for the launcher, or a refusal.
//!
//! Owns: what goes together, and what paths are relative to. Never: looks at the
//! system, but for the directory where the user stands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use image::{Image, Shown};
use launcher::request::{
    Access, Bind, Entry, EnvironmentChoice, Home, HostPath, ImagePath, Request,
};
use launcher::{bind, Error};

use crate::options::{known, Id, Typed};

/// How a step enters its image; every path is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image.
    pub image: PathBuf,
    /// Binds, in order.
    pub binds: Vec<Bind>,
    /// Where to start.
    pub working_directory: Option<ImagePath>,
    /// The home directory.
    pub home: Home,
    /// Private temporary directories.
    pub contain: bool,
    /// Few variables.
    pub clean: bool,
    /// Variables to set.
    pub variables: Vec<(OsString, OsString)>,
    /// What happens to changes.
    pub access: Access,
    /// Where the image is copied to first, as [`launcher::stage::Stage::parse`] reads it.
    pub stage: Option<OsString>,
}

/// Refuses options that contradict each other.
///
/// # Errors
/// Names both.
pub fn refuse_contradictions(typed: &Typed) -> Result<(), Error> {
    for (one, other) in [
        (Id::Off, Id::Image),
        (Id::Home, Id::NoHome),
        (Id::WritableTmpfs, Id::Overlay),
    ] {
        if typed.has(one) && typed.has(other) {
            return Err(Error::new(
                format!("{} with {}", dashed(one), dashed(other)),
                "they contradict each other",
            )
            .hint("give one of the two"));
        }
    }
    Ok(())
}

/// An option as it is typed.
pub fn dashed(id: Id) -> String {
    format!("--{}", known(id).name.to_string_lossy())
}

impl Settings {
    /// A digest of what shapes the namespace, but for the image.
    pub fn digest(&self) -> u128 {
        launcher::digest(&(
            (&self.binds, &self.home, &self.working_directory),
            (self.contain, &self.access, &self.stage),
        ))
    }

    /// What `typed` asks for, with relative paths starting at `cwd`.
    ///
    /// # Errors
    /// The option that cannot be understood, and how to write it.
    pub fn of(image: &OsStr, typed: &Typed, cwd: &Path) -> Result<Self, Error> {
        let path = |id| typed.last(id).map(|text| cwd.join(text));
        let mut binds: Vec<Bind> = Vec::new();
        for list in typed.all(Id::Bind) {
            for bind in bind::parse_list(list, cwd)? {
                if !binds.contains(&bind) {
                    binds.push(bind);
                }
            }
        }
        let home = match typed.last(Id::Home) {
            Some(pair) if !typed.has(Id::NoHome) => {
                let (source, destination) = bind::parse_pair(pair, cwd)?;
                Home::Instead {
                    source,
                    destination,
                }
            }
            _ if typed.has(Id::NoHome) => Home::None,
            _ => Home::Own,
        };
        let access = match path(Id::Overlay) {
            Some(directory) => Access::Overlay(HostPath::new(directory)),
            None if typed.has(Id::WritableTmpfs) => Access::WritableTmpfs,
            None => Access::ReadOnly,
        };
        Ok(Self {
            image: cwd.join(image),
            binds,
            working_directory: typed.last(Id::Pwd).map(in_image).transpose()?,
            home,
            contain: typed.has(Id::Contain),
            clean: typed.has(Id::CleanEnv),
            variables: variables(typed.all(Id::Env))?,
            access,
            stage: typed
                .last(Id::Stage)
                .map(|text| launcher::stage::Stage::absolute(text, cwd)),
        })
    }

    /// The request to enter `image` as these settings say.
    pub fn request(&self, image: Image, extra: &[Bind], launcher: pmi_shim::Host) -> Request {
        let mut request = Request::new(image, Entry::Exec(Vec::new()), launcher);
        request.binds = extra.iter().chain(&self.binds).cloned().collect();
        request.home = self.home.clone();
        request
            .working_directory
            .clone_from(&self.working_directory);
        request.contain = self.contain;
        request.access = self.access.clone();
        request.environment = EnvironmentChoice {
            clean: self.clean,
            ignore_image: false,
            set: self.variables.clone(),
        };
        request
    }

    /// Whether the user wants to see more of the host than is shown by itself.
    pub fn asks_for_binds(&self) -> bool {
        !self.binds.is_empty() || matches!(self.home, Home::Instead { .. })
    }

    /// The same as options with absolute paths, which mean the same everywhere.
    pub fn canonical(&self) -> Vec<(Id, OsString)> {
        let yes = || OsString::from("1");
        let mut all = vec![(Id::Image, self.image.clone().into_os_string())];
        if !self.binds.is_empty() {
            let list = self.binds.iter().map(|bind| {
                let pair = pair(bind.source.as_path(), bind.destination.as_path());
                [
                    pair,
                    if bind.read_only {
                        b":ro".to_vec()
                    } else {
                        Vec::new()
                    },
                ]
                .concat()
            });
            all.push((Id::Bind, joined(list)));
        }
        if let Some(directory) = &self.working_directory {
            all.push((Id::Pwd, directory.as_path().into()));
        }
        match &self.home {
            Home::Own => {}
            Home::None => all.push((Id::NoHome, yes())),
            Home::Instead {
                source,
                destination,
            } => all.push((
                Id::Home,
                OsString::from_vec(pair(source.as_path(), destination.as_path())),
            )),
        }
        if self.contain {
            all.push((Id::Contain, yes()));
        }
        if self.clean {
            all.push((Id::CleanEnv, yes()));
        }
        if !self.variables.is_empty() {
            let list = self.variables.iter().map(|(name, value)| {
                let mut text = name.clone();
                text.push("=");
                text.push(value);
                escaped(text.as_bytes(), b",")
            });
            all.push((Id::Env, joined(list)));
        }
        match &self.access {
            Access::WritableTmpfs => all.push((Id::WritableTmpfs, yes())),
            Access::Overlay(directory) => all.push((Id::Overlay, directory.as_path().into())),
            Access::ReadOnly | Access::Writable => {}
        }
        if let Some(stage) = &self.stage {
            all.push((Id::Stage, stage.clone()));
        }
        all
    }

    /// The words of `singularity exec` that enter the image in the same way, up to
    /// and without the command.
    pub fn command_line(&self, command: &Path, extra: &[Bind]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![command.into(), "exec".into()];
        let mut option = |name: &str, value: &OsStr| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            words.push(word);
        };
        for bind in extra.iter().chain(&self.binds) {
            let mut text = pair(bind.source.as_path(), bind.destination.as_path());
            text.extend(if bind.read_only { &b":ro"[..] } else { b"" });
            option("bind", OsStr::from_bytes(&text));
        }
        if let Some(directory) = &self.working_directory {
            option("pwd", directory.as_path().as_os_str());
        }
        if let Home::Instead {
            source,
            destination,
        } = &self.home
        {
            let text = pair(source.as_path(), destination.as_path());
            option("home", OsStr::from_bytes(&text));
        }
        for (name, value) in &self.variables {
            let mut text = name.clone();
            text.push("=");
            text.push(value);
            option("env", &text);
        }
        if let Access::Overlay(directory) = &self.access {
            option("overlay", directory.as_path().as_os_str());
        }
        if let Some(stage) = &self.stage {
            option("stage", stage);
        }
        for (name, wanted) in [
            ("--no-home", self.home == Home::None),
            ("--contain", self.contain),
            ("--cleanenv", self.clean),
            ("--writable-tmpfs", self.access == Access::WritableTmpfs),
        ] {
            if wanted {
                words.push(name.into());
            }
        }
        words.push(self.image.clone().into_os_string());
        words
    }
}

fn in_image(path: &OsStr) -> Result<ImagePath, Error> {
    ImagePath::new(path).ok_or_else(|| {
        Error::new(
            format!("{} {}", dashed(Id::Pwd), Shown::new(path)),
            "not an absolute path",
        )
        .hint("give the path as it is in the image, from / on")
    })
}

fn variables(lists: &[OsString]) -> Result<Vec<(OsString, OsString)>, Error> {
    let mut all = Vec::new();
    for list in lists {
        for item in items(list.as_bytes()) {
            let assignment = item.iter().position(|&b| b == b'=').filter(|&at| at > 0);
            let Some(equals) = assignment else {
                let text = OsString::from_vec(item);
                return Err(Error::new(
                    format!("{} {}", dashed(Id::Env), Shown::new(&text)),
                    "not NAME=VALUE",
                )
                .hint(r"a comma in a value is written \,"));
            };
            let pair = (
                OsString::from_vec(item[..equals].to_vec()),
                OsString::from_vec(item[equals + 1..].to_vec()),
            );
            if !all.contains(&pair) {
                all.push(pair);
            }
        }
    }
    Ok(all)
}

/// The items of a comma list in which `\,` is a comma and `\\` a backslash.
fn items(list: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut item = Vec::new();
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(&next @ (b',' | b'\\'))) => {
                item.push(next);
                bytes.next();
            }
            (b',', _) => all.push(std::mem::take(&mut item)),
            _ => item.push(byte),
        }
    }
    all.push(item);
    all.retain(|item| !item.is_empty());
    all
}

fn pair(source: &Path, destination: &Path) -> Vec<u8> {
    let part = |path: &Path| escaped(path.as_os_str().as_bytes(), b":,");
    [part(source), b":".to_vec(), part(destination)].concat()
}

fn escaped(text: &[u8], special: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if byte == b'\\' || special.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

fn joined(items: impl Iterator<Item = Vec<u8>>) -> OsString {
    OsString::from_vec(items.collect::<Vec<_>>().join(&b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(uses: &[(Id, &str)]) -> Typed {
        let mut typed = Typed::default();
        for (id, argument) in uses {
            typed.add(*id, Some(argument.into()));
        }
        typed
    }

    #[test]
    fn canonical_options_mean_the_same_wherever_they_are_read() {
        let typed = typed(&[
            (Id::Bind, r"data,/x\:y:/z:ro"),
            (Id::Bind, "/etc/a b"),
            (Id::Pwd, "/work"),
            (Id::Home, "h:/home/me"),
            (Id::Contain, ""),
            (Id::Env, r"A=1\,2,B=\\x"),
            (Id::WritableTmpfs, ""),
            (Id::Stage, "try:./d"),
        ]);
        let first = Settings::of(OsStr::new("img"), &typed, Path::new("/here")).unwrap();
        assert_eq!(first.image, Path::new("/here/img"));
        assert_eq!(first.variables[0], ("A".into(), "1,2".into()));
        let mut again = Typed::default();
        for (id, value) in first.canonical() {
            again.add(id, Some(value));
        }
        let image = again.last(Id::Image).unwrap().to_owned();
        let second = Settings::of(&image, &again, Path::new("/elsewhere")).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn contradictions_and_what_cannot_be_read_are_named() {
        let both = typed(&[(Id::WritableTmpfs, ""), (Id::Overlay, "d")]);
        let error = refuse_contradictions(&both).unwrap_err().to_string();
        assert_eq!(
            error,
            "--singularity-writable-tmpfs with --singularity-overlay: they contradict each other"
        );
        for (uses, text) in [
            ([(Id::Pwd, "relative")], "not an absolute path"),
            ([(Id::Env, "NOTHING")], "not NAME=VALUE"),
            ([(Id::Bind, ":/b")], "source is empty"),
        ] {
            let result = Settings::of(OsStr::new("i"), &typed(&uses), Path::new("/"));
            assert!(result.unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
