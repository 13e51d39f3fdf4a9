//! The cluster the cases run on, with the plugin as `make install` would have it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{capture_within, Form, Image, Leftovers, Output, SlurmCluster, User};

/// No step of these cases takes as long.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A cluster, a user of it, and the plugin.
pub struct Ground {
    /// The cluster.
    pub cluster: SlurmCluster,
    /// An ordinary user.
    pub user: User,
    /// The plugin, where all nodes see it.
    pub plugin: PathBuf,
}

impl Ground {
    /// Brings it up.
    pub fn new() -> Self {
        let user = User::with_groups(2);
        let cluster = SlurmCluster::start("");
        let plugin = cluster.shared().join("singularity.so");
        std::fs::copy(built(), &plugin).expect("the plugin can be copied");
        let ground = Self {
            cluster,
            user,
            plugin,
        };
        ground.configure("");
        ground
    }

    /// Runs one case, and sees to it that it leaves nothing: no process, mount,
    /// loop device, file, namespace; nodes that have nothing to do and are not
    /// drained; the site's configuration as it was.
    pub fn run(&self, case: fn(&Ground)) {
        // The case before may have failed half way.
        self.configure("");
        self.cluster.wait_until_idle();
        let before = Leftovers::snapshot(&self.user);
        case(self);
        self.configure("");
        self.cluster.wait_until_idle();
        before.assert_nothing_new();
    }

    /// Sets the arguments of the plugin in plugstack.conf.
    pub fn configure(&self, arguments: &str) {
        self.cluster.set_plugstack(&format!(
            "required {} command={} {arguments}\n",
            self.plugin.display(),
            test_support::command().display()
        ));
    }

    /// srun, by the user, on the login host.
    pub fn srun(&self, words: &[&str]) -> Output {
        // Without its remarks on waiting for a node.
        self.command("srun", &[&["--quiet"], words].concat())
    }

    /// srun with an image.
    pub fn srun_in(&self, image: &Path, words: &[&str]) -> Output {
        let option = image_option(image);
        let words: Vec<&str> = std::iter::once(option.as_str())
            .chain(words.iter().copied())
            .collect();
        self.srun(&words)
    }

    /// The option by which all steps of a case go to the first node, into which it looks.
    pub fn on_first_node(&self) -> String {
        format!("--nodelist={}", self.cluster.nodes()[0].name())
    }

    /// Any command, by the user, on the login host.
    pub fn command(&self, program: &str, words: &[&str]) -> Output {
        run(self.cluster.command(&self.user, program).args(words))
    }

    /// The same with variables.
    pub fn command_with(
        &self,
        variables: &[(&str, &str)],
        program: &str,
        words: &[&str],
    ) -> Output {
        let mut command = self.cluster.command(&self.user, program);
        run(command.envs(variables.iter().copied()).args(words))
    }

    /// A batch script of the user's, run to its end; its output, and sbatch's own.
    pub fn batch(&self, options: &[&str], script: &str) -> (String, Output) {
        let file = self.user.file("job.sh", format!("#!/bin/bash\n{script}"));
        let out = self.user.work().join("job.out");
        let _ = std::fs::remove_file(&out);
        let place = format!("--output={}", out.display());
        let mut words = vec!["--parsable", &place];
        words.extend(options);
        words.push(file.to_str().expect("a printable path"));
        let output = self.command("sbatch", &words);
        let job = output.stdout().trim().to_owned();
        // sbatch --wait looks only every ten seconds.
        let end = Instant::now() + LIMIT;
        while output.status.success() {
            let queue = self.command("squeue", &["--noheader", "--jobs", &job]);
            if queue.stdout().is_empty() {
                break;
            }
            assert!(Instant::now() < end, "the job does not end: {queue}");
            std::thread::sleep(Duration::from_millis(50));
        }
        (std::fs::read_to_string(&out).unwrap_or_default(), output)
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    capture_within(LIMIT, command, b"")
}

/// The option that names an image.
pub fn image_option(image: &Path) -> String {
    format!("--singularity-image={}", image.display())
}

/// A small image without MPI.
pub fn small() -> PathBuf {
    Image::Busybox.directory()
}

/// The same in a file.
pub fn small_file(form: Form) -> PathBuf {
    Image::Busybox.file(form)
}

/// A whole Debian, whose programs are those of the nodes.
pub fn debian() -> PathBuf {
    Image::OpenMpiBookworm.directory()
}

/// The plugin as it is built: `$SINGULARITY_PLUGIN`, or by cargo now.
fn built() -> PathBuf {
    if let Some(path) = std::env::var_os("SINGULARITY_PLUGIN") {
        return path.into();
    }
    let output = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--package", "spank-plugin"])
        .args(["--message-format=json"])
        .current_dir(test_support::top())
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("cargo built this test, too");
    assert!(output.status.success(), "the plugin cannot be built");
    String::from_utf8_lossy(&output.stdout)
        .split('"')
        .rfind(|word| word.ends_with("/libspank_plugin.so"))
        .map(PathBuf::from)
        .expect("cargo names what it has built")
}
