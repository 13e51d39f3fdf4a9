//! What a small MPI job takes, from mpirun to its end.

use test_support::Form;

use crate::section::{Builder, Effort, Section};
use crate::stage::{Stage, Who};
use crate::startup::FILES;
use bench::round::Contender;

const ROUNDS: usize = 25;
const RANKS: usize = 4;

/// Measures it, as a user and as root.
///
/// # Errors
/// The first contender that failed.
pub fn measure(stage: &Stage, effort: Effort) -> Result<Vec<Section>, String> {
    let mut sections = vec![user(stage, effort)?];
    if stage.has_root() {
        sections.push(root(stage, effort)?);
    }
    Ok(sections)
}

/// A section of jobs that all begin with the same mpirun.
struct Jobs<'a> {
    builder: Builder,
    stage: &'a Stage,
    who: Who,
}

impl<'a> Jobs<'a> {
    fn new(title: &str, stage: &'a Stage, who: Who) -> Self {
        let mut builder = Builder::new(title, who);
        builder.pause = 30;
        let mpirun = stage.mpirun(who, RANKS);
        let ring = [stage.mpi.ring().display().to_string()];
        builder.add("host", &mpirun, &ring);
        let mut jobs = Self {
            builder,
            stage,
            who,
        };
        jobs.add(
            "singularity, directory",
            Some(stage.exec(&[], &stage.directory)),
            "",
        );
        jobs
    }

    /// A launcher without hwloc's look for a display. Debian's Open MPI has it,
    /// and where an image lacks /etc/hosts, as fresh ones do, `localhost` is asked
    /// of the name servers: five seconds, from which only a launcher is spared
    /// that can add the file to a read-only image. In the peers' favour.
    fn add_peer(&mut self, name: &str, launcher: Option<Vec<String>>, package: &str) {
        if let Some(contender) = self.add(name, launcher, package) {
            contender.variables = vec![("HWLOC_COMPONENTS".to_owned(), "-gl".to_owned())];
        }
    }

    fn add(
        &mut self,
        name: &str,
        launcher: Option<Vec<String>>,
        package: &str,
    ) -> Option<&mut Contender> {
        let words = launcher.map(|launcher| {
            let mut words = self.stage.mpirun(self.who, RANKS);
            words.extend(launcher);
            words
        });
        let ring = ["/usr/local/bin/ring".to_owned()];
        self.builder.add_if(name, words, &ring, package)
    }
}

fn user(stage: &Stage, effort: Effort) -> Result<Section, String> {
    let mut jobs = Jobs::new("mpirun -np 4 ring", stage, Who::User);
    for (name, form, server, package) in FILES {
        let words = stage
            .program(server)
            .map(|_| stage.exec(&[], &stage.image(form)));
        jobs.add(&format!("singularity, {name} by FUSE"), words, package);
    }
    jobs.add_peer("bubblewrap, directory", stage.bubblewrap(), "bubblewrap");
    let directory = stage.charliecloud(&[], &stage.directory);
    jobs.add_peer("charliecloud, directory", directory, "charliecloud");
    let squashfs = stage.charliecloud(
        &["--join", "--mount", &stage.mount_point()],
        &stage.image(Form::Squashfs),
    );
    jobs.add_peer("charliecloud, squashfs, joined", squashfs, "charliecloud");
    let mut builder = jobs.builder;
    builder.target("singularity, directory", 1.02, "host");
    builder.target("singularity, squashfs by FUSE", 1.15, "host");
    Ok(builder.run(stage, effort, ROUNDS)?.0)
}

fn root(stage: &Stage, effort: Effort) -> Result<Section, String> {
    let mut jobs = Jobs::new("mpirun -np 4 ring, as root", stage, Who::Root);
    for (name, form, ..) in FILES {
        let name = format!("singularity, {name} by the kernel");
        jobs.add(&name, Some(stage.exec(&[], &stage.image(form))), "");
        jobs.builder.target(&name, 1.05, "host");
    }
    let mut builder = jobs.builder;
    builder.target("singularity, directory", 1.02, "host");
    Ok(builder.run(stage, effort, ROUNDS)?.0)
}
