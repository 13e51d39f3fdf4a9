//! `make cluster`: a Slurm cluster of two nodes, until Ctrl-C.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use test_support::{Image, SlurmCluster, User};

fn main() {
    let user = User::ordinary();
    let plugstack = std::env::var("PLUGSTACK").unwrap_or_default();
    let cluster = SlurmCluster::start(&plugstack);
    println!(
        "A Slurm cluster of two nodes, c1 and c2, is up. To be {user} on its login host, type\n\
         \n    {login}\n\n\
         and there, for instance,\n\
         \n    sinfo\n    srun -N2 -n4 --mpi=pmix singularity exec {image} ring\n\n\
         Files for all hosts: {shared}. Lines for plugstack.conf come from $PLUGSTACK.\n\
         Ctrl-C (or Ctrl-D) takes it down.",
        user = user.name(),
        login = login(&cluster, &user).display(),
        image = Image::OpenMpiBookworm.directory().display(),
        shared = cluster.shared().display(),
    );
    wait_for_the_end();
}

/// A program that starts a shell of the user's on the login host.
fn login(cluster: &SlurmCluster, user: &User) -> PathBuf {
    let shell = cluster.command(user, "/bin/bash");
    let variables = shell.get_envs().filter_map(|(name, value)| {
        let value = value?;
        Some(format!("{}={}", name.to_string_lossy(), quoted(value)))
    });
    let words = shell.get_args().map(quoted);
    let text = format!(
        "#!/bin/sh\nexec env -i TERM=\"$TERM\" {} {} {} \"$@\"\n",
        variables.collect::<Vec<_>>().join(" "),
        quoted(shell.get_program()),
        words.collect::<Vec<_>>().join(" ")
    );
    let place: &Path = &cluster.shared();
    let place = place.with_file_name("login");
    std::fs::write(&place, text)
        .and_then(|()| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)))
        .unwrap_or_else(|e| panic!("{}: {e}", place.display()));
    place
}

/// A word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))
}

/// Until Ctrl-C, SIGTERM, or the end of standard input.
fn wait_for_the_end() {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().expect("sigprocmask(2) works");
    std::thread::spawn(|| {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        let this = nix::unistd::getpid();
        let _ = nix::sys::signal::kill(this, Signal::SIGTERM);
    });
    signals.wait().expect("sigwait(3) works");
}
