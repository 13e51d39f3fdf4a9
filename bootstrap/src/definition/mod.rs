//! Definition files: how an image is to be made, in either of two syntaxes.
//!
//! Owns: reading them, and complaints that show the line. Never: touches the
//! system; what a definition says is carried out elsewhere.
//!
//! The older syntax is a list of directives in the order in which they are carried
//! out, as Singularity had it in 2016. The newer one is a header of keys and
//! sections that begin with a percent sign. Both become a [`Definition`].

mod arguments;
mod directives;
mod sections;
#[cfg(test)]
mod tests;
mod text;
mod words;

use std::path::Path;

use launcher::Error;

pub use arguments::{is_name as is_argument_name, Argument, Arguments};
pub use text::{meant, Fault, Located, Place, Text};

/// A definition file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    text: Text,
    /// Which syntax it is in.
    pub syntax: Syntax,
    /// The stages in their order; the last one becomes the image. There is one at least.
    pub stages: Vec<Stage>,
}

/// The two ways to write a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// A list of directives: `DistType "debian"` …
    Directives,
    /// A header and sections: `Bootstrap: debootstrap` … `%post` …
    Sections,
}

/// A root file system to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stage {
    /// What later stages call it.
    pub name: Option<Located<String>>,
    /// Where the base system comes from.
    pub header: Header,
    /// Run on the host before anything else.
    pub pre: Vec<Script>,
    /// What is done once the base system is there, in this order.
    pub steps: Vec<Step>,
    /// Read by a shell before anything is started in the image.
    pub environment: Option<Script>,
    /// What `singularity run` becomes.
    pub runscript: Option<Script>,
    /// What is started with an instance of the image.
    pub startscript: Option<Script>,
    /// What tests the finished image.
    pub test: Option<Script>,
    /// What the image says about itself.
    pub help: Option<String>,
    /// Names and values.
    pub labels: Vec<(String, String)>,
    /// The apps, in the order in which they are first named.
    pub apps: Vec<App>,
}

/// Where a base system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// What makes the base system; none where what is in the image already stays.
    pub agent: Option<Located<Agent>>,
    /// `From:` the image, archive or reference that is the base.
    pub from: Option<Located<String>>,
    /// `MirrorURL:` where packages come from.
    pub mirrors: Vec<Mirror>,
    /// `OSVersion:` the release of the distribution.
    pub version: Option<Located<String>>,
    /// `UpdateURL:` where newer packages come from.
    pub updates: Vec<Located<String>>,
    /// `Include:` packages that are installed with the base system.
    pub include: Vec<Located<String>>,
    /// `Variant:` which packages belong to the base system, in words of the agent's.
    pub variant: Option<Located<String>>,
    /// `Components:` the parts of an archive that packages are taken from.
    pub components: Vec<Located<String>>,
    /// `Keyring:` the file with the keys that packages have to be signed with.
    pub keyring: Option<Located<String>>,
}

/// A package archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its address.
    pub url: Located<String>,
    /// What it is to be called in the configuration of the package manager.
    pub name: Option<String>,
}

/// What makes a base system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// Debian and its relatives, by debootstrap or mmdebstrap, whichever there is.
    Debootstrap,
    /// The same by mmdebstrap.
    Mmdebstrap,
    /// RPM distributions, by dnf or yum, whichever there is.
    Yum,
    /// The same by dnf.
    Dnf,
    /// One busybox.
    Busybox,
    /// Another image, of any format, or a directory.
    LocalImage,
    /// An image in a registry.
    Docker,
    /// A directory with an OCI layout.
    Oci,
    /// An archive of an OCI layout.
    OciArchive,
    /// An archive that `docker save` wrote.
    DockerArchive,
    /// Nothing: an empty directory.
    Scratch,
}

impl Agent {
    /// The names in `Bootstrap:`.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("debootstrap", Self::Debootstrap),
        ("mmdebstrap", Self::Mmdebstrap),
        ("yum", Self::Yum),
        ("dnf", Self::Dnf),
        ("busybox", Self::Busybox),
        ("localimage", Self::LocalImage),
        ("docker", Self::Docker),
        ("oci", Self::Oci),
        ("oci-archive", Self::OciArchive),
        ("docker-archive", Self::DockerArchive),
        ("scratch", Self::Scratch),
    ];

    /// The names in `DistType`.
    pub const DISTRIBUTIONS: [(&'static str, Self); 3] = [
        ("debian", Self::Debootstrap),
        ("redhat", Self::Yum),
        ("busybox", Self::Busybox),
    ];

    /// What `Bootstrap:` calls it.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, agent)| *agent == self)
            .map_or("", |(name, _)| name)
    }

    /// The agent of that name, in any case, among `names`.
    fn named(
        word: &Located<String>,
        names: &[(&'static str, Self)],
    ) -> Result<Located<Self>, Fault> {
        let found = names
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&word.value));
        if let Some((_, agent)) = found {
            return Ok(Located::new(*agent, word.at));
        }
        let all: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        let hint = match meant(&word.value, all.iter().copied()) {
            Some(name) => format!("did you mean {name}? There are {}", all.join(", ")),
            None => format!("there are {}", all.join(", ")),
        };
        let cause = format!("nothing makes a base system by the name {:?}", word.value);
        Err(Fault::new(word.at, cause, hint))
    }
}

/// Something that is done to a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A script on the host, which finds the root in `SINGULARITY_ROOTFS`.
    Setup(Script),
    /// Files are put in.
    Files(Files),
    /// Packages are installed by the distribution's package manager.
    Packages(Vec<Located<String>>),
    /// One command is run in the root, without a shell.
    Command(Vec<Located<String>>),
    /// A script in the root.
    Post(Script),
    /// What the package manager downloaded is removed.
    Cleanup(Place),
    /// An app's files are put in, and its script is run where it lies.
    App(String),
}

/// A script of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The text, without a `#!` line.
    pub text: String,
    /// The interpreter and its arguments: from `-c` or the `#!` line, else `/bin/sh`.
    pub interpreter: Vec<String>,
    /// Where it begins.
    pub at: Place,
}

/// The interpreter where nothing else is said.
pub const SHELL: &str = "/bin/sh";

impl Script {
    /// A script for the shell, from elsewhere than a definition.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            interpreter: vec![SHELL.to_owned()],
            at: Place::default(),
        }
    }

    /// The script as an executable file.
    pub fn file(&self) -> String {
        format!("#!{}\n{}", self.interpreter.join(" "), self.text)
    }

    /// Whether the interpreter is one of the shells that know `-e`.
    pub fn is_for_a_shell(&self) -> bool {
        let name = self.interpreter.first().map(Path::new);
        let name = name
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        matches!(name, Some("sh" | "bash" | "dash" | "ash" | "ksh" | "zsh"))
    }
}

/// Files to put in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// The stage they come from; else they are the host's.
    pub from: Option<Located<String>>,
    /// Which.
    pub list: Vec<Copying>,
}

/// A file, a directory, or all that fit a pattern, to put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copying {
    /// What, as a pattern in which `*`, `?` and `[…]` mean what they mean to a
    /// shell; `[*]` stands for the character itself.
    pub source: Located<String>,
    /// Where to; the same place where nothing is said.
    pub destination: Option<Located<String>>,
}

/// One of several programs that share an image, each with its own entry, variables
/// and files, as the Scientific Filesystem (SCIF) has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct App {
    /// Its name.
    pub name: String,
    /// Its files.
    pub files: Vec<Copying>,
    /// Run in the root when the image is built, in the app's directory.
    pub install: Option<Script>,
    /// What `run --app` becomes.
    pub runscript: Option<Script>,
    /// What `test --app` becomes.
    pub test: Option<Script>,
    /// What is started with an instance.
    pub startscript: Option<Script>,
    /// Read by a shell before the app starts.
    pub environment: Option<Script>,
    /// Names and values.
    pub labels: Vec<(String, String)>,
    /// What the app says about itself.
    pub help: Option<String>,
}

impl Definition {
    /// Reads a definition; `name` is for messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with file, line and column, the line itself,
    /// and what to do about it.
    pub fn parse(name: &Path, bytes: &[u8], given: &Arguments) -> Result<Self, Error> {
        let mut text = Text::new(name, bytes)?;
        let read = |text: &mut Text| {
            let syntax = recognise(text)?;
            arguments::replace(text, given)?;
            let stages = match syntax {
                Syntax::Directives => vec![directives::parse(text)?],
                Syntax::Sections => sections::parse(text)?,
            };
            Ok((syntax, stages))
        };
        match read(&mut text) {
            Ok((syntax, stages)) => Ok(Self {
                text,
                syntax,
                stages,
            }),
            Err(fault) => Err(text.complain(fault)),
        }
    }

    /// The text, in which build arguments have been replaced by their values.
    pub fn text(&self) -> String {
        self.text.all()
    }

    /// The name of the file, as it was given.
    pub fn name(&self) -> &Path {
        self.text.name()
    }

    /// An error about what stands at a place, found while it is carried out.
    pub fn complain(&self, at: Place, cause: impl Into<String>, hint: impl Into<String>) -> Error {
        self.text.complain(Fault::new(at, cause, hint))
    }

    /// The stage that becomes the image.
    ///
    /// # Panics
    /// Never: there is one at least.
    pub fn last(&self) -> &Stage {
        &self.stages[self.stages.len() - 1]
    }
}

/// Whether a text may be a definition: it has a line that only definitions have.
pub fn is_definition(bytes: &[u8]) -> bool {
    Text::new(Path::new(""), bytes).is_ok_and(|text| recognise(&text).is_ok())
}

/// The first word of a line that says something, and what follows it.
fn significant(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '%'));
    Some(line.split_at(end.unwrap_or(line.len())))
}

/// Which syntax it is, by the first line that only one of them can have.
fn recognise(text: &Text) -> Result<Syntax, Fault> {
    let mut first = None;
    for (number, line) in text.lines() {
        let Some((word, rest)) = significant(line) else {
            continue;
        };
        let column = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
        let at = Place {
            line: number,
            column,
        };
        let first = first.get_or_insert((at, word));
        if word.starts_with('%') || rest.trim_start().starts_with(':') && !word.is_empty() {
            return Ok(Syntax::Sections);
        }
        // Three words are directives and keys; without a colon either may be meant.
        let is_directive = directives::NAMES.contains(&word) || rest.starts_with('=');
        let is_key = sections::is_key(word);
        if is_directive && !is_key {
            return Ok(Syntax::Directives);
        }
        if !is_directive && first.0 == at {
            let names = directives::NAMES.iter().chain(&sections::KEYS);
            let hint = match meant(word, names.copied()) {
                Some(name) if sections::is_key(name) => format!("did you mean {name}: VALUE?"),
                Some(name) => format!("did you mean {name}?"),
                None => {
                    "a definition begins with Bootstrap: AGENT, or with DistType \"NAME\"".into()
                }
            };
            return Err(Fault::new(
                at,
                "neither a key with its value, nor a section, nor a directive",
                hint,
            ));
        }
    }
    match first {
        Some(_) => Ok(Syntax::Directives),
        None => Err(Fault::new(
            Place { line: 1, column: 1 },
            "the definition is empty",
            "it begins with Bootstrap: AGENT, or with DistType \"NAME\"",
        )),
    }
}
