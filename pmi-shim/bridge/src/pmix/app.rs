//! A PMIx server for the programs of a node.

use super::describe::Description;
use super::leavings::Leavings;
use super::mailbox::{mailbox, Mailbox, Post};
use super::{settle_environment, SETTINGS};
use crate::sys::pmix::server::{Answer, Server, Upcalls};
use crate::sys::pmix::Status;
use pmi_shim::core::{Abort, App, AppEvent, Interest, Job, Rank};
use pmi_shim::seat::{Seat, Unset};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

/// What libpmix's thread has to say.
enum Letter {
    Event(AppEvent),
    Fence(Vec<u8>, Answer),
}

/// The adapter. There is one a process.
pub struct PmixApp {
    server: Option<Server>,
    letters: Mailbox<Letter>,
    /// The fence that is under way.
    fence: Option<Answer>,
    leavings: Leavings,
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
            if text.starts_with("PMIX_") && !SETTINGS.iter().any(|(kept, _)| *kept == text) {
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
        let upcalls = Box::new(Ears { post });
        let server = Server::start(&place, name, upcalls).map_err(failed)?;
        let app = PmixApp {
            server: Some(server),
            letters,
            fence: None,
            leavings,
        };
        app.describe(job).map_err(failed)?;
        Ok(app)
    }

    fn describe(&self, job: &Job) -> Result<(), Status> {
        let Some(server) = &self.server else {
            return Err(Status::ERROR);
        };
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Description {
            job,
            directory: &self.leavings.directory().to_string_lossy(),
        }
        .register(server, uid.as_raw(), gid.as_raw())
    }
}

impl App for PmixApp {
    fn seat(&mut self, rank: Rank) -> Result<(Seat, Option<OwnedFd>), String> {
        let server = self.server.as_ref().ok_or("the PMIx server has stopped")?;
        let mut set = server
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

    fn proceed(&mut self, _now: Instant) -> Vec<AppEvent> {
        let mut events = Vec::new();
        for letter in self.letters.take() {
            events.push(match letter {
                Letter::Event(event) => event,
                Letter::Fence(blob, answer) => {
                    // libpmix has one fence of the whole job under way at a time.
                    self.fence = Some(answer);
                    AppEvent::Gather(blob)
                }
            });
        }
        events
    }

    fn gathered(&mut self, blobs: Vec<Vec<u8>>) {
        if let Some(answer) = self.fence.take() {
            // A fence's data from several servers are their data one after another.
            answer.give(Ok(blobs.concat()));
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
        drop(self.letters.take());
        if let Some(server) = self.server.take() {
            server.stop();
        }
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

    fn finalized(&self, rank: Rank) {
        self.tell(AppEvent::Finalized(rank));
    }

    fn aborted(&self, rank: Rank, code: i32, reason: &str) {
        let reason = match reason.trim() {
            "" | "N/A" => format!("rank {rank} called MPI_Abort"),
            reason => format!("rank {rank} called MPI_Abort: {reason}"),
        };
        self.tell(AppEvent::Abort(rank, Abort::new(code, reason)));
    }

    fn fence(&self, data: Vec<u8>, everybody: bool, answer: Answer) {
        if everybody {
            self.post.send(Letter::Fence(data, answer));
        } else {
            answer.give(Err(Status::NOT_SUPPORTED));
        }
    }

    fn wanted(&self, _rank: Rank, answer: Answer) {
        // The data of all ranks came with the fence. What is not there is nowhere.
        answer.give(Err(Status::NOT_FOUND));
    }
}
