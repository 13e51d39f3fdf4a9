//! What of this host matters to MPI in an image.
//!
//! Owns: finding it out, and what to change where it is in the way.

use std::path::Path;

use image::mpi::{survey, LibraryKind, Root};
use image::Shown;
use pmi_shim::{Choice, Host as Launcher, Interface, Wire1};

use crate::json::Json;

/// One fact, for people and for scripts.
#[derive(Debug)]
pub struct Fact {
    /// Its name for people.
    pub name: &'static str,
    /// Its name for scripts.
    pub key: &'static str,
    /// In words.
    pub text: String,
    /// As a value.
    pub value: Json,
    /// What to change.
    pub advice: Option<String>,
}

fn fact(name: &'static str, key: &'static str, text: impl Into<String>) -> Fact {
    let text = text.into();
    Fact {
        name,
        key,
        value: text.as_str().into(),
        text,
        advice: None,
    }
}

/// The interface of a launcher, in words.
pub fn interface(launcher: &Launcher) -> String {
    let names: Vec<String> = launcher
        .interfaces
        .iter()
        .map(|interface| match interface {
            Interface::Pmix { version, .. } => match version {
                Some(version) => format!("PMIx {version}"),
                None => "PMIx".to_owned(),
            },
            Interface::Pmi2 { descriptor } => format!("PMI-2 on descriptor {descriptor}"),
            Interface::Pmi1(Wire1::Inherited(number)) => format!("PMI-1 on descriptor {number}"),
            Interface::Pmi1(Wire1::Tcp(address)) => format!("PMI-1 at {address}"),
            Interface::SlurmPmi1 => "none but Slurm's own PMI-1 (srun --mpi=none)".to_owned(),
            Interface::CrayPmi => "the vendor's PMI".to_owned(),
        })
        .collect();
    names.join(", ")
}

/// All of them.
pub fn facts(
    launcher: &Launcher,
    helper: Option<&Path>,
    (choice, hygiene): (Choice, bool),
) -> Vec<Fact> {
    let mut facts = Vec::new();
    if launcher.is_rank() {
        facts.push(fact("launcher", "launcher", launcher.launcher.name()));
        facts.push(fact("interface", "interface", interface(launcher)));
        let number = |number: Option<u32>| number.map_or("?".to_owned(), |n| n.to_string());
        facts.push(fact(
            "rank",
            "rank",
            format!(
                "{} of {}, {} of {} on this node",
                number(launcher.rank),
                number(launcher.size),
                number(launcher.local_rank),
                number(launcher.local_size)
            ),
        ));
        facts.push(directories(launcher));
    } else {
        let mut none = fact("launcher", "launcher", "none: this is no rank of a job");
        none.value = Json::Null;
        facts.push(none);
    }
    facts.push(bridge(helper));
    facts.push(memory_access());
    facts.push(user_namespaces());
    facts.push(shared_memory());
    facts.push(fabrics());
    facts.push(fact("way asked for", "mpi", choice.name()));
    facts.push(variables(hygiene && choice != Choice::Off));
    facts
}

/// Whether variables are changed.
fn variables(are_changed: bool) -> Fact {
    let text = match are_changed {
        true => "made right for the MPI of the image",
        false => "left as they are",
    };
    let mut fact = fact("variables", "mpi_hygiene", text);
    fact.value = are_changed.into();
    if !are_changed {
        fact.advice = Some(
            "variables of the host's MPI get in as they are: SINGULARITY_MPI_HYGIENE, --mpi=off or singularity.conf say so".into(),
        );
    }
    fact
}

/// What the launcher's interface reaches through the file system.
fn directories(launcher: &Launcher) -> Fact {
    let all: Vec<String> = launcher
        .directories()
        .into_iter()
        .map(|(path, why)| {
            let there = if path.exists() { "" } else { ", not there" };
            format!("{} ({}{there})", Shown::new(&path), why.describe())
        })
        .collect();
    let mut fact = fact("directories", "directories", all.join(", "));
    fact.value = all.into();
    fact
}

fn bridge(helper: Option<&Path>) -> Fact {
    let text = helper.map_or("not installed".to_owned(), |path| {
        Shown::new(path).to_string()
    });
    let mut fact = fact("bridge", "bridge", text);
    fact.value = helper.map(|path| path.display().to_string()).into();
    fact
}

fn kernel(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    text.trim().parse().ok()
}

/// Whether ranks may read one another's memory (process_vm_readv(2)), by which large
/// messages are copied once instead of twice. See ptrace(2), "ptrace_scope".
fn memory_access() -> Fact {
    let scope = kernel("kernel/yama/ptrace_scope").unwrap_or(0);
    let text = match scope {
        0 => "allowed between processes of one user",
        1 => "allowed where a program asks for it (ptrace_scope 1)",
        _ => "forbidden (ptrace_scope)",
    };
    let mut fact = fact("CMA", "cma", text);
    fact.value = Json::Object(vec![
        ("allowed", (scope < 2).into()),
        ("ptrace_scope", scope.into()),
    ]);
    if scope > 1 {
        fact.advice = Some(
            "large messages are copied twice: ask for kernel.yama.ptrace_scope=0 (sysctl)".into(),
        );
    }
    fact
}

fn user_namespaces() -> Fact {
    let most = kernel("user/max_user_namespaces").unwrap_or(0);
    let refused = [
        (
            kernel("kernel/unprivileged_userns_clone") == Some(0),
            "kernel.unprivileged_userns_clone is 0",
        ),
        (
            kernel("kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            "AppArmor restricts them to programs with a profile",
        ),
        (most == 0, "user.max_user_namespaces is 0"),
    ];
    let why = refused
        .iter()
        .find(|(holds, _)| *holds)
        .map(|(_, why)| *why);
    let text = match why {
        None => "allowed; the ranks of a node share one".to_owned(),
        Some(why) => format!("not for ordinary users: {why}"),
    };
    let mut fact = fact("user namespaces", "user_namespaces", text);
    fact.value = why.is_none().into();
    if why.is_some() {
        fact.advice =
            Some("without user namespaces the set-id starter is needed, or Slurm's plugin".into());
    }
    fact
}

/// Shared memory for messages within a node: less than this is soon used up.
const ENOUGH: u64 = 1 << 30;

fn shared_memory() -> Fact {
    let mebibytes = |bytes: u64| bytes >> 20;
    let Some((size, free)) = launcher::host::space_at(Path::new("/dev/shm")) else {
        let mut missing = fact("/dev/shm", "dev_shm", "not there");
        missing.value = Json::Null;
        missing.advice = Some("MPI within a node wants a /dev/shm: mount a tmpfs there".into());
        return missing;
    };
    let text = format!("{} MiB, {} MiB free", mebibytes(size), mebibytes(free));
    let mut fact = fact("/dev/shm", "dev_shm", text);
    fact.value = Json::Object(vec![("bytes", size.into()), ("free", free.into())]);
    if free < ENOUGH {
        fact.advice =
            Some("there is little room in /dev/shm; MPI keeps messages within a node there".into());
    }
    fact
}

/// Devices of fast networks, and the libraries for them.
fn fabrics() -> Fact {
    let devices = [
        "/dev/infiniband",
        "/dev/cxi0",
        "/dev/hfi1_0",
        "/dev/knem",
        "/dev/xpmem",
    ];
    let mut found: Vec<String> = devices
        .into_iter()
        .filter(|device| Path::new(device).exists())
        .map(str::to_owned)
        .collect();
    if let Ok(root) = Root::open(Path::new("/")) {
        for library in survey(&root) {
            if matches!(library.kind, LibraryKind::Ucx | LibraryKind::Libfabric) {
                let version = library.version.map(|v| format!(" {v}")).unwrap_or_default();
                found.push(format!("{}{version}", library.kind.name()));
            }
        }
    }
    let text = if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    };
    let mut fact = fact("fabrics", "fabrics", text);
    fact.value = found.into();
    fact
}
