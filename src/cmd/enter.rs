//! From the words of exec, run, shell and test to a request, and into the image.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::{Image, Shown};
use launcher::bind;
use launcher::fds;
use launcher::request::{
    Access, Entry, EnvironmentChoice, Home, HostPath, ImagePath, MpiChoice, Share, Standard,
    Unshared,
};
use launcher::{env, meeting, plan, policy, site, Error, Host, Request};
use pmi_shim::{Change, Choice, Meeting, Program};

use crate::cli::Entering;
use crate::env_file;
use crate::libexec::libexec;
use crate::output;

/// The image, and the words after it.
pub fn split(words: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
    let mut words = words.into_iter();
    (words.next().unwrap_or_default().into(), words.collect())
}

/// Enters the image and becomes the entry; returns only on failure, after
/// `--dry-run`, or for a test that is not there.
///
/// # Errors
/// Why the program did not start.
pub fn enter(image: &Path, entry: Entry, options: Entering, mut host: Host) -> Result<(), Error> {
    let entry = match &options.app {
        Some(app) => of_app(app, entry, &mut host)?,
        None => entry,
    };
    let way = Way::of(&options);
    let dry_run = options.dry_run;
    // Opening the image takes a descriptor already.
    let limits = fds::Limits::make_room();
    let request = request(image, entry, options, &host)?;
    let starter = starter(way, &request, &host)?;
    if dry_run {
        host.mounts_as_root |= starter.is_some();
        return print_plan(&request, &host);
    }
    if let Some(path) = starter {
        let verbosity = launcher::log::verbosity();
        return Err(launcher::starter::become_starter(
            &path, &request, &host, &limits, verbosity,
        ));
    }
    launcher::launch(&request, &host, &limits, |timings| {
        for line in timings {
            eprintln!("{line}");
        }
    })?;
    Ok(())
}

/// The entry of one of the image's apps, whose name its environment script goes by.
fn of_app(app: &str, entry: Entry, host: &mut Host) -> Result<Entry, Error> {
    let is_name = !app.is_empty() && !app.starts_with('.') && !app.contains(['/', '\0']);
    if !is_name {
        return Err(Error::new(
            format!("--app {}", Shown::new(app)),
            "this is no name of an app",
        )
        .hint("singularity inspect --list-apps IMAGE lists those of an image"));
    }
    host.environment
        .retain(|(name, _)| name != "SINGULARITY_APPNAME");
    host.environment
        .push(("SINGULARITY_APPNAME".into(), app.into()));
    let script = |name: &str, words: Vec<OsString>| {
        let path = format!("/scif/apps/{app}/scif/{name}");
        Entry::Exec(std::iter::once(path.into()).chain(words).collect())
    };
    Ok(match entry {
        Entry::Run(words) => script("runscript", words),
        Entry::Test(words) => script("test", words),
        other => other,
    })
}

/// How the user wants to enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the starter where there is one that would do it.
    Auto,
    UserNamespace,
    Starter,
}

impl Way {
    fn of(options: &Entering) -> Self {
        match (options.userns, options.setuid) {
            (true, _) => Self::UserNamespace,
            (_, true) => Self::Starter,
            _ => Self::Auto,
        }
    }
}

/// The set-id starter, if it is to be used.
fn starter(way: Way, request: &Request, host: &Host) -> Result<Option<PathBuf>, Error> {
    // Root needs nobody's privilege.
    if way == Way::UserNamespace || host.is_root() {
        return Ok(None);
    }
    let directory = match &request.mpi.libexec {
        Some(directory) => directory,
        None => &libexec()?,
    };
    let path = directory.join(launcher::starter::NAME);
    let reason = if !request.site.allow_setuid {
        Error::new("--setuid", "this site does not allow the set-id starter")
            .hint(format!("'allow setuid' in {} is the reason", site::PATH))
    } else if !launcher::starter::is_installed(&path) {
        Error::new(
            "--setuid",
            format!(
                "{} is not there, or not set-user-ID of root",
                Shown::new(&path)
            ),
        )
        .hint("the administrator can install it: make install SETUID=1; --userns goes without it")
    } else if let Some(why) = launcher::starter::is_in_vain(&path) {
        Error::new("--setuid", why).hint("--userns goes without the set-id starter")
    } else {
        match launcher::starter::judge(request, host) {
            Ok(()) => return Ok(Some(path)),
            // Without the starter there would be no way: its reason is the one to tell.
            Err(error) if error.is_not_by_root() && request.site.allow_user_namespaces => error,
            Err(error) => return Err(error),
        }
    };
    if way == Way::Starter {
        return Err(reason);
    }
    tracing::debug!("the set-id starter is not used: {reason}");
    Ok(None)
}

fn request(image: &Path, entry: Entry, options: Entering, host: &Host) -> Result<Request, Error> {
    let access = access(&options, host)?;
    let image = if access == Access::Writable {
        Image::open_writable(image).map_err(|error| match error.kind() {
            image::Kind::Permission => Error::from(error)
                .hint("leave out --writable, or use --writable-tmpfs or --overlay DIR"),
            _ => error.into(),
        })
    } else {
        Image::open(image).map_err(Error::from)
    }?;
    let site = site::load()?;
    let launcher = pmi_shim::detect(
        &pmi_shim::Environment::of(&host.environment),
        launcher::is_socket,
    );
    let is_rank = launcher.is_rank();
    Ok(Request {
        binds: binds(&options, host)?,
        home: home(&options, host)?,
        workdir: options.workdir.as_deref().map(|path| on_host(path, host)),
        scratch: scratch(&options)?,
        working_directory: options
            .pwd
            .as_deref()
            .map(|path| in_image("--pwd", path))
            .transpose()?,
        contain: options.contain || options.containall,
        unshared: Unshared {
            ipc: options.ipc || options.containall,
            pid: options.pid || options.containall && !is_rank,
            net: options.net,
            uts: options.uts || options.hostname.is_some(),
        },
        hostname: options.hostname.clone(),
        access,
        without: without(&options)?,
        environment: environment(&options)?,
        share: match options.share.as_deref().map(OsStr::as_bytes) {
            _ if !site.share => Share::Off,
            None | Some(b"" | b"auto") => Share::Auto,
            Some(b"off") => Share::Off,
            Some(name) => Share::Name(OsStr::from_bytes(name).to_owned()),
        },
        stage: launcher::stage::Stage::asked(options.stage.as_deref(), host, &site),
        mpi: mpi(options.mpi.as_deref(), host, &site)?,
        site,
        timing: options.timing,
        ..Request::new(image, entry, launcher)
    })
}

/// How launcher and MPI meet: as `--mpi` says, else as the site does.
pub fn mpi(said: Option<&OsStr>, host: &Host, site: &site::Site) -> Result<MpiChoice, Error> {
    let choice = match said {
        None => site.mpi,
        Some(name) => Choice::named(name).ok_or_else(|| {
            Error::new(format!("--mpi {}", Shown::new(name)), "no such way").hint(Choice::NAMES)
        })?,
    };
    Ok(MpiChoice {
        choice,
        hygiene: site.mpi_hygiene
            && host
                .variable("SINGULARITY_MPI_HYGIENE")
                .is_none_or(|value| value != "off"),
        libexec: libexec().ok(),
    })
}

fn on_host(path: &Path, host: &Host) -> HostPath {
    HostPath::new(host.cwd.as_deref().unwrap_or(Path::new("/")).join(path))
}

fn in_image(option: &str, path: &Path) -> Result<ImagePath, Error> {
    ImagePath::new(path).ok_or_else(|| {
        Error::new(
            format!("{option} {}", Shown::new(path)),
            "not an absolute path",
        )
        .hint("give the path as it is in the image, from / on")
    })
}

fn cwd(host: &Host) -> &Path {
    host.cwd.as_deref().unwrap_or(Path::new("/"))
}

/// The options' binds, and those of the environment: `SINGULARITY_BINDPATH`
/// counts also beside `-B`, and `SINGULARITY_BIND` is its newer name.
fn binds(options: &Entering, host: &Host) -> Result<Vec<launcher::request::Bind>, Error> {
    let variables = ["SINGULARITY_BINDPATH", "SINGULARITY_BIND"].map(|name| host.variable(name));
    let from_environment = variables.into_iter().flatten();
    let from_options = options
        .bind
        .iter()
        .map(OsString::as_os_str)
        .filter(|list| Some(*list) != variables[0]);
    let mut binds = Vec::new();
    for list in from_environment.chain(from_options) {
        binds.extend(bind::parse_list(list, cwd(host))?);
    }
    Ok(binds)
}

fn home(options: &Entering, host: &Host) -> Result<Home, Error> {
    let refused = host
        .variable("SINGULARITY_NOHOME")
        .is_some_and(|value| !value.is_empty());
    match &options.home {
        _ if options.no_home || refused => Ok(Home::None),
        None => Ok(Home::Own),
        Some(pair) => {
            let (source, destination) = bind::parse_pair(pair, cwd(host))?;
            std::fs::metadata(source.as_path()).map_err(|error| {
                let step = format!("home {}", Shown::new(source.as_path()));
                Error::io(step, &error).hint("the home directory must exist on the host")
            })?;
            Ok(Home::Instead {
                source,
                destination,
            })
        }
    }
}

fn access(options: &Entering, host: &Host) -> Result<Access, Error> {
    Ok(match &options.overlay {
        Some(directory) => {
            let directory = on_host(directory, host);
            if !directory.as_path().is_dir() {
                return Err(Error::new(
                    format!("overlay {}", Shown::new(directory.as_path())),
                    "not a directory",
                )
                .hint("make it first: mkdir DIR"));
            }
            Access::Overlay(directory)
        }
        None if options.writable => Access::Writable,
        None if options.writable_tmpfs => Access::WritableTmpfs,
        None => Access::ReadOnly,
    })
}

fn scratch(options: &Entering) -> Result<Vec<ImagePath>, Error> {
    options
        .scratch
        .iter()
        .flat_map(|list| list.as_os_str().as_bytes().split(|&b| b == b','))
        .filter(|path| !path.is_empty())
        .map(|path| in_image("--scratch", Path::new(OsStr::from_bytes(path))))
        .collect()
}

fn without(options: &Entering) -> Result<Vec<Standard>, Error> {
    options
        .no_mount
        .iter()
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| {
            let known = Standard::NAMES.iter().find(|(known, _)| *known == name);
            known.map(|(_, standard)| *standard).ok_or_else(|| {
                let names = Standard::NAMES.map(|(name, _)| name).join(", ");
                Error::new(format!("--no-mount {}", Shown::new(name)), "no such mount")
                    .hint(format!("one of {names}"))
            })
        })
        .collect()
}

fn environment(options: &Entering) -> Result<EnvironmentChoice, Error> {
    let mut set = Vec::new();
    if let Some(file) = &options.env_file {
        set.extend(env_file::read(file)?);
    }
    for text in &options.env {
        set.push(env_file::assignment(text.as_bytes()).map_err(|cause| {
            Error::new(format!("--env {}", Shown::new(text)), cause).hint("write --env NAME=VALUE")
        })?);
    }
    Ok(EnvironmentChoice {
        clean: options.cleanenv || options.containall,
        ignore_image: options.no_env,
        set,
    })
}

/// What would be done, on standard output: it is what was asked for.
fn print_plan(request: &Request, host: &Host) -> Result<(), Error> {
    policy::judge(request, host)?;
    let plan = plan::build(request, host);
    let steps = plan.steps.iter().map(ToString::to_string);
    let mut places: Vec<_> = plan
        .working_directory
        .iter()
        .map(|path| Shown::new(path.as_path()).to_string())
        .collect();
    places.dedup();
    let apart = request.share == Share::Off && plan.has_user_namespace();
    let (program, meeting, instead) = met(request, host, &plan);
    let variables = env::hygiene(request, host, &program, apart)
        .into_iter()
        .chain(instead)
        .map(|change| {
            let action = if change.value().is_some() {
                "set"
            } else {
                "drop"
            };
            format!(
                "{action} variable {} ({})",
                Shown::new(change.name()),
                change.why()
            )
        })
        .chain(kept(request, host));
    let sharing = match (&request.share, &request.launcher.job) {
        (Share::Off, _) => "no other process".to_owned(),
        (Share::Name(name), _) => format!("processes of yours that share {}", Shown::new(name)),
        (Share::Auto, Some(_)) if request.launcher.is_rank() => {
            format!(
                "the ranks of this job on this node ({})",
                request.launcher.launcher.name()
            )
        }
        (Share::Auto, _) => "no other process".to_owned(),
    };
    let all = std::iter::once(format!("share namespaces with {sharing}"))
        .chain(steps)
        .chain([format!(
            "start in the first that exists of {}",
            places.join(", ")
        )])
        .chain(meeting)
        .chain(variables)
        .chain([
            if host.is_root() {
                "set no_new_privs".to_owned()
            } else {
                "drop all privileges, set no_new_privs".to_owned()
            },
            entry(&request.entry),
        ]);
    let mut text = String::new();
    for (number, line) in all.enumerate() {
        text.push_str(&format!("{:2}  {line}\n", number + 1));
    }
    output::print(&text)
}

/// What is known of the program without entering the image, and how it would meet its
/// launcher, in words; none where no launcher started this.
fn met(
    request: &Request,
    host: &Host,
    plan: &plan::Plan,
) -> (Program, Option<String>, Vec<Change>) {
    if !meeting::is_asked(&request.launcher, &request.mpi) {
        return (Program::UNKNOWN, None, Vec::new());
    }
    let words = match &request.entry {
        Entry::Exec(words) => words.as_slice(),
        _ => &[],
    };
    let later = |program| {
        let text = "decide how launcher and program meet when the image is entered";
        (program, Some(text.to_owned()), Vec::new())
    };
    if !request.image.is_directory() || words.is_empty() {
        return later(Program::UNKNOWN);
    }
    let Ok(root) = image::mpi::Root::open(request.image.path()) else {
        return later(Program::UNKNOWN);
    };
    let environment = env::compose(request, plan, host);
    let directory = plan.working_directory.first();
    let program = meeting::program_in(
        &root,
        &image::mpi::Question {
            words,
            path: environment.get("PATH").unwrap_or_default(),
            library_path: environment.get("LD_LIBRARY_PATH"),
            variable: &|name| environment.get(name).map(OsStr::to_owned),
            directory: directory.map_or(Path::new("/"), |path| path.as_path()),
            at_terminal: std::io::IsTerminal::is_terminal(&std::io::stdin()),
            depth: image::mpi::Depth::Thorough,
        },
    );
    if program == Program::Without
        && words
            .first()
            .is_some_and(|word| word.as_bytes().contains(&b'/'))
    {
        // It may be one of the host's that is only seen inside.
        return later(program);
    }
    let program = program.told(request.mpi.choice);
    let has_bridge = request
        .mpi
        .libexec
        .as_ref()
        .is_some_and(|directory| directory.join("pmi-bridge").is_file());
    let facts = pmi_shim::Facts {
        program: program.clone(),
        choice: request.mpi.choice,
        has_bridge,
    };
    let name = request.launcher.launcher.name();
    let meeting = pmi_shim::meet(&request.launcher, &facts);
    let instead = pmi_shim::instead_of_worlds_of_one(&request.launcher, &facts, &meeting);
    let text = match meeting {
        Meeting::Pass { why, .. } => format!("have {name} and the program meet directly ({why})"),
        Meeting::Bridge { bridge, why } => format!(
            "have {name} and the program meet over the bridge, {} ({why})",
            bridge.describe()
        ),
        Meeting::Refuse { line, .. } => format!("refuse: {line}"),
    };
    (program, Some(text), instead)
}

/// Variables that stay where few are wanted, with the reason.
fn kept(request: &Request, host: &Host) -> Vec<String> {
    if !request.environment.clean {
        return Vec::new();
    }
    let reason = |name: &OsString| request.launcher.keeps_because(name);
    let mut lines: Vec<_> = host
        .environment
        .iter()
        .filter_map(|(name, _)| Some((name, reason(name)?)))
        .map(|(name, why)| format!("keep variable {} ({why})", Shown::new(name)))
        .collect();
    lines.sort();
    lines
}

fn entry(entry: &Entry) -> String {
    let shown = |words: &[OsString]| {
        words
            .iter()
            .map(|word| Shown::new(word).to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    match entry {
        Entry::Exec(words) => format!("execute {}", shown(words)),
        Entry::Run(words) => format!("execute the runscript {}", shown(words)),
        Entry::Test(words) => format!("execute the test {}", shown(words)),
        Entry::Shell { program, arguments } => format!(
            "execute the shell {} {}",
            program
                .as_ref()
                .map_or("bash or sh".into(), |p| Shown::new(p).to_string()),
            shown(arguments)
        ),
    }
    .trim_end()
    .to_owned()
}
