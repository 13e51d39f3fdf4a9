//! `singularity mpi check`: what the host offers, what an image holds, and how they will
//! meet.
//!
//! Owns: gathering these and saying them, to people and to scripts. Never: starts the
//! program, or decides: that is [`pmi_shim::meet`]'s, as in a real start.

mod host;
mod launchers;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::mpi::{survey, Depth, LibraryKind, Root};
use image::{Image, Shown};
use launcher::request::Entry;
use launcher::{env, fds, meeting, plan, site, Error, Host, Request};
use pmi_shim::{Bridge, Facts, Host as Launcher, Meeting, Mpi, Program};

use super::enter;
use crate::cli::{Mpi as Options, MpiCheck, MpiVerb};
use crate::json::Json;
use crate::libexec::libexec;
use crate::{log, output};

use self::launchers::Found;

/// The status that says that launcher and image do not meet.
const DO_NOT_MEET: u8 = 1;

/// Carries the verb out, and returns the exit status.
pub fn mpi(options: Options, host: Host) -> u8 {
    let MpiVerb::Check(options) = options.verb;
    match check(options, &host) {
        Ok(true) => 0,
        Ok(false) => DO_NOT_MEET,
        Err(error) => {
            log::error(&error);
            error.exit_status()
        }
    }
}

/// What an image holds, and what its program uses.
struct Inside {
    libraries: Vec<(String, String, String)>,
    program: Program,
}

/// One launcher, and how it meets the program.
struct Row {
    command: String,
    version: String,
    host: Launcher,
    meeting: Option<Meeting>,
}

impl Row {
    fn is_refused(&self) -> bool {
        matches!(self.meeting, Some(Meeting::Refuse { .. }))
    }
}

/// A job of fewer ranks may meet in ways of its own, and is tried out before one that
/// has more.
const A_JOB: u32 = 4;

fn check(options: MpiCheck, host: &Host) -> Result<bool, Error> {
    let environment = pmi_shim::Environment::of(&host.environment);
    let launcher = pmi_shim::detect(&environment, launcher::is_socket);
    let helper = libexec()?.join("pmi-bridge");
    let has_bridge = helper.is_file();
    // As a start would take it.
    let said = host
        .variable("SINGULARITY_MPI")
        .filter(|said| !said.is_empty());
    let wanted = enter::mpi(said, host, &site::load()?)?;
    let choice = wanted.choice;
    let mut words = options.words.into_iter();
    let image = words.next().map(PathBuf::from);
    let program: Vec<OsString> = words.collect();
    let inside = match &image {
        Some(path) => Some(look(path, &program, host)?),
        None => None,
    };
    let meet = |launcher: &Launcher| {
        let facts = Facts {
            program: inside.as_ref()?.asked().told(choice),
            choice,
            has_bridge,
        };
        Some(pmi_shim::meet(launcher, &facts))
    };
    let rows: Vec<Row> = if launcher.is_rank() {
        let mut job = launcher.clone();
        job.size = job.size.map(|size| size.max(A_JOB));
        vec![Row {
            command: job.launcher.name().to_owned(),
            version: host::interface(&job),
            meeting: meet(&job),
            host: job,
        }]
    } else {
        let path = host.variable("PATH").unwrap_or_default();
        let found = launchers::all(path);
        let row = |found: Found| Row {
            meeting: meet(&found.host),
            command: found.command,
            version: found.version,
            host: found.host,
        };
        found.into_iter().map(row).collect()
    };
    let facts = host::facts(
        &launcher,
        has_bridge.then_some(&*helper),
        (choice, wanted.hygiene),
    );
    let advice = advice(&facts, inside.as_ref(), &rows, has_bridge);
    let fine = match &inside {
        None => true,
        Some(inside) => {
            inside.uses_none() || (!rows.iter().all(Row::is_refused) && inside.missing().is_none())
        }
    };
    let text = match options.json {
        true => json(
            &facts,
            image.as_deref(),
            inside.as_ref(),
            &rows,
            &advice,
            fine,
        ),
        false => plain(&facts, image.as_deref(), inside.as_ref(), &rows, &advice),
    };
    output::print(&text)?;
    Ok(fine)
}

impl Inside {
    /// The program if one was named, else any that uses what the image holds.
    fn asked(&self) -> Program {
        self.program.clone()
    }

    fn uses_none(&self) -> bool {
        self.program.candidates().is_empty()
    }

    /// The MPI that the program is linked with and the image has not.
    fn missing(&self) -> Option<&Mpi> {
        match &self.program {
            Program::With(mpi) if mpi.shown.ends_with(image::mpi::MISSING) => Some(mpi),
            _ => None,
        }
    }

    fn described(&self) -> String {
        match (&self.program, self.program.candidates()) {
            (_, []) => "uses no MPI".to_owned(),
            (Program::With(mpi), _) => mpi.shown.clone(),
            (_, candidates) => {
                let names: Vec<_> = candidates.iter().map(|mpi| mpi.shown.as_str()).collect();
                format!("perhaps {}", names.join(", or "))
            }
        }
    }
}

/// Looks into the image: a directory from here, a file by entering it.
fn look(path: &Path, program: &[OsString], host: &Host) -> Result<Inside, Error> {
    let image = Image::open(path)?;
    let words = program.to_vec();
    let site = site::load()?;
    let nobody = Launcher::nobody();
    let request = Request {
        site,
        ..Request::new(image, Entry::Exec(words.clone()), nobody)
    };
    let limits = fds::Limits::make_room();
    // As the program will find it: an image may have its MPI on a search path of its own.
    let environment = env::compose(&request, &plan::build(&request, host), host);
    let told = launcher::look::inside(&request, host, || told_inside(&words, &environment))?;
    limits.restore();
    let Some(refusal) = told.strip_prefix(NOT_EXECUTED) else {
        return Ok(read_told(&told));
    };
    let refusal = String::from_utf8_lossy(refusal);
    let (line, hint) = refusal.split_once('\n').unwrap_or((&refusal, ""));
    let (step, cause) = line.split_once(": ").unwrap_or((line, ""));
    Err(Error::new(step, cause).hint(hint))
}

/// What comes before the reason why the program cannot be executed.
const NOT_EXECUTED: &[u8] = b"not executed\n";

/// Why a command could not be executed in the image, whose root is this process's.
fn refusal(name: &OsStr, path: &OsStr) -> Option<Error> {
    if name.as_bytes().contains(&b'/') {
        return launcher::why_not(Path::new(name));
    }
    let found: Vec<PathBuf> = std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .filter(|file| file.metadata().is_ok_and(|found| !found.is_dir()))
        .collect();
    let mut refusals = found.iter().map(|file| launcher::why_not(file));
    match refusals.next() {
        None => Some(
            Error::new(
                format!("execute {}", Shown::new(name)),
                "not found in the image",
            )
            .hint("name a program as singularity exec would find it in the image"),
        ),
        // execvp(3) goes on to the next.
        Some(first) => match refusals.any(|other| other.is_none()) {
            true => None,
            false => first,
        },
    }
}

/// Runs in the image.
fn told_inside(words: &[OsString], environment: &env::Environment) -> Vec<u8> {
    let scripts = launcher::environment_scripts();
    let path = meeting::path_here(environment, &scripts);
    if let Some(error) = words.first().and_then(|name| refusal(name, &path)) {
        let hint = error.remedy().unwrap_or_default();
        let text = format!("{error}\n{hint}");
        return [NOT_EXECUTED, text.as_bytes()].concat();
    }
    let Ok(root) = Root::open(Path::new("/")) else {
        return Vec::new();
    };
    let mut text = String::new();
    for library in survey(&root) {
        let kind = match library.kind {
            LibraryKind::Mpi(family) => format!("MPI\t{}", family.name()),
            other => format!("library\t{}", other.name()),
        };
        let version = library.version.map(|v| v.to_string()).unwrap_or_default();
        text.push_str(&format!(
            "{kind}\t{version}\t{}\n",
            Shown::new(&library.path)
        ));
    }
    // Without a program it is as if a shell were asked about: any of the image's.
    let shell = [OsString::from("sh")];
    let words = if words.is_empty() { &shell } else { words };
    let program = meeting::program_here(words, environment, &scripts, false, Depth::Thorough);
    let (form, candidates) = match program {
        Program::Without => ("without", Vec::new()),
        Program::With(mpi) => ("with", vec![mpi]),
        Program::Perhaps(candidates) => ("perhaps", candidates),
        Program::Hardly(candidates) => ("hardly", candidates),
    };
    text.push_str(&format!("program\t{form}\n"));
    for mpi in candidates {
        text.push_str(&format!(
            "candidate\t{:?}\t{}\t{:?}\t{}\n",
            mpi.family,
            mpi.major.map(|major| major.to_string()).unwrap_or_default(),
            mpi.clients,
            mpi.shown
        ));
    }
    text.into_bytes()
}

fn read_told(told: &[u8]) -> Inside {
    use pmi_shim::{Client, Family};
    let text = String::from_utf8_lossy(told);
    let mut libraries = Vec::new();
    let (mut form, mut candidates) = ("without".to_owned(), Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields.as_slice() {
            ["MPI" | "library", name, version, path] => {
                libraries.push((
                    (*name).to_owned(),
                    (*version).to_owned(),
                    (*path).to_owned(),
                ));
            }
            ["program", told] => form = (*told).to_owned(),
            ["candidate", family, major, clients, shown] => {
                let families = [
                    Family::OpenMpi,
                    Family::Mpich,
                    Family::IntelMpi,
                    Family::Mvapich,
                    Family::CrayMpich,
                ];
                let is_named = |known: &&Family| format!("{known:?}") == *family;
                candidates.push(Mpi {
                    family: families
                        .iter()
                        .find(is_named)
                        .copied()
                        .unwrap_or(Family::Unknown),
                    major: major.parse().ok(),
                    clients: [Client::Pmix, Client::Pmi1, Client::Pmi2]
                        .into_iter()
                        .filter(|client| clients.contains(&format!("{client:?}")))
                        .collect(),
                    shown: (*shown).to_owned(),
                });
            }
            _ => {}
        }
    }
    let program = match (form.as_str(), candidates.len()) {
        ("with", 1) => Program::With(candidates.remove(0)),
        ("perhaps", _) => Program::Perhaps(candidates),
        ("hardly", _) => Program::Hardly(candidates),
        _ => Program::Without,
    };
    Inside { libraries, program }
}

fn way(meeting: &Meeting) -> &'static str {
    match meeting {
        Meeting::Pass { warning: None, .. } => "directly",
        Meeting::Pass { .. } => "not known",
        Meeting::Bridge { .. } => "over the bridge",
        Meeting::Refuse { .. } => "not at all",
    }
}

/// What it costs, as measured (docs/PERFORMANCE.md).
fn cost(meeting: &Meeting) -> &'static str {
    match meeting {
        Meeting::Pass { .. } => "nothing",
        Meeting::Bridge {
            bridge: Bridge::Rank(_),
            ..
        } => "up to 20 ms a rank before it starts, and two processes on each node",
        Meeting::Bridge {
            bridge: Bridge::Node(_),
            ..
        } => "up to 20 ms a node before its ranks start, and a process on each",
        Meeting::Bridge {
            bridge: Bridge::Both(_),
            ..
        } => "up to 20 ms a rank before it starts, and three processes on each node",
        Meeting::Refuse { .. } => "the ranks do not start",
    }
}

fn why(meeting: &Meeting) -> &str {
    match meeting {
        Meeting::Pass { why, .. } | Meeting::Bridge { why, .. } => why,
        Meeting::Refuse { line, .. } => line,
    }
}

/// What to change for better.
fn advice(
    facts: &[host::Fact],
    inside: Option<&Inside>,
    rows: &[Row],
    has_bridge: bool,
) -> Vec<String> {
    let mut advice: Vec<String> = facts
        .iter()
        .filter_map(|fact| fact.advice.clone())
        .collect();
    if rows.is_empty() {
        advice.push("no launcher of MPI is in PATH: load a module, or install one".to_owned());
    }
    if !has_bridge {
        advice.push(
            "without pmi-bridge only launchers and libraries of one kind meet: make install puts it there"
                .to_owned(),
        );
    }
    // Where there is another, nobody has to take that one.
    for row in rows.iter().filter(|_| rows.iter().all(Row::is_refused)) {
        if let Some(Meeting::Refuse { hint, .. }) = &row.meeting {
            advice.push(format!("{}: {hint}", row.command));
        }
    }
    let directly: Vec<_> = rows
        .iter()
        .filter(|row| matches!(row.meeting, Some(Meeting::Pass { warning: None, .. })))
        .map(|row| row.command.as_str())
        .collect();
    let bridged = rows
        .iter()
        .any(|row| matches!(row.meeting, Some(Meeting::Bridge { .. })));
    if bridged && !directly.is_empty() && inside.is_some_and(|inside| !inside.uses_none()) {
        advice.push(format!(
            "{} meets the image directly, which saves the bridge",
            directly.join(", or ")
        ));
    }
    let first = inside.and_then(|inside| inside.program.candidates().first());
    if let (Some(mpi), [row], true) = (first, rows, bridged) {
        // Where it is the launcher's own that is in the way, it says so above.
        let is_unlike = matches!(
            pmi_shim::meet(
                &row.host,
                &Facts {
                    program: Program::With(mpi.clone()),
                    choice: pmi_shim::Choice::Auto,
                    has_bridge: false
                }
            ),
            Meeting::Refuse { .. }
        );
        if is_unlike {
            advice.push(format!(
                "to save the bridge, {}",
                pmi_shim::to_meet_directly(&row.host, mpi)
            ));
        }
    }
    if let Some(mpi) = inside.and_then(Inside::missing) {
        advice.push(format!(
            "{}: the program does not start unless what starts it sets LD_LIBRARY_PATH, or its directory is bound in",
            mpi.shown
        ));
    }
    if inside.is_some_and(|inside| inside.program.candidates().len() > 1) {
        advice.push("name the program: singularity mpi check IMAGE PROGRAM".to_owned());
    }
    advice
}

fn plain(
    facts: &[host::Fact],
    image: Option<&Path>,
    inside: Option<&Inside>,
    rows: &[Row],
    advice: &[String],
) -> String {
    let mut text = String::from("Host\n");
    for fact in facts {
        text.push_str(&format!("  {:18} {}\n", fact.name, fact.text));
    }
    if let (Some(image), Some(inside)) = (image, inside) {
        text.push_str(&format!("Image {}\n", Shown::new(image)));
        for (name, version, path) in &inside.libraries {
            let name = format!("{name} {version}");
            text.push_str(&format!("  {:18} {path}\n", name.trim_end()));
        }
        if inside.libraries.is_empty() {
            text.push_str("  no MPI, PMI or fabric library in the usual places\n");
        }
        text.push_str(&format!("  {:18} {}\n", "program", inside.described()));
    }
    let heading = match inside {
        Some(_) => "How they meet\n",
        None => "Launchers\n",
    };
    text.push_str(heading);
    for row in rows {
        text.push_str(&format!("  {} ({})\n", row.command, row.version));
        if let Some(meeting) = &row.meeting {
            text.push_str(&format!("    {}: {}\n", way(meeting), why(meeting)));
            if !matches!(meeting, Meeting::Refuse { .. }) {
                text.push_str(&format!("    costs {}\n", cost(meeting)));
            }
        }
    }
    if rows.is_empty() {
        text.push_str("  no launcher was found\n");
    }
    if !advice.is_empty() {
        text.push_str("What to change\n");
        for line in advice {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

fn json(
    facts: &[host::Fact],
    image: Option<&Path>,
    inside: Option<&Inside>,
    rows: &[Row],
    advice: &[String],
    fine: bool,
) -> String {
    let facts = facts
        .iter()
        .map(|fact| (fact.key, fact.value.clone()))
        .collect();
    let library = |(name, version, path): &(String, String, String)| {
        let version = (!version.is_empty()).then_some(version.as_str());
        Json::Object(vec![
            ("name", name.as_str().into()),
            ("version", version.into()),
            ("path", path.as_str().into()),
        ])
    };
    let row = |row: &Row| {
        Json::Object(vec![
            ("launcher", row.command.as_str().into()),
            ("version", row.version.as_str().into()),
            ("meeting", row.meeting.as_ref().map(way).into()),
            ("why", row.meeting.as_ref().map(why).into()),
            ("cost", row.meeting.as_ref().map(cost).into()),
        ])
    };
    let image = inside.map(|inside| {
        Json::Object(vec![
            (
                "path",
                image.map(|path| Shown::new(path).to_string()).into(),
            ),
            (
                "libraries",
                Json::List(inside.libraries.iter().map(library).collect()),
            ),
            ("program", inside.described().into()),
        ])
    });
    let all = Json::Object(vec![
        ("host", Json::Object(facts)),
        ("image", image.unwrap_or(Json::Null)),
        ("launchers", Json::List(rows.iter().map(row).collect())),
        ("advice", advice.to_vec().into()),
        ("meets", fine.into()),
    ]);
    format!("{all}\n")
}
