//! The neutral core of the bridge: what every process-management interface has in
//! common, and nothing of any one's words.
//!
//! Owns: the layout of a job over nodes ([`Layout`]), the store of names and
//! values ([`Store`]), who is where in the life of a job ([`Watch`]), and the two
//! interfaces that adapters implement: [`Host`] towards the launcher, [`App`]
//! towards the programs. Never: touches a descriptor or a clock; the bridge's loop
//! does, and asks the adapters which descriptors and when.
//!
//! # How a fence goes
//! ```text
//! rank ─put─▶ app adapter          (keeps it until all its ranks are in the fence)
//! rank ─fence─▶ app adapter ─AppEvent::Gather(blob)─▶ loop ─Host::gather─▶ host
//!                                  host ─HostEvent::Gathered(blobs)─▶ loop
//! rank ◀─answer─ app adapter ◀─App::gathered(blobs)─ loop
//! ```
//! One process of the bridge is a *member*: it serves one rank (form `rank`) or
//! all ranks of a node (form `node`). A fence is one exchange among all members:
//! each gives one blob, and gets those of all, in the order of the members. What
//! a blob holds is the app adapters' own business: those of PMI-1 and PMI-2 put
//! names and values in it ([`Store::take_news`]), that of PMIx what libpmix's
//! server hands it. All ranks of a job have the same interface, so the adapters
//! that meet here are of a kind.
//!
//! Nothing blocks: adapters do what can be done now and return. One exchange is
//! under way at a time, as every member enters the fences in the same order.

mod layout;
mod store;
mod watch;

pub use layout::{hosts_in, Bad, Layout};
pub use store::{Full, Store};
pub use watch::{Watch, Word};

use crate::seat::Seat;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Instant;

/// The number of a rank in its job.
pub type Rank = u32;

/// A descriptor that an adapter wants to be told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The descriptor; it stays open until the adapter is called again.
    pub descriptor: RawFd,
    /// Whether also to tell when it can be written to. Reading, the end of the
    /// other side and errors are always told.
    pub write: bool,
}

/// What the programs of a member have to be told about their job, and the
/// adapters that serve them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// A name for it: printable, without spaces, the same on all its nodes, and
    /// another for each job that runs at the same time.
    pub name: String,
    /// Where its ranks are.
    pub layout: Layout,
    /// The ranks that this member serves, in ascending order.
    pub local: Vec<Rank>,
    /// The names of the nodes, in the layout's order; empty where the host tells
    /// none.
    pub hosts: Vec<String>,
}

/// What a host adapter has to tell the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// The host is reached, and this is the job. Once, before anything else;
    /// programs get their seats after it.
    Ready(Job),
    /// The exchange begun by [`Host::gather`] is done: the blobs of all members,
    /// in one order for everybody.
    Gathered(Vec<Vec<u8>>),
    /// The member at this node asks what a rank of this one has committed:
    /// [`App::show`] is to answer.
    Asked(u32, Rank),
    /// The answer to [`Host::ask_for`]: what that rank has committed, or `None` where it
    /// cannot be had.
    Found(Rank, Option<Vec<u8>>),
    /// The host has taken the last farewell; the process may end.
    Finalized,
    /// The job ends now, by the host's word or for want of it: another node
    /// aborted, the launcher has gone, it answered something unheard-of.
    Aborted(Abort),
}

/// Why a job ends before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// The exit status that is asked for; never 0.
    pub status: i32,
    /// In one line, for the user.
    pub reason: String,
}

impl Abort {
    /// With a status that cannot be taken for success.
    pub fn new(status: i32, reason: impl Into<String>) -> Self {
        Abort {
            status: if status == 0 { 1 } else { status },
            reason: reason.into(),
        }
    }
}

/// An adapter towards the launcher: one *member* of the job.
pub trait Host {
    /// A rank of this member has come, with the host's socket for it where there is
    /// one, and the word it is greeted with where it needs one.
    fn join(&mut self, rank: Rank, socket: Option<OwnedFd>, greeting: Option<&str>) {
        let _ = (rank, socket, greeting);
    }

    /// The descriptors to watch now.
    fn interests(&self) -> Vec<Interest>;

    /// When to call [`Host::proceed`] though no descriptor was ready.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Does what can be done, and tells what came of it. Called when a descriptor
    /// is ready, when the deadline is over, and after every other call.
    fn proceed(&mut self, now: Instant) -> Vec<HostEvent>;

    /// Begins an exchange. [`HostEvent::Gathered`] or [`HostEvent::Aborted`]
    /// answers.
    fn gather(&mut self, blob: Vec<u8>);

    /// Asks what a rank of another member has committed, without an exchange.
    /// [`HostEvent::Found`] answers. False where the host has no way to ask: then what
    /// comes with an exchange is all there is.
    fn ask_for(&mut self, rank: Rank) -> bool {
        let _ = rank;
        false
    }

    /// The answer to [`HostEvent::Asked`], for that node.
    fn show(&mut self, node: u32, rank: Rank, data: Option<Vec<u8>>) {
        let _ = (node, rank, data);
    }

    /// Says farewell: all ranks here are through. [`HostEvent::Finalized`] answers.
    fn finalize(&mut self);

    /// Has the launcher end the whole job. Best effort, at once: what can be
    /// written without waiting is written.
    fn abort(&mut self, abort: &Abort);
}

/// What an app adapter has to tell the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppEvent {
    /// The program of this rank has begun to use the interface.
    Started(Rank),
    /// All ranks here are in the fence; this is what they have to say.
    Gather(Vec<u8>),
    /// A program here asks what a rank of another member has committed.
    Ask(Rank),
    /// The answer to [`App::show`].
    Show(u32, Rank, Option<Vec<u8>>),
    /// The program of this rank has taken its farewell, and may end.
    Finalized(Rank),
    /// The connection of this rank is gone without a farewell. Its end, which its
    /// pidfd tells, may follow.
    Lost(Rank),
    /// A rank ends the job.
    Abort(Rank, Abort),
    /// What a rank sent cannot be: the job ends, with this line.
    Broken(Rank, String),
}

/// An adapter towards the programs of this member's ranks.
///
/// It is made for a [`Job`] when the host has told it.
pub trait App {
    /// A seat for one of the job's local ranks, with the descriptor that goes with
    /// it. Asked once for each.
    ///
    /// # Errors
    /// A line for the user.
    fn seat(&mut self, rank: Rank) -> Result<(Seat, Option<OwnedFd>), String>;

    /// The descriptors to watch now.
    fn interests(&self) -> Vec<Interest>;

    /// When to call [`App::proceed`] though no descriptor was ready.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Does what can be done, and tells what came of it. As [`Host::proceed`].
    fn proceed(&mut self, now: Instant) -> Vec<AppEvent>;

    /// The answer to [`AppEvent::Gather`].
    fn gathered(&mut self, blobs: Vec<Vec<u8>>);

    /// A rank of the member at this node asks what a rank here has committed.
    /// [`AppEvent::Show`] answers, when it has.
    fn show(&mut self, node: u32, rank: Rank) {
        let _ = (node, rank);
    }

    /// The answer to [`AppEvent::Ask`].
    fn found(&mut self, rank: Rank, data: Option<Vec<u8>>) {
        let _ = (rank, data);
    }

    /// The other answer to [`AppEvent::Ask`]: the host has no way to ask. What the
    /// next exchange brings has to do.
    fn no_way(&mut self, rank: Rank) {
        let _ = rank;
    }

    /// The host has taken the farewell ([`HostEvent::Finalized`]): those of the ranks
    /// can be answered. Not before, as launchers take a rank that ends without its
    /// farewell for one that failed.
    fn released(&mut self);

    /// The rank's process has ended, and was not finalized.
    fn ended(&mut self, rank: Rank);
}
