//! One member of a job through its life: the host's adapter on one side, the
//! programs' on the other, and the processes that are the ranks.
//!
//! Owns: the loop, and what follows from what: who is seated when, who is told of a
//! rank's end, when it is over. Never: knows an interface; the adapters do.

use crate::seating::{Asking, Belongings, Lifeline};
use crate::segments::Segments;
use crate::{stepd, sys};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use pmi_shim::core::{Abort, App, AppEvent, Host, HostEvent, Interest, Job, Rank, Watch, Word};
use pmi_shim::seat::{Hello, HostInterface, Refused, GATHERING};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long ranks may take to end by themselves, or by their launcher's hand, when
/// the job is aborted: the one that asked for it wants to leave with its status.
const GRACE: Duration = Duration::from_secs(1);

/// When to look for the segments of ranks that have begun to use their interface, and
/// after which time not again: an MPI makes them while it starts, and some in no
/// fence's sight.
const FIRST_LOOK: Duration = Duration::from_millis(30);
const LAST_LOOK: Duration = Duration::from_secs(30);

/// Makes the adapter for the programs when the job is known.
pub type MakeApp = Box<dyn FnOnce(&Job) -> Result<Box<dyn App>, String>>;

/// A member.
pub struct Member {
    host: Box<dyn Host>,
    make_app: Option<MakeApp>,
    app: Option<Box<dyn App>>,
    job: Option<Job>,
    watch: Watch,
    /// Greeted, and not seated yet.
    waiting: Vec<(Asking, Hello, Belongings)>,
    ranks: Vec<Place>,
    segments: Segments,
    /// The launcher's own process above the ranks, where its end is not heard otherwise.
    stepd: Option<OwnedFd>,
    /// When to look for segments again, and how long to wait after that.
    look: Option<(Instant, Duration)>,
    /// When the host must have told the job.
    patience: Instant,
    /// Since when the job is aborted, and why.
    aborted: Option<(Instant, Abort)>,
    /// The host has been told the farewell.
    farewell: bool,
    /// The host has taken it.
    through: bool,
    /// It says itself why it ends the job.
    speaks: bool,
    /// Since when all ranks have ended.
    leaving: Option<Instant>,
}

/// A rank that has its seat.
struct Place {
    rank: Rank,
    process: OwnedFd,
    lifeline: Lifeline,
    alive: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All ranks took their farewell, or never came.
    Well,
    /// The job was aborted.
    Badly,
}

impl Member {
    /// A member whose host is being reached.
    pub fn new(host: Box<dyn Host>, make_app: MakeApp, now: Instant) -> Member {
        Member {
            host,
            make_app: Some(make_app),
            app: None,
            job: None,
            watch: Watch::default(),
            waiting: Vec::new(),
            ranks: Vec::new(),
            segments: Segments::default(),
            stepd: None,
            look: None,
            patience: now + GATHERING,
            aborted: None,
            farewell: false,
            speaks: true,
            through: false,
            leaving: None,
        }
    }

    /// Leaves it to the launcher to say which rank ended and how: for one that does.
    pub fn silent(mut self) -> Member {
        self.speaks = false;
        self
    }

    /// Takes one who asks for a seat, and answers when the job is known.
    pub fn welcome(&mut self, asking: Asking, hello: Hello, mut belongings: Belongings) {
        if let Some((_, abort)) = &self.aborted {
            return refuse(&asking, &hello, &belongings, &abort.reason);
        }
        let rank = hello.rank;
        let waiting = self.waiting.iter().map(|(_, hello, _)| hello.rank);
        if waiting
            .chain(self.ranks.iter().map(|place| place.rank))
            .any(|other| other == rank)
        {
            let reason = format!("rank {rank} has a seat already");
            return refuse(&asking, &hello, &belongings, &reason);
        }
        if self.stepd.is_none() && is_slurms(&hello.host) {
            self.stepd = stepd::above(belongings.process.as_fd());
        }
        let greeting = match &hello.host {
            HostInterface::Pmi1 { greeting } => greeting.as_deref(),
            _ => None,
        };
        self.host.join(rank, belongings.host.take(), greeting);
        self.waiting.push((asking, hello, belongings));
        self.seat_all();
    }

    /// The descriptors to watch.
    pub fn interests(&self) -> Vec<Interest> {
        let mut all = self.host.interests();
        all.extend(self.app.iter().flat_map(|app| app.interests()));
        let alive = self.ranks.iter().filter(|place| place.alive);
        let waiting = self
            .waiting
            .iter()
            .map(|(_, _, belongings)| &belongings.process);
        let stepd = self.stepd.iter().filter(|_| self.aborted.is_none());
        all.extend(
            alive
                .map(|place| &place.process)
                .chain(waiting)
                .chain(stepd)
                .map(|process| Interest {
                    descriptor: process.as_raw_fd(),
                    write: false,
                }),
        );
        all
    }

    /// When to go on though nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        let own = match (&self.aborted, &self.job) {
            (Some((since, _)), _) => Some(*since + GRACE),
            (None, None) => Some(self.patience),
            (None, Some(_)) if !self.is_complete() => Some(self.patience),
            (None, Some(_)) => self.leaving.map(|since| since + GRACE),
        };
        let app = self.app.as_ref().and_then(|app| app.deadline());
        let look = self.look.map(|(when, _)| when);
        [look, own, self.host.deadline(), app]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what can be done; tells when all is over.
    pub fn proceed(&mut self, now: Instant) -> Option<Outcome> {
        // Asked first: it ends after its ranks, if nothing is wrong.
        let deserted = self
            .stepd
            .as_ref()
            .is_some_and(|stepd| ready(stepd.as_fd()));
        self.see_who_ended();
        if deserted {
            self.stepd = None;
            let left = self.ranks.iter().any(|place| place.alive) || !self.waiting.is_empty();
            if left {
                // Slurm does not know the ranks any more: nobody else ends them.
                let reason = "Slurm's slurmstepd on this node has ended before its ranks";
                self.complain_and_end(Abort::new(1, reason), now);
            }
        }
        if let Some((_, after)) = self.look.filter(|(when, _)| now >= *when) {
            self.note_segments();
            let after = after * 4;
            self.look = (after <= LAST_LOOK).then_some((now + after, after));
        }
        loop {
            let told = self.host.proceed(now);
            let said = self
                .app
                .as_mut()
                .map(|app| app.proceed(now))
                .unwrap_or_default();
            if told.is_empty() && said.is_empty() {
                break;
            }
            for event in told {
                self.host_event(event, now);
            }
            for event in said {
                self.app_event(event, now);
            }
        }
        if self.job.is_none() && now >= self.patience {
            let reason = "the launcher did not answer in time".to_owned();
            self.fail(Abort::new(1, reason), now);
        }
        if self.job.is_some() && !self.is_complete() && now >= self.patience {
            let (came, expected) = self.watch.came();
            self.complain_and_end(
                Abort::new(
                    1,
                    format!(
                        "only {came} of the {expected} ranks on this node came to the PMI bridge \
                         within {} s",
                        GATHERING.as_secs()
                    ),
                ),
                now,
            );
        }
        self.outcome(now)
    }

    fn outcome(&mut self, now: Instant) -> Option<Outcome> {
        let all_ended = self.ranks.iter().all(|place| !place.alive);
        if let Some((since, _)) = &self.aborted {
            if !all_ended && now >= *since + GRACE {
                for place in self.ranks.iter().filter(|place| place.alive) {
                    // It may end at this very moment.
                    let _ = sys::signal_process(place.process.as_fd(), libc::SIGKILL);
                }
            } else if !all_ended {
                return None;
            }
            self.segments.remove();
            return Some(Outcome::Badly);
        }
        if self.through && all_ended {
            return Some(Outcome::Well);
        }
        if self.job.is_none() || !self.watch.is_over() {
            return None;
        }
        // No rank ever used the interface, or all ended right after their farewell:
        // the host gets its own, but is not waited for any longer than a moment.
        let since = *self.leaving.get_or_insert_with(|| {
            if !self.farewell {
                self.farewell = true;
                self.host.finalize();
            }
            now
        });
        (now >= since + GRACE).then_some(Outcome::Well)
    }

    /// Whether all ranks that there will be have come.
    fn is_complete(&self) -> bool {
        let (came, expected) = self.watch.came();
        came >= expected
    }

    fn note_segments(&mut self) {
        for place in self.ranks.iter().filter(|place| place.alive) {
            self.segments.note(place.process.as_fd());
        }
    }

    fn see_who_ended(&mut self) {
        let now = Instant::now();
        let ended = |process: &OwnedFd| ready(process.as_fd());
        let given_up = self
            .waiting
            .iter()
            .find(|(_, _, belongings)| ended(&belongings.process))
            .map(|(_, hello, _)| hello.rank);
        if let Some(rank) = given_up {
            self.waiting
                .retain(|(_, _, belongings)| !ended(&belongings.process));
            // Its launcher has ended it, because another node failed or somebody wants
            // it so: the job will never be whole. To wait for the others would keep the
            // step, whose standard error this process has, from its end.
            let reason = format!("rank {rank} ended before the job was whole");
            self.end(Abort::new(1, reason), now);
        }
        let mut gone = Vec::new();
        for place in self.ranks.iter_mut().filter(|place| place.alive) {
            if ready(place.process.as_fd()) {
                place.alive = false;
                gone.push(place.rank);
            }
        }
        for rank in gone {
            // What it said last comes before its end.
            let said = self
                .app
                .as_mut()
                .map(|app| app.proceed(now))
                .unwrap_or_default();
            for event in said {
                self.app_event(event, now);
            }
            if !self.watch.is_finalized(rank) {
                if let Some(app) = &mut self.app {
                    app.ended(rank);
                }
            }
            let word = self.watch.ended(rank);
            self.follow(word, now);
        }
    }

    fn host_event(&mut self, event: HostEvent, now: Instant) {
        match event {
            HostEvent::Ready(job) => {
                let (ranks, nodes) = (job.layout.size(), job.layout.nodes());
                tracing::info!(
                    job = job.name,
                    ranks,
                    nodes,
                    here = job.local.len(),
                    "the job"
                );
                let Some(make_app) = self.make_app.take() else {
                    return;
                };
                match make_app(&job) {
                    Ok(app) => {
                        self.app = Some(app);
                        self.watch = Watch::of(job.local.len());
                        self.job = Some(job);
                        self.seat_all();
                    }
                    Err(reason) => self.fail(Abort::new(1, reason), now),
                }
            }
            HostEvent::Gathered(blobs) => {
                let bytes: usize = blobs.iter().map(Vec::len).sum();
                tracing::debug!(members = blobs.len(), bytes, "an exchange is done");
                if let Some(app) = &mut self.app {
                    app.gathered(blobs);
                }
            }
            HostEvent::Asked(node, rank) => {
                if let Some(app) = &mut self.app {
                    app.show(node, rank);
                }
            }
            HostEvent::Found(rank, data) => {
                if let Some(app) = &mut self.app {
                    app.found(rank, data);
                }
            }
            HostEvent::Finalized => {
                tracing::info!("the launcher has taken the farewell");
                self.through = true;
                // They owe nothing to anybody any more.
                self.ranks.iter().for_each(|place| place.lifeline.release());
                if let Some(app) = &mut self.app {
                    app.released();
                }
            }
            HostEvent::Aborted(abort) => self.fail(abort, now),
        }
    }

    fn app_event(&mut self, event: AppEvent, now: Instant) {
        match event {
            AppEvent::Started(rank) => {
                tracing::debug!(rank, "a rank has begun MPI_Init");
                self.look = Some((now + FIRST_LOOK, FIRST_LOOK));
                let word = self.watch.started(rank);
                self.follow(word, now);
            }
            AppEvent::Gather(blob) => {
                tracing::debug!(bytes = blob.len(), "all ranks here are at an exchange");
                self.note_segments();
                self.host.gather(blob);
            }
            AppEvent::Ask(rank) => {
                let asked = self.host.ask_for(rank);
                tracing::debug!(
                    rank,
                    asked,
                    "what a rank elsewhere has committed is asked for"
                );
                if let Some(app) = self.app.as_mut().filter(|_| !asked) {
                    app.no_way(rank);
                }
            }
            AppEvent::Show(node, rank, data) => self.host.show(node, rank, data),
            AppEvent::Finalized(rank) => {
                tracing::debug!(rank, "a rank is through");
                let word = self.watch.finalized(rank);
                self.follow(word, now);
            }
            // Its pidfd tells whether it has ended, and how it is judged.
            AppEvent::Lost(_) => {}
            AppEvent::Abort(_, abort) => self.end(abort, now),
            AppEvent::Broken(rank, line) => {
                let reason = format!("rank {rank}: {line}");
                eprintln!("singularity: {reason}");
                self.end(Abort::new(1, reason), now);
            }
        }
    }

    fn follow(&mut self, word: Word, now: Instant) {
        match word {
            Word::Wait => {}
            Word::Finalize => {
                self.farewell = true;
                self.host.finalize();
            }
            Word::Abort(abort) => self.complain_and_end(abort, now),
        }
    }

    /// Ends the job for a reason that nobody else tells the user.
    fn complain_and_end(&mut self, abort: Abort, now: Instant) {
        if self.aborted.is_none() && !self.through && self.speaks {
            eprintln!("singularity: {}", abort.reason);
        }
        self.end(abort, now);
    }

    /// Ends the job on the launcher's side too.
    fn end(&mut self, abort: Abort, now: Instant) {
        self.refuse_all(&abort.reason);
        if self.aborted.is_none() && !self.through {
            tracing::info!(
                status = abort.status,
                reason = abort.reason,
                "the job is ended"
            );
            self.note_segments();
            self.host.abort(&abort);
            self.aborted = Some((now, abort));
        }
    }

    fn refuse_all(&mut self, reason: &str) {
        for (asking, hello, belongings) in self.waiting.drain(..) {
            refuse(&asking, &hello, &belongings, reason);
        }
    }

    /// The job has been ended by others, or never began.
    fn fail(&mut self, abort: Abort, now: Instant) {
        self.refuse_all(&abort.reason);
        if self.aborted.is_none() && !self.through {
            tracing::info!(reason = abort.reason, "the job is aborted");
            self.note_segments();
            self.aborted = Some((now, abort));
        }
    }

    fn seat_all(&mut self) {
        let (Some(app), Some(job)) = (&mut self.app, &self.job) else {
            return;
        };
        let mut misplaced = None;
        for (asking, hello, belongings) in self.waiting.drain(..) {
            // prterun tells its ranks no number; the server of PMIx, that was asked, does.
            let agrees = hello.host == HostInterface::Pmix || hello.size == job.layout.size();
            let is_here = job.local.contains(&hello.rank);
            let is_new = self.ranks.iter().all(|place| place.rank != hello.rank);
            let mut hint = "run with -v, and see docs/PMI.md";
            let seat = if agrees && is_here && is_new {
                app.seat(hello.rank)
            } else if agrees && !is_here && job.layout.node_of(hello.rank).is_some() {
                // Slurm 22.05 does so over PMI-2 where --distribution=arbitrary.
                misplaced = Some(hello.rank);
                hint = "lay the ranks out in another way than srun's --distribution=arbitrary, \
                        or over srun --mpi=pmix or --mpi=none";
                Err("the launcher tells the program that this rank is on another node".into())
            } else {
                Err("the launcher knows no such rank here, or it came twice".into())
            };
            match seat {
                Ok((seat, descriptor)) => {
                    tracing::debug!(rank = hello.rank, "a rank has its seat");
                    asking.seat(seat, descriptor.as_ref().map(AsFd::as_fd));
                    self.watch.seated(hello.rank);
                    self.ranks.push(Place {
                        rank: hello.rank,
                        process: belongings.process,
                        lifeline: belongings.lifeline,
                        alive: true,
                    });
                }
                Err(reason) => asking.refuse(
                    Some(&belongings),
                    Refused {
                        line: format!("a seat for rank {} of {}: {reason}", hello.rank, hello.size),
                        hint: hint.into(),
                    },
                ),
            }
        }
        if let Some(rank) = misplaced {
            // The others would wait for it.
            let reason = format!("rank {rank} is on another node than the launcher tells");
            self.end(Abort::new(1, reason), Instant::now());
        }
    }
}

/// Whether there is nothing between the ranks and Slurm that tells of its end: see
/// [`stepd`]. Of a server of PMIx its client hears.
fn is_slurms(host: &HostInterface) -> bool {
    matches!(host, HostInterface::Slurm(_) | HostInterface::Pmi2)
}

fn refuse(asking: &Asking, hello: &Hello, belongings: &Belongings, reason: &str) {
    let (launcher, mpi) = &hello.names;
    let refused = Refused {
        line: format!("bridge from {launcher} to {mpi}: {reason}"),
        hint: "an image with the launcher's own MPI needs no bridge".into(),
    };
    asking.refuse(Some(belongings), refused);
}

/// Whether a descriptor has something to tell; a pidfd, that its process has ended.
pub fn ready(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::POLLIN)];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
}

/// Waits until one of the descriptors is ready or the time has come.
///
/// # Errors
/// poll(2)'s, but for interruptions.
pub fn wait(interests: &[Interest], deadline: Option<Instant>) -> Result<(), Errno> {
    let timeout = deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        // One more: to be awake before the time is to be awake once more for nothing.
        i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
    });
    let wanted: Vec<(RawFd, bool)> = interests
        .iter()
        .map(|interest| (interest.descriptor, interest.write))
        .collect();
    match sys::poll(&wanted, timeout) {
        Err(Errno::EINTR) => Ok(()),
        other => other,
    }
}
