//! All ranks of a node, whose launcher speaks PMIx, as one member of the job.
//!
//! A process of its own ([`delegate`]) is the launcher's client, and there for the
//! first rank of the node. It tells the layout, takes leave and aborts. Exchanges do
//! not go over the launcher at all: the helpers of the nodes have connections of their
//! own ([`Nodes`]), and the launcher's server only tells where they listen. So an
//! exchange costs the same under every launcher, and one of a single node nothing.

use super::delegate::{self, Order, Told};
use crate::nodes::{Card, Nodes};
use crate::pipe::{Pipe, Read};
use pmi_shim::core::{Abort, Host, HostEvent, Interest, Job, Rank};
use pmi_shim::net;
use pmi_shim::seat::GATHERING;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Sooner than the loop's own patience, which knows less about the reason.
const MARGIN: Duration = Duration::from_secs(5);

/// The adapter.
pub struct Together {
    /// How many ranks the node has, as the launcher's variables tell.
    expected: usize,
    came: Vec<Rank>,
    until: Instant,
    delegate: Option<Delegate>,
    job: Option<Job>,
    nodes: Option<Nodes>,
    /// The other nodes' helpers are there.
    met: bool,
    /// An exchange that waits for them.
    waiting: Option<Vec<u8>>,
    events: Vec<HostEvent>,
    over: bool,
    through: bool,
}

struct Delegate {
    pipe: Pipe,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl Together {
    /// For a node with so many ranks.
    pub fn new(expected: u32, now: Instant) -> Together {
        Together {
            expected: expected as usize,
            came: Vec::new(),
            until: now + GATHERING - MARGIN,
            delegate: None,
            job: None,
            nodes: None,
            met: false,
            waiting: None,
            events: Vec::new(),
            over: false,
            through: false,
        }
    }

    fn order(&mut self, order: &Order) {
        if let Some(delegate) = &mut self.delegate {
            delegate.output.extend(order.line().bytes());
            delegate.output.push(b'\n');
            delegate.pipe.write(&mut delegate.output);
        }
    }

    fn end(&mut self, abort: Abort) {
        if !self.over {
            self.over = true;
            if let Some(nodes) = &mut self.nodes {
                nodes.abort(&abort);
            }
            self.events.push(HostEvent::Aborted(abort));
        }
    }

    fn hear_the_delegate(&mut self, now: Instant) {
        let Some(delegate) = &mut self.delegate else {
            return;
        };
        delegate.pipe.write(&mut delegate.output);
        let mut piece = [0; 4096];
        let mut gone = false;
        loop {
            match delegate.pipe.read(&mut piece) {
                Read::Nothing => break,
                Read::Bytes(length) => delegate.input.extend_from_slice(&piece[..length]),
                Read::End => {
                    gone = true;
                    break;
                }
            }
        }
        let whole = delegate.input.iter().rposition(|&byte| byte == b'\n');
        let rest = delegate.input.split_off(whole.map_or(0, |end| end + 1));
        let lines = std::mem::replace(&mut delegate.input, rest);
        for line in String::from_utf8_lossy(&lines).lines() {
            match Told::of(line) {
                Some(told) => self.told(told, now),
                None => self.end(Abort::new(
                    1,
                    "the bridge's own process does not make sense",
                )),
            }
        }
        if gone {
            self.delegate = None;
            if !self.through {
                let reason = "the process that talks to the launcher's PMIx server has ended";
                self.end(Abort::new(1, reason));
            }
        }
    }

    fn told(&mut self, told: Told, now: Instant) {
        match told {
            Told::Job(job) if self.job.is_none() => {
                if let Err(reason) = self.know(&job, now) {
                    return self.end(Abort::new(1, reason));
                }
                self.job = Some(job.clone());
                self.events.push(HostEvent::Ready(job));
            }
            Told::Job(_) => {}
            Told::Card(text) => match (Card::of(&text), &mut self.nodes) {
                (Some(card), Some(nodes)) => nodes.seek_above(&card, now),
                _ => self.end(Abort::new(1, "another node's bridge does not make sense")),
            },
            Told::Finalized => {
                self.through = true;
                self.events.push(HostEvent::Finalized);
            }
            Told::Aborted(abort) => self.end(abort),
        }
    }

    fn know(&mut self, job: &Job, now: Instant) -> Result<(), String> {
        let first = job.local.first().copied().unwrap_or_default();
        let node = job.layout.node_of(first).unwrap_or_default();
        if self.came != job.local {
            return Err(
                "the launcher's PMIx server tells other ranks of this node than its variables"
                    .into(),
            );
        }
        if job.layout.nodes() < 2 {
            self.met = true;
            return Ok(());
        }
        let (nodes, card) = Nodes::of_job(job, node, true, now)?;
        self.nodes = Some(nodes);
        if let Some(card) = card {
            self.order(&Order::Put(card.text()));
        }
        let above = net::above(node).and_then(|above| job.layout.ranks_on(above).first().copied());
        if let Some(above) = above {
            self.order(&Order::Get(above));
        }
        Ok(())
    }

    fn hear_the_nodes(&mut self, now: Instant) {
        let Some(nodes) = &mut self.nodes else { return };
        let mut said = nodes.proceed(now);
        if said
            .iter()
            .any(|event| matches!(event, HostEvent::Ready(_)))
        {
            self.met = true;
            tracing::debug!("the helpers of all nodes have met");
            if let Some(blob) = self.waiting.take() {
                nodes.gather(blob);
                said.extend(nodes.proceed(now));
            }
        }
        for event in said {
            match event {
                HostEvent::Gathered(_) | HostEvent::Asked(..) | HostEvent::Found(..) => {
                    self.events.push(event);
                }
                HostEvent::Aborted(abort) => {
                    // The launcher ends the other nodes' ranks, if not all have heard.
                    self.order(&Order::Abort(abort.clone()));
                    self.end(abort);
                }
                // The layout was known before; leave is taken of the launcher.
                HostEvent::Ready(_) | HostEvent::Finalized => {}
            }
        }
    }
}

impl Host for Together {
    fn join(&mut self, rank: Rank, _socket: Option<OwnedFd>, _greeting: Option<&str>) {
        self.came.push(rank);
        if self.came.len() == self.expected {
            self.came.sort_unstable();
            let first = self.came.first().copied().unwrap_or_default();
            match delegate::start(first) {
                Ok(stream) => {
                    self.delegate = Some(Delegate {
                        pipe: Pipe::new(stream.into()),
                        output: Vec::new(),
                        input: Vec::new(),
                    });
                }
                Err(reason) => self.end(Abort::new(1, reason)),
            }
        }
    }

    fn interests(&self) -> Vec<Interest> {
        let delegate = self.delegate.iter();
        let nodes = self.nodes.iter();
        delegate
            .map(|delegate| delegate.pipe.interest(!delegate.output.is_empty()))
            .chain(nodes.flat_map(|nodes| nodes.interests()))
            .collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let own = (self.job.is_none() && !self.over).then_some(self.until);
        let nodes = self.nodes.as_ref().and_then(|nodes| nodes.deadline());
        own.into_iter().chain(nodes).min()
    }

    fn proceed(&mut self, now: Instant) -> Vec<HostEvent> {
        self.hear_the_delegate(now);
        self.hear_the_nodes(now);
        if self.delegate.is_none() && self.job.is_none() && now >= self.until {
            let (came, expected) = (self.came.len(), self.expected);
            let seconds = (GATHERING - MARGIN).as_secs();
            self.end(Abort::new(
                1,
                format!(
                    "only {came} of the {expected} ranks on this node came to the PMI bridge \
                     within {seconds} s"
                ),
            ));
        }
        std::mem::take(&mut self.events)
    }

    fn gather(&mut self, blob: Vec<u8>) {
        match &mut self.nodes {
            None => self.events.push(HostEvent::Gathered(vec![blob])),
            Some(nodes) if self.met => nodes.gather(blob),
            Some(_) => self.waiting = Some(blob),
        }
    }

    fn ask_for(&mut self, rank: Rank) -> bool {
        match &mut self.nodes {
            Some(nodes) => nodes.ask_for(rank),
            // All ranks are here.
            None => {
                self.events.push(HostEvent::Found(rank, None));
                true
            }
        }
    }

    fn show(&mut self, node: u32, rank: Rank, data: Option<Vec<u8>>) {
        if let Some(nodes) = &mut self.nodes {
            nodes.show(node, rank, data);
        }
    }

    fn finalize(&mut self) {
        if let Some(nodes) = &mut self.nodes {
            nodes.finalize();
        }
        let others = self.came.get(1..).unwrap_or_default().to_vec();
        self.order(&Order::Finalize(others));
    }

    fn abort(&mut self, abort: &Abort) {
        if let Some(nodes) = &mut self.nodes {
            nodes.abort(abort);
        }
        self.order(&Order::Abort(abort.clone()));
        self.over = true;
    }
}
