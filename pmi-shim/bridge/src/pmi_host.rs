//! The launcher over PMI-1 or PMI-2: the sockets of [`Client`].

use std::os::fd::OwnedFd;
use std::time::Instant;

use pmi_shim::client::{Client, Wire};
use pmi_shim::core::{Abort, Host, HostEvent, Interest, Rank};

use crate::pipe::{Pipe, Read};

/// A member's sockets to its launcher.
#[derive(Debug)]
pub struct PmiHost {
    client: Client,
    pipes: Vec<Option<Pipe>>,
    events: Vec<HostEvent>,
    buffer: Vec<u8>,
}

impl PmiHost {
    /// For a member of a job of that many ranks.
    pub fn new(wire: Wire, size: u32) -> Self {
        PmiHost {
            client: Client::new(wire, size),
            pipes: Vec::new(),
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
            .collect()
    }

    fn proceed(&mut self, _now: Instant) -> Vec<HostEvent> {
        self.flush();
        for link in 0..self.pipes.len() {
            while let Some(pipe) = &self.pipes[link] {
                match pipe.read(&mut self.buffer) {
                    Read::Nothing => break,
                    Read::Bytes(length) => {
                        let more = self.client.received(link, &self.buffer[..length]);
                        self.events.extend(more);
                    }
                    Read::End => {
                        self.pipes[link] = None;
                        self.events.extend(self.client.closed(link));
                    }
                }
            }
        }
        self.flush();
        std::mem::take(&mut self.events)
    }

    fn gather(&mut self, blob: Vec<u8>) {
        let events = self.client.gather(blob);
        self.events.extend(events);
        self.flush();
    }

    fn finalize(&mut self) {
        let events = self.client.finalize();
        self.events.extend(events);
        self.flush();
    }

    fn abort(&mut self, abort: &Abort) {
        self.client.abort(abort);
        self.flush();
    }
}
