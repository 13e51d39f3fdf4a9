//! The ways of starting a program that are compared: the host, each image as it
//! is entered here, installed peers, and what the user adds.
//!
//! Owns: who runs what with which words. Never: runs it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use command::cli::bench::Bench;
use image::{Image, Shown};
use launcher::Error;
use nix::unistd::{geteuid, User};

use crate::data::Way;
use crate::launcher::{on_path, Launcher};
use crate::programs::Store;
use crate::round::Contender;
use crate::words::{split, Template};

/// Whoever runs a way.
#[derive(Debug, Clone)]
pub struct Who {
    /// Words that become them.
    prefix: Vec<String>,
    /// Their variables, where they differ.
    variables: Vec<(String, String)>,
    /// Whether it is root.
    pub is_root: bool,
    /// Their number.
    pub uid: u32,
}

impl Who {
    fn myself() -> Self {
        Self {
            prefix: Vec::new(),
            variables: Vec::new(),
            is_root: geteuid().is_root(),
            uid: geteuid().as_raw(),
        }
    }

    /// Another user, whom only root can become.
    fn named(name: &str) -> Result<(Self, PathBuf), Error> {
        let step = || format!("--as {name}");
        if !geteuid().is_root() {
            return Err(Error::new(step(), "only root can run as somebody else")
                .hint("leave --as out: the user is you"));
        }
        let user = User::from_name(name)
            .map_err(|errno| Error::call(step(), errno))?
            .ok_or_else(|| Error::new(step(), "there is no such user").hint("getent passwd"))?;
        let setpriv = on_path("setpriv").ok_or_else(|| {
            Error::new(step(), "there is no setpriv on PATH").hint("install util-linux")
        })?;
        let home = user.dir.display().to_string();
        Ok((
            Self {
                prefix: vec![
                    setpriv.display().to_string(),
                    format!("--reuid={}", user.uid),
                    format!("--regid={}", user.gid),
                    "--init-groups".to_owned(),
                ],
                variables: [("HOME", home.as_str()), ("USER", name), ("LOGNAME", name)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                is_root: user.uid.is_root(),
                uid: user.uid.as_raw(),
            },
            user.dir,
        ))
    }
}

/// A way, and all that it takes to run it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is stored of it.
    pub way: Way,
    /// Who runs it.
    pub who: Who,
    template: Template,
    /// The same that tells its phases, where it can.
    phases: Option<Template>,
    variables: Vec<(String, String)>,
    /// The directory of its compiled programs.
    programs: PathBuf,
    /// A program that does nothing.
    pub nothing: String,
    /// One that sleeps.
    sleep: String,
    /// The image, for what is asked of its file.
    pub image: Option<PathBuf>,
}

impl Entry {
    /// A program of ours, as this way sees it.
    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// A program that does nothing, and takes its time. The mpirun of Open MPI 4.1
    /// never ends, two times in ten, where 32 ranks have ended before it knew that
    /// all had begun.
    pub fn nap(&self) -> [String; 2] {
        [self.sleep.clone(), "0.05".to_owned()]
    }

    /// A command line that starts so many ranks of a program.
    pub fn contender(&self, launcher: &Launcher, ranks: u32, program: &[String]) -> Contender {
        let launcher = launcher.words(ranks, self.who.is_root);
        self.run(&self.template, &launcher, program)
    }

    /// The same that tells its phases, where it can.
    pub fn with_phases(
        &self,
        launcher: &Launcher,
        ranks: u32,
        program: &[String],
    ) -> Option<Contender> {
        let launcher = launcher.words(ranks, self.who.is_root);
        Some(self.run(self.phases.as_ref()?, &launcher, program))
    }

    /// Whether it can tell its phases.
    pub fn tells_phases(&self) -> bool {
        self.phases.is_some()
    }

    /// A command line without a launcher.
    pub fn alone(&self, program: &[String]) -> Contender {
        let mut contender = self.run(&self.template, &[], program);
        contender.keep_output = false;
        contender
    }

    /// Whether it is the launcher that enters the image.
    pub fn is_launchers(&self) -> bool {
        self.template.begins_with_options()
    }

    fn run(&self, template: &Template, launcher: &[String], program: &[String]) -> Contender {
        let words = template.fill(launcher, program);
        let mut contender =
            Contender::new(&self.way.name, self.who.prefix.iter().cloned().chain(words));
        // posix_spawn(3) takes a path.
        if let Some(path) = contender.words.first().and_then(|word| on_path(word)) {
            contender.words[0] = path.display().to_string();
        }
        contender.variables = self.who.variables.clone();
        contender.variables.extend(self.variables.iter().cloned());
        contender.keep_output = true;
        contender
    }
}

/// An image that was given.
#[derive(Debug)]
struct Given {
    path: PathBuf,
    format: String,
    is_directory: bool,
    bytes: u64,
    programs: PathBuf,
}

/// All ways that these options ask for; the host first.
///
/// # Errors
/// An image that is none, programs that do not compile, a template that is wrong.
pub fn all(options: &Bench, launcher: &Launcher) -> Result<Vec<Entry>, Error> {
    let myself = Who::myself();
    let store = Store::open(myself.is_root)?;
    let exec = exec_words(options)?;
    let enters = Enters::of(options, launcher, &exec[0])?;
    let peers = peers(&options.peers)?;
    let host_programs = match &options.host_program {
        Some(directory) => given_programs("--host-program", directory)?,
        None => store.for_host(&options.mpicc)?,
    };
    let mut images = Vec::new();
    for path in &options.images {
        images.push(open(path, options, &store, &exec)?);
    }
    let whos = match &options.as_user {
        None => vec![myself],
        Some(name) => {
            let (user, home) = Who::named(name)?;
            // Where both may stand.
            std::env::set_current_dir(&home)
                .map_err(|error| Error::io(format!("go to {}", Shown::new(&home)), &error))?;
            vec![user, myself]
        }
    };
    let mut entries = Vec::new();
    for who in &whos {
        let maker = Maker {
            who,
            suffix: if whos.len() > 1 && who.is_root {
                ", root"
            } else {
                ""
            },
            host_programs: &host_programs,
        };
        entries.push(maker.host());
        for enter in enters.of_who(who.is_root) {
            entries.extend(images.iter().map(|given| maker.own(&exec, enter, given)));
        }
        // Peers are for users.
        if who.is_root && whos.len() > 1 {
            continue;
        }
        for name in &peers {
            entries.extend(maker.peer(name, &images));
        }
        for text in &options.way {
            entries.extend(maker.typed(text, &images)?);
        }
    }
    tell_apart(&mut entries);
    Ok(entries)
}

/// Peers whose words are known.
const PEERS: [&str; 3] = ["bwrap", "ch-run", "apptainer"];

/// The peers that are asked for, each of which has to be there.
fn peers(names: &[String]) -> Result<Vec<&'static str>, Error> {
    let mut all = Vec::new();
    for name in names {
        let step = || format!("--peers {name}");
        let known = PEERS.into_iter().find(|known| known == name);
        match known {
            _ if name == "found" => {
                all.extend(PEERS.into_iter().filter(|name| on_path(name).is_some()));
            }
            Some(known) if on_path(known).is_some() => all.push(known),
            Some(_) => {
                return Err(Error::new(step(), "it is not on PATH")
                    .hint("install it, or leave it out; found takes those that are there"))
            }
            None => {
                return Err(Error::new(step(), "not one that is known")
                    .hint("bwrap, ch-run, apptainer; for others --way 'NAME=… {image} {program}'"))
            }
        }
    }
    Ok(all)
}

/// A way of entering of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enter {
    /// As it comes: root, or a user namespace where there is no other way.
    Usual,
    /// In a user namespace, where there is a starter too.
    Userns,
    /// By the set-id starter.
    Setuid,
    /// By srun's option.
    Plugin,
    /// As it comes, and over the bridge even where it needs none.
    Bridge,
}

/// The ways of entering that are compared.
#[derive(Debug)]
struct Enters {
    all: Vec<Enter>,
}

impl Enters {
    /// Those the user names, else all that are there but the bridge.
    fn of(options: &Bench, launcher: &Launcher, singularity: &str) -> Result<Self, Error> {
        let starter = has_starter(Path::new(singularity));
        let mut all = Vec::new();
        for name in &options.enter {
            let step = || format!("--enter {name}");
            all.push(match name.as_str() {
                "userns" if starter => Enter::Userns,
                "userns" => Enter::Usual,
                "setuid" if starter => Enter::Setuid,
                "setuid" => {
                    return Err(Error::new(step(), "the starter is not installed set-id")
                        .hint("make install SETUID=1, by the administrator"))
                }
                "plugin" if launcher.has_plugin() => Enter::Plugin,
                "plugin" => {
                    return Err(Error::new(
                        step(),
                        "the launcher has no option --singularity-image",
                    )
                    .hint("load the plugin in plugstack.conf, and take srun as launcher"))
                }
                "bridge" => Enter::Bridge,
                _ => {
                    return Err(Error::new(step(), "no way of entering is named so")
                        .hint("userns, setuid, plugin, bridge"))
                }
            });
        }
        if all.is_empty() {
            match starter {
                true => all.extend([Enter::Userns, Enter::Setuid]),
                false => all.push(Enter::Usual),
            }
            if launcher.has_plugin() {
                all.push(Enter::Plugin);
            }
        }
        Ok(Self { all })
    }

    /// Root needs no user namespace and no starter.
    fn of_who(&self, is_root: bool) -> Vec<Enter> {
        let mut all = Vec::new();
        for &enter in &self.all {
            let enter = match enter {
                Enter::Userns | Enter::Setuid if is_root => Enter::Usual,
                other => other,
            };
            if !all.contains(&enter) {
                all.push(enter);
            }
        }
        all
    }
}

/// Whether the starter beside this command is root's and set-id.
pub fn has_starter(singularity: &Path) -> bool {
    let starter = singularity
        .parent()
        .and_then(Path::parent)
        .map(|prefix| prefix.join("libexec/singularity/starter"));
    let data = starter.and_then(|path| path.metadata().ok());
    data.is_some_and(|data| data.uid() == 0 && data.mode() & 0o4000 != 0)
}

/// `singularity exec OPTIONS`.
fn exec_words(options: &Bench) -> Result<Vec<String>, Error> {
    let mut words = vec![singularity()?.display().to_string(), "exec".to_owned()];
    if let Some(line) = &options.options {
        words
            .extend(split(line).map_err(|cause| Error::new(format!("--options '{line}'"), cause))?);
    }
    Ok(words)
}

/// The command that this program is installed beside.
///
/// # Errors
/// It is not there.
pub fn singularity() -> Result<PathBuf, Error> {
    let this =
        std::env::current_exe().map_err(|error| Error::io("find the running program", &error))?;
    let places = [
        this.ancestors()
            .nth(3)
            .map(|prefix| prefix.join("bin/singularity")),
        this.parent().map(|directory| directory.join("singularity")),
        on_path("singularity"),
    ];
    places
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(
                "find singularity",
                "it is neither installed beside bench nor on PATH",
            )
            .hint("make install")
        })
}

fn given_programs(option: &str, directory: &Path) -> Result<PathBuf, Error> {
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    match directory.join("mpi-bench").is_file() {
        true => Ok(directory),
        false => Err(Error::new(
            format!("{option} {}", Shown::new(&directory)),
            "there is no mpi-bench in it",
        )
        .hint("mpicc -O2 -o DIR/mpi-bench examples/bench/*.c; mpicc -O2 -o DIR/ring examples/ring/ring.c")),
    }
}

fn open(path: &Path, options: &Bench, store: &Store, exec: &[String]) -> Result<Given, Error> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let image = Image::open(&path)?;
    let is_directory = image.is_directory();
    let size = image.file().metadata().map_or(0, |data| data.size());
    let programs = match &options.image_program {
        Some(directory) => directory.clone(),
        None => store.for_image(exec, &path)?,
    };
    Ok(Given {
        format: image.format().to_string(),
        is_directory,
        bytes: if is_directory { 0 } else { size },
        programs,
        path,
    })
}

/// Makes the ways of one user.
struct Maker<'a> {
    who: &'a Who,
    suffix: &'static str,
    host_programs: &'a Path,
}

impl Maker<'_> {
    fn entry(&self, name: &str, template: Template) -> Entry {
        let found = |name: &str| {
            on_path(name).map_or_else(|| name.to_owned(), |path| path.display().to_string())
        };
        Entry {
            way: Way {
                name: format!("{name}{}", self.suffix),
                baseline: format!("host{}", self.suffix),
                entering: String::new(),
                format: "none".to_owned(),
                bytes: 0,
                mpi: String::new(),
                cma: String::new(),
                nodes: 0,
                own: true,
                words: template.line(),
                bridged: false,
            },
            who: self.who.clone(),
            template,
            phases: None,
            variables: Vec::new(),
            programs: self.host_programs.to_owned(),
            nothing: found("true"),
            sleep: found("sleep"),
            image: None,
        }
    }

    fn host(&self) -> Entry {
        let mut entry = self.entry("host", Template::host());
        entry.way.entering = "none: the host itself".to_owned();
        entry
    }

    fn of_image(&self, name: &str, template: &Template, given: &Given) -> Entry {
        // What is stored names no places.
        let words = template.line();
        let template = template.with_image(&given.path.display().to_string());
        let mut entry = self.entry(name, template);
        entry.way.words = words;
        entry.way.format = given.format.clone();
        entry.way.bytes = given.bytes;
        entry.programs = given.programs.clone();
        entry.nothing = "/bin/true".to_owned();
        entry.sleep = "/bin/sleep".to_owned();
        entry.image = Some(given.path.clone());
        entry
    }

    fn own(&self, exec: &[String], enter: Enter, given: &Given) -> Entry {
        let (format, is_root) = (short(given), self.who.is_root);
        let (name, entering) = match (enter, given.is_directory) {
            (Enter::Plugin, true) => (format!("{format}, Slurm plugin"), "Slurm plugin"),
            (Enter::Plugin, false) => (
                format!("{format}, Slurm plugin"),
                "Slurm plugin, kernel mount",
            ),
            (Enter::Setuid, true) => (format!("{format}, starter"), "set-id starter"),
            (Enter::Setuid, false) => {
                (format!("{format}, starter"), "set-id starter, kernel mount")
            }
            (_, true) if is_root => (format.to_owned(), "root"),
            (_, true) => (format.to_owned(), "user namespace"),
            (_, false) if is_root => (format!("{format}, kernel"), "root, kernel mount"),
            (_, false) => (format!("{format}, FUSE"), "user namespace, FUSE"),
        };
        let option = match enter {
            Enter::Userns => Some("--userns"),
            Enter::Setuid => Some("--setuid"),
            Enter::Bridge => Some("--mpi=bridge"),
            Enter::Usual | Enter::Plugin => None,
        };
        let (name, entering) = match enter {
            Enter::Bridge => (format!("{name}, bridge"), format!("{entering}, bridge")),
            _ => (name, entering.to_owned()),
        };
        let exec_name = exec.first().cloned().unwrap_or_default();
        let ends = ["{image}", "{program}"];
        let exec = || exec.iter().map(String::as_str).chain(option);
        let template = match enter {
            Enter::Plugin => {
                Template::new(["{launcher}", "--singularity-image={image}", "{program}"])
            }
            _ => Template::new(exec().chain(ends)),
        };
        let mut entry = self.of_image(&name, &template, given);
        entry.way.entering = entering;
        entry.way.words = entry.way.words.replace(&exec_name, "singularity");
        if enter != Enter::Plugin {
            let phases = Template::new(exec().chain(["--timing"]).chain(ends));
            entry.phases = Some(phases.with_image(&given.path.display().to_string()));
        }
        entry
    }

    /// A peer with every image that it can take.
    fn peer(&self, name: &str, images: &[Given]) -> Vec<Entry> {
        let home = self
            .who
            .variables
            .iter()
            .find(|(name, _)| name == "HOME")
            .map(|(_, value)| value.clone())
            .or_else(|| std::env::var("HOME").ok())
            .unwrap_or_else(|| "/root".to_owned());
        let above = Path::new(&home).parent().unwrap_or(Path::new("/"));
        let above = above.display().to_string();
        let (template, files) = match name {
            "bwrap" => {
                let mut words = vec![
                    "bwrap",
                    "--ro-bind",
                    "{image}",
                    "/",
                    "--dev-bind",
                    "/dev",
                    "/dev",
                ];
                words.extend([
                    "--proc",
                    "/proc",
                    "--ro-bind",
                    "/sys",
                    "/sys",
                    "--bind",
                    "/tmp",
                    "/tmp",
                ]);
                match above.as_str() {
                    "/" => words.extend(["--bind", &home, &home]),
                    _ => words.extend(["--tmpfs", &above, "--bind", &home, &home]),
                }
                (Template::new(words.into_iter().chain(["{program}"])), false)
            }
            "ch-run" => (
                Template::new(["ch-run", "--home", "{image}", "--", "{program}"]),
                false,
            ),
            _ => (
                Template::new(["apptainer", "--silent", "exec", "{image}", "{program}"]),
                true,
            ),
        };
        let fit = images.iter().filter(|given| given.is_directory || files);
        let entry = |given| {
            let mut entry = self.foreign(name, &template, given);
            entry.way.words = entry.way.words.replace(&home, "$HOME");
            entry
        };
        fit.map(entry).collect()
    }

    /// What a launcher lacks that cannot add /etc/hosts to a read-only image:
    /// hwloc looks for a display on `localhost`, and asks name servers for seconds.
    fn foreign(&self, name: &str, template: &Template, given: &Given) -> Entry {
        let label = format!("{name}, {}", short(given));
        let mut entry = self.of_image(&label, template, given);
        entry.way.entering = name.to_owned();
        entry.way.own = false;
        entry.variables = vec![("HWLOC_COMPONENTS".to_owned(), "-gl".to_owned())];
        entry
    }

    fn typed(&self, text: &str, images: &[Given]) -> Result<Vec<Entry>, Error> {
        let step = || format!("--way '{text}'");
        let hint = "as in --way 'bwrap=bwrap --ro-bind {image} / --dev /dev {program}'";
        let (name, template) = text
            .split_once('=')
            .filter(|(name, _)| !name.trim().is_empty())
            .ok_or_else(|| Error::new(step(), "it has no name").hint(hint))?;
        let template =
            Template::parse(template).map_err(|cause| Error::new(step(), cause).hint(hint))?;
        if !template.takes_image() {
            let mut entry = self.entry(name.trim(), template);
            entry.way.entering = name.trim().to_owned();
            entry.way.own = false;
            return Ok(vec![entry]);
        }
        Ok(images
            .iter()
            .map(|given| {
                let mut entry = self.foreign(name.trim(), &template, given);
                entry.variables.clear();
                if images.len() == 1 {
                    entry.way.name = format!("{}{}", name.trim(), self.suffix);
                }
                entry
            })
            .collect())
    }
}

/// A format without what is in brackets.
fn short(given: &Given) -> &str {
    given.format.split(" (").next().unwrap_or_default()
}

/// Names that are the same get the image's file name, or a number.
fn tell_apart(entries: &mut [Entry]) {
    for index in 0..entries.len() {
        let name = entries[index].way.name.clone();
        if entries
            .iter()
            .filter(|entry| entry.way.name == name)
            .count()
            == 1
        {
            continue;
        }
        let mut number = 0;
        for entry in entries.iter_mut().filter(|entry| entry.way.name == name) {
            number += 1;
            let file = entry.image.as_deref().and_then(Path::file_name);
            let word = file.map_or(number.to_string(), |file| {
                file.to_string_lossy().into_owned()
            });
            entry.way.name = format!("{name} ({word})");
        }
        // The same file twice.
        let name = entries[index].way.name.clone();
        let mut number = 0;
        for entry in entries.iter_mut().filter(|entry| entry.way.name == name) {
            number += 1;
            if number > 1 {
                entry.way.name = format!("{name} {number}");
            }
        }
    }
}
