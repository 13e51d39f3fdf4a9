//! Programs over PMI-1 or PMI-2: the sockets of [`Server`], and the seats of their
//! ranks.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use pmi_shim::core::{App, AppEvent, Interest, Job, Rank};
use pmi_shim::seat::{Seat, Unset};
use pmi_shim::server::Server;

use crate::pipe::{Pipe, Read};

/// A program that does not read its answers is not read from any further once so
/// many bytes wait for it.
const MOST_UNREAD: usize = 1 << 20;

/// Variables of other interfaces, which MPICH and Intel MPI would try first, or
/// refuse to start with; and what is left of the launcher's own.
const PREFIXES: &[&str] = &[
    "PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "ORTE_", "PALS_", "HYDI_",
];
const NAMES: &[&str] = &["SLURM_MPI_TYPE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"];

/// The programs of a member's ranks.
#[derive(Debug)]
pub struct PmiApp {
    job: Job,
    server: Server,
    pipes: BTreeMap<Rank, Pipe>,
    events: Vec<AppEvent>,
    buffer: Vec<u8>,
}

impl PmiApp {
    /// For the local ranks of a job.
    pub fn new(job: Job) -> Self {
        PmiApp {
            server: Server::new(job.clone()),
            job,
            pipes: BTreeMap::new(),
            events: Vec::new(),
            buffer: vec![0; 16 << 10],
        }
    }

    fn flush(&mut self) {
        for (rank, pipe) in &self.pipes {
            if let Some(output) = self.server.output(*rank) {
                pipe.write(output);
            }
        }
    }
}

impl App for PmiApp {
    fn seat(&mut self, rank: Rank) -> Result<(Seat, Option<OwnedFd>), String> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| format!("make a socket pair: {}", errno.desc()))?;
        let local = self.job.local.binary_search(&rank).unwrap_or(0);
        let set = [
            ("PMI_RANK", rank.to_string()),
            ("PMI_SIZE", self.job.layout.size().to_string()),
            ("PMI_JOBID", self.job.name.clone()),
            ("PMI_SPAWNED", "0".to_owned()),
            ("MPI_LOCALRANKID", local.to_string()),
            ("MPI_LOCALNRANKS", self.job.local.len().to_string()),
        ];
        self.pipes.insert(rank, Pipe::new(ours));
        let prefixes = PREFIXES.iter().map(|&name| Unset::Prefix(name.into()));
        let names = NAMES.iter().map(|&name| Unset::Name(name.into()));
        let seat = Seat {
            unset: prefixes.chain(names).collect(),
            set: set.map(|(name, value)| (name.to_owned(), value)).into(),
            descriptor: Some("PMI_FD".into()),
        };
        Ok((seat, Some(theirs)))
    }

    fn interests(&self) -> Vec<Interest> {
        self.pipes
            .iter()
            .map(|(&rank, pipe)| pipe.interest(self.server.unread(rank) > 0))
            .collect()
    }

    fn proceed(&mut self, _now: Instant) -> Vec<AppEvent> {
        self.flush();
        let mut gone = Vec::new();
        for (&rank, pipe) in &self.pipes {
            loop {
                if self.server.unread(rank) > MOST_UNREAD {
                    break;
                }
                match pipe.read(&mut self.buffer) {
                    Read::Nothing => break,
                    Read::Bytes(length) => {
                        let more = self.server.received(rank, &self.buffer[..length]);
                        self.events.extend(more);
                    }
                    Read::End => {
                        gone.push(rank);
                        break;
                    }
                }
            }
        }
        for rank in gone {
            self.pipes.remove(&rank);
            if !self.server.is_finalized(rank) {
                self.events.push(AppEvent::Lost(rank));
            }
        }
        self.flush();
        std::mem::take(&mut self.events)
    }

    fn gathered(&mut self, blobs: Vec<Vec<u8>>) {
        if let Err(what) = self.server.gathered(&blobs) {
            let rank = self.job.local.first().copied().unwrap_or(0);
            self.events.push(AppEvent::Broken(rank, what));
        }
        self.flush();
    }

    fn released(&mut self) {
        self.server.release();
        self.flush();
    }

    fn ended(&mut self, rank: Rank) {
        self.pipes.remove(&rank);
    }
}
