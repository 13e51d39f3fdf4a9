//! A rank of a job whose launcher speaks PMIx.
//!
//! libpmix's calls wait for the host's server, so a thread of their own makes them.
//! The blobs of a node's ranks are put by the first of them, under a name of its own
//! for each exchange, and got by the first of every other node after a fence that
//! collects.

use super::blobs::Blob;
use super::mailbox::{mailbox, Mailbox, Post};
use super::neighbours::{Brought, Neighbours};
use super::settle_environment;
use crate::sys::pmix::client::{Client, Of};
use crate::sys::pmix::Status;
use pmi_shim::core::{Abort, Host, HostEvent, Interest, Job, Layout, Rank};
use std::ffi::CString;
use std::sync::{mpsc, Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long the host may take to hear of an abort before this process ends anyhow.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the thread is asked to do, one after another.
enum Command {
    Gather(Vec<u8>),
    Finalize,
}

/// The adapter. There is one a process.
pub struct PmixHost {
    commands: mpsc::Sender<Command>,
    events: Mailbox<HostEvent>,
    /// There from [`HostEvent::Ready`] on; for an abort while the thread waits.
    client: Arc<OnceLock<Client>>,
}

impl PmixHost {
    /// Begins to connect to the server that the environment names.
    ///
    /// # Errors
    /// No thread or no socket can be made.
    pub fn connect() -> std::io::Result<PmixHost> {
        settle_environment();
        let (post, events) = mailbox()?;
        let (commands, todo) = mpsc::channel();
        let client = Arc::new(OnceLock::new());
        let place = Arc::clone(&client);
        thread::Builder::new()
            .name("host".into())
            .spawn(move || serve(&place, &post, &todo))?;
        Ok(PmixHost {
            commands,
            events,
            client,
        })
    }

    fn ask(&self, command: Command) {
        // The thread ends only after it has told why.
        let _ = self.commands.send(command);
    }
}

impl Host for PmixHost {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest {
            descriptor: self.events.descriptor(),
            write: false,
        }]
    }

    fn proceed(&mut self, _now: Instant) -> Vec<HostEvent> {
        self.events.take()
    }

    fn gather(&mut self, blob: Vec<u8>) {
        self.ask(Command::Gather(blob));
    }

    fn finalize(&mut self) {
        self.ask(Command::Finalize);
    }

    fn abort(&mut self, abort: &Abort) {
        let (done, told) = mpsc::channel();
        let (client, abort) = (Arc::clone(&self.client), abort.clone());
        let telling = thread::Builder::new().spawn(move || {
            if let Some(client) = client.get() {
                client.abort(abort.status, &abort.reason);
            }
            let _ = done.send(());
        });
        if telling.is_ok() {
            let _ = told.recv_timeout(FAREWELL);
        }
    }
}

/// The thread: connects, and then does as it is asked until something fails.
fn serve(place: &OnceLock<Client>, post: &Post<HostEvent>, todo: &mpsc::Receiver<Command>) {
    let worse = post.clone();
    let connected = Client::connect(move |status| {
        worse.send(HostEvent::Aborted(Abort::new(1, ended(status))));
    });
    let client = match connected {
        Ok(client) => place.get_or_init(|| client),
        Err(status) => {
            let reason = format!("cannot connect to the launcher's PMIx server: {status}");
            return post.send(HostEvent::Aborted(Abort::new(1, reason)));
        }
    };
    let job = match job(client) {
        Ok(job) => job,
        Err(reason) => return post.send(HostEvent::Aborted(Abort::new(1, reason))),
    };
    let layout = job.layout.clone();
    let here = layout.node_of(client.rank()).unwrap_or_default();
    let neighbours = Neighbours::of(client, layout.ranks_on(here));
    let mut neighbours = match neighbours {
        Ok(neighbours) => neighbours,
        Err(reason) => return post.send(HostEvent::Aborted(Abort::new(1, reason))),
    };
    post.send(HostEvent::Ready(job));
    let mut exchanges = 0_u64;
    while let Ok(command) = todo.recv() {
        let event = match command {
            Command::Gather(blob) => {
                exchanges += 1;
                match gather(client, &mut neighbours, &layout, exchanges, blob) {
                    Ok(blobs) => HostEvent::Gathered(blobs),
                    Err(reason) => HostEvent::Aborted(Abort::new(1, reason)),
                }
            }
            Command::Finalize => {
                // The job is through: nothing that fails now matters to it.
                if let Err(status) = client.finalize() {
                    tracing::debug!(%status, "finalize");
                }
                HostEvent::Finalized
            }
        };
        post.send(event);
    }
}

/// What the status of an event means for the job.
pub(super) fn ended(status: Status) -> String {
    if status.is_lost_connection() {
        "the launcher's PMIx server has gone".to_owned()
    } else {
        format!("the launcher ends the job: {status}")
    }
}

/// One exchange among all ranks.
fn gather(
    client: &Client,
    neighbours: &mut Neighbours,
    layout: &Layout,
    number: u64,
    blob: Vec<u8>,
) -> Result<Vec<Vec<u8>>, String> {
    let all = neighbours.exchange(client, blob, |brought| {
        across(client, layout, number, brought)
    })?;
    let mut blobs = vec![Vec::new(); layout.size() as usize];
    for (rank, blob) in all {
        let place = blobs.get_mut(rank as usize);
        *place.ok_or("another rank's bridge sent something else than blobs")? = blob;
    }
    Ok(blobs)
}

/// The part of an exchange that goes over the host: from the leader of each node, the
/// blobs of its ranks.
fn across(
    client: &Client,
    layout: &Layout,
    number: u64,
    mut brought: Brought,
) -> Result<Brought, Status> {
    if layout.nodes() == 1 {
        return Ok(brought);
    }
    let leads = !brought.is_empty();
    let key = CString::new(format!("singularity.{number}")).unwrap_or_default();
    if leads {
        client.put(&key, &Blob::Ranks(brought.clone()).bytes())?;
        client.commit()?;
    }
    client.fence(true)?;
    if leads {
        let leaders = (0..layout.nodes()).filter_map(|node| layout.ranks_on(node).first());
        for &leader in leaders.filter(|&&leader| leader != client.rank()) {
            match Blob::of(&client.bytes(leader, &key)?) {
                Some(Blob::Ranks(theirs)) => brought.extend(theirs),
                _ => return Err(Status::ERROR),
            }
        }
    }
    Ok(brought)
}

/// What the host says of the job.
pub(super) fn job(client: &Client) -> Result<Job, String> {
    let rank = client.rank();
    let size = client
        .number(Of::Job, libpmix::PMIX_JOB_SIZE)
        .filter(|&size| rank < size)
        .ok_or("the launcher's PMIx server does not tell the size of the job")?;
    let layout = layout(client, size)?;
    let name = client.nspace().to_string_lossy();
    Ok(Job {
        name: name.chars().filter(char::is_ascii_graphic).collect(),
        layout,
        local: vec![rank],
        // Programs of PMI are not told names.
        hosts: Vec::new(),
    })
}

/// Which rank is on which node.
///
/// Servers tell it in different ways, and some answer for ranks of other nodes what is
/// true of their own. All tell which ranks are on this node, and what does not agree
/// with that is not believed.
fn layout(client: &Client, size: u32) -> Result<Layout, String> {
    let rank = client.rank();
    let peers: Vec<Rank> = [Of::Rank(rank), Of::Job]
        .into_iter()
        .find_map(|of| client.text(of, libpmix::PMIX_LOCAL_PEERS))
        .map(|peers| {
            peers
                .split(',')
                .filter_map(|peer| peer.trim().parse().ok())
                .collect()
        })
        .ok_or("the launcher's PMIx server does not tell the ranks of this node")?;
    if peers.len() == size as usize {
        return Layout::on_one_node(size).map_err(|bad| bad.to_string());
    }
    let mut peers = peers;
    peers.sort_unstable();
    // PRRTE of Open MPI 5.0.7 prints a word about being asked for nodes: that comes last.
    [mapping, numbered, resolved]
        .into_iter()
        .filter_map(|told| told(client, size))
        .find(|layout| {
            let here = layout.node_of(rank).map(|node| layout.ranks_on(node));
            layout.size() == size && here == Some(&peers)
        })
        .ok_or_else(|| "the launcher's PMIx server does not tell the job's nodes".to_owned())
}

/// In the notation of PMI-1, as Slurm's server has it.
fn mapping(client: &Client, size: u32) -> Option<Layout> {
    let text = client.text(Of::Job, libpmix::PMIX_ANL_MAP)?;
    Layout::from_process_mapping(&text, size).ok()
}

/// Node by node.
fn resolved(client: &Client, _size: u32) -> Option<Layout> {
    let nodes = client.nodes().ok()?;
    let ranks: Option<Vec<Vec<Rank>>> = nodes
        .iter()
        .map(|node| client.ranks_on(node).ok())
        .collect();
    Layout::of_ranks(&ranks?).ok()
}

/// Rank by rank.
fn numbered(client: &Client, size: u32) -> Option<Layout> {
    let numbers: Option<Vec<u32>> = (0..size)
        .map(|rank| client.number(Of::Rank(rank), libpmix::PMIX_NODEID))
        .collect();
    Layout::of_nodes(&numbers?).ok()
}
