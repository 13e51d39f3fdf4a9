//! Prints what the crate makes of the process it runs in.
//!
//!     mpirun -np 2 target/debug/examples/report
//!
//! With `--shell`, prints the changes to the environment for a shell to evaluate;
//! with `--shell --apart`, also those for ranks that share no user namespace.

use pmi_shim::{detect, without_shared_namespace, Change, Environment};
use std::ffi::OsString;
use std::fs;

fn inode_of_socket(descriptor: i32) -> Option<u64> {
    let target = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    let name = target.to_str()?;
    name.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

fn shell(change: &Change) -> String {
    let name = change.name().to_string_lossy();
    match change.value() {
        Some(value) => format!("export {name}='{}'", value.to_string_lossy()),
        None => format!("unset {name}"),
    }
}

fn main() {
    let pairs: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let environment = Environment::of(&pairs);
    let begin = std::time::Instant::now();
    let host = detect(&environment, |number| inode_of_socket(number).is_some());
    let changes = host.hygiene(&environment, &pmi_shim::Program::UNKNOWN);
    let taken = begin.elapsed();

    let has = |option: &str| std::env::args().any(|argument| argument == option);
    if has("--shell") {
        changes
            .iter()
            .for_each(|change| println!("{}", shell(change)));
        if has("--apart") {
            without_shared_namespace(&environment)
                .iter()
                .for_each(|change| println!("{}", shell(change)));
        }
        return;
    }

    println!("launcher: {}", host.launcher.name());
    println!("interfaces: {:?}", host.interfaces);
    println!(
        "rank {:?} of {:?}, {:?} of {:?} here",
        host.rank, host.size, host.local_rank, host.local_size
    );
    if let Some(job) = &host.job {
        println!("job: {}", job.complete(inode_of_socket, || "?".to_owned()));
    }
    for (path, why) in host.directories() {
        println!("directory: {} ({})", path.display(), why.describe());
    }
    for change in &changes {
        println!("change: {} ({})", shell(change), change.why());
    }
    println!("in {taken:?}");
}
