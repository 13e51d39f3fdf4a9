//! Hosts on one kernel: each with its own network, name, processes, /tmp, /run
//! and /dev/shm, and a network between them.
//!
//! A host is a tree of namespaces held by one shell ([`node.sh`](node.sh)), which
//! ends when a pipe closes that this process has. So nothing of it outlives this
//! process, not even if that is killed; nothing is named in /run/netns, and the
//! machine's own network, mounts and /etc/hosts are not touched.

use crate::place::{store, top};
use crate::{command, proc, User};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Become a program, in a directory. env(1) would take a path with a = for a
/// variable.
const START: &str = r#"cd "$0" && exec "$@""#;

/// One host.
#[derive(Debug)]
pub struct Node {
    name: String,
    address: String,
    /// Files that go with the host. All hosts see them, at the same path.
    files: PathBuf,
    /// The shell that waits for the host's end and then removes its files.
    keeper: Child,
    /// The host's pid 1, as the machine numbers it.
    init: i32,
}

/// Some hosts and the network between them, to which a further host belongs that
/// is called `login`. Dropped, all of it ends.
#[derive(Debug)]
pub struct Network {
    login: Node,
    nodes: Vec<Node>,
}

impl Network {
    /// Hosts of these names. Only root can make them.
    pub fn of(names: &[&str]) -> Network {
        assert!(
            nix::unistd::getuid().is_root(),
            "only root can make hosts: run the tests as root"
        );
        let all: Vec<_> = std::iter::once("login")
            .chain(names.iter().copied())
            .zip(1..)
            .map(|(name, number)| (name, format!("10.73.0.{number}")))
            .collect();
        let hosts: String = std::iter::once("127.0.0.1 localhost\n".to_owned())
            .chain(all.iter().map(|(name, at)| format!("{at} {name}\n")))
            .collect();
        let mut nodes: Vec<_> = all
            .iter()
            .map(|(name, address)| Node::start(name, address, &hosts))
            .collect();
        let login = nodes.remove(0);
        login.ip("link add br0 type bridge");
        login.ip(&format!("addr add {}/24 dev br0", login.address));
        login.ip("link set br0 up");
        for node in &nodes {
            let port = format!("to-{}", node.name);
            login.ip(&format!(
                "link add {port} type veth peer name eth0 netns {}",
                node.init
            ));
            login.ip(&format!("link set {port} master br0 up"));
            node.ip(&format!("addr add {}/24 dev eth0", node.address));
            node.ip("link set eth0 up");
        }
        Network { login, nodes }
    }

    /// The host that is called `login`, at which the others' cables end.
    pub fn login(&self) -> &Node {
        &self.login
    }

    /// The hosts that were asked for, in that order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Node {
    fn start(name: &str, address: &str, hosts: &str) -> Node {
        let state = tempfile::Builder::new()
            .prefix("singularity-host-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/var/tmp")
            .expect("/var/tmp can be written to")
            .keep();
        fs::create_dir(state.join("tmp")).expect("a new directory can be filled");
        fs::write(state.join("hosts"), hosts).expect("a new directory can be filled");

        let programs = command().parent().expect("a command is in a directory");
        let mut keeper = Command::new("/bin/sh");
        keeper
            .args(["-c", "state=$1; shift; \"$@\"; rm -rf \"$state\"", "sh"])
            .arg(&state)
            .args(["unshare", "--mount", "--propagation", "private", "--net"])
            .args(["--uts", "--ipc", "--pid", "--fork", "--kill-child"])
            .args(["/bin/sh", "-c", include_str!("node.sh"), "node"])
            .args([OsStr::new(name), state.as_os_str()])
            .args([top(), store(), programs])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the test; the shell then still has files to remove.
            .process_group(0);
        let mut keeper = keeper.spawn().expect("sh is on every machine");
        let mut answer = String::new();
        let stdout = keeper.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout)
            .read_line(&mut answer)
            .expect("a pipe can be read");
        assert!(
            answer == "ready\n",
            "the host {name} did not start: its messages are above"
        );
        let child_of = |parent| {
            proc::all()
                .into_iter()
                .find(|process| process.parent == parent)
                .map(|process| process.pid)
                .unwrap_or_else(|| panic!("the host {name} has ended at once"))
        };
        let unshare = child_of(i32::try_from(keeper.id()).expect("a pid fits pid_t"));
        Node {
            name: name.to_owned(),
            address: address.to_owned(),
            files: state,
            init: child_of(unshare),
            keeper,
        }
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A directory for files that go with the host; all hosts see it.
    pub(crate) fn files(&self) -> &Path {
        &self.files
    }

    /// What a path of this host is called on the machine: for a look into its
    /// /tmp, say.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let inside = path.strip_prefix("/").unwrap_or(path);
        Path::new("/proc")
            .join(self.init.to_string())
            .join("root")
            .join(inside)
    }

    /// A program to be run on this host, as this user, as [`User::command`] does
    /// on the machine. The working directory is set already; [`Command`]'s own
    /// setting has no effect on the host.
    pub fn command(&self, user: &User, program: impl AsRef<OsStr>) -> Command {
        self.command_in(user, user.work(), program)
    }

    /// The same, in another working directory.
    pub fn command_in(&self, user: &User, directory: &Path, program: impl AsRef<OsStr>) -> Command {
        let groups: Vec<_> = user.groups().iter().map(u32::to_string).collect();
        let mut command = self.enter();
        command
            .env_clear()
            .envs(user.environment())
            // UCX takes hosts that share a kernel for one, and then waits for
            // shared memory that they do not share.
            .env("UCX_TLS", "tcp,self")
            .args(["setpriv", "--reuid", &user.uid().to_string()])
            .args(["--regid", &user.gid().to_string()]);
        match groups.is_empty() {
            true => command.arg("--clear-groups"),
            false => command.args(["--groups", &groups.join(",")]),
        };
        command
            .args(["/bin/sh", "-c", START])
            .arg(directory)
            .arg(program);
        command
    }

    /// A program to be run on this host by root.
    pub fn root(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.enter();
        command.args(["/bin/sh", "-c", START, "/"]).arg(program);
        command
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--"]);
        command
    }

    /// Set up the host's network, with the names of the machine's processes.
    fn ip(&self, words: &str) {
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.init))
            .arg("ip")
            .args(words.split_whitespace())
            .output()
            .unwrap_or_else(|e| panic!("nsenter: {e}"));
        assert!(
            output.status.success(),
            "ip {words} on {}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let end = Instant::now() + Duration::from_secs(10);
        while let Ok(None) = self.keeper.try_wait() {
            if Instant::now() > end {
                eprintln!("the host {} does not end", self.name);
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
