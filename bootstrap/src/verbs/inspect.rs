//! `singularity inspect`: what an image is and what it holds.
//!
//! Owns: the reading, as people and as programs are told it; docs/IMAGES.md has the
//! table of the latter. Never: runs or mounts anything of the image: it is read by
//! [`volume`], whoever asks.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use command::cli::images::Inspect;
use image::sif::{Details, Link};
use image::{mpi, Format, Image, Shown, Sif, Superblock};
use launcher::Error;
use serde_json::{json, Map, Value};

use crate::pack::{epoch, sif};
use crate::space::{self, Kind as Space};
use crate::tree::extract::{extract, Options};
use crate::tree::walk::{find, read};
use crate::tree::{Attribute, Content, Kind, Node, Tree};
use crate::verbs::open_to_read;
use crate::workdir::WorkDir;

/// Nothing that describes an image is longer.
const MOST: usize = 16 << 20;
const APPS: &str = "scif/apps";

/// Says it.
///
/// # Errors
/// It is no image, or a damaged one.
pub fn inspect(options: &Inspect) -> Result<(), Error> {
    let image = open_to_read(&options.image)?;
    let tree = crate::tree::open(&image)?;
    let text = if options.json {
        let mut all = everything(&image, &*tree)?;
        let libraries = libraries(&image, &*tree)?;
        if let Some(all) = all.as_object_mut() {
            all.insert("mpi".to_owned(), libraries);
        }
        let mut text = serde_json::to_string_pretty(&all)
            .map_err(|error| Error::new("write JSON", error.to_string()))?;
        text.push('\n');
        text
    } else {
        for_people(options, &image, &*tree)?
    };
    let mut output = std::io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to standard output", &error))
        }
        _ => Ok(()),
    }
}

/// What was asked for; a heading only where it is more than one thing.
fn for_people(options: &Inspect, image: &Image, tree: &dyn Tree) -> Result<String, Error> {
    let mut parts: Vec<(&str, String)> = Vec::new();
    let wanted = [
        (options.runscript, "runscript", &RUNSCRIPT[..]),
        (options.test, "test", &TEST[..]),
        (options.deffile, "definition", &DEFINITION[..]),
        (options.helpfile, "help", &HELP[..]),
    ];
    if options.labels {
        parts.push(("labels", label_lines(tree)?));
    }
    for (asked, name, places) in wanted {
        if asked {
            parts.push((name, first(tree, places)?.unwrap_or_default()));
        }
    }
    if options.environment {
        let scripts = environment(tree)?;
        let several = scripts.len() > 1;
        let mut text = String::new();
        for (path, script) in scripts {
            if several {
                text.push_str(&format!("# {path}\n"));
            }
            text.push_str(&script);
        }
        parts.push(("environment", text));
    }
    if options.list_apps {
        let names = apps(tree)?.into_iter().map(|(name, _)| format!("{name}\n"));
        parts.push(("apps", names.collect()));
    }
    if options.mpi {
        parts.push(("mpi", library_lines(&libraries(image, tree)?)));
    }
    if parts.is_empty() {
        parts.push(("image", summary(image, tree)?));
        let labels = label_lines(tree)?;
        if !labels.is_empty() {
            parts.push(("labels", labels));
        }
    }
    let several = parts.len() > 1;
    let mut text = String::new();
    for (name, part) in parts {
        if several {
            text.push_str(&format!("== {name} ==\n"));
        }
        text.push_str(&part);
        if !part.is_empty() && !part.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

const RUNSCRIPT: [&str; 2] = [".singularity.d/runscript", "singularity"];
const TEST: [&str; 2] = [".singularity.d/test", ".test"];
const DEFINITION: [&str; 1] = [".singularity.d/Singularity"];
const HELP: [&str; 1] = [".singularity.d/runscript.help"];
const STARTSCRIPT: [&str; 1] = [".singularity.d/startscript"];

fn text_at(tree: &dyn Tree, path: &str) -> Result<Option<String>, Error> {
    Ok(
        read(tree, Path::new(path), MOST)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    )
}

fn first(tree: &dyn Tree, places: &[&str]) -> Result<Option<String>, Error> {
    for place in places {
        if let Some(text) = text_at(tree, place)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn names(tree: &dyn Tree, path: &str) -> Result<Vec<String>, Error> {
    match find(tree, Path::new(path))? {
        Some(node) if node.kind == Kind::Directory => Ok(tree
            .entries(&node)?
            .into_iter()
            .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
            .collect()),
        _ => Ok(Vec::new()),
    }
}

/// The scripts that an entered image's environment is made by, with their paths.
fn environment(tree: &dyn Tree) -> Result<Vec<(String, String)>, Error> {
    let mut scripts = Vec::new();
    for name in names(tree, ".singularity.d/env")? {
        let path = format!(".singularity.d/env/{name}");
        if let Some(text) = text_at(tree, &path)?.filter(|_| name.ends_with(".sh")) {
            scripts.push((format!("/{path}"), text));
        }
    }
    if scripts.is_empty() {
        if let Some(text) = text_at(tree, "environment")? {
            scripts.push(("/environment".to_owned(), text));
        }
    }
    Ok(scripts)
}

fn labels(tree: &dyn Tree) -> Result<Map<String, Value>, Error> {
    Ok(match text_at(tree, ".singularity.d/labels.json")? {
        Some(text) => match serde_json::from_str(&text) {
            Ok(Value::Object(labels)) => labels,
            _ => {
                tracing::warn!("the image's labels are not JSON as it should be");
                Map::new()
            }
        },
        None => Map::new(),
    })
}

fn label_lines(tree: &dyn Tree) -> Result<String, Error> {
    let mut text = String::new();
    for (name, value) in labels(tree)? {
        let value = match value {
            Value::String(value) => value,
            other => other.to_string(),
        };
        let line = format!("{name}: {value}");
        text.push_str(&format!("{}\n", Shown::new(&line)));
    }
    Ok(text)
}

fn apps(tree: &dyn Tree) -> Result<Vec<(String, Value)>, Error> {
    let mut apps = Vec::new();
    for name in names(tree, APPS)? {
        let inside = |file: &str| text_at(tree, &format!("{APPS}/{name}/scif/{file}"));
        let facts = json!({
            "runscript": inside("runscript")?,
            "help": inside("runscript.help")?,
            "test": inside("test")?,
            "environment": inside("env/90-environment.sh")?,
            "labels": inside("labels.json")?
                .and_then(|text| serde_json::from_str::<Value>(&text).ok()),
        });
        apps.push((name, facts));
    }
    Ok(apps)
}

/// The word for a compressor, or several.
fn compression(image: &Image) -> Option<String> {
    match image.superblock()? {
        Superblock::Squashfs(facts) => Some(facts.compressor.name().to_owned()),
        Superblock::Erofs(facts) => Some(facts.algorithms.to_string()),
        Superblock::Ext(_) => None,
    }
}

fn format_name(image: &Image) -> String {
    match image.format() {
        Format::Directory => "directory".to_owned(),
        Format::Squashfs(_) => "squashfs".to_owned(),
        Format::Erofs(_) => "EROFS".to_owned(),
        Format::Ext(facts) => facts.version.to_string(),
        Format::Sif(_) => "SIF".to_owned(),
    }
}

fn file_system(image: &Image) -> Value {
    let (Some(root), Some(facts)) = (image.root(), image.superblock()) else {
        return Value::Null;
    };
    let (name, block, inodes, free) = match facts {
        Superblock::Squashfs(facts) => (
            "squashfs".to_owned(),
            facts.block_size,
            u64::from(facts.inodes),
            None,
        ),
        Superblock::Erofs(facts) => ("EROFS".to_owned(), facts.block_size, facts.inodes, None),
        Superblock::Ext(facts) => (
            facts.version.to_string(),
            facts.block_size,
            u64::from(facts.inodes),
            Some(facts.free_blocks.saturating_mul(facts.block_size.into())),
        ),
    };
    let in_order = image
        .ext()
        .map(|facts| facts.state == image::ExtState::Clean && !facts.needs_recovery);
    json!({
        "type": name,
        "offset": root.offset,
        "size": facts.bytes_used(),
        "block_size": block,
        "inodes": inodes,
        "free": free,
        "clean": in_order,
    })
}

fn sif_facts(facts: &Sif) -> Value {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let header = &facts.container.header;
    let objects: Vec<Value> = facts
        .container
        .objects
        .iter()
        .map(|object| {
            let mut one = json!({
                "id": object.id,
                "type": object.data_type.to_string(),
                "group": object.group,
                "link": match object.link {
                    Link::None => Value::Null,
                    Link::Object(id) => json!({"object": id}),
                    Link::Group(id) => json!({"group": id}),
                },
                "offset": object.offset,
                "size": object.size,
                "created": object.created,
                "modified": object.modified,
                "name": String::from_utf8_lossy(&object.name),
            });
            let more = match &object.details {
                Details::Partition {
                    content,
                    role,
                    architecture,
                } => json!({
                    "content": format!("{content:?}"),
                    "role": format!("{role:?}"),
                    "architecture": architecture.to_string(),
                }),
                Details::Signature { hash, fingerprint } => json!({
                    "hash": hash_name(*hash),
                    "fingerprint": hex(fingerprint),
                }),
                _ => Value::Null,
            };
            if let (Some(one), Some(more)) = (one.as_object_mut(), more.as_object()) {
                one.extend(more.clone());
            }
            one
        })
        .collect();
    json!({
        "id": hex(&header.id),
        "created": header.created,
        "modified": header.modified,
        "architecture": header.architecture.to_string(),
        "root": facts.root_id,
        "signed": facts.has_signature(),
        "objects": objects,
    })
}

fn hash_name(number: u32) -> String {
    match number {
        1 => "SHA-256".to_owned(),
        2 => "SHA-384".to_owned(),
        3 => "SHA-512".to_owned(),
        4 => "BLAKE2s".to_owned(),
        5 => "BLAKE2b".to_owned(),
        other => format!("number {other}"),
    }
}

fn everything(image: &Image, tree: &dyn Tree) -> Result<Value, Error> {
    let metadata = image
        .file()
        .metadata()
        .map_err(|error| Error::io(format!("read image {}", Shown::new(image.path())), &error))?;
    let size = (!image.is_directory()).then_some(metadata.len());
    let on_disk = (!image.is_directory()).then_some(metadata.blocks().saturating_mul(512));
    let environment: Map<String, Value> = environment(tree)?
        .into_iter()
        .map(|(path, text)| (path, Value::String(text)))
        .collect();
    let apps: Map<String, Value> = apps(tree)?.into_iter().collect();
    Ok(json!({
        "schema": 1,
        "path": image.path().to_string_lossy(),
        "format": format_name(image),
        "size": size,
        "size_on_disk": on_disk,
        "architecture": sif::architecture(tree)?.to_string(),
        "compression": compression(image),
        "launch_line": image.launch_line().map(|line| line.to_string_lossy()),
        "file_system": file_system(image),
        "sif": match image.format() {
            Format::Sif(facts) => sif_facts(facts),
            _ => Value::Null,
        },
        "labels": labels(tree)?,
        "runscript": first(tree, &RUNSCRIPT)?,
        "startscript": first(tree, &STARTSCRIPT)?,
        "test": first(tree, &TEST)?,
        "environment": environment,
        "definition": first(tree, &DEFINITION)?,
        "help": first(tree, &HELP)?,
        "apps": apps,
    }))
}

fn summary(image: &Image, tree: &dyn Tree) -> Result<String, Error> {
    let mut text = format!("format: {}\n", image.format());
    if let Ok(metadata) = image.file().metadata() {
        if !image.is_directory() {
            let (size, disk) = (metadata.len(), metadata.blocks().saturating_mul(512));
            text.push_str(&format!("size: {size} bytes, {disk} on disk\n"));
        }
    }
    if let Some(compression) = compression(image) {
        text.push_str(&format!("compression: {compression}\n"));
    }
    text.push_str(&format!("architecture: {}\n", sif::architecture(tree)?));
    if let Format::Sif(facts) = image.format() {
        let signatures = facts.container.signatures().count();
        text.push_str(&format!("signatures: {signatures}, not checked\n"));
    }
    text.push_str(&library_lines(&libraries(image, tree)?));
    Ok(text)
}

fn library_lines(libraries: &Value) -> String {
    let mut text = String::new();
    for library in libraries.as_array().into_iter().flatten() {
        let word = |key: &str| library.get(key).and_then(Value::as_str).unwrap_or_default();
        let line = format!("{} {} ({})", word("kind"), word("version"), word("path"));
        text.push_str(&format!("{}\n", Shown::new(&line.replace("  ", " "))));
    }
    text
}

/// The MPI, PMI and fabric libraries. Those of a file are unpacked to be looked at,
/// and nothing else of it.
fn libraries(image: &Image, tree: &dyn Tree) -> Result<Value, Error> {
    let open = |path: &Path| {
        mpi::Root::open(path)
            .map_err(|error| Error::io(format!("open directory {}", Shown::new(path)), &error))
    };
    let found = if image.is_directory() {
        mpi::survey(&open(image.path())?)
    } else {
        space::enter(Some(Space::Plain))?;
        let work = WorkDir::new(None)?;
        extract(
            &Libraries(tree),
            work.path(),
            Options {
                epoch: epoch(None)?,
                plain: true,
            },
        )?;
        mpi::survey(&open(work.path())?)
    };
    Ok(found
        .into_iter()
        .map(|library| {
            json!({
                "kind": library.kind.name(),
                "version": library.version.map(|version| version.to_string()),
                "path": library.path.to_string_lossy(),
            })
        })
        .collect())
}

/// A tree without all that is no library of interest.
struct Libraries<'a>(&'a dyn Tree);

impl Libraries<'_> {
    fn is_of_interest(name: &[u8], node: &Node) -> bool {
        const BEGINNINGS: [&[u8]; 9] = [
            b"libmpi",
            b"libpmi",
            b"libprrte",
            b"libopen-",
            b"libucp",
            b"libucs",
            b"libuct",
            b"libfabric",
            b"libMPI",
        ];
        const ELSEWHERE: [&[u8]; 8] = [
            b"proc", b"sys", b"dev", b"share", b"doc", b"include", b"home", b"var",
        ];
        match node.kind {
            Kind::Directory => !ELSEWHERE.contains(&name),
            Kind::Link => true,
            Kind::File => {
                name == b"ld.so.cache" || BEGINNINGS.iter().any(|begin| name.starts_with(begin))
            }
            _ => false,
        }
    }
}

impl Tree for Libraries<'_> {
    fn root(&self) -> Result<Node, Error> {
        self.0.root()
    }

    fn entries(&self, directory: &Node) -> Result<Vec<(Vec<u8>, Node)>, Error> {
        let mut entries = self.0.entries(directory)?;
        entries.retain(|(name, node)| Self::is_of_interest(name, node));
        Ok(entries)
    }

    fn target(&self, link: &Node) -> Result<Vec<u8>, Error> {
        self.0.target(link)
    }

    fn content<'b>(&'b self, file: &Node) -> Result<Box<dyn Content + 'b>, Error> {
        self.0.content(file)
    }

    fn attributes(&self, _node: &Node) -> Result<Vec<Attribute>, Error> {
        Ok(Vec::new())
    }
}
