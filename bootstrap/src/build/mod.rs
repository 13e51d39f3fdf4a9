//! `singularity build` and `singularity bootstrap`: from a source to an image.
//!
//! Owns: the order in which things are done, and that the place of the image holds
//! what it held until the new one is whole. Never: does them itself; reading
//! definitions, making base systems, running scripts and packing are other rooms.

mod script;
mod stage;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use command::cli::images::{Bootstrap, Build, Registry};
use image::Shown;
use launcher::Error;

use crate::confined::Confined;
use crate::definition::{Argument, Arguments, Definition, Place, Syntax};
use crate::log::Log;
use crate::pack::{self, Format, Packing};
use crate::remote;
use crate::source::{self, Source};
use crate::space::{self, Kind, Space};
use crate::tree::extract::Lost;
use crate::unpack::{self, tar};
use crate::verbs::convert;
use crate::verbs::import::into_image;
use crate::workdir::WorkDir;

use self::stage::Builder;

/// Makes an image from a source.
///
/// # Errors
/// What is wrong with the source, what failed, and where it was logged. The place of
/// the image holds what it held before.
pub fn build(options: &Build) -> Result<(), Error> {
    let packing = Packing::new(&options.writing, options.sandbox, &options.image)?;
    let source = source::recognise(&options.source)?;
    let has_arguments = !options.build_arg.is_empty() || options.build_arg_file.is_some();
    if has_arguments && !matches!(source, Source::Definition(..)) {
        return Err(Error::new(
            "--build-arg",
            format!("{} is no definition file", Shown::new(&options.source)),
        )
        .hint("only definition files have build arguments"));
    }
    let tmpdir = options.writing.tmpdir.as_deref();
    match source {
        Source::Definition(path, text) => from_definition(options, packing, &path, &text),
        Source::Image(image) => convert::into(*image, packing, tmpdir, &options.image),
        Source::Archive(file) => {
            let name = Shown::new(&options.source).to_string();
            from_archive(file, &name, packing, tmpdir, &options.image)
        }
        Source::Input => {
            let input = std::io::stdin();
            from_archive(input, "standard input", packing, tmpdir, &options.image)
        }
        Source::Oci(address) => {
            let source = remote::source(&address)?;
            let registry = &options.registry;
            remote::build(&source, registry, packing, tmpdir, &options.image)
        }
    }
}

/// Installs a definition's system into an image that can be changed.
///
/// # Errors
/// As [`build`]; the image then holds what was done until then.
pub fn bootstrap(options: &Bootstrap) -> Result<(), Error> {
    let text = read_text(&options.definition)?;
    let arguments = arguments(&options.build_arg, None)?;
    let definition = Definition::parse(&options.definition, &text, &arguments)?;
    has_bases(&definition, definition.stages.len() - 1)?;
    let run = |space: &Space, tree: &Path| {
        let log = Log::start("bootstrap")?;
        let work = WorkDir::new(None)?;
        let done = carry_out(&Work {
            definition: &definition,
            space,
            log: &log,
            directory: work.path(),
            registry: &options.registry,
            with_test: !options.notest,
            tree: Some(tree),
        });
        done.map(|built| built.lost)
            .map_err(|error| log.keep(error))
    };
    into_image(&options.image, run)
}

/// The space for an image of this format: what remains as a directory is to be the
/// user's own.
pub(crate) fn space_for(format: Format) -> Result<Space, Error> {
    let own = format == Format::Directory && !nix::unistd::geteuid().is_root();
    space::enter(own.then_some(Kind::Single))
}

fn from_definition(
    options: &Build,
    mut packing: Packing,
    path: &Path,
    text: &[u8],
) -> Result<(), Error> {
    let arguments = arguments(&options.build_arg, options.build_arg_file.as_deref())?;
    let definition = Definition::parse(path, text, &arguments)?;
    has_bases(&definition, definition.stages.len())?;
    let space = space_for(packing.format)?;
    let log = Log::start("build")?;
    let work = WorkDir::new(options.writing.tmpdir.as_deref())?;
    let done = carry_out(&Work {
        definition: &definition,
        space: &space,
        log: &log,
        directory: work.path(),
        registry: &options.registry,
        with_test: !options.notest,
        tree: None,
    })
    .map_err(|error| log.keep(error))?;
    remember_owners(&mut packing, &space, done.lost);
    let step = log
        .progress()
        .step(format!("pack {}", Shown::new(&options.image)));
    pack::pack(&done.tree, &packing, &options.image)?;
    step.done();
    Ok(())
}

/// Owners that the tree itself could not have are put into the image where its
/// format allows that.
pub(crate) fn remember_owners(packing: &mut Packing, space: &Space, lost: Lost) {
    let kept = packing.format != Format::Directory;
    unpack::tell(&lost, kept);
    if kept && space.kind() != Kind::Root && !lost.owners.is_empty() {
        packing.owners = Some(lost.owners);
    }
}

fn from_archive(
    stream: impl Read + Send,
    name: &str,
    mut packing: Packing,
    tmpdir: Option<&Path>,
    place: &Path,
) -> Result<(), Error> {
    let space = space_for(packing.format)?;
    let work = WorkDir::new(tmpdir)?;
    let tree = new_root(work.path(), "root")?;
    let stream = unpack::decompress(stream, name)?;
    let lost = tar::tar(stream, &tree, &tar::Options::named(name))?;
    remember_owners(&mut packing, &space, lost);
    pack::pack(&tree, &packing, place)
}

/// An empty directory for a root file system.
pub(crate) fn new_root(above: &Path, name: &str) -> Result<PathBuf, Error> {
    use std::os::unix::fs::PermissionsExt;
    let tree = above.join(name);
    std::fs::create_dir(&tree)
        .and_then(|()| std::fs::set_permissions(&tree, std::fs::Permissions::from_mode(0o755)))
        .map_err(|error| Error::io(format!("make {}", Shown::new(&tree)), &error))?;
    Ok(tree)
}

/// Whether the first so many stages say what makes their base systems.
fn has_bases(definition: &Definition, count: usize) -> Result<(), Error> {
    let without = |stage: &crate::definition::Stage| stage.header.agent.is_none();
    if !definition.stages.iter().take(count).any(without) {
        return Ok(());
    }
    let hint = match definition.syntax {
        Syntax::Directives => "DistType and Bootstrap do; ",
        Syntax::Sections => "a header with Bootstrap: AGENT does; ",
    };
    Err(definition.complain(
        Place { line: 1, column: 1 },
        "nothing says what makes the base system",
        format!("{hint}singularity bootstrap changes an image that has one"),
    ))
}

fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    match source::recognise(path.as_os_str())? {
        Source::Definition(_, text) => Ok(text),
        _ => Err(Error::new(
            format!("read definition {}", Shown::new(path)),
            "it is no definition file",
        )
        .hint("singularity import puts archives and other images into an image")),
    }
}

/// The build arguments of the options, those of the file first.
fn arguments(given: &[std::ffi::OsString], file: Option<&Path>) -> Result<Arguments, Error> {
    let mut all = Vec::new();
    if let Some(path) = file {
        let step = || format!("read build arguments {}", Shown::new(path));
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::io(step(), &error).hint("a text file, one NAME=VALUE a line")
        })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let place = format!("{}:{}", Shown::new(path), number + 1);
                all.push(argument(line.as_ref(), place)?);
            }
        }
    }
    for text in given {
        all.push(argument(text, "--build-arg".to_owned())?);
    }
    Ok(all)
}

fn argument(text: &OsStr, given_by: String) -> Result<Argument, Error> {
    let step = || format!("{given_by}: {}", Shown::new(text));
    let hint = "write NAME=VALUE; a name has letters, digits and _";
    let pair = std::str::from_utf8(text.as_bytes())
        .ok()
        .and_then(|text| text.split_once('='));
    let (name, value) = pair.ok_or_else(|| Error::new(step(), "it has no value").hint(hint))?;
    if !crate::definition::is_argument_name(name) {
        return Err(Error::new(step(), "this is no name").hint(hint));
    }
    Ok(Argument {
        name: name.to_owned(),
        value: value.to_owned(),
        given_by,
    })
}

/// What [`carry_out`] works with.
struct Work<'a> {
    definition: &'a Definition,
    space: &'a Space,
    log: &'a Log,
    /// For roots and temporary files.
    directory: &'a Path,
    registry: &'a Registry,
    with_test: bool,
    /// Where the last stage is put together, instead of in a new directory.
    tree: Option<&'a Path>,
}

struct Built {
    tree: PathBuf,
    lost: Lost,
}

/// Makes all stages, and tests the last.
fn carry_out(work: &Work<'_>) -> Result<Built, Error> {
    let stages = &work.definition.stages;
    let mut roots: Vec<(Option<String>, PathBuf)> = Vec::new();
    let mut lost = Lost::default();
    for (number, stage) in stages.iter().enumerate() {
        let is_last = number + 1 == stages.len();
        let tree = match work.tree.filter(|_| is_last) {
            Some(tree) => tree.to_owned(),
            None => new_root(work.directory, &format!("root-{number}"))?,
        };
        let scratch = work.directory.join(format!("scratch-{number}"));
        std::fs::create_dir(&scratch)
            .map_err(|error| Error::io(format!("make {}", Shown::new(&scratch)), &error))?;
        let builder = Builder {
            definition: work.definition,
            stage,
            space: work.space,
            log: work.log,
            tree: &tree,
            scratch: &scratch,
            earlier: &roots,
            registry: work.registry,
            epoch: pack::epoch(std::env::var_os("SOURCE_DATE_EPOCH").as_deref())?,
        };
        lost = builder.make(is_last)?;
        if is_last && work.with_test {
            builder.test()?;
        }
        if is_last {
            builder.leave_no_trace()?;
        }
        let name = stage.name.as_ref().map(|name| name.value.clone());
        roots.push((name, tree));
    }
    let (_, tree) = roots
        .pop()
        .ok_or_else(|| Error::new("build", "the definition has no stage"))?;
    Ok(Built { tree, lost })
}

/// The root of a tree, for look-ups that cannot lead out of it.
fn confined(tree: &Path) -> Result<Confined, Error> {
    Confined::new(tree)
}
