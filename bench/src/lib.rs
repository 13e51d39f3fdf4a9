//! `singularity bench`: what MPI programs can do on the host and in images, by
//! turns in one run, with graphs.
//!
//! Owns: measuring, and what is said and drawn of it. Never: is linked into the
//! launching path; enters an image but by starting `singularity` as a user would.

#![forbid(unsafe_code)]

pub mod calls;
pub mod data;
pub mod figures;
pub mod files;
pub mod html;
pub mod jobs;
pub mod launcher;
pub mod machine;
pub mod memory;
pub mod model;
pub mod plot;
pub mod processes;
pub mod programs;
pub mod progress;
pub mod promises;
pub mod round;
pub mod rows;
pub mod screen;
pub mod session;
pub mod statistics;
pub mod text;
pub mod turns;
pub mod watch;
pub mod ways;
pub mod words;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::launcher::Error;
use command::cli::bench::Bench;
use command::cli::Verb;
use image::Shown;

use crate::data::{Data, Measure, FORM};
use crate::jobs::{Job, Site};
use crate::launcher::Launcher;
use crate::machine::Machine;
use crate::model::Assumptions;
use crate::progress::Progress;
use crate::session::Until;
use crate::ways::Entry;

/// Carries out a command line, the program's name first, and returns the exit
/// status.
pub fn run(words: &[OsString]) -> u8 {
    let cli = match command::parse(words) {
        Ok(cli) => cli,
        Err(error) => return command::usage(&error),
    };
    command::log::start(&cli);
    let quiet = cli.quiet;
    let done = match cli.verb {
        Verb::Bench(options) => carry_out(&options, quiet),
        _ => Err(Error::new("bench", "not a verb of this program")
            .hint("run singularity, which finds it by itself")),
    };
    watch::remove_temporary();
    match (&done, watch::ended()) {
        (Ok(()), Some(signal)) => {
            eprintln!("singularity: ended by {signal}: the result is of the rounds before");
            128 + signal as u8
        }
        _ => command::finish(done),
    }
}

fn carry_out(options: &Bench, quiet: bool) -> Result<(), Error> {
    let wanted = Wanted::parse(&options.measure)?;
    let assumptions = Assumptions::default().with(&options.assume)?;
    if let [a, b] = options.compare.as_slice() {
        return say(&text::compare(&Data::read(a)?, &Data::read(b)?));
    }
    let mut runs = Vec::new();
    for file in &options.from {
        runs.push(Data::read(file)?);
    }
    if let (Some(place), true) = (&options.out, runs.len() > 1) {
        return Err(Error::new(
            format!("--out {}", Shown::new(place)),
            "a report is of one run, and these are several",
        )
        .hint("give one --from at a time; --targets takes them all"));
    }
    // The model stands by itself.
    if !options.images.is_empty() {
        runs.push(measure(options, &wanted, quiet)?);
    }
    // Said last: what cannot be said is no reason not to store it.
    let mut said = String::new();
    if options.json.as_deref() != Some(Path::new("-")) {
        match options.targets {
            true => said = text::targets(&runs),
            false => {
                let width = screen::width_of_output();
                said.extend(runs.iter().map(|data| text::report(data, width)));
            }
        }
    }
    let stored = runs.into_iter().next();
    if let Some(data) = &stored {
        if let Some(file) = &options.json {
            data.write(file)?;
        }
        if let Some(directory) = &options.out {
            write_report(data, directory)?;
        }
    }
    if options.model {
        said += &model::report(stored.as_ref(), &assumptions, &options.nodes);
    }
    say(&said)?;
    match stored.filter(|_| options.from.is_empty()) {
        Some(data) => what_failed(&data),
        None => Ok(()),
    }
}

/// What is ours, or the host's, and failed, is a failure of the run. Peers may.
fn what_failed(data: &Data) -> Result<(), Error> {
    let own = data.ways.iter().filter(|way| way.own);
    for way in own {
        let said = |note: &&String| note.contains(&format!(": {}: ", way.name));
        if let Some(note) = data.notes.iter().find(said) {
            return Err(Error::new("measure", note.clone())
                .hint("what was measured before it failed is in the result"));
        }
    }
    Ok(())
}

/// Standard output that is closed has heard enough; one that is full has not.
fn say(text: &str) -> Result<(), Error> {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout();
    let text = screen::in_letters_of_the_locale(text);
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match done {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("write to standard output", &error))
        }
        _ => Ok(()),
    }
}

fn write_report(data: &Data, directory: &Path) -> Result<(), Error> {
    let step = |path: &Path| format!("write {}", Shown::new(path));
    std::fs::create_dir_all(directory)
        .map_err(|error| Error::io(format!("make {}", Shown::new(directory)), &error))?;
    data.write(&directory.join("data.json"))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).map_err(|error| Error::io(step(&path), &error))
    };
    let graphs = plot::all(data);
    for graph in &graphs {
        write(&format!("{}.svg", graph.name), graph.svg.as_bytes())?;
        write(&format!("{}.png", graph.name), &graph.png)?;
    }
    write("report.html", html::page(data, &graphs).as_bytes())
}

/// What is to be measured.
#[derive(Debug)]
struct Wanted {
    point: Vec<Measure>,
    together: Vec<Measure>,
    words: BTreeSet<&'static str>,
}

/// Words of `--measure` that are no message's.
const OTHERS: [&str; 10] = [
    "enter", "init", "launch", "ring", "memory", "cold", "files", "calls", "fence", "phases",
];

/// Those that are measured only where they are asked for.
const ASKED_FOR: [&str; 5] = ["cold", "files", "calls", "fence", "phases"];

impl Wanted {
    fn parse(words: &[String]) -> Result<Self, Error> {
        let point = [Measure::Latency, Measure::Bandwidth, Measure::Bidirectional];
        let together = [Measure::Allreduce, Measure::Alltoall, Measure::Barrier];
        let all = words.iter().any(|word| word == "all");
        let known: Vec<&str> = point
            .iter()
            .chain(&together)
            .map(|measure| measure.name())
            .chain(OTHERS)
            .collect();
        for word in words.iter().filter(|word| *word != "all") {
            if !known.contains(&word.as_str()) {
                return Err(
                    Error::new(format!("--measure {word}"), "nothing is named so")
                        .hint(format!("{}, or all", known.join(", "))),
                );
            }
        }
        let is_wanted = |name: &str| {
            all || words.iter().any(|word| word == name)
                || words.is_empty() && !ASKED_FOR.contains(&name)
        };
        let of = |measures: &[Measure]| {
            let wanted = measures.iter().filter(|measure| is_wanted(measure.name()));
            wanted.copied().collect()
        };
        Ok(Self {
            point: of(&point),
            together: of(&together),
            words: OTHERS.into_iter().filter(|name| is_wanted(name)).collect(),
        })
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// Whether it is nothing but exchanges through the launcher.
    fn is_without_mpi(&self) -> bool {
        self.point.is_empty() && self.together.is_empty() && self.words.iter().eq(&["fence"])
    }

    /// The jobs that tell it.
    fn jobs(&self, ranks: &[u32]) -> Vec<Job> {
        let mut jobs = Vec::new();
        if !self.point.is_empty() {
            jobs.push(Job::Point(self.point.clone()));
        }
        if !self.together.is_empty() {
            // As many as the node has processors: more only measure the scheduler.
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            let ranks = u32::try_from(cores.clamp(2, 64)).unwrap_or(2);
            jobs.push(Job::Together(ranks, self.together.clone()));
        }
        if self.has("enter") {
            jobs.push(Job::Enter);
        }
        for (word, job) in [
            ("init", Job::Start as fn(u32) -> Job),
            ("launch", Job::Launch),
            ("fence", Job::Fence),
            ("phases", Job::Phases),
        ] {
            if self.has(word) {
                jobs.extend(ranks.iter().map(|&ranks| job(ranks)));
            }
        }
        if self.has("ring") {
            jobs.push(Job::Ring);
        }
        if self.has("memory") {
            jobs.extend(ranks.iter().map(|&ranks| Job::Memory(ranks)));
        }
        if self.has("cold") {
            jobs.push(Job::Cold);
        }
        jobs
    }
}

fn measure(options: &Bench, wanted: &Wanted, quiet: bool) -> Result<Data, Error> {
    watch::end_with_signals();
    let mut ranks = options.ranks.clone();
    ranks.sort_unstable();
    ranks.dedup();
    let is_root = nix::unistd::geteuid().is_root();
    for (word, why) in [
        ("cold", "only root can drop the caches of the machine"),
        ("calls", "only root can watch what others execute"),
    ] {
        if wanted.has(word) && !is_root {
            return Err(Error::new(format!("--measure {word}"), why)
                .hint("run it as root, with --as USER for the part of an ordinary user"));
        }
    }
    for place in [options.json.as_deref(), options.out.as_deref()]
        .into_iter()
        .flatten()
    {
        may_write(place)?;
    }
    let mut progress = Progress::new(quiet);
    let launcher = Launcher::find(options.launcher.as_deref())?;
    progress.step("compiling the MPI programs");
    let entries = ways::all(options, &launcher)?;
    let singularity = ways::singularity()?.display().to_string();
    let mut data = Data {
        form: FORM,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ended: 0,
        quick: options.quick,
        machine: Machine::describe(&[
            (&singularity, "--version"),
            ("squashfuse_ll", "--help"),
            ("erofsfuse", "--version"),
            ("fuse2fs", "-V"),
            ("bwrap", "--version"),
            ("ch-run", "--version"),
            ("apptainer", "--version"),
            ("srun", "--version"),
        ]),
        launcher: launcher.describe(),
        ways: entries.iter().map(|entry| entry.way.clone()).collect(),
        series: Vec::new(),
        files: Vec::new(),
        calls: Vec::new(),
        notes: Vec::new(),
    };
    let mut site = Site {
        launcher,
        most: options.most,
        quick: options.quick,
        usual: BTreeSet::new(),
        one_at_a_time: Cell::new(false),
        without_mpi: wanted.is_without_mpi(),
    };
    let taking_part = first_look(wanted, &mut data, &mut site, &entries, &mut progress)?;
    if wanted.has("files") {
        count_files(&mut data, &site, &taking_part, &ranks, &progress)?;
    }
    if wanted.has("calls") {
        count_calls(&mut data, &taking_part, &progress)?;
    }
    let rounds = options.rounds.map(|rounds| rounds as usize);
    let until = match (rounds, options.minutes, options.quick) {
        (Some(rounds), None, _) => Until::Rounds(rounds),
        (None, _, true) => Until::Rounds(session::LEAST),
        (rounds, minutes, _) => Until::Time {
            limit: Duration::from_secs_f64(60.0 * minutes.unwrap_or(10.0)),
            least: rounds.unwrap_or(session::LEAST),
        },
    };
    session::run(
        &mut data,
        &taking_part,
        wanted.jobs(&ranks),
        &site,
        until,
        &mut progress,
    );
    data.ended = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Ok(data)
}

/// Before minutes are spent on what cannot be kept.
fn may_write(place: &Path) -> Result<(), Error> {
    let parent = match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match place.as_os_str() == "-" || parent.is_dir() {
        true => Ok(()),
        false => Err(Error::new(
            format!("write {}", Shown::new(place)),
            format!("there is no directory {}", Shown::new(parent)),
        )
        .hint("make it first")),
    }
}

/// Every way runs a job that tells what it is, which fills the caches too. Who
/// cannot do that takes no part; the host must, and ours.
fn first_look(
    wanted: &Wanted,
    data: &mut Data,
    site: &mut Site,
    entries: &[Entry],
    progress: &mut Progress,
) -> Result<Vec<Entry>, Error> {
    let mut able = Vec::new();
    for entry in entries {
        progress.step(&format!("first job: {}", entry.way.name));
        let told = match site.look(entry) {
            Ok(told) => told,
            Err(cause) if entry.way.own => {
                let mut lines = cause.lines().filter(|line| !line.trim().is_empty());
                let first = lines.next().unwrap_or_default().to_owned();
                let rest: Vec<&str> = lines.take(3).map(str::trim).collect();
                let cause = match rest.is_empty() {
                    true => first,
                    false => format!("{first}: {}", rest.join("; ")),
                };
                let words = entry.way.words.replace("{launcher}", "LAUNCHER");
                let image = entry
                    .image
                    .as_deref()
                    .map(|image| Shown::new(image).to_string());
                let words = words.replace("{image}", &image.unwrap_or_default());
                return Err(Error::new("run a first job of two ranks", cause)
                    .hint(format!("try it by hand: {words}")));
            }
            Err(cause) => {
                let first = cause.lines().next().unwrap_or_default().to_owned();
                progress.failed(&entry.way.name, &first, "is left out");
                data.notes.push(format!("first job: {first}"));
                continue;
            }
        };
        if entry.way.is_host() && wanted.has("memory") {
            site.look_at_host(entry)
                .map_err(|cause| Error::new("run a first job of two ranks", cause))?;
        }
        let known = data.ways.iter_mut().find(|way| way.name == entry.way.name);
        if let Some(way) = known {
            way.mpi = told.library;
            way.cma = told.cma;
            way.nodes = told.nodes;
            way.bridged = site
                .is_bridged(entry)
                .map_err(|cause| Error::new("run a first job of two ranks", cause))?;
        }
        able.push(entry.clone());
    }
    Ok(able)
}

/// Once for each way without a server of files: counts do not vary.
fn count_calls(data: &mut Data, entries: &[Entry], progress: &Progress) -> Result<(), Error> {
    let counted = |entry: &&Entry| {
        entry.way.own
            && !entry.is_launchers()
            && ["none", "directory"].contains(&entry.way.format.as_str())
    };
    for entry in entries.iter().filter(counted) {
        progress.step(&format!("counting: {}", entry.way.name));
        let contender = entry.alone(std::slice::from_ref(&entry.nothing));
        let calls = calls::count(&contender, entry.image.as_deref())
            .map_err(|cause| Error::new("count what a start takes of the kernel", cause))?;
        data.calls.push(calls);
    }
    Ok(())
}

/// Once for each way and number of ranks: counts do not vary.
fn count_files(
    data: &mut Data,
    site: &Site,
    entries: &[Entry],
    ranks: &[u32],
    progress: &Progress,
) -> Result<(), Error> {
    for entry in entries.iter().filter(|entry| entry.way.own) {
        let Some(image) = &entry.image else { continue };
        for &ranks in ranks {
            progress.step(&format!("counting: {}, {ranks} ranks", entry.way.name));
            let words = [entry.program("mpi-bench"), "start".to_owned()];
            let contender = entry.contender(&site.launcher, ranks, &words);
            let counts = files::count(&contender, image, ranks)
                .map_err(|cause| Error::new("count calls to the file system", cause))?;
            data.files.push(counts);
        }
    }
    Ok(())
}
