//! A Slurm cluster on this machine: munge, slurmctld and slurmd as Debian has
//! them, on hosts of their own.

use crate::place::program;
use crate::{capture_within, Network, Node, User};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long daemons may take to start.
const START: Duration = Duration::from_secs(60);

/// A controller on the host `login`, which users are on too, and two nodes, `c1`
/// and `c2`. Dropped, all of it ends and its files go.
///
/// Homes and [`SlurmCluster::shared`] are what a parallel file system is to a
/// cluster: all hosts see them. /tmp, /run (with the munge socket and slurmd's
/// spool directory) and /dev/shm are each host's own.
#[derive(Debug)]
pub struct SlurmCluster {
    network: Network,
}

impl SlurmCluster {
    /// Bring a cluster up with these lines in plugstack.conf. Only root can.
    pub fn start(plugstack: &str) -> SlurmCluster {
        for (name, package) in [
            ("slurmctld", "slurm-wlm"),
            ("slurmd", "slurm-wlm"),
            ("srun", "slurm-client"),
            ("munged", "munge"),
        ] {
            program(name, package);
        }
        let network = Network::of(&["c1", "c2"]);
        let cluster = SlurmCluster { network };
        cluster.write("slurm.conf", &cluster.configuration());
        cluster.write("plugstack.conf", plugstack);
        cluster.make_directories();
        for node in cluster.hosts() {
            cluster.start_munge(node);
        }
        cluster.daemon(cluster.login(), "slurmctld", &["-i"]);
        for node in cluster.nodes() {
            cluster.start_slurmd(node);
        }
        cluster.wait_until_idle();
        cluster
    }

    /// Where users log in; slurmctld runs here too.
    pub fn login(&self) -> &Node {
        self.network.login()
    }

    /// The two compute nodes.
    pub fn nodes(&self) -> &[Node] {
        self.network.nodes()
    }

    /// A directory that all hosts see and everybody may write to.
    pub fn shared(&self) -> PathBuf {
        self.files().join("shared")
    }

    /// slurm.conf, for a test that looks at it or adds to it.
    pub fn configuration_file(&self) -> PathBuf {
        self.files().join("slurm.conf")
    }

    /// Put other lines in plugstack.conf. Slurm reads it anew at every step.
    pub fn set_plugstack(&self, lines: &str) {
        self.write("plugstack.conf", lines);
    }

    /// A program of the user's on the host `login`, in [`User::work`]:
    /// `cluster.command(&user, "srun").args(["-N2", "hostname"])`.
    pub fn command(&self, user: &User, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.login().command(user, program);
        command.env("SLURM_CONF", self.configuration_file());
        command
    }

    /// A program of root's on any host, with Slurm's configuration.
    pub fn root(&self, node: &Node, program: impl AsRef<OsStr>) -> Command {
        let mut command = node.root(program);
        command.env("SLURM_CONF", self.configuration_file());
        command
    }

    /// Start slurmd on a node; it was killed before, or this is the start.
    pub fn start_slurmd(&self, node: &Node) {
        self.daemon(node, "slurmd", &["-N", node.name()]);
    }

    /// How Slurm sees a node: `idle`, `mixed`, `idle*`, `drained`, …
    pub fn state_of(&self, node: &Node) -> String {
        let mut sinfo = self.root(self.login(), "sinfo");
        sinfo.args(["--noheader", "--format=%T", "--nodes", node.name()]);
        let output = capture_within(START, &mut sinfo, b"");
        output.stdout().trim().to_owned()
    }

    /// Wait until both nodes have nothing to do.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        let end = Instant::now() + START;
        loop {
            let states: Vec<_> = self.nodes().iter().map(|n| self.state_of(n)).collect();
            if states.iter().all(|state| state == "idle") {
                return;
            }
            assert!(
                Instant::now() < end,
                "the nodes are {} after {START:?}\n{}",
                states.join(" and "),
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the daemons have logged.
    pub fn logs(&self) -> String {
        let log = self.files().join("log");
        let mut all = String::new();
        for entry in fs::read_dir(log).into_iter().flatten().flatten() {
            let text = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let tail: Vec<_> = text.lines().rev().take(40).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            let name = entry.file_name();
            all.push_str(&format!(
                "--- {}\n{}\n",
                name.to_string_lossy(),
                tail.join("\n")
            ));
        }
        all
    }

    /// Configuration, logs and the controller's state.
    fn files(&self) -> &Path {
        self.login().files()
    }

    fn hosts(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(self.login()).chain(self.nodes())
    }

    fn configuration(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        let state = self.files().display();
        // linuxproc and no task plugin: no cgroup of the machine's is touched.
        format!(
            "ClusterName=test\n\
             SlurmctldHost=login\n\
             SlurmUser=root\n\
             AuthType=auth/munge\n\
             ProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\n\
             SelectType=select/cons_tres\n\
             SelectTypeParameters=CR_CPU\n\
             ReturnToService=2\n\
             MailProg=/bin/true\n\
             StateSaveLocation={state}/controller\n\
             SlurmctldPidFile=/run/slurmctld.pid\n\
             SlurmctldLogFile={state}/log/slurmctld\n\
             SlurmdSpoolDir=/run/slurmd\n\
             SlurmdPidFile=/run/slurmd.pid\n\
             SlurmdLogFile={state}/log/slurmd-%n\n\
             PlugStackConfig={state}/plugstack.conf\n\
             NodeName=c[1-2] CPUs={cores} State=UNKNOWN\n\
             PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE \
             OverSubscribe=FORCE:64\n"
        )
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.files().join(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }

    fn make_directories(&self) {
        for (name, mode) in [("controller", 0o700), ("log", 0o755), ("shared", 0o1777)] {
            let path = self.files().join(name);
            fs::create_dir(&path).expect("a new directory can be filled");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .expect("a new directory can be changed");
        }
        // One key for all hosts, which only munge's user may read.
        let mut key = [0; 128];
        fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut key))
            .expect("/dev/urandom can be read");
        let path = self.files().join("munge.key");
        fs::write(&path, key).expect("a new directory can be filled");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400))
            .expect("a new file can be changed");
        let munge = munge();
        nix::unistd::chown(&path, Some(munge.uid), Some(munge.gid))
            .expect("a new file can be given away");
    }

    fn start_munge(&self, node: &Node) {
        let munge = munge();
        // It refuses directories that another user could have prepared.
        let (uid, gid) = (munge.uid.to_string(), munge.gid.to_string());
        let run = ["install", "-d", "-o", &uid, "-g", &gid, "/run/munge"];
        expect_success(node.root(run[0]).args(&run[1..]), self);
        expect_success(
            node.root("setpriv")
                .args(["--reuid", &uid, "--regid", &gid, "--clear-groups"])
                .args(["munged", "--num-threads=2"])
                .arg(option("--key-file", self.files().join("munge.key")))
                .args(["--seed-file=/run/munge/seed", "--log-file=/run/munge/log"])
                .args(["--pid-file=/run/munge/pid"]),
            self,
        );
    }

    fn daemon(&self, node: &Node, name: &str, arguments: &[&str]) {
        expect_success(self.root(node, name).args(arguments), self);
    }
}

fn option(name: &str, value: impl AsRef<Path>) -> String {
    format!("{name}={}", value.as_ref().display())
}

fn munge() -> nix::unistd::User {
    nix::unistd::User::from_name("munge")
        .expect("/etc/passwd can be read")
        .expect("the package munge makes a user munge")
}

/// Start what puts itself in the background.
#[track_caller]
fn expect_success(command: &mut Command, cluster: &SlurmCluster) {
    // A daemon may keep its standard error: no pipe that one would wait for.
    let status = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap_or_else(|e| panic!("nsenter: {e}"));
    assert!(
        status.success(),
        "{command:?}: {status}\n{}",
        cluster.logs()
    );
}
