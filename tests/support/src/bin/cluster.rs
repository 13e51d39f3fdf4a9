//! `make cluster`: a Slurm cluster of two nodes, until Ctrl-C.

use std::io::Read;
use test_support::{Image, SlurmCluster, User};

fn main() {
    let user = User::ordinary();
    let plugstack = std::env::var("PLUGSTACK").unwrap_or_default();
    let cluster = SlurmCluster::start("");
    let plugin = plugin(&cluster);
    cluster.set_plugstack(&format!("{plugin}{plugstack}\n"));
    let image = Image::OpenMpiBookworm.directory();
    let shell = cluster.command(&user, "bash");
    let words: Vec<_> = shell
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    println!(
        "A cluster of two nodes, c1 and c2, is up. To be {user} on its login host, type\n\
         \n    nsenter {words}\n\n\
         and there, for instance,\n\
         \n    export SLURM_CONF={conf} PATH={path}\n\
         \n    sinfo\n    srun -N2 -n4 --mpi=pmix singularity exec {image} ring\n{example}\n\
         Files for all hosts: {shared}. Lines for plugstack.conf: in $PLUGSTACK.\n\
         Ctrl-C (or Ctrl-D) takes it down.",
        example = match plugin.is_empty() {
            true => String::new(),
            false => format!(
                "    srun -N2 -n4 --mpi=pmix --singularity-image={} ring\n",
                image.display()
            ),
        },
        user = user.name(),
        words = words.join(" "),
        conf = cluster.configuration_file().display(),
        path = test_support::search_path(),
        image = image.display(),
        shared = cluster.shared().display(),
    );
    wait_for_the_end();
}

/// The line of plugstack.conf for `$SINGULARITY_PLUGIN`, which is copied to where
/// all hosts see it.
fn plugin(cluster: &SlurmCluster) -> String {
    let Some(built) = std::env::var_os("SINGULARITY_PLUGIN") else {
        return String::new();
    };
    let place = cluster.shared().join("singularity.so");
    std::fs::copy(&built, &place).expect("SINGULARITY_PLUGIN names a file");
    format!(
        "required {} command={}\n",
        place.display(),
        test_support::command().display()
    )
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
