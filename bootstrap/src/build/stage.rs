//! One stage of a definition becomes a root file system.
//!
//! Owns: the order of its parts: the base system, the steps as they are written,
//! what the image says of itself, the test, and removing what another build would
//! have otherwise. Never: packs.

use std::path::{Path, PathBuf};

use command::cli::images::Registry;
use image::{Image, Shown};
use launcher::Error;

use super::{confined, script};
use crate::agents::{self, Site};
use crate::confined::Confined;
use crate::definition::{Agent, App, Definition, Files, Located, Script, Stage, Step};
use crate::files::{self, Origin};
use crate::log::Log;
use crate::metadata::{self, Metadata};
use crate::remote;
use crate::space::{Root, Space};
use crate::tree::extract::{Lost, Options};
use crate::unpack;

/// What a stage is made with.
pub struct Builder<'a> {
    pub definition: &'a Definition,
    pub stage: &'a Stage,
    pub space: &'a Space,
    pub log: &'a Log,
    /// The root that is put together.
    pub tree: &'a Path,
    /// A directory for temporary files.
    pub scratch: &'a Path,
    /// The stages before, by their names.
    pub earlier: &'a [(Option<String>, PathBuf)],
    pub registry: &'a Registry,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<u64>,
}

impl Builder<'_> {
    /// Makes it, and returns what the tree could not be given.
    pub fn make(&self, is_last: bool) -> Result<Lost, Error> {
        let root = Root::new(self.space, self.tree)?;
        for text in &self.stage.pre {
            script::on_host(text, "%pre", &root, self.scratch, self.log)?;
        }
        let mut metadata = Metadata::default();
        let lost = self.base(&mut metadata)?;
        let tree = confined(self.tree)?;
        metadata::ready_for_scripts(&tree)?;
        for step in &self.stage.steps {
            self.step(step, &root, &tree)?;
        }
        let added = metadata::added_by_scripts(&tree)?;
        self.describe(&mut metadata, added, is_last);
        metadata::write(self.tree, &metadata)?;
        Ok(lost)
    }

    fn site(&self) -> Site<'_> {
        Site {
            space: self.space,
            root: self.tree,
            scratch: self.scratch,
            log: self.log,
        }
    }

    /// The base system, with the packages of `Include`.
    fn base(&self, metadata: &mut Metadata) -> Result<Lost, Error> {
        let header = &self.stage.header;
        let lost = match header.agent.as_ref().map(|agent| agent.value) {
            Some(Agent::LocalImage) => self.local_image()?,
            Some(
                agent @ (Agent::Docker | Agent::Oci | Agent::OciArchive | Agent::DockerArchive),
            ) => {
                let from = self.from("the image it is made from")?;
                let address = match agent {
                    Agent::Docker if from.value.contains("://") => from.value.clone(),
                    Agent::Docker => format!("docker://{}", from.value),
                    agent => format!("{}:{}", agent.name(), from.value),
                };
                let source = remote::source(&address)?;
                let progress = self.log.progress();
                let scratch = Some(self.scratch);
                let (lost, own) =
                    remote::unpack(&source, self.registry, scratch, self.tree, progress)?;
                *metadata = own;
                lost
            }
            _ => Lost::default(),
        };
        agents::install(header, &self.site())?;
        Ok(lost)
    }

    fn from(&self, what: &str) -> Result<&Located<String>, Error> {
        self.stage.header.from.as_ref().ok_or_else(|| {
            let at = self.stage.header.agent.as_ref().map(|agent| agent.at);
            self.definition.complain(
                at.unwrap_or_default(),
                format!("nothing says {what}"),
                "add From: with its name",
            )
        })
    }

    fn local_image(&self) -> Result<Lost, Error> {
        let from = self.from("which image it is made from")?;
        let path = Path::new(&from.value);
        let step = self
            .log
            .progress()
            .step(format!("unpack {}", Shown::new(path)));
        let image = Image::open(path).map_err(|error| {
            let hint = error.hint();
            self.definition.complain(
                from.at,
                error.to_string(),
                hint.unwrap_or_else(|| "relative names begin where the build was started".into()),
            )
        })?;
        let lost = unpack::image(
            &image,
            self.tree,
            Options {
                epoch: self.epoch,
                ..Options::default()
            },
        )?;
        step.done();
        Ok(lost)
    }

    fn step(&self, step: &Step, root: &Root<'_>, tree: &Confined) -> Result<(), Error> {
        match step {
            Step::Setup(text) => script::on_host(text, "%setup", root, self.scratch, self.log),
            Step::Files(files) => self.files(files, tree),
            Step::Packages(packages) => {
                let names = packages.iter().map(|name| name.value.as_str()).collect();
                agents::add(&self.stage.header, names, &self.site())
            }
            Step::Command(words) => self.command(words, root),
            Step::Post(text) => self.inside(text, "%post", root, None, &[]),
            Step::Cleanup(_) => agents::clean(self.tree),
            Step::App(name) => self.app(name, root, tree),
        }
    }

    fn files(&self, files: &Files, tree: &Confined) -> Result<(), Error> {
        let top = Path::new("/");
        let Some(from) = &files.from else {
            let here = std::env::current_dir()
                .map_err(|error| Error::io("find the current directory", &error))?;
            return files::put_in(
                &files.list,
                &Origin::Host(&here),
                tree,
                top,
                self.definition,
            );
        };
        let stage = self
            .earlier
            .iter()
            .rev()
            .find(|(name, _)| name.as_deref() == Some(&from.value));
        let Some((_, path)) = stage else {
            return Err(self.definition.complain(
                from.at,
                format!("no stage before this one is called {}", from.value),
                "Stage: in a header gives a stage its name",
            ));
        };
        let stage = Confined::new(path)?;
        files::put_in(
            &files.list,
            &Origin::Stage(&stage),
            tree,
            top,
            self.definition,
        )
    }

    fn command(&self, words: &[Located<String>], root: &Root<'_>) -> Result<(), Error> {
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        let arguments = arguments.iter().map(|word| &word.value);
        root.command(&program.value)
            .args(arguments)
            .doing(format!("run {}", Shown::new(&program.value)))
            .run(self.log)
            .map_err(|error| self.log.keep(error))
    }

    fn inside(
        &self,
        text: &Script,
        name: &str,
        root: &Root<'_>,
        directory: Option<&Path>,
        variables: &[(String, String)],
    ) -> Result<(), Error> {
        script::inside(
            text,
            name,
            root,
            self.scratch,
            directory,
            variables,
            self.log,
        )
    }

    /// An app's files, and its script where they lie.
    fn app(&self, name: &str, root: &Root<'_>, tree: &Confined) -> Result<(), Error> {
        let Some(app) = self.stage.apps.iter().find(|app| app.name == name) else {
            return Ok(());
        };
        metadata::prepare_app(tree, name)?;
        let directory = metadata::app_directory(name);
        let here = std::env::current_dir()
            .map_err(|error| Error::io("find the current directory", &error))?;
        files::put_in(
            &app.files,
            &Origin::Host(&here),
            tree,
            &directory,
            self.definition,
        )?;
        let Some(text) = &app.install else {
            return Ok(());
        };
        let label = format!("%appinstall {name}");
        self.inside(text, &label, root, Some(&directory), &variables_of(app))
    }

    /// What the image says of itself.
    fn describe(&self, metadata: &mut Metadata, added: Vec<(String, String)>, is_last: bool) {
        let stage = self.stage;
        if is_last {
            metadata.definition = Some(self.definition.text());
        }
        for (own, theirs) in [
            (&mut metadata.runscript, &stage.runscript),
            (&mut metadata.startscript, &stage.startscript),
            (&mut metadata.test, &stage.test),
        ] {
            if theirs.is_some() {
                own.clone_from(theirs);
            }
        }
        if let Some(environment) = &stage.environment {
            metadata.environment = Some(environment.text.clone());
        }
        if stage.help.is_some() {
            metadata.help.clone_from(&stage.help);
        }
        if let Some(agent) = &stage.header.agent {
            let label = |name: &str| format!("org.label-schema.usage.singularity.{name}");
            let mut labels = vec![(label("deffile.bootstrap"), agent.value.name().to_owned())];
            if let Some(from) = &stage.header.from {
                labels.push((label("deffile.from"), from.value.clone()));
            }
            labels.push((label("version"), env!("CARGO_PKG_VERSION").to_owned()));
            metadata.labels.extend(labels);
        }
        metadata.labels.extend(stage.labels.iter().cloned());
        metadata.labels.extend(added);
        metadata.apps.clone_from(&stage.apps);
    }

    /// Runs the stage's test in its root.
    pub fn test(&self) -> Result<(), Error> {
        let root = Root::new(self.space, self.tree)?;
        if let Some(text) = &self.stage.test {
            self.tested(text, "%test", &root, &[])?;
        }
        for app in &self.stage.apps {
            if let Some(text) = &app.test {
                let name = format!("%apptest {}", app.name);
                self.tested(text, &name, &root, &variables_of(app))?;
            }
        }
        Ok(())
    }

    fn tested(
        &self,
        text: &Script,
        name: &str,
        root: &Root<'_>,
        variables: &[(String, String)],
    ) -> Result<(), Error> {
        // As in the finished image, its environment is read first.
        let sourced = Script {
            text: if text.is_for_a_shell() {
                format!("{READ_ENVIRONMENT}\n{}", text.text)
            } else {
                text.text.clone()
            },
            ..text.clone()
        };
        self.inside(&sourced, name, root, None, variables)
            .map_err(error_of_test)
    }

    /// Removes what another build of the same definition would have otherwise.
    pub fn leave_no_trace(&self) -> Result<(), Error> {
        let made = self.stage.header.agent.as_ref();
        let makes = made.is_some_and(|agent| agents::makes(agent.value));
        if makes || self.epoch.is_some() {
            agents::clean(self.tree)?;
        }
        if self.epoch.is_some() {
            let tree = confined(self.tree)?;
            for file in [
                "/etc/machine-id",
                "/var/lib/dbus/machine-id",
                "/var/lib/systemd/random-seed",
                "/etc/hostname",
                "/etc/resolv.conf.singularity",
            ] {
                let path = Path::new(file);
                if file == "/etc/machine-id" && tree.read(path)?.is_some_and(|id| !id.is_empty()) {
                    // machine-id(5): an empty one is filled in where it is used.
                    tree.write(path, b"", 0o444)?;
                } else if file != "/etc/machine-id" {
                    tree.remove(path)?;
                }
            }
        }
        Ok(())
    }
}

const READ_ENVIRONMENT: &str =
    "set +x\nfor f in /.singularity.d/env/*.sh; do [ ! -f \"$f\" ] || . \"$f\"; done\nset -x";

fn error_of_test(error: Error) -> Error {
    let hint = error
        .remedy()
        .map(|hint| format!("--notest makes the image without testing it; {hint}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What an app's scripts find, as the Scientific Filesystem's specification has it.
fn variables_of(app: &App) -> Vec<(String, String)> {
    let root = format!("/scif/apps/{}", app.name);
    let data = format!("/scif/data/{}", app.name);
    [
        ("SCIF_APPNAME", app.name.clone()),
        ("SCIF_APPROOT", root.clone()),
        ("SCIF_APPMETA", format!("{root}/scif")),
        ("SCIF_APPBIN", format!("{root}/bin")),
        ("SCIF_APPLIB", format!("{root}/lib")),
        ("SCIF_APPDATA", data.clone()),
        ("SCIF_APPINPUT", format!("{data}/input")),
        ("SCIF_APPOUTPUT", format!("{data}/output")),
        ("SINGULARITY_APPNAME", app.name.clone()),
        ("SINGULARITY_APPROOT", root),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
