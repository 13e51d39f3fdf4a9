//! What an image says of itself, and what it does when it is run: files in
//! `/.singularity.d`, and the older names for them at the top.
//!
//! | file | |
//! |---|---|
//! | `/.singularity.d/runscript`, `/singularity` | what `run` becomes |
//! | `/.singularity.d/startscript` | what an instance starts |
//! | `/.singularity.d/test`, `/.test` | what `test` becomes |
//! | `/.singularity.d/env/*.sh`, `/environment` | read by a shell before anything starts |
//! | `/.singularity.d/labels.json` | names and values |
//! | `/.singularity.d/runscript.help` | the help text |
//! | `/.singularity.d/Singularity` | the definition, and below `bootstrap_history` those before it |
//! | `/scif/apps/NAME` | an app, with the same files in its directory `scif` |
//!
//! Owns: their names and form. Never: runs them; the launcher does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use launcher::Error;

use crate::confined::Confined;
use crate::definition::{App, Script};

/// Where it all is.
const DIRECTORY: &str = "/.singularity.d";

/// Where apps are.
const APPS: &str = "/scif/apps";

/// Where apps keep data.
const DATA: &str = "/scif/data";

/// Where a script of the build adds labels, one `NAME VALUE` a line.
pub const BUILD_LABELS: &str = "/.singularity.d/.build-labels";

/// Where a script of the build adds variables for those who run the image.
pub const BUILD_ENVIRONMENT: &str = "/.singularity.d/env/91-environment.sh";

/// What is written into an image. What is left out stays as it is there.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// The definition it was made from.
    pub definition: Option<String>,
    /// What `singularity run` becomes.
    pub runscript: Option<Script>,
    /// What an instance starts.
    pub startscript: Option<Script>,
    /// What `singularity test` becomes.
    pub test: Option<Script>,
    /// Variables that come with a base image, for a shell to read first.
    pub base_environment: Option<String>,
    /// Variables, for a shell to read.
    pub environment: Option<String>,
    /// Names and values. Others that are in the image already stay.
    pub labels: Vec<(String, String)>,
    /// The help text.
    pub help: Option<String>,
    /// The apps.
    pub apps: Vec<App>,
}

/// Writes it into the root file system at `tree`.
///
/// # Errors
/// Something in the tree is in the way; a full disk.
pub fn write(tree: &Path, metadata: &Metadata) -> Result<(), Error> {
    let root = Confined::new(tree)?;
    let own = |name: &str| Path::new(DIRECTORY).join(name);
    directory(&root, Path::new(DIRECTORY))?;
    if let Some(definition) = &metadata.definition {
        keep_history(&root)?;
        root.write(&own("Singularity"), definition.as_bytes(), 0o644)?;
    }
    let scripts = [
        (&metadata.runscript, "runscript", Some("/singularity")),
        (&metadata.startscript, "startscript", None),
        (&metadata.test, "test", Some("/.test")),
    ];
    for (script, name, older) in scripts {
        let Some(script) = script else {
            continue;
        };
        root.write(&own(name), script.file().as_bytes(), 0o755)?;
        if let Some(older) = older {
            let target = own(name);
            let target = target.strip_prefix("/").unwrap_or(&target);
            in_the_way(&root, Path::new(older))?;
            root.link(Path::new(older), target)?;
        }
    }
    if let Some(text) = &metadata.base_environment {
        root.write(&own("env/10-base.sh"), text.as_bytes(), 0o755)?;
    }
    if let Some(text) = &metadata.environment {
        root.write(&own("env/90-environment.sh"), text.as_bytes(), 0o755)?;
    }
    if root.stat(&own("env/90-environment.sh")).is_some() {
        in_the_way(&root, Path::new("/environment"))?;
        let target = Path::new(".singularity.d/env/90-environment.sh");
        root.link(Path::new("/environment"), target)?;
    }
    if let Some(help) = &metadata.help {
        root.write(&own("runscript.help"), help.as_bytes(), 0o644)?;
    }
    labels(&root, &own("labels.json"), &metadata.labels)?;
    for app in &metadata.apps {
        write_app(&root, app)?;
    }
    if !metadata.apps.is_empty() {
        root.write(&own("env/95-apps.sh"), APP_ENVIRONMENT.as_bytes(), 0o755)?;
    }
    Ok(())
}

/// A file of an older image's is replaced; a directory is not ours to remove.
fn in_the_way(root: &Confined, path: &Path) -> Result<(), Error> {
    let directory = root
        .stat_link(path)
        .is_some_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
    if directory {
        return Err(Error::new(
            format!("write {} in the image", image::Shown::new(path)),
            "a directory is there",
        )
        .hint(
            "this name is the image's runscript, test or environment: give the directory another",
        ));
    }
    Ok(())
}

/// Sees to it that a directory of ours is a directory that all can read.
fn directory(root: &Confined, path: &Path) -> Result<(), Error> {
    root.make_directories(path).map(drop)
}

/// The definition of the image that this one is made from is kept with a number.
fn keep_history(root: &Confined) -> Result<(), Error> {
    let current = Path::new(DIRECTORY).join("Singularity");
    if root.stat_link(&current).is_none() {
        return Ok(());
    }
    let history = Path::new(DIRECTORY).join("bootstrap_history");
    let number = root.names(&history).len();
    root.rename(&current, &history.join(format!("Singularity{number}")))
}

/// Adds labels to those that are there; a later one of a name counts.
fn labels(root: &Confined, path: &Path, labels: &[(String, String)]) -> Result<(), Error> {
    let there = root.read(path)?;
    if labels.is_empty() && there.is_some() {
        return Ok(());
    }
    let mut all: BTreeMap<String, serde_json::Value> = there
        // What another program wrote and is damaged is no reason to fail.
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    for (name, value) in labels {
        all.insert(name.clone(), value.clone().into());
    }
    let mut text = serde_json::to_vec_pretty(&all)
        .map_err(|error| Error::new("write the image's labels", error.to_string()))?;
    text.push(b'\n');
    root.write(path, &text, 0o644)
}

/// The directory of an app, in the image.
pub fn app_directory(name: &str) -> PathBuf {
    Path::new(APPS).join(name)
}

/// Makes the directories that an app finds when it is installed.
///
/// # Errors
/// As [`write()`].
pub fn prepare_app(root: &Confined, name: &str) -> Result<(), Error> {
    let (app, data) = (app_directory(name), Path::new(DATA).join(name));
    for path in [
        app.join("bin"),
        app.join("lib"),
        app.join("scif"),
        data.join("input"),
        data.join("output"),
    ] {
        directory(root, &path)?;
    }
    Ok(())
}

fn write_app(root: &Confined, app: &App) -> Result<(), Error> {
    prepare_app(root, &app.name)?;
    let own = |name: &str| app_directory(&app.name).join("scif").join(name);
    for (script, name) in [
        (&app.runscript, "runscript"),
        (&app.test, "test"),
        (&app.startscript, "startscript"),
    ] {
        if let Some(script) = script {
            root.write(&own(name), script.file().as_bytes(), 0o755)?;
        }
    }
    if let Some(script) = &app.environment {
        root.write(&own("environment"), script.text.as_bytes(), 0o755)?;
    }
    if let Some(help) = &app.help {
        root.write(&own("runscript.help"), help.as_bytes(), 0o644)?;
    }
    labels(root, &own("labels.json"), &app.labels)
}

/// What a script of the build has added: labels, which are returned, and variables,
/// of whose file nothing is left if it is empty.
///
/// # Errors
/// A line that is no label; as [`write()`].
pub fn added_by_scripts(root: &Confined) -> Result<Vec<(String, String)>, Error> {
    let mut labels = Vec::new();
    let path = Path::new(BUILD_LABELS);
    if let Some(bytes) = root.read(path)? {
        for line in String::from_utf8_lossy(&bytes).lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once(char::is_whitespace).ok_or_else(|| {
                Error::new(
                    format!("label {}", image::Shown::new(line)),
                    "it has no value",
                )
                .hint("a script writes NAME VALUE in a line of $SINGULARITY_LABELS")
            })?;
            labels.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    root.remove(path)?;
    let path = Path::new(BUILD_ENVIRONMENT);
    if root.read(path)?.is_some_and(|text| text.is_empty()) {
        root.remove(path)?;
        // Without scripts the launcher needs no shell, and starts sooner.
        let directory = path.parent().unwrap_or(path);
        if root.names(directory).is_empty() {
            root.remove(directory)?;
        }
    }
    Ok(labels)
}

/// Puts the files there that a script of the build adds to.
///
/// # Errors
/// As [`write()`].
pub fn ready_for_scripts(root: &Confined) -> Result<(), Error> {
    root.write(Path::new(BUILD_LABELS), b"", 0o644)?;
    if root.read(Path::new(BUILD_ENVIRONMENT))?.is_none() {
        root.write(Path::new(BUILD_ENVIRONMENT), b"", 0o755)?;
    }
    Ok(())
}

/// Read before an app starts, whose name the launcher has set. The variables are
/// those of the Scientific Filesystem's specification.
const APP_ENVIRONMENT: &str = r#"# Variables of the app that SINGULARITY_APPNAME names.
if [ -n "${SINGULARITY_APPNAME:-}" ] && [ -d "/scif/apps/$SINGULARITY_APPNAME" ]; then
    SCIF_APPNAME=$SINGULARITY_APPNAME
    SCIF_APPROOT=/scif/apps/$SCIF_APPNAME
    SCIF_APPMETA=$SCIF_APPROOT/scif
    SCIF_APPBIN=$SCIF_APPROOT/bin
    SCIF_APPLIB=$SCIF_APPROOT/lib
    SCIF_APPDATA=/scif/data/$SCIF_APPNAME
    SCIF_APPINPUT=$SCIF_APPDATA/input
    SCIF_APPOUTPUT=$SCIF_APPDATA/output
    SINGULARITY_APPROOT=$SCIF_APPROOT
    PATH=$SCIF_APPBIN:$SCIF_APPROOT:$PATH
    LD_LIBRARY_PATH=$SCIF_APPLIB${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export SCIF_APPNAME SCIF_APPROOT SCIF_APPMETA SCIF_APPBIN SCIF_APPLIB
    export SCIF_APPDATA SCIF_APPINPUT SCIF_APPOUTPUT SINGULARITY_APPROOT
    export PATH LD_LIBRARY_PATH
    if [ -f "$SCIF_APPMETA/environment" ]; then
        . "$SCIF_APPMETA/environment"
    fi
fi
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tree: &Path, name: &str) -> String {
        std::fs::read_to_string(tree.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    #[test]
    fn everything_is_where_the_launcher_looks_for_it() {
        let tree = tempfile::tempdir().unwrap();
        let app = App {
            name: "first".into(),
            runscript: Some(Script::new("exec one\n")),
            environment: Some(Script::new("A=1\n")),
            ..App::default()
        };
        let metadata = Metadata {
            definition: Some("Bootstrap: scratch\n".into()),
            runscript: Some(Script::new("echo run\n")),
            test: Some(Script::new("echo test\n")),
            environment: Some("export A=1\n".into()),
            labels: vec![("b".into(), "2".into()), ("a".into(), "\"1\"".into())],
            help: Some("help\n".into()),
            apps: vec![app],
            ..Metadata::default()
        };
        write(tree.path(), &metadata).unwrap();
        let tree = tree.path();
        assert_eq!(read(tree, "singularity"), "#!/bin/sh\necho run\n");
        assert_eq!(read(tree, ".test"), "#!/bin/sh\necho test\n");
        assert_eq!(read(tree, "environment"), "export A=1\n");
        assert_eq!(read(tree, ".singularity.d/runscript.help"), "help\n");
        assert_eq!(
            read(tree, ".singularity.d/labels.json"),
            "{\n  \"a\": \"\\\"1\\\"\",\n  \"b\": \"2\"\n}\n"
        );
        assert_eq!(read(tree, "scif/apps/first/scif/environment"), "A=1\n");
        assert!(tree.join(".singularity.d/env/95-apps.sh").exists());
        assert!(tree.join("scif/data/first/output").is_dir());
    }

    #[test]
    fn what_is_left_out_stays_and_definitions_are_kept() {
        let tree = tempfile::tempdir().unwrap();
        let mut metadata = Metadata {
            definition: Some("one\n".into()),
            runscript: Some(Script::new("echo run\n")),
            labels: vec![("a".into(), "1".into())],
            ..Metadata::default()
        };
        write(tree.path(), &metadata).unwrap();
        metadata = Metadata {
            definition: Some("two\n".into()),
            labels: vec![("b".into(), "2".into())],
            ..Metadata::default()
        };
        write(tree.path(), &metadata).unwrap();
        let tree = tree.path();
        assert_eq!(read(tree, ".singularity.d/Singularity"), "two\n");
        assert_eq!(
            read(tree, ".singularity.d/bootstrap_history/Singularity0"),
            "one\n"
        );
        assert_eq!(read(tree, "singularity"), "#!/bin/sh\necho run\n");
        assert!(read(tree, ".singularity.d/labels.json").contains("\"a\": \"1\""));
        assert!(!tree.join("environment").exists());
        assert!(!tree.join(".singularity.d/env").exists());
    }
}
