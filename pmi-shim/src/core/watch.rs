//! The ranks of one member through their lives: when the job is over, and when it
//! has to be ended.

use super::{Abort, Rank};
use std::collections::BTreeMap;

/// What follows from something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Nothing yet.
    Wait,
    /// All ranks here have taken their farewell: say so to the host.
    Finalize,
    /// End the whole job.
    Abort(Abort),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has its seat; may be on its way to MPI_Init, or no MPI program at all.
    Seated,
    /// Uses the interface.
    Started,
    /// Has taken its farewell.
    Finalized,
}

/// Who of a member's ranks is where.
///
/// A rank that ends without a farewell, while others use the interface or come to
/// use it, ends the job, whatever its exit status: they would wait for it for
/// ever. Ranks that all end without ever using it were no MPI program, which is
/// nobody's fault.
#[derive(Debug, Default)]
pub struct Watch {
    ranks: BTreeMap<Rank, (State, bool)>,
    /// How many there will be.
    expected: usize,
    farewell: bool,
}

impl Watch {
    /// For a member that will have so many ranks.
    pub fn of(expected: usize) -> Self {
        Watch {
            expected,
            ..Watch::default()
        }
    }

    /// How many ranks have come, of how many.
    pub fn came(&self) -> (usize, usize) {
        (self.ranks.len(), self.expected)
    }

    /// A rank has got its seat.
    pub fn seated(&mut self, rank: Rank) {
        self.ranks.entry(rank).or_insert((State::Seated, true));
    }

    /// The rank's program uses the interface.
    pub fn started(&mut self, rank: Rank) -> Word {
        self.set(rank, State::Started);
        self.judge()
    }

    /// The rank's program has taken its farewell.
    pub fn finalized(&mut self, rank: Rank) -> Word {
        self.set(rank, State::Finalized);
        if self.through() && !self.farewell {
            self.farewell = true;
            return Word::Finalize;
        }
        self.judge()
    }

    /// The rank's process has ended.
    pub fn ended(&mut self, rank: Rank) -> Word {
        if let Some((_, alive)) = self.ranks.get_mut(&rank) {
            *alive = false;
        }
        self.judge()
    }

    /// Whether a rank has taken its farewell.
    pub fn is_finalized(&self, rank: Rank) -> bool {
        matches!(self.ranks.get(&rank), Some((State::Finalized, _)))
    }

    /// Whether every expected rank came and has ended.
    pub fn is_over(&self) -> bool {
        self.ranks.len() >= self.expected && self.ranks.values().all(|(_, alive)| !alive)
    }

    /// Whether all ranks that came have ended.
    pub fn is_deserted(&self) -> bool {
        self.ranks.values().all(|(_, alive)| !alive)
    }

    fn set(&mut self, rank: Rank, state: State) {
        if let Some((old, _)) = self.ranks.get_mut(&rank) {
            *old = state;
        }
    }

    fn through(&self) -> bool {
        self.ranks.len() >= self.expected
            && self
                .ranks
                .values()
                .all(|(state, _)| *state == State::Finalized)
    }

    fn judge(&self) -> Word {
        let used = self
            .ranks
            .values()
            .any(|(state, _)| *state != State::Seated);
        let gone = self
            .ranks
            .iter()
            .find(|(_, (state, alive))| !alive && *state != State::Finalized);
        match gone {
            Some((rank, (State::Started, _))) => Word::Abort(Abort::new(
                1,
                format!("rank {rank} ended without MPI_Finalize"),
            )),
            Some((rank, _)) if used => Word::Abort(Abort::new(
                1,
                format!("rank {rank} ended without MPI_Init, and others wait for it"),
            )),
            _ => Word::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(ranks: u32) -> Watch {
        let mut watch = Watch::of(ranks as usize);
        (0..ranks).for_each(|rank| watch.seated(rank));
        watch
    }

    #[test]
    fn a_job_that_goes_well_says_farewell_once_and_is_over() {
        let mut watch = watch(2);
        assert_eq!(watch.started(0), Word::Wait);
        assert_eq!(watch.started(1), Word::Wait);
        assert_eq!(watch.finalized(0), Word::Wait);
        assert_eq!(watch.ended(0), Word::Wait);
        assert_eq!(watch.finalized(1), Word::Finalize);
        assert_eq!(watch.finalized(1), Word::Wait);
        assert!(!watch.is_over());
        assert_eq!(watch.ended(1), Word::Wait);
        assert!(watch.is_over());
    }

    #[test]
    fn a_rank_that_ends_between_init_and_finalize_ends_the_job() {
        let mut watch = watch(2);
        assert_eq!(watch.started(0), Word::Wait);
        let Word::Abort(abort) = watch.ended(0) else {
            panic!("it goes on")
        };
        assert_eq!(abort.status, 1);
        assert_eq!(abort.reason, "rank 0 ended without MPI_Finalize");
    }

    #[test]
    fn a_rank_that_ends_before_init_ends_the_job_when_another_needs_it() {
        let mut watch = watch(2);
        assert_eq!(watch.ended(0), Word::Wait);
        let Word::Abort(abort) = watch.started(1) else {
            panic!("it goes on")
        };
        assert_eq!(
            abort.reason,
            "rank 0 ended without MPI_Init, and others wait for it"
        );
    }

    #[test]
    fn programs_that_use_no_mpi_end_as_they_like() {
        let mut watch = watch(2);
        assert_eq!(watch.ended(0), Word::Wait);
        assert!(!watch.is_over() && !watch.is_deserted());
        assert_eq!(watch.ended(1), Word::Wait);
        assert!(watch.is_over());
    }

    #[test]
    fn a_job_is_not_over_before_all_have_come() {
        let mut watch = Watch::of(2);
        watch.seated(0);
        watch.ended(0);
        assert!(watch.is_deserted() && !watch.is_over());
    }

    #[test]
    fn no_abort_asks_for_success() {
        assert_eq!(Abort::new(0, "x").status, 1);
        assert_eq!(Abort::new(7, "x").status, 7);
    }
}
