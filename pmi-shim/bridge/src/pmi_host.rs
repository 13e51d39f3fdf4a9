//! The launcher over PMI-1 or PMI-2: the sockets of [`Client`].
//!
//! Exchanges go over the launcher. Between the helpers of several nodes there are
//! connections of their own beside it ([`Beside`]), for what PMI has no words for:
//! that a node has gone, and what a rank there has committed since the last exchange.

mod beside;

use std::os::fd::OwnedFd;
use std::time::Instant;

use pmi_shim::client::{Client, Wire};
use pmi_shim::core::{Abort, Host, HostEvent, Interest, Rank};

use crate::pipe::{Pipe, Read};
use beside::Beside;

/// A member's sockets to its launcher.
#[derive(Debug)]
pub struct PmiHost {
    client: Client,
    pipes: Vec<Option<Pipe>>,
    beside: Beside,
    events: Vec<HostEvent>,
    buffer: Vec<u8>,
}

impl PmiHost {
    /// For a member of a job of that many ranks.
    pub fn new(wire: Wire, size: u32) -> Self {
        PmiHost {
            client: Client::new(wire, size),
            pipes: Vec::new(),
            beside: Beside::default(),
            events: Vec::new(),
            buffer: vec![0; 16 << 10],
        }
    }

    fn flush(&mut self) {
        for (link, pipe) in self.pipes.iter().enumerate() {
            if let (Some(pipe), Some(output)) = (pipe, self.client.output(link)) {
                pipe.write(output);
            }
        }
    }

    /// What the launcher has said, as far as it is for the loop.
    fn hear(&mut self, events: Vec<HostEvent>, now: Instant) {
        for event in events {
            let event = match event {
                HostEvent::Ready(job) => {
                    self.beside.know(&job);
                    HostEvent::Ready(job)
                }
                HostEvent::Gathered(blobs) => match self.beside.unpack(blobs, now) {
                    Some(blobs) => HostEvent::Gathered(blobs),
                    None => {
                        let why = "another node's bridge has put what is no exchange";
                        HostEvent::Aborted(Abort::new(1, why))
                    }
                },
                other => other,
            };
            self.events.push(event);
        }
    }
}

impl Host for PmiHost {
    fn join(&mut self, rank: Rank, socket: Option<OwnedFd>, greeting: Option<&str>) {
        let Some(socket) = socket else { return };
        self.client.join(rank, greeting);
        self.pipes.push(Some(Pipe::new(socket)));
        self.flush();
    }

    fn interests(&self) -> Vec<Interest> {
        let pipes = self.pipes.iter().enumerate();
        pipes
            .filter_map(|(link, pipe)| Some((link, pipe.as_ref()?)))
            .map(|(link, pipe)| pipe.interest(self.client.has_output(link)))
            .chain(self.beside.interests())
            .collect()
    }

    fn deadline(&self) -> Option<Instant> {
        self.beside.deadline()
    }

    fn proceed(&mut self, now: Instant) -> Vec<HostEvent> {
        self.flush();
        for link in 0..self.pipes.len() {
            while let Some(pipe) = &self.pipes[link] {
                let more = match pipe.read(&mut self.buffer) {
                    Read::Nothing => break,
                    Read::Bytes(length) => self.client.received(link, &self.buffer[..length]),
                    Read::End => {
                        self.pipes[link] = None;
                        self.client.closed(link)
                    }
                };
                self.hear(more, now);
            }
        }
        for event in self.beside.proceed(now) {
            if let HostEvent::Aborted(abort) = &event {
                // Those of the launcher's nodes that have not heard it.
                self.client.abort(abort);
            }
            self.events.push(event);
        }
        self.flush();
        std::mem::take(&mut self.events)
    }

    fn gather(&mut self, blob: Vec<u8>) {
        let now = Instant::now();
        let blob = self.beside.pack(blob, now);
        let events = self.client.gather(blob);
        self.hear(events, now);
        self.flush();
    }

    fn ask_for(&mut self, rank: Rank) -> bool {
        self.beside.ask_for(rank)
    }

    fn show(&mut self, node: u32, rank: Rank, data: Option<Vec<u8>>) {
        self.beside.show(node, rank, data);
    }

    fn finalize(&mut self) {
        self.beside.finalize();
        let events = self.client.finalize();
        self.events.extend(events);
        self.flush();
    }

    fn abort(&mut self, abort: &Abort) {
        self.beside.abort(abort);
        self.client.abort(abort);
        self.flush();
    }
}
