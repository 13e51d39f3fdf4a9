//! How a rank gets its place at the bridge: the messages between the process that
//! is about to become the rank (the *launcher* below) and `pmi-bridge`.
//!
//! Owns: the words and their form on the socket, the names of the sockets, the
//! limits of time. Never: makes sockets or processes; `launcher` and the bridge do.
//!
//! # A rank's walk
//! 1. The launcher has entered the image and knows that a bridge is needed.
//!    *Form `rank`*: it makes a stream socket pair and starts `pmi-bridge rank
//!    NUMBER` with one end. *Form `node`*: it connects to the socket that [`name`]
//!    tells. Where nobody listens it binds that name itself, listens, starts
//!    `pmi-bridge node NUMBER` with the listening descriptor, and connects; who
//!    cannot bind because it is bound connects again. So there is one helper per
//!    job and node without any further agreement, and when it dies its name goes.
//! 2. It looks at the owner of the other end (SO_PEERCRED; for a listening socket
//!    these are the ids of whoever called listen(2)), and goes on to the next
//!    attempt's [`name`] where that is another user. The helper looks too, and
//!    closes what is not its own user's.
//! 3. It sends [`Hello`] with the descriptors listed at [`Hello`], and waits for
//!    [`Seat`] or [`Refused`] no longer than [`PATIENCE`].
//! 4. It changes the environment as [`Seat`] says, gives the descriptor a number
//!    that survives execve(2), and becomes the program. The connection closes
//!    there: it is not needed any more.
//!
//! # Lifelines
//! When a rank dies the helper learns it from the rank's pidfd. When the *helper*
//! dies, however it does, the kernel ends the ranks: the two ends of the lifeline
//! are a stream socket pair, each end with O_ASYNC, the rank as its owner
//! (F_SETOWN) and SIGKILL as its signal (F_SETSIG), and only the helper has them.
//! The helper's death closes one end before the other, in whichever order, and
//! the hang-up of the one signals the owner of the other. See fcntl(2).
//!
//! # Form
//! A frame is `seat`, a version and a kind (16 bits each), the length of what
//! follows (32 bits), and fields: numbers of 32 bits and texts with their length
//! before them; all little-endian. The version goes up with every change: both
//! sides are installed together, and different ones refuse each other in words.

use std::fmt;
use std::time::Duration;

/// The version of the messages.
pub const VERSION: u16 = 1;

/// How long the launcher waits for its answer. The helper waits for less
/// ([`GATHERING`]), so that its more precise word comes first.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How long the helper waits for all of its node's ranks, and for other nodes'
/// helpers, from the first rank on. An image that is first read over a slow
/// network is up well within it.
pub const GATHERING: Duration = Duration::from_secs(60);

/// How long a connected peer may take for its [`Hello`].
pub const GREETING: Duration = Duration::from_secs(10);

/// How many names are tried where others hold one.
pub const ATTEMPTS: u32 = 8;

/// The most bytes a frame may have. The longest are lists of nodes.
pub const LONGEST: usize = 256 << 10;

const MAGIC: &[u8; 4] = b"seat";
const HEADER: usize = 12;

/// The name of the abstract socket that a node's helper for a job listens on
/// (without the leading zero byte that unix(7) wants).
///
/// `job` is the whole text of the job's identity ([`crate::JobIdentity::complete`]),
/// `node` a number of the node in the job where the environment tells one, since
/// several nodes may be one machine; the name does not depend on any namespace but
/// the network's, which abstract sockets belong to. `attempt` counts from 0 to
/// [`ATTEMPTS`]: whoever finds another user behind one name goes on to the next.
pub fn name(uid: u32, job: &str, node: Option<u32>, attempt: u32) -> String {
    // FNV-1a, 128 bits. Not a secret: what keeps others out are the peers' ids.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash ^= u128::from(*byte);
            hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    };
    add(&uid.to_le_bytes());
    add(&node.map_or(u32::MAX, |node| node).to_le_bytes());
    add(job.as_bytes());
    format!("singularity-pmi-{VERSION}:{uid}:{hash:032x}:{attempt}")
}

/// The interface that the program's MPI wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppInterface {
    /// PMI-1 on a socket (`PMI_FD`).
    Pmi1,
    /// PMI-2 on a socket (`PMI_FD`).
    Pmi2,
    /// A PMIx server.
    Pmix,
}

/// How the job is reached on the host's side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostInterface {
    /// The PMI-1 wire on the descriptor that comes with the message.
    Pmi1 {
        /// What a connection made to `PMI_PORT` is greeted with (`PMI_ID`); none
        /// where the socket was inherited.
        greeting: Option<String>,
    },
    /// The PMI-2 wire on the descriptor that comes with the message.
    Pmi2,
    /// The host's PMIx server, which the helper finds by the environment it was
    /// started with.
    Pmix,
    /// No interface: Slurm's step without one (`--mpi=none`).
    Slurm(Step),
}

/// What Slurm tells a task about its step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Step {
    /// `SLURM_JOB_ID` and `SLURM_STEP_ID` with a dot between them.
    pub id: String,
    /// `SLURM_STEP_NODELIST`: the names of the step's nodes.
    pub nodes: String,
    /// `SLURM_STEP_TASKS_PER_NODE`, as `2(x3),1`.
    pub tasks: String,
    /// `SLURM_NODEID`: which of the nodes this is.
    pub node: u32,
    /// `SLURM_GTIDS`: the ranks on this node, as `0,1,4`.
    pub ranks: String,
}

/// What a rank says of itself.
///
/// Descriptors that come with it, in this order: its pidfd; the two ends of its
/// lifeline; and the host's socket where [`HostInterface`] says that there is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hello {
    /// The job, as given to [`name`].
    pub job: String,
    /// Its number in the job.
    pub rank: u32,
    /// How many ranks the job has.
    pub size: u32,
    /// Its number among the ranks of its node, where known.
    pub local_rank: Option<u32>,
    /// How many ranks its node has, where known.
    pub local_size: Option<u32>,
    /// Its process id as it sees it: for messages only, the pidfd counts.
    pub pid: u32,
    /// What its program wants.
    pub app: AppInterface,
    /// What its launcher offers.
    pub host: HostInterface,
    /// The launcher's name and the MPI's, for messages: `hydra (…)`, `Open MPI 4.1.4`.
    pub names: (String, String),
}

impl Hello {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self.host {
            HostInterface::Pmi1 { .. } | HostInterface::Pmi2 => 4,
            HostInterface::Pmix | HostInterface::Slurm(_) => 3,
        }
    }
}

/// A change to the program's environment: what goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Unset {
    /// The variable of that name.
    Name(String),
    /// All whose names begin so.
    Prefix(String),
}

/// The place at the bridge.
///
/// First everything in `unset` goes, then what is in `set` comes, then, where
/// `descriptor` names a variable, that is set to the number of the one descriptor
/// that comes with the message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Seat {
    /// Variables that must not reach the program.
    pub unset: Vec<Unset>,
    /// Variables with their values.
    pub set: Vec<(String, String)>,
    /// The variable that takes the descriptor's number: `PMI_FD`.
    pub descriptor: Option<String>,
}

/// There is no place, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refused {
    /// What failed, on what, why, in one line.
    pub line: String,
    /// What the user can do.
    pub hint: String,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// From the launcher.
    Hello(Hello),
    /// From the helper.
    Seat(Seat),
    /// From the helper.
    Refused(Refused),
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The other side is of another version.
    Version(u16),
    /// Something else than a frame, or a frame that is too long.
    Frame,
    /// A field that is cut off, or has a value it cannot have.
    Field,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Version(theirs) => write!(
                f,
                "it speaks version {theirs} of the seat protocol, not {VERSION}"
            ),
            Malformed::Frame => f.write_str("it sent something else than a message"),
            Malformed::Field => f.write_str("it sent a damaged message"),
        }
    }
}

impl std::error::Error for Malformed {}

impl Message {
    /// The message as it is sent, in one frame.
    ///
    /// What would not fit [`LONGEST`] is sent all the same and refused by the
    /// other side: no text of a real job comes near.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let kind: u16 = match self {
            Message::Hello(hello) => {
                out.hello(hello);
                1
            }
            Message::Seat(seat) => {
                out.seat(seat);
                2
            }
            Message::Refused(refused) => {
                out.text(&refused.line);
                out.text(&refused.hint);
                3
            }
        };
        let mut frame = Vec::with_capacity(HEADER + out.bytes.len());
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&VERSION.to_le_bytes());
        frame.extend_from_slice(&kind.to_le_bytes());
        frame.extend_from_slice(&length(out.bytes.len()).to_le_bytes());
        frame.extend_from_slice(&out.bytes);
        frame
    }

    /// Takes one message from the beginning of what has been received so far, and
    /// how many bytes it took; `None` where it is not complete yet.
    ///
    /// # Errors
    /// What can never become a message, however much follows.
    pub fn decode(received: &[u8]) -> Result<Option<(Message, usize)>, Malformed> {
        let beginning = received.len().min(MAGIC.len());
        if received[..beginning] != MAGIC[..beginning] {
            return Err(Malformed::Frame);
        }
        let Some(header) = received.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [_, _, _, _, v0, v1, k0, k1, l0, l1, l2, l3] = *header;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > LONGEST {
            return Err(Malformed::Frame);
        }
        let Some(body) = received.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let mut fields = Reader { rest: body };
        let message = match u16::from_le_bytes([k0, k1]) {
            1 => Message::Hello(fields.hello()?),
            2 => Message::Seat(fields.seat()?),
            3 => Message::Refused(Refused {
                line: fields.text()?,
                hint: fields.text()?,
            }),
            _ => return Err(Malformed::Frame),
        };
        if !fields.rest.is_empty() {
            return Err(Malformed::Field);
        }
        Ok(Some((message, HEADER + length)))
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn number(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Whether there is a number, and the number.
    fn option(&mut self, number: Option<u32>) {
        self.number(u32::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }

    fn hello(&mut self, hello: &Hello) {
        self.text(&hello.job);
        self.number(hello.rank);
        self.number(hello.size);
        self.option(hello.local_rank);
        self.option(hello.local_size);
        self.number(hello.pid);
        self.number(match hello.app {
            AppInterface::Pmi1 => 1,
            AppInterface::Pmi2 => 2,
            AppInterface::Pmix => 3,
        });
        match &hello.host {
            HostInterface::Pmi1 { greeting: None } => self.number(1),
            HostInterface::Pmi1 {
                greeting: Some(greeting),
            } => {
                self.number(2);
                self.text(greeting);
            }
            HostInterface::Pmi2 => self.number(3),
            HostInterface::Pmix => self.number(4),
            HostInterface::Slurm(step) => {
                self.number(5);
                self.text(&step.id);
                self.text(&step.nodes);
                self.text(&step.tasks);
                self.number(step.node);
                self.text(&step.ranks);
            }
        }
        self.text(&hello.names.0);
        self.text(&hello.names.1);
    }

    fn seat(&mut self, seat: &Seat) {
        self.number(length(seat.unset.len()));
        for unset in &seat.unset {
            let (kind, text) = match unset {
                Unset::Name(name) => (1, name),
                Unset::Prefix(prefix) => (2, prefix),
            };
            self.number(kind);
            self.text(text);
        }
        self.number(length(seat.set.len()));
        for (name, value) in &seat.set {
            self.text(name);
            self.text(value);
        }
        self.number(u32::from(seat.descriptor.is_some()));
        self.text(seat.descriptor.as_deref().unwrap_or(""));
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u32, Malformed> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(Malformed::Field)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*number))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.number()? as usize;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Field)?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed::Field)
    }

    fn option(&mut self) -> Result<Option<u32>, Malformed> {
        let (there, number) = (self.number()?, self.number()?);
        match there {
            0 => Ok(None),
            1 => Ok(Some(number)),
            _ => Err(Malformed::Field),
        }
    }

    /// A variable's name or value: execve(2) takes no zero bytes.
    fn variable(&mut self) -> Result<String, Malformed> {
        self.text()
            .and_then(|text| match text.bytes().any(|byte| byte == 0) {
                true => Err(Malformed::Field),
                false => Ok(text),
            })
    }

    fn hello(&mut self) -> Result<Hello, Malformed> {
        let job = self.text()?;
        let (rank, size) = (self.number()?, self.number()?);
        if rank >= size {
            return Err(Malformed::Field);
        }
        Ok(Hello {
            job,
            rank,
            size,
            local_rank: self.option()?,
            local_size: self.option()?,
            pid: self.number()?,
            app: match self.number()? {
                1 => AppInterface::Pmi1,
                2 => AppInterface::Pmi2,
                3 => AppInterface::Pmix,
                _ => return Err(Malformed::Field),
            },
            host: match self.number()? {
                1 => HostInterface::Pmi1 { greeting: None },
                2 => HostInterface::Pmi1 {
                    greeting: Some(self.text()?),
                },
                3 => HostInterface::Pmi2,
                4 => HostInterface::Pmix,
                5 => HostInterface::Slurm(Step {
                    id: self.text()?,
                    nodes: self.text()?,
                    tasks: self.text()?,
                    node: self.number()?,
                    ranks: self.text()?,
                }),
                _ => return Err(Malformed::Field),
            },
            names: (self.text()?, self.text()?),
        })
    }

    fn seat(&mut self) -> Result<Seat, Malformed> {
        let mut seat = Seat::default();
        for _ in 0..self.number()? {
            seat.unset.push(match self.number()? {
                1 => Unset::Name(self.variable()?),
                2 => Unset::Prefix(self.variable()?),
                _ => return Err(Malformed::Field),
            });
        }
        for _ in 0..self.number()? {
            seat.set.push((self.variable()?, self.variable()?));
        }
        let named = self.number()?;
        let name = self.variable()?;
        seat.descriptor = match named {
            0 => None,
            1 => Some(name),
            _ => return Err(Malformed::Field),
        };
        Ok(seat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            job: "slurm 7.0".into(),
            rank: 3,
            size: 4,
            local_rank: Some(1),
            local_size: None,
            pid: 4711,
            app: AppInterface::Pmix,
            host: HostInterface::Slurm(Step {
                id: "7.0".into(),
                nodes: "c[1-2]".into(),
                tasks: "2(x2)".into(),
                node: 1,
                ranks: "2,3".into(),
            }),
            names: ("Slurm srun".into(), "Open MPI 4.1.4".into()),
        }
    }

    fn messages() -> Vec<Message> {
        let hosts = [
            HostInterface::Pmi1 { greeting: None },
            HostInterface::Pmi1 {
                greeting: Some("2".into()),
            },
            HostInterface::Pmi2,
            HostInterface::Pmix,
        ];
        let hellos = hosts.map(|host| {
            Message::Hello(Hello {
                host,
                app: AppInterface::Pmi1,
                ..hello()
            })
        });
        let mut messages = vec![
            Message::Hello(hello()),
            Message::Seat(Seat::default()),
            Message::Seat(Seat {
                unset: vec![
                    Unset::Name("PMI_PORT".into()),
                    Unset::Prefix("PMIX_".into()),
                ],
                set: vec![("PMI_RANK".into(), "3".into())],
                descriptor: Some("PMI_FD".into()),
            }),
            Message::Refused(Refused {
                line: "node c2: nobody there".into(),
                hint: "look".into(),
            }),
        ];
        messages.extend(hellos);
        messages
    }

    #[test]
    fn every_message_comes_back_whole_and_from_pieces() {
        for message in messages() {
            let bytes = message.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..cut]), Ok(None), "{message:?}");
            }
            let mut more = bytes.clone();
            more.extend_from_slice(b"seat and more");
            let length = bytes.len();
            assert_eq!(Message::decode(&more), Ok(Some((message, length))));
        }
    }

    #[test]
    fn no_change_of_a_byte_is_more_than_refused() {
        for message in messages() {
            let bytes = message.encode();
            for place in 0..bytes.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[place] = value;
                    if let Ok(Some((_, length))) = Message::decode(&damaged) {
                        assert_eq!(length, bytes.len());
                    }
                }
            }
        }
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        let mut bytes = messages()[0].encode();
        bytes[4] = 9;
        assert_eq!(Message::decode(&bytes), Err(Malformed::Version(9)));
        assert_eq!(Message::decode(b"GET / HTTP"), Err(Malformed::Frame));
    }

    #[test]
    fn a_rank_is_below_the_size() {
        let bytes = Message::Hello(Hello { rank: 4, ..hello() }).encode();
        assert_eq!(Message::decode(&bytes), Err(Malformed::Field));
    }

    #[test]
    fn a_claimed_length_costs_nothing() {
        let mut bytes = messages()[1].encode();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::decode(&bytes), Err(Malformed::Field));
    }

    #[test]
    fn jobs_users_nodes_and_attempts_have_names_of_their_own() {
        let names = [
            name(1000, "slurm 7.0", Some(0), 0),
            name(1001, "slurm 7.0", Some(0), 0),
            name(1000, "slurm 7.1", Some(0), 0),
            name(1000, "slurm 7.0", Some(1), 0),
            name(1000, "slurm 7.0", None, 0),
            name(1000, "slurm 7.0", Some(0), 1),
        ];
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        // sockaddr_un has room for 108 bytes, the zero included.
        assert!(names.iter().all(|name| name.len() < 100));
        assert_eq!(names[0], name(1000, "slurm 7.0", Some(0), 0));
    }
}
