//! Form `node`: one process for all ranks of a node.
//!
//! Owns: who may come in, and which host they have in common. Never: knows what is
//! said over an interface; the adapters and [`Member`] do.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::socket::{accept4, SockFlag};
use pmi_shim::client::Wire;
use pmi_shim::core::{Host, Interest};
use pmi_shim::seat::{Hello, HostInterface, Refused, GREETING};

use crate::member::{wait, Member, Outcome};
use crate::nodes::Nodes;
use crate::pmi_host::PmiHost;
use crate::pmix::together::Together;
use crate::seating::{Asking, Belongings, Came};
use crate::sys;

/// The most who may be asking at a time: they are this user's own processes, so it
/// is only against mistakes.
const MOST_ASKING: usize = 4096;

/// Serves the ranks that come to the listener until the last has ended.
pub fn serve(listener: OwnedFd, munge: Option<OwnedFd>) -> ExitCode {
    // Up to six descriptors a rank; what the program may have is its own business.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    if let Err(errno) = fcntl(&listener, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
        eprintln!("singularity: the PMI bridge's socket: {}", errno.desc());
        return ExitCode::FAILURE;
    }
    let mut node = Node {
        listener,
        munge,
        asking: Vec::new(),
        common: None,
        member: None,
        failed: None,
    };
    match node.follow(Instant::now() + GREETING) {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Badly) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("singularity: the PMI bridge of a node: {reason}");
            ExitCode::FAILURE
        }
    }
}

struct Node {
    listener: OwnedFd,
    munge: Option<OwnedFd>,
    asking: Vec<Asking>,
    /// The first rank's greeting: all others' agree with it.
    common: Option<Hello>,
    member: Option<Member>,
    /// Why there is no host, which all ranks are told.
    failed: Option<String>,
}

impl Node {
    /// Until all is over; `until` is when the first rank must have come.
    fn follow(&mut self, until: Instant) -> Result<Outcome, String> {
        loop {
            let now = Instant::now();
            self.let_in(now);
            self.listen_to_asking(now);
            if let Some(member) = &mut self.member {
                if let Some(outcome) = member.proceed(Instant::now()) {
                    self.turn_away_the_rest();
                    return Ok(outcome);
                }
            } else if now >= until {
                // Whoever started this has died before it asked.
                return Ok(Outcome::Well);
            }
            let mut interests = vec![Interest {
                descriptor: self.listener.as_raw_fd(),
                write: false,
            }];
            interests.extend(self.asking.iter().map(|asking| Interest {
                descriptor: asking.descriptor(),
                write: false,
            }));
            let first = self.member.is_none().then_some(until);
            let member = self.member.as_ref();
            interests.extend(member.map(Member::interests).unwrap_or_default());
            let deadline = self
                .asking
                .iter()
                .map(|asking| asking.until)
                .chain(first)
                .chain(member.and_then(Member::deadline))
                .min();
            wait(&interests, deadline).map_err(|errno| errno.desc().to_owned())?;
        }
    }

    fn let_in(&mut self, now: Instant) {
        while self.asking.len() < MOST_ASKING {
            match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(number) => match Asking::new(sys::received(number), now) {
                    Ok(asking) => self.asking.push(asking),
                    Err(reason) => tracing::warn!("turned away: {reason}"),
                },
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                // EMFILE too: it is tried again when somebody has gone.
                Err(_) => return,
            }
        }
    }

    fn listen_to_asking(&mut self, now: Instant) {
        for mut asking in std::mem::take(&mut self.asking) {
            match asking.read() {
                Came::Wait if now < asking.until => self.asking.push(asking),
                Came::Wait => tracing::warn!("turned away: it did not say who it is"),
                Came::Nobody(reason) => tracing::warn!("turned away: {reason}"),
                Came::Hello(hello, belongings) => self.welcome(asking, *hello, belongings, now),
            }
        }
    }

    fn welcome(&mut self, asking: Asking, hello: Hello, belongings: Belongings, now: Instant) {
        let common = self.common.get_or_insert_with(|| hello.clone());
        if let Some(other) = difference(common, &hello) {
            let refused = Refused {
                line: format!(
                    "a seat for rank {}: its {other} is not the other ranks'",
                    hello.rank
                ),
                hint: "all ranks of a job need images whose MPIs want the same of their launcher"
                    .into(),
            };
            asking.refuse(Some(&belongings), refused);
            return;
        }
        if self.member.is_none() && self.failed.is_none() {
            match host_for(&hello, self.munge.take(), now) {
                Ok(host) => {
                    let make_app = crate::app_for(hello.app);
                    let member = Member::new(host, make_app, now);
                    // Those launchers say themselves how a rank ended.
                    self.member = Some(match hello.host {
                        HostInterface::Pmix => member.silent(),
                        _ => member,
                    });
                }
                Err(line) => self.failed = Some(line),
            }
        }
        if let Some(line) = &self.failed {
            let refused = Refused {
                line: line.clone(),
                hint: "srun --mpi=pmix or --mpi=pmi2 needs nothing of the nodes".into(),
            };
            asking.refuse(Some(&belongings), refused);
            return;
        }
        if let Some(member) = &mut self.member {
            member.welcome(asking, hello, belongings);
        }
    }

    /// Those who come when all is over hear it, instead of a closed door.
    fn turn_away_the_rest(&mut self) {
        let now = Instant::now();
        self.let_in(now);
        for mut asking in self.asking.drain(..) {
            let refused = Refused {
                line: "a seat at the PMI bridge: the job has ended".into(),
                hint: "another rank of it failed; its message says why".into(),
            };
            match asking.read() {
                Came::Hello(_, belongings) => asking.refuse(Some(&belongings), refused),
                _ => asking.refuse(None, refused),
            }
        }
    }
}

/// What two ranks of one job cannot differ in.
fn difference(one: &Hello, other: &Hello) -> Option<&'static str> {
    let kind = std::mem::discriminant;
    if one.job != other.job {
        Some("job")
    } else if one.size != other.size {
        Some("number of ranks")
    } else if one.app != other.app {
        Some("MPI")
    } else if kind(&one.host) != kind(&other.host) {
        Some("launcher")
    } else {
        None
    }
}

fn host_for(hello: &Hello, munge: Option<OwnedFd>, now: Instant) -> Result<Box<dyn Host>, String> {
    match &hello.host {
        HostInterface::Pmi1 { .. } => Ok(Box::new(PmiHost::new(Wire::One, hello.size))),
        HostInterface::Pmi2 => Ok(Box::new(PmiHost::new(Wire::Two, hello.size))),
        HostInterface::Slurm(step) => {
            let nodes = Nodes::new(step, hello.size, munge, now);
            nodes
                .map(|nodes| Box::new(nodes) as Box<dyn Host>)
                .map_err(|why| format!("bridge between the nodes of step {}: {why}", step.id))
        }
        HostInterface::Pmix => match hello.local_size {
            Some(ranks) => Ok(Box::new(Together::new(ranks, now))),
            None => Err("the launcher does not tell how many ranks this node has".into()),
        },
    }
}
