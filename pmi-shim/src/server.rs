//! The server's side of PMI-1 and PMI-2: what the programs of one member's ranks
//! are answered.
//!
//! Owns: one session for each rank, the key-value space, the attributes of the
//! node. Never: touches a descriptor: bytes go in, bytes and events come out.
//!
//! A program says in its first line which of the two it speaks, so one server does
//! for both. Whatever a program sends, it gets an answer, or the job ends with a
//! line that says why: nothing is left waiting.

use crate::core::{Abort, AppEvent, Job, Rank, Store};
use crate::wire1::{self, Answer};
use crate::wire2::{self, Message};
use std::collections::{BTreeMap, HashMap};

/// The most bytes of names and values a program may leave at its node.
const MOST_ATTRIBUTES: usize = 64 << 20;

/// The limits that hydra tells its programs, and that MPICH counts on.
const MAXES: Answer<'static> = Answer::Maxes {
    kvsname: 256,
    key: 64,
    value: 1024,
};

/// The longest mapping that fits the line buffer of every MPICH.
const LONGEST_MAPPING: usize = 960;

const MAPPING: &[u8] = b"PMI_process_mapping";

/// PMI2_ERR_OTHER of pmi2.h.
const UNSUPPORTED: &str = "14";

/// The answers to all programs of a member.
#[derive(Debug)]
pub struct Server {
    job: Job,
    space: Store,
    attributes: HashMap<Vec<u8>, Vec<u8>>,
    attribute_bytes: usize,
    sessions: BTreeMap<Rank, Session>,
    /// An exchange is under way.
    gathering: bool,
}

#[derive(Debug, Default)]
struct Session {
    wire: Wire,
    out: Vec<u8>,
    started: bool,
    finalized: bool,
    /// The answer to its farewell, until [`Server::release`].
    held: Vec<u8>,
    /// In the fence, with the `thrid` of PMI-2 that its answer needs.
    fenced: Option<Thread>,
    /// Waiting for attributes of the node.
    waiting: Vec<(Vec<u8>, Thread)>,
}

/// The `thrid` of a PMI-2 command; there may be none.
type Thread = Option<Vec<u8>>;

#[derive(Debug)]
enum Wire {
    One(wire1::Lines),
    Two(wire2::Messages),
}

impl Default for Wire {
    fn default() -> Self {
        Wire::One(wire1::Lines::default())
    }
}

impl Server {
    /// For the local ranks of a job.
    pub fn new(job: Job) -> Self {
        let mut space = Store::default();
        let mapping = job.layout.to_process_mapping();
        if mapping.len() <= LONGEST_MAPPING {
            // A new store has room for one value.
            let _ = space.keep(MAPPING, mapping.as_bytes());
        }
        let sessions = job
            .local
            .iter()
            .map(|&rank| (rank, Session::default()))
            .collect();
        Server {
            job,
            space,
            attributes: HashMap::new(),
            attribute_bytes: 0,
            sessions,
            gathering: false,
        }
    }

    /// What is to be written to a rank; whoever writes takes off what was written.
    pub fn output(&mut self, rank: Rank) -> Option<&mut Vec<u8>> {
        self.sessions.get_mut(&rank).map(|session| &mut session.out)
    }

    /// How many bytes wait to be written to a rank.
    pub fn unread(&self, rank: Rank) -> usize {
        self.sessions
            .get(&rank)
            .map_or(0, |session| session.out.len())
    }

    /// Whether a rank has taken its farewell.
    pub fn is_finalized(&self, rank: Rank) -> bool {
        self.sessions
            .get(&rank)
            .is_some_and(|session| session.finalized)
    }

    /// Answers the farewells: before the launcher has heard of them, a rank that ends
    /// would have left without one.
    pub fn release(&mut self) {
        for session in self.sessions.values_mut() {
            session.out.append(&mut session.held);
        }
    }

    /// Takes what a rank has sent.
    pub fn received(&mut self, rank: Rank, bytes: &[u8]) -> Vec<AppEvent> {
        let mut events = Vec::new();
        match self
            .sessions
            .get_mut(&rank)
            .map(|session| &mut session.wire)
        {
            Some(Wire::One(lines)) => lines.feed(bytes),
            Some(Wire::Two(messages)) => messages.feed(bytes),
            None => return events,
        }
        // A session changes its wire in the middle.
        while let Some(session) = self.sessions.get_mut(&rank) {
            let more = match &mut session.wire {
                Wire::One(lines) => match lines.next_command() {
                    Ok(None) => break,
                    Ok(Some(command)) => {
                        self.command(rank, wire1::Request::of(&command), &mut events)
                    }
                    Err(wire1::TooLong) => Err("a command without an end".into()),
                },
                Wire::Two(messages) => match messages.next_message() {
                    Ok(None) => break,
                    Ok(Some(message)) => self.message(rank, &message, &mut events),
                    Err(wire2::NoMessage) => Err("something that is no PMI-2 message".into()),
                },
            };
            if let Err(what) = more {
                events.push(AppEvent::Broken(
                    rank,
                    format!("the program sent its PMI server {what}"),
                ));
                break;
            }
        }
        events
    }

    /// The answer to [`AppEvent::Gather`]: what all members have put.
    ///
    /// # Errors
    /// A blob that is none: the job cannot go on.
    pub fn gathered(&mut self, blobs: &[Vec<u8>]) -> Result<(), String> {
        for blob in blobs {
            self.space.learn(blob).map_err(|full| full.to_string())?;
        }
        self.gathering = false;
        for session in self.sessions.values_mut() {
            let Some(thread) = session.fenced.take() else {
                continue;
            };
            match session.wire {
                Wire::One(_) => session.out.extend(Answer::BarrierOut.line()),
                Wire::Two(_) => session.answer("kvs-fence-response", &thread, |m| m),
            }
        }
        Ok(())
    }

    fn command(
        &mut self,
        rank: Rank,
        request: wire1::Request,
        events: &mut Vec<AppEvent>,
    ) -> Result<(), String> {
        use wire1::Request;
        let Some(session) = self.sessions.get_mut(&rank) else {
            return Ok(());
        };
        let answer = match &request {
            Request::Init {
                version,
                subversion,
            } => {
                if !session.started {
                    session.started = true;
                    events.push(AppEvent::Started(rank));
                }
                let two = *version == 2;
                let answer = Answer::Init {
                    good: two || (*version == 1 && *subversion <= 1),
                    version: if two { 2 } else { 1 },
                    subversion: u32::from(!two),
                };
                session.out.extend(answer.line());
                if two {
                    let mut messages = wire2::Messages::default();
                    if let Wire::One(lines) = &mut session.wire {
                        messages.feed(&lines.take_rest());
                    }
                    session.wire = Wire::Two(messages);
                }
                return Ok(());
            }
            Request::GetMaxes => MAXES,
            Request::GetAppnum => Answer::Appnum(0),
            Request::GetMyKvsname => Answer::Kvsname(&self.job.name),
            Request::GetUniverseSize => Answer::UniverseSize(self.job.layout.size()),
            Request::Put { key, value } => Answer::Put {
                good: self.space.put(key, value).is_ok(),
            },
            Request::Get { key } => Answer::Get(self.space.get(key)),
            Request::BarrierIn => return self.fence(rank, None, events),
            Request::Finalize => {
                session.finalized = true;
                session.held = Answer::FinalizeAck.line();
                events.push(AppEvent::Finalized(rank));
                return Ok(());
            }
            Request::Abort { status, message } => {
                events.push(AppEvent::Abort(rank, aborted(rank, *status, message)));
                return Ok(());
            }
            Request::Spawn => Answer::NoSpawn,
            Request::Getbyidx => Answer::NoIndex,
            Request::Name(naming) => Answer::NoName(*naming),
            // MPICH compares the answer's name with the one it waits for, and
            // reports its own error.
            Request::Unknown(_) => {
                session
                    .out
                    .extend(b"cmd=error rc=-1 msg=not_supported info=not_supported\n");
                return Ok(());
            }
        };
        session.out.extend(answer.line());
        Ok(())
    }

    fn message(
        &mut self,
        rank: Rank,
        message: &[u8],
        events: &mut Vec<AppEvent>,
    ) -> Result<(), String> {
        use wire2::Request;
        let fields = wire2::Fields::of(message);
        let thread: Thread = fields.get("thrid").map(<[u8]>::to_vec);
        let Some(session) = self.sessions.get_mut(&rank) else {
            return Ok(());
        };
        match Request::of(&fields) {
            Request::FullInit => session.answer("fullinit-response", &thread, |m| {
                m.with("pmi-version", "2")
                    .with("pmi-subversion", "0")
                    .with("rank", rank.to_string())
                    .with("size", self.job.layout.size().to_string())
                    .with("appnum", "0")
                    .with("debugged", "FALSE")
                    .with("pmiverbose", "FALSE")
            }),
            Request::JobGetId => session.answer("job-getid-response", &thread, |m| {
                m.with("jobid", &self.job.name)
            }),
            Request::GetJobAttr { key } => {
                let size = self.job.layout.size().to_string();
                let value = match key.as_slice() {
                    b"universeSize" => Some(size.as_bytes()),
                    MAPPING => self.space.get(MAPPING),
                    _ => None,
                };
                session.found("info-getjobattr-response", &thread, value);
            }
            Request::PutNodeAttr { key, value } => {
                self.attribute_bytes += key.len() + value.len();
                if self.attribute_bytes > MOST_ATTRIBUTES {
                    return Err("more attributes of its node than there is room for".into());
                }
                session.answer("info-putnodeattr-response", &thread, |m| m);
                for session in self.sessions.values_mut() {
                    session.waiting_for(&key, &value);
                }
                self.attributes.insert(key, value);
            }
            Request::GetNodeAttr { key, wait } => match self.attributes.get(&key) {
                None if wait => session.waiting.push((key, thread)),
                value => session.found(
                    "info-getnodeattr-response",
                    &thread,
                    value.map(Vec::as_slice),
                ),
            },
            Request::KvsPut { key, value } => match self.space.put(&key, &value) {
                Ok(()) => session.answer("kvs-put-response", &thread, |m| m),
                Err(full) => return Err(format!("too much: {full}")),
            },
            Request::KvsGet { key } => {
                session.found("kvs-get-response", &thread, self.space.get(&key));
            }
            Request::KvsFence => return self.fence(rank, thread, events),
            Request::Finalize => {
                session.finalized = true;
                let said = session.out.len();
                session.answer("finalize-response", &thread, |m| m);
                session.held = session.out.split_off(said);
                events.push(AppEvent::Finalized(rank));
            }
            Request::Abort { message } => {
                events.push(AppEvent::Abort(rank, aborted(rank, 1, &message)));
            }
            Request::Unsupported(answer) => session.error(answer, &thread),
            Request::Unknown(_) => session.error("error", &thread),
        }
        Ok(())
    }

    fn fence(
        &mut self,
        rank: Rank,
        thread: Thread,
        events: &mut Vec<AppEvent>,
    ) -> Result<(), String> {
        if let Some(session) = self.sessions.get_mut(&rank) {
            if session.fenced.is_some() || session.finalized {
                return Err("a fence inside of a fence, or after its farewell".into());
            }
            session.fenced = Some(thread);
        }
        if let Some((gone, _)) = self.sessions.iter().find(|(_, session)| session.finalized) {
            return Err(format!(
                "a fence that can never end: rank {gone} has finalized"
            ));
        }
        if self.sessions.values().all(|s| s.fenced.is_some()) && !self.gathering {
            self.gathering = true;
            events.push(AppEvent::Gather(self.space.take_news()));
        }
        Ok(())
    }
}

fn aborted(rank: Rank, status: i32, message: &str) -> Abort {
    let message = message.trim();
    Abort::new(
        status,
        match message.is_empty() {
            true => format!("rank {rank} ended the job with status {status}"),
            false => format!("rank {rank} ended the job with status {status}: {message}"),
        },
    )
}

impl Session {
    fn answer(&mut self, name: &str, thread: &Thread, fill: impl FnOnce(Message) -> Message) {
        let mut message = Message::new(name);
        if let Some(thread) = thread {
            message = message.with("thrid", thread);
        }
        self.out.extend(fill(message.with("rc", "0")).bytes());
    }

    fn found(&mut self, name: &str, thread: &Thread, value: Option<&[u8]>) {
        self.answer(name, thread, |message| match value {
            Some(value) => message.with("found", "TRUE").with("value", value),
            None => message.with("found", "FALSE"),
        });
    }

    fn error(&mut self, name: &str, thread: &Thread) {
        let mut message = Message::new(name);
        if let Some(thread) = thread {
            message = message.with("thrid", thread);
        }
        let message = message.with("rc", UNSUPPORTED);
        self.out
            .extend(message.with("errmsg", "not supported").bytes());
    }

    fn waiting_for(&mut self, key: &[u8], value: &[u8]) {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(wanted, _)| wanted == key);
        self.waiting = waiting;
        let ready: Vec<(Vec<u8>, Thread)> = ready;
        for (_, thread) in ready {
            self.found("info-getnodeattr-response", &thread, Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Layout;

    fn server(ranks: u32) -> Server {
        let layout = Layout::on_one_node(ranks).unwrap();
        Server::new(Job {
            name: "job".into(),
            local: (0..ranks).collect(),
            layout,
            hosts: Vec::new(),
        })
    }

    fn said(server: &mut Server, rank: Rank) -> String {
        String::from_utf8(std::mem::take(server.output(rank).unwrap())).unwrap()
    }

    #[test]
    fn a_job_of_mpich_goes_through_pmi1() {
        let mut server = server(2);
        let hello = b"cmd=init pmi_version=1 pmi_subversion=1\n";
        assert_eq!(server.received(0, hello), [AppEvent::Started(0)]);
        assert_eq!(
            said(&mut server, 0),
            "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n"
        );
        server.received(1, hello);
        said(&mut server, 1);
        server.received(0, b"cmd=get kvsname=job key=PMI_process_mapping\n");
        assert_eq!(
            said(&mut server, 0),
            "cmd=get_result rc=0 msg=success value=(vector,(0,1,2))\n"
        );
        server.received(0, b"cmd=put kvsname=job key=a value=1\n");
        assert_eq!(said(&mut server, 0), "cmd=put_result rc=0 msg=success\n");
        assert_eq!(server.received(0, b"cmd=barrier_in\n"), []);
        let events = server.received(1, b"cmd=barrier_in\n");
        let [AppEvent::Gather(blob)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(said(&mut server, 0), "");
        server.gathered(std::slice::from_ref(blob)).unwrap();
        assert_eq!(said(&mut server, 0), "cmd=barrier_out rc=0\n");
        assert_eq!(said(&mut server, 1), "cmd=barrier_out rc=0\n");
        server.received(1, b"cmd=get kvsname=job key=a\n");
        assert_eq!(
            said(&mut server, 1),
            "cmd=get_result rc=0 msg=success value=1\n"
        );
        assert_eq!(
            server.received(1, b"cmd=finalize\n"),
            [AppEvent::Finalized(1)]
        );
        assert_eq!(said(&mut server, 1), "");
        server.release();
        assert_eq!(said(&mut server, 1), "cmd=finalize_ack rc=0\n");
    }

    #[test]
    fn what_is_not_supported_is_answered_at_once() {
        let mut server = server(1);
        server.received(0, b"cmd=init pmi_version=1 pmi_subversion=1\n");
        said(&mut server, 0);
        for (sent, answer) in [
            (
                "mcmd=spawn\nnprocs=1\nexecname=x\nendcmd\n",
                "cmd=spawn_result rc=-1",
            ),
            (
                "cmd=lookup_name service=x\n",
                "cmd=lookup_result rc=-1 info=not_supported",
            ),
            (
                "cmd=getbyidx kvsname=x idx=0\n",
                "cmd=getbyidx_results rc=-1",
            ),
            ("cmd=nonsense\n", "cmd=error rc=-1"),
        ] {
            assert_eq!(server.received(0, sent.as_bytes()), [], "{sent}");
            let said = said(&mut server, 0);
            assert!(said.starts_with(answer), "{sent}: {said}");
        }
    }

    #[test]
    fn pmi2_begins_as_pmi1_and_waits_for_attributes_of_the_node() {
        let mut server = server(2);
        let mut hello = b"cmd=init pmi_version=2 pmi_subversion=0\n".to_vec();
        hello.extend(Message::new("fullinit").with("pmirank", "0").bytes());
        for rank in [0, 1] {
            assert_eq!(server.received(rank, &hello), [AppEvent::Started(rank)]);
            let said = said(&mut server, rank);
            assert!(said.starts_with("cmd=response_to_init pmi_version=2 pmi_subversion=0 rc=0\n"));
            assert!(said.contains(&format!("rank={rank};size=2;")), "{said}");
        }
        let get = Message::new("info-getnodeattr")
            .with("thrid", "0x1")
            .with("key", "shm")
            .with("wait", "TRUE");
        server.received(1, &get.bytes());
        assert_eq!(said(&mut server, 1), "");
        let put = Message::new("info-putnodeattr").with("key", "shm");
        server.received(0, &put.with("value", "/dev/shm/x").bytes());
        assert!(said(&mut server, 0).contains("cmd=info-putnodeattr-response;rc=0;"));
        assert!(said(&mut server, 1).ends_with(
            "cmd=info-getnodeattr-response;thrid=0x1;rc=0;found=TRUE;value=/dev/shm/x;"
        ));
        server.received(0, &Message::new("spawn").with("ncmds", "1").bytes());
        assert!(said(&mut server, 0).ends_with("cmd=spawn-response;rc=14;errmsg=not supported;"));
        for rank in [0, 1] {
            let events = server.received(rank, &Message::new("kvs-fence").bytes());
            assert_eq!(events.len(), rank as usize);
        }
        server.gathered(&[]).unwrap();
        assert!(said(&mut server, 1).ends_with("cmd=kvs-fence-response;rc=0;"));
    }

    #[test]
    fn an_abort_says_who_and_why_and_never_succeeds() {
        let mut server = server(1);
        let events = server.received(0, b"cmd=abort exitcode=0 message=no more\n");
        assert_eq!(
            events,
            [AppEvent::Abort(
                0,
                Abort {
                    status: 1,
                    reason: "rank 0 ended the job with status 0: no more".into()
                }
            )]
        );
    }

    #[test]
    fn a_fence_that_can_never_end_ends_the_job() {
        let mut server = server(2);
        server.received(0, b"cmd=finalize\n");
        let events = server.received(1, b"cmd=barrier_in\n");
        assert!(
            matches!(&events[..], [AppEvent::Broken(1, _)]),
            "{events:?}"
        );
        let events = server.received(0, &vec![b'a'; wire1::LONGEST + 1]);
        assert!(
            matches!(&events[..], [AppEvent::Broken(0, _)]),
            "{events:?}"
        );
    }
}
