//! The client's side of PMI-1 and PMI-2: a member of a job towards the launcher.
//!
//! Owns: the sockets' dialogues, one for each rank here, and the exchange of blobs
//! over the launcher's key-value space. Never: touches a descriptor: bytes go in,
//! bytes and events come out.
//!
//! # An exchange
//! The blob is written in letters and cut into pieces that every server takes.
//! Each piece is put under a name of the exchange's number, the member's and its
//! own; then every socket enters the barrier, as the server counts sockets; then
//! the pieces of the other members are fetched, the first telling how many there
//! are. Puts and gets are spread over all sockets, one command at a time on each,
//! as Slurm's server needs it.

use crate::core::{Abort, HostEvent, Job, Layout, Rank};
use crate::wire1::{self, Command};
use crate::wire2::{self, Message};
use std::collections::VecDeque;

/// Which wire is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// PMI-1.
    One,
    /// PMI-2, after its beginning on the wire of PMI-1.
    Two,
}

/// The most pieces of a blob.
const MOST_PIECES: usize = 1 << 20;

/// A member's sockets.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    size: u32,
    links: Vec<Link>,
    /// What the server calls the job, or its key-value space.
    name: String,
    /// The longest value.
    longest: usize,
    job: Option<Job>,
    /// Which exchange this is.
    exchange: u64,
    stage: Stage,
    over: bool,
}

#[derive(Debug)]
struct Link {
    rank: Rank,
    bytes: Inbox,
    out: Vec<u8>,
    /// What the answer that comes next is to.
    asked: Option<Asked>,
    ready: bool,
    /// It knows the way: the first of the links asks about the job.
    first: bool,
}

#[derive(Debug)]
enum Inbox {
    Lines(wire1::Lines),
    Messages(wire2::Messages),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// So many more lines will come.
    Initack(u32),
    Init,
    FullInit,
    Maxes,
    Name,
    Mapping,
    Put,
    Barrier,
    Get(u32, usize),
    Finalize,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Putting {
        own: Vec<u8>,
        pieces: VecDeque<(usize, String)>,
    },
    Fencing {
        own: Vec<u8>,
        out: usize,
    },
    Getting {
        own: Vec<u8>,
        wanted: VecDeque<(u32, usize)>,
        pieces: Vec<Vec<Option<String>>>,
    },
    Leaving {
        left: usize,
    },
}

impl Client {
    /// For a member of a job of that many ranks.
    pub fn new(wire: Wire, size: u32) -> Self {
        Client {
            wire,
            size,
            links: Vec::new(),
            name: String::new(),
            longest: wire2::LONGEST_VALUE,
            job: None,
            exchange: 0,
            stage: Stage::Idle,
            over: false,
        }
    }

    /// Takes the socket of a rank, which begins its dialogue, and tells its number
    /// here. `greeting` is the `PMI_ID` of a connection that was made to a port.
    pub fn join(&mut self, rank: Rank, greeting: Option<&str>) -> usize {
        let (out, asked) = match greeting {
            Some(id) => (Command::Initack(id).line(), Asked::Initack(4)),
            None => (self.init(), Asked::Init),
        };
        self.links.push(Link {
            rank,
            bytes: Inbox::Lines(wire1::Lines::default()),
            out,
            asked: Some(asked),
            ready: false,
            first: self.links.is_empty(),
        });
        self.links.len() - 1
    }

    fn init(&self) -> Vec<u8> {
        let version = match self.wire {
            Wire::One => 1,
            Wire::Two => 2,
        };
        Command::Init { version }.line()
    }

    /// What is to be written to a socket; whoever writes takes off what was
    /// written. Each command is whole.
    pub fn output(&mut self, link: usize) -> Option<&mut Vec<u8>> {
        self.links.get_mut(link).map(|link| &mut link.out)
    }

    /// Whether there is something to be written to a socket.
    pub fn has_output(&self, link: usize) -> bool {
        self.links
            .get(link)
            .is_some_and(|link| !link.out.is_empty())
    }

    /// Takes what has come on a socket.
    pub fn received(&mut self, link: usize, bytes: &[u8]) -> Vec<HostEvent> {
        let mut events = Vec::new();
        match self.links.get_mut(link).map(|link| &mut link.bytes) {
            Some(Inbox::Lines(lines)) => lines.feed(bytes),
            Some(Inbox::Messages(messages)) => messages.feed(bytes),
            None => return events,
        }
        while let Some(found) = self.links.get_mut(link) {
            let answer = match &mut found.bytes {
                Inbox::Lines(lines) => match lines.next_command() {
                    Ok(None) => break,
                    Ok(Some(line)) => Ok(Answer::of_line(&line)),
                    Err(wire1::TooLong) => Err("a line without an end".to_owned()),
                },
                Inbox::Messages(messages) => match messages.next_message() {
                    Ok(None) => break,
                    Ok(Some(message)) => Ok(Answer::of_message(&message)),
                    Err(wire2::NoMessage) => Err("something that is no PMI-2 message".to_owned()),
                },
            };
            let done = answer.and_then(|answer| self.answered(link, &answer, &mut events));
            if let Err(what) = done {
                self.over = true;
                let reason = format!("the launcher's PMI server sent {what}");
                events.push(HostEvent::Aborted(Abort::new(1, reason)));
                break;
            }
        }
        self.pump(&mut events);
        events
    }

    /// The other side of a socket has closed it.
    pub fn closed(&mut self, link: usize) -> Vec<HostEvent> {
        let leaving = match (&mut self.stage, self.links.get_mut(link)) {
            (Stage::Leaving { left }, Some(found)) => {
                // Slurm closes after its last word, hydra may before it.
                if found.asked.take().is_some() {
                    *left -= 1;
                }
                Some(*left)
            }
            _ => None,
        };
        match leaving {
            Some(0) if !self.over => {
                self.over = true;
                vec![HostEvent::Finalized]
            }
            Some(_) => Vec::new(),
            None if self.over => Vec::new(),
            None => {
                self.over = true;
                vec![HostEvent::Aborted(Abort::new(
                    1,
                    "the launcher has closed its PMI socket",
                ))]
            }
        }
    }

    /// Begins an exchange. Every rank here must have joined.
    pub fn gather(&mut self, own: Vec<u8>) -> Vec<HostEvent> {
        self.exchange += 1;
        let pieces = self.cut(&own).into_iter().enumerate().collect();
        self.stage = Stage::Putting { own, pieces };
        let mut events = Vec::new();
        self.pump(&mut events);
        events
    }

    /// Says farewell on all sockets.
    pub fn finalize(&mut self) -> Vec<HostEvent> {
        let line = match self.wire {
            Wire::One => Command::Finalize.line(),
            Wire::Two => Message::new("finalize").bytes(),
        };
        for link in &mut self.links {
            link.out.extend_from_slice(&line);
            link.asked = Some(Asked::Finalize);
        }
        self.stage = Stage::Leaving {
            left: self.links.len(),
        };
        if self.links.is_empty() {
            self.over = true;
            return vec![HostEvent::Finalized];
        }
        Vec::new()
    }

    /// Asks the launcher to end the job.
    pub fn abort(&mut self, abort: &Abort) {
        self.over = true;
        let line = match self.wire {
            Wire::One => Command::Abort(abort.status).line(),
            Wire::Two => Message::new("abort")
                .with("isworld", "TRUE")
                .with("msg", abort.reason.replace(';', ","))
                .bytes(),
        };
        // One that is in the middle of nothing; they are all the same to the server.
        let idle = self.links.iter_mut().find(|link| link.out.is_empty());
        if let Some(link) = idle {
            link.out = line;
        }
    }

    /// The blob as values, of which the first tells how many there are.
    fn cut(&self, blob: &[u8]) -> Vec<String> {
        let letters = letters_of(blob);
        // Room for `COUNT_` in the first.
        let room = self.longest - 10;
        let count = letters.len().div_ceil(room).max(1);
        (0..count)
            .map(|piece| {
                let part = &letters[piece * room..letters.len().min((piece + 1) * room)];
                match piece {
                    0 => format!("{count}_{part}"),
                    _ => part.to_owned(),
                }
            })
            .collect()
    }

    fn answered(
        &mut self,
        number: usize,
        answer: &Answer,
        events: &mut Vec<HostEvent>,
    ) -> Result<(), String> {
        let link = &mut self.links[number];
        let Some(asked) = link.asked.take() else {
            return Err(format!("“{}” to nobody’s question", answer.name));
        };
        if !answer.is_to(asked) {
            return Err(format!("“{}” where another answer was due", answer.name));
        }
        let rank = link.rank;
        match asked {
            Asked::Initack(more) => {
                if more > 1 {
                    self.links[number].asked = Some(Asked::Initack(more - 1));
                } else {
                    let init = self.init();
                    self.ask(number, init, Asked::Init);
                }
            }
            Asked::Init => {
                if !answer.good {
                    return Err("that it does not speak our version of PMI".into());
                }
                match self.wire {
                    Wire::One if link.first => {
                        self.ask(number, Command::GetMaxes.line(), Asked::Maxes);
                    }
                    Wire::One => link.ready = true,
                    Wire::Two => {
                        link.bytes = Inbox::Messages(wire2::Messages::default());
                        let message = Message::new("fullinit")
                            .with("pmijobid", "0")
                            .with("pmirank", rank.to_string())
                            .with("threaded", "FALSE");
                        self.ask(number, message.bytes(), Asked::FullInit);
                    }
                }
            }
            Asked::FullInit if link.first => {
                let question = Message::new("job-getid").bytes();
                self.ask(number, question, Asked::Name);
            }
            Asked::FullInit => link.ready = true,
            Asked::Maxes => {
                if let Some(longest) = answer.number("vallen_max") {
                    self.longest = usize::try_from(longest)
                        .unwrap_or(0)
                        .clamp(64, wire1::LONGEST_SENT + 1)
                        - 1;
                }
                self.ask(number, Command::GetMyKvsname.line(), Asked::Name);
            }
            Asked::Name => {
                self.name = answer
                    .text("kvsname")
                    .or(answer.text("jobid"))
                    .filter(|name| !name.is_empty() && name.len() < 200)
                    .filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))
                    .ok_or("no name of its job")?
                    .to_owned();
                let overhead = "cmd=put kvsname= key= value=\n".len() + 40;
                self.longest = self
                    .longest
                    .min(wire1::LONGEST_SENT - overhead - self.name.len());
                let question = match self.wire {
                    Wire::One => Command::Get {
                        space: &self.name,
                        key: "PMI_process_mapping",
                    }
                    .line(),
                    Wire::Two => Message::new("info-getjobattr")
                        .with("key", "PMI_process_mapping")
                        .bytes(),
                };
                self.ask(number, question, Asked::Mapping);
            }
            Asked::Mapping => {
                self.links[number].ready = true;
                let job = self.job_of(rank, answer)?;
                self.job = Some(job.clone());
                events.push(HostEvent::Ready(job));
            }
            Asked::Put if answer.good => {}
            Asked::Put => return Err("that it does not take what is put".into()),
            Asked::Barrier => {
                if let Stage::Fencing { out, .. } = &mut self.stage {
                    *out += 1;
                }
            }
            Asked::Get(node, piece) => self.got(node, piece, answer)?,
            Asked::Finalize => {
                if let Stage::Leaving { left } = &mut self.stage {
                    *left -= 1;
                    if *left == 0 {
                        self.over = true;
                        events.push(HostEvent::Finalized);
                    }
                }
            }
        }
        Ok(())
    }

    fn job_of(&self, rank: Rank, answer: &Answer) -> Result<Job, String> {
        let layout = match answer.text("value").filter(|_| answer.good) {
            Some(mapping) => Layout::from_process_mapping(mapping, self.size)
                .map_err(|bad| format!("a PMI_process_mapping that {bad}"))?,
            None if self.size == 1 => Layout::on_one_node(1).map_err(|bad| bad.to_string())?,
            None => return Err("no PMI_process_mapping: where ranks are is not known".into()),
        };
        let node = layout.node_of(rank).ok_or("a job without this rank")?;
        Ok(Job {
            name: self.name.clone(),
            local: layout.ranks_on(node).to_vec(),
            layout,
            hosts: Vec::new(),
        })
    }

    fn got(&mut self, node: u32, piece: usize, answer: &Answer) -> Result<(), String> {
        let value = answer
            .text("value")
            .filter(|_| answer.good)
            .ok_or_else(|| format!("no value of what node {node} had put"))?
            .to_owned();
        let Stage::Getting { wanted, pieces, .. } = &mut self.stage else {
            return Ok(());
        };
        let bad = || format!("a damaged value of node {node}");
        let node_pieces = pieces.get_mut(node as usize).ok_or_else(bad)?;
        if piece == 0 {
            let (count, first) = value.split_once('_').ok_or_else(bad)?;
            let count: usize = count.parse().map_err(|_| bad())?;
            if count == 0 || count > MOST_PIECES {
                return Err(bad());
            }
            *node_pieces = vec![None; count];
            node_pieces[0] = Some(first.to_owned());
            wanted.extend((1..count).map(|piece| (node, piece)));
        } else {
            *node_pieces.get_mut(piece).ok_or_else(bad)? = Some(value);
        }
        Ok(())
    }

    fn ask(&mut self, number: usize, bytes: Vec<u8>, asked: Asked) {
        if let Some(link) = self.links.get_mut(number) {
            link.out.extend(bytes);
            link.asked = Some(asked);
        }
    }

    /// Gives the sockets that wait for nothing what is to be done next.
    fn pump(&mut self, events: &mut Vec<HostEvent>) {
        if self.over {
            return;
        }
        loop {
            let Some(job) = &self.job else { return };
            let (nodes, node) = (job.layout.nodes(), self.node());
            let all_idle = self.links.len() == job.local.len()
                && self
                    .links
                    .iter()
                    .all(|link| link.ready && link.asked.is_none());
            let idle: Vec<usize> = (0..self.links.len())
                .filter(|&link| self.links[link].ready && self.links[link].asked.is_none())
                .collect();
            match &mut self.stage {
                Stage::Idle | Stage::Leaving { .. } => return,
                Stage::Putting { own, pieces } => {
                    if pieces.is_empty() {
                        if !all_idle {
                            return;
                        }
                        let own = std::mem::take(own);
                        self.stage = Stage::Fencing { own, out: 0 };
                        let line = match self.wire {
                            Wire::One => Command::BarrierIn.line(),
                            Wire::Two => Message::new("kvs-fence").bytes(),
                        };
                        for link in idle {
                            self.ask(link, line.clone(), Asked::Barrier);
                        }
                        return;
                    }
                    let mut work = Vec::new();
                    for link in idle {
                        let Some((piece, value)) = pieces.pop_front() else {
                            break;
                        };
                        work.push((link, piece, value));
                    }
                    if work.is_empty() {
                        return;
                    }
                    for (link, piece, value) in work {
                        let bytes = self.put(&self.key(node, piece), &value);
                        self.ask(link, bytes, Asked::Put);
                    }
                }
                Stage::Fencing { own, out } => {
                    if *out < self.links.len() {
                        return;
                    }
                    let own = std::mem::take(own);
                    let wanted = (0..nodes)
                        .filter(|&other| other != node)
                        .map(|node| (node, 0))
                        .collect();
                    self.stage = Stage::Getting {
                        own,
                        wanted,
                        pieces: vec![Vec::new(); nodes as usize],
                    };
                }
                Stage::Getting {
                    own,
                    wanted,
                    pieces,
                } => {
                    if wanted.is_empty() {
                        if !all_idle {
                            return;
                        }
                        let own = std::mem::take(own);
                        let pieces = std::mem::take(pieces);
                        self.stage = Stage::Idle;
                        events.push(match blobs(node, own, pieces) {
                            Some(blobs) => HostEvent::Gathered(blobs),
                            None => {
                                self.over = true;
                                let why = "what another node has put came back damaged";
                                HostEvent::Aborted(Abort::new(1, why))
                            }
                        });
                        return;
                    }
                    let mut work = Vec::new();
                    for link in idle {
                        let Some(next) = wanted.pop_front() else {
                            break;
                        };
                        work.push((link, next));
                    }
                    if work.is_empty() {
                        return;
                    }
                    for (link, (node, piece)) in work {
                        let bytes = self.get(&self.key(node, piece));
                        self.ask(link, bytes, Asked::Get(node, piece));
                    }
                }
            }
        }
    }

    /// The number of this member, which is its node's.
    fn node(&self) -> u32 {
        let rank = self.links.first().map_or(0, |link| link.rank);
        self.job
            .as_ref()
            .and_then(|job| job.layout.node_of(rank))
            .unwrap_or(0)
    }

    fn key(&self, node: u32, piece: usize) -> String {
        format!("sy-{}-{node}-{piece}", self.exchange)
    }

    fn put(&self, key: &str, value: &str) -> Vec<u8> {
        match self.wire {
            Wire::One => Command::Put {
                space: &self.name,
                key,
                value,
            }
            .line(),
            Wire::Two => Message::new("kvs-put")
                .with("key", key)
                .with("value", value)
                .bytes(),
        }
    }

    fn get(&self, key: &str) -> Vec<u8> {
        match self.wire {
            Wire::One => Command::Get {
                space: &self.name,
                key,
            }
            .line(),
            Wire::Two => Message::new("kvs-get")
                .with("jobid", &self.name)
                .with("srcid", "-1")
                .with("key", key)
                .bytes(),
        }
    }
}

/// The blobs of all members, from the letters of the others.
fn blobs(node: u32, own: Vec<u8>, pieces: Vec<Vec<Option<String>>>) -> Option<Vec<Vec<u8>>> {
    let mut own = Some(own);
    pieces
        .into_iter()
        .enumerate()
        .map(|(other, pieces)| {
            if other == node as usize {
                return own.take();
            }
            let letters: String = pieces.into_iter().collect::<Option<Vec<_>>>()?.concat();
            bytes_of(&letters)
        })
        .collect()
}

/// One answer, of either wire.
struct Answer {
    name: String,
    good: bool,
    fields: AnswerFields,
}

enum AnswerFields {
    One(wire1::Fields),
    Two(wire2::Fields),
}

impl Answer {
    fn of_line(line: &[u8]) -> Self {
        let fields = wire1::Fields::of(line);
        let good = fields.number("rc").is_none_or(|rc| rc == 0);
        Answer {
            name: wire1::printable(fields.get("cmd").unwrap_or_default()),
            good,
            fields: AnswerFields::One(fields),
        }
    }

    fn of_message(message: &[u8]) -> Self {
        let fields = wire2::Fields::of(message);
        let good = fields.number("rc").is_none_or(|rc| rc == 0)
            && fields.get("found").is_none_or(|_| fields.is_true("found"));
        Answer {
            name: wire1::printable(fields.get("cmd").unwrap_or_default()),
            good,
            fields: AnswerFields::Two(fields),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match &self.fields {
            AnswerFields::One(fields) => fields.text(name),
            AnswerFields::Two(fields) => fields.text(name),
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.trim().parse().ok()
    }

    fn is_to(&self, asked: Asked) -> bool {
        let names: &[&str] = match asked {
            Asked::Initack(_) => &["initack", "set"],
            Asked::Init => &["response_to_init"],
            Asked::FullInit => &["fullinit-response"],
            Asked::Maxes => &["maxes"],
            Asked::Name => &["my_kvsname", "job-getid-response"],
            Asked::Mapping => &["get_result", "info-getjobattr-response"],
            Asked::Put => &["put_result", "kvs-put-response"],
            Asked::Barrier => &["barrier_out", "kvs-fence-response"],
            Asked::Get(..) => &["get_result", "kvs-get-response"],
            Asked::Finalize => &["finalize_ack", "finalize-response"],
        };
        names.contains(&self.name.as_str())
    }
}

/// The 64 letters that no wire gives a meaning to (RFC 4648, section 5).
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn letters_of(bytes: &[u8]) -> String {
    let mut letters = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for letter in 0..=three.len() {
            let six = bits >> (18 - 6 * letter) & 63;
            letters.push(char::from(LETTERS[six as usize]));
        }
    }
    letters
}

fn bytes_of(letters: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(letters.len() / 4 * 3 + 2);
    for four in letters.as_bytes().chunks(4) {
        let mut bits = 0;
        for &letter in four {
            let six = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - four.len());
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(three.get(..four.len().checked_sub(1).filter(|&n| n > 0)?)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::AppEvent;
    use crate::server::Server;

    #[test]
    fn letters_stand_for_any_bytes() {
        for length in 0..70 {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 37 + length) as u8).collect();
            assert_eq!(bytes_of(&letters_of(&bytes)).as_ref(), Some(&bytes));
        }
        for bad in ["A", "ABCDE", "AB=", "A;CD"] {
            assert_eq!(bytes_of(bad), None, "{bad}");
        }
    }

    /// A launcher of our own making, which serves all ranks as one member, and one
    /// client for each node.
    struct World {
        server: Server,
        clients: Vec<Client>,
        /// The client and the link of each rank.
        at: Vec<(usize, usize)>,
        events: Vec<Vec<HostEvent>>,
    }

    impl World {
        fn new(wire: Wire, nodes: &[u32], greeting: bool) -> World {
            let layout = Layout::of_nodes(nodes).unwrap();
            let size = layout.size();
            let server = Server::new(Job {
                name: "kvs_1_0".into(),
                local: (0..size).collect(),
                hosts: Vec::new(),
                layout: layout.clone(),
            });
            assert!(!greeting);
            let mut clients: Vec<Client> = (0..layout.nodes())
                .map(|_| Client::new(wire, size))
                .collect();
            let at = (0..size)
                .map(|rank| {
                    let node = layout.node_of(rank).unwrap() as usize;
                    (node, clients[node].join(rank, None))
                })
                .collect();
            let events = vec![Vec::new(); clients.len()];
            World {
                server,
                clients,
                at,
                events,
            }
        }

        /// Carries bytes until nobody has any, in pieces of that many.
        fn carry(&mut self, piece: usize) {
            loop {
                let mut moved = false;
                for rank in 0..self.at.len() {
                    let (node, link) = self.at[rank];
                    let sent = std::mem::take(self.clients[node].output(link).unwrap());
                    moved |= !sent.is_empty();
                    for piece in sent.chunks(piece) {
                        for event in self.server.received(rank as u32, piece) {
                            match event {
                                AppEvent::Gather(blob) => self.server.gathered(&[blob]).unwrap(),
                                AppEvent::Finalized(_) => self.server.release(),
                                AppEvent::Broken(_, what) => panic!("{what}"),
                                _ => {}
                            }
                        }
                    }
                    let back = std::mem::take(self.server.output(rank as u32).unwrap());
                    moved |= !back.is_empty();
                    for piece in back.chunks(piece) {
                        let events = self.clients[node].received(link, piece);
                        self.events[node].extend(events);
                    }
                }
                if !moved {
                    return;
                }
            }
        }
    }

    #[test]
    fn members_exchange_blobs_of_any_size_in_any_layout_over_either_wire() {
        for wire in [Wire::One, Wire::Two] {
            for nodes in [&[0][..], &[0, 0], &[0, 1], &[0, 1, 0, 1, 2], &[0, 0, 0, 1]] {
                for piece in [1, 7, 4096] {
                    let mut world = World::new(wire, nodes, false);
                    world.carry(piece);
                    let members = world.clients.len();
                    for events in &mut world.events {
                        let [HostEvent::Ready(job)] = &events[..] else {
                            panic!("{events:?}")
                        };
                        assert_eq!(job.layout, Layout::of_nodes(nodes).unwrap());
                        events.clear();
                    }
                    for length in [0, 1, 700, 5000] {
                        let blobs: Vec<Vec<u8>> = (0..members)
                            .map(|member| vec![member as u8 + 1; length * (member + 1)])
                            .collect();
                        for (client, blob) in world.clients.iter_mut().zip(&blobs) {
                            assert_eq!(client.gather(blob.clone()), []);
                        }
                        world.carry(piece);
                        for events in &mut world.events {
                            assert_eq!(events[..], [HostEvent::Gathered(blobs.clone())]);
                            events.clear();
                        }
                    }
                    for client in &mut world.clients {
                        assert_eq!(client.finalize(), []);
                    }
                    world.carry(piece);
                    for events in &world.events {
                        assert_eq!(events[..], [HostEvent::Finalized]);
                    }
                }
            }
        }
    }

    #[test]
    fn no_command_is_longer_than_slurms_server_reads_at_once() {
        let mut world = World::new(Wire::One, &[0, 1], false);
        world.carry(4096);
        world.clients[0].gather(vec![7; 10_000]);
        loop {
            let sent = std::mem::take(world.clients[0].output(0).unwrap());
            if !sent.starts_with(b"cmd=put") {
                break;
            }
            assert!(sent.len() <= wire1::LONGEST_SENT, "{}", sent.len());
            world.clients[0].received(0, b"cmd=put_result rc=0\n");
        }
    }

    #[test]
    fn a_connection_to_a_port_is_greeted_first() {
        let mut client = Client::new(Wire::One, 1);
        let link = client.join(0, Some("0"));
        let said = |client: &mut Client| {
            String::from_utf8(std::mem::take(client.output(link).unwrap())).unwrap()
        };
        assert_eq!(said(&mut client), "cmd=initack pmiid=0\n");
        let answer = b"cmd=initack\ncmd=set size=1\ncmd=set rank=0\ncmd=set debug=0\n";
        assert_eq!(client.received(link, answer), []);
        assert_eq!(
            said(&mut client),
            "cmd=init pmi_version=1 pmi_subversion=1\n"
        );
    }

    #[test]
    fn a_server_that_goes_or_talks_nonsense_ends_the_job() {
        for wire in [Wire::One, Wire::Two] {
            let mut world = World::new(wire, &[0], false);
            world.carry(4096);
            let events = world.clients[0].closed(0);
            assert!(matches!(&events[..], [HostEvent::Aborted(_)]));
            assert_eq!(world.clients[0].closed(0), []);
        }
        for nonsense in [
            &b"cmd=barrier_out\n"[..],
            b"HTTP/1.1 400 Bad Request\n",
            b"\n",
        ] {
            let mut client = Client::new(Wire::One, 1);
            client.join(0, None);
            let events = client.received(0, nonsense);
            assert!(matches!(&events[..], [HostEvent::Aborted(_)]), "{events:?}");
        }
    }
}
