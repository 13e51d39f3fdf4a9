//! The figures of docs/PERFORMANCE.md: `singularity bench` in one chapter for each
//! question, on hosts that are made for it, and the table of what was promised.
//!
//! Owns: which chapters there are, on what they run, and the time they share.
//! Never: measures.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bench::statistics::ENOUGH;
use clap::Args;
use test_support::{Form, Image, Mpi, SlurmCluster, User};

/// How much is measured.
#[derive(Debug, Args)]
pub struct Options {
    /// One round of everything: to see that it works
    #[arg(long)]
    quick: bool,
    /// About so many minutes for all chapters; more, where it takes more to measure
    /// everything often enough to call a difference one
    #[arg(long, value_name = "N", default_value_t = 24.0)]
    minutes: f64,
    /// Only this chapter; may be given several times
    #[arg(long, value_name = "NAME")]
    chapter: Vec<String>,
}

/// A run of `singularity bench`.
struct Chapter {
    /// Of its directory below docs/figures.
    name: &'static str,
    /// Its part of the time, in hundredths.
    share: u32,
    /// Whether only root can make what it takes.
    needs_root: bool,
    start: fn(&Stage) -> Command,
}

/// Messages, start and memory by user namespace and starter; the same by root's
/// mounts; every way of entering beside other programs; cold starts; Slurm's
/// plugin; the bridge, under either family's launcher, and over two nodes.
const CHAPTERS: [Chapter; 9] = [
    Chapter {
        name: "user",
        share: 41,
        needs_root: false,
        start: of_user,
    },
    Chapter {
        name: "root",
        share: 11,
        needs_root: true,
        start: of_root,
    },
    Chapter {
        name: "entering",
        share: 7,
        needs_root: false,
        start: entering,
    },
    Chapter {
        name: "cold",
        share: 7,
        needs_root: true,
        start: cold,
    },
    Chapter {
        name: "slurm",
        share: 14,
        needs_root: true,
        start: slurm,
    },
    Chapter {
        name: "bridge",
        share: 11,
        needs_root: false,
        start: bridge,
    },
    Chapter {
        name: "bridge-hydra",
        share: 5,
        needs_root: false,
        start: bridge_hydra,
    },
    Chapter {
        name: "two-nodes",
        share: 2,
        needs_root: true,
        start: two_nodes,
    },
    Chapter {
        name: "two-nodes-pmi2",
        share: 2,
        needs_root: true,
        start: two_nodes_pmi2,
    },
];

/// What chapters stand on; made once, and gone at the end.
struct Stage {
    user: User,
    cluster: Option<SlurmCluster>,
    /// Whether the command that is measured has its starter set-id.
    has_starter: bool,
}

/// Draws them all, and writes the table of what was promised.
///
/// # Errors
/// A run failed, or a chapter is named that there is not.
pub fn draw(options: &Options) -> Result<(), String> {
    for name in &options.chapter {
        if !CHAPTERS.iter().any(|chapter| chapter.name == name) {
            let names = CHAPTERS.map(|chapter| chapter.name).join(", ");
            return Err(format!("--chapter {name}: there is none; {names}"));
        }
    }
    let is_root = nix::unistd::geteuid().is_root();
    let wanted: Vec<&Chapter> = CHAPTERS
        .iter()
        .filter(|chapter| {
            options.chapter.is_empty() || options.chapter.iter().any(|name| name == chapter.name)
        })
        .filter(|chapter| {
            let can = is_root || !chapter.needs_root;
            if !can {
                eprintln!("figures: {} is left out: it takes root", chapter.name);
            }
            can
        })
        .collect();
    let all: u32 = wanted.iter().map(|chapter| chapter.share).sum();
    let mut stage = Stage::set();
    let begun = std::time::Instant::now();
    for (number, chapter) in wanted.iter().enumerate() {
        eprintln!(
            "figures: {} of {}, {}, after {} s",
            number + 1,
            wanted.len(),
            chapter.name,
            begun.elapsed().as_secs()
        );
        if chapter.name == "slurm" || chapter.name.starts_with("two-nodes") {
            stage.bring_up_slurm()?;
        }
        let mut command = (chapter.start)(&stage);
        match options.quick {
            true => command.args(["--rounds", "1"]),
            false => {
                let part = f64::from(chapter.share) / f64::from(all.max(1));
                let minutes = (options.minutes * part).max(0.2);
                command
                    .args(["--minutes", &format!("{minutes:.2}")])
                    .args(["--rounds", &ENOUGH.to_string()])
            }
        };
        run(&stage, chapter, command)?;
    }
    promised()
}

/// Runs a chapter, whose user may not be one to write where the figures go.
fn run(stage: &Stage, chapter: &Chapter, mut command: Command) -> Result<(), String> {
    let out = stage
        .user
        .directory("figures")
        .join(format!("{}.new", chapter.name));
    let status = command
        .arg("--out")
        .arg(&out)
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|error| format!("{}: singularity bench: {error}", chapter.name))?;
    let place = figures().join(chapter.name);
    let failed = |error: std::io::Error| format!("write {}: {error}", place.display());
    // Graphs of what is no longer measured go.
    if status.success() && place.is_dir() {
        fs::remove_dir_all(&place).map_err(failed)?;
    }
    fs::create_dir_all(&place).map_err(failed)?;
    for entry in fs::read_dir(&out).into_iter().flatten().flatten() {
        fs::copy(entry.path(), place.join(entry.file_name())).map_err(failed)?;
    }
    match status.success() {
        true => Ok(()),
        false => Err(format!("{}: singularity bench: {status}", chapter.name)),
    }
}

/// What comes before and after the table in docs/PERFORMANCE.md.
const MARKS: (&str, &str) = ("<!-- targets: made by make figures -->", "<!-- end -->");

/// Writes the table of all chapters that there are.
fn promised() -> Result<(), String> {
    let mut command = Command::new(test_support::command());
    command.args(["bench", "--targets"]);
    for chapter in &CHAPTERS {
        let data = figures().join(chapter.name).join("data.json");
        if data.is_file() {
            command.arg("--from").arg(data);
        }
    }
    let output = command
        .output()
        .map_err(|error| format!("singularity bench --targets: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("singularity bench --targets: {said}"));
    }
    let table = String::from_utf8_lossy(&output.stdout);
    print!("{table}");
    let page = test_support::top().join("docs/PERFORMANCE.md");
    let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", page.display());
    let text = fs::read_to_string(&page).map_err(|error| failed(&error))?;
    let (before, rest) = text
        .split_once(MARKS.0)
        .ok_or_else(|| failed(&format!("there is no {}", MARKS.0)))?;
    let (_, after) = rest
        .split_once(MARKS.1)
        .ok_or_else(|| failed(&format!("there is no {} behind it", MARKS.1)))?;
    let text = format!(
        "{before}{}\n\n{}\n\n{}{after}",
        MARKS.0,
        table.trim(),
        MARKS.1
    );
    fs::write(&page, text).map_err(|error| failed(&error))
}

fn figures() -> PathBuf {
    test_support::top().join("docs/figures")
}

impl Stage {
    fn set() -> Self {
        let has_starter = bench::ways::has_starter(test_support::command());
        if !has_starter {
            eprintln!("figures: the starter is not set-id, and not measured (tests/privileged)");
        }
        Self {
            user: User::ordinary(),
            cluster: None,
            has_starter,
        }
    }

    fn bring_up_slurm(&mut self) -> Result<(), String> {
        if self.cluster.is_some() {
            return Ok(());
        }
        let built = std::env::var_os("SINGULARITY_PLUGIN")
            .ok_or("SINGULARITY_PLUGIN has to name the plugin: make figures does")?;
        let cluster = SlurmCluster::start("");
        let plugin = cluster.shared().join("singularity.so");
        fs::copy(&built, &plugin).map_err(|error| format!("copy the plugin: {error}"))?;
        cluster.set_plugstack(&format!(
            "required {} command={}\n",
            plugin.display(),
            test_support::command().display()
        ));
        self.cluster = Some(cluster);
        Ok(())
    }

    /// `singularity bench` by the user on this machine.
    fn bench(&self, measures: &str, ranks: &str) -> Command {
        let mut command = self.user.command(test_support::command());
        command.args(["bench", "--measure", measures, "--ranks", ranks]);
        command
    }

    /// The same by the user in an allocation of so many nodes.
    fn allocated(&self, nodes: u32, measures: &str, ranks: &str) -> Command {
        let cluster = self.cluster.as_ref().expect("brought up before");
        let mut command = cluster.command(&self.user, "salloc");
        command
            .args([
                "--quiet",
                &format!("-N{nodes}"),
                &format!("-n{}", 2 * nodes),
            ])
            .arg(test_support::command())
            .args(["bench", "--measure", measures, "--ranks", ranks])
            // Of two hosts on one kernel UCX would think that they share memory.
            .env("OMPI_MCA_pml", "ob1");
        command
    }

    fn enters(&self) -> &'static str {
        match self.has_starter {
            true => "userns,setuid",
            false => "userns",
        }
    }
}

/// One tree as a directory and as files.
fn images() -> [PathBuf; 3] {
    let image = Image::OpenMpiBookworm;
    [
        image.directory(),
        image.file(Form::Squashfs),
        image.file(Form::ErofsLz4hc),
    ]
}

fn of_user(stage: &Stage) -> Command {
    let measures = "latency,bandwidth,bidirectional,allreduce,alltoall,barrier,init,ring,memory";
    let mut command = stage.bench(measures, "2,8,32");
    command
        .args(["--most", "16M", "--enter", stage.enters()])
        .args(images());
    command
}

fn of_root(_stage: &Stage) -> Command {
    let mut command = Command::new(test_support::command());
    command
        .env("PATH", test_support::search_path())
        .args(["bench", "--measure", "latency,bandwidth,init,ring,memory"])
        .args(["--ranks", "2,8", "--most", "16M"])
        .args(images());
    command
}

fn entering(stage: &Stage) -> Command {
    let mut command = stage.bench("enter,launch,ring", "2,8,32");
    command
        .args(["--peers", "found", "--enter", stage.enters()])
        .args(images());
    command
}

/// By root, who alone may empty the caches and watch what others execute.
fn cold(stage: &Stage) -> Command {
    let [directory, squashfs, erofs] = large();
    let mut command = Command::new(test_support::command());
    command
        .env("PATH", test_support::search_path())
        .args(["bench", "--measure", "cold,calls,enter", "--as"])
        .args([stage.user.name(), "--enter", stage.enters()])
        .args([directory, squashfs, erofs]);
    command
}

fn slurm(stage: &Stage) -> Command {
    let mut command = stage.allocated(1, "latency,bandwidth,init,launch,ring", "2,8,32");
    command
        .args(["--most", "16M", "--enter", "plugin"])
        .args(images());
    command
}

fn bridge(stage: &Stage) -> Command {
    let mut command = stage.bench("latency,init,memory,phases", "2,8,32");
    command
        .args(["--enter", "userns,bridge"])
        .arg(Image::OpenMpiBookworm.directory());
    command
}

fn bridge_hydra(stage: &Stage) -> Command {
    let mut command = stage.bench("init,phases", "2,8,32");
    command.arg("--launcher").arg(Mpi::mpich().launcher());
    against_mpich(command)
}

/// Only what the launcher does: Debian's MPICH over UCX does not always come to the
/// end of MPI_Finalize where hosts share a kernel.
fn two_nodes(stage: &Stage) -> Command {
    let mut command = stage.allocated(2, "fence", "4,8");
    command.args(["--enter", "userns,bridge"]).args([
        Image::OpenMpiBookworm.directory(),
        Image::MpichBookworm.directory(),
    ]);
    command
}

fn two_nodes_pmi2(stage: &Stage) -> Command {
    let mut command = stage.allocated(2, "fence", "4,8");
    command.args(["--launcher", "srun --mpi=pmi2"]);
    against_mpich(command)
}

/// The host's MPI is MPICH: its image, directly, and Open MPI's over the bridge.
fn against_mpich(mut command: Command) -> Command {
    command
        .arg("--mpicc")
        .arg(Mpi::mpich().compiler())
        .args(["--enter", "userns"])
        .args([
            Image::MpichBookworm.directory(),
            Image::OpenMpiBookworm.directory(),
        ]);
    command
}

/// A tree of half a gigabyte, of which a job uses some, and its files: the image
/// of the other chapters, with the libraries of an older one beside.
fn large() -> [PathBuf; 3] {
    let place = test_support::store().join("figures");
    let tree = place.join("large");
    let files = [place.join("large.squashfs"), place.join("large.erofs")];
    if !tree.is_dir() || !files.iter().all(|file| file.is_file()) {
        eprintln!("figures: packing a large image");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).expect("the store can be written to");
        let new = place.join("new");
        sh(Command::new("cp")
            .args(["-a", "-T"])
            .arg(Image::OpenMpiBookworm.directory())
            .arg(&new));
        fs::create_dir(new.join("opt/more")).expect("an image has /opt");
        sh(Command::new("cp")
            .arg("-a")
            .arg(Image::OpenMpiBullseye.directory().join("usr/lib"))
            .arg(new.join("opt/more")));
        for file in &files {
            let _ = fs::remove_file(file);
        }
        sh(Command::new("mksquashfs").args([&new, &files[0]]).args([
            "-comp",
            "lz4",
            "-b",
            "32K",
            "-quiet",
            "-no-progress",
        ]));
        sh(Command::new("mkfs.erofs")
            .args(["-zlz4hc", "--quiet"])
            .args([&files[1], &new]));
        fs::rename(&new, &tree).expect("a directory can be renamed");
    }
    let [squashfs, erofs] = files;
    [tree, squashfs, erofs]
}

fn sh(command: &mut Command) {
    let status = command
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
