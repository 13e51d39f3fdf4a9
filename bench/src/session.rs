//! A run: which job of which way is started when, and for how long.
//!
//! Owns: rounds, time, and who takes part. Every way of a job runs once a round,
//! in another order each round, so what disturbs the machine disturbs all alike.
//! Never: shows anything but by the [`Progress`] it is given.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::data::Data;
use crate::jobs::{Job, Sample, Site};
use crate::progress::Progress;
use crate::statistics::{Random, ENOUGH};
use crate::watch;
use crate::ways::Entry;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After about so long, and so many rounds of every job.
    Time {
        /// So long.
        limit: Duration,
        /// Rounds that every job gets, however long they take.
        least: usize,
    },
    /// After so many rounds of every job.
    Rounds(usize),
}

/// Rounds that every job gets, where nobody says another number.
pub const LEAST: usize = 3;

/// Rounds after which another says nothing new.
const MOST: usize = 400;

/// One job of the run, and how far it is.
#[derive(Debug)]
struct Turn {
    job: Job,
    rounds: usize,
    spent: Duration,
}

impl Turn {
    fn enough(&self, until: Until) -> bool {
        let most = self.job.most_rounds().min(MOST);
        match until {
            Until::Rounds(rounds) => self.rounds >= rounds.min(most),
            Until::Time { .. } => self.rounds >= most,
        }
    }

    fn mean(&self) -> Duration {
        self.spent / u32::try_from(self.rounds.max(1)).unwrap_or(1)
    }
}

/// Measures until it is time; what fails is taken out and noted.
pub fn run(
    data: &mut Data,
    entries: &[Entry],
    jobs: Vec<Job>,
    site: &Site,
    until: Until,
    progress: &mut Progress,
) {
    let begun = Instant::now();
    // Who failed at a job is left out of it, and does the others.
    let mut left_out: BTreeSet<(usize, String)> = BTreeSet::new();
    let mut random = Random::default();
    let mut turns: Vec<Turn> = jobs
        .into_iter()
        .map(|job| Turn {
            job,
            rounds: 0,
            spent: Duration::ZERO,
        })
        .collect();
    while let Some(index) = next(&turns, until, begun.elapsed()) {
        if watch::ended().is_some() {
            break;
        }
        let left = left(&turns, until, begun.elapsed());
        let turn = &mut turns[index];
        progress.show(
            data,
            turn.job.title(),
            turn.rounds + 1,
            begun.elapsed(),
            left,
        );
        let started = Instant::now();
        let able: Vec<&Entry> = entries
            .iter()
            .filter(|entry| turn.job.is_for(entry))
            .filter(|entry| !left_out.contains(&(index, entry.way.name.clone())))
            .collect();
        // Of those that measure side by side, by turns.
        let mut first: Vec<Option<Result<Vec<Sample>, String>>> = vec![None; able.len()];
        let mut samples: Vec<(usize, Vec<Sample>)> = Vec::new();
        let mut failed: Vec<usize> = Vec::new();
        if let Some((ranks, measures)) = turn.job.messages() {
            first = site
                .by_turns(&able, ranks, measures, &mut random)
                .into_iter()
                .map(Some)
                .collect();
        }
        for place in random.order(able.len()) {
            if watch::ended().is_some() {
                break;
            }
            // A launcher that fails once in a thousand starts is no reason to go
            // without it; who fails twice running does not work.
            let entry = able[place];
            let again = |cause: String| {
                progress.failed(&entry.way.name, &note(&turn.job, &cause), "tries again");
                site.run(&turn.job, entry)
            };
            let found = first[place]
                .take()
                .unwrap_or_else(|| site.run(&turn.job, entry));
            match found.or_else(again) {
                Ok(found) => samples.push((place, found)),
                Err(cause) => {
                    data.notes.push(note(&turn.job, &cause));
                    failed.push(place);
                }
            }
        }
        // Half a round is none.
        if watch::ended().is_some() {
            break;
        }
        // A round counts for those who did all of it.
        for (place, found) in samples {
            for sample in found {
                data.add(
                    sample.measure,
                    &able[place].way.name,
                    sample.ranks,
                    sample.bytes,
                    sample.figure,
                );
            }
        }
        for place in failed {
            let name = &able[place].way.name;
            progress.failed(
                name,
                data.notes.last().map_or("", String::as_str),
                "is left out",
            );
            left_out.insert((index, name.clone()));
        }
        watch::keep();
        turn.rounds += 1;
        turn.spent += started.elapsed();
    }
    if let Some(signal) = watch::ended() {
        data.notes
            .push(format!("ended by {signal} before its time was over"));
    }
    progress.end();
}

fn note(job: &Job, cause: &str) -> String {
    let mut lines = cause.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        Some(second) => format!("{}: {first}: {}", job.title(), second.trim()),
        None => format!("{}: {first}", job.title()),
    }
}

/// The job whose turn it is: the first rounds in order, as many as it takes to
/// tell a difference while there is time, then whichever had the least time;
/// `None` when it is time to stop.
fn next(turns: &[Turn], until: Until, elapsed: Duration) -> Option<usize> {
    let open = || {
        turns
            .iter()
            .enumerate()
            .filter(|(_, turn)| !turn.enough(until))
    };
    let fewest = open().min_by_key(|(_, turn)| turn.rounds)?;
    let Until::Time { limit, least } = until else {
        return Some(fewest.0);
    };
    if fewest.1.rounds < least {
        return Some(fewest.0);
    }
    let fits = || open().filter(|(_, turn)| elapsed + turn.mean() <= limit);
    let short = fits().filter(|(_, turn)| turn.rounds < ENOUGH);
    short
        .min_by_key(|(_, turn)| turn.rounds)
        .or_else(|| fits().min_by_key(|(_, turn)| turn.spent))
        .map(|(index, _)| index)
}

/// How long it will take from now on, as far as can be told.
fn left(turns: &[Turn], until: Until, elapsed: Duration) -> Option<Duration> {
    if turns.iter().any(|turn| turn.rounds == 0) {
        return match until {
            Until::Time { limit, .. } => Some(limit.saturating_sub(elapsed)),
            Until::Rounds(_) => None,
        };
    }
    let to_do = |turn: &Turn, rounds: usize| {
        let most = turn.job.most_rounds().min(rounds);
        turn.mean() * u32::try_from(most.saturating_sub(turn.rounds)).unwrap_or(0)
    };
    Some(match until {
        Until::Rounds(rounds) => turns.iter().map(|turn| to_do(turn, rounds)).sum(),
        Until::Time { limit, least } => {
            let least = turns.iter().map(|turn| to_do(turn, least)).sum();
            limit.saturating_sub(elapsed).max(least)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(job: Job, rounds: usize, seconds: u64) -> Turn {
        Turn {
            job,
            rounds,
            spent: Duration::from_secs(seconds),
        }
    }

    const TIME: Until = Until::Time {
        limit: Duration::from_secs(100),
        least: LEAST,
    };

    #[test]
    fn every_job_gets_its_first_rounds_even_when_time_is_over() {
        let turns = [turn(Job::Ring, 2, 50), turn(Job::Launch(2), 3, 50)];
        assert_eq!(next(&turns, TIME, Duration::from_secs(200)), Some(0));
        let turns = [turn(Job::Ring, 3, 50), turn(Job::Launch(2), 3, 50)];
        assert_eq!(next(&turns, TIME, Duration::from_secs(200)), None);
    }

    #[test]
    fn rounds_that_are_asked_for_come_before_the_end_of_the_time() {
        let until = Until::Time {
            limit: Duration::from_secs(100),
            least: 6,
        };
        let memory = Job::Memory(2).most_rounds();
        let turns = [turn(Job::Memory(2), memory, 50), turn(Job::Ring, 5, 50)];
        assert_eq!(next(&turns, until, Duration::from_secs(200)), Some(1));
        let turns = [turn(Job::Memory(2), memory, 50), turn(Job::Ring, 6, 50)];
        assert_eq!(next(&turns, until, Duration::from_secs(200)), None);
    }

    #[test]
    fn what_can_tell_no_difference_yet_goes_first() {
        let turns = [turn(Job::Ring, 4, 40), turn(Job::Launch(2), 20, 20)];
        assert_eq!(next(&turns, TIME, Duration::from_secs(60)), Some(0));
        assert_eq!(next(&turns, TIME, Duration::from_secs(95)), Some(1));
    }

    #[test]
    fn then_time_is_shared_evenly() {
        let turns = [turn(Job::Ring, 6, 40), turn(Job::Launch(2), 20, 20)];
        assert_eq!(next(&turns, TIME, Duration::from_secs(60)), Some(1));
        // A round that would not fit is left to one that does.
        let turns = [turn(Job::Ring, 4, 20), turn(Job::Launch(2), 50, 70)];
        assert_eq!(next(&turns, TIME, Duration::from_secs(97)), Some(1));
    }

    #[test]
    fn memory_is_measured_a_few_times_only() {
        let turns = [turn(Job::Memory(2), Job::Memory(2).most_rounds(), 1)];
        assert_eq!(next(&turns, TIME, Duration::ZERO), None);
        assert_eq!(next(&turns, Until::Rounds(100), Duration::ZERO), None);
    }

    #[test]
    fn rounds_are_counted_where_they_are_asked_for() {
        let turns = [turn(Job::Ring, 5, 5), turn(Job::Launch(2), 4, 40)];
        assert_eq!(next(&turns, Until::Rounds(5), Duration::ZERO), Some(1));
        assert_eq!(next(&turns, Until::Rounds(4), Duration::ZERO), None);
        assert_eq!(
            left(&turns, Until::Rounds(6), Duration::ZERO),
            Some(Duration::from_secs(1 + 20))
        );
    }
}
