//! The helpers of a job's nodes find one another, and exchange over TCP: where the
//! launcher offers no interface (`srun --mpi=none`), and where it offers PMIx, whose
//! server only tells where they are ([`Card`]).
//!
//! Owns: the tree of nodes, and what goes up and down in it. Never: trusts a
//! connection that is not sealed ([`link`]).
//!
//! # How they meet
//! Every node knows the names of all, and which it is. The nodes make a tree
//! ([`net::above`]). A node that has others below it listens on the first free one
//! of a few ports that follow from the step, and closes the listener when all have
//! come. A node below tries the ports of the one above until one proves to be it.
//! Nothing is written to any file system, and no port is told to anybody: a
//! parallel file system shows a new file seconds later on another node, or never.

mod card;
mod link;
mod lookup;
mod munged;
mod seal;
mod seek;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pmi_shim::core::{hosts_in, Abort, Host, HostEvent, Interest, Job, Layout};
use pmi_shim::net::{self, Message};
use pmi_shim::seat::{Step, GATHERING};

pub use card::Card;
use link::{Fault, Link, Own, Proof};
use munged::Munged;
use seek::Seeking;

/// How many strangers may be showing who they are at a time.
const MOST_STRANGERS: usize = 128;

/// Sooner than the loop's own patience, which knows less about the reason.
const MARGIN: Duration = Duration::from_secs(5);

/// 32 bytes that nobody can guess.
fn random() -> [u8; 32] {
    crate::sys::random()
}

/// This node's place among those of a step.
#[derive(Debug)]
pub struct Nodes {
    own: Option<Rc<Own>>,
    node: u32,
    hosts: Vec<String>,
    name: String,
    listener: Option<TcpListener>,
    strangers: Vec<Link>,
    up: Up,
    down: BTreeMap<u32, Link>,
    /// The ranks of this node and those below, as far as they are known.
    here: BTreeMap<u32, Vec<u32>>,
    told: bool,
    job: Option<Job>,
    exchange: u64,
    blobs: BTreeMap<u32, Vec<u8>>,
    /// Asked before the other nodes were there.
    early: Vec<u32>,
    until: Instant,
    events: Vec<HostEvent>,
    leaving: bool,
    over: bool,
    /// Nobody else tells the user why the job ends: ranks that wait for a seat are told
    /// with the answer.
    speaks: bool,
}

/// The connection to the node above.
#[derive(Debug)]
enum Up {
    /// This is the first node.
    None,
    /// Where it listens is not known yet.
    Unknown,
    Seeking(Seeking),
    Trying(Link, SocketAddr, Seeking),
    Reached(Link),
    Left,
}

impl Nodes {
    /// For a node of a step; `munge` is the open directory of munged's socket.
    ///
    /// # Errors
    /// A line on what is missing.
    pub fn new(
        step: &Step,
        size: u32,
        munge: Option<OwnedFd>,
        now: Instant,
    ) -> Result<Nodes, String> {
        let hosts = hosts_in(&step.nodes).map_err(|bad| format!("the step's nodes: {bad}"))?;
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let node = step.node;
        if node >= count {
            return Err(format!("node {node} is not one of the step's {count}"));
        }
        let ranks: Vec<u32> = step
            .ranks
            .split(',')
            .map(|rank| rank.parse().ok().filter(|&rank| rank < size))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("the ranks of this node, {:?}, are no list", step.ranks))?;
        let name = format!("slurm.{}", step.id);
        let mut nodes = Nodes::alone(name, node, ranks, hosts, now);
        if count > 1 {
            nodes.reach_out(step, munge, now)?;
        }
        nodes.pass_on();
        Ok(nodes)
    }

    /// For a node of a job whose layout is known, and whose launcher tells the
    /// nodes below where this one listens ([`Card`]). Where the job can do without the
    /// others, it is not `needed`, and nothing is said to the user if they do not meet.
    ///
    /// # Errors
    /// A line on what is missing.
    pub fn of_job(
        job: &Job,
        node: u32,
        needed: bool,
        now: Instant,
    ) -> Result<(Nodes, Option<Card>), String> {
        let count = job.layout.nodes();
        let below = random();
        let hosts = (0..count).map(|node| node.to_string()).collect();
        let mut nodes = Nodes::alone(job.name.clone(), node, job.local.clone(), hosts, now);
        nodes.own = Some(Rc::new(Own {
            step: job.name.clone(),
            node,
            uid: nix::unistd::geteuid().as_raw(),
            proof: Proof::Secret {
                below,
                above: OnceCell::new(),
            },
        }));
        nodes.speaks = needed;
        if node > 0 {
            nodes.up = Up::Unknown;
        }
        let mut card = None;
        if net::below(node, count).next().is_some() {
            let listener = listen(0).ok_or("no port is free to listen on")?;
            let port = listener.local_addr().map_err(|error| error.to_string())?;
            card = Some(Card::of_this_node(below, port.port()));
            nodes.listener = Some(listener);
        }
        nodes.pass_on();
        Ok((nodes, card))
    }

    /// Connected to no other node yet.
    fn alone(name: String, node: u32, ranks: Vec<u32>, hosts: Vec<String>, now: Instant) -> Nodes {
        Nodes {
            own: None,
            node,
            hosts,
            name,
            listener: None,
            strangers: Vec::new(),
            up: Up::None,
            down: BTreeMap::new(),
            here: BTreeMap::from([(node, ranks)]),
            told: false,
            job: None,
            exchange: 0,
            blobs: BTreeMap::new(),
            early: Vec::new(),
            until: now + GATHERING - MARGIN,
            events: Vec::new(),
            leaving: false,
            over: false,
            speaks: false,
        }
    }

    /// Now it is known where the node above listens.
    pub fn seek_above(&mut self, card: &Card, now: Instant) {
        if let (Some(own), Up::Unknown) = (&self.own, &self.up) {
            if let Proof::Secret { above, .. } = &own.proof {
                let _ = above.set(card.secret);
            }
            self.up = Up::Seeking(Seeking::at(card.addresses.clone(), now));
        }
    }

    fn reach_out(
        &mut self,
        step: &Step,
        munge: Option<OwnedFd>,
        now: Instant,
    ) -> Result<(), String> {
        let directory = munge.ok_or(
            "the nodes of a step without PMI know each other by munge, and its socket is not in /run/munge",
        )?;
        let uid = nix::unistd::geteuid().as_raw();
        self.own = Some(Rc::new(Own {
            step: step.id.clone(),
            node: self.node,
            uid,
            proof: Proof::Munge(Munged::new(directory)),
        }));
        if net::below(self.node, self.count()).next().is_some() {
            let listener = net::ports(&step.id, uid, self.node).find_map(listen);
            self.listener = Some(listener.ok_or_else(|| {
                let ports: Vec<String> = net::ports(&step.id, uid, self.node)
                    .map(|port| port.to_string())
                    .collect();
                format!("none of the ports {} is free", ports.join(", "))
            })?);
        }
        if let Some(above) = net::above(self.node) {
            let host = &self.hosts[above as usize];
            let addresses = lookup::addresses(host);
            if addresses.is_empty() {
                return Err(format!(
                    "neither /etc/hosts nor DNS has an address of node {host}"
                ));
            }
            let ports: Vec<u16> = net::ports(&step.id, uid, above).collect();
            let all = addresses
                .iter()
                .flat_map(|&address| ports.iter().map(move |&port| (address, port).into()));
            self.up = Up::Seeking(Seeking::at(all.collect(), now));
        }
        Ok(())
    }

    fn count(&self) -> u32 {
        self.hosts.len() as u32
    }

    /// The job ends, for a reason that the other nodes have to hear.
    fn end(&mut self, reason: String) {
        if self.over {
            return;
        }
        self.over = true;
        if self.speaks {
            eprintln!("singularity: {reason}");
        }
        let abort = Abort::new(1, reason);
        self.tell_all(&Message::Abort(abort.status, abort.reason.clone()), None);
        self.events.push(HostEvent::Aborted(abort));
    }

    fn tell_all(&mut self, message: &Message, but: Option<u32>) {
        let up = match &mut self.up {
            Up::Reached(link) => Some(link),
            _ => None,
        };
        for link in self.down.values_mut().chain(up) {
            if link.node != but {
                link.send(message);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        let Some(own) = self.own.clone() else { return };
        // Who connects without end must not keep this process from its work.
        for _ in 0..MOST_STRANGERS {
            let Some(listener) = &self.listener else {
                return;
            };
            if self.strangers.len() >= MOST_STRANGERS {
                // The oldest has had its time: who is one of us needs little of it.
                self.strangers.remove(0);
            }
            match listener.accept() {
                Ok((stream, _)) => self
                    .strangers
                    .extend(Link::new(stream, &own, None, now).ok()),
                Err(_) => return,
            }
        }
    }

    fn hear_strangers(&mut self, now: Instant) {
        let Some(own) = self.own.clone() else { return };
        let expected: Vec<u32> = net::below(self.node, self.count()).collect();
        let mut faults = Vec::new();
        for mut link in std::mem::take(&mut self.strangers) {
            match link.proceed(&own) {
                // Nothing is said to the first messages of somebody who is sealed now:
                // they are heard in the next round.
                Ok(messages) if link.is_sealed() => {
                    let node = link.node.unwrap_or_default();
                    // One that was slow to answer is tried anew: of two that have come
                    // the later is meant, until the first says who is behind it.
                    if expected.contains(&node) && !self.here.contains_key(&node) {
                        self.down.insert(node, link);
                        self.heard(node, messages);
                    }
                }
                Ok(_) if now < link.until => self.strangers.push(link),
                Ok(_) | Err(Fault::Theirs(_)) => tracing::warn!("turned a stranger away"),
                Err(Fault::Ours(reason)) => faults.push(reason),
            }
        }
        if expected.iter().all(|node| self.here.contains_key(node)) {
            self.listener = None;
            self.strangers.clear();
        }
        if let Some(reason) = faults.pop() {
            self.end(reason);
        }
    }

    fn heard(&mut self, from: u32, messages: Vec<Message>) {
        let upwards = net::above(self.node) == Some(from);
        for message in messages {
            let good = match message {
                Message::Here(nodes) if !upwards => {
                    self.here.extend(nodes);
                    true
                }
                Message::Layout(ranks) if upwards && self.job.is_none() => self.know(ranks),
                Message::Up(exchange, blobs) if !upwards => {
                    let due = exchange == self.exchange + 1;
                    self.blobs.extend(blobs);
                    due
                }
                Message::Down(exchange, blobs) if upwards => {
                    exchange == self.exchange && self.complete(blobs)
                }
                Message::Ask(asks, rank) => self.asked(asks, rank),
                Message::Found(to, rank, data) if to == self.node => {
                    self.events.push(HostEvent::Found(rank, data));
                    true
                }
                Message::Found(to, rank, data) => {
                    // Who asked may have left.
                    self.send_towards(to, &Message::Found(to, rank, data));
                    to < self.count()
                }
                Message::Leaving => {
                    self.link(from)
                        .into_iter()
                        .for_each(|link| link.leaving = true);
                    true
                }
                Message::Abort(status, reason) => {
                    if !self.over {
                        self.over = true;
                        self.tell_all(&Message::Abort(status, reason.clone()), Some(from));
                        self.events
                            .push(HostEvent::Aborted(Abort::new(status, reason)));
                    }
                    true
                }
                _ => false,
            };
            if !good {
                let host = self.host(from);
                self.end(format!("node {host}: its bridge sent what was not due"));
            }
        }
        self.pass_on();
    }

    fn host(&self, node: u32) -> String {
        let host = self.hosts.get(node as usize);
        host.cloned().unwrap_or_else(|| node.to_string())
    }

    fn link(&mut self, node: u32) -> Option<&mut Link> {
        match &mut self.up {
            Up::Reached(link) if link.node == Some(node) => Some(link),
            _ => self.down.get_mut(&node),
        }
    }

    /// The nodes of which something is awaited before it goes up.
    fn is_full<T>(&self, of: &BTreeMap<u32, T>) -> bool {
        of.len() as u32 == subtree(self.node, self.count())
    }

    /// Sends up, or from the top down, what is complete.
    fn pass_on(&mut self) {
        if self.over {
            return;
        }
        if !self.told && self.is_full(&self.here) {
            match &mut self.up {
                Up::None => {
                    self.told = true;
                    let ranks: Vec<Vec<u32>> = self.here.values().cloned().collect();
                    if !self.know(ranks) {
                        self.end("the nodes' lists of ranks do not agree".into());
                    }
                }
                Up::Reached(link) => {
                    self.told = true;
                    link.send(&Message::Here(self.here.clone().into_iter().collect()));
                }
                _ => {}
            }
        }
        // Our own ranks' blob is among them, so the exchange has begun here too.
        if !self.blobs.is_empty() && self.is_full(&self.blobs) {
            let blobs = std::mem::take(&mut self.blobs);
            self.exchange += 1;
            let exchange = self.exchange;
            match &mut self.up {
                Up::Reached(link) => {
                    link.send(&Message::Up(exchange, blobs.into_iter().collect()));
                }
                _ => drop(self.complete(blobs.into_values().collect())),
            }
        }
    }

    /// Now the ranks of all nodes are known.
    fn know(&mut self, ranks: Vec<Vec<u32>>) -> bool {
        let own = ranks.get(self.node as usize) == self.here.get(&self.node);
        let Ok(layout) = Layout::of_ranks(&ranks) else {
            return false;
        };
        if !own || layout.nodes() != self.count() {
            return false;
        }
        let job = Job {
            name: self.name.clone(),
            local: layout.ranks_on(self.node).to_vec(),
            layout,
            hosts: self.hosts.clone(),
        };
        let message = Message::Layout(ranks);
        self.down.values_mut().for_each(|link| link.send(&message));
        self.speaks = true;
        self.job = Some(job.clone());
        self.events.push(HostEvent::Ready(job));
        for rank in std::mem::take(&mut self.early) {
            self.ask_for(rank);
        }
        true
    }

    /// A node asks for a rank's; false where there can be no such question.
    fn asked(&mut self, asks: u32, rank: u32) -> bool {
        let node = self.job.as_ref().and_then(|job| job.layout.node_of(rank));
        let Some(node) = node.filter(|_| asks < self.count()) else {
            return false;
        };
        if node == self.node {
            self.events.push(HostEvent::Asked(asks, rank));
        } else if !self.send_towards(node, &Message::Ask(asks, rank)) {
            self.show(asks, rank, None);
        }
        true
    }

    /// Sends to the neighbour that is next on the way to a node; false if it has left.
    fn send_towards(&mut self, node: u32, message: &Message) -> bool {
        let next = net::towards(self.node, node);
        match next.and_then(|next| self.link(next)) {
            Some(link) => {
                link.send(message);
                true
            }
            None => false,
        }
    }

    fn complete(&mut self, blobs: Vec<Vec<u8>>) -> bool {
        if blobs.len() as u32 != self.count() {
            return false;
        }
        let message = Message::Down(self.exchange, blobs);
        self.down.values_mut().for_each(|link| link.send(&message));
        if let Message::Down(_, blobs) = message {
            self.events.push(HostEvent::Gathered(blobs));
        }
        true
    }

    fn hear_neighbours(&mut self) {
        let Some(own) = self.own.clone() else { return };
        let mut heard = Vec::new();
        let mut gone = Vec::new();
        let up = match &mut self.up {
            Up::Reached(link) => Some(link),
            _ => None,
        };
        for link in self.down.values_mut().chain(up) {
            let node = link.node.unwrap_or_default();
            match link.proceed(&own) {
                Ok(messages) => heard.push((node, messages)),
                Err(Fault::Theirs(why) | Fault::Ours(why)) => gone.push((node, link.leaving, why)),
            }
        }
        for (node, messages) in heard {
            if !messages.is_empty() {
                self.heard(node, messages);
            }
        }
        for (node, leaving, why) in gone {
            if net::above(self.node) == Some(node) {
                self.up = Up::Left;
            } else {
                self.down.remove(&node);
                if !self.here.contains_key(&node) {
                    // It has given this connection up for another.
                    tracing::debug!(node, why, "a connection is given up");
                    continue;
                }
            }
            if !leaving && !self.leaving {
                let host = self.host(node);
                self.end(format!(
                    "node {host}: contact with its bridge is lost: {why}"
                ));
            }
        }
    }

    fn seek(&mut self, now: Instant) {
        let Some(own) = self.own.clone() else { return };
        let above = net::above(self.node);
        // One step at a time, until something has to be waited for.
        loop {
            match std::mem::replace(&mut self.up, Up::None) {
                Up::Seeking(seeking) if seeking.is_late(now, own.proof.is_secret()) => {
                    self.up = Up::Seeking(seeking);
                    self.end(self.not_reached());
                }
                Up::Seeking(mut seeking) if seeking.is_due(now) => {
                    let address = seeking.next(now);
                    let tried = seek::connect(address).and_then(|stream| {
                        Link::new(stream, &own, above, now).map_err(|fault| format!("{fault:?}"))
                    });
                    match tried {
                        Ok(link) => self.up = Up::Trying(link, address, seeking),
                        Err(why) => {
                            seeking.answered(address, &why);
                            self.up = Up::Seeking(seeking);
                            continue;
                        }
                    }
                }
                Up::Trying(mut link, address, mut seeking) => match link.proceed(&own) {
                    Ok(messages) if link.is_sealed() => {
                        self.up = Up::Reached(link);
                        self.heard(above.unwrap_or_default(), messages);
                    }
                    Ok(_) if now < link.until => self.up = Up::Trying(link, address, seeking),
                    Ok(_) if !link.is_connected() => {
                        seeking.silent(address);
                        self.up = Up::Seeking(seeking);
                        continue;
                    }
                    Ok(_) => {
                        seeking.answered(address, "it did not show who it is");
                        self.up = Up::Seeking(seeking);
                        continue;
                    }
                    Err(Fault::Theirs(why)) => {
                        seeking.answered(address, &why);
                        self.up = Up::Seeking(seeking);
                        continue;
                    }
                    Err(Fault::Ours(why)) => {
                        self.up = Up::Seeking(seeking);
                        self.end(why);
                    }
                },
                other => self.up = other,
            }
            return;
        }
    }

    /// That the node above was not reached, why, and what would help.
    fn not_reached(&self) -> String {
        let above = net::above(self.node).map(|node| self.host(node));
        let last = match &self.up {
            Up::Seeking(seeking) | Up::Trying(_, _, seeking) => seeking.last.as_str(),
            _ => "nobody tells where it listens",
        };
        let remedy = match self.own.as_ref().is_some_and(|own| own.proof.is_secret()) {
            true => "the bridge needs TCP between the nodes, on any port",
            false => {
                "TCP ports 20000 to 31999 must be open between the nodes, or take srun --mpi=pmi2"
            }
        };
        format!(
            "the bridge of node {} was not reached: {last}; {remedy}",
            above.unwrap_or_default()
        )
    }

    fn give_up_late(&mut self, now: Instant) {
        if self.job.is_some() || self.over || now < self.until {
            return;
        }
        let reason = match &self.up {
            Up::Unknown => "the launcher did not tell where the bridge of another node is".into(),
            Up::Seeking(_) | Up::Trying(..) => self.not_reached(),
            _ => {
                let missing: Vec<String> = net::below(self.node, self.count())
                    .filter(|node| !self.down.contains_key(node))
                    .map(|node| self.host(node))
                    .collect();
                match missing.is_empty() {
                    true => "not all of the step's nodes have come to the bridge".into(),
                    false => format!(
                        "no bridge came from node {}: its ranks did not start, or TCP between the \
                         nodes is blocked",
                        missing.join(", ")
                    ),
                }
            }
        };
        self.end(reason);
    }
}

/// How many nodes there are from a node downwards, with itself.
fn subtree(node: u32, nodes: u32) -> u32 {
    1 + net::below(node, nodes)
        .map(|child| subtree(child, nodes))
        .sum::<u32>()
}

/// Listens on a port of all of this node's addresses, if it is free.
fn listen(port: u16) -> Option<TcpListener> {
    let any = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    ];
    let listener = TcpListener::bind(any.as_slice()).ok()?;
    listener.set_nonblocking(true).ok()?;
    Some(listener)
}

impl Host for Nodes {
    fn interests(&self) -> Vec<Interest> {
        let listener = self.listener.as_ref().map(|listener| Interest {
            descriptor: listener.as_raw_fd(),
            write: false,
        });
        let up = match &self.up {
            Up::Trying(link, ..) | Up::Reached(link) => Some(link),
            _ => None,
        };
        self.strangers
            .iter()
            .chain(self.down.values())
            .chain(up)
            .map(Link::interest)
            .chain(listener)
            .collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let seeking = match &self.up {
            Up::Seeking(seeking) => Some(seeking.when()),
            Up::Trying(link, ..) => Some(link.until),
            _ => None,
        };
        let strangers = self.strangers.iter().map(|link| link.until);
        let patience = self.job.is_none().then_some(self.until);
        match self.over {
            true => None,
            false => strangers.chain(seeking).chain(patience).min(),
        }
    }

    fn proceed(&mut self, now: Instant) -> Vec<HostEvent> {
        if !self.over {
            self.accept(now);
            self.hear_strangers(now);
            self.seek(now);
            self.give_up_late(now);
        }
        self.hear_neighbours();
        std::mem::take(&mut self.events)
    }

    fn gather(&mut self, blob: Vec<u8>) {
        self.blobs.insert(self.node, blob);
        self.pass_on();
    }

    fn ask_for(&mut self, rank: u32) -> bool {
        if self.job.is_none() {
            self.early.push(rank);
        } else if !self.asked(self.node, rank) {
            self.events.push(HostEvent::Found(rank, None));
        }
        true
    }

    fn show(&mut self, node: u32, rank: u32, data: Option<Vec<u8>>) {
        if node == self.node {
            self.events.push(HostEvent::Found(rank, data));
        } else {
            self.send_towards(node, &Message::Found(node, rank, data));
        }
    }

    fn finalize(&mut self) {
        self.leaving = true;
        self.tell_all(&Message::Leaving, None);
        self.events.push(HostEvent::Finalized);
    }

    fn abort(&mut self, abort: &Abort) {
        if !self.over {
            self.over = true;
            self.tell_all(&Message::Abort(abort.status, abort.reason.clone()), None);
        }
    }
}
