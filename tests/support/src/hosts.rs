//! Two hosts for one mpirun.
//!
//! An mpirun reaches other hosts by ssh. Here a shell of the user's waits on each
//! host for what the stand-in for ssh sends it through named pipes in the user's
//! directory, which all hosts share: no server, no keys, and nobody becomes
//! anybody else.

use crate::run::Running;
use crate::{Mpi, Network, Node, User};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// Sends a command to a host and is there until it ends: `agent HOST WORD…`.
/// The words are for a shell over there, as ssh has it. Hydra gives ssh's `-x`.
const AGENT: &str = r#"#!/bin/sh
set -eu
while [ "${1#-}" != "$1" ]; do shift; done
spool=$(dirname "$0")/$1
id=$(hostname).$$
shift
mkfifo "$spool/$id.out" "$spool/$id.err"
printf '%s\n' "$*" >"$spool/$id.command"
echo "$id" >"$spool/requests"
cat "$spool/$id.err" >&2 &
cat "$spool/$id.out"
wait
code=$(cat "$spool/$id.code")
rm -f "$spool/$id".*
exit "$code"
"#;

/// Runs what the agent sends. Read and write at once, so that the pipe never has
/// an end; in the background twice, so that pid 1 waits for it.
const SERVER: &str = r#"
cd "$1"
exec 3<>requests
while read -r id <&3; do
	( (
		exec >"$id.out" 2>"$id.err" 3<&-
		code=0
		(cd && exec sh "$OLDPWD/$id.command") </dev/null || code=$?
		echo "$code" >"$id.code"
	) & )
done
"#;

/// Two hosts, named `one` and `two`, between which a user may go without being
/// asked. Home and [`User::work`] are shared as over a network file system; /tmp,
/// /run, /dev/shm, processes and network are each host's own.
#[derive(Debug)]
pub struct Hosts {
    // Dropped in this order: the shells, then the hosts they are on.
    _servers: Vec<Running>,
    network: Network,
    agent: PathBuf,
}

impl Hosts {
    /// Two hosts for this user. Only root can make them.
    pub fn two(user: &User) -> Hosts {
        let network = Network::of(&["one", "two"]);
        let agent = user.file(".agent/agent", AGENT);
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755))
            .expect("a new file can be changed");
        let servers = network.nodes().iter().map(|node| {
            let spool = user.directory(format!(".agent/{}", node.name()));
            let requests = spool.join("requests");
            if !requests.exists() {
                mkfifo(&requests, Mode::S_IRUSR | Mode::S_IWUSR).expect("make a named pipe");
                user.give(&requests);
            }
            Running::start(
                node.command(user, "/bin/sh")
                    .args(["-c", SERVER, "server"])
                    .arg(&spool),
            )
        });
        Hosts {
            _servers: servers.collect(),
            network,
            agent,
        }
    }

    /// The two hosts.
    pub fn nodes(&self) -> &[Node] {
        self.network.nodes()
    }

    /// The stand-in for ssh: `agent HOST WORD…`, to be run on a host.
    pub fn agent(&self) -> &std::path::Path {
        &self.agent
    }

    /// So many ranks on each host under one mpirun on the first:
    /// `hosts.mpirun(&mpi, &user, 2).arg("ring")`.
    pub fn mpirun(&self, mpi: &Mpi, user: &User, per_host: usize) -> Command {
        mpi.command_across(user, self.nodes(), per_host, &self.agent)
    }

    /// The same with words of the launcher's own that say how many ranks go where:
    /// `hosts.mpirun_with(&mpi, &user, &["-hosts", "one:3,two:1", "-n", "4"])`.
    pub fn mpirun_with(&self, mpi: &Mpi, user: &User, words: &[&str]) -> Command {
        let mut command = mpi.command_from(&self.nodes()[0], user, &self.agent);
        command.args(words);
        command
    }
}
