//! The process that is a client of the launcher's PMIx server for a whole node.
//!
//! A process is one client at most, and no server beside that, so the helper of a node
//! has a child that is this one. It is there as the first rank of the node, tells what
//! the launcher knows of the job, and passes on where the helpers of other nodes are.
//!
//! Owns: what is asked and told over its standard input, a line each. Never: knows the
//! programs.

use super::host::{ended, job};
use super::settle_environment;
use crate::sys::pmix::client::Client;
use pmi_shim::core::{Abort, Job, Layout, Rank};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The word that makes the bridge's executable this child.
pub const FORM: &str = "delegate";

/// The word for a process that comes and goes as one rank.
pub const VISIT: &str = "visit";

/// Where a node's helper listens.
const CARD: &std::ffi::CStr = c"singularity.card";

/// How often, and how long, a launcher is asked for another node's card.
const AGAIN: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(50);

/// What the helper wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Keep this text where other nodes can get it.
    Put(String),
    /// Get the text that this rank's delegate has put.
    Get(Rank),
    /// Take leave, for these ranks too.
    Finalize(Vec<Rank>),
    /// End the whole job.
    Abort(Abort),
}

/// What the helper is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The launcher's job.
    Job(Job),
    /// The text that was asked for.
    Card(String),
    /// The leave is taken.
    Finalized,
    /// The launcher ends the job, or cannot be talked to.
    Aborted(Abort),
}

impl Order {
    /// As a line, without its end.
    pub fn line(&self) -> String {
        match self {
            Order::Put(text) => format!("put {text}"),
            Order::Get(rank) => format!("get {rank}"),
            Order::Finalize(ranks) => format!("finalize {}", listed(ranks)),
            Order::Abort(abort) => abort_line(abort),
        }
    }

    /// From a line; `None` of something else.
    pub fn of(line: &str) -> Option<Order> {
        let (word, rest) = line.split_once(' ')?;
        Some(match word {
            "put" => Order::Put(rest.to_owned()),
            "get" => Order::Get(rest.parse().ok()?),
            "finalize" => Order::Finalize(ranks(rest)?),
            "abort" => Order::Abort(abort(rest)?),
            _ => return None,
        })
    }
}

impl Told {
    /// As a line, without its end.
    pub fn line(&self) -> String {
        match self {
            Told::Job(job) => {
                let nodes = (0..job.layout.nodes()).map(|node| listed(job.layout.ranks_on(node)));
                let nodes: Vec<String> = nodes.collect();
                format!(
                    "job {} {} {}",
                    job.name,
                    listed(&job.local),
                    nodes.join(";")
                )
            }
            Told::Card(text) => format!("card {text}"),
            Told::Finalized => "finalized ".to_owned(),
            Told::Aborted(abort) => abort_line(abort),
        }
    }

    /// From a line; `None` of something else.
    pub fn of(line: &str) -> Option<Told> {
        let (word, rest) = line.split_once(' ')?;
        Some(match word {
            "job" => {
                let mut words = rest.split(' ');
                let name = words.next()?.to_owned();
                let local = ranks(words.next()?)?;
                let nodes: Option<Vec<Vec<Rank>>> = words.next()?.split(';').map(ranks).collect();
                Told::Job(Job {
                    name,
                    local,
                    layout: Layout::of_ranks(&nodes?).ok()?,
                    hosts: Vec::new(),
                })
            }
            "card" => Told::Card(rest.to_owned()),
            "finalized" => Told::Finalized,
            "abort" => Told::Aborted(abort(rest)?),
            _ => return None,
        })
    }
}

fn listed(ranks: &[Rank]) -> String {
    let words: Vec<String> = ranks.iter().map(Rank::to_string).collect();
    words.join(",")
}

fn ranks(text: &str) -> Option<Vec<Rank>> {
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(|word| word.parse().ok()).collect()
}

fn abort_line(abort: &Abort) -> String {
    format!("abort {} {}", abort.status, abort.reason.replace('\n', " "))
}

fn abort(rest: &str) -> Option<Abort> {
    let (status, reason) = rest.split_once(' ')?;
    Some(Abort::new(status.parse().ok()?, reason))
}

/// Starts the child, with the environment of this process, as that rank.
///
/// # Errors
/// A line for the user.
pub fn start(rank: Rank) -> Result<UnixStream, String> {
    let child = || -> std::io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        as_rank(FORM, rank).stdin(OwnedFd::from(theirs)).spawn()?;
        ours.set_nonblocking(true)?;
        Ok(ours)
    };
    child().map_err(|error| format!("a process for the launcher's PMIx server: {error}"))
}

/// This executable in another form, to come to the launcher's server as that rank.
fn as_rank(form: &str, rank: Rank) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("pmi-bridge")
        .arg(form)
        .env("PMIX_RANK", rank.to_string())
        .stdout(Stdio::null());
    command
}

/// The voice of the child, for any of its threads.
#[derive(Clone)]
struct Voice(Arc<Mutex<UnixStream>>);

impl Voice {
    fn say(&self, told: &Told) {
        let mut line = told.line();
        line.push('\n');
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If nobody listens, the end of the orders tells so.
        let _ = stream.write_all(line.as_bytes());
    }

    fn abort(&self, reason: String) {
        self.say(&Told::Aborted(Abort::new(1, reason)));
    }
}

/// The child's life: until nobody gives orders any more.
pub fn serve(orders: OwnedFd) -> ExitCode {
    settle_environment();
    let orders = UnixStream::from(orders);
    let Ok(voice) = orders.try_clone() else {
        return ExitCode::FAILURE;
    };
    let voice = Voice(Arc::new(Mutex::new(voice)));
    let worse = voice.clone();
    let client = match Client::connect(move |status| worse.abort(ended(status))) {
        Ok(client) => Arc::new(client),
        Err(status) => {
            voice.abort(format!(
                "cannot connect to the launcher's PMIx server: {status}"
            ));
            return ExitCode::FAILURE;
        }
    };
    tracing::debug!(
        rank = client.rank(),
        "connected to the launcher's PMIx server"
    );
    match job(&client) {
        Ok(mut job) => {
            let here = job.layout.node_of(client.rank()).unwrap_or_default();
            job.local = job.layout.ranks_on(here).to_vec();
            voice.say(&Told::Job(job));
        }
        Err(reason) => {
            voice.abort(reason);
            return ExitCode::FAILURE;
        }
    }
    for line in BufReader::new(orders).lines() {
        let Some(order) = line.ok().as_deref().and_then(Order::of) else {
            break;
        };
        follow(&client, &voice, order);
    }
    // Not by exit(3): libpmix's thread is still at work, and what it has open is let
    // go with the process.
    ExitCode::SUCCESS
}

fn follow(client: &Arc<Client>, voice: &Voice, order: Order) {
    match order {
        Order::Put(text) => {
            let put = client.put(CARD, text.as_bytes());
            if let Err(status) = put.and_then(|()| client.commit()) {
                voice.abort(format!("the launcher's PMIx server: {status}"));
            }
        }
        // Waits until the other node has put it, while other orders may come.
        Order::Get(rank) => {
            let (client, asking) = (Arc::clone(client), voice.clone());
            let thread = std::thread::Builder::new().spawn(move || get(&client, rank, &asking));
            if let Err(error) = thread {
                voice.abort(format!("a thread: {error}"));
            }
        }
        Order::Finalize(others) => {
            if !is_slurms(client) {
                visit_as(&others);
            }
            // The job is through: nothing that fails now matters to it.
            if let Err(status) = client.finalize() {
                tracing::debug!(%status, "finalize");
            }
            voice.say(&Told::Finalized);
        }
        Order::Abort(abort) => client.abort(abort.status, &abort.reason),
    }
}

fn get(client: &Client, rank: Rank, voice: &Voice) {
    let until = Instant::now() + PATIENCE;
    loop {
        match client.bytes(rank, CARD) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                return voice.say(&Told::Card(text));
            }
            // Open MPI's daemons wait for some seconds only.
            Err(status) if Instant::now() < until => {
                tracing::debug!(%status, rank, "the card of another node");
                std::thread::sleep(AGAIN);
            }
            Err(status) => {
                return voice.abort(format!(
                    "the launcher's PMIx server does not tell where the bridge of another node is: {status}"
                ));
            }
        }
    }
}

/// Slurm does not ask whether a rank that ends has taken its leave. The daemons of
/// Open MPI and PRRTE do, as soon as any rank of the job has come to their server.
fn is_slurms(client: &Client) -> bool {
    client.nspace().to_bytes().starts_with(b"slurm.pmix.")
}

/// Has each of these ranks come and go, some at a time.
fn visit_as(ranks: &[Rank]) {
    let at_a_time = std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
    let wait = |child: &mut Child| {
        // What it did not do, the launcher says.
        let _ = child.wait();
    };
    let mut visitors = std::collections::VecDeque::new();
    for rank in ranks {
        if visitors.len() == at_a_time {
            visitors.pop_front().iter_mut().for_each(wait);
        }
        let visitor = as_rank(VISIT, *rank).stdin(Stdio::null()).spawn();
        visitors.extend(visitor.ok());
    }
    visitors.iter_mut().for_each(wait);
}

/// One rank comes to the launcher's server, and leaves it.
pub fn visit() -> ExitCode {
    settle_environment();
    let left = Client::connect_deaf().and_then(|client| client.finalize());
    match left {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_what_is_told_come_back() {
        let abort = Abort::new(7, "rank 3 called MPI_Abort: why");
        let orders = [
            Order::Put("text,without,spaces".into()),
            Order::Get(12),
            Order::Finalize(vec![1, 3]),
            Order::Finalize(Vec::new()),
            Order::Abort(abort.clone()),
        ];
        for order in orders {
            assert_eq!(Order::of(&order.line()), Some(order));
        }
        let job = Job {
            name: "slurm.pmix.7.0".into(),
            layout: Layout::of_nodes(&[0, 1, 0]).unwrap(),
            local: vec![0, 2],
            hosts: Vec::new(),
        };
        for told in [
            Told::Job(job),
            Told::Card("text".into()),
            Told::Finalized,
            Told::Aborted(abort),
        ] {
            assert_eq!(Told::of(&told.line()), Some(told));
        }
    }

    #[test]
    fn other_lines_are_neither() {
        for line in [
            "",
            "get",
            "get x",
            "finalize 1,x",
            "abort x",
            "job a b c",
            "more 1",
        ] {
            assert_eq!(Order::of(line), None, "{line}");
            assert_eq!(Told::of(line), None, "{line}");
        }
        let lines = Order::Abort(Abort::new(1, "one\ntwo")).line();
        assert!(!lines.contains('\n'), "{lines}");
    }
}
