//! A PMIx server for the programs of a node.

use super::blobs::Blob;
use super::describe::Description;
use super::leavings::Leavings;
use super::mailbox::{mailbox, Mailbox, Post};
use super::{settle_environment, SETTINGS};
use crate::sys::pmix::server::{Answer, Farewell, Fence, Server, Upcalls};
use crate::sys::pmix::Status;
use pmi_shim::core::{Abort, App, AppEvent, Interest, Job, Rank};
use pmi_shim::seat::{Seat, Unset};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long ranks may take to commit before a fence that they have all reached: those
/// that commit anything have done so.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long somebody who asks for a rank of another node waits for a fence to begin,
/// where only a fence brings anything: who asks before it enters one waits for ever.
const FENCELESS: Duration = Duration::from_secs(10);

/// What libpmix's thread has to say.
enum Letter {
    Event(AppEvent),
    Farewell(Rank, Farewell),
    Fence(Fence, Answer),
    Wanted(Rank, Answer),
    Nowhere(Answer),
    /// What a local rank has committed, for that node.
    Shown(u32, Rank, Option<Vec<u8>>),
    Said(Vec<u8>, Farewell),
    /// What each local rank has committed, for a fence that does not collect.
    Committed(Vec<(Rank, Vec<u8>)>),
}

/// The adapter. There is one a process.
pub struct PmixApp {
    server: Arc<Server>,
    local: Vec<Rank>,
    post: Post<Letter>,
    letters: Mailbox<Letter>,
    /// The fence that is under way.
    fence: Option<Answer>,
    /// There was one: what ranks of other nodes had to say is here.
    fenced: bool,
    /// Those who ask for a rank of another node.
    sought: Vec<Sought>,
    /// Of ranks that are about to leave.
    farewells: Vec<Farewell>,
    /// What ranks of other nodes committed before fences that did not collect.
    committed: HashMap<Rank, Vec<u8>>,
    leavings: Leavings,
}

/// Somebody who asks what a rank of another node has committed.
struct Sought {
    rank: Rank,
    answer: Answer,
    /// Where only a fence brings the answer, until when one must begin; else that node
    /// is asked.
    until: Option<Instant>,
}

impl PmixApp {
    /// Starts the server for a job.
    ///
    /// # Errors
    /// A line for the user.
    pub fn start(job: &Job) -> Result<PmixApp, String> {
        settle_environment();
        // Above all the host's server: this one has no other.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let kept = text.starts_with("PMIX_MCA_") || text.starts_with("PMIX_OUTPUT_");
            if text.starts_with("PMIX_") && !kept {
                std::env::remove_var(name);
            }
        }
        // The name is the job's on every node. "@" and what follows would be a number of
        // its own to Open MPI 5.
        let name = job.name.replace('@', "-");
        let leavings = Leavings::of(&name)?;
        let (post, letters) = mailbox().map_err(|error| format!("a pair of sockets: {error}"))?;
        let failed = |status: Status| format!("a PMIx server for the programs: {status}");
        let place = CString::new(leavings.directory().as_os_str().as_bytes()).unwrap_or_default();
        let name = CString::new(name).unwrap_or_default();
        let upcalls = Box::new(Ears {
            post: post.clone(),
            job: name.clone(),
            size: job.layout.size(),
        });
        let server = Server::start(&place, name, upcalls).map_err(failed)?;
        let app = PmixApp {
            server: Arc::new(server),
            local: job.local.clone(),
            post,
            letters,
            fence: None,
            fenced: false,
            sought: Vec::new(),
            farewells: Vec::new(),
            committed: HashMap::new(),
            leavings,
        };
        app.describe(job).map_err(failed)?;
        Ok(app)
    }

    /// libpmix answers this on its own time, so a thread waits for it.
    fn ask_what_is_committed(&self) {
        let (server, post, local) = (
            Arc::clone(&self.server),
            self.post.clone(),
            self.local.clone(),
        );
        let asked = std::thread::Builder::new().spawn(move || {
            let until = Instant::now() + PATIENCE;
            let ranks = local.into_iter().filter_map(|rank| {
                let left = until.saturating_duration_since(Instant::now());
                Some((rank, server.committed(rank, left).ok()?))
            });
            post.send(Letter::Committed(ranks.collect()));
        });
        if asked.is_err() {
            self.post.send(Letter::Committed(Vec::new()));
        }
    }

    /// Takes some out of the list of those who ask.
    fn take_sought(&mut self, which: impl Fn(&Sought) -> bool) -> Vec<Sought> {
        let all = std::mem::take(&mut self.sought);
        let (taken, kept) = all.into_iter().partition(which);
        self.sought = kept;
        taken
    }

    fn describe(&self, job: &Job) -> Result<(), Status> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Description {
            job,
            directory: &self.leavings.directory().to_string_lossy(),
        }
        .register(&self.server, uid.as_raw(), gid.as_raw())
    }
}

impl App for PmixApp {
    fn seat(&mut self, rank: Rank) -> Result<(Seat, Option<OwnedFd>), String> {
        let mut set = self
            .server
            .environment(rank)
            .map_err(|status| format!("the environment of rank {rank}: {status}"))?;
        let fixed = SETTINGS.iter().chain(OPEN_MPI).copied();
        set.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let seat = Seat {
            unset: HOSTS
                .iter()
                .map(|prefix| Unset::Prefix((*prefix).into()))
                .collect(),
            set,
            descriptor: None,
        };
        Ok((seat, None))
    }

    fn interests(&self) -> Vec<Interest> {
        vec![Interest {
            descriptor: self.letters.descriptor(),
            write: false,
        }]
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = self.sought.iter().filter_map(|sought| sought.until);
        // A fence that has begun comes to its end, or the job does.
        waiting.min().filter(|_| self.fence.is_none())
    }

    fn proceed(&mut self, now: Instant) -> Vec<AppEvent> {
        let mut events = Vec::new();
        if self.deadline().is_some_and(|until| now >= until) {
            for sought in self.take_sought(|sought| sought.until.is_some_and(|until| now >= until))
            {
                sought.answer.give(Err(Status::NOT_FOUND));
            }
        }
        for letter in self.letters.take() {
            match letter {
                Letter::Event(event) => events.push(event),
                Letter::Farewell(rank, farewell) => {
                    self.farewells.push(farewell);
                    events.push(AppEvent::Finalized(rank));
                }
                Letter::Fence(fence, answer) => {
                    // libpmix has one fence of the whole job under way at a time.
                    self.fence = Some(answer);
                    if fence.collects {
                        events.push(AppEvent::Gather(Blob::Fence(fence.data).bytes()));
                    } else {
                        self.ask_what_is_committed();
                    }
                }
                Letter::Said(text, heard) => {
                    // Nobody can be told that standard error is closed.
                    let _ = std::io::stderr().write_all(&text);
                    heard.answer();
                }
                Letter::Committed(ranks) => {
                    events.push(AppEvent::Gather(Blob::Ranks(ranks).bytes()));
                }
                Letter::Wanted(rank, answer) => {
                    // It is libpmix's now: who asks again misses something later.
                    match self.committed.remove(&rank) {
                        Some(data) => answer.give(Ok(data)),
                        None => {
                            let until = None;
                            self.sought.push(Sought {
                                rank,
                                answer,
                                until,
                            });
                            events.push(AppEvent::Ask(rank));
                        }
                    }
                }
                Letter::Nowhere(answer) => answer.give(Err(Status::NOT_FOUND)),
                Letter::Shown(node, rank, data) => events.push(AppEvent::Show(node, rank, data)),
            }
        }
        events
    }

    fn gathered(&mut self, blobs: Vec<Vec<u8>>) {
        let mut together = Vec::new();
        let mut damaged = false;
        for blob in &blobs {
            match Blob::of(blob) {
                // A fence's data from several servers are their data one after another.
                Some(Blob::Fence(data)) => together.extend(data),
                Some(Blob::Ranks(ranks)) => self.committed.extend(ranks),
                None => damaged = true,
            }
        }
        if let Some(answer) = self.fence.take() {
            answer.give(match damaged {
                false => Ok(together),
                true => Err(Status::ERROR),
            });
        }
        self.fenced = true;
        for sought in self.take_sought(|sought| sought.until.is_some()) {
            match self.committed.remove(&sought.rank) {
                Some(data) => sought.answer.give(Ok(data)),
                None => sought.answer.leave_to_libpmix(),
            }
        }
    }

    fn show(&mut self, node: u32, rank: Rank) {
        let post = self.post.clone();
        if self.local.contains(&rank) {
            self.server.when_committed(rank, move |data| {
                post.send(Letter::Shown(node, rank, data.ok()));
            });
        } else {
            post.send(Letter::Shown(node, rank, None));
        }
    }

    fn found(&mut self, rank: Rank, data: Option<Vec<u8>>) {
        for sought in self.take_sought(|sought| sought.rank == rank && sought.until.is_none()) {
            sought.answer.give(data.clone().ok_or(Status::NOT_FOUND));
        }
    }

    fn no_way(&mut self, rank: Rank) {
        if self.fenced && self.fence.is_none() {
            // Everything came with a fence. What is not there is nowhere.
            return self.found(rank, None);
        }
        let until = Some(Instant::now() + FENCELESS);
        for sought in &mut self.sought {
            if sought.rank == rank {
                sought.until = until;
            }
        }
    }

    fn released(&mut self) {
        for farewell in self.farewells.drain(..) {
            farewell.answer();
        }
    }

    fn ended(&mut self, _rank: Rank) {
        // Its connection has closed with it, and libpmix has seen that.
    }
}

impl Drop for PmixApp {
    fn drop(&mut self) {
        // Nothing may be answered to a server that has stopped.
        self.fence = None;
        self.sought.clear();
        self.farewells.clear();
        drop(self.letters.take());
        self.server.stop();
    }
}

/// Variables of the host's interface and launcher, by their beginnings: with them
/// an MPI would look for another server than this one, or find two.
const HOSTS: &[&str] = &[
    "PMI_",
    "PMI2_",
    "PMIX_",
    "HYDI_",
    "HYDRA_",
    "MPI_LOCAL",
    "SLURM_MPI_TYPE",
    "SLURM_PMI",
    "PRTE_",
    "ORTE_",
    // What mpirun says of its own job; parameters of the user's are left alone.
    "OMPI_APP_CTX",
    "OMPI_ARGV",
    "OMPI_COMMAND",
    "OMPI_COMM_WORLD_",
    "OMPI_FILE_LOCATION",
    "OMPI_FIRST_RANKS",
    "OMPI_MCA_ess",
    "OMPI_MCA_hnp",
    "OMPI_MCA_initial_wdir",
    "OMPI_MCA_num_procs",
    "OMPI_MCA_orte_",
    "OMPI_NUM_APP_CTX",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_WORLD_",
];

/// What Open MPI 4 has to find so that it does not take itself for a job of one: its
/// list of launchers has none of the name of this bridge, and of those that hand
/// the job over by PMIx alone, this one asks for nothing else (schizo/jsm).
const OPEN_MPI: &[(&str, &str)] = &[("JSM_JSRUN_PORT", "1")];

/// Puts what libpmix's thread says into the mailbox.
struct Ears {
    post: Post<Letter>,
    /// The job's name, and how many ranks it has.
    job: CString,
    size: u32,
}

impl Ears {
    fn tell(&self, event: AppEvent) {
        self.post.send(Letter::Event(event));
    }
}

impl Upcalls for Ears {
    fn connected(&self, rank: Rank) {
        self.tell(AppEvent::Started(rank));
    }

    fn finalized(&self, rank: Rank, farewell: Farewell) {
        self.post.send(Letter::Farewell(rank, farewell));
    }

    fn aborted(&self, rank: Rank, code: i32, reason: &str) {
        let reason = match reason.trim() {
            "" | "N/A" => format!("rank {rank} called MPI_Abort"),
            reason => format!("rank {rank} called MPI_Abort: {reason}"),
        };
        self.tell(AppEvent::Abort(rank, Abort::new(code, reason)));
    }

    fn fence(&self, fence: Fence, answer: Answer) {
        if fence.everybody {
            self.post.send(Letter::Fence(fence, answer));
        } else {
            answer.give(Err(Status::NOT_SUPPORTED));
        }
    }

    fn said(&self, text: Vec<u8>, heard: Farewell) {
        self.post.send(Letter::Said(text, heard));
    }

    fn wanted(&self, job: &CStr, rank: Rank, answer: Answer) {
        match job == self.job.as_c_str() && rank < self.size {
            true => self.post.send(Letter::Wanted(rank, answer)),
            // Not within the upcall, during which libpmix may hold a lock.
            false => self.post.send(Letter::Nowhere(answer)),
        }
    }
}
