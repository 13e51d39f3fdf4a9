//! What a node pays for a step in an image, apart from Slurm: preparing a held
//! namespace once, and entering it once a task. As root:
//!
//!     cargo run --release -p launcher --example hold -- IMAGE UID

use std::path::Path;
use std::time::{Duration, Instant};

use launcher::request::{Entry, Request};
use launcher::{hold, Host, User};

const ROUNDS: usize = 101;

fn main() {
    let mut words = std::env::args_os().skip(1);
    let (Some(image), Some(uid)) = (words.next(), words.next()) else {
        eprintln!("usage: hold IMAGE UID");
        std::process::exit(2);
    };
    let uid: u32 = uid.to_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let user = User {
        uid,
        gid: uid,
        groups: Vec::new(),
    };
    let mut host = Host::gather(std::env::vars_os().collect());
    (host.uid, host.gid, host.mounts_as_root) = (uid, uid, true);
    let launcher = || pmi_shim::detect(&pmi_shim::Environment::of(&[]), |_| false);
    let mut preparing = Vec::new();
    let mut entering = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let wish = hold::Wish {
            user: &user,
            path: Path::new(&image),
            host: &host,
            audit: false,
            options: 0,
            patience: hold::PATIENCE,
        };
        let held = hold::prepare(
            &wish,
            |_| Ok(()),
            |image| Ok(Request::new(image, Entry::Exec(Vec::new()), launcher())),
        );
        let held = held.unwrap_or_else(|error| {
            eprintln!("hold: {error}");
            std::process::exit(1)
        });
        preparing.push(begun.elapsed());
        // Entering is for good: in a thread of its own, which has its own root.
        let taken = std::thread::scope(|scope| {
            let enter = || {
                let alone = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
                let begun = Instant::now();
                let entered = alone.is_ok() && held.enter().is_ok();
                entered.then(|| begun.elapsed())
            };
            scope.spawn(enter).join().ok().flatten()
        });
        entering.extend(taken);
    }
    println!(
        "prepare {:?}, enter {:?} (medians)",
        median(preparing),
        median(entering)
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
